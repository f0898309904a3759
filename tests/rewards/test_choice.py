# ruff: noqa: E501, RUF001 - answers in many scripts
"""Which choice an answer names. In each table the right choice is B unless the row says otherwise."""

import pytest

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards import Choice, MultipleChoice, Rollout
from aws_rft_sdk.rewards.extract import AfterMarker, Boxed, ToolArgument
from tests.rewards.tables import cases

MARKED = cases(
    r"""
    Answer: B ¦ answer: b ¦ Answer: (B) ¦ Answer: [B] ¦ Answer: {B} ¦ Answer:B ¦ Answer - B ¦ Answer = B
    **Answer:** B ¦ **Answer: (B)** ¦ Answer: **B** ¦ Answer: `B` ¦ Answer: 'B' ¦ Answer: B. ¦ Answer:↵↵B ¦ #### B
    #### (b) ¦ #### Option B ¦ ANSWER: B ¦ <answer>B</answer> ¦ <answer>↵B. Paris↵</answer> ¦ \boxed{B}
    \boxed{\text{B}} ¦ \boxed{\textbf{(B)}} ¦ $\boxed{\mathrm{B}}$ ¦ \boxed{(B)} ¦ \boxed{b} ¦ \fbox{B}
    \boxed{\text{B. Paris}} ¦ The answer is $\boxed{B}$. ¦ \boxed{B: Paris} ¦ \[\boxed{B}\] ¦ Final answer: B
    ### Final Answer↵↵B ¦ The final answer is B ¦ The correct answer is: B ¦ THE ANSWER IS B.
    The answer should be B ¦ The answer must be (B). ¦ The answer will be B ¦ The right option is B
    The correct choice is B. ¦ The best option: B ¦ Answer: option B ¦ Answer: Choice (B) ¦ Answer: letter B
    The answer is clearly B. ¦ The answer is most likely B ¦ The answer is definitely (B)
    The answer is, of course, B ¦ The answer is undoubtedly B ¦ The answer is “B”. ¦ The answer is ‘B’ ¦ Answer: Ｂ
    Answer：Ｂ ¦ 答案：B ¦ 答案是 B。 ¦ 答案为B ¦ 故选B。 ¦ 正确答案是B ¦ 正确选项是（B） ¦ 我选择B ¦ 答えはBです ¦ 因此，答案应该是 B。 ¦ 正解：B
    The answer is Ⓑ ¦ Answer: B\u200b
    """
)
UNMARKED = cases(
    r"""
    B ¦ b ¦ (B) ¦ [B] ¦ B. ¦ B) ¦ **B** ¦ *B* ¦ `B` ¦ "B" ¦ $B$ ¦ Ｂ ¦ B↵ ¦ ↵↵ B ↵ ¦ B! ¦ > B ¦ B. Paris ¦ B: Paris
    (B) Paris ¦ B) a city ¦ B - Paris ¦ B, Paris ¦ **B.** Paris ¦ Option B ¦ option b ¦ Option B: Paris ¦ Choice B
    Letter B. ¦ B↵↵Because A is too small. ¦ B↵It is the capital. ¦ Clearly B. ¦ Probably B ¦ Definitely (B).
    I think B ¦ I believe it's B. ¦ B since A and C contradict the text ¦ B, I think ¦ I choose B. ¦ I pick B
    I'd go with B ¦ I would go with (B). ¦ I select option B ¦ I'd say B. ¦ I'll say B ¦ My choice is B
    My final answer is B ¦ My final choice: **B** ¦ My pick: B ¦ So it's B. ¦ It's B ¦ It is (B). ¦ That is B
    It must be B. ¦ It has to be B ¦ So, B. ¦ Therefore (B). ¦ Thus, option B is correct. ¦ Hence **B**.
    B is correct. ¦ B is the answer ¦ B is the correct answer because it fits ¦ Option B is right. ¦ (B) is correct
    Statement B is the only correct one. ¦ B seems right. ¦ The correct statement is B ¦ The right letter is B.
    The best alternative is B. ¦ The correct option, I believe, is hard to find. I choose B. ¦ Let me think.↵↵B
    A is too small and C too big.↵That leaves B. ¦ Paris is the capital of France.↵↵(B) ¦ Selected option: B ¦ B是正确的
    Ans. B ¦ Ans B ¦ The winner is B. ¦ The winning option is B ¦ The statement that is true is B. ¦ What is true is B.
    The answer's B. ¦ Looks like B ¦ B it is. ¦ The right answer among the options is B. ¦ The correct answer, I think, is B.
    The option that fits is B. ¦ The one I choose is (B). ¦ 1. B ¦ 1) B ¦ 12. B↵↵It fits. ¦ <B> ¦ <b>B</b>
    Bです ¦ Choice: B ¦ Conclusion: B ¦ A. Rome↵B. Paris↵C. Oslo↵↵B
    """
)
EXPLAINED = cases(
    r"""
    B (not C) ¦ B, not C ¦ B and not C ¦ B rather than C ¦ B instead of A ¦ B, because C is wrong ¦ B. Vitamin C
    B (Hepatitis A) ¦ B (both A and C) ¦ B. Both A and C are correct. ¦ B: A and C are both true. ¦ B. A and C
    B) A and C ¦ (B) A and C only ¦ B. Neither A nor C ¦ B (A, C and D are incorrect) ¦ B. A and C are wrong.
    B. A is wrong. ¦ B, C is wrong ¦ B. I think so ¦ B (a city) ¦ B because (A) is too small ¦ B. Either A or C
    B since it is bigger than A or C ¦ B↵↵A is wrong because it is small.↵C is wrong too. ¦ B over C
    B.↵Hope it helps! ¦ B. A, C and D are all true ¦ B↵↵C is a city in Norway. ¦ B, as A contradicts C
    B if I recall correctly ¦ B. All of the above ¦ B: A good question ¦ B↵I am sure that this is correct.
    B. Compared to A it is better.
    """
)
CORRECTED = cases(
    r"""
    The answer is A. Wait, no, it is B. ¦ Answer: A↵↵Actually, B. ¦ #### A↵Correction: B ¦ A? No, B. ¦ A. Sorry, B
    The answer is A... wait, B ¦ Answer: ~~A~~ B ¦ Answer: ~~C~~ **B** ¦ Answer: <del>A</del> B
    The answer is not A but B. ¦ It is not A, it is B. ¦ The answer is A.↵↵Let me check again.↵↵The answer is B.
    #### A↵↵#### B ¦ A or C? No. I choose B. ¦ A is tempting, but B is right. ¦ \boxed{A}. Scratch that: \boxed{B}
    <answer>A</answer>↵Actually <answer>B</answer> ¦ Not A, so B is the answer ¦ It could be A, but the answer is B
    <think>The answer is A</think>B ¦ A</think>↵B ¦ A looks right, but B is correct↵I am sure.
    """
)

