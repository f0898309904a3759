"""Ways of writing a number that are right, and things that look like a number and are not."""

import re

import pytest

from aws_rft_sdk.rewards import ExactNumber, FinQA

# fmt: off

# 18 is right.
RIGHT_18 = [
    "#### 18</s>", "## Answer\n\n18 eggs", "## Final answer:\n\n$18$", r"\boxed{18 \text{ eggs per day}}",
    r"\boxed{\text{18}}", r"\boxed{\mathbf{18}}", r"$$\boxed{18}$$", r"\[\boxed{18}\]", r"\fbox{18}",
    "#### $18$", r"#### $\$18$", r"#### \[18\]", "#### '18'", "#### \u201c18\u201d", "#### {18}",
    r"\boxed{1.8 \cdot 10^{1}}", "#### 1.8 \xd7 10^1", "#### 1.8x10^1", "#### 1.8e1", "#### 18 (eighteen)",
    "#### eighteen", "The answer is eighteen.", "#### 20 - 2 = 18", "#### 9 * 2 = $18", "#### $9 \xd7 2 = $18",
    "#### 9 eggs \xd7 $2 = $18", "The answer is 9 + 9 = 18 eggs.", "#### 16 - 3 - 4 = 9 eggs, so 9 * 2 = 18",
    "#### 36/2 = 18", "#### (36 / 2) = 18", "#### 18 = 9 \xd7 2", "#### 18 = 20 - 2", "The answer is x = 18.",
    r"\boxed{x = 18}", r"\boxed{n=18}", "#### 18 eggs; 9 in the morning, 9 at night",
    "#### 18 eggs: 9 white and 9 brown", "#### 18 eggs, 9 white and 9 brown", "#### 18 (9 + 9)",
    "#### 18 (9 white, 9 brown)", "#### 18 because 9 + 9 = 18", "#### 18, which is 9 times 2",
    "#### 18 \u2014 that is, 9 twice", "#### 18, as 20 minus 2 is 18", "Answer:\n```\n18\n```\n",
    "ANSWER:\n```text\n18\n```", "The answer is `18`.", "Answer: __18__", "Answer: *18*", "Answer: ***18***",
    "**Answer: 18**", "**The answer is 18.**", "**Answer:**\n\n- 18 eggs", "Answer:\n* 18",
    "Final answer:\n\n\u2022 **18**", "The answer is:\n- $18", "#### 18 km/h", "#### 18 miles per hour",
    "#### $18/hour", "#### 18 eggs/day", "#### 18 m/s", "#### 18 m\xb2", "#### 18 m^2",
    r"\boxed{18 \text{ cm}^2}", r"\boxed{18\text{ m}^3}", "#### 18 sq ft", "#### 18cm", "#### 18 lbs",
    "#### 18mph", "#### 18 L", "#### 18g", "#### 18m", "#### 18th", "#### the 18th day", "#### 18-year-old",
    "#### 18 \xb0C", "#### about 18", "#### approximately 18 eggs", "#### \u2248 18", "#### ~18",
    r"#### \approx 18", "#### roughly $18", "#### 18\u200b", "\ufeff#### 18", "####\xa018", "#### 18\r\n\r\n",
    "\u200b#### 18", "#### 18\u3000", "#### 16\n\nWait, I need to recheck: 9 * 2 = 18.\n\n#### 18",
    "#### 16\nActually 18.", "#### 16. Correction: 18", "#### 16 \u2014 sorry, 18", "#### 16, no, 18",
    "#### 16... wait, 18", "The answer is 16. No, it's 18.", "The answer is 16. Oops, I mean 18.",
    "\\boxed{16}\n\nWait, that's wrong. It should be 18.",
    r"\boxed{16}. Hmm, actually the correct answer is 18.",
    "\\boxed{16}\n\nLet me double check... I made a mistake. The answer should be 18.\n\n\\boxed{18}",
    "#### 16 (typo, should be 18)", "#### <del>16</del> 18", r"#### \cancel{16} 18", "Answer: ~~20~~ ~~16~~ 18",
    "#### 16, or rather 18", "#### 16. Scratch that, 18.", "#### 16, make that 18",
    "#### 18\n\nQuestion: Tom has 3 apples.\n#### 3", "#### 18\n\nProblem: x\n\\boxed{3}",
    "\\boxed{18}\n\nQuestion 2: Tom\n#### 3",
    "\\boxed{18}<|im_end|>\n<|im_start|>user\nTom\n<|im_start|>assistant\n\\boxed{3}",
    "#### 18\nUser: and now?\nAssistant: #### 3", "#### 18\nQ: And?\nA: 3", "**18**", "18", "18.", "$18",
    "18 eggs", "So she makes 9 * 2 = $18.", "She makes $18 every day.", "Thus $x = 18$.", "Therefore, $n = 18$",
    "= 18", "### 18", "## 18", "Result: 18", "x = 18", "So 9 * 2 = 18.\n\nThe final answer is $\\boxed{18}$.",
    r"The final answer is: $\boxed{18}$. I hope it is correct.", "Therefore the answer is \\boxed{18}.\n",
    r"The answer is \(\boxed{18}\).", "### Answer\n$\\boxed{18}$ eggs",
    "#### 18\n\n*Note: 9 in the morning, 9 at night.*", "#### 18\n\nNote: 9 + 9.",
    "#### 18 eggs.\n\n**Check:** 18 - 9 = 9 \u2713.", "#### 18\n\nVerification: 9 * 2 = 18. Yes.",
    "#### 18\n\nLet me check: 16 - 3 - 4 = 9. That's right.",
    "\\boxed{18}\n\nThis is correct because the answer is less than 20.",
    "\\boxed{18}\n\nSanity check: the answer should be more than 9, and it is.",
    "<answer>18</answer>\nThe answer is a multiple of 9.", "ANSWER: 18\n\nThe answer is 9 more than 9.",
    "#### 18\n\nThe answer is between 10 and 20, as expected.",
    "The answer is 18. The answer is greater than 9, so it is plausible.", "\\boxed{18}\n\nThere is no 19.",
    "#### 18\n\nNo eggs were left over.", "#### 18\n\nShe has to wait 5 minutes.",
    "#### 18\n\nActually, this problem can be solved in other ways, too.",
    "\\boxed{18}\n\n(Here we assumed that no egg is lost.)",
    "Answer: She has 9 in the morning, 9 at night. Total: 18 eggs.",
    "The answer is 16 - 3 - 4 = 9 eggs at $2, so $18.",
    "Final Answer: Tom ate 7 and Ann ate 11, so 18 altogether.",
    "Answer: Ann has 7, Tom 11, for a total of 18 marbles.", "Answer: With 7 and 11, the total is 18.",
    "Answer - 18", "Answer \u2014 18", "Answer = 18", "Answer\uff1a18", "\u6700\u7ec8\u7b54\u6848\uff1a18",
    "\u7b54\u6848\u662f18\u3002", "ANSWER\uff1a18", "Final answer :  18", "FINAL ANSWER: 18", "answer: 18",
    "the final answer is 18", "My answer is 18.", "The correct answer is 18.", "Ans: 18",
    "#### 1 year and 6 months", "#### \xa318", "#### 18\u20ac", "#### \xa518", r"#### \$18", "#### 18\xa2",
    "#### 18 USD", "#### USD 18", "#### US$18", "#### Rs. 18", "#### \u20b918", "#### $18.00", "#### $ 18",
    r"<think>maybe \boxed{3}</think>\boxed{18}", "<think>#### 3\n</think>\n\n18",
    "thinking #### 3</think>\n#### 18",
    "<|channel|>analysis<|message|>#### 3<|end|><|start|>assistant<|channel|>final<|message|>18<|return|>",
    "analysisWe compute 3.assistantfinalThe answer is **18**.",
    "<reasoning>The answer is 3</reasoning><answer>18</answer>", "<answer>\n18\n</answer>",
    "<ANSWER>18</ANSWER>", "<answer>$18</answer>.", "<answer>The answer is 18</answer>",
    r"<answer>\boxed{18}</answer>",
    r"<|begin_of_thought|>#### 3<|end_of_thought|><|begin_of_solution|>\boxed{18}<|end_of_solution|>",
    "[THINK]3[/THINK]#### 18", "Answer:\nQuestion: How many?\n9 * 2 = 18\n#### 18",
    "#### The answer is 18\n#### Explanation: 9 * 2", "#### 18\n#### Check: 18 / 2 = 9",
    "#### 18\n\n#### Explanation\n9 + 9", "#### Step 1: 16 - 7 = 9\n#### Step 2: 9 * 2 = 18\n#### 18",
    "###### 18", "####18", "#### **18**", "**#### 18**", "#### Answer: 18", "#### Final Answer: 18",
    "#### 18 or 18.0", "#### 18 (18.00)", "#### 18 = 18.0", "#### 18, not 19", "#### not 19 but 18",
    "#### 18 rather than 19", "#### 18 out of 20", "#### 18 of the 20 eggs", "#### 18 eggs left after 3 days",
    "#### In 2 days she makes $18", "Answer: In 2019 she sold 18 eggs.",
    "Answer: After 3 hours there are 18 left.", "#### 18 and that is it", "#### 18 or so", "#### 18 to be exact",
    "#### 18 more than Tom's 9",
]

