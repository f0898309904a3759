"""A training run as one HTML page that needs nothing else, or as CSV."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from html import escape
from statistics import median

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.jobs.alarms import Alarm
from aws_rft_sdk.jobs.steps import Step
from aws_rft_sdk.jobs.types import Checkpoint

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1b1f24 }
h1, td { overflow-wrap: anywhere }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1rem }
figure { margin: 0; border: 1px solid #d5dae0; border-radius: 6px; padding: .5rem }
svg { width: 100% } polyline { fill: none; stroke: #b9c6d8; stroke-width: 1 }
polyline.smooth { stroke: #1f5fbf; stroke-width: 2 } circle { fill: #1f5fbf }
text { font: 9px sans-serif; fill: #57606a }
line { stroke: #c62828; stroke-dasharray: 3 2 }
.alarm { border-left: 4px solid #c62828; background: #fdf1f1; padding: .4rem .8rem; margin: .6rem 0 }
.none { border-left: 4px solid #2e7d32; background: #f0f8f1; padding: .4rem .8rem }
table { border-collapse: collapse } td, th { border: 1px solid #d5dae0; padding: .2rem .6rem; text-align: left }
small { color: #57606a }
"""
_POLICY = "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'"
_CURVES = {
    "reward_mean": "Mean reward",
    "validation_reward_mean": "Mean reward on validation rows",
    "entropy": "Entropy (nats)",
    "grad_norm": "Gradient norm",
    "response_length_mean": "Mean response length (tokens)",
    "advantage_mean": "Mean advantage",
    "kl": "KL from the reference model",
    "policy_loss": "Policy loss",
    "dead_group_share": "Share of groups without an advantage",
    "truncated_share": "Share of responses cut off",
}
_WIDTH, _HEIGHT, _MARGIN = 300, 130, 34
_COLOURS = ("#1f5fbf", "#c62828", "#2e7d32", "#b26a00", "#7b5ea7")


def report_csv(steps: Sequence[Step]) -> str:
    """Return the steps as CSV with a header: all fields of `Step`; `other` as JSON. Absent metrics are empty."""
    out = io.StringIO()
    names = [field.name for field in fields(Step)]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for step in steps:
        row = step.to_json()
        writer.writerow({**row, "other": json.dumps(row["other"], sort_keys=True) if row["other"] else ""})
    return out.getvalue()


def report_html(
    title: str,
    steps: Sequence[Step],
    alarms: Sequence[Alarm],
    *,
    configuration: Mapping[str, JSON] | None = None,
    checkpoints: Sequence[Checkpoint] = (),
) -> str:
    """Return a page with alarms, curves, checkpoints and configuration.

    The page loads nothing and runs nothing: it has no scripts, and its policy forbids them. All texts are escaped.

    Args:
        title: Of the page, for example the id of the job.
        steps: By number, as `read_steps` returns them.
        alarms: What `aws_rft_sdk.jobs.alarms` found in them.
        configuration: Of the job, nested or flat. None if it is not known.
        checkpoints: Of the job.
    """
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    total = next((step.total_steps for step in reversed(steps) if step.total_steps), None)
    done = (
        f"{len(steps)} steps" + (f", the last is {steps[-1].step}" if steps else "") + (f" of {total}" if total else "")
    )
    curves = "".join(_curve(name, label, steps, alarms) for name, label in _CURVES.items())
    body = [
        f"<h1>{escape(title)}</h1><p>{done}</p><h2>Alarms</h2>",
        "".join(map(_alarm, alarms)) or '<p class="none">None.</p>',
        f'<h2>Curves</h2><div class="curves">{curves}</div>' if curves else "",
        _table("Checkpoints", ((f"step {c.step if c.step is not None else '-'}", c.model) for c in checkpoints)),
        _table("Configuration", _flat(configuration or {})),
    ]
    head = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY.format(digest)}">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
    )
    return f"{head}<body>{''.join(body)}</body></html>\n"