AS_MODELS_WRITE = cases(
    r"""
    To determine the capital, consider each option.↵↵A. Rome is in Italy.↵B. Paris is the capital of France.↵C. Oslo is in Norway.↵↵Therefore, the correct answer is **B. Paris**.
    **B. Paris**↵↵Explanation: Paris is the capital of France, while A and C are not.
    The correct answer is (B) Paris.↵↵A) Rome is wrong.↵C) Oslo is wrong.
    Let's think step by step. A is false. C is false. So the answer is B. ¦ The answer is: B) Paris
    **Final Answer:** **B** ¦ ### Answer: B ¦ Answer: B) Both A and C
    Answer: B, because A or C would be too small. ¦ Answer: B (A or C would be too small) ¦ Answer: B: either A or C
    I'm going with B. ¦ My answer would be B. ¦ I am confident that the answer is B.
    Based on the text, B is the correct choice. ¦ Based on the passage, the answer is option (B).
    The most appropriate answer is B. ¦ B is the best answer. ¦ B would be the right choice.
    The correct option would be B. ¦ Option (B) is the correct answer.
    I believe the correct answer to this question is B. ¦ The answer to the question is B.
    Hence, option B is correct. ¦ Therefore, B is the correct answer. ¦ Thus the answer is $\mathbf{B}$.
    $$\boxed{\text{B}}$$ ¦ The answer is \( \boxed{B} \). ¦ The final answer is: $\boxed{B}$. I hope it is correct.
    <think>A? C? hmm</think>↵↵**B** ¦ <think>A or C</think><answer>B</answer>
    B↵↵Explanation: A is incorrect because ... ¦ B)↵Paris is the capital. ¦ (B) Paris is the capital of France.
    ANSWER: (B) ¦ answer is b ¦ the answer is (b). ¦ The answer is b because it is small.
    The correct answer is B - Paris. ¦ The correct answer is B – Paris. ¦ The correct answer is B — Paris, not C.
    Correct answer: B ¦ Correct Option: B ¦ Right answer: B. ¦ Choose B. ¦ Pick B. ¦ Go with B. ¦ I'd choose (B).
    I'd pick option B. ¦ I will go with option B. ¦ We choose B. ¦ I think it's B. ¦ I think the answer is B.
    I'm pretty sure it's B. ¦ It's definitely B. ¦ It has to be (B). ¦ It should be B. ¦ That would be B.
    Surely B. ¦ Obviously B. ¦ Certainly, B. ¦ Answer is B ¦ Ans: B ¦ Solution: B ¦ Response: B ¦ Result: B
    Output: B ¦ Selection: B ¦ Verdict: B ¦ The solution is B. ¦ B, obviously. ¦ B, of course. ¦ B, I believe.
    B for sure. ¦ B without a doubt. ¦ B is my final answer. ¦ Only B is correct. ¦ Only statement B is true.
    Statement B is true. ¦ The true statement is B. ¦ The correct one is B. ¦ 答案:B ¦ 答案： (B) ¦ 答案是B。 ¦ 答案是：B
    正确答案：B ¦ 所以答案是B ¦ 所以选B。 ¦ 选B ¦ 选择B。 ¦ 应选B。 ¦ 我认为是B ¦ B。 ¦ 答：B ¦ 本题答案为 B。 ¦ 正确的选项是B ¦ 答えはBです。 ¦ 正解はBです ¦ 答え：B
    정답: B ¦ Ответ: B ¦ Antwort: B ¦ （B） ¦ 【B】 ¦ “B” ¦ Answer: „B“ ¦ The answer is “(B)”. ¦ B ✅ ¦ ✅ B ¦ 👉 B ¦ → B
    => B ¦ - B ¦ * B ¦ A: B ¦ The answer is A. Oops, I meant B. ¦ The answer is A. Correction: B.
    I first thought A, but the answer is B. ¦ Initially A seems right, but B is correct.
    While A is tempting, the correct answer is B. ¦ A is wrong, C is wrong, so B. ¦ Not A, not C, so it's B.
    We can eliminate A and C. That leaves B. ¦ Eliminating A, C and D leaves B. ¦ The answer cannot be A or C, so B.
    It's either A or B. On reflection, the answer is B. ¦ \boxed{\text{(B) Paris}} ¦ \boxed{B\text{ (Paris)}}
    \boxed{B) Paris} ¦ \boxed{\mathrm{B.}} ¦ \boxed{ B } ¦ \boxed{Option B} ¦ \boxed{\textbf{Option B}}
    \boxed{\rm B} ¦ <answer>Option B</answer> ¦ <answer>(B)</answer>. ¦ <answer> B. Paris, A is wrong </answer>
    #### B. Paris ¦ #### Answer: B ¦ ####B ¦ Answer: __B__ ¦ Answer: ***B*** ¦ Answer: <b>B</b>
    The answer appears to be B. ¦ The answer can only be B. ¦ The answer, then, is B. ¦ Only B fits. ¦ __B__
    The answer is B (A is too small). ¦ ```json↵{"answer": "B"}↵``` ¦ Правильный ответ: B ¦ 정답은 B입니다
    La respuesta correcta es B. ¦ La bonne réponse est B. ¦ Die richtige Antwort ist B. ¦ A resposta é B
    Die Antwort lautet B. ¦ La bonne réponse est donc B. ¦ La opción correcta es la B. ¦ Only B works, C is too big.
    La risposta corretta è B. ¦ Réponse : B ¦ Die Antwort ist B, weil es passt.
    Answer: B<|im_end|> ¦ Answer: B</s> ¦ ```↵B↵``` ¦ Answer:↵```↵B↵```
    """
)


