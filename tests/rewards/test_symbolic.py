"""Math: what is equal to the ground truth and what is not, by kind. Both columns are as policies and datasets write."""

import pickle
import threading
from decimal import Decimal
from fractions import Fraction

import pytest

from aws_rft_sdk.rewards import Math, MathVerify, Rollout
from aws_rft_sdk.rewards.extract import AfterMarker, Boxed, ToolArgument

pytest.importorskip("math_verify")
reward = Math(timeout_seconds=1.0)

RIGHT = {
    "numbers": [
        ("$72", "72"), ("A: 72", "72"), ("72.0", "72"), ("#### 72", "72"), ("0.5", "1/2"), ("1,234.5", "1234.5"),
        ("1 000", "1000"), (r"1\,000", "1000"), (r"\boxed{1{,}000}", "1,000"), ("1 1/2", "3/2"), ("1.5e-3", "0.0015"),
        (r"\boxed{5.}", "5"), (r"\boxed{.5}", "1/2"), (r"\boxed{2\frac12}", "5/2"), ("10**3", "10^3"), ("5!", "120"),
        (r"\boxed{\frac{1}{3}}", "0.333333333333"), ("minus 5", "-5"), ("5 €", "5"),
        (r"\boxed{0.1\overline{6}}", "1/6"),
    ],
    "signs of unicode": [
        ("½", r"\frac12"), ("2⅓", "7/3"), ("√2/2", r"\frac{1}{\sqrt 2}"), ("√(x+1)", r"\sqrt{x+1}"), ("x³", "x^3"),
        ("−5", "-5"), ("10⁻²", "0.01"), ("3·10²", "300"), ("2π", r"2\pi"), ("α+β", r"\beta+\alpha"), ("90°", "90"),  # noqa: RUF001
        ("x₁ = 1, x₂ = 2", "1,2"), ("(−∞, 2] ∪ [3, ∞)", r"(-\infty,2]\cup[3,\infty)"), ("∅", r"\emptyset"),  # noqa: RUF001
        ("±2", r"\{-2,2\}"), ("x ∈ [0,1]", "[0,1]"), ("∞", r"\infty"),
    ],
    "without LaTeX": [
        ("sqrt(2)", r"\sqrt2"), ("2pi", r"2\pi"), ("sin(x)", r"\sin x"), ("x**2 + 1", "x^2+1"), ("2*x", "2x"),
        ("x>=0", r"[0,\infty)"), ("(x+1)(x-1)", "x^2-1"), (r"\boxed{x^2+1}", "1+x^2"),
        ("The answer is **3 + 2x**.", "2x+3"),
    ],
    "sets and intervals": [
        (r"\boxed{1 \text{ and } 2}", "2,1"), ("1 and 2", r"\{1,2\}"), ("x = 1 or x = 2", r"\{1,2\}"),
        ("$x=1$ or $x=-1$", r"\pm 1"), (r"\boxed{1} and \boxed{2}", "1,2"), (r"\boxed{1}, \boxed{2}", "1,2"),
        (r"\boxed{1}\text{ or }\boxed{2}", "1,2"), ("The points are $(1,2)$ and $(3,4)$.", "(3,4),(1,2)"),
        (r"\boxed{x \ge 0}", r"[0,\infty)"), (r"\boxed{0 < x \le 1}", "(0,1]"), (r"\boxed{(5,\infty)}", "x > 5"),
        (r"\boxed{x<-1 \text{ or } x>1}", r"(-\infty,-1)\cup(1,\infty)"), (r"\boxed{x>0 \text{ and } x<2}", "(0,2)"),
        (r"\boxed{\frac{-1 \pm \sqrt{5}}{2}}", r"\frac{-1+\sqrt5}{2}, \frac{-1-\sqrt5}{2}"),
        (r"\boxed{\{x \mid x > 5\}}", r"(5,\infty)"), (r"\boxed{\varnothing}", r"\emptyset"),
    ],
    "units and names": [
        ("5 apples", "5"), ("5 km/h", "5"), ("5 cm²", "5"), (r"\boxed{5\ \text{cm}^2}", "5"), ("x = 5", "5"),
        (r"\boxed{\textbf{(B) }5}", "5"), (r"\boxed{5 \text{ g}}", r"5 \mathrm{g}"), (r"\boxed{2+3=5}", "5"),
        (r"\boxed{\text{5 apples}}", "5"), (r"\boxed{\text{Area} = 25\pi \text{ cm}^2}", r"25\pi"),
        (r"\boxed{5\mathrm{~cm}}", "5 cm"), (r"\boxed{5}", "x=5"), ("f(x) = x^2 + 1", "x^2+1"),
        (r"\boxed{10\%}", "10"), ("10 %", r"10\%"), ("10 percent", "10%"), (r"\boxed{\cos 60^\circ}", r"\frac12"),
        (r"\boxed{e^{i\pi}}", "-1"), (r"\boxed{(1+i)^2}", "2i"),
    ],
    "prose": [
        ("**5**", "5"), ("x = **5**", "5"), ("So the area is 25π.", r"25\pi"), ("$x$ equals 5", "5"), ("答案是 5", "5"),
        ("The answer is 5 because 2+3 = 5", "5"), (r"The answer is $\sqrt{2}$, which is about 1.414.", r"\sqrt2"),
        ("Thus\n\\[\nx = \\frac{3}{4}.\n\\]", "3/4"), (r"Since $x = 3$ and $y = 2$, $\boxed{5}$", "5"),
        (r"\[ x = \boxed{5} \]", "5"), (r"\boxed{5}" + " because of this and that" * 120, "5"),
        (r"\boxed{5}" + "\n\nCheck: $2 \\cdot 5 = 10$.", "5"), (r"\boxed{4}. Wait, actually \boxed{5}", "5"),
        (r"\boxed{\frac12}. Actually, the answer is \frac{2}{2}.", "1"), (r"\boxed{\frac12} or \frac{2}{4}", "0.5"),
        (r"\boxed{\frac{1}{2}} = 0.5", "0.5"), (r"The answer is \boxed{\frac12} or 0.5.", "0.5"),
    ],
    "thoughts and tags": [
        (r"<think>maybe \boxed{3}</think>The answer is \boxed{4}.", "4"), (r"3?</think> \boxed{4}", "4"),
        ("<|begin_internal_thought|>3<|end_internal_thought|><|begin_of_solution|>x = 4<|end_of_solution|>", "4"),
        (r"\boxed{4}<|im_end|>", "4"), (r"<answer>\frac{1}{2}</answer>", "0.5"),
        (r"<answer>\boxed{5}</answer>", "5"),
    ],
    "words and letters": [
        (r"\boxed{\text{even}}", "even"), ("The answer is even.", r"\text{even}"), ("yes", "yes"),
        (r"\boxed{\text{No solution}}", "no solution"), (r"\boxed{\textbf{(B)}}", "B"), ("The answer is (C).", "C"),
        (r"\boxed{A}", r"\text{(A)}"), (r"\boxed{\text{no solution}}", r"\emptyset"),
        (r"\boxed{\emptyset}", "no solution"),
        (r"\boxed{\text{all real numbers}}", r"\mathbb{R}"), ("The answer is no real solutions.", r"\emptyset"),
    ],
    "matrices and tuples": [
        (r"\boxed{\begin{pmatrix}1 & 2\\3 & 4\end{pmatrix}}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}"),
        ("(x, y) = (1, 2)", r"\left(1,2\right)"), (r"\boxed{\left\langle 1,2\right\rangle}", "(1,2)"),
    ],
    "forms of the ground truth": [
        ("0.00001", 1e-05), ("0.5", Fraction(1, 2)), ("0.5", Decimal("0.50")), ("5", 5), ("5", {"answer": "5"}),
        ("5", ["4", "5"]), ("5", r"\boxed{5}"), ("5", "The answer is 5."), ("5", "2+3=5\n#### 5"),
        ("1/2", r"We get $\boxed{\frac{1}{2}}$."),
    ],
}  # fmt: skip
WRONG = {
    "hedges": [
        ("12 or 13", "13"), ("The answer is 12 or 13.", "12"), ("12 or maybe 13", "13"), ("$12$ or $13$", "12"),
        (r"\boxed{12 \text{ or } 13}", "13"), (r"\boxed{12}\text{ or }\boxed{13}", "13"), (r"\boxed{12} or 13", "12"),
        (r"12 or \boxed{13}", "13"), ("12 → 13", "13"), ("12 cats or 13 cats", "12"), (r"\boxed{\pm 2}", "2"),
        (r"\boxed{12 \text{ cats or } 13 \text{ cats}}", "12"), ("I'd guess 12, though it could be 13.", "13"),
        ("12, 13", "12"), ("12/13", "12"),
        ("#### \\frac{1}{2}\nor \\frac{2}{2}", "1/2"), (r"\boxed{\frac12}, or \dfrac{2}{2}", "1/2"),
        (r"\boxed{\frac12}. Actually, the answer is \frac{2}{2}.", "1/2"),
        ("A, B", "B"), ("even or odd", "even"), ("#### 12 or 13", "12"),
    ],
    "relations and intervals": [
        (r"\boxed{x \ne 5}", "5"), ("x ≠ 5", "5"), ("x is not equal to 5", "5"), (r"\boxed{x \geq 5}", "x > 5"),
        (r"\boxed{x>5}", "5"), (r"\boxed{(0,1)}", "[0,1]"), (r"\boxed{0<x\le1}", "[0,1]"), (r"\boxed{x<5}", "x>5"),
        (r"\boxed{x>0 \text{ or } x<2}", "(0,2)"),
    ],
    "order and number of values": [
        (r"\boxed{(2,1)}", "(1,2)"), (r"\boxed{(1,2,3)}", "(1,3,2)"), (r"\boxed{1}", "-2,1"), (r"\boxed{1,2,3}", "1,2"),
        (r"\boxed{(1,2),(3,4)}", "(2,1),(3,4)"), (r"\boxed{\{1\}}", r"\{1,2\}"),
        (r"\boxed{\begin{pmatrix}1\\2\end{pmatrix}}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    ],
    "no answer": [
        (r"\boxed{1", "12"), (r"\boxed{\frac{1}{2}", "1/2"), (r"\boxed{}", "5"), ("", "72"), ("I don't know", "5"),
        (r"<think>\boxed{5}</think>", "5"), (r"<think>\boxed{5}", "5"), (r"<think>\boxed{5}</think>\boxed{6}", "5"),
        (r"\boxed{12}. No.", "12"), (r"\boxed{12}. Wait, \boxed{13}", "12"), (r"~~\boxed{5}~~ \boxed{6}", "5"),
        ("5" * 3_000, "5"), ("The answer is not 5", "5"), ("((((5", "5"), (r"\frac{5}{0}", "5"),
    ],
    "other values": [
        (r"\boxed{10\%}", "0.1"), ("50 percent", "0.5"), (r"\boxed{0.1}", r"10\%"), ("0.333", "1/3"), ("x²", "2x"),
        (r"\boxed{3.14}", r"\pi"), ("√3", r"\sqrt2"), (r"\boxed{5}", 0.1), ("2", "2x+3"), ("#### 2x+3", "2"),
        ("negative 5", "5"), (r"\boxed{x=2\pm\sqrt3}", r"2+\sqrt3"), (r"\boxed{x \not= 5}", "5"),
        ("1", 1e-05), (r"\boxed{5i}", "5"), (r"\boxed{y=5}", "x=5"), (r"\boxed{-\infty}", r"\infty"),
        (r"\boxed{0}", r"\emptyset"), (r"\boxed{\text{odd}}", "even"), ("not even", "even"), ("6", ["5", "7"]),
        (r"\boxed{x^2+2}", "$1+x^2$"), (r"\boxed{2+2=5}", "5"), (r"\boxed{5=6}", "6"), (r"\boxed{(0,1)}", r"\{0,1\}"),
        (r"\boxed{\{0,1\}}", "(0,1)"), (r"\boxed{[0,1]}", r"\left\{0,1\right\}"),
        (r"\boxed{5 \text{ kg}}", r"5 \text{ g}"), (r"\boxed{\text{no solution}}", r"\mathbb{R}"),
    ],
    "expressions that take too long": [("9^9^9^9", "72"), (r"\boxed{10^{99999999}}", "72"), ("100000!", "72")],
}  # fmt: skip
UNUSABLE = [None, "", "   ", float("nan"), float("inf"), True, {}, [], [None]]


@pytest.mark.parametrize("kind", RIGHT)
def test_math_when_the_answer_is_right_then_one(kind):
    assert [case for case in RIGHT[kind] if reward.score(*case) != 1.0] == []


@pytest.mark.parametrize("kind", WRONG)
def test_math_when_the_answer_is_wrong_then_zero(kind):
    assert [case for case in WRONG[kind] if reward.score(*case) != 0.0] == []


def test_math_when_the_ground_truth_is_of_no_use_then_none():
    assert [truth for truth in UNUSABLE if reward.score("5", truth) is not None] == []


LENGTH = 100_000
SLOW = ["$a$" + " " * LENGTH + "x $b$", r"\boxed{1}" + " " * LENGTH + r"x\boxed{2}", "1" + "." * LENGTH + "2"]
SLOW += [
    part * (LENGTH // len(part))
    for part in (r"\[", r"\boxed{", "sqrt(", "$", "a b ", "1 or ", r"\text{", "x=", "not ", "½")
]


@pytest.mark.parametrize("text", SLOW, ids=range(len(SLOW)))
def test_math_when_a_text_is_made_to_be_slow_then_it_is_judged_all_the_same(text):
    assert reward.score(text, "5") == 0.0


def test_math_when_off_the_main_thread_then_the_same_scores():
    """The library's own time limit raises ValueError there."""
    scores = []
    right, wrong = RIGHT["prose"], [*WRONG["hedges"], *WRONG["expressions that take too long"]]
    thread = threading.Thread(target=lambda: scores.extend(reward.score(*case) for case in [*right, *wrong]))
    thread.start()
    thread.join()
    assert scores == [1.0] * len(right) + [0.0] * len(wrong)


def test_math_when_it_comes_after_an_extractor_then_only_that_place_counts():
    assert (Boxed() >> Math()).score(r"\boxed{x^2}, and the answer is x", "x^2") == 1.0
    assert (AfterMarker("RESULT:") >> Math()).score(r"\boxed{2}" + "\nRESULT: 2x", "2x") == 1.0
    assert (AfterMarker("RESULT:") >> Math()).score("2x", "2x") == 0.0
    call = {"function": {"name": "submit", "arguments": r'{"answer": "\\frac{1}{2}"}'}}
    rollout = Rollout(({"role": "assistant", "content": None, "tool_calls": [call]},), "0.5")
    assert (ToolArgument("submit", "answer") >> Math())(rollout) == 1.0


def test_math_when_named_as_before_then_the_same():
    assert MathVerify() == Math() == pickle.loads(pickle.dumps(Math()))
    assert hash(MathVerify()) == hash(Math())