RIGHT_72 = [
    "#### 72 clips (48 in April + 24 in May)",
    "#### 72\n\nTherefore, Natalia sold 72 clips altogether in April and May.", "**Answer: 72 clips**",
    "Answer: Natalia sold **72** clips", "The answer is $72$ clips.", r"\boxed{72\ clips}", r"\boxed{\$72}",
    r"\boxed{72.00}", r"\boxed{72 \, \text{cm}^2}", r"\boxed{\text{72 clips}}", "#### 72 [clips]", "#### `72`",
    "#### 72 \u2713", "#### 72 \u2705", "#### \U0001f389 72", "#### 72 clips!", "#### 72!!",
    "#### Seventy-two (72)", "#### $72 per week", "#### 72 %", "#### 72 dollars and 0 cents",
    "Answer: $72 (seventy-two dollars)", "#### 72/1", "#### +72", "#### 72 ", "####\t72", "####\n72",
    "#### The answer: 72", "#### = 72", "#### Total = 72", "#### total: 72 clips", "#### Natalia sold 72 clips.",
    "FINAL ANSWER\n72", "<answer> 72 clips </answer>", r"\boxed{72}.", r"\boxed { 72 }",
    r"$\boxed{\mathrm{72}}$", "The answer is\n\\[ \\boxed{72} \\]", r"\(\boxed{72}\)",
    "So the answer is 72 clips in total, since 48 + 24 = 72.", "Answer: 72 (i.e. 6 dozen)",
    "#### 72 clips (that's 6 dozen)", "The answer is 48+24=72 clips", "A: 72", "#### 70, correction: 72",
    "#### 70 (should be 72)", "Answer: 70. Correction \u2014 72.", "The answer is 70, I mean 72.",
    "The answer is 70 -- wait, 72", "The answer is 70. Let me recheck: 48 + 24 = 72. The answer is 72.",
    "#### 70\n\nOops, that should be 72.", "#### 70\n\nSorry, the answer is 72.",
    "#### 70\n\n**Correction:** 72", "#### 70\n\nI made an arithmetic error; the correct answer is 72.",
    "#### 72 -> 72.0", "48 clips + 24 clips = 72 clips", "Answer:\n\n**72**\n", "Answer: $$72$$",
    "The final answer is 72.\n\nLet me know if you have 2 more questions!", "#### 72\n\nStep 1: 48 / 2 = 24",
    "#### 72\n\n(Answer verified: 72 / 3 = 24.)", "#### 72\n---\n48 + 24",
    "#### 72 \u2014 48 in April, 24 in May", "#### 72 clips = 48 + 24", "#### 72 (=48+24)",
    "#### April 48, May 24, total 72", "Answer: $x = 72$, because $x - 24 = 48$", "#### n = 72 clips",
    "#### **Final answer:** 72", r"Final Answer: \( \boxed{72} \)", r"\boxed{48+24=72}",
    r"\boxed{x=72\text{ clips}}", "72 clips were sold.", "#### 72 clips,", "#### 72, clips", "#### about $72.00",
    "**Answer**\n\n72", "Answer:72", "Answer is: 72", "#### 72.0 clips", "#### (48 + 24) = 72", "48+24 is 72",
    "Answer:\n\n> 72", "#### <72>", "#### half of 144 is 72", "#### 72 clips, twice as many as 36", "#### six dozen",
    "#### 72, which is 3 times 24", "#### 72 more", "#### grew from 24 to 72", r"\boxed{72}!",
    "\\boxed{72}\n\nLet me know if you have 2 or 3 more questions!", "#### $48 + $24 = $72", "\u7b54\u3048\uff1a72",
    '```json\n{"answer": 72}\n```', '{\n  "answer": 72\n}', "\u7b54\u3048\u306f72\u3067\u3059\u3002",
    "\u5356\u4e8672\u4e2a\u53d1\u5939\u3002", "#### \u517172\u4e2a",
    r"\boxed{\left(72\right)}", r"\boxed{72}^\circ", r"\boxed{72}^{\circ}", r"\boxed{2 \cdot 36}", r"\boxed{8\times 9}",
    "Answer:\n1. 72", "La respuesta es 72.", "La respuesta correcta es: 72", "La bonne r\u00e9ponse est 72",
    "R\u00e9ponse : 72", "Die richtige Antwort lautet 72.\nEs sind 3 Teile.", "A resposta \u00e9 72",
    "\u041e\u0442\u0432\u0435\u0442: 72\n\u0418\u0437 3 \u0447\u0430\u0441\u0442\u0435\u0439",
    "\uc815\ub2f5\uc740 72\uc785\ub2c8\ub2e4", "#### Total: 72, April: 48",
    "#### April: 48, May: 24, total: 72", "x =>\\boxed{72}", "> \\boxed{72}", "<b>\\boxed{72}</b>",
]

