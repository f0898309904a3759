"""Rewards for the form of an answer, whatever it says."""

from __future__ import annotations

import re
from dataclasses import dataclass

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards._checks import check_names
from aws_rft_sdk.rewards._figures import read_number, reference_numbers
from aws_rft_sdk.rewards._visible import strip_thoughts, visible_text
from aws_rft_sdk.rewards.combine import WeightedSum
from aws_rft_sdk.rewards.numeric import ExactNumber
from aws_rft_sdk.rewards.rollout import TextReward


@dataclass(frozen=True)
class Format(TextReward):
    """1.0 when the whole answer has the form, else 0.0.

    Avoid nested repetition in the pattern: an answer made for it takes for ever to match. `Tags` is safe.

    Raises:
        ConfigurationError: The pattern is no regular expression.

    Example:
        >>> Format.tags("think", "answer").score("<think>2 + 2</think> <answer>4</answer>", None)
        1.0
    """

    pattern: str
    """A regular expression for the whole answer, spaces around it apart; a dot matches line breaks too."""

    def __post_init__(self) -> None:
        (pattern,) = check_names("pattern", (self.pattern,))
        try:
            re.compile(pattern, re.DOTALL)
        except re.error as error:
            raise ConfigurationError(f"pattern {self.pattern!r:.80} is no regular expression: {error}") from error

    @classmethod
    def tags(cls, *names: str) -> Tags:
        """Return the format that consists of these tags in order, each once and not empty."""
        return Tags(names)

    @staticmethod
    def final_answer(*, strict: bool = False) -> WeightedSum:
        r"""Return the pair of rewards of the GRPO recipe for GSM8K: 0.5 for the form, 1.0 for the number, 1.5 at most.

        With `strict`, they give the values of the published functions, mistakes included.

        Example:
            >>> Format.final_answer().score("15 - 30 = -15\n#### The final answer is -15", -15)
            1.5
        """
        correct: TextReward = PublishedFinalAnswer() if strict else ExactNumber()
        return WeightedSum({"correct": (correct, 1.0), "format": (FinalAnswerLine(strict=strict), 0.5)})

    def score(self, answer_text: str, ground_truth: JSON = None) -> float | None:
        """Return 1.0 or 0.0."""
        return float(re.fullmatch(self.pattern, answer_text.strip(), re.DOTALL) is not None)


@dataclass(frozen=True)
class Tags(TextReward):
    """1.0 if the answer is these tags in order, each once and not empty, with only spaces between them, else 0.0.

    A tag before the last one, a thought for example, may mention tags ("I use <answer> tags"), but holds no pair of
    tags with a second answer between. The last tag has no tag inside.

    Raises:
        ConfigurationError: There is no name, one is no word, or one occurs twice.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        names = check_names("names", self.names)
        object.__setattr__(self, "names", names)
        if not names or len(set(names)) < len(names) or not all(re.fullmatch(r"[\w-]+", name) for name in names):
            raise ConfigurationError(f"tags need different names made of letters, not {names!r}")

    def score(self, answer_text: str, ground_truth: JSON = None) -> float | None:
        """Return 1.0 or 0.0. Linear in the text: the tags are looked for one after the other."""
        rest = _END_OF_TURN.sub("", answer_text.strip())
        for name in self.names:
            inside, closed, after = rest.removeprefix(f"<{name}>").partition(f"</{name}>")
            if not rest.startswith(f"<{name}>") or not closed or not inside.strip() or self._smuggles(name, inside):
                return 0.0
            rest = after.lstrip()
        return float(not rest)

    def _smuggles(self, name: str, inside: str) -> bool:
        names = "|".join(self.names)
        if name == self.names[-1]:
            return re.search(rf"</?(?:{names})>", inside) is not None
        return re.search(rf"<({names})>(?:(?!</?\1>)\W)*\w(?:(?!</?\1>).)*</\1>", inside, re.DOTALL) is not None


_END_OF_TURN = re.compile(r"(?:<\|\w{1,40}\|>|</s>|<end_of_turn>|<eos>)\s*\Z")
_LINE = re.compile(r"^[ \t*]{0,9}#{4}[ \t]{0,9}the final answer is\b[ \t]{0,9}:?[ \t]*(.*)$", re.I | re.M)


@dataclass(frozen=True)
class FinalAnswerLine(TextReward):
    """1.0 if the last line of the answer, and no other, is "#### The final answer is N", N a number, else 0.0.

    An answer that goes on after that line, for example to a new "Question:", has another form. The published form
    asks for a line break, this phrase and a digit, anywhere. It refuses "-3", "$3" and ".3", and pays for 10:30.
    """

    strict: bool = False
    """Give the values of the published function, mistakes included."""

    def score(self, answer_text: str, ground_truth: JSON = None) -> float | None:
        """Return 1.0 or 0.0. The ground truth is not looked at."""
        if self.strict:
            return float(re.search(r"\n#### The final answer is [0-9]", answer_text) is not None)
        text = _END_OF_TURN.sub("", answer_text.rstrip()).rstrip()
        if "####" not in text:
            return 0.0
        visible = visible_text(text)
        before, _, last = visible.rpartition("\n")
        found = _LINE.match(last)
        # What does not end the text is followed by another turn or question.
        is_end = text.endswith(last) and visible == strip_thoughts(text)
        return float(found is not None and is_end and not _LINE.search(before) and read_number(found[1]) is not None)


@dataclass(frozen=True)
class PublishedFinalAnswer(TextReward):
    """The correctness reward of the published GRPO recipe, mistakes included, for comparing with its figures.

    It takes the first run of digits and commas after the first `####`, without its sign, and compares it with the
    ground truth, |a - b| < 0.001. A ground truth with a comma, and a negative answer, never earn it.
    """

    def score(self, answer_text: str, ground_truth: JSON) -> float | None:
        """Return 1.0 or 0.0; None when the ground truth gives no number at all."""
        if not reference_numbers(ground_truth):
            return None
        found = re.search(r"[0-9,]+(?:\.[0-9]+)?", answer_text.partition("####")[2])
        try:
            given = float(found[0].replace(",", "")) if found else None
            return float(given is not None and abs(given - float(ground_truth)) < 1e-3)
        except (TypeError, ValueError):
            return 0.0
