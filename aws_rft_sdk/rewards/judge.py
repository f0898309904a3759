"""Judges: rewards by a model that grades one answer, compares two, or ranks the rollouts of a prompt."""

from __future__ import annotations

import json
import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, TypeVar, get_args

from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk._checks import check_number, check_seconds, check_type
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError, RewardError
from aws_rft_sdk.rewards.judge_models import (
    Failure,
    JudgeCost,
    JudgeModel,
    NoVerdictError,
    check_picklable,
    make_judge_model,
)
from aws_rft_sdk.rewards.judge_rubrics import (
    EXPLANATION,
    FAILED,
    TOP_GRADE,
    Material,
    Question,
    Rubric,
    conversation_text,
    question_of,
    rank_question,
    reference_text,
    score_question,
    single_score,
    visible_text,
)
from aws_rft_sdk.rewards.judge_verdicts import VerdictCache, parse_verdict
from aws_rft_sdk.rewards.rollout import Component, RewardResult, Rollout

logger = logging.getLogger(__name__)

Shows = Literal["answer", "conversation"]
J = TypeVar("J", bound="_Judging")

_MOST_ANSWERS = 2
"""Answers of the model to one question: the first, and one after a correction."""
_LONGEST_QUOTE = 4_000


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


@dataclass
class _Here:
    """What a judge has in one process."""

    model: JudgeModel | None = None
    counts: Counter[str] = field(default_factory=Counter)
    lock: threading.RLock = field(default_factory=threading.RLock)