RIGHT = [
    ("#### 125\u4e07", 1250000), ("#### 125\u4e07\u5143", 1250000), ("#### 1.2\u4ebf", 120000000),
    (r"\boxed{36}<|eot_id|>", 36), (r"\boxed{10^3}", 1000), ("#### 3.2 \xd7 10\u2074", 32000),
    ("#### twenty-five dollars", 25), ("#### one hundred and twenty", 120),
    ("#### two thousand five hundred", 2500), ("The answer is forty two", 42), ("#### -18", -18),
    ("Answer: -18", -18), ("Answer:\n\n-18", -18), ("#### \u201318", -18), ("#### \u221218", -18),
    ("#### \u201018", -18), ("#### minus 18", -18), ("#### negative eighteen", -18), ("\\boxed{\u221218}", -18),
    ("The answer is -$18.", -18), ("#### -18%", -18), ("#### 45\xb0", 45), (r"\boxed{45^\circ}", 45),
    (r"\boxed{45^{\circ}\text{C}}", 45), ("#### 45 \xb0F", 45), ("#### 45 degrees", 45), ("(18)", "-18"),
    ("Answer: 3 hours 30 minutes", 3.5), ("Answer: 3 hours 30 minutes", 210),
    ("#### 1 hour and 15 minutes", 1.25), ("#### 2 hours and 30 minutes (150 minutes)", 150),
    ("#### 150 minutes (2 hours and 30 minutes)", 150), ("#### 2.5 hours (150 minutes)", 2.5),
    ("#### 2.5 hours (150 minutes)", 150), ("#### 150 minutes, or 2.5 hours", 150), ("#### 5 feet 6 inches", 66),
    ("#### 5 feet 6 inches", 5.5), ("#### 3 dollars and 50 cents", 3.5), ("#### 1 minute 30 seconds", 90),
    ("#### 2 weeks and 3 days", 17), ("#### 2 dozen", 24), ("#### 24 (2 dozen)", 24),
    ("#### 150 cents ($1.50)", 150), ("#### 1 km (1000 m)", 1), ("#### 12,345.5", 12345.5),
    ("#### 1,234,567", 1234567), (r"\boxed{12{,}345}", 12345), (r"\boxed{12\,345}", 12345),
    (r"\boxed{12\ 345}", 12345), ("#### 12 345", 12345), ("#### 12\u202f345", 12345),
    ("#### \u20ac12.345", 12345), ("#### 12.345 \u20ac", 12345), ("#### 1.250,50", 1250.5),
    ("#### 1.234.567", 1234567), ("#### 1 250,50 \u20ac", 1250.5), ("#### 12,50 \u20ac", 12.5),
    ("#### \u20ac12,50", 12.5), ("#### 1'250", 1250), ("#### 1\u2019250\u2019000", 1250000),
    ("#### 12,5 %", 12.5), ("#### 1,00,000", 100000), ("#### \u20ac1,250", 1250), ("#### \u20ac1.5", 1.5),
    ("#### $1.250", "1.25"), ("#### 3.141", 3.141), ("#### -5\xb0C", -5), ("#### \uff0d5", -5),
    (r"\boxed{{-}12}", -12), (r"\boxed{-12}", -12), (r"\boxed{-\frac{3}{4}}", -0.75),
    (r"\boxed{\frac{-3}{4}}", -0.75), (r"\boxed{\frac{3}{-4}}", -0.75), ("#### 2/3 cup", "2/3"),
    ("#### 2\xbd", 2.5), ("#### 2 \xbd", 2.5), ("#### \u2154", "2/3"), ("#### \xbc cup", 0.25),
    (r"\boxed{2\frac{1}{2}}", 2.5), (r"\boxed{2\tfrac12}", 2.5), (r"\boxed{\tfrac{1}{2}}", 0.5),
    (r"\boxed{\frac12}", 0.5), (r"\boxed{\dfrac{5}{8}}", 0.625), (r"\boxed{5/8\text{ mile}}", 0.625),
    ("#### 2 1/2", 2.5), ("#### 1\u20442", 0.5), (r"#### $\frac{1}{4}$", 0.25), (r"\boxed{\frac{10}{2}}", 5),
    (r"\boxed{0.75}", "3/4"), ("#### 3/4", "0.75"), (r"\boxed{40\%}", 40), ("#### 40 percent", 40),
    ("#### 40 per cent", 40), ("#### 40%", "40%"), ("#### 0.40", 0.4), ("#### 40 percentage points", 40),
    ("#### $2.5M", 2500000), ("#### $2.5 million", 2500000), ("#### 2.5 million people", 2500000),
    ("#### 3k", 3000), ("#### 3K", 3000), ("#### $1.2bn", 1200000000), ("#### 2 thousand", 2000),
    ("#### 3 hundred", 300), ("#### $2m", 2000000), ("#### 3:00 PM", 3), ("#### 3:00 p.m.", 3),
    ("#### 11 AM", 11), ("#### 3 PM", 3), ("#### 3 o'clock", 3), ("#### 18", ['18', '18.0']),
    ("#### 18", [17, 18]), ("#### 18", ['$18', '18 eggs']), ("#### 18", r"\boxed{18}"),
    ("#### 0.25", r"\frac{1}{4}"), ("#### 0.25", r"$\frac{1}{4}$"),
    ("#### 18", "She makes 9*2=<<9*2=18>>18.\n#### 18"), ("#### 18", "The answer is 18."),
    ("#### 18", "18 eggs"), ("#### 1234", "1,234"), ("#### 18", 18.0), ("#### 0.1", 0.1),
    ("#### 0.3", 0.30000000000000004), ("#### 1.1", 1.1), ("#### 0.7", 0.7000000000000001),
    ("#### 2.675", 2.675), ("#### 0.15", "0.15000000000000002"), ("#### 3/4 or 0.75", 0.75),
    ("#### 0.5 (1/2)", 0.5), ("#### one half (0.5)", 0.5),
    ("#### a dozen", 12), ("#### three quarters", 0.75), ("#### two-thirds of a cup", "2/3"), ("#### a hundred", 100),
    ("#### two and a half", 2.5), ("#### 0,5", 0.5), ("#### He has 5/2 = <<5/2=2.5>>2.5$ left.", 2.5),
    ("7 red and 11 blue make 18", 18),
]

