"""Attribution proof: shows by experiment that every turn is recorded once, under its own trajectory."""

from aws_rft_sdk.proof.diagnosis import Cause, CauseKind
from aws_rft_sdk.proof.handlers import Trial, prove_handler
from aws_rft_sdk.proof.mixture import prove_mixture
from aws_rft_sdk.proof.report import Proof, proof_json, proof_lines, proof_table

__all__ = [
    "Cause",
    "CauseKind",
    "Proof",
    "Trial",
    "proof_json",
    "proof_lines",
    "proof_table",
    "prove_handler",
    "prove_mixture",
]