@dataclass(eq=False, repr=False)
class _Judging:
    """What all judges have in common: what they see, how they ask, what they count. `Judge` describes the fields."""

    model: Any
    rubric: Rubric
    _: KW_ONLY
    model_id: str | None = None
    params: Mapping[str, JSON] | None = None
    shows: Shows = "answer"
    cache: str | os.PathLike[str] | VerdictCache | None = None
    timeout_seconds: float = 60.0
    max_attempts: int = 4
    backoff: Backoff = Backoff()
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        check_type("rubric", self.rubric, Rubric, "a Rubric, such as single_score(task, criterion)")
        if self.shows not in get_args(Shows):
            raise ConfigurationError(f"shows must be one of {', '.join(get_args(Shows))}, not {self.shows!r}")
        check_number("max_attempts", self.max_attempts, low=1, whole=True)
        check_seconds("timeout_seconds", self.timeout_seconds)
        self._verdicts = VerdictCache(self.cache) if isinstance(self.cache, str | os.PathLike) else self.cache
        self._in_process: dict[int, _Here] = {}
        if not callable(self.model) or isinstance(self.model, type):
            self._make_model()  # so that a mistake is found now

    def __getstate__(self) -> dict[str, Any]:
        check_picklable(self.model)
        return {**self.__dict__, "_in_process": {}}

    @property
    def cost(self) -> JudgeCost:
        """What was used so far in this process."""
        with (here := self._here()).lock:
            return JudgeCost(**here.counts)

    def close(self) -> None:
        """Close a client that a function made. Other clients are the caller's. The judge can be used again."""
        with (here := self._here()).lock:
            model, here.model = here.model, None
        if model is not None:
            model.close()

    def __enter__(self: J) -> J:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _here(self) -> _Here:
        return self._in_process.setdefault(os.getpid(), _Here())

    def _make_model(self) -> JudgeModel:
        with (here := self._here()).lock:
            if here.model is None:
                is_forked = len(self._in_process) > 1
                here.model = make_judge_model(self.model, self.model_id, self.params or {}, is_forked)
            return here.model

    def _count(self, **more: int) -> None:
        with (here := self._here()).lock:
            here.counts.update(more)

    def _ask(self, question: Question) -> dict[str, JSON]:
        """Return the verdict, from the cache or from the model. Raises `NoVerdictError` if there is none."""
        model = self._make_model()
        if self._verdicts is None:
            return self._converse(model, question)
        key = question.digest(model.identity)
        if (kept := self._verdicts.get(key)) is not None:
            try:
                verdict = parse_verdict(kept, question.schema)
                self._count(cache_hits=1)
                return verdict
            except ValueError:
                self._verdicts.discard(key, kept)
        return parse_verdict(self._verdicts.put(key, json.dumps(self._converse(model, question))), question.schema)

    def _converse(self, model: JudgeModel, question: Question) -> dict[str, JSON]:
        """Call the model until there is a verdict, and correct it once."""
        turns = [("user", question.user)]
        forced, attempts, answers = model.forces_form, 0, 0
        while True:
            self._count(calls=1, retries=int(attempts > 0 or forced != model.forces_form))
            try:
                reply = model.ask(question.system, turns, question.schema if forced else None, self.timeout_seconds)
                model.forces_form = forced
                self._count(input_tokens=reply.input_tokens, output_tokens=reply.output_tokens)
                if reply.refusal:
                    raise NoVerdictError(Failure.REFUSED, reply.refusal)
                return parse_verdict(reply.text, question.schema)
            except (ValueError, RecursionError) as problem:
                failed = NoVerdictError(Failure.MALFORMED, f"{problem}"[:300], was_sent=True)
                said = reply.text[:_LONGEST_QUOTE].strip() or "(nothing)"
                turns = [turns[0], ("assistant", said), ("user", question.correction(failed.detail))]
            except NoVerdictError as error:
                failed = error
            answers += failed.was_sent
            if forced and failed.blames_form and answers < _MOST_ANSWERS:
                forced = False  # many models know no forced tool, or cannot think with one
                continue
            attempts += 1
            is_last = attempts == self.max_attempts or answers == _MOST_ANSWERS
            if is_last or failed.failure in (Failure.REFUSED, Failure.ERROR):
                self._count(failures=1)
                # Only the class of the error: services quote the prompt, and headers, in what they answer.
                kind, why = type(failed.__cause__ or failed).__name__, failed.failure.value
                logger.warning("attempts=<%d>, failure=<%s>, error=<%s> | no verdict", attempts, why, kind)
                raise failed
            if failed.failure is not Failure.MALFORMED:
                self.sleep(self.backoff.delay(attempts, failed.retry_after))

    def _work(self, rollout: Rollout) -> str:
        """Return what is judged, "" if the policy said nothing."""
        if self.shows == "answer":
            return visible_text(rollout.answer)
        return conversation_text(rollout.messages[len(rollout.before_turns) :]) if rollout.turns else ""

    def _context(self, rollout: Rollout) -> list[Material]:
        """Return the question and the reference. Raises `NoVerdictError` if the rubric needs a reference."""
        reference = reference_text(rollout.ground_truth)
        if self.rubric.needs_reference and not reference:
            raise NoVerdictError(Failure.NO_REFERENCE, "the rubric needs a ground truth, and the rollout has none")
        return [*question_of(rollout), *([Material("reference", reference)] if reference else [])]

    def _group(self, rollouts: Sequence[Rollout]) -> tuple[list[Material], list[str]]:
        """Return what is common to the rollouts of a prompt, and what is judged of each."""
        contexts = [self._context(rollout) for rollout in rollouts]
        if any(context != contexts[0] for context in contexts):
            raise RewardError("only rollouts of one prompt can be compared; these differ in question or ground truth")
        if len(rollouts) == 1:
            raise NoVerdictError(Failure.NO_COMPARISON, "a group of one has no order")
        return contexts[0] if contexts else [], [self._work(rollout) for rollout in rollouts]

    def _grades(self, context: Sequence[Material], texts: Sequence[str]) -> tuple[dict[str, int], str]:
        """Return a grade for each text, relative to the others, and the judge's explanation."""
        if len(texts) < 2:
            return dict.fromkeys(texts, TOP_GRADE), ""
        verdict = self._ask(rank_question(self.rubric, context, texts))
        return {text: verdict[f"answer_{n}"] for n, text in enumerate(texts, 1)}, verdict[EXPLANATION]


