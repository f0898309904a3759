"""The threads of an event loop: as many as there is work, hung ones apart, and nobody waits for those."""

import asyncio
import contextlib
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait

import pytest
from fakes import ga_payload

from aws_rft_sdk import RFTContext
from aws_rft_sdk.errors import HandlerError
from aws_rft_sdk.lifecycle.executor import DaemonThreads, hosting_handlers, in_sdk_thread

WAIT = 60


@pytest.fixture
def gate():
    gate = threading.Event()
    yield gate
    gate.set()


@contextlib.contextmanager
def rollout():
    """Be within a rollout that is over after the body."""
    with RFTContext.bind(ga_payload()) as context:
        yield context
    context.outcome = "failed"


def hang(threads, gate, count):
    """Run jobs that hang, of a rollout that is over. Returns when each of them has a thread."""
    begun = threading.Semaphore(0)
    with rollout():
        jobs = [threads.submit(lambda: (begun.release(), gate.wait(WAIT))) for _ in range(count)]
        for _ in range(count):
            assert begun.acquire(timeout=WAIT)
    return jobs


def test_jobs_when_they_wait_for_each_other_then_each_has_a_thread():
    meeting = threading.Barrier(100)
    threads = DaemonThreads()

    jobs = [threads.submit(meeting.wait, WAIT) for _ in range(100)]

    assert sorted(job.result(WAIT) for job in jobs) == list(range(100))
    assert threads.hung == 0


def test_jobs_when_threads_are_idle_then_they_are_used_again():
    threads = DaemonThreads()
    names = {threads.submit(lambda: threading.current_thread().ident).result(WAIT) for _ in range(200)}

    assert len(names) < 20


def test_jobs_when_threads_hang_then_those_do_not_count_up_to_a_limit(gate):
    threads = DaemonThreads(2, 3)
    hung = hang(threads, gate, 2) + hang(threads, gate, 1)

    assert (threads.hung, threads.is_exhausted) == (3, True)
    meeting = threading.Barrier(2)
    assert sorted(job.result(WAIT) for job in [threads.submit(meeting.wait, WAIT) for _ in range(2)]) == [0, 1]
    hung += hang(threads, gate, 2)  # in the places of busy ones
    waiting = threads.submit(int)
    assert not wait([waiting], timeout=0.3).done
    gate.set()
    assert waiting.result(WAIT) == 0
    assert [job.result(WAIT)[1] for job in hung] == [True] * 5
    assert threads.hung == 0


def test_job_when_it_waits_and_others_are_found_to_hang_then_it_gets_a_thread(gate):
    threads = DaemonThreads(1, 1)
    with rollout():
        threads.submit(gate.wait, WAIT)
        waiting = threads.submit(int)

    assert waiting.result(WAIT) == 0
    assert threads.hung == 1


def test_job_when_its_caller_is_cancelled_then_it_counts_as_hung(gate):
    async def left():
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()
        with hosting_handlers(loop) as threads:
            call = asyncio.ensure_future(
                asyncio.to_thread(lambda: (loop.call_soon_threadsafe(begun.set), gate.wait(WAIT)))
            )
            await begun.wait()
            before = threads.hung
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.sleep(0)
            return before, threads.hung

    assert asyncio.run(left()) == (0, 1)


def test_job_when_it_is_cancelled_before_it_begins_then_it_never_runs(gate):
    threads, ran = DaemonThreads(1), []
    first = threads.submit(gate.wait, WAIT)
    second = threads.submit(ran.append, 1)

    assert second.cancel()
    gate.set()
    assert first.result(WAIT)
    assert threads.submit(int).result(WAIT) == 0
    assert ran == []
    with pytest.raises(CancelledError):
        second.result()


def awaited_from_a_thread(error, within):
    """Return what an event loop makes of an error that a job raises."""

    def fail():
        raise error

    async def call():
        with hosting_handlers(asyncio.get_running_loop()), within:
            return await asyncio.wait_for(asyncio.gather(asyncio.to_thread(fail), return_exceptions=True), WAIT)

    [told] = asyncio.run(call())
    return told


