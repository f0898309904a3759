"""Where rollouts are sent, in an event loop whose time passes only while everything waits."""

import asyncio
import selectors

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk.errors import UnavailableError
from aws_rft_sdk.rollout.engines.places import Places

LONGEST = 10.0
"""Seconds of a quarantine."""


class Clock(selectors.DefaultSelector):
    """Waits for nothing: it moves the time on to where the next timer is due."""

    now = 0.0

    def select(self, timeout=None):
        assert timeout is not None, "everything waits, and no timer is set"
        if timeout > 0:
            self.now += timeout + 1e-6  # past the timer, whatever floats make of the sum
        return super().select(0)


def in_no_time(main):
    """Run a coroutine function; seconds cost nothing."""
    clock = Clock()
    loop = asyncio.SelectorEventLoop(clock)
    loop.time = lambda: clock.now
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


def time():
    return asyncio.get_running_loop().time()


def places_of(*names, **options):
    places = Places(**options)
    for name in names:
        places.add(name)
    return places


def test_acquire_when_places_work_then_the_least_loaded_is_next():
    async def main():
        places = places_of("a", "b", "c")
        first = [await places.acquire() for _ in range(6)]
        places.release("b", None)
        return first, await places.acquire()

    assert in_no_time(main) == (["a", "b", "c", "a", "b", "c"], "b")


def test_acquire_when_a_place_fails_at_once_then_it_attracts_no_work():
    async def main():
        places = places_of("broken", "a", "b", "c")
        dispatched = []
        for _ in range(400):
            while True:
                place = await places.acquire()
                dispatched.append(place)
                if place != "broken":
                    break
                places.release(place, "it cannot start")
            if place != "broken" and len(dispatched) % 3 == 0:
                places.release(place, None)
        return dispatched.count("broken"), len(dispatched)

    assert in_no_time(main) == (1, 401)


def test_acquire_when_a_quarantine_is_over_then_one_rollout_tries_the_place_until_it_answers():
    async def main():
        places = places_of("a", "b")
        loaded = [await places.acquire() for _ in range(8)]
        places.release("a", "died")
        before = [await places.acquire() for _ in range(2)]
        await asyncio.sleep(LONGEST)
        trial = [await places.acquire() for _ in range(3)]
        places.answered("a")
        return loaded.count("a"), before, trial, [await places.acquire() for _ in range(2)]

    loads, before, trial, after = in_no_time(main)
    assert (loads, before) == (4, ["b", "b"])
    assert trial == ["a", "b", "b"]
    assert after == ["a", "a"]


def test_release_when_all_rollouts_of_a_place_fail_together_then_that_is_one_failure():
    async def main():
        places = places_of("a", backoff=Backoff(1.0, LONGEST))
        for _ in range(50):
            await places.acquire()
        for _ in range(50):
            places.release("a", "died")
        await places.acquire()
        return time()

    assert 0.5 <= in_no_time(main) <= 1.001


def test_acquire_when_a_place_goes_on_failing_then_each_quarantine_is_longer_up_to_the_cap():
    async def main():
        places = places_of("a", backoff=Backoff(1.0, 8.0))
        waits = []
        for _ in range(6):
            began = time()
            await places.acquire()
            waits.append(time() - began)
            places.answered("a")  # it takes rollouts, and fails all the same
            places.release("a", "died")
        return waits

    waits = in_no_time(main)
    assert [seconds <= longest + 0.001 for seconds, longest in zip(waits, [0, 1, 2, 4, 8, 8], strict=True)] == [
        True
    ] * 6
    assert [seconds >= least for seconds, least in zip(waits, [0, 0.5, 1, 2, 4, 4], strict=True)] == [True] * 6


def test_acquire_when_a_place_succeeds_then_its_failures_are_forgotten():
    async def main():
        places = places_of("a", backoff=Backoff(1.0, 8.0))
        for error in ("died", "died", "died", None, "died"):
            await places.acquire()
            places.release("a", error)
        began = time()
        await places.acquire()
        return time() - began

    assert in_no_time(main) <= 1.001


@pytest.mark.parametrize("wakes", ["added", "answered", "released"])
def test_acquire_when_a_place_works_again_then_all_who_wait_get_one_at_once(wakes):
    async def main():
        places = places_of("a", "b", backoff=Backoff(30.0, 30.0))
        for place in [await places.acquire() for _ in range(3)][:2]:
            places.release(place, "died")
        waiting = [asyncio.ensure_future(places.acquire()) for _ in range(5)]
        await asyncio.sleep(1.0)
        if wakes == "added":
            places.add("c")
        elif wakes == "answered":
            places.answered("a")
        else:
            places.release("a", None)
        return {*(await asyncio.gather(*waiting))}, round(time(), 3)

    assert in_no_time(main) == ({"c" if wakes == "added" else "a"}, 1.0)


