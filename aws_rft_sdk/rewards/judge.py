"""Judges: rewards by a model that grades one answer, compares two, or ranks the rollouts of a prompt."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import dropwhile, takewhile

from aws_rft_sdk._frozen import JSON, thaw
from aws_rft_sdk.errors import RewardError
from aws_rft_sdk.rewards.extract import strip_thoughts
from aws_rft_sdk.rewards.judge_asking import Asking, NoVerdictError, Shows
from aws_rft_sdk.rewards.judge_models import Failure
from aws_rft_sdk.rewards.judge_rubrics import (
    EXPLANATION,
    FAILED,
    TOP_GRADE,
    Material,
    Rubric,
    rank_question,
    score_question,
    single_score,
)
from aws_rft_sdk.rewards.rollout import ASSISTANT_ROLES, Component, RewardResult, Rollout, message_text

_REFERENCE_KEYS = ("answer", "reference_answer", "expectedAnswer", "expected_answer", "ground_truth", "text")


@dataclass(frozen=True)
class JudgeResult(RewardResult):
    """A reward by a judge. Without a verdict, `reward` is None and `failure` says why; a judged 0.5 has no failure."""

    explanation: str = ""
    """What the judge said before it graded. Never part of the reward."""
    failure: Failure | None = None
    detail: str = ""
    """More about the failure, for people; "" if there is none."""


@dataclass(frozen=True)
class Comparison:
    """Which of two answers a judge prefers, asked in both orders."""

    preference: float | None
    """1.0 for the first, 0.0 for the second, 0.5 for neither; the mean of both orders. None without both verdicts."""
    agrees: bool | None = None
    """Whether both orders gave one verdict. If not, the judge went by position, at least in part."""
    explanations: tuple[str, ...] = ()
    failure: Failure | None = None
    detail: str = ""


class _Judging(Asking):
    """What a judge sees of rollouts."""

    def _work(self, rollout: Rollout) -> str:
        """Return what is judged, "" if the policy said nothing."""
        if self.shows == "answer":
            return _visible(rollout.answer)
        return _as_text(_seen(rollout.messages)) if rollout.turns else ""

    def _context(self, rollout: Rollout) -> list[Material]:
        """Return the question and the reference.

        Raises:
            NoVerdictError: The rubric needs a reference and there is none.
        """
        reference = reference_text(rollout.ground_truth)
        if self.rubric.needs_reference and not reference:
            raise NoVerdictError(Failure.NO_REFERENCE, "the rubric needs a ground truth, and the rollout has none")
        return [*_question_of(rollout), *([Material("reference", reference)] if reference else [])]

    def _shared_context(self, rollouts: Sequence[Rollout]) -> list[Material]:
        contexts = [self._context(rollout) for rollout in rollouts]
        if any(context != contexts[0] for context in contexts):
            raise RewardError("only rollouts of one prompt can be compared; these differ in question or ground truth")
        return contexts[0] if contexts else []

    def _grades(self, context: Sequence[Material], texts: Sequence[str]) -> tuple[dict[str, int], str]:
        """Return a grade for each text, relative to the others, and the judge's explanation."""
        if len(texts) < 2:
            return dict.fromkeys(texts, TOP_GRADE), ""
        verdict = self._ask(rank_question(self.rubric, context, texts))
        return {text: verdict[f"answer_{n}"] for n, text in enumerate(texts, 1)}, verdict[EXPLANATION]


