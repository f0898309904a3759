"""Word problems with worked answers, in the shapes of GSM8K: an answer ends in a line `#### 42`."""

from __future__ import annotations

import random

PEOPLE = ("Amara", "Bruno", "Chen", "Dilnoza", "Efe", "Freya")
THINGS = ("notebooks", "jars of honey", "tulips", "kites", "bars of soap")


def problems(count: int = 120, seed: int = 0) -> list[dict[str, str]]:
    """Return problems, no two alike. The same seed gives the same ones."""
    dice = random.Random(seed)
    made: dict[str, str] = {}
    while len(made) < count:
        question, answer = dice.choice((_sale, _share, _week))(dice)
        made.setdefault(question, answer)
    return [{"question": question, "answer": answer} for question, answer in made.items()]


def _sale(dice: random.Random) -> tuple[str, str]:
    who, what, some, price, gone = dice.choice(PEOPLE), dice.choice(THINGS), dice.randint(5, 40), dice.randint(2, 9), 3
    left = some - gone
    question = f"{who} brings {some} {what} to the market, gives {gone} away and sells the rest at ${price} each. "
    return question + "How many dollars is that?", (
        f"{some}-{gone}=<<{some}-{gone}={left}>>{left} {what} are sold.\n"
        f"They bring {left}*{price}=$<<{left}*{price}={left * price}>>{left * price}.\n#### {left * price}"
    )


def _share(dice: random.Random) -> tuple[str, str]:
    who, what, boxes, friends = dice.choice(PEOPLE), dice.choice(THINGS), dice.randint(2, 9), dice.randint(2, 6)
    each = dice.randint(2, 9) * friends
    question = f"{who} has {boxes} boxes of {each} {what} and shares them equally among {friends} friends. "
    total = boxes * each
    return question + "How many does each friend get?", (
        f"There are {boxes}*{each}=<<{boxes}*{each}={total}>>{total} {what}.\n"
        f"Each friend gets {total}/{friends}=<<{total}/{friends}={total // friends}>>{total // friends}.\n"
        f"#### {total // friends}"
    )


def _week(dice: random.Random) -> tuple[str, str]:
    who, what, daily, days = dice.choice(PEOPLE), dice.choice(THINGS), dice.randint(100, 400), dice.randint(3, 6)
    question = f"{who} packs {daily} {what} a day, {days} days a week. How many {what} are packed in two weeks?"
    week = daily * days
    return question, (
        f"In a week {daily}*{days}=<<{daily}*{days}={week}>>{week:,} are packed.\n"
        f"In two weeks 2*{week}=<<2*{week}={2 * week}>>{2 * week:,}.\n#### {2 * week:,}"
    )