@pytest.mark.parametrize(
    "answer", [*MARKED, *AS_MODELS_WRITE, *UNMARKED, *CORRECTED, *(f"Answer: {text}" for text in EXPLAINED)]
)
def test_choice_when_one_is_named_then_it_pays(answer):
    assert Choice().score(answer, "B") == 1.0
    assert Choice().score(answer, "A") == Choice().score(answer, "C") == 0.0


HEDGES = cases(
    r"""
    B and C ¦ B or C ¦ B, C ¦ B; C ¦ B/C ¦ B / C ¦ B | C ¦ B & C ¦ B + C ¦ B+C ¦ B C ¦ BC ¦ B->C ¦ B → C ¦ B. C.
    B. C. A. ¦ (B) or (C) ¦ (B), (C) ¦ (B) (C) ¦ B (or C) ¦ B (maybe C) ¦ B (C) ¦ B, or maybe C ¦ b or c
    B or possibly C ¦ B, perhaps also C ¦ B and also C ¦ either B or C ¦ Either B or C ¦ B and/or C ¦ B, if not C
    B↵or C ¦ B↵C ¦ B.↵Or C. ¦ B. Paris or C. Oslo ¦ option B or option C ¦ B, and C ¦ B, but maybe C
    B as well as C ¦ B. It could also be C. ¦ B, it fits, or C ¦ B if x is even, otherwise C
    B if we ignore C; otherwise C ¦ B unless C holds ¦ B if x else C ¦ C or B ¦ C, B ¦ C and B
    B and C are both right ¦ B, C and A ¦ BCA ¦ B through C ¦ B-C ¦ B、C ¦ B或C ¦ B和C ¦ A. Rome B. Paris C. Oslo
    A) Rome B) Paris C) Oslo D) Bern ¦ A. Rome↵B. Paris↵C. Oslo ¦ ↵A. Rome↵B. Paris↵C. Oslo↵D. Bern ¦ A B C D
    B. one, C. two ¦ B) one; C) two ¦ B. one and C. two ¦ B, i.e. C ¦ B (i.e., C) ¦ B, e.g. C ¦ 1. B↵2. C
    A, B, C, D ¦ (A) (B) (C) (D) ¦ A↵B↵C↵D ¦ all of A, B and C
    """
)


