"""Judges: rewards by a model that grades one answer, compares two, or ranks the rollouts of a prompt."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from typing import Any, Literal, TypeVar, get_args

from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk._checks import check_number, check_seconds
from aws_rft_sdk._fork import in_forked_child
from aws_rft_sdk._frozen import JSON, freeze, thaw
from aws_rft_sdk.errors import ConfigurationError, RewardError
from aws_rft_sdk.rewards.extract import strip_thoughts
from aws_rft_sdk.rewards.judge_cache import VerdictCache
from aws_rft_sdk.rewards.judge_models import (
    CallFailedError,
    Failure,
    JudgeModel,
    check_picklable,
    check_source,
    make_judge_model,
)
from aws_rft_sdk.rewards.judge_rubrics import (
    EXPLANATION,
    FAILED,
    FIRST,
    TIE,
    TOP_GRADE,
    Material,
    Question,
    Rubric,
    compare_question,
    parse_verdict,
    rank_question,
    score_question,
    single_score,
)
from aws_rft_sdk.rewards.rollout import ASSISTANT_ROLES, Component, RewardResult, Rollout, message_text

logger = logging.getLogger(__name__)

Shows = Literal["answer", "conversation"]
J = TypeVar("J", bound="_Asking")

_MOST_ANSWERS = 2
"""Answers of the model to one question: the first, and one after a correction."""
_LONGEST_QUOTE = 4_000
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


@dataclass(frozen=True)
class JudgeCost:
    """What a judge has used in this process."""

    calls: int = 0
    """Requests that were made, retries included."""
    retries: int = 0
    cache_hits: int = 0
    """Verdicts that came from the cache, without a request."""
    failures: int = 0
    """Questions that ended without a verdict."""
    input_tokens: int = 0
    """As the provider reports them; 0 if it does not."""
    output_tokens: int = 0

    def price(self, input_per_million: float, output_per_million: float) -> float:
        """Return the price of the tokens, in the currency of the two prices for a million."""
        return (self.input_tokens * input_per_million + self.output_tokens * output_per_million) / 1_000_000


class _NoVerdictError(Exception):
    def __init__(self, failure: Failure, detail: str) -> None:
        super().__init__(detail)
        self.failure = failure
        self.detail = detail

    def result(self) -> JudgeResult:
        failed = Component(FAILED, 1.0, counts=False)
        return JudgeResult(None, (failed,), failure=self.failure, detail=self.detail)


class _Asking:
    """What all judges have in common: they ask a model, keep verdicts, and count."""

    _rubric: Rubric | None = None
    """What to judge by if the caller does not say."""
    _shows: Shows = "answer"

    def __init__(
        self,
        model: Any,
        rubric: Rubric | None = None,
        *,
        model_id: str | None = None,
        params: Mapping[str, JSON] | None = None,
        shows: Shows | None = None,
        cache: str | os.PathLike[str] | VerdictCache | None = None,
        timeout_seconds: float = 60.0,
        max_attempts: int = 4,
        backoff: Backoff = Backoff(),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        rubric, shows = self._rubric if rubric is None else rubric, shows or self._shows
        if not isinstance(rubric, Rubric):
            raise ConfigurationError(
                f"rubric is {rubric!r:.80}; it must be a Rubric, such as single_score(task, criterion)"
            )
        check_source(model)
        if shows not in get_args(Shows):
            raise ConfigurationError(f"shows must be one of {', '.join(get_args(Shows))}, not {shows!r}")
        check_number("max_attempts", max_attempts, low=1, whole=True)
        check_seconds("timeout_seconds", timeout_seconds)
        self.rubric = rubric
        self._source = model
        self._model_id = model_id
        self._params = freeze(params or {})
        self._shows = shows
        self._cache = VerdictCache(cache) if isinstance(cache, str | os.PathLike) else cache
        self._timeout_seconds = timeout_seconds
        self._max_attempts = max_attempts
        self._backoff = backoff
        self._sleep = sleep
        self._begin()
        if not callable(model):
            self._make_model()

    def _begin(self, is_forked: bool = False) -> None:
        self._lock = threading.Lock()
        self._model: JudgeModel | None = None
        self._cost = JudgeCost()
        self._is_forked = is_forked
        _judges.add(self)

    def __getstate__(self) -> dict[str, Any]:
        check_picklable(self._source)
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_model", "_cost")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    @property
    def cost(self) -> JudgeCost:
        """What was used so far in this process."""
        with self._lock:
            return self._cost

    def close(self) -> None:
        """Close an asynchronous client, and a client that a function made. Other clients are the caller's.

        The judge can be used again, unless it was given an asynchronous client.
        """
        with self._lock:
            model, self._model = self._model, None
        if model is not None:
            model.close()

    def __enter__(self: J) -> J:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # --- what the judge sees ---

    def _work(self, rollout: Rollout) -> str:
        """Return what is judged, "" if the policy said nothing."""
        if self._shows == "answer":
            return _visible(rollout.answer)
        return _as_text(_seen(rollout.messages)) if rollout.turns else ""

    def _context(self, rollout: Rollout) -> list[Material]:
        """Return the question and the reference.

        Raises:
            _NoVerdictError: The rubric needs a reference and there is none.
        """
        reference = reference_text(rollout.ground_truth)
        if self.rubric.needs_reference and not reference:
            raise _NoVerdictError(Failure.NO_REFERENCE, "the rubric needs a ground truth, and the rollout has none")
        return [*_question_of(rollout), *([Material("reference", reference)] if reference else [])]

    def _shared_context(self, rollouts: Sequence[Rollout]) -> list[Material]:
        contexts = [self._context(rollout) for rollout in rollouts]
        if any(context != contexts[0] for context in contexts):
            raise RewardError("only rollouts of one prompt can be compared; these differ in question or ground truth")
        return contexts[0] if contexts else []

    # --- asking ---

    def _grades(self, context: Sequence[Material], texts: Sequence[str]) -> tuple[dict[str, int], str]:
        """Return a grade for each text, relative to the others, and the judge's explanation."""
        verdict = self._ask(rank_question(self.rubric, context, texts))
        return {text: verdict[f"answer_{n}"] for n, text in enumerate(texts, 1)}, verdict[EXPLANATION]

    def _ask(self, question: Question) -> dict[str, JSON]:
        """Return the verdict, from the cache or from the model.

        Raises:
            _NoVerdictError: There is none.
        """
        model = self._make_model()
        key = question.digest(model.identity)
        if self._cache is None:
            return self._converse(model, question)
        kept = self._cache.get(key)
        if kept is not None:
            try:
                verdict = parse_verdict(kept, question.schema)
                self._count(cache_hits=1)
                return verdict
            except ValueError:
                self._cache.discard(key, kept)
        kept = self._cache.put(key, json.dumps(self._converse(model, question)))
        return parse_verdict(kept, question.schema)

    def _make_model(self) -> JudgeModel:
        with self._lock:
            if self._model is None:
                self._model = make_judge_model(self._source, self._model_id, self._params, is_forked=self._is_forked)
            return self._model

    def _converse(self, model: JudgeModel, question: Question) -> dict[str, JSON]:
        """Call the model until there is a verdict, and correct it once."""
        turns = [("user", question.user)]
        forced, attempts, sent = model.forces_form, 0, 0
        while True:
            self._count(calls=1, retries=int(attempts > 0 or forced != model.forces_form))
            try:
                reply = model.ask(question.system, turns, question.schema if forced else None, self._timeout_seconds)
                model.forces_form = forced
                self._count(input_tokens=reply.input_tokens, output_tokens=reply.output_tokens)
                if reply.refusal:
                    raise CallFailedError(Failure.REFUSED, reply.refusal)
                return parse_verdict(reply.text, question.schema)
            except (ValueError, RecursionError) as problem:
                failed = CallFailedError(Failure.MALFORMED, f"{problem}"[:300], was_sent=True)
                said, correction = (
                    reply.text[:_LONGEST_QUOTE].strip() or "(nothing)",
                    question.correction(failed.detail),
                )
                turns = [turns[0], ("assistant", said), ("user", correction)]
            except CallFailedError as error:
                failed = error
                if forced and failed.blames_form:
                    forced = False  # many models know no forced tool, or not this one's schema
                    continue
            attempts += 1
            sent += failed.was_sent
            is_last = attempts == self._max_attempts or sent == _MOST_ANSWERS
            if is_last or failed.failure in (Failure.REFUSED, Failure.ERROR):
                self._count(failures=1)
                # Only the class of the error: services quote the prompt, and headers, in what they answer.
                kind = type(failed.__cause__ or failed).__name__
                logger.warning(
                    "attempts=<%d>, failure=<%s>, error=<%s> | no verdict", attempts, failed.failure.value, kind
                )
                raise _NoVerdictError(failed.failure, failed.detail)
            if failed.failure is not Failure.MALFORMED:
                self._sleep(self._backoff.delay(attempts, failed.retry_after))

    def _count(self, **more: int) -> None:
        with self._lock:
            counts = asdict(self._cost)
            self._cost = replace(self._cost, **{name: counts[name] + count for name, count in more.items()})