# 18 is no answer of these.
WRONG_18 = [
    "#### 19", "#### -18", "#### 18.5", "#### 18,000", "#### 18 million", "#### 18k", "#### 18K", "#### 18M",
    "#### $18B", "#### 18 thousand", "#### 18 hundred", "#### 180", "#### 1.8", "#### 018x", "#### 18 or 19",
    "#### 19 or 18", "#### 18, 19, 20", "#### 17, 18", "#### 18? or 16?", "#### 18 / 19", "#### 18/19",
    "#### 18 and 19", "#### 18 & 19", "#### 18; 19", "#### 18 | 19", "#### 18 - 19", "#### 18\u201319",
    "#### 18 to 19", "#### between 18 and 20", "#### 18 \u2192 19", "#### 18 -> 19", "#### 18 => 19",
    "#### 18 \u21d2 19", r"#### 18 \to 19", "#### either 18 or 19", "#### maybe 18, maybe 19", "#### 18 (or 19)",
    "#### 18 eggs or 19 eggs", "#### 18 eggs, maybe 19", "#### 18 perhaps 19", "#### 18, possibly 19",
    "#### 18 alternatively 19", "#### 18 vs 19", "#### 18 19", "#### [18, 19]", "#### {18, 19}", "#### (18, 19)",
    "#### eighteen or nineteen", r"\boxed{18, 19}", r"\boxed{18 \lor 19}", r"\boxed{\{18, 19\}}",
    r"\boxed{17} \boxed{18} \boxed{19}", r"\boxed{17}, \boxed{18}", r"\boxed{17} or \boxed{18}",
    r"\boxed{17}\text{ or }\boxed{18}", r"\boxed{18}\text{ or }\boxed{17}", r"\boxed{17} and \boxed{18}",
    r"\boxed{17} / \boxed{18}", r"$\boxed{17}$ or $\boxed{18}$", r"$\boxed{17}$, $\boxed{18}$",
    r"17 or \boxed{18}", "#### 17 or #### 18", "<answer>17</answer> or <answer>18</answer>",
    "<answer>17</answer><answer>18</answer>", r"The answer is 17 or \boxed{18}",
    "#### 18 in one case, 20 in the other", "#### 18 if inclusive, 17 if exclusive",
    "#### 18 when counted, 17 when not", "#### 18 in the first reading and 17 in the second",
    "#### 18 under one interpretation, 17 under another", "#### 18 (inclusive) or 17 (exclusive)",
    "#### 18, otherwise 17", "#### 18. It could also be 17.", "#### 18. Or 17.", "#### 18\nor 17", "#### 18\n17",
    "#### 18. Alternatively, 17.", "#### 18; correction: 20", "#### 18. Actually 20.",
    "#### 18. Actually, it's 20", "#### 18 (typo, should be 20)", "#### 18. Wait, 20.", "#### 18. No, 20.",
    "#### 18. Sorry, 20.", "#### 18. Oops, 20", "#### 18. I mean 20.", "#### 18, I meant 20",
    "#### 18, scratch that, 20", "#### 18... no wait, 20", "#### 18\n\nWait, that's wrong. The answer is 20.",
    "#### 18\n\nCorrection: the answer is 20.", "\\boxed{18}\n\nActually, the correct answer is 20.",
    "\\boxed{18}\n\nEdit: 20", "#### 18. It should be 20.", r"\boxed{18}. On second thought, 20.",
    "#### 18, or rather 20", "#### ~~18~~ 20", "#### <del>18</del> 20", "#### 18, make it 20",
    "#### 18 \u2013 my mistake, 20", "#### 18. Hmm, no, 20.", "#### 18. No.", "#### 18\n\nNo.",
    "#### 18\nNo, that's wrong.", "#### 18. That is wrong.", "#### 18\n\nWait, that is not right.",
    "#### 18\n\nThat's incorrect.", "#### 18. Scratch that.", r"\boxed{18} is wrong",
    "\\boxed{18}\n\nThis answer is wrong.", "#### 18\n\nI was wrong.", "#### 18\n\nNever mind.",
    "#### 18\n\nDisregard that.", "#### 18. Wrong!", "#### 18 is not the answer", "#### 18 is not correct",
    "#### 18? No.", "#### not 18", "The answer is not 18", "The answer isn't 18.",
    "#### 18\n\nHmm, that can't be right.", "#### 18\n\nThe answer is not 18.",
    "\\boxed{18}\n\nI made a mistake above.", "#### ~~18~~", "#### > 18", "#### >18", "#### < 18",
    "#### \u2265 18", "#### \u2264 18", "#### >= 18", "#### <= 18", r"\boxed{x > 18}", r"\boxed{x \geq 18}",
    r"\boxed{\ge 18}", "\\boxed{x \\ne 18}", "#### x != 18", "#### =/= 18", "#### 18 or more",
    "#### 18 or fewer", "#### 18 and above", "#### 18+", "#### at least 18", "#### at most 18",
    "#### more than 18", "#### less than 18 eggs", "#### up to 18", "#### over 18", "#### under 18",
    "#### 18 eggs or more", "#### no more than 18", "#### 18 at least", r"\boxed{x < 18}", r"\boxed{18 < x}",
    r"\boxed{18 \le x}", "#### 18 < x", "#### \xb118", "#### 18 \xb1 1", r"\boxed{\pm 18}", "#### 18x",
    "#### 18n", "#### 18y + 1", "#### 18 + x", "#### x + 18", "#### x - 18", r"\boxed{18x}", r"\boxed{18\pi}",
    r"\boxed{18\sqrt{2}}", r"\boxed{\sqrt{18}}", r"\boxed{x^{18}}", r"\boxed{18^2}", r"\boxed{18}^{2}",
    r"\boxed{18}^2", "#### 18\xb2", "#### 18 squared", "#### 18^3", "#### 18**2", "#### 18 + 1", "#### 18 - 1",
    "#### 18 * 2", "#### 18 \xd7 2", "#### 18 plus 1", "#### 18 times 2", "#### 18 minus 1",
    "#### 18 divided by 2", "#### 0x12", "#### 0x18", "#### 18:00", "#### 18:30", "#### 7:18", "#### 1 8",
    "#### 18.18.18", "#### v18.2.1", "#### 18/05/2020", "#### 18_000", "#### 18e3", "#### 18e", "#### #18a",
    r"\boxed{f(18)}", r"\boxed{\log 18}", r"\boxed{\frac{18}{x}}", r"\boxed{\frac{x}{18}}",
    r"\boxed{2 \cdot 18}", r"\boxed{18}+1", r"2\boxed{18}", "#### 18a + 2", r"\boxed{18i}", "#### 18b",
    "#### I think 17, maybe 18", "17, 18", "17 or 18", "I get 17. Or 18.", "First 17, then 18, then 19.",
    "There are 16 eggs and 18 hens", "<think>#### 18</think>", "<think>#### 18", "<think>18</think>#### 17",
    "<think>#### 17</think>I don't know. 18?\n17", "#### 18 = 18 + 1 = 19", "#### 18 = 19",
    "#### 17\n\nQuestion: x?\n#### 18", "\\boxed{17}\n\nQuestion: x?\n\\boxed{18}",
    "\\boxed{17}\n\nQuestion: x?\n#### 18", "#### 17\nUser: thanks\nAssistant: #### 18",
    "<answer>17</answer>\nQ: more?\n<answer>18</answer>", "#### 18 hundred thousand", "#### ", "####",
    r"\boxed{}", "<answer></answer>", "", "no idea",
]

