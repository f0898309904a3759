"""The filter language: what it means, what it says of mistakes, and that SQL does what it means."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.failures import FailureKind, RolloutStatus
from aws_rft_sdk.runs.looking import RunView
from aws_rft_sdk.runs.where import (
    METRICS,
    NUMBERS,
    OUTCOMES,
    ROLES,
    TEXTS,
    And,
    Comparison,
    Not,
    Or,
    both,
    needs_turns,
    parse_where,
)

from .making import Database, calculating, calling, record, said, write_records

A, B, C = (Comparison("reward", "<", 0.5), Comparison("tool", "=", "calculator"), Comparison("error", "=", None))

MEANINGS = {
    "reward<0.5": A,
    " reward  <\n.5 ": A,
    "reward<0.5 and tool=calculator": And((A, B)),
    "reward<0.5 AND tool='calculator'": And((A, B)),
    "reward<.5 or tool=calculator and error=none": Or((A, And((B, C)))),
    "(reward<.5 or tool=calculator) and error=None": And((Or((A, B)), C)),
    "not reward<.5 and tool=calculator": And((Not(A), B)),
    "not (reward<.5 and tool=calculator)": Not(And((A, B))),
    "not not reward<.5": Not(Not(A)),
    "((reward<0.5))": A,
    "reward>=-1e-3": Comparison("reward", ">=", -0.001),
    "metrics.format!=1": Comparison("metrics.format", "!=", 1.0),
    "metrics.'two words'=1": Comparison("metrics.two words", "=", 1.0),
    "metrics.eval/pass@1>0": Comparison("metrics.eval/pass@1", ">", 0.0),
    "error='none'": Comparison("error", "=", "none"),
    r"prompt~'it\'s \\ \"'": Comparison("prompt", "~", "it's \\ \""),
    "text.tool~\"a 'b'\"": Comparison("text.tool", "~", "a 'b'"),
    "outcome=FAILED": Comparison("outcome", "=", "FAILED"),
    "id=not-started-0-1": Comparison("id", "=", "not-started-0-1"),
    "prompt~7": Comparison("prompt", "~", "7"),
    "tool~käse": Comparison("tool", "~", "käse"),
}


@pytest.mark.parametrize("text", MEANINGS)
def test_filter_when_parsed_then_it_means_this(text):
    assert parse_where(text) == MEANINGS[text]


MISTAKES = {
    "": (1, "a field is missing"),
    "   ": (4, "a field is missing"),
    "rewrd<1": (1, "Did you mean reward?"),
    "reward<1 and outcom=failed": (14, "Did you mean outcome?"),
    "metrics.=1": (1, "no field 'metrics.'"),
    "reward": (7, "an operator is missing"),
    "reward<": (8, "a value is missing"),
    "reward<and": (8, "a value is missing"),
    "reward==1": (8, "type a single ="),
    "reward<high": (8, "reward is a number"),
    "reward<'1'": (8, "reward is a number"),
    "reward<nan": (8, "reward is a number"),
    "reward<1e999": (8, "reward is a number"),
    "reward<1_0": (8, "reward is a number"),
    "reward~1": (7, "reward is a number"),
    "reward<none": (7, "none has no size"),
    "tool<a": (5, "tool is a text"),
    "outcome=succeeded": (9, "completed, failed, unreported, unrewarded, open"),
    "text=hello": (5, "type text~'some words'"),
    "text~none": (5, "type text~'some words'"),
    "text~'?!'": (6, "no letter and no digit"),
    "(reward<1": (10, "the bracket at character 1 is not closed"),
    "reward<1)": (9, "join comparisons with `and` or `or`"),
    "reward<1 tool=a": (10, "join comparisons with `and` or `or`"),
    "reward<1 and": (13, "a field is missing"),
    "not": (4, "a field is missing"),
    "prompt~'open": (8, "this quote is not closed"),
    "reward<1; drop table rollouts": (8, "reward is a number"),
    "reward !< 1": (8, "'!' is unknown"),
    "not " * 60 + "reward<1": (205, "more than 50"),
    "(" * 60 + "reward<1": (52, "more than 50"),
    " and ".join(["reward<1"] * 101): (1301, "at most 100"),
}


@pytest.mark.parametrize("text", MISTAKES, ids=lambda text: text[:30])
def test_filter_when_mistaken_then_the_place_and_the_remedy_are_named(text):
    place, remedy = MISTAKES[text]
    with pytest.raises(ConfigurationError) as caught:
        parse_where(text)
    assert f"at character {place}:" in str(caught.value)
    assert remedy in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_filter_when_it_is_no_unicode_then_that_is_said():
    with pytest.raises(ConfigurationError, match="UTF-8"):
        parse_where("prompt~'\udcff'")


def test_filter_when_it_looks_at_messages_then_it_needs_turns():
    assert [needs_turns(parse_where(text)) for text in ("reward<1", "not tool=a", "reward<1 or (text.user~a)")] == [
        *(False, True, True)
    ]
    assert not needs_turns(None)
    assert both(None, A, None) == A
    assert both(A, B) == And((A, B))
    assert both(None) is None


# --- laws ------------------------------------------------------------------------------------------------------------

WORDS = ("a", "calculator", "Search", "none", "and", "two words", "it's", 'say "so"', "back\\slash", "%", "käse", "7")
numbers = st.sampled_from([0.0, 0.5, 1.0, -1.0, 2.0, 3.0, 1e22, 1e-7]) | st.floats(
    allow_nan=False, allow_infinity=False
)
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
metric_names = st.sampled_from(["format", "two words", "not"]) | any_text.filter(bool)
comparisons = st.one_of(
    st.builds(
        Comparison,
        st.sampled_from(NUMBERS) | metric_names.map(METRICS.__add__),
        st.sampled_from(["<", "<=", ">", ">=", "=", "!="]),
        numbers,
    ),
    st.builds(Comparison, st.sampled_from(("reward", "error", "tool")), st.sampled_from(["=", "!="]), st.none()),
    st.builds(
        Comparison,
        st.sampled_from(("error", "tool", "id", "trajectory_id", "prompt")),
        st.sampled_from(["=", "!=", "~"]),
        st.sampled_from(WORDS) | any_text,
    ),
    st.builds(Comparison, st.just("outcome"), st.sampled_from(["=", "!="]), st.sampled_from(OUTCOMES)),
    st.builds(
        Comparison, st.sampled_from(TEXTS), st.just("~"), st.sampled_from(["a", "Let me", "it is 4", "blue", "six"])
    ),
)
filters = st.recursive(
    comparisons,
    lambda parts: st.one_of(
        st.builds(Not, parts),
        *(st.builds(kind, st.lists(parts, min_size=2, max_size=3).map(tuple)) for kind in (And, Or)),
    ),
    max_leaves=8,
)


@given(filters)
def test_filter_when_printed_and_parsed_then_it_is_the_same(where):
    assert parse_where(str(where)) == where


SENTENCES = ("It is 42.", "Let me see, a blue one", "six and a half", "nothing")
TOOLS = ("calculator", "Search", "search")


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    """A run of 60 rollouts that differ in all that can be asked for, and what was said in each, by role."""
    folder = tmp_path_factory.mktemp("run")
    rng = random.Random(7)
    texts = {}
    records = []
    with Database(folder) as database:
        for number in range(60):
            name = f"{'a' if number % 2 else 'b'}{number}"
            question, answer = rng.choice(SENTENCES), rng.choice(SENTENCES)
            turns = [*calculating(question, rng.choice(["42", "blue", "six"]))] if number % 5 else []
            if turns:
                messages, last = turns[-1]
                tool = rng.choice(TOOLS)
                turns.append(
                    ([*messages, last, said("user", "go on")], calling(answer, (tool, '{"q": "six"}'), first=1))
                )
            said_by = {role: [] for role in ROLES}
            tools = set()
            for message in [*turns[-1][0], turns[-1][1]] if turns else []:
                said_by[message["role"]].append(message["content"])
                for call in message.get("tool_calls", ()):
                    tools.add(call["function"]["name"])
                    said_by["call"].append(f"{call['function']['name']} {call['function']['arguments']}")
            texts[name] = (said_by, tools)
            if number % 7:
                database.add(name, turns, prompt=rng.choice(WORDS))
            else:
                texts[name] = ({role: [] for role in ROLES}, set())
            failed = rng.random() < 0.3
            records.append(
                record(
                    *(name, number // 4, number % 4, rng.choice([0.0, 0.5, 1.0, -1.0, None])),
                    turns=rng.randint(0, 3),
                    seconds=rng.choice([0.5, 2.0, 3.0]),
                    status=RolloutStatus.FAILED if failed else RolloutStatus.COMPLETED,
                    failure=rng.choice([FailureKind.TOOL, FailureKind.AGENT]) if failed else None,
                    error=rng.choice(["KeyError: a calculator", "ValueError: 7"]) if failed else None,
                    metrics={"format": rng.choice([0.0, 1.0]), "two words": 3.0} if number % 3 else {},
                    prompt_tokens=(1, 2) if number % 2 else None,
                    response_tokens=(3, 4) if number % 4 else None,
                )
            )
    write_records(folder, *records)
    with RunView.open(folder) as opened:
        opened.update()
        yield opened, {one.trajectory_id: one for one in records}, texts


def holds(where, one, kept, texts):
    """Say whether a rollout passes, as the module's docstring puts it."""
    if isinstance(where, Not):
        return not holds(where.part, one, kept, texts)
    if isinstance(where, And | Or):
        return (all if isinstance(where, And) else any)(holds(part, one, kept, texts) for part in where.parts)
    said_by, tools = texts
    sign, wanted = where.operator, where.value
    if sign == "!=":
        return not holds(Comparison(where.field, "=", wanted), one, kept, texts)
    if where.field in TEXTS:
        roles = ROLES if where.field == "text" else [where.field.removeprefix("text.")]
        return any(words_in(wanted, text) for role in roles for text in said_by[role])
    if where.field == "tool":
        values = sorted(tools)
        return (
            not values if wanted is None else any(v == wanted if sign == "=" else low(wanted) in low(v) for v in values)
        )
    if where.field == "error":
        kind, text = one.error_kind, one.error
        if wanted is None:
            return kind is None
        if text is None:
            return False
        names = {low(kind), low(text.partition(":")[0])}
        return low(wanted) in names if sign == "=" else any(low(wanted) in low(part) for part in (kind, text))
    if where.field in ("id", "trajectory_id"):
        return one.trajectory_id.startswith(wanted) if sign == "=" else low(wanted) in low(one.trajectory_id)
    if where.field.startswith(METRICS):
        value = kept.metrics.get(where.field.removeprefix(METRICS))
    else:
        value = getattr(one, where.field)
    if wanted is None or value is None:
        return wanted is None and value is None
    if isinstance(value, str):
        return low(value) == low(wanted) if sign == "=" else low(wanted) in low(value)
    return {
        "<": value < wanted,
        "<=": value <= wanted,
        ">": value > wanted,
        ">=": value >= wanted,
        "=": value == wanted,
    }[sign]


def low(text):
    return "".join(c.lower() if c.isascii() else c for c in text)


def words_in(phrase, text):
    """Say whether the words of a phrase stand in a text in this order, the last one maybe going on."""
    split = lambda value: "".join(c.lower() if c.isalnum() else " " for c in value).split()  # noqa: E731
    wanted, found = split(phrase), split(text)
    return any(
        found[at : at + len(wanted) - 1] == wanted[:-1] and found[at + len(wanted) - 1].startswith(wanted[-1])
        for at in range(len(found) - len(wanted) + 1)
    )


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(where=filters)
def test_filter_when_run_as_sql_then_it_finds_what_a_naive_reading_finds(view, where):
    opened, records, texts = view
    everything = opened.rollouts(limit=1000).rollouts
    assert len(everything) == 60

    found = opened.rollouts(where, limit=1000)

    expected = {
        one.trajectory_id
        for one in everything
        if holds(where, one, records[one.trajectory_id], texts[one.trajectory_id])
    }
    assert {one.trajectory_id for one in found.rollouts} == expected
    assert (found.matched, found.total) == (len(expected), 60)
