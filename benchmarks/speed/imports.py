"""What importing costs, over an interpreter that imports nothing; and what the first rollout imports."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.speed._measure import Effort, Group, difference, interleave
from benchmarks.speed._servers import serving
from benchmarks.speed.turns import payload

_STAGES = {
    "from aws_rft_sdk import rft_handler": "from aws_rft_sdk import rft_handler",
    "first call outside a rollout": "handler = rft_handler(lambda payload: 0.5); handler({})",
    "first call within a rollout, feedback included": "rft_handler(lambda payload: 0.5, require_turns=False)(PAYLOAD)",
    "from aws_rft_sdk import wrap_model": "from aws_rft_sdk import wrap_model",
}
_SHOWN_MS = 5.0
_LINE = re.compile(r"import time:\s+(?P<self>\d+) \|\s+(?P<cumulative>\d+) \|(?P<indent> *)(?P<name>\S+)")


def import_time(effort: Effort) -> Group:
    """Whole processes: one that does nothing, and one that imports the package."""

    def process(code: str) -> Callable[[], float]:
        def run() -> float:
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            return time.perf_counter() - began

        return run

    # Twice the rounds: a process takes milliseconds, and its start varies by as much.
    targets = {"import aws_rft_sdk": 30.0, "from aws_rft_sdk import rft_handler": 100.0}
    seconds = interleave({code: process(code) for code in ("pass", *targets)}, 2 * effort.rounds)
    results = [
        difference(code, seconds["pass"], seconds[code], unit="ms", scale=1e3, target=target)
        for code, target in targets.items()
    ]
    with serving("canned") as url:
        return Group(results, _lazy_imports(payload(url)))


def _lazy_imports(rollout: dict[str, Any]) -> list[str]:
    """Return what each stage on the way to the first rollout imports: module and cumulative milliseconds."""
    code = ["import sys", "def mark(name): sys.stderr.write('stage: ' + name + chr(10))", f"PAYLOAD = {rollout!r}"]
    for name, statement in _STAGES.items():
        code += [f"mark({name!r})", statement]
    # `-X importtime` itself makes imports slower, so these show shares rather than times.
    command = [sys.executable, "-X", "importtime", "-c", "\n".join(["import aws_rft_sdk", *code])]
    report = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    notes = []
    for stage in re.split(r"^stage: ", report, flags=re.MULTILINE)[1:]:
        name, _, lines = stage.partition("\n")
        modules = [match for line in lines.splitlines() if (match := _LINE.match(line))]
        total = sum(int(match["self"]) for match in modules) / 1e3
        notes.append(f"{name}: {len(modules)} modules, {total:.0f} ms")
        largest = sorted(_outermost(modules).items(), key=lambda item: -item[1])
        notes += [f"    {module}: {ms:.0f} ms" for module, ms in largest if ms >= _SHOWN_MS]
    return notes


def _outermost(modules: list[re.Match[str]]) -> dict[str, float]:
    """Return the cumulative milliseconds of each package where it is imported first, unless from within itself."""
    found: dict[str, float] = {}
    open_packages: list[tuple[int, str]] = []
    for match in reversed(modules):  # a module is reported after those that it imports
        depth, package = len(match["indent"]), match["name"].partition(".")[0]
        while open_packages and open_packages[-1][0] >= depth:
            open_packages.pop()
        # Our own modules are told apart; of others the package is enough.
        name = match["name"] if package == "aws_rft_sdk" else package
        if name not in (outer for _, outer in open_packages):
            found[name] = found.get(name, 0.0) + int(match["cumulative"]) / 1e3
        open_packages.append((depth, name))
    return found