WRONG_72 = [
    "#### 72\n\n**Correction:** 96", "#### 72\n\nI made an arithmetic error; the correct answer is 96.",
    "#### 72\n\nOn reflection, 96.", "#### 72\n\nThe answer should be 96 instead.", "#### 72... or is it 96?",
    "#### 72? I am not sure, perhaps 96", "#### 72 (alternatively 96)", "#### either 72, or 96",
    "#### 72, but it could be 96", "#### 72 but maybe 96", "#### 72 (96 if you count twice)",
    "#### 72 if April counts, else 24", "#### 48, 24, 72", r"\boxed{72}\boxed{73}", r"\boxed{71}; \boxed{72}",
    r"\boxed{72} \text{ and } \boxed{73}", r"\boxed{72 , 73}", r"\boxed{72\ or\ 73}", r"\boxed{72 | 73}",
    r"\boxed{[72,73]}", r"\boxed{72-73}", r"\boxed{72 \sim 73}", r"\boxed{72\text{--}73}", "#### 72~73",
    "#### 72 through 75", "#### from 70 to 72", "#### 70-72 clips", "#### approximately 70 to 72",
    "#### 72 and a half", "#### 72 1/2", "#### 72.0001", "#### 72 mod 5", "#### 72 choose 2", "#### C(72, 2)",
    "#### f(72)", "#### 72:1", "#### 1/72", "#### 72/100", "#### 0.72", "#### 7.2", "#### 720", "#### 27",
    "#### 72 hundredths", "#### 72 thousandths", "#### 72 degrees or 73", "#### x >= 72", "#### x\u226472",
    "#### \u226072", "#### x is not 72", "#### not equal to 72", "#### anything but 72", "#### 72 is too high",
    "#### 72 would be wrong", "#### 72, which is wrong", "#### 72 (wrong)", "#### 72 (incorrect)",
    "#### 72. That was a mistake.", "#### 72. Hold on, 96.", "#### 72\nWait, it should be 96.",
    "#### 72\n\nLet me correct that: 96", "#### 72\n\nRevised answer: 96", "#### 72\n\nNew answer: 96.",
    "#### 72\n\nUpdate: 96", "#### 72\n\nEDIT: it's 96", "#### 72, no: 96", "#### 72... 96",
    "#### 72, I think, or 96", "#### 72 | 96 | 24", "72\n96", "\\boxed{72}\n\nOr is it 96?",
    r"\boxed{72} (or 96)", r"\boxed{72}, or maybe 96", r"The answer is 72 or \boxed{96}",
    "The answer could be 72 or 96", "#### 72ish to 80", "#### 72 x", "#### 72X", "#### 72 y", "#### 72a",
    "#### 72\u03c0", "#### 72\u221a2", "#### 72\xb3", "#### 72 cubed", "#### 0b72", "#### 1e72", "#### 72e2",
    "#### $72k", "#### 72 lakh", "#### 72 crore", "#### 72 bn", "#### -$72", "#### ($72)", "#### minus 72",
    "#### -72 clips", "#### 72\xd710^3", r"\boxed{72 \times 10^2}", r"\boxed{\frac{72}{100}}",
    r"\boxed{\frac{1}{72}}", r"\boxed{-72}", r"\boxed{72_{10}}", r"\boxed{72 \mod 5}", r"\boxed{\infty}",
    r"\boxed{?}", "\\boxed{72?}\n\nNo.", "#### 72 dozen", "#### half of 72", "#### twice 72", "#### triple 72",
    "#### 3 times 72", "#### two thirds of 72", "#### 72 more than 5", "#### 72 less than 100", r"\boxed{72!}",
    "#### 72 o 96", "#### 72 oder 96", "#### 72 ou 96",
    "#### 72 \u6216 96", "#### 72\u621696", "#### 72\u4e2a\u621696\u4e2a", "#### 72 clips oder 96",
    "#### 72 \u0438\u043b\u0438 96",
    "The answer cannot be 72", "The answer is neither 71 nor 72.", "#### never 72", "\u7b54\u6848\u4e0d\u662f72",
    "\u81f3\u5c1172\u4e2a",
    "La respuesta no es 72", "Die Antwort ist nicht 72", "La r\u00e9ponse n'est pas 72", "La respuesta es 72 o 73",
    r"x \neq \boxed{72}", r"x > \boxed{72}", r"$x>\boxed{72}$", r"x \le \boxed{72}", r"\sqrt{\boxed{72}}",
    r"\boxed{72\text{ million}}", "#### April: 72, May: 24", "#### April: 72 clips; May: 24 clips", "#### 72\u4e07",
    "Answer:\n1. 72\n2. 73", r"3 \left(72\right)", r"\boxed{\left(72\right)^2}", "#### 72 y 96",
    "La respuesta es mayor que 72", "\u041e\u0442\u0432\u0435\u0442: \u0431\u043e\u043b\u044c\u0448\u0435 72",
    r"x <= \boxed{72}",
    "Die Antwort ist gr\u00f6\u00dfer als 72", "La r\u00e9ponse est sup\u00e9rieure \u00e0 72", "#### 72 atau 96",
    "#### m\u00e1s de 72",
    "72nm2x", "#### 70 is 72", "#### 72 and 5 make 77", "#### 72 multiplied by 2", "#### square root of 72",
]