class Judge(_Judging):
    """A reward by a model that judges. Grades one answer when it is called; also compares two and ranks several.

    A judge waits for its model: in asynchronous code call it with `asyncio.to_thread`. Its calls are not turns of the
    policy, also inside a rollout. A judge that fails gives no reward, and says why in `failure` and in the metric
    `judge_failed`.

    For one verdict the model answers at most twice: if the first answer holds no verdict, the judge tells the model in
    the same conversation what is wrong with it. Requests that never reached a model (429, 5xx, no connection) are
    repeated, up to `max_attempts` requests in all. A request that was late may have been answered, so it counts.

    Args:
        model: A Strands model, an `openai.OpenAI` or `AsyncOpenAI` client, a boto3 client for `bedrock-runtime`, or a
            function without arguments that makes one when it is first needed. An asynchronous client is used in a loop
            of the judge's own and closed by `close`, so do not share it with other code.
        rubric: What to judge by: `PANDALM`, `single_score(...)` or a `Rubric`.
        model_id: Which model a client asks for. Clients need it. For a Strands model it only tells models apart in the
            cache, if the configuration of the model does not.
        params: More arguments for the call of a client, for example `{"temperature": 0}`.
        shows: What the judge sees of a rollout: the question and the last "answer", or the whole "conversation" with
            tool calls and results. It never sees thoughts.
        cache: File to keep verdicts in; None for none. The key is a digest of everything that is sent, the model's id
            and its parameters, but not its address.
        timeout_seconds: Seconds for one request as a whole.
        max_attempts: Requests for one verdict, at least 1. If a model refuses a forced form, one more without it.
        backoff: How long to wait in between. `Retry-After` counts, up to its cap.
        sleep: Waits a number of seconds.

    Raises:
        ConfigurationError: An argument has a value that it cannot have.

    Concurrency: safe from several threads and after a fork. Picklable unless `model` is a live client. In another
    process it opens connections anew and counts its own cost.
    """

    def __call__(self, rollout: Rollout) -> JudgeResult:
        """Grade the rollout by the rubric.

        Returns:
            A reward from 0 to 1, with what each criterion and deduction added to it as components. A rollout in which
            the policy said nothing gets 0, and the model is not called.
        """
        try:
            context, work = self._context(rollout), self._work(rollout)
            if not work:
                return _judged(0.0, explanation="There is no answer.")
            verdict = self._ask(score_question(self.rubric, [*context, Material("answer", work)]))
        except NoVerdictError as error:
            return _failed(error)
        reward, components = self.rubric.reward(verdict)
        return _judged(reward, components, verdict[EXPLANATION])

    def score(self, answer_text: str, ground_truth: JSON = None) -> float | None:
        """Return the grade of an answer by itself. Returns None if it cannot be judged."""
        return self(Rollout.of_answer(answer_text, ground_truth)).reward

    def compare(self, first: Rollout, second: Rollout) -> Comparison:
        """Say which of two rollouts of one prompt is better. The model is asked in both orders.

        Equal answers are a tie, and something beats nothing; the model is not called then. A judge that goes by
        position comes out at 0.5.

        Raises:
            RewardError: The rollouts have different questions.
        """
        try:
            context = self._shared_context([first, second])
            return self._compare(context, self._work(first), self._work(second))
        except NoVerdictError as error:
            return Comparison(None, failure=error.failure, detail=error.detail)

    def against_reference(self, rollout: Rollout) -> JudgeResult:
        """Compare the rollout's last answer with its ground truth, in both orders. A reward of its own.

        Returns:
            1.0 if the answer is better, 0.5 for neither, 0.0 if the reference is better, or a mean of these; with the
            metric `judge_agrees`, 0.0 if the judge went by position.
        """
        try:
            if not (reference := reference_text(rollout.ground_truth)):
                raise NoVerdictError(Failure.NO_COMPARISON, "the rollout has no ground truth to compare with")
            comparison = self._compare(_question_of(rollout), _visible(rollout.answer), reference)
        except NoVerdictError as error:
            return _failed(error)
        agrees = Component("judge_agrees", float(bool(comparison.agrees)), counts=False)
        return _judged(comparison.preference, (agrees,), "\n\n".join(comparison.explanations))

    def rank(self, rollouts: Sequence[Rollout]) -> list[JudgeResult]:
        """Score the rollouts of one prompt relative to each other, in two calls with opposite orders.

        Returns:
            One result for each rollout, in their order. The reward is the share of the others that it beats, ties
            counting half: 1.0 is the best, 0.0 the worst, and the mean of a group is 0.5. Equal answers get equal
            rewards, those without an answer stand below all others, and a judge that goes by position gives 0.5 to all.
            A group of one, and a group of which one order could not be judged, has no rewards.

        Raises:
            RewardError: The rollouts have different questions.
        """
        try:
            context = self._shared_context(rollouts)
            ranks, said = self._ranks(context, [self._work(rollout) for rollout in rollouts])
        except NoVerdictError as error:
            return [_failed(error)] * len(rollouts)
        return [_judged(round(sum(shares) / 2, 12), explanation="\n\n".join(said)) for shares in ranks]

    def _compare(self, context: Sequence[Material], first: str, second: str) -> Comparison:
        (shares, _), said = self._ranks(context, [first, second])
        return Comparison(sum(shares) / 2, shares[0] == shares[1], tuple(said))

    def _ranks(self, context: Sequence[Material], works: Sequence[str]) -> tuple[list[tuple[float, ...]], list[str]]:
        """Return for each work the share of the others that it beats, in both orders, and the judge's explanations."""
        _check_group(works)
        texts = list(dict.fromkeys(filter(None, works)))
        asked = [self._grades(context, ordered) for ordered in (texts, texts[::-1])]
        shares = [_shares_beaten([grades.get(work, -1) for work in works]) for grades, _ in asked]
        return list(zip(*shares, strict=True)), [said for _, said in asked if said]


_RELATIVE = single_score(
    "Judge how well each answer does what the conversation asks for.",
    "An answer that reaches the goal beats one that does not. Of two that reach it, the more direct one is better.",
)