NOT_IN_LOOPS = {
    "exit": SystemExit(3),
    "interrupt": KeyboardInterrupt(),
    "generator": GeneratorExit(),
    "next": StopIteration(),
}


@pytest.mark.parametrize("error", NOT_IN_LOOPS)
def test_job_when_a_loop_cannot_take_its_error_then_within_a_rollout_it_raises_another(error):
    told = awaited_from_a_thread(NOT_IN_LOOPS[error], rollout())

    assert isinstance(told, HandlerError)
    assert told.__cause__ is NOT_IN_LOOPS[error]


def test_job_when_it_raises_stop_iteration_outside_of_rollouts_then_nobody_waits_for_good():
    assert isinstance(awaited_from_a_thread(StopIteration(), contextlib.nullcontext()), HandlerError)


def test_shutdown_when_jobs_hang_then_only_the_others_are_awaited(gate):
    threads = DaemonThreads()
    hang(threads, gate, 3)
    begun, go_on = threading.Event(), threading.Event()
    other = threads.submit(lambda: (begun.set(), go_on.wait(WAIT)))
    assert begun.wait(WAIT)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(threads.shutdown)
        assert not wait([ended], timeout=0.3).done
        go_on.set()
        ended.result(WAIT)
    assert other.done()
    with pytest.raises(RuntimeError, match="after shutdown"):
        threads.submit(int)
    threads.shutdown()


def test_shutdown_when_told_so_then_jobs_that_have_not_begun_are_cancelled(gate):
    threads = DaemonThreads(1)
    threads.submit(gate.wait, WAIT)
    waiting = threads.submit(int)

    threads.shutdown(wait=False, cancel_futures=True)

    assert waiting.cancelled()


def test_loop_when_left_then_it_has_the_executor_of_before():
    async def names():
        loop = asyncio.get_running_loop()

        async def name():
            return await asyncio.to_thread(lambda: threading.current_thread().name.partition("_")[0])

        loop.set_default_executor(ThreadPoolExecutor(1, thread_name_prefix="mine"))
        with hosting_handlers(loop):
            within = await name()
        return within, await name()

    assert asyncio.run(names()) == ("rft-blocking", "mine")


def test_loop_when_two_use_it_then_the_first_to_leave_takes_nothing_away():
    async def both():
        loop = asyncio.get_running_loop()
        first, second = contextlib.ExitStack(), contextlib.ExitStack()
        threads = first.enter_context(hosting_handlers(loop)), second.enter_context(hosting_handlers(loop))
        first.close()
        within = await asyncio.to_thread(threading.current_thread)
        second.close()
        return threads[0] is threads[1], within.name, await asyncio.to_thread(threading.current_thread)

    shared, within, after = asyncio.run(both())
    assert (shared, within) == (True, "rft-blocking")
    assert after.name.startswith("asyncio")


def test_own_work_when_the_loop_has_no_thread_left_then_it_runs_elsewhere(gate):
    async def call():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        stuck = loop.run_in_executor(None, gate.wait, WAIT)
        with RFTContext.bind(ga_payload()) as context:
            seen = await in_sdk_thread(RFTContext.current)
        gate.set()
        return await stuck, seen is context

    assert asyncio.run(call()) == (True, True)


def test_interpreter_when_jobs_hang_then_it_ends():
    code = """
        import asyncio, threading
        from aws_rft_sdk.lifecycle.executor import hosting_handlers

        async def main():
            loop = asyncio.get_running_loop()
            begun = asyncio.Event()
            with hosting_handlers(loop):
                asyncio.ensure_future(
                    asyncio.to_thread(lambda: (loop.call_soon_threadsafe(begun.set), threading.Event().wait()))
                )
                await begun.wait()
                print("hangs")
        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=WAIT, check=True
    )

    assert done.stdout == "hangs\n"
