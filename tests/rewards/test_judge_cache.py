"""The verdict cache: one verdict for one question, over threads, processes and restarts."""

from __future__ import annotations

import pickle
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
from fakes import Recorded, Service, error

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards import Judge, JudgeCost
from aws_rft_sdk.rewards.judge_rubrics import single_score
from aws_rft_sdk.rewards.judge_verdicts import VerdictCache
from aws_rft_sdk.rewards.rollout import Rollout

from .judging import (
    MODEL_ID,
    RUBRIC,
    answering,
    close_judges,  # noqa: F401 - a fixture
    grades,
    make_judge,
    make_strands,
    schema_of,
)

ROLLOUT = Rollout.of_answer("4", "4", "2+2?")


@pytest.mark.parametrize("kind", ["openai", "async_openai", "strands"])
def test_judge_when_judged_before_then_cached_verdict_without_a_call(
    service: Service, kind: str, tmp_path: Path
) -> None:
    service.policy = answering(grades())
    first = make_judge(service, kind, cache=tmp_path / "deep" / "verdicts.db")
    result = first(ROLLOUT)
    first.close()
    service.policy = lambda request: error(500)

    again = make_judge(service, kind, cache=tmp_path / "deep" / "verdicts.db")

    assert again(ROLLOUT) == result
    assert (len(service.requests), again.cost) == (1, JudgeCost(cache_hits=1))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"rubric": single_score("Judge.", "Good or bad.")}, id="rubric"),
        pytest.param({"model_id": "judge-2"}, id="model"),
        pytest.param({"params": {"temperature": 0}}, id="params"),
        pytest.param({"rollout": Rollout.of_answer("5", "4", "2+2?")}, id="answer"),
        pytest.param({"rollout": Rollout.of_answer("4", "5", "2+2?")}, id="reference"),
        pytest.param({"rollout": Rollout.of_answer("4", "4", "1+3?")}, id="question"),
    ],
)
def test_judge_when_anything_about_the_question_differs_then_it_is_asked(
    service: Service, tmp_path: Path, change: dict[str, Any]
) -> None:
    def any_verdict(request: Recorded) -> dict[str, Any]:
        properties = schema_of(request)["properties"]
        return {n: {"string": "", "integer": 5, "boolean": False}[p["type"]] for n, p in properties.items()}

    service.policy = answering(any_verdict)
    rollout = change.pop("rollout", ROLLOUT)
    make_judge(service, cache=tmp_path / "verdicts.db")(ROLLOUT)
    make_judge(service, cache=tmp_path / "verdicts.db", **change)(rollout)
    assert len(service.requests) == 2


def test_judge_when_it_fails_then_the_failure_is_not_kept(service: Service, tmp_path: Path) -> None:
    service.script(error(401))
    service.policy = answering(grades())
    judge = make_judge(service, cache=tmp_path / "verdicts.db")
    assert judge(ROLLOUT).reward is None
    assert judge(ROLLOUT).reward is not None


@pytest.mark.parametrize("kept", ["", "{}", '{"explanation": "", "correct": 99, "clear": 1, "rude": false}'])
def test_judge_when_cached_verdict_breaks_the_schema_then_it_is_asked(
    service: Service, tmp_path: Path, kept: str
) -> None:
    service.policy = answering(grades())
    judge = make_judge(service, cache=tmp_path / "verdicts.db")
    expected = judge(ROLLOUT)
    judge.close()
    with sqlite3.connect(tmp_path / "verdicts.db") as connection:
        connection.execute("UPDATE verdicts SET verdict = ?", (kept,))
    connection.close()

    assert judge(ROLLOUT) == expected
    assert len(service.requests) == 2
    assert judge(ROLLOUT) == expected
    assert len(service.requests) == 2  # the broken one was replaced


JUDGE_ELSEWHERE = """
import pickle, sys
from aws_rft_sdk.rewards.judge import Judge
from aws_rft_sdk.rewards.rollout import Rollout
with open(sys.argv[1], "rb") as file, pickle.load(file) as judge:
    results = [judge(Rollout.of_answer("4", "4", "2+2?")), judge(Rollout.of_answer(sys.argv[2]))]
    print(results[0].reward, results[1].reward, judge.cost.calls, judge.cost.cache_hits)
"""


