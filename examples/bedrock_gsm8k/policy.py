"""Instead of a model, offline: knows all answers, and gives the right one in three of five tries."""

from __future__ import annotations

import random
from typing import Any

from problems import problems

_ANSWERS = {problem["question"]: problem["answer"] for problem in problems()}


def policy(request: dict[str, Any]) -> str:
    """Answer a chat request. The same seed and question give the same answer."""
    asked = request["messages"][-1]["content"]
    dice = random.Random(f"{request.get('seed', 3)} {asked}")
    answer = next((answer for question, answer in _ANSWERS.items() if asked.startswith(question)), "#### 0")
    return answer if dice.random() < 0.6 else f"I would say\n#### {dice.randint(1, 99)}"