WRONG = [
    ("#### a", 1), ("The answer is A.", 1),
    ("#### 18, 19", 19), (r"\boxed{18 \text{ and } 19}", 19), ("#### 0x18", 0), ("#### 5:30 PM", 5),
    ("#### 7:18", 7), ("#### 3:1", 3), ("Final Answer: Tom ate 7 and Ann ate 11, so 18 altogether.", 7),
    ("Final Answer: Tom ate 7 and Ann ate 11, so 18 altogether.", 11),
    ("Answer: She has 9 in the morning, 9 at night. Total: 18 eggs.", 9), ("#### 9 * 2 = 18", 9),
    ("#### 9 * 2 = 18", 2), ("#### 20 - 2 = 18", 20), ("#### 3 hours 30 minutes", 3),
    ("#### 3 hours 30 minutes", 30), ("#### 5 feet 6 inches", 5), ("#### 5 feet 6 inches", 6),
    ("#### 3 dollars and 50 cents", 50), ("#### \u20ac1.250", 1.25), ("#### 12,34", 12), ("#### 12,34", 34),
    ("#### 1,23", 1), ("#### 12 345", 345), ("#### 1.250,50", 1.25), ("#### 33.3", 33.333333333333336),
    ("#### 33.33333", 33.333333333333336), ("#### 0.31", 0.30000000000000004),
    ("#### 0.333", 0.3333333333333333), ("#### 18", [17, 19]), ("#### 18", "17"), ("#### 18", r"\boxed{17}"),
    ("#### 5/8", 5), ("#### 1 1/2", 1), ("#### \xbd", 1), ("#### 1\xbe", 1), ("#### 2\xbd", 2),
    ("#### 25%", 0.25), ("#### 0.25", 25),
    ("7 red and 11 blue make 18", 7), ("7 red and 11 blue make 18", 11), ("#### the twenty-third", 20),
]