class Judge(_Judging):
    """A reward by a model that judges. Grades one answer when it is called; also compares two and ranks several.

    A judge waits for its model: in asynchronous code call it with `asyncio.to_thread`. Its calls are not turns of the
    policy. A judge that fails gives no reward, and says why in `failure` and in the metric `judge_failed`.

    For one verdict the model answers at most twice, the second time to a correction. A late request counts as an
    answer. Other failures (429, 5xx, no connection) are repeated.

    Args:
        model: A Strands model, an `openai.OpenAI` or `AsyncOpenAI` client, a boto3 client for `bedrock-runtime`, or a
            function without arguments that makes one when it is first needed.
        rubric: What to judge by: `PANDALM`, `single_score(...)` or a `Rubric`.
        model_id: Which model a client asks for. Clients need it.
        params: More arguments for the call of a client, for example `{"temperature": 0}`.
        shows: What the judge sees beside the question, never with thoughts: the last "answer", or the "conversation".
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
        """Return a reward from 0 to 1, with what each criterion and deduction added to it as components.

        A rollout in which the policy said nothing gets 0, and the model is not called.
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
        position comes out at 0.5. Raises `RewardError` if the rollouts have different questions.
        """
        try:
            return self._compare(*self._group([first, second]))
        except NoVerdictError as error:
            return Comparison(None, failure=error.failure, detail=error.detail)

    def against_reference(self, rollout: Rollout) -> JudgeResult:
        """Compare the rollout's last answer with its ground truth, in both orders. A reward of its own.

        The reward is 1.0 if the answer is better, 0.5 for neither, 0.0 if the reference is better, or a mean of these.
        The metric `judge_agrees` is 0.0 if the judge went by position.
        """
        try:
            if not (reference := reference_text(rollout.ground_truth)):
                raise NoVerdictError(Failure.NO_COMPARISON, "the rollout has no ground truth to compare with")
            comparison = self._compare(question_of(rollout), [visible_text(rollout.answer), reference])
        except NoVerdictError as error:
            return _failed(error)
        agrees = Component("judge_agrees", float(bool(comparison.agrees)), counts=False)
        return _judged(comparison.preference, (agrees,), "\n\n".join(comparison.explanations))

    def rank(self, rollouts: Sequence[Rollout]) -> list[JudgeResult]:
        """Score the rollouts of one prompt relative to each other, in two calls with opposite orders.

        Returns one result for each rollout, in their order. The reward is the share of the others that it beats, ties
        counting half: 1.0 is the best, 0.0 the worst. Equal answers get equal rewards, those without an answer stand
        below all others, and a judge that goes by position gives 0.5 to all. A group of one, and a group of which one
        order could not be judged, has no rewards. Raises `RewardError` if the rollouts have different questions.
        """
        try:
            ranks, said = self._ranks(*self._group(rollouts))
        except NoVerdictError as error:
            return [_failed(error)] * len(rollouts)
        return [_judged(round(sum(shares) / 2, 12), explanation="\n\n".join(said)) for shares in ranks]

    def _compare(self, context: Sequence[Material], works: Sequence[str]) -> Comparison:
        (shares, _), said = self._ranks(context, works)
        return Comparison(sum(shares) / 2, shares[0] == shares[1], tuple(said))

    def _ranks(self, context: Sequence[Material], works: Sequence[str]) -> tuple[list[tuple[float, ...]], list[str]]:
        """Return for each work the share of the others that it beats, in both orders, and the judge's explanations."""
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
    the conversation. `shows` is "conversation": the question once, and then the rest of each rollout.
    """

    rubric: Rubric = _RELATIVE
    _: KW_ONLY
    shows: Shows = "conversation"

    def score_group(self, rollouts: Sequence[Rollout]) -> list[JudgeResult]:
        """Grade the rollouts of one prompt relative to each other, in one call.

        Returns one result for each rollout, in their order. The reward is the grade from 0 to 1, and 0 if the policy
        said nothing. Without two different rollouts the model is not called: equal rollouts get 0.5, the only one that
        is not silent 1. A group of one, and a group without a verdict, has no rewards. Raises `RewardError` if the
        rollouts have different questions or ground truths.
        """
        try:
            context, works = self._group(rollouts)
            if len(set(works)) < 2:
                return [_judged(0.5)] * len(works)
            texts = sorted(set(filter(None, works)))
            random.Random("".join(texts).encode("utf-8", "surrogatepass")).shuffle(texts)
            grades, explanation = self._grades(context, texts)
        except NoVerdictError as error:
            return [_failed(error)] * len(rollouts)
        return [_judged(grades.get(work, 0) / TOP_GRADE, explanation=explanation) for work in works]


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