def reward_svg(runs: Mapping[str, Sequence[Step]]) -> str:
    """Return a drawing as a file of its own: the mean reward of several runs, step by step, each with its name.

    Args:
        runs: For each name, the steps by number. The axis goes from 0 to 1, or as far as the rewards go.
    """
    curves = {
        name: [(step.step, step.reward_mean) for step in steps if step.reward_mean is not None]
        for name, steps in runs.items()
    }
    points = [point for curve in curves.values() for point in curve] or [(1, 0.0)]
    first, last = min(step for step, _ in points), max(step for step, _ in points)
    low, high = min(0.0, *(value for _, value in points)), max(1.0, *(value for _, value in points))
    width, height = _WIDTH * 2, _HEIGHT * 2
    drawn = [f'<rect width="{width}" height="{height}" fill="#fff"/>']
    for y, value in ((12, high), (height - 16, low)):
        drawn.append(f'<text x="4" y="{y}">{value:.3g}</text>')
    for x, anchor, step in ((_MARGIN, "start", first), (width - 120, "end", last)):
        drawn.append(f'<text x="{x}" y="{height - 3}" text-anchor="{anchor}">step {step}</text>')
    for number, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        line = " ".join(
            f"{_MARGIN + (step - first) / ((last - first) or 1) * (width - _MARGIN - 120):.1f},"
            f"{height - 16 - (value - low) / (high - low) * (height - 26):.1f}"
            for step, value in curve
        )
        drawn.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        drawn.append(f'<text x="{width - 110}" y="{20 + 14 * number}" style="fill:{colour}">{escape(name)}</text>')
    style = "<style>text { font: 11px sans-serif; fill: #57606a }</style>"
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">{style}{"".join(drawn)}</svg>\n'


def _alarm(alarm: Alarm) -> str:
    kind, evidence, advice, source = (escape(t) for t in (alarm.kind, alarm.evidence, alarm.advice, alarm.source))
    return (
        f'<div class="alarm"><b>{kind}</b> at step {alarm.step}: {evidence}.<br>{advice}<br>'
        f"<small>Source: {source}</small></div>"
    )


def _curve(name: str, label: str, steps: Sequence[Step], alarms: Sequence[Alarm]) -> str:
    """Draw a metric: its values, their running median, and the steps of alarms. Empty if there are no values."""
    points = [(step.step, value) for step in steps if (value := getattr(step, name)) is not None]
    if not points:
        return ""
    first, last = points[0][0], points[-1][0]
    low, high = min(value for _, value in points), max(value for _, value in points)

    def x(step: int) -> float:
        return _MARGIN + (step - first) / ((last - first) or 1) * (_WIDTH - _MARGIN - 6)

    def y(value: float) -> float:
        return _HEIGHT - 16 - (((value - low) / (high - low)) if high > low else 0.5) * (_HEIGHT - 26)

    half = max(1, len(points) // 20)
    smooth = [
        (step, median(value for _, value in points[max(0, at - half) : at + half + 1]))
        for at, (step, _) in enumerate(points)
    ]
    lines = "".join(
        f'<polyline class="{kind}" points="{" ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in values)}"/>'
        for kind, values in (("raw", points), ("smooth", smooth))
    )
    dot = f'<circle cx="{x(last):.1f}" cy="{y(points[-1][1]):.1f}" r="2.5"/>'
    marks = "".join(
        f'<line x1="{x(alarm.step):.1f}" x2="{x(alarm.step):.1f}" y1="8" y2="{_HEIGHT - 16}">'
        f"<title>{escape(alarm.kind)}</title></line>"
        for alarm in alarms
        if first <= alarm.step <= last
    )
    texts = (
        f'<text x="0" y="12">{high:.3g}</text><text x="0" y="{_HEIGHT - 16}">{low:.3g}</text>'
        f'<text x="{_MARGIN}" y="{_HEIGHT - 3}">{first}</text>'
        f'<text x="{_WIDTH - 6}" y="{_HEIGHT - 3}" text-anchor="end">{last}</text>'
    )
    drawing = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{marks}{lines}{dot}{texts}</svg>'
    return f"<figure><figcaption>{escape(label)}</figcaption>{drawing}</figure>"


def _table(heading: str, rows: Iterator[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<h2>{heading}</h2><table>{cells}</table>" if cells else ""


def _flat(value: JSON, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    elif value is not None:
        yield path, value if isinstance(value, str) else json.dumps(value, default=str)
