"""The pages without a browser: who may see them, and whether their figures are those of the records."""

from __future__ import annotations

import html
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pytest
import requests
from certificates import make_certificate
from runs.making import Database, calculating, write_records
from viewer.browsing import KEY, served

from aws_rft_sdk.runs import RolloutRecord, RolloutStatus, measure
from aws_rft_sdk.runtime import LocalRuntime, standin

REWARDS = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.25, 1.0]


def record(number: int, reward: float | None, **fields: object) -> RolloutRecord:
    values = {"turns": 2, "seconds": 1.0 + number, "status": RolloutStatus.COMPLETED, **fields}
    return RolloutRecord(f"t-{number:03d}", number // 4, number % 4, reward, **values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    records = [record(number, reward) for number, reward in enumerate(REWARDS)]
    failed = {"status": RolloutStatus.FAILED, "error": "ValueError: no", "failure": "tool", "traceback": "Traceback: x"}
    records.append(record(8, None, **failed))
    with Database(path) as database:
        for one in records:
            database.add(
                one.trajectory_id,
                calculating(f"Question {one.prompt_index}?"),
                rewards=None if one.reward is None else (one.reward,),
            )
    write_records(path, *records)
    return path


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with served(folder) as found:
        yield found


@pytest.fixture(scope="module")
def session(address: str) -> requests.Session:
    found = requests.Session()
    assert found.get(f"{address}/?key={KEY}", timeout=20).status_code == 200
    return found


def text_of(session: requests.Session, url: str) -> str:
    answer = session.get(url, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.text


# --- who may see them ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/", "/view/0", "/view/0/rollouts", "/view/0/rollout.json?id=t-000", "/view/0/events"]
)
@pytest.mark.parametrize("key", ["", "?key=", "?key=wrong", f"?key={KEY}x"])
def test_pages_when_the_key_is_not_presented_then_nothing_is_shown(address: str, path: str, key: str) -> None:
    answer = requests.get(address + path + (key if "?" not in path else key.replace("?", "&")), timeout=20)
    assert answer.status_code == 403
    assert "t-000" not in answer.text


def test_key_when_presented_then_it_moves_to_a_cookie_that_scripts_cannot_read(
    address: str,
) -> None:
    answer = requests.get(f"{address}/view/0/rollouts?sort=reward&key={KEY}", timeout=20, allow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/view/0/rollouts?sort=reward"
    assert {"HttpOnly", "SameSite=strict"} <= {part.strip() for part in answer.headers["set-cookie"].split(";")}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_pages_when_the_host_is_another_then_they_are_refused(
    address: str, session: requests.Session, host: str
) -> None:
    assert session.get(f"{address}/view/0", headers={"Host": host}, timeout=20).status_code in (400, 403)


def test_pages_when_shown_then_their_policy_allows_nothing_from_elsewhere(
    address: str, session: requests.Session
) -> None:
    headers = session.get(f"{address}/view/0", timeout=20).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert not re.search(r"unsafe|https?:|\*", policy)
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/view/7", 404),
        ("/view/0/groups/99", 404),
        ("/view/0/rollout?id=nobody", 404),
        ("/view/0/rollout.json?id=nobody", 404),
        ("/view/0/rollouts?where=reward<<1", 400),
        ("/view/0/rollouts?sort=nothing", 400),
        ("/view/0/rollouts?page=999999999999", 200),
        ("/view/0/rollouts?page=x", 200),
        ("/view/static/../app.py", 404),
        ("/view/static/app.py", 404),
    ],
)
def test_pages_when_asked_for_what_is_not_there_then_they_say_so(
    address: str, session: requests.Session, path: str, status: int
) -> None:
    assert session.get(address + path, timeout=20).status_code == status


# --- figures ---------------------------------------------------------------------------------------------------------


def test_overview_when_shown_then_its_figures_are_those_of_the_records(address: str, session: requests.Session) -> None:
    page = text_of(session, f"{address}/view/0")
    shown = dict(re.findall(r"<dt>([^<]+)</dt><dd>(?:<a[^>]*>)?([^<]+)", page))
    expected = measure([record(number, reward) for number, reward in enumerate(REWARDS)])
    assert shown["Rollouts"] == "9"
    assert float(shown["Mean reward"]) == pytest.approx(fmean(REWARDS), abs=1e-3)
    for passed in expected.pass_k:
        assert shown[f"pass@{passed.k}"] == f"{passed.pass_at.value:.1%}"
    assert shown["Dead groups"] == "0.0%"


def test_histogram_when_a_bar_is_followed_then_it_leads_to_just_its_rollouts(
    address: str, session: requests.Session
) -> None:
    page = text_of(session, f"{address}/view/0")
    bars = re.findall(r'<a href="([^"]+)" aria-label="reward ([\d.]+): (\d+) rollouts"', page)
    assert {float(value): int(count) for _, value, count in bars} == {0.0: 3, 0.25: 1, 1.0: 4}
    for href, _, count in bars:
        found = text_of(session, address + href.replace("&amp;", "&"))
        assert f"<small>{count} of 9</small>" in found


