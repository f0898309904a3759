"""Judge: rewards by a model that grades, compares or ranks answers."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Literal, NamedTuple, get_args

from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk._checks import check_number, check_seconds
from aws_rft_sdk._frozen import JSON, freeze, thaw
from aws_rft_sdk.errors import ConfigurationError, RewardError
from aws_rft_sdk.rewards.judge_cache import VerdictCache
from aws_rft_sdk.rewards.judge_failures import CallFailedError, Failure
from aws_rft_sdk.rewards.judge_models import (
    JudgeModel,
    check_source,
    make_judge_model,
    picklable,
)
from aws_rft_sdk.rewards.judge_prompts import (
    Material,
    Question,
    compare_question,
    rank_question,
    score_question,
)
from aws_rft_sdk.rewards.judge_results import Comparison, JudgeCost, JudgeResult
from aws_rft_sdk.rewards.judge_rubrics import EXPLANATION, FAILED, FIRST, TIE, Rubric, parse_verdict
from aws_rft_sdk.rewards.rollout import ASSISTANT_ROLES, Component, Rollout, message_text

logger = logging.getLogger(__name__)

Shows = Literal["answer", "conversation"]

_REFERENCE_KEYS = ("answer", "reference_answer", "expectedAnswer", "expected_answer", "ground_truth", "text")


class _Answer(NamedTuple):
    """What became of a question: a verdict, or a failure and its detail."""

    verdict: Mapping[str, JSON] | None
    failure: Failure | None = None
    detail: str = ""


_NO_REFERENCE = _Answer(None, Failure.NO_REFERENCE, "the rubric needs a ground truth, and the rollout has none")


class Judge:
    """A reward by a model that judges. Grades one answer when called; also compares two and ranks a group.

    It makes inference calls, and waits for them: in asynchronous code use `await asyncio.to_thread(judge, rollout)`.
    The calls are no turns of the policy, also when it is called within a rollout. A judge that fails gives no reward
    rather than a middling one, and says why in `failure` and in the metric `judge_failed`.

    The text under judgement is fenced and escaped so that it cannot instruct the judge. It may still flatter or mislead
    it, as it may a person.

    Args:
        model: A Strands model, an `openai.OpenAI` or `AsyncOpenAI` client, or a function without arguments that makes
            one when it is first needed. An asynchronous client is used in a loop of the judge's own, and closed by
            `close`, so do not share it with other code.
        rubric: What to judge by: `PANDALM`, `single_score(...)` or a `Rubric`.
        model_id: Which model a client asks for; needed for OpenAI clients. For a Strands model it only tells models
            apart in the cache, if its configuration does not.
        params: More arguments for the call, for example `{"temperature": 0}`; OpenAI clients only.
        shows: What the judge sees of a rollout: the question and the last "answer", or the whole "conversation" with
            tool calls and results.
        cache: File to keep verdicts in, None for none. They are found again under the digest of everything that was
            sent, the model's id and its parameters, but not its address.
        timeout_seconds: Seconds for one attempt as a whole.
        max_attempts: Attempts for one verdict, at least 1. Repeated are timeouts, lost connections, 429, 5xx, replies
            that are no completion, and verdicts that break the schema.
        backoff: How long to wait in between. `Retry-After` counts, up to its cap.
        sleep: Waits a number of seconds.

    Raises:
        ConfigurationError: An argument has a value that it cannot have.

    Concurrency: safe from several threads, after a fork, and picklable. In another process it opens cache and
    connections anew, and counts its own cost. An OpenAI client with an HTTP client of your own cannot be pickled, and
    keeps its connections in a fork; pass a function.
    """

    def __init__(
        self,
        model: Any,
        rubric: Rubric,
        *,
        model_id: str | None = None,
        params: Mapping[str, JSON] | None = None,
        shows: Shows = "answer",
        cache: str | os.PathLike[str] | VerdictCache | None = None,
        timeout_seconds: float = 60.0,
        max_attempts: int = 4,
        backoff: Backoff = Backoff(),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not isinstance(rubric, Rubric):
            raise ConfigurationError(f"a judge goes by a Rubric, not {type(rubric).__name__}")
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
        self._cache = VerdictCache(cache) if cache is not None and not isinstance(cache, VerdictCache) else cache
        self._timeout_seconds = timeout_seconds
        self._max_attempts = max_attempts
        self._backoff = backoff
        self._sleep = sleep
        self._begin()
        if not callable(model):
            self._model()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._asked: JudgeModel | None = None
        self._cost = JudgeCost()
        self._process = os.getpid()  # last: other threads go by it

    def _begin_anew_after_a_fork(self) -> None:
        # Two processes on one connection would get each other's verdicts.
        if self._process != os.getpid():
            with contextlib.suppress(TypeError):  # of a client with an HTTP client of its own nothing more is known
                self._source = picklable(self._source)
            self._begin()

    def __getstate__(self) -> dict[str, Any]:
        own = ("_process", "_lock", "_asked", "_cost")
        state = {name: value for name, value in self.__dict__.items() if name not in own}
        return {**state, "_source": picklable(self._source)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    @property
    def cost(self) -> JudgeCost:
        """What was used so far in this process."""
        self._begin_anew_after_a_fork()
        with self._lock:
            return self._cost

    def close(self) -> None:
        """Close the cache, an asynchronous client, and a client that came from a function; others are the caller's.

        All but an asynchronous client that was given as such are opened anew when the judge is used again.
        """
        self._begin_anew_after_a_fork()
        with self._lock:
            asked, self._asked = self._asked, None
        if asked is not None:
            asked.close()
        if self._cache is not None:
            self._cache.close()

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # --- the three ways to judge -------------------------------------------------------------------------------------

    def __call__(self, rollout: Rollout) -> JudgeResult:
        """Grade the rollout by the rubric.

        Returns:
            A reward from 0 to 1, with what each criterion and deduction added to it as components. A rollout in which
            the model said nothing gets 0, and the judge is not asked.
        """
        if self._lacks_reference(rollout):
            return _failed(_NO_REFERENCE)
        work = self._work(rollout)
        if not work:
            return _judged(0.0, explanation="There is no answer.")
        answer = self._ask(score_question(self.rubric, [*self._context(rollout), Material("answer", work)]))
        if answer.verdict is None:
            return _failed(answer)
        reward, components = self.rubric.reward(answer.verdict)
        return _judged(reward, components, answer.verdict[EXPLANATION])

    def score(self, answer_text: str, ground_truth: JSON = None) -> float | None:
        """Return the grade of an answer by itself, None when it cannot be judged."""
        return self(Rollout.of_answer(answer_text, ground_truth)).reward

    def compare(self, first: Rollout, second: Rollout) -> Comparison:
        """Say which of two rollouts of one prompt is better. The judge is asked in both orders.

        Equal answers are a tie, and something beats nothing; the judge is not asked then. A judge that goes by
        position comes out at 0.5.

        Raises:
            RewardError: The rollouts have different questions.
        """
        works = self._works([first, second])
        if self._lacks_reference(first):
            return Comparison(None, failure=_NO_REFERENCE.failure, detail=_NO_REFERENCE.detail)
        return self._compare(self._context(first), *works)

    def against_reference(self, rollout: Rollout) -> JudgeResult:
        """Compare the rollout's last answer with its ground truth, in both orders. A reward of its own.

        Returns:
            1.0 if the answer is better, 0.5 for neither, 0.0 if the reference is better, or a mean of these; with the
            metric `judge_agrees`, 0.0 when the judge went by position.
        """
        reference = reference_text(rollout.ground_truth)
        if not reference:
            return _failed(_Answer(None, Failure.NO_COMPARISON, "the rollout has no ground truth to compare with"))
        answer = rollout.answer if rollout.answer.strip() else ""
        comparison = self._compare(_question_material(rollout), answer, reference)
        if comparison.preference is None:
            return _failed(_Answer(None, comparison.failure, comparison.detail))
        agrees = Component("judge_agrees", float(bool(comparison.agrees)), counts=False)
        return _judged(comparison.preference, (agrees,), "\n\n".join(comparison.explanations))

    def rank(self, rollouts: Sequence[Rollout]) -> list[JudgeResult]:
        """Score the rollouts of a group relative to each other. The judge is asked in both orders, in two calls.

        Args:
            rollouts: Rollouts of one prompt.

        Returns:
            One result for each rollout, in their order. The reward is the share of the others that it beats, ties
            counting half: 1.0 is the best, 0.0 the worst, and the mean of a group is 0.5. Equal answers get equal
            rewards, those without an answer stand below all others, and a judge that goes by position gives 0.5 to all.
            A group of one, and a group of which one order could not be judged, has no rewards.

        Raises:
            RewardError: The rollouts have different questions.
        """
        works = self._works(rollouts)
        if any(map(self._lacks_reference, rollouts)):
            return [_failed(_NO_REFERENCE)] * len(works)
        if len(works) < 2:
            return [_failed(_Answer(None, Failure.NO_COMPARISON, "a group of one has no order"))] * len(works)
        texts = sorted({work for work in works if work}, key=works.index)
        orders: list[dict[str, int]] = [{texts[0]: 0} if texts else {}]
        explanations: list[str] = []
        if len(texts) > 1:
            orders = []
            for ordered in (texts, texts[::-1]):
                answer = self._ask(rank_question(self.rubric, self._context(rollouts[0]), ordered))
                if answer.verdict is None:
                    return [_failed(answer)] * len(works)
                orders.append({text: answer.verdict[f"answer_{n}"] for n, text in enumerate(ordered, 1)})
                explanations.append(answer.verdict[EXPLANATION])
        shares = [_shares_beaten([order.get(work, -1) for work in works]) for order in orders]
        means = [round(sum(of_one) / len(of_one), 12) for of_one in zip(*shares, strict=True)]
        return [_judged(mean, explanation="\n\n".join(explanations)) for mean in means]

    def _compare(self, context: Sequence[Material], first: str, second: str) -> Comparison:
        if first == second or not first or not second:
            return Comparison(0.5 if first == second else float(bool(first)), agrees=True)
        preferences: list[float] = []
        explanations: list[str] = []
        for swapped in (False, True):
            texts = (second, first) if swapped else (first, second)
            answer = self._ask(compare_question(self.rubric, context, *texts))
            if answer.verdict is None:
                return Comparison(None, failure=answer.failure, detail=answer.detail)
            verdict = answer.verdict["verdict"]
            for_front = 0.5 if verdict == TIE else float(verdict == FIRST)
            preferences.append(1 - for_front if swapped else for_front)
            explanations.append(answer.verdict[EXPLANATION])
        return Comparison(sum(preferences) / 2, preferences[0] == preferences[1], tuple(explanations))

    # --- what the judge sees -----------------------------------------------------------------------------------------

    def _work(self, rollout: Rollout) -> str:
        """Return what is judged, "" when the model said nothing."""
        if self._shows == "answer":
            return rollout.answer if rollout.answer.strip() else ""
        messages = [thaw(message) for message in rollout.messages if message.get("role") not in ("system", "developer")]
        return json.dumps(messages, ensure_ascii=False, indent=1) if rollout.turns else ""

    def _lacks_reference(self, rollout: Rollout) -> bool:
        return self.rubric.needs_reference and not reference_text(rollout.ground_truth)

    def _context(self, rollout: Rollout) -> list[Material]:
        reference = reference_text(rollout.ground_truth)
        return [*_question_material(rollout), *([Material("reference", reference)] if reference else [])]

    def _works(self, rollouts: Sequence[Rollout]) -> list[str]:
        contexts = [self._context(rollout) for rollout in rollouts]
        if any(context != contexts[0] for context in contexts):
            raise RewardError("only rollouts of one prompt can be compared; these differ in question or ground truth")
        return [self._work(rollout) for rollout in rollouts]

    # --- asking ------------------------------------------------------------------------------------------------------

    def _ask(self, question: Question) -> _Answer:
        model = self._model()
        key = question.digest(model.identity)
        cached = self._cached(key, question)
        if cached is not None:
            self._count(cache_hits=1)
            return _Answer(cached)
        for attempt in range(1, self._max_attempts + 1):
            try:
                verdict = self._attempt(model, question, retry=attempt > 1)
            except CallFailedError as error:
                if not error.retry or attempt == self._max_attempts:
                    self._count(failures=1)
                    # Of the error its class alone: services quote the prompt, and headers, in what they answer.
                    kind, failure = type(error.__cause__ or error).__name__, error.failure.value
                    logger.warning("attempts=<%d>, failure=<%s>, error=<%s> | no verdict", attempt, failure, kind)
                    return _Answer(None, error.failure, error.detail)
                if error.failure is not Failure.MALFORMED:
                    self._sleep(self._backoff.delay(attempt, error.retry_after))
            else:
                return _Answer(self._keep(key, question, verdict))
        raise AssertionError("the last attempt has returned")

    def _attempt(self, model: JudgeModel, question: Question, *, retry: bool) -> dict[str, JSON]:
        self._count(calls=1, retries=int(retry))
        reply = model.ask(question, self._timeout_seconds)
        self._count(input_tokens=reply.input_tokens, output_tokens=reply.output_tokens)
        if reply.refusal:
            raise CallFailedError(Failure.REFUSED, reply.refusal)
        try:
            return parse_verdict(reply.text, question.schema)
        except (ValueError, RecursionError) as error:
            raise CallFailedError(Failure.MALFORMED, f"{error}"[:300], retry=True) from error

    def _model(self) -> JudgeModel:
        self._begin_anew_after_a_fork()
        with self._lock:
            if self._asked is None:
                self._asked = make_judge_model(self._source, self._model_id, self._params)
            return self._asked

    def _cached(self, key: str, question: Question) -> dict[str, JSON] | None:
        text = None if self._cache is None else self._cache.get(key)
        if self._cache is None or text is None:
            return None
        try:
            return parse_verdict(text, question.schema)
        except ValueError:
            self._cache.discard(key, text)
            return None

    def _keep(self, key: str, question: Question, verdict: dict[str, JSON]) -> dict[str, JSON]:
        """Return the verdict that counts: another process may have been faster, and the first one stays."""
        if self._cache is None:
            return verdict
        return parse_verdict(self._cache.put(key, json.dumps(verdict)), question.schema)

    def _count(self, **more: int) -> None:
        with self._lock:
            counts = {field.name: getattr(self._cost, field.name) for field in fields(self._cost)}
            self._cost = replace(self._cost, **{name: counts[name] + count for name, count in more.items()})


def reference_text(ground_truth: JSON) -> str | None:
    """Return a ground truth as a judge reads it, None without one.

    Of an object it is the first of `answer`, `reference_answer`, `expectedAnswer`, `expected_answer`, `ground_truth`
    and `text`, otherwise the object as a whole.
    """
    if isinstance(ground_truth, Mapping):
        ground_truth = next((ground_truth[key] for key in _REFERENCE_KEYS if key in ground_truth), ground_truth)
    if ground_truth is None or isinstance(ground_truth, str):
        return ground_truth
    return json.dumps(ground_truth, ensure_ascii=False)


def _question_material(rollout: Rollout) -> list[Material]:
    """Return what the user said before the first turn; the prompt cell, if it is text, where there are no messages."""
    asked = []
    for message in rollout.messages:
        if message.get("role") in ASSISTANT_ROLES:
            break
        if message.get("role") == "user":
            asked.append(message_text(message))
    text = "\n\n".join(asked) or (rollout.prompt if isinstance(rollout.prompt, str) else "")
    return [Material("question", text)] if text else []


def _shares_beaten(grades: Sequence[int]) -> list[float]:
    others = len(grades) - 1
    beaten = [sum(grade > other for other in grades) for grade in grades]
    tied = [grades.count(grade) - 1 for grade in grades]
    return [(b + t / 2) / others for b, t in zip(beaten, tied, strict=True)]


def _judged(reward: float, components: tuple[Component, ...] = (), explanation: str = "") -> JudgeResult:
    return JudgeResult(reward, (*components, Component(FAILED, 0.0, counts=False)), explanation=explanation)


def _failed(answer: _Answer) -> JudgeResult:
    failed = Component(FAILED, 1.0, counts=False)
    return JudgeResult(None, (failed,), failure=answer.failure or Failure.ERROR, detail=answer.detail)