_judges: weakref.WeakSet[_Asking] = weakref.WeakSet()


@in_forked_child
def _begin_anew_after_a_fork() -> None:
    for judge in list(_judges):
        judge._begin(is_forked=True)


class Judge(_Asking):
    """A reward by a model that judges. Grades one answer when it is called; also compares two and ranks several.

    A judge waits for its model: in asynchronous code call it with `asyncio.to_thread`. Its calls are not turns of the
    policy, also inside a rollout. A judge that fails gives no reward, and says why in `failure` and in the metric
    `judge_failed`.

    For one verdict the model answers at most twice: if the first answer holds no verdict, the judge tells the model in
    the same conversation what is wrong with it. Requests that a model never answered (429, 5xx, no connection) are
    repeated, up to `max_attempts` requests in all. A request that was late may have been answered, so it counts.

    Args:
        model: A Strands model, an `openai.OpenAI` or `AsyncOpenAI` client, a boto3 client for `bedrock-runtime`, or a
            function without arguments that makes one when it is first needed. An asynchronous client is used in a loop
            of the judge's own and closed by `close`, so do not share it with other code.
        rubric: What to judge by: `PANDALM`, `single_score(...)` or a `Rubric`.
        model_id: Which model a client asks for. Clients need it. For a Strands model it only tells models apart in the
            cache, if the configuration of the model does not.
        params: More arguments for the call of a client, for example `{"temperature": 0}` for OpenAI and
            `{"inferenceConfig": {"temperature": 0}}` for Bedrock.
        shows: What the judge sees of a rollout: the question and the last "answer" without thoughts, or the whole
            "conversation" with tool calls and results.
        cache: File to keep verdicts in; None for none. The key is a digest of everything that is sent, the model's id
            and its parameters, but not its address.
        timeout_seconds: Seconds for one request as a whole.
        max_attempts: Requests for one verdict, at least 1. A request without a forced form, made once because a
            model refused the forced one, comes on top.
        backoff: How long to wait in between. `Retry-After` counts, up to its cap.
        sleep: Waits a number of seconds.

    Raises:
        ConfigurationError: An argument has a value that it cannot have.

    Concurrency: safe from several threads and after a fork. Picklable if `model` is a Strands model that can be
    pickled, or a function at the top level of a module. In another process it opens connections anew and counts its
    own cost.
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
        except _NoVerdictError as error:
            return error.result()
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
        except _NoVerdictError as error:
            return Comparison(None, failure=error.failure, detail=error.detail)

    def against_reference(self, rollout: Rollout) -> JudgeResult:
        """Compare the rollout's last answer with its ground truth, in both orders. A reward of its own.

        Returns:
            1.0 if the answer is better, 0.5 for neither, 0.0 if the reference is better, or a mean of these; with the
            metric `judge_agrees`, 0.0 if the judge went by position.
        """
        try:
            if not (reference := reference_text(rollout.ground_truth)):
                raise _NoVerdictError(Failure.NO_COMPARISON, "the rollout has no ground truth to compare with")
            comparison = self._compare(_question_of(rollout), _visible(rollout.answer), reference)
        except _NoVerdictError as error:
            return error.result()
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
            context, works = self._shared_context(rollouts), [self._work(rollout) for rollout in rollouts]
            texts = list(dict.fromkeys(filter(None, works)))
            if len(works) < 2 or len(texts) < 2:
                return _without_asking(works)
            asked = [self._grades(context, ordered) for ordered in (texts, texts[::-1])]
        except _NoVerdictError as error:
            return [error.result()] * len(rollouts)
        shares = [_shares_beaten([grades.get(work, -1) for work in works]) for grades, _ in asked]
        explanation = "\n\n".join(said for _, said in asked)
        return [_judged(round(sum(own) / 2, 12), explanation=explanation) for own in zip(*shares, strict=True)]

    def _compare(self, context: Sequence[Material], first: str, second: str) -> Comparison:
        if first == second or not first or not second:
            return Comparison(0.5 if first == second else float(bool(first)), agrees=True)
        verdicts = [
            self._ask(compare_question(self.rubric, context, *pair)) for pair in ((first, second), (second, first))
        ]
        of_front = [0.5 if verdict["verdict"] == TIE else float(verdict["verdict"] == FIRST) for verdict in verdicts]
        preferences = of_front[0], 1 - of_front[1]
        explanations = tuple(verdict[EXPLANATION] for verdict in verdicts)
        return Comparison(sum(preferences) / 2, preferences[0] == preferences[1], explanations)


class RankingJudge(_Asking):
    """A group reward by a model that sees all rollouts of a prompt at once and grades them relative to each other.

    Relative grades are easier to give than absolute ones, and they differ within a group, which is what GRPO learns
    from. Equal rollouts are shown once and get equal rewards. The order in which the judge sees them is drawn from
    their content, so it is the same whenever the group is judged, and no place in the group is favoured.

    Args:
        model: See `Judge`.
        rubric: What makes a rollout better. If it is not given: whether it reaches the goal of the conversation.
        shows: See `Judge`. If not given, the "conversation": the messages with which all rollouts begin are shown once,
            and then the rest of each rollout.
        others: See `Judge`.

    Raises:
        ConfigurationError: An argument has a value that it cannot have.

    Concurrency: as `Judge`.
    """

    _rubric = single_score(
        "Judge how well each answer does what the conversation asks for.",
        "An answer that reaches the goal beats one that does not. Of two that reach it, the more direct one is better.",
    )
    _shows = "conversation"

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
            if self._shows == "conversation":
                context, works = _without_common_beginning(context, rollouts)
            texts = sorted(set(filter(None, works)))
            if len(works) < 2 or len(texts) < 2:
                return _without_asking(works)
            seed = "".join(texts)
            texts.sort(key=lambda text: hashlib.sha256(f"{seed}{text}".encode("utf-8", "surrogatepass")).digest())
            grades, explanation = self._grades(context, texts)
        except _NoVerdictError as error:
            return [error.result()] * len(rollouts)
        return [_judged(grades.get(work, 0) / TOP_GRADE, explanation=explanation) for work in works]


def _without_common_beginning(
    context: Sequence[Material], rollouts: Sequence[Rollout]
) -> tuple[list[Material], list[str]]:
    """Return the messages with which all rollouts begin as material, and the rest of each rollout."""
    seen = [_seen(rollout.messages) for rollout in rollouts if rollout.turns]
    common = list(takewhile(lambda column: column.count(column[0]) == len(column), zip(*seen, strict=False)))
    length = max(min([len(common), *(len(messages) - 1 for messages in seen)]), 0)  # each rollout keeps a rest
    beginning = [column[0] for column in common[:length]]
    rests = [_as_text(_seen(rollout.messages)[length:]) if rollout.turns else "" for rollout in rollouts]
    if all(message.get("role") == "user" for message in beginning):
        return list(context), rests  # the question is this beginning
    others = [piece for piece in context if piece.title != "question"]  # the beginning has it
    return [*others, Material("shared beginning", _as_text(beginning))], rests


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
    return [message for message in messages if message.get("role") not in ("system", "developer")]


def _as_text(messages: Sequence[JSON]) -> str:
    if len(messages) == 1 and messages[0].keys() <= {"role", "content"} and messages[0]["role"] in ASSISTANT_ROLES:
        return _visible(message_text(messages[0]))
    return json.dumps(thaw(messages), ensure_ascii=False, indent=1)


# --- results ---


def _judged(reward: float | None, components: tuple[Component, ...] = (), explanation: str = "") -> JudgeResult:
    return JudgeResult(reward, (*components, Component(FAILED, 0.0, counts=False)), explanation=explanation)


def _shares_beaten(grades: Sequence[int]) -> list[float]:
    """Return for each grade the share of the others that it beats. Ties count half."""
    return [
        (sum(grade > other for other in grades) + (grades.count(grade) - 1) / 2) / (len(grades) - 1) for grade in grades
    ]


def _without_asking(works: Sequence[str]) -> list[JudgeResult]:
    """Return the results of a group in which no two different answers can be compared."""
    if len(works) < 2:
        return [_NoVerdictError(Failure.NO_COMPARISON, "a group of one has no order").result()] * len(works)
    return [_judged(share) for share in _shares_beaten([0 if work else -1 for work in works])]