def test_search_when_a_role_is_chosen_then_only_what_it_said_is_found(address: str, session: requests.Session) -> None:
    for role, count in (("user", 9), ("tool", 0), ("", 9)):
        assert f"<small>{count} of 9</small>" in text_of(
            session, f"{address}/view/0/rollouts?text=question&role={role}"
        )


def test_rollout_when_shown_then_all_that_was_said_is_there(address: str, session: requests.Session) -> None:
    page = text_of(session, f"{address}/view/0/rollout?id=t-008")
    for text in ("Question 2?", "calculator", "6 * 7", "It is 42.", "ValueError: no", "Traceback: x", "span-8-0"):
        assert text in page
    raw = session.get(f"{address}/view/0/rollout.json?id=t-008", timeout=20).json()
    assert raw["trajectory_id"] == "t-008"
    assert [turn["response"]["choices"][0]["message"]["content"] for turn in raw["recorded"]] == [
        "Let me see.",
        "It is 42.",
    ]


def test_comparison_when_shown_then_the_biggest_regression_is_first(tmp_path: Path, folder: Path) -> None:
    other = tmp_path / "other"
    write_records(other, *(record(number, 1.0 if number < 4 else 0.0) for number in range(8)))
    with served(folder, other) as address:
        session = requests.Session()
        page = session.get(f"{address}/?key={KEY}", timeout=20).text
    assert re.findall(r'<a href="([^"]+)" aria-current', page) == ["/"]
    changes = [float(value) for value in re.findall(r"<td>([+-][\d.]+)</td>", page)]
    assert changes == pytest.approx([-fmean(REWARDS[4:]), 1 - fmean(REWARDS[:4])], abs=1e-3)


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("outcome=failed", 1),
        ("error=tool", 1),
        ("tool=calculator", 9),
        ("reward_from=0.2&reward_to=0.9", 1),
        ("seconds_from=5", 5),
        ("turns_from=3", 0),
        ("outcome=completed&where=reward%3D1", 4),
    ],
)
def test_list_when_choices_are_made_then_only_such_rollouts_are_there(
    address: str, session: requests.Session, query: str, count: int
) -> None:
    assert f"<small>{count} of 9</small>" in text_of(session, f"{address}/view/0/rollouts?{query}")


def test_links_when_all_are_followed_then_each_leads_to_a_page(address: str, session: requests.Session) -> None:
    waiting, seen = ["/"], set[str]()
    while waiting:
        page = text_of(session, address + waiting.pop())
        found = {html.unescape(href) for href in re.findall(r'href="(/[^"]*)"', page)} - seen
        # The next group after the last one is a link that is there before the group is.
        found -= {"/view/0/groups/3", "/view/static/style.css"}
        seen |= found
        waiting += sorted(found)
    assert len(seen) > 30


# --- a running runtime -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "key-of-the-runtime"])
def test_runtime_when_it_serves_then_its_pages_are_at_the_root(key: str | None) -> None:
    with LocalRuntime(standin(0), key=key) as runtime:
        payload = runtime.new_rollout("What is up?")
        session = requests.Session()
        if key is not None:
            assert session.get(runtime.endpoint + "/", timeout=20).status_code == 403
        assert (
            session.get(f"{runtime.endpoint}/" + ("" if key is None else f"?key={key}"), timeout=20).status_code == 200
        )
        page = session.get(f"{runtime.endpoint}/view/0/rollouts", timeout=20).text
        assert payload["metadata"]["rolloutId"][:13] in page
        assert session.get(f"{runtime.endpoint}/", headers={"Host": "evil.example"}, timeout=20).status_code == 403
        with session.get(f"{runtime.endpoint}/view/0/events", stream=True, timeout=20) as events:
            runtime.new_rollout("And now?")
            assert any(line == b"data: 2" for line in events.iter_lines())


def test_runtime_when_it_serves_tls_then_so_are_its_pages(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    tls = {"certfile": certificate.certfile, "keyfile": certificate.keyfile}
    with LocalRuntime(standin(0), key="key-of-the-runtime", **tls) as runtime:
        payload = runtime.new_rollout("What is up?")
        address = runtime.endpoint
        session = requests.Session()
        session.trust_env, session.verify = False, str(certificate.certfile)  # the runtime knows of no bundle
        page = session.get(f"{address}/?key=key-of-the-runtime", timeout=20)
        assert page.status_code == 200, page.text
        listed = session.get(f"{address}/view/0/rollouts", timeout=20).text
        assert payload["metadata"]["rolloutId"][:13] in listed
        with session.get(f"{address}/view/0/events", stream=True, timeout=20) as events:
            threading.Thread(target=runtime.stop).start()
            assert [line for line in events.iter_lines() if line.startswith(b"event:")] == [b"event: stopping"]


def test_view_when_it_is_told_to_end_then_streams_say_so(folder: Path) -> None:
    command = [sys.executable, "-m", "aws_rft_sdk", "view", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.readline().strip()
        session = requests.Session()
        assert session.get(printed, timeout=20).status_code == 200
        with session.get(f"{printed.partition('/?')[0]}/view/0/events", stream=True, timeout=20) as events:
            process.send_signal(signal.SIGTERM)
            assert b"event: stopping" in list(events.iter_lines())
        assert process.wait(20) in (0, -signal.SIGTERM)