@pytest.mark.parametrize("kind", ["openai", "strands"])
def test_judge_when_pickled_to_other_processes_then_they_share_the_cache(
    service: Service, kind: str, tmp_path: Path
) -> None:
    service.policy = answering(grades())
    factory = partial(openai.OpenAI, base_url=f"{service.endpoint}/v1", api_key="test")
    source = factory if kind == "openai" else make_strands(service)
    judge = Judge(source, RUBRIC, model_id=MODEL_ID, cache=tmp_path / "verdicts.db")
    judge(ROLLOUT)
    (tmp_path / "judge.pickle").write_bytes(pickle.dumps(judge))

    def elsewhere(text: str) -> str:
        arguments = [sys.executable, "-W", "error", "-c", JUDGE_ELSEWHERE, str(tmp_path / "judge.pickle"), text]
        return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout

    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(elsewhere, ["one", "two"]))

    assert outputs == ["0.7 0.7 1 1\n"] * 2
    assert len(service.requests) == 3
    assert judge(Rollout.of_answer("one")).reward == 0.7
    assert judge.cost.cache_hits == 1


def test_judge_when_many_threads_ask_the_same_then_all_get_one_verdict(service: Service, tmp_path: Path) -> None:
    counter = iter(range(1000))
    service.policy = answering(lambda request: grades(correct=next(counter) % 11))
    judge = make_judge(service, cache=tmp_path / "verdicts.db")
    with ThreadPoolExecutor(16) as pool:
        results = set(pool.map(judge, [ROLLOUT] * 64))
    assert len(results) == 1
    cost = judge.cost
    assert cost.calls + cost.cache_hits == 64


def put_many(path: Path, worker: int) -> str:
    code = (
        "import sys; from pathlib import Path; from aws_rft_sdk.rewards.judge_verdicts import VerdictCache\n"
        "cache = VerdictCache(Path(sys.argv[1]))\n"
        "print(*[cache.put(str(n), sys.argv[2]) for n in range(50)]); cache.close()"
    )
    arguments = [sys.executable, "-W", "error", "-c", code, str(path), str(worker)]
    return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout


def test_cache_when_processes_put_at_once_then_the_first_verdict_stays_for_all(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.db"
    with ThreadPoolExecutor(3) as pool:
        outputs = list(pool.map(lambda worker: put_many(path, worker), range(3)))
    cache = VerdictCache(path)
    assert len(cache) == 50
    assert set(outputs) == {" ".join(cache.get(str(n)) or "" for n in range(50)) + "\n"}
    assert cache.get("unknown") is None
    assert pickle.loads(pickle.dumps(cache)).path == path
    cache.close()


@pytest.mark.parametrize("content", [b"no database" * 100, None])
def test_cache_when_file_is_unusable_then_configuration_error_names_it(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "verdicts.db"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"verdicts\.db cannot be used"):
        VerdictCache(path).get("key")


WRITE_FOR_EVER = """
import itertools, sys
from aws_rft_sdk.rewards.judge_verdicts import VerdictCache
cache = VerdictCache(sys.argv[1])
for n in itertools.count():
    print(n, cache.put(str(n), sys.argv[2]), flush=True)
"""


def test_cache_when_writers_are_killed_then_every_verdict_that_was_told_stays(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.db"
    told: dict[str, str] = {}
    for round_ in "abc":
        command = [sys.executable, "-c", WRITE_FOR_EVER, str(path), round_ * 500]
        writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        for writer in writers:
            assert writer.stdout is not None
            lines = [writer.stdout.readline().split() for _ in range(20)]
            writer.kill()
            lines += [line.split() for line in writer.communicate()[0].splitlines(keepends=True) if "\n" in line]
            for key, verdict in lines:
                assert told.setdefault(key, verdict) == verdict
    cache = VerdictCache(path)
    assert {key: cache.get(key) for key in told} == told
    cache.close()