FINANCE = [
    ("ANSWER: $ 5.2 mm", "5.2 million", 1), ("ANSWER: 5-year average 5.2%", "5.2%", 1),
    ("ANSWER: 10-K margin 5.2%", "5.2%", 1), ("ANSWER: decrease 5.2%", "-5.2%", 1), ("ANSWER: $5.2 B", 5.2e9, 1),
    ("ANSWER: 12.5", "12.5%", 1), ("ANSWER: 12.5%", "12.5", 1), ("ANSWER: 0.125", "12.5%", 1),
    ("ANSWER: 12.5%", "0.125", 1), ("ANSWER: 12.46%", "12.5%", 0.95), ("ANSWER: 12.6%", "12.5%", 0.95),
    ("ANSWER: 13%", "12.5%", 0), ("ANSWER: $2,345.6 million", "$2,345.6 million", 1),
    ("ANSWER: $2.3456 billion", "$2,345.6 million", 1), ("ANSWER: 2345600000", "$2,345.6 million", 1),
    ("ANSWER: $2,345.6M", "2,345,600,000", 1), ("ANSWER: $2.35B", "2.35 billion", 1),
    ("ANSWER: 2.35bn", "2.35 billion", 1), ("ANSWER: $5k", "5000", 1),
    ("ANSWER: 5.2 (in millions)", "5.2 million", 1), ("ANSWER: $5.2 (in millions)", "5,200,000", 1),
    ("ANSWER: decreased by 7.3%", "-7.3%", 1), ("ANSWER: a decline of 7.3%", "-7.3%", 1),
    ("ANSWER: declined 7.3%", "-7.3%", 1), ("ANSWER: fell by 7.3 %", "-7.3%", 1),
    ("ANSWER: fell 7.3 percent", "-7.3%", 1), ("ANSWER: dropped by 7.3%", "-7.3%", 1),
    ("ANSWER: a drop of 7.3%", "-7.3%", 1), ("ANSWER: a loss of $3 million", "-3 million", 1),
    ("ANSWER: net loss of $3 million", "-3,000,000", 1), ("ANSWER: 7.3% decrease", "-7.3%", 1),
    ("ANSWER: down 7.3%", "-7.3%", 1), ("ANSWER: The margin decreased by 7.3%", "-7.3%", 1),
    ("ANSWER: Revenue declined by 7.3% from 2018 to 2019", "-7.3%", 1),
    ("ANSWER: a reduction of 7.3%", "-7.3%", 1), ("ANSWER: negative 7.3%", "-7.3%", 1),
    ("ANSWER: minus 7.3%", "-7.3%", 1), ("ANSWER: -7.3%", "-7.3%", 1), ("ANSWER: \u22127.3%", "-7.3%", 1),
    ("ANSWER: (7.3%)", "-7.3%", 1), ("ANSWER: (7.3)%", "-7.3%", 1), ("ANSWER: decreased by -7.3%", "-7.3%", 1),
    ("ANSWER: an increase of 7.3%", "7.3%", 1), ("ANSWER: increased by 7.3%", "7.3%", 1),
    ("ANSWER: grew 7.3%", "7.3%", 1), ("ANSWER: up 7.3%", "7.3%", 1),
    ("ANSWER: a gain of $3 million", "3 million", 1), ("ANSWER: an increase of 7.3%", "-7.3%", 0),
    ("ANSWER: grew by 7.3%", "-7.3%", 0), ("ANSWER: 7.3%", "-7.3%", 0), ("ANSWER: -7.3%", "7.3%", 0),
    ("ANSWER: decreased to 7.3%", "7.3%", 1), ("ANSWER: ($3.1) million", "-3.1 million", 1),
    ("ANSWER: $(3.1) million", "-3.1 million", 1), ("ANSWER: $(3.1 million)", "-3.1 million", 1),
    ("ANSWER: ($3.1 million)", "-3.1 million", 1), ("ANSWER: -$3.1 million", "-3.1 million", 1),
    ("ANSWER: (3,100,000)", "-3.1 million", 1), ("ANSWER: ($3.1) million", "3.1 million", 0),
    ("ANSWER: [no]", "no", 1), ("ANSWER: No.", "no", 1), ("ANSWER: NO", "no", 1), ("The answer is no", "no", 1),
    ("The answer is no.", "no", 1), ("ANSWER: False", "no", 1), ("ANSWER: true", "yes", 1),
    ("ANSWER: no", "yes", 0), ("ANSWER: No", False, 1), ("ANSWER: Yes", True, 1), ("ANSWER: yes", False, 0),
    ("ANSWER: false", True, 0), (r"\boxed{no}", "no", 1), (r"\boxed{\text{Yes}}", "yes", 1),
    ("<answer>no</answer>", "no", 1), ("ANSWER: **Yes**, it did", "yes", 1),
    ("ANSWER: Yes, because it grew by 10%", "yes", 1), ("ANSWER: No, it fell from 10 to 5", "no", 1),
    ("ANSWER: Yes, there was no decline", "yes", 1), ("No", "no", 1), ("Yes.", "yes", 1),
    ("ANSWER: no, but yes", "no", 0), ("ANSWER: yes/no", "yes", 0), ("ANSWER: yes or no", "no", 0),
    ("ANSWER: maybe yes, maybe no", "yes", 0), ("ANSWER: yes in 2019, no in 2018", "yes", 0),
    ("ANSWER: no if adjusted, yes if not", "no", 0), ("ANSWER: yes when adjusted, no otherwise", "yes", 0),
    ("ANSWER: yes. Actually no.", "yes", 0), ("ANSWER: no. Wait, yes.", "yes", 1),
    ("ANSWER: yes. That's wrong.", "yes", 0), ("ANSWER: It did, so yes", "yes", 1),
    ("ANSWER: both yes and no", "yes", 0), ("ANSWER: yes", "maybe", None),
    ("ANSWER: 2.5 percentage points", "2.5%", 1), ("ANSWER: 2.5 pp", "2.5%", 1),
    ("ANSWER: 2.5 percent", "2.5%", 1), ("ANSWER: 4:1", "4", 0), ("ANSWER: 4 to 1", "4", 0),
    ("ANSWER: approximately 8%", "8%", 1), ("ANSWER: ~8%", "8%", 1),
    ("ANSWER: about $8 million", "8 million", 1), ("ANSWER: Sales grew by 8% from 2018 to 2019", "8%", 1),
    ("ANSWER: Sales grew 8% in 2019", "8%", 1), ("ANSWER: In 2020, sales were $8 million", "8 million", 1),
    ("ANSWER: 2020: 8", "8", 1), ("ANSWER: FY2020: 8.1%", "8.1%", 1),
    ("ANSWER: FY 2020 margin: 8.1%", "8.1%", 1), ("ANSWER: Q4 2020 margin was 8.1%", "8.1%", 1),
    ("ANSWER: fourth quarter 2020: $8", "8", 1),
    ("ANSWER: For the year ended December 31, 2020, $8.1 million", "8.1 million", 1),
    ("ANSWER: As of December 31, 2020, it was $8.1 million", "8.1 million", 1),
    ("ANSWER: From 2018 to 2020 the change was 8.1%", "8.1%", 1), ("ANSWER: 8.1% (2020)", "8.1%", 1),
    ("ANSWER: 8.1% for 2020 and 2019", "8.1%", 1), ("ANSWER: $8.1 million in 2020", "8.1 million", 1),
    ("ANSWER: 2020's revenue was $8.1 million", "8.1 million", 1),
    ("ANSWER: The 2020 margin was 8.1%", "8.1%", 1), ("ANSWER: 2020", "2020", 1), ("ANSWER: in 2020", "2020", 1),
    ("ANSWER: $8.1 million in 2020 and $7.2 million in 2019", "7.2 million", 0),
    ("ANSWER: 8.1% or 7.2%", "8.1%", 0), ("ANSWER: 8.1% to 9.1%", "8.1%", 0),
    ("ANSWER: between 8 and 9", "8", 0), ("ANSWER: more than 8%", "8%", 0), ("ANSWER: 8.1%, 7.2%", "8.1%", 0),
    ("ANSWER: 8%. Actually 9%.", "8%", 0), ("ANSWER: 9%. Actually 8%.", "8%", 1), ("ANSWER: 99.1", "100", 0.95),
    ("ANSWER: 101", "100", 0), ("ANSWER: 100.001", "100", 1), ("ANSWER: 100", "100.0", 1),
    ("ANSWER: 8.0 million", "8 billion", 0), ("ANSWER: 8 million", "8", 0), ("ANSWER: $2,468", "2468", 1),
    ("ANSWER: \u20ac2.468,50", "2468.5", 1), ("ANSWER: 2468.5", "2,468.50", 1), ("ANSWER: 8", "8", 1),
    ("ANSWER: -8", "8", 0), ("ANSWER: 8/3", "2.6667", 1), ("ANSWER: 1/8", "12.5%", 1),
    ("ANSWER: 25", "[25%]", 1), ("ANSWER: 5.2 million", "$5.2 million", 1),
    ("ANSWER: **$5.2 million**", "5.2 million", 1), ("ANSWER: $5.2 million dollars", "5.2 million", 1),
    ("ANSWER: 8.1%", ['8.1%', '8.2%'], 1), ("ANSWER: 150 basis points", "1.5%", 1),
    ("ANSWER: 10 basis points", "10", 1), ("ANSWER: 1.5x", "1.5", 1), ("ANSWER: fell from 10% to 7.3%", "7.3%", 1),
    ("ANSWER: fell from 10% to 7.3%", "10%", 0), ("no\nyes", "no", 0), ("no\nyes", "yes", 0),
    ("ANSWER: yes\n\nActually, the answer is no.", "yes", 0), ("ANSWER: yes\n\nActually, the answer is no.", "no", 1),
]