@pytest.mark.parametrize("hedge", HEDGES)
def test_choice_when_several_are_named_then_it_pays_nothing(hedge):
    for marker in ("", "Answer: ", "#### ", "The answer is "):
        for right in "ABCD":
            assert Choice().score(marker + hedge, right) == 0.0, (marker, right)


BOXES = cases(
    r"""
    \boxed{B} or \boxed{C} ¦ \boxed{B}\text{ or }\boxed{C} ¦ \boxed{B}, \boxed{C} ¦ \boxed{B} \boxed{C}
    $\boxed{B}$ or $\boxed{C}$ ¦ \boxed{B, C} ¦ \boxed{B \text{ or } C} ¦ \boxed{BC} ¦ \boxed{B} or C
    \boxed{B}/\boxed{C} ¦ <answer>B</answer><answer>C</answer> ¦ <answer>B</answer> or <answer>C</answer>
    """
)
OTHERS = cases(
    r"""
    (empty) ¦ (space) ¦ ? ¦ Banana ¦ Because ¦ A good question. ¦ A man walks ¦ It is not B. ¦ The answer is not B
    Not B ¦ The answer is C ¦ C ¦ I think so ¦ Paris ¦ None of them ¦ The answer is anything but B ¦ B is wrong.
    B?? No. ¦ Which is it?↵A. Rome↵B. Paris↵C. Oslo ¦ A. Rome↵B. Paris ¦ B is incorrect ¦ I would not choose B.
    E = mc^2 ¦ <think>The answer is B</think>↵The answer is C ¦ <think>The answer is B ¦ Answer: B. No, C.
    Answer: B↵Actually, C ¦ The answer is B is what many would say, but C is right. ¦ Answer: B. That is wrong.
    #### B↵↵Wait, C. ¦ C↵↵B is wrong
    <|begin_internal_thought|>It's B.<|end_internal_thought|><|begin_of_solution|>\boxed{C}<|end_of_solution|>
    #### C↵↵Question: another one↵#### B ¦ The answer is C.<|im_end|>↵<|im_start|>user↵B ¦ B vitamins are good
    The statement that is false is B. ¦ The option that is not right is B. ¦ Answer with the letter of the right option. ¦ Is it B? ¦ 答案不是B ¦ Bee ¦ B- ¦ The B option has a flaw
    """
)

