"""What feedback costs: `report_complete` against two bare posts with one `requests.Session`."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import botocore.session
import requests

from aws_rft_sdk import RolloutFeedbackClient
from aws_rft_sdk.feedback.outbox import Outbox
from benchmarks.speed._measure import Effort, Group, Spread, interleave, ratio
from benchmarks.speed._servers import serving
from benchmarks.speed.turns import JOB_ARN, payload

_REGION = "us-west-2"


def report_complete(effort: Effort) -> Group:
    """One report, client included: unsigned, signed, and with an outbox."""
    count = effort.count(100)
    with (
        serving("canned") as url,
        requests.Session() as session,
        tempfile.TemporaryDirectory(dir=effort.folder) as folder,
    ):
        outbox = Outbox(Path(folder) / "outbox.db")
        keys = botocore.session.Session()
        keys.set_credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")

        def bare(auth: Any = None) -> None:
            trajectory = payload(url)["metadata"]["rolloutId"]
            body = {"JobArn": JOB_ARN, "TrajectoryId": trajectory, "ClientToken": trajectory}
            for path, extra in (("/CompleteTrajectory", {}), ("/UpdateReward", {"Rewards": [1.0]})):
                session.post(url + path, json={**body, **extra}, auth=auth, timeout=30).raise_for_status()

        def ours(**options: Any) -> None:
            RolloutFeedbackClient(payload(url), **options).report_complete(1.0)

        seconds = interleave(
            {
                "bare": _timed(bare, count),
                "ours": _timed(ours, count),
                "outbox": _timed(lambda: ours(outbox=outbox), count),
                "bare, signed": _timed(lambda: bare(_sign_by_hand), count),
                "ours, signed": _timed(lambda: ours(session=keys), count),
            },
            effort.rounds,
        )
        outbox.close()
        disk = Spread.of([_timed(lambda: _sync(Path(folder) / "probe"), count)() * 1e3 for _ in range(3)])
    common: dict[str, Any] = {"unit": "ms", "scale": 1e3}
    return Group(
        [
            ratio("report_complete, unsigned", seconds["bare"], seconds["ours"], target=1.3, **common),
            ratio("report_complete, SigV4", seconds["bare, signed"], seconds["ours, signed"], target=1.3, **common),
            ratio("report_complete, outbox on disk", seconds["bare"], seconds["outbox"], target=2.0, **common),
        ],
        [f"one write of 4 KiB with fdatasync on that disk takes {disk.median:.2f} ms; a decision needs one"],
    )


def _timed(report: Callable[[], None], count: int) -> Callable[[], float]:
    def run() -> float:
        began = time.perf_counter()
        for _ in range(count):
            report()
        return (time.perf_counter() - began) / count

    return run


def _sync(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        file.write(b"x" * 4096)
        getattr(os, "fdatasync", os.fsync)(file.fileno())


def _sign_by_hand(request: requests.PreparedRequest) -> requests.PreparedRequest:
    credentials = botocore.credentials.Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
    headers = {"Content-Type": request.headers["Content-Type"]}
    signed = botocore.awsrequest.AWSRequest("POST", request.url, headers, request.body)
    botocore.auth.SigV4Auth(credentials, "sagemaker", _REGION).add_auth(signed)
    request.headers.update(signed.headers.items())
    return request