def test_acquire_when_no_place_works_for_a_minute_then_all_who_wait_are_told_the_last_failure():
    async def rollout(places):
        while True:
            place = await places.acquire()
            await asyncio.sleep(0.1)
            places.release(place, f"{place} cannot load the handler")

    async def main():
        places = places_of("a", "b")
        errors = await asyncio.gather(*[rollout(places) for _ in range(20)], return_exceptions=True)
        return errors, time()

    errors, seconds = in_no_time(main)
    assert {type(error) for error in errors} == {UnavailableError}
    assert all("50 s" in str(error) and "cannot load the handler" in str(error) for error in errors)
    assert 50.0 <= seconds <= 50.5


def test_acquire_when_there_is_no_place_then_it_waits_for_one_and_says_so_in_the_end():
    async def main():
        places = places_of()
        first = asyncio.ensure_future(places.acquire())
        await asyncio.sleep(49.0)
        places.add("a")
        assert await first == "a"
        places.remove("a")
        with pytest.raises(UnavailableError, match="no place at all"):
            await places.acquire()
        return round(time(), 3)

    assert in_no_time(main) == 50.0


def test_acquire_when_places_answered_in_between_then_patience_begins_anew():
    async def main():
        places = places_of("a", backoff=Backoff(5.0, 5.0))
        ended = []
        for _ in range(40):  # longer than patience, and each rollout is lost
            await places.acquire()
            places.answered("a")
            places.release("a", "died")
            ended.append(time())
        return ended[-1]

    assert in_no_time(main) > 90.0


def test_acquire_when_a_place_is_lost_after_long_rollouts_then_patience_begins_anew():
    async def main():
        places = places_of("a")
        await places.acquire()
        places.remove("a")
        waiting = asyncio.ensure_future(places.acquire())
        await asyncio.sleep(1.0)
        places.add("its successor")
        assert await waiting == "its successor"
        await asyncio.sleep(300.0)  # its rollouts take as long
        places.remove("its successor")
        waiting = asyncio.ensure_future(places.acquire())
        await asyncio.sleep(1.0)
        places.add("the third")
        return await waiting

    assert in_no_time(main) == "the third"


def test_add_when_the_place_has_failed_already_then_it_is_tried_later():
    async def main():
        places = places_of("a")
        places.add("broken", "it cannot start")
        places.add("a", "known, so this changes nothing")
        first = [await places.acquire() for _ in range(3)]
        await asyncio.sleep(LONGEST)
        return first, await places.acquire()

    assert in_no_time(main) == (["a", "a", "a"], "broken")


def test_remove_when_the_place_is_loaded_then_its_releases_change_nothing():
    async def main():
        places = places_of("a", "b")
        loaded = [await places.acquire() for _ in range(4)]
        places.remove("a")
        for place in loaded:
            places.release(place, "died" if place == "a" else None)
        places.add("a")
        return [await places.acquire() for _ in range(4)].count("a")

    assert in_no_time(main) == 2


STEPS = st.lists(
    st.tuples(st.sampled_from(["acquire", "fail", "succeed", "answer", "add", "remove", "pass"]), st.integers(0, 4)),
    max_size=60,
)


@given(STEPS)
def test_places_when_anything_happens_then_work_goes_to_the_least_loaded_of_those_that_may_have_it(steps):
    async def main():
        places, loads, barred, tried = Places(), {}, {}, set()

        def trust(number):
            barred.pop(number, None)
            tried.discard(number)

        def fail(number):
            loads[number] -= 1
            places.release(number, "died")
            if number in tried or number not in barred or time() >= barred[number] + LONGEST:
                barred[number] = time() + 0.25
            tried.discard(number)

        async def acquire():
            place = await places.acquire()
            assert loads[place] <= min(load for number, load in loads.items() if number not in barred)
            assert place not in tried
            if place in barred:
                assert time() >= barred[place]
                tried.add(place)
            loads[place] += 1

        for step, number in steps:
            if step == "add" and number not in loads:
                places.add(number)
                loads[number] = 0
            elif step == "remove" and number in loads:
                places.remove(number)
                del loads[number]
                trust(number)
            elif step == "pass":
                await asyncio.sleep(number)
            elif step == "acquire" and len(barred) < len(loads):
                await acquire()
            elif step == "answer" and number in loads:
                places.answered(number)
                trust(number)
            elif step == "fail" and loads.get(number):
                fail(number)
            elif step == "succeed" and loads.get(number):
                loads[number] -= 1
                places.release(number, None)
                trust(number)
        for number in [*tried]:
            fail(number)
        await asyncio.sleep(LONGEST)
        if len(barred) < len(loads):
            for _ in range(len(loads) * (max(loads.values()) + 1)):
                await acquire()
        assert tried == {*barred} or len(barred) == len(loads), "every quarantine ends"

    in_no_time(main)