AS_MODELS_HEDGE = cases(
    r"""
    B or A ¦ The answer is B or A ¦ It's B or C. ¦ I choose B or C. ¦ I choose between B and C. ¦ I'd go with B or C
    Both B and C are correct. ¦ B and C are correct ¦ The answers are B and C. ¦ Options B and C ¦ B & C are right
    The answer could be B or C ¦ The answer is B (or possibly C). ¦ The answer is B/C ¦ B, C, or D
    It might be B, it might be C. ¦ B? C? ¦ B? Or C? ¦ B or C? I am not sure. ¦ I cannot decide between B and C
    Answer: A/B/C/D ¦ Answer: A|B|C|D ¦ Answer: A B C D ¦ Answer: ABCD ¦ Answer: A or B or C or D
    Answer: any of A, B, C, D ¦ Answer: A, B, C, D ¦ Answer: A,B,C,D ¦ Answer: A;B;C;D
    Options: A. Rome B. Paris C. Oslo ¦ (A) Rome (B) Paris (C) Oslo (D) Bern
    A) Rome↵B) Paris↵C) Oslo↵D) Bern↵Answer: ¦ A. Rome↵B. Paris↵C. Oslo↵D. Bern↵Answer: A, B, C or D
    The options are A, B, C and D. ¦ The answer is one of A, B, C, D. ¦ \boxed{A} or \boxed{B} or \boxed{C}
    \boxed{A}, \boxed{B}, \boxed{C} ¦ \boxed{B}\boxed{C} ¦ \boxed{A/B} ¦ \boxed{A \text{ or } B}
    \boxed{B}\text{ and }\boxed{C} ¦ \boxed{\text{B or C}} ¦ \boxed{\text{A, B}} ¦ \boxed{B} (or C)
    \boxed{B}, or maybe C ¦ <answer>B or C</answer> ¦ <answer>A, B</answer> ¦ <answer>A</answer><answer>B</answer>
    #### B or C ¦ #### B, C ¦ #### B↵#### C ¦ #### B C ¦ B if x>0, else C ¦ If x>0 then B else C
    B when x is even, C otherwise ¦ B, unless it is C ¦ It depends: B if even, C if odd. ¦ The answer is not B.
    It isn't B. ¦ It can't be B. ¦ It is definitely not B ¦ Anything but B. ¦ B is not correct.
    B is not the answer ¦ B isn't right. ¦ I don't think it's B. ¦ I don't think the answer is B
    The answer isn't B ¦ The answer is C, not B. ¦ C, not B ¦ C rather than B ¦ C instead of B ¦ Not B but C
    C (B is wrong) ¦ C. B is wrong. ¦ C↵↵B is wrong because ¦ The answer is B. Actually, it's C.
    The answer is B. Wait, C. ¦ B. No wait, C. ¦ B... no, C ¦ \boxed{B} Actually, \boxed{C}
    #### B↵Wait, that's wrong. ¦ #### B↵No. ¦ B. Just kidding, C. ¦ The answer is B. Hmm, no: C ¦ ~~B~~ C ¦ ~~B~~
    <think>B</think> ¦ <think>answer is B ¦ Bob ¦ Because B ¦ Vitamin B ¦ Hepatitis B ¦ A plan B
    Plan B is to wait. ¦ B vitamins ¦ Question B ¦ BBB ¦ Bx ¦ B1 ¦ B2B ¦ be ¦ ?B? ¦ The letter B appears in the text
    Let B be the event ¦ Point B lies on the line ¦ In triangle ABC, B is the right angle.
    So B is the set of points ¦ Given that B is true, C follows. ¦ None ¦ The answer is Paris
    The answer is the second one ¦ I don't know ¦ C. Both A and B ¦ C: A and B ¦ The answer is C because B is wrong
    The answer is C, since B is incorrect. ¦ The answer is C (B is close) ¦ The answer is A or B ¦ A or B or C or D
    Answer: C. B would be right if x were even. ¦ Many would say B. The answer is C.
    Most people choose B, but the answer is C. ¦ B is tempting, but the answer is C
    B looks right, but C is correct ¦ Answer: [A, B] ¦ Answer: {A, B} ¦ Answer: (A)(B) ¦ Answer: A and/or B
    Answer: A+B ¦ Answer: A & B ¦ Answer: A→B ¦ Answer: A -> B ¦ Answer: A => B ¦ 答案：A或B ¦ 答案：A、B ¦ 答案是A和B ¦ 答案：AB
    选A或者B ¦ B还是C ¦ AまたはB ¦ Answer: A↵or B ¦ Answer: A↵B ¦ Answer: B↵C ¦ Answer: B↵↵or C ¦ I'd say B, but could be C.
    B, although C is also possible. ¦ B; alternatively C ¦ B (alternatively C) ¦ B, C also possible
    B (C also works) ¦ Probably B, possibly C. ¦ Probably B, maybe C ¦ B - or C ¦ B — or C ¦ B...or C ¦ B, hmm, or C
    B fits, and C fits ¦ B works, C works ¦ 정답은 B이거나 C ¦ 오답: B ¦ 오답은 B입니다 ¦ {"wrong answer": "B"}
    The wrong answer can only be B ¦ The wrong answer, then, is B ¦ It is not true that only B fits
    Answer: B or both ¦ B or neither ¦ The answer can only be B or C ¦ La réponse est B ou C ¦ Die Antwort ist B oder C
    La respuesta es A y B ¦ Ответ: B или C ¦ Неправильный ответ: B ¦ 정답은 B가 아닙니다 ¦ 정답은 B와 C입니다
    La respuesta incorrecta es B ¦ La respuesta no es B ¦ Die Antwort ist nicht B ¦ {"answer": ["B", "C"]}
    The answer is B. Option C ¦ B is correct, and C ¦ The answer is B↵(C) ¦ The answer, however, is not B ¦ Die falsche Antwort ist B
    B, or is it C? ¦ B, or should I say C ¦ Answer: B = C ¦ Answer: B aka C
    """
)


