"""Does the loop learn? The training of `aws-rft demo` and its controls, for several seeds.

    python benchmarks/learning.py --seeds 3

Prints held-out success before and after, and the time of each run. The shares do not depend on the machine.
"""

from __future__ import annotations

import time

import click

from aws_rft_sdk.training.learning import CONTROLS, learn


@click.command()
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1))
def main(seeds: int) -> None:
    """Train once for each seed and each control."""
    click.echo("| run | " + " | ".join(f"seed {seed}" for seed in range(seeds)) + " | seconds |")
    click.echo("|---" * (seeds + 2) + "|")
    for control in (None, *CONTROLS):
        began, cells = time.monotonic(), []
        for seed in range(seeds):
            course = learn(control=control, seed=seed)
            cells.append(f"{course.before:.0%} to {course.after:.0%}")
        click.echo(f"| {control or 'rewarded'} | {' | '.join(cells)} | {(time.monotonic() - began) / seeds:.0f} |")


if __name__ == "__main__":
    main()
