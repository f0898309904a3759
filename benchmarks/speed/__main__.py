"""Measures speed against the floor and prints a table.

    python -m benchmarks.speed [--only turns,runtime] [--json FILE] [--rounds 15] [--scale 1]

Run it from the root of the repository. Each measurement lets the contenders take turns in one run, so that a machine
whose speed drifts slows all of them; what is compared are the rounds, and the median of them is the figure. The gateway
is compared with only if its command is there: install it in an environment of its own and name it with `--gateway`.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.speed import feedback, handlers, imports, memory, runtime, turns
from benchmarks.speed._measure import Effort, Group, Result, machine, table

MEASUREMENTS: dict[str, Callable[[Effort], Group]] = {
    "turns": turns.turn_overhead,
    "concurrent": turns.concurrent_turns,
    "agent": turns.synchronous_agent,
    "feedback": feedback.report_complete,
    "imports": imports.import_time,
    "handlers": handlers.handler_overhead,
    "memory": memory.concurrent_rollouts,
    "runtime": runtime.captured_requests,
    "gateway": runtime.against_gateway,
}


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="NAMES", help=f"comma-separated: {', '.join(MEASUREMENTS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to FILE as well")
    parser.add_argument("--rounds", type=int, default=15, help="counted rounds of each measurement")
    parser.add_argument("--scale", type=float, default=1.0, help="how much is done in a round")
    parser.add_argument("--folder", type=Path, help="where databases are put: on the disk that is to be measured")
    parser.add_argument("--gateway", default=Effort.gateway, metavar="COMMAND", help="rllm-model-gateway's command")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(MEASUREMENTS)
    if unknown := [name for name in names if name not in MEASUREMENTS]:
        parser.error(f"--only: there is no {', '.join(unknown)}")

    # Nothing of this machine's account takes part, and nothing asks the network for it.
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "RFT_OUTBOX"):
        os.environ.pop(name, None)
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.environ["AWS_CONFIG_FILE"] = os.devnull

    effort = Effort(options.rounds, options.scale, options.folder, options.gateway)
    results: list[Result] = []
    rows: list[dict[str, Any]] = []
    notes: dict[str, list[str]] = {}
    print(f"{machine()}; {effort.rounds} rounds, scale {effort.scale:g}; median (minimum to maximum) of the rounds\n")
    for name in names:
        print(f"measuring {name} ...", flush=True)
        group = MEASUREMENTS[name](effort)
        results += group.results
        rows += [{"measurement": name, **result.as_json()} for result in group.results]
        notes[name] = [*group.notes, *(f"{result.name}: {result.note}" for result in group.results if result.note)]
    print(f"\n{table(results)}")
    for name, lines in notes.items():
        if lines:
            print(f"\n{name}:\n" + "\n".join(f"  {line}" for line in lines))
    if options.json:
        report = {"machine": machine(), "rounds": effort.rounds, "scale": effort.scale, "results": rows, "notes": notes}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