@pytest.mark.parametrize("answer", [*BOXES, *AS_MODELS_HEDGE, *OTHERS])
def test_choice_when_the_right_one_is_not_named_then_it_pays_nothing(answer):
    assert Choice().score(answer, "B") == 0.0


@pytest.mark.parametrize(
    ("answer", "gold", "score"),
    [
        *[
            ("Answer: B", gold, 1.0)
            for gold in ("B", "b", "(B)", "B.", "B. Paris", "B) Paris", "[B]", "#### B", r"\boxed{B}")
        ],
        *[
            ("Answer: B", gold, 1.0)
            for gold in ({"answer": "B"}, ["B", "C"], ["(C)", "(B)"], "The answer is B", "\uff22")
        ],
        *[
            ("Answer: B", gold, None)
            for gold in ("", None, 2, "Paris", [], "B and C", "K", "A good one", True, {"x": "B"})
        ],
        *[("A", "A", 1.0), ("The answer is A.", "A", 1.0), ("A. Rome", "A", 1.0), ("A good question.", "A", 0.0)],
        *[("I think so", "I", 0.0), ("The answer is I", "I", 1.0), ("I choose B", "I", 0.0), ("I. Rome", "I", 1.0)],
        *[("The answer is a", "A", 1.0), ("The answer is a city", "A", 0.0), ("The answer is A because", "A", 1.0)],
        *[
            ("Answer: D (both A and B)", "D", 1.0),
            ("Answer: D) All of the above", "D", 1.0),
            ("C is correct", "C", 1.0),
        ],
        *[("\\boxed{A}\\text{ or }\\boxed{B}", "A", 0.0), ("\\boxed{A} \\boxed{B}", "A", 0.0), ("Answer: E", "E", 1.0)],
    ],
)
def test_choice_when_compared_with_a_ground_truth_then_the_score(answer, gold, score):
    assert Choice().score(answer, gold) == score


