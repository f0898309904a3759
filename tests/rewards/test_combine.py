import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aws_rft_sdk.errors import ConfigurationError, RewardError
from aws_rft_sdk.rewards import (
    Clip,
    Component,
    Discounted,
    DominantOutcome,
    Gate,
    RewardResult,
    Rollout,
    TurnCredit,
    WeightedSum,
    discount_back,
    evaluate,
    prefixes,
    returns_to_go,
)

ROLLOUT = Rollout.of_answer("4", 4)


def constant(value):
    return lambda rollout: value


def fails(rollout):
    raise AssertionError


def components(result):
    return {component.name: (component.value, component.counts) for component in result.components}


NONE, ONE, FIVE = constant(None), constant(1.0), constant(5.0)
COMBINED = {
    "sum": (
        WeightedSum({"a": (ONE, 0.5), "b": constant(2), "length": (constant(7), 0)}),
        2.5,
        {"a": (1.0, True), "b": (2.0, True), "length": (7.0, False)},
    ),
    "a part that counts cannot be judged": (WeightedSum({"a": ONE, "b": NONE}), None, {"a": (1.0, True)}),
    "a metric cannot be judged": (WeightedSum({"a": ONE, "b": (NONE, 0.0)}), 1.0, {"a": (1.0, True)}),
    "components of a part": (WeightedSum({"a": WeightedSum({"x": ONE})}), 1.0, {"a": (1.0, True), "a/x": (1.0, False)}),
    "sum too high": (WeightedSum({"a": FIVE}, clip=(0, 1)), 1, {"a": (5.0, True)}),
    "sum too low": (WeightedSum({"a": (FIVE, -1)}, clip=(0, 1)), 0, {"a": (5.0, True)}),
    "clipped None": (WeightedSum({"a": NONE}, clip=(0, 1)), None, {}),
    "clip high": (Clip(FIVE, -1, 1), 1, {}),
    "clip low": (Clip(constant(-5), -1, 1), -1, {}),
    "clip between": (Clip(constant(0.5), -1, 1), 0.5, {}),
    "clip None": (Clip(NONE, -1, 1), None, {}),
    "gate open": (Gate(ONE, constant(0.7)), 0.7, {"gate": (1.0, False)}),
    "gate just open": (Gate(constant(0.5), constant(0.7)), 0.7, {"gate": (1.0, False)}),
    "gate closed": (Gate(constant(0.4), fails, otherwise=-0.1), -0.1, {"gate": (0.0, False)}),
    "gate that cannot be judged": (Gate(NONE, ONE), None, {}),
    "gate behind a gate": (
        Gate(ONE, Gate(constant(0), fails, otherwise=0.2)),
        0.2,
        {"gate": (1.0, False), "inner/gate": (0.0, False)},
    ),
    "large shaping": (
        DominantOutcome(ONE, {"s": constant(-9.0)}, bound=0.1),
        0.9,
        {"outcome": (1.0, True), "s": (-9.0, True), "shaping": (-0.1, False)},
    ),
    "outcome that cannot be judged": (DominantOutcome(NONE, {"s": constant(0.0)}), None, {"s": (0.0, True)}),
    "shaping that cannot be judged": (DominantOutcome(ONE, {"s": NONE}), None, {"outcome": (1.0, True)}),
}


@pytest.mark.parametrize("name", COMBINED)
def test_combination_when_called_then_its_reward_and_the_values_of_its_parts(name):
    combined, reward, parts = COMBINED[name]
    result = combined(ROLLOUT)
    assert (result.reward, components(result)) == (reward, parts)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-10, 10).filter(bool)), min_size=1, max_size=6))
def test_weighted_sum_when_parts_change_places_then_the_same(parts):
    named = [(f"p{number}", (constant(value), weight)) for number, (value, weight) in enumerate(parts)]
    assert (
        len({WeightedSum(dict(order))(ROLLOUT).reward for order in itertools.islice(itertools.permutations(named), 24)})
        == 1
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: WeightedSum({}),
        lambda: WeightedSum({"a": (constant(1), 0.0)}),
        lambda: WeightedSum({"a": (constant(1), 10**400)}),
        lambda: WeightedSum({"a": constant(1)}, clip=(1, 1)),
        lambda: Clip(constant(1), 1, 0),
        lambda: DominantOutcome(constant(1), {}, tiers=(1.0,)),
        lambda: DominantOutcome(constant(1), {}, tiers=(1.0, 1.0)),
        lambda: DominantOutcome(constant(1), {"outcome": constant(1)}),
        lambda: DominantOutcome(constant(1), {}, bound={0.0: 0.1}),
    ],
)
def test_combinations_when_made_without_sense_then_configuration_error(make):
    with pytest.raises(ConfigurationError):
        make()


OLD_GAME = (-1.5, -0.5, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5)
NEW_GAME = (-1.5, -0.5, 1.05, 1.15, 1.25, 1.35, 1.45, 1.55)


def test_dominant_outcome_when_the_old_shaping_of_the_word_game_is_used_then_refused():
    """It let slow and fast wins change places, and a slow win fall below the success threshold."""
    with pytest.raises(
        ConfigurationError, match=r"can reorder outcomes: 1\.0 may rise to 1\.15, 1\.1 may fall to 0\.95"
    ):
        DominantOutcome(constant(1.0), {}, tiers=OLD_GAME, bound=0.15)
    with pytest.raises(ConfigurationError, match="across the success threshold"):
        DominantOutcome(constant(1.0), {}, tiers=(-1.5, -0.5, 1.0, 1.5), bound=0.15, success_threshold=1.0)


