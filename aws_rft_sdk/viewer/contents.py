"""What the pages show: plain values for the templates, made of a run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple
from urllib.parse import urlencode

from aws_rft_sdk._frozen import JSON, thaw
from aws_rft_sdk.errors import ConfigurationError, DatasetError
from aws_rft_sdk.runs.conversation import Message, TurnFacts, first_difference, mask_secrets
from aws_rft_sdk.runs.fidelity import fidelity_of
from aws_rft_sdk.runs.looking import RunView
from aws_rft_sdk.runs.metrics import Difference, compare
from aws_rft_sdk.runs.metrics.groups import EQUAL_WITHIN
from aws_rft_sdk.runs.metrics.passk import ks_up_to, pass_at_k
from aws_rft_sdk.runs.summaries import Conversation, CurvePart, GroupSummary
from aws_rft_sdk.runs.table import RolloutTable
from aws_rft_sdk.runs.where import Comparison
from aws_rft_sdk.viewer.charts import Bin, bins_of, curve, histogram
from aws_rft_sdk.viewer.tokens import loss_mask, tokens_of
from aws_rft_sdk.viewer.watching import WatchedRun

_SLOWEST, _TOOLS = 5, 12
MESSAGES_PER_PART = 200
"""Messages of a conversation on one page."""
_SHORT = 60


@dataclass(frozen=True)
class Links:
    """Addresses of the pages of one run."""

    base: str

    def overview(self) -> str:
        """Return the address of the overview."""
        return self.base

    def rollouts(self, **query: str | int) -> str:
        """Return the address of the list, with a filter and an order."""
        given = {name: value for name, value in query.items() if value not in ("", None)}
        return f"{self.base}/rollouts" + (f"?{urlencode(given)}" if given else "")

    def having(self, field: str, value: str) -> str:
        """Return the address of the list of rollouts whose field has this value."""
        return self.rollouts(where=str(Comparison(field, "=", value)))

    def rollout(self, trajectory_id: str, **query: str | int) -> str:
        """Return the address of one rollout, or of a part of it."""
        return f"{self.base}/rollout?{urlencode({'id': trajectory_id, **query})}"

    def raw(self, trajectory_id: str) -> str:
        """Return the address of one rollout as JSON."""
        return f"{self.base}/rollout.json?{urlencode({'id': trajectory_id})}"

    def text(self, trajectory_id: str, message: int, what: str) -> str:
        """Return the address of one text of a conversation, see `text_of`."""
        return f"{self.base}/text?{urlencode({'id': trajectory_id, 'message': message, 'what': what})}"

    def groups(self, **query: str | int) -> str:
        """Return the address of the list of groups."""
        return f"{self.base}/groups" + (f"?{urlencode(query)}" if query else "")

    def group(self, number: int) -> str:
        """Return the address of one group."""
        return f"{self.base}/groups/{number}"


def overview(run: WatchedRun, links: Links) -> dict[str, Any]:
    """Return the figures of a run."""
    view = run.view
    outcomes: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    rewards: Counter[float] = Counter()
    for outcome, error, reward, count in view.outcomes():
        outcomes[outcome] += count
        if error is not None:
            errors[error] += count
        if reward is not None:
            rewards[reward] += count
    groups = view.groups(run.success_threshold)
    compared = sum(group.rewarded > 1 for group in groups)
    dead = sum(group.is_dead for group in groups)
    bins = bins_of(rewards)
    parts = view.curve()
    return {
        "outcomes": dict(outcomes.most_common()),
        "errors": dict(errors.most_common()),
        "tools": dict(list(view.counts("tool").items())[:_TOOLS]),
        "rollouts": outcomes.total(),
        "mean_reward": fsum(r * n for r, n in rewards.items()) / rewards.total() if rewards else None,
        "pass_at": _pass_at(Counter((group.rewarded, group.successes) for group in groups if group.rewarded)),
        "dead_share": dead / compared if compared else None,
        "dead": dead,
        "compared": compared,
        "rate": _rate(parts, outcomes.total()),
        "curve": curve([(part.end, part.mean) for part in parts], "mean reward, rollout by rollout"),
        "histogram": histogram([_linked(item, item is bins[-1], links) for item in bins], "reward"),
        "slowest": view.rollouts(sort="-seconds", limit=_SLOWEST).rollouts,
        "notes": view.notes(),
    }


def _rate(parts: Sequence[CurvePart], rollouts: int) -> float | None:
    """Return how many rollouts began in a second. None if that is not known."""
    began = [part.began_at for part in parts if part.began_at is not None]
    ended = [part.ended_at for part in parts if part.ended_at is not None]
    seconds = max(ended) - min(began) if began and ended else 0.0
    return (rollouts - 1) / seconds if seconds > 0 else None


def _pass_at(counts: Mapping[tuple[int, int], int]) -> dict[int, float]:
    found = {}
    for k in ks_up_to(max((n for n, _ in counts), default=0)):
        known = [(pass_at_k(n, c, k), number) for (n, c), number in counts.items() if n >= k]
        if total := sum(number for _, number in known):
            found[k] = sum(share * number for share, number in known) / total
    return found


def _linked(item: Bin, is_last: bool, links: Links) -> Bin:
    if item.low == item.high:
        where = f"reward={item.low!r}"
    else:
        where = f"reward>={item.low!r} and reward{'<=' if is_last else '<'}{item.high!r}"
    return Bin(item.low, item.high, item.count, links.rollouts(where=where))


def group_page(view: RunView, number: int) -> dict[str, Any]:
    """Return the rollouts of one prompt, and where each parts from the best one.

    Raises:
        ConfigurationError: There is no such group.
    """
    members = view.group(number)
    if not members:
        raise ConfigurationError(f"there is no group {number}")
    conversations = [view.conversation(member.trajectory_id) for member in members[:32]]
    best = max(conversations, key=lambda item: -1e300 if item.summary.reward is None else item.summary.reward)
    rewards = [member.reward for member in members if member.reward is not None]
    low, high = min([0.0, *rewards]), max([1.0, *rewards])
    prompt = next((item.prompt for item in conversations if item.prompt is not None), members[0].prompt)
    return {
        "number": number,
        "prompt": _as_text(mask_secrets(prompt)),
        "members": [_member(item, best, low, high) for item in conversations],
        "left_out": len(members) - len(conversations),
        "best": best.summary.trajectory_id,
        "beside": view.beside(number),
    }


def _member(item: Conversation, best: Conversation, low: float, high: float) -> dict[str, Any]:
    place = None if item is best else first_difference(best.messages, item.messages)
    reward = item.summary.reward
    return {
        "summary": item.summary,
        "share": None if reward is None else (reward - low) / (high - low),
        "parts": None if place is None else _message_at(item.messages, place),
        "place": place,
        "last": next((message.text for message in reversed(item.messages) if message.sampled), ""),
    }


def _message_at(messages: Sequence[Message], place: int) -> Message | None:
    return messages[place] if place < len(messages) else None


class Said(NamedTuple):
    """One message of a page."""

    place: int
    """Its place in the conversation."""
    message: Message
    turn: TurnFacts | None
    """For the answer of a turn: what the turn took and earned."""


def rollout_page(view: RunView, trajectory_id: str, part: int = 1) -> dict[str, Any]:
    """Return one rollout, with a part of its conversation.

    Args:
        view: The run.
        trajectory_id: The rollout.
        part: The first 200 messages, the next 200 and so on, from 1.

    Raises:
        ConfigurationError: The run has no such rollout.
    """
    item = view.conversation(trajectory_id)
    siblings = () if item.summary.group is None else view.group(item.summary.group)
    ids = [sibling.trajectory_id for sibling in siblings]
    place = ids.index(trajectory_id) if trajectory_id in ids else None
    fidelity = fidelity_of(item.trajectory)
    messages = _said(item, part)
    shown = {said.turn.index for said in messages if said.turn is not None}
    turns = () if item.trajectory is None else item.trajectory.turns
    tokens = {turn.index: found for turn in turns if turn.index in shown and (found := tokens_of(turn))}
    metrics = mask_secrets(item.metrics)
    return {
        "item": item,
        "messages": messages,
        "said": len(item.messages),
        "tokens": tokens,
        "mask": loss_mask(item.trajectory) if item.trajectory is not None and tokens else None,
        "before": ids[place - 1] if place else None,
        "after": ids[place + 1] if place is not None and place + 1 < len(ids) else None,
        "siblings": siblings,
        "metrics": {name: value for name, value in metrics.items() if _is_figure(value)},
        "evidence": {name: _as_text(value) for name, value in metrics.items() if not _is_figure(value)},
        "state": None if item.state is None else json.dumps(thaw(item.state), indent=2, ensure_ascii=False),
        "offered": json.dumps(thaw(list(item.tools)), indent=2, ensure_ascii=False) if item.tools else "",
        "breaks": () if fidelity is None else fidelity.breaks,
        "rows": None if fidelity is None else fidelity.rows,
    }


def _said(item: Conversation, part: int) -> list[Said]:
    turns = {turn.index: turn for turn in item.turns}
    first = (part - 1) * MESSAGES_PER_PART
    messages = enumerate(item.messages[first : first + MESSAGES_PER_PART], start=first)
    return [Said(place, one, turns.get(one.turn) if one.sampled else None) for place, one in messages]


def text_of(view: RunView, trajectory_id: str, message: int, what: str) -> str:
    """Return one text of a conversation to the letter.

    Args:
        view: The run.
        trajectory_id: The rollout.
        message: Place of the message in the conversation.
        what: "text", "reasoning", or "call-0", "call-1" and so on for the arguments of a call.

    Raises:
        ConfigurationError: There is no such text.
    """
    messages = view.conversation(trajectory_id).messages
    one = messages[message] if 0 <= message < len(messages) else None
    texts = {} if one is None else {"text": one.text, "reasoning": one.reasoning}
    texts |= {} if one is None else {f"call-{number}": call.arguments for number, call in enumerate(one.calls)}
    if what not in texts:
        raise ConfigurationError(f"message {message} of {trajectory_id} has no {what!r:.40}")
    return texts[what]


def _is_figure(value: JSON) -> bool:
    """Return whether a figure of the handler is shown as one. Others are evidence, such as what a judge wrote."""
    return value is None or isinstance(value, int | float | bool) or (isinstance(value, str) and len(value) <= _SHORT)


def _as_text(value: JSON) -> str:
    return value if isinstance(value, str) else json.dumps(thaw(value), indent=2, ensure_ascii=False)


def raw_json(view: RunView, trajectory_id: str) -> dict[str, JSON]:
    """Return one rollout as JSON: what `aws-rft show --json` prints, and the recorded requests and answers.

    Raises:
        ConfigurationError: The run has no such rollout.
    """
    item = view.conversation(trajectory_id)
    turns = () if item.trajectory is None else item.trajectory.turns
    recorded = [{"request": thaw(turn.request), "response": thaw(turn.response)} for turn in turns]
    found: dict[str, JSON] = mask_secrets({**item.to_json(), "recorded": recorded})
    return found


def comparison(runs: Sequence[WatchedRun], links: Sequence[Links]) -> dict[str, Any]:
    """Return the groups of two runs, paired by their prompts, the biggest regression first."""
    # Records number the prompts of a dataset. Without them the numbers are those of the order in which a run met them.
    numbered = all(run.view.has_records for run in runs)
    prompts = [run.view.prompts() for run in runs]
    sides = [
        _by_prompt(run.view.groups(), None if numbered else known) for run, known in zip(runs, prompts, strict=True)
    ]
    pairs, others = [], 0
    for place in sides[0].keys() & sides[1].keys():
        one, other = (side[place] for side in sides)
        asked = [known.get(group.group) for known, group in zip(prompts, (one, other), strict=True)]
        others += None not in asked and asked[0] != asked[1]
        if one.mean is not None and other.mean is not None:
            change = other.mean - one.mean
            pairs.append((0.0 if abs(change) <= EQUAL_WITHIN else change, one, other))
    changes = [change for change, _, _ in pairs]
    return {
        "pairs": sorted(pairs, key=lambda pair: (pair[0], pair[1].group)),
        "mean_change": fmean(changes) if changes else None,
        "worse": sum(change < 0 for change in changes),
        "better": sum(change > 0 for change in changes),
        "only": [len(sides[0].keys() - sides[1].keys()), len(sides[1].keys() - sides[0].keys())],
        "others": others,
        "means": [_mean_of(run) for run in runs],
        "histogram": histogram(bins_of(Counter(changes)), "change of the mean reward of a prompt"),
        "sides": links,
        "verdicts": _verdicts(runs),
    }


def _by_prompt(groups: Sequence[GroupSummary], prompts: Mapping[int, str] | None) -> dict[object, GroupSummary]:
    """Return groups by their numbers, or by their prompts. Equal prompts are told apart by their order."""
    if prompts is None:
        return {group.group: group for group in groups}
    met: Counter[str] = Counter()
    found: dict[object, GroupSummary] = {}
    for group in groups:
        if prompt := prompts.get(group.group):
            found[prompt, met[prompt]] = group
            met[prompt] += 1
    return found


def _verdicts(runs: Sequence[WatchedRun]) -> list[Difference]:
    """Return which differences are more than noise. Empty without records of both runs."""
    folders = [Path(run.name) for run in runs]
    if not all(run.view.has_records and folder.is_dir() for run, folder in zip(runs, folders, strict=True)):
        return []
    try:
        tables = [RolloutTable.read(folder) for folder in folders]
        return list(compare(*tables, success_threshold=runs[0].success_threshold).differences)
    except (ConfigurationError, DatasetError):
        return []  # they have no prompt or no rollout in common, which the page shows


def _mean_of(run: WatchedRun) -> float | None:
    values = run.view.values("reward")
    return fmean(values) if values else None