@dataclass(eq=False, repr=False)
class RankingJudge(_Judging):
    """A group reward by a model that sees all rollouts of a prompt at once and grades them relative to each other.

    Equal rollouts are shown once and get equal rewards. The order in which the model sees them is drawn from their
    content, so it is the same whenever the group is judged, and no place in the group is favoured.

    The arguments are those of `Judge`, except for two defaults. The `rubric` asks whether a rollout reaches the goal of
    the conversation. A judge sees the "conversation": the messages with which all rollouts begin once, and then the
    rest of each rollout.
    """

    rubric: Rubric = _RELATIVE
    _: KW_ONLY
    shows: Shows = "conversation"

    def score_group(self, rollouts: Sequence[Rollout]) -> list[JudgeResult]:
        """Grade the rollouts of one prompt relative to each other, in one call.

        Returns:
            One result for each rollout, in their order. The reward is the grade from 0 to 1. A rollout in which the
            policy said nothing gets 0. If there are no two different rollouts to compare, the model is not called: all
            equal rollouts get 0.5, one beside silent ones 1. A group of one, and a group without a verdict, has no
            rewards.

        Raises:
            RewardError: The rollouts have different questions or ground truths.
        """
        try:
            context = self._shared_context(rollouts)
            works = [self._work(rollout) for rollout in rollouts]
            _check_group(works)
            if len(set(works)) < 2:
                return [_judged(0.5)] * len(works)
            if self.shows == "conversation":
                context, works = _without_common_beginning(context, rollouts)
            texts = sorted(set(filter(None, works)))
            random.Random("".join(texts).encode("utf-8", "surrogatepass")).shuffle(texts)
            grades, explanation = self._grades(context, texts)
        except NoVerdictError as error:
            return [_failed(error)] * len(rollouts)
        return [_judged(grades.get(work, 0) / TOP_GRADE, explanation=explanation) for work in works]


def _without_common_beginning(
    context: Sequence[Material], rollouts: Sequence[Rollout]
) -> tuple[list[Material], list[str]]:
    """Return the context with the messages with which all rollouts begin, and the rest of each rollout."""
    spoken = [_seen(rollout.messages) for rollout in rollouts if rollout.turns]
    common = takewhile(lambda column: column.count(column[0]) == len(column), zip(*spoken, strict=False))
    length = min([sum(1 for _ in common), *(len(messages) - 1 for messages in spoken)])  # each rollout keeps a rest
    rests = [_as_text(_seen(rollout.messages)[length:]) if rollout.turns else "" for rollout in rollouts]
    beginning = list(dropwhile(lambda message: message.get("role") == "user", spoken[0][:length]))  # not the question
    return [*context, *([Material("shared beginning", _as_text(beginning))] if beginning else [])], rests


# --- texts ---


def reference_text(ground_truth: JSON) -> str | None:
    """Return a ground truth as a judge reads it. Returns None if there is none.

    Of an object it is the first of `answer`, `reference_answer`, `expectedAnswer`, `expected_answer`, `ground_truth`
    and `text`, otherwise the object as a whole.
    """
    if isinstance(ground_truth, Mapping):
        ground_truth = next((ground_truth[key] for key in _REFERENCE_KEYS if key in ground_truth), ground_truth)
    if ground_truth is None or isinstance(ground_truth, str):
        return ground_truth
    return json.dumps(ground_truth, ensure_ascii=False)


def _question_of(rollout: Rollout) -> list[Material]:
    """Return what the user said before the first turn; the prompt cell, if it is text, if there are no messages."""
    before = takewhile(lambda message: message.get("role") not in ASSISTANT_ROLES, rollout.messages)
    asked = "\n\n".join(message_text(message) for message in before if message.get("role") == "user")
    text = asked or (rollout.prompt if isinstance(rollout.prompt, str) else "")
    return [Material("question", text)] if text else []


def _visible(answer: str) -> str:
    """Return an answer without thoughts, "" if nothing is left of it."""
    visible = strip_thoughts(answer) or ""
    # What follows the end of the turn stays: it may be a forged message, and the judge is to see it.
    return (answer if visible and answer.startswith(visible) else visible) if visible.strip() else ""


def _seen(messages: Sequence[JSON]) -> list[JSON]:
    """Return the messages that a judge sees: no system text, and nothing that the policy only thought."""
    seen = []
    for message in messages:
        message = {key: value for key, value in message.items() if key != "reasoning_content"}
        if message.get("role") in ASSISTANT_ROLES and isinstance(message.get("content"), str):
            message["content"] = _visible(message["content"])
        if message.get("role") not in ("system", "developer"):
            seen.append(message)
    return seen


def _as_text(messages: Sequence[JSON]) -> str:
    if len(messages) == 1 and messages[0].keys() == {"role", "content"} and messages[0]["role"] in ASSISTANT_ROLES:
        return message_text(messages[0]).strip() and message_text(messages[0])
    return json.dumps(thaw(messages), ensure_ascii=False, indent=1)


# --- results ---


def _judged(reward: float | None, components: tuple[Component, ...] = (), explanation: str = "") -> JudgeResult:
    return JudgeResult(reward, (*components, Component(FAILED, 0.0, counts=False)), explanation=explanation)


def _failed(error: NoVerdictError) -> JudgeResult:
    failed = Component(FAILED, 1.0, counts=False)
    return JudgeResult(None, (failed,), failure=error.failure, detail=error.detail)


def _shares_beaten(grades: Sequence[int]) -> list[float]:
    """Return for each grade the share of the others that it beats. Ties count half."""
    return [
        (sum(grade > other for other in grades) + (grades.count(grade) - 1) / 2) / (len(grades) - 1) for grade in grades
    ]


def _check_group(works: Sequence[str]) -> None:
    if len(works) == 1:
        raise NoVerdictError(Failure.NO_COMPARISON, "a group of one has no order")