def test_dominant_outcome_when_the_new_shaping_of_the_word_game_is_used_then_fast_win_slow_win_loss_never_played():
    bound = {tier: 0.04 if tier > 0 else 0.15 for tier in NEW_GAME}
    rewards = [
        DominantOutcome(constant(tier), {"s": constant(sign * 9)}, tiers=NEW_GAME, bound=bound, success_threshold=1.0)(
            ROLLOUT
        )
        for tier in NEW_GAME
        for sign in (-1, 1)
    ]
    values = [result.reward for result in rewards]
    assert values == sorted(values)
    assert min(value for value in values if value > 0) == pytest.approx(1.01)


@given(
    st.lists(st.integers(-100, 100), min_size=2, max_size=5, unique=True),
    st.floats(0, 60),
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=2),
)
def test_dominant_outcome_when_it_can_be_made_then_no_shaping_reorders_tiers(tiers, bound, shaping):
    tiers = sorted(map(float, tiers))
    try:
        for low, high in itertools.combinations(tiers, 2):
            worse, better = (
                DominantOutcome(constant(tier), {"s": constant(value)}, tiers=tiers, bound=bound)(ROLLOUT).reward
                for tier, value in zip((low, high), shaping, strict=True)
            )
            assert worse < better
    except ConfigurationError:
        assert any(low + bound >= high - bound for low, high in itertools.pairwise(tiers))


def test_dominant_outcome_when_the_outcome_is_no_tier_then_reward_error():
    with pytest.raises(RewardError, match="none of the tiers"):
        DominantOutcome(constant(0.5), {})(ROLLOUT)


TURNS = Rollout(
    (
        {"role": "user", "content": "count"},
        {"role": "assistant", "content": "1"},
        {"role": "tool", "content": "ok"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "go on"},
        {"role": "assistant", "content": "3"},
    ),
    ground_truth=3,
)


def progress(rollout):
    return int(rollout.answer) / 3 if rollout.answer else 0.0


def test_discounted_when_there_are_turns_then_the_last_gets_the_outcome():
    result = Discounted(constant(1.0), 0.5)(TURNS)
    assert (result.reward, result.turns_rewards) == (1.0, (0.25, 0.5, 1.0))


@pytest.mark.parametrize(("reward", "rollout"), [(None, TURNS), (1.0, Rollout(()))])
def test_discounted_when_unjudged_or_without_turns_then_no_rewards_of_turns(reward, rollout):
    result = Discounted(constant(reward))(rollout)
    assert (result.reward, result.turns_rewards) == (reward, None)


def test_prefixes_when_tools_answer_then_they_belong_to_the_turn_before():
    assert [len(prefix.messages) for prefix in prefixes(TURNS)] == [3, 5, 6]
    assert prefixes(TURNS)[-1] == TURNS
    assert prefixes(Rollout(({"role": "user", "content": "a"},))) == ()


def test_turn_credit_when_progress_is_made_then_each_turn_gets_its_part_and_they_add_up():
    result = TurnCredit(progress)(TURNS)
    assert result.turns_rewards == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert result.reward == 1.0
    assert sum(TurnCredit(progress, start=0.5)(TURNS).turns_rewards) == pytest.approx(0.5)


def test_turn_credit_when_a_lost_game_made_progress_on_the_way_then_the_credit_is_taken_back():
    def lost(rollout):
        return 0.0 if rollout.answer == "3" else progress(rollout)

    result = TurnCredit(lost)(TURNS)
    assert result.reward == 0.0
    assert sum(result.turns_rewards) == pytest.approx(0.0)


def test_turn_credit_when_discounted_then_returns_to_go():
    assert TurnCredit(progress, discount=1.0)(TURNS).turns_rewards == pytest.approx((1.0, 2 / 3, 1 / 3))


def test_turn_credit_when_a_turn_cannot_be_judged_then_none():
    assert TurnCredit(lambda rollout: None if rollout.answer == "2" else 1.0)(TURNS).reward is None
    assert TurnCredit(constant(0.5))(Rollout(())).reward == 0.5


@given(st.lists(st.floats(-100, 100), max_size=8), st.floats(0, 1))
def test_returns_to_go_when_computed_then_the_law_holds(rewards, discount):
    returns = returns_to_go(rewards, discount)
    assert len(returns) == len(rewards)
    for turn, reward in enumerate(rewards):
        rest = returns[turn + 1] if turn + 1 < len(returns) else 0.0
        assert returns[turn] == pytest.approx(reward + discount * rest)
    if rewards:
        only_last = [0.0] * (len(rewards) - 1) + [rewards[-1]]
        assert returns_to_go(only_last, discount) == pytest.approx(discount_back(rewards[-1], len(rewards), discount))


def test_evaluate_when_a_reward_gives_any_form_then_a_result():
    assert evaluate(constant(1), ROLLOUT) == RewardResult(1.0)
    assert evaluate(constant(None), ROLLOUT) == RewardResult(None)
    assert evaluate(constant(RewardResult(0.5)), ROLLOUT) == RewardResult(0.5)
    for bad in (True, "1", float("nan"), float("inf")):
        with pytest.raises(RewardError):
            evaluate(constant(bad), ROLLOUT)
    with pytest.raises(RewardError, match="names of their own"):
        RewardResult(1.0, (Component("a", 1), Component("a", 2)))