def test_choice_when_other_letters_may_be_named_then_only_those():
    assert Choice("ABCDEFGHIJKLMNOP").score("The answer is (P).", "P") == 1.0
    assert Choice("TF").score("T", "T") == 1.0
    assert Choice("ABCD").score("E", "E") is None
    assert Choice().score("K", "B") == 0.0


@pytest.mark.parametrize("choices", ["", "A", "AA", "A1", "A B", 5])
def test_choice_when_choices_are_no_letters_then_configuration_error(choices):
    with pytest.raises(ConfigurationError, match="choices"):
        Choice(choices)


def test_choice_when_it_comes_after_an_extractor_then_only_what_that_finds():
    boxed = Boxed() >> Choice()
    assert [boxed.score(text, "B") for text in (r"\boxed{B}", "B", r"\boxed{B} or \boxed{C}")] == [1.0, 0.0, 0.0]
    assert (AfterMarker("VERDICT") >> Choice()).score("VERDICT: B", "B") == 1.0
    call = {"function": {"name": "submit", "arguments": '{"answer": "B"}'}}
    rollout = Rollout(({"role": "assistant", "tool_calls": [call]},), "B")
    assert (ToolArgument("submit", "answer") >> Choice())(rollout) == 1.0
    assert MultipleChoice() == Choice() != Choice("AB")
    assert hash(Choice()) == hash(MultipleChoice())


@pytest.mark.parametrize(
    "unit",
    [
        "(",
        "B or ",
        "B, ",
        "the ",
        "\n",
        "B\n",
        "not B ",
        "[({*",
        "it is ",
        "\\boxed{B} or ",
        "\u7b54\u6848",
        "A. b\n",
        "\nmost    ",
    ],
)
def test_choice_when_the_answer_is_a_million_characters_then_quick(unit):
    text = unit * (1_000_000 // len(unit))
    for answer in (text, f"Answer: {text}", f"{text}\nThe answer is B"):
        assert Choice().score(answer, "C") == 0.0