ANYWHERE = [
    ("first 17, then it is 18 I think", 18, 1), ("Tom sold 18 eggs in 3 days.", 18, 1),
    ("I got 18.\n\n(9 + 9)", 18, 1), ("17, 18", 18, 0), ("17 or 18", 18, 0),
    ("Tom has 7 and Ann 11. Together 18", 18, 1), ("The total is 18 eggs.", 18, 1),
    ("She makes 9 * 2 = 18 dollars", 18, 1), ("17 and 18", 18, 0), ("so 18% of them", 18, 1), ("-18", -18, 1),
    ("it is $18.50", 18.5, 1), ("#### 17\n18", 18, 0), ("We had 16, 9 and 18", 18, 0),
    ("72... 96", 96, 0), ("72. 73. 74.", 74, 0), ("72. Alternatively, 96.", 96, 0), ("72? Or is it 96?", 96, 0),
]

# fmt: on


def wrongly(reward, rows, score):
    return [(answer, gold) for answer, gold in rows if reward.score(answer, gold) != score]


def test_number_when_written_in_a_common_way_then_right():
    rows = [*((answer, 18) for answer in RIGHT_18), *((answer, 72) for answer in RIGHT_72), *RIGHT]

    assert wrongly(ExactNumber(), rows, 1.0) == []


def test_number_when_not_committed_to_then_wrong():
    rows = [*((answer, 18) for answer in WRONG_18), *((answer, 72) for answer in WRONG_72), *WRONG]

    assert wrongly(ExactNumber(), rows, 0.0) == []


@pytest.mark.parametrize("number", ["2", "5", "21", "640"])
def test_number_when_another_one_is_written_the_same_way_then_the_same_verdict(number):
    """No rule knows the numbers of the tables. Calculations are left out, since they would be wrong."""
    calculation = re.compile(
        r"[-+*=/x\u00d7\u2248]|1\.8|\b(?:minus|9|11|24|48|dozen|twice|eighteen|seventy-two|1\.8|72\.0|months)\b",
        re.IGNORECASE,
    )

    def vary(answers, old):
        return [
            (re.sub(rf"{old}(?![0-9])", number, answer), int(number))
            for answer in answers
            if not calculation.search(answer)
        ]

    assert wrongly(ExactNumber(), [*vary(RIGHT_18, 18), *vary(RIGHT_72, 72)], 1.0) == []
    assert wrongly(ExactNumber(), [*vary(WRONG_18, 18), *vary(WRONG_72, 72)], 0.0) == []


def test_figure_of_finance_when_written_in_a_common_way_then_scored_as_meant():
    assert [(answer, gold) for answer, gold, score in FINANCE if FinQA().score(answer, gold) != score] == []


def test_number_when_it_may_stand_anywhere_then_a_list_is_no_answer():
    reward = ExactNumber(anywhere=True)

    assert [(answer, gold) for answer, gold, score in ANYWHERE if reward.score(answer, gold) != score] == []


def test_number_when_a_relative_tolerance_is_given_then_it_is_exact_at_its_border():
    reward = ExactNumber(relative_tolerance=0.01)

    assert [reward.score(f"#### {answer}", 200) for answer in (198, 202, 202.001, -200)] == [1.0, 1.0, 0.0, 0.0]
