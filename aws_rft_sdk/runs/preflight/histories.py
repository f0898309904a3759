"""How often the agent of a run changed a history, by the cause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runs.fidelity import fidelity_of
from aws_rft_sdk.runtime import TrajectoryReader

MOST = 1_000
"""Trajectories that are read."""


@dataclass(frozen=True)
class Histories:
    """Trajectories of a run, the first 1,000 at most."""

    trajectories: int
    """With a turn, and with requests that were kept."""
    broken: int
    """Those where a turn does not go on from an earlier one."""
    rows: int
    """Training rows of all of them."""
    causes: Mapping[str, int] = field(default_factory=dict)
    """Trajectories that have each cause, the most frequent first."""

    def to_dict(self) -> dict[str, JSON]:
        """Return the fields as JSON, and the share that is broken."""
        share = self.broken / self.trajectories
        counts = {"trajectories": self.trajectories, "broken": self.broken, "broken_share": share, "rows": self.rows}
        return {**counts, "causes": dict(self.causes)}

    def __str__(self) -> str:
        """Return them in a sentence."""
        if not self.broken:
            return f"the agent changed no history of {self.trajectories} rollouts: {self.rows} training rows"
        causes = ", ".join(f"{cause} in {count}" for cause, count in self.causes.items())
        return (
            f"the agent changed the history of {self.broken} of {self.trajectories} rollouts ({causes}): "
            f"{self.rows} training rows"
        )


def read_histories(database: Path) -> Histories | None:
    """Return what a database of the local runtime shows. None if there is none, or if it kept no requests.

    Raises:
        ConfigurationError: The file is no database of the local runtime.
        DatasetError: The file is damaged.
    """
    if not database.is_file():
        return None
    with TrajectoryReader(database) as reader:
        found = [one for one in map(fidelity_of, islice(reader, MOST)) if one is not None]
    if not found:
        return None
    causes = Counter(cause.value for one in found for cause in {item.cause for item in one.breaks})
    return Histories(
        len(found), sum(bool(one.breaks) for one in found), sum(one.rows for one in found), dict(causes.most_common())
    )
