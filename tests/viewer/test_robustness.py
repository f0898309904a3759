"""The pages when what they are asked for is odd, and when the run changes, breaks or goes away while someone looks."""

from __future__ import annotations

import html
import json
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from runs.making import Database, calculating, calling, said, turn_rows, write_records
from viewer.browsing import KEY, served
from viewer.test_pages import record

from aws_rft_sdk.errors import RFTError
from aws_rft_sdk.runs._index import Progress
from aws_rft_sdk.viewer import watching
from aws_rft_sdk.viewer.charts import bins_of, curve, histogram
from aws_rft_sdk.viewer.watching import WatchedRun

TOOL = "it's \"<é>\" & \\u0041 or 'x'"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made(tmp_path / "run")


def made(path: Path, rewards: tuple[float, ...] = (0.5, 2.0, 0.5, 7.0)) -> Path:
    records = [record(number, reward, failure="odd kind") for number, reward in enumerate(rewards)]
    with Database(path) as database:
        for one in records:
            turns = [([said("user", "Question?")], calling("Let me see.", (TOOL, "{}")))]
            database.add(one.trajectory_id, [*turns, *calculating()], rewards=(one.reward or 0.0,))
    return write_records(path, *records)


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    with served(folder) as found:
        yield found


@pytest.fixture
def session(address: str) -> requests.Session:
    found = requests.Session()
    assert found.get(f"{address}/?key={KEY}", timeout=20).status_code == 200
    return found


def until(check: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + 20
    while not check():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_paths_when_numbers_or_ids_are_odd_then_they_are_only_not_there(
    address: str, session: requests.Session
) -> None:
    for number in ("9" * 12, "9" * 400, "9" * 5000, "-1", "1e3", "%D9%A3"):
        for path in (f"/view/{number}", f"/view/{number}/events", f"/view/0/groups/{number}"):
            assert session.get(address + path, timeout=20).status_code == 404, path[:60]
    for given in ("../../etc/passwd", "%00", "%ED%A0%80", "t-0\n", "%F0%9F%92%A9", ""):
        for page in ("rollout", "rollout.json"):
            assert session.get(f"{address}/view/0/{page}?id={given}", timeout=20).status_code == 404, given
    far = session.get(f"{address}/view/0/rollouts?page={'9' * 5000}", timeout=20)
    assert far.status_code == 200
    beyond = session.get(f"{address}/view/0/groups?page=7", timeout=20)
    assert beyond.status_code == 200


def test_key_when_in_the_address_then_it_leaves_it_and_the_cookie_does_not_hold_it(address: str) -> None:
    session = requests.Session()
    for _ in range(2):  # also where a cookie is there already
        answer = session.get(f"{address}/view/0/rollouts?sort=reward&key={KEY}", timeout=20)
        assert answer.url == f"{address}/view/0/rollouts?sort=reward"
        assert KEY not in answer.text
        assert all(KEY not in str(cookie.value) for cookie in session.cookies)
    answer = session.get(f"{address}//evil.example/?key={KEY}", timeout=20, allow_redirects=False)
    assert answer.headers["location"] == "/evil.example/"


def test_links_when_names_are_odd_then_they_find_what_they_name(address: str, session: requests.Session) -> None:
    page = session.get(f"{address}/view/0", timeout=20).text
    links = [html.unescape(link) for link in re.findall(r'href="([^"]*where=(?:tool|error)[^"]*)"', page)]
    assert len(links) == 3  # two tools and a kind of error
    for link in links:
        assert "<small>4 of 4</small>" in session.get(address + link, timeout=20).text, link
    assert "<small>4 of 4</small>" in session.get(f"{address}/view/0/rollouts", params={"tool": TOOL}, timeout=20).text


def test_list_when_it_is_sorted_then_its_choices_stay(address: str, session: requests.Session) -> None:
    chosen = "/view/0/rollouts?reward_from=1&sort=reward"
    page = session.get(address + chosen, timeout=20).text
    assert '<input type="hidden" name="sort" value="reward">' in page
    orders = [html.unescape(link) for link in re.findall(r'href="([^"]*sort=-turns[^"]*)"', page)]
    assert ["<small>2 of 4</small>" in session.get(address + one, timeout=20).text for one in orders] == [True]
    for name, first in (("worst", "0.5"), ("best", "7")):
        link = re.search(f'href="([^"]+)">{name}</a>', page)
        assert link is not None
        shown = session.get(address + html.unescape(link[1]), timeout=20).text
        assert re.findall(r'<span class="reward [a-z]+">([\d.]+)<', shown)[0] == first


def test_search_when_it_is_wrong_then_its_fields_keep_what_was_typed(address: str, session: requests.Session) -> None:
    answer = session.get(f"{address}/view/0/rollouts?text=%22%3C&role=tool&where=reward%3C1", timeout=20)
    assert answer.status_code == 400
    for kept in ('value="&#34;&lt;"', '<option value="tool" selected', 'value="reward&lt;1"'):
        assert kept in answer.text


def test_run_when_it_goes_away_and_comes_back_then_the_pages_follow(
    folder: Path, address: str, session: requests.Session
) -> None:
    def shows(status: int, text: str) -> bool:
        answer = session.get(f"{address}/view/0/rollouts", timeout=20)
        return answer.status_code == status and text in answer.text

    shutil.rmtree(folder)
    until(lambda: shows(503, "there is no database file"))
    made(folder, (1.0, 0.0))
    until(lambda: shows(200, "<small>2 of 2</small>"))
    (folder / "trajectories.db-view").unlink()
    until(lambda: shows(200, "<small>2 of 2</small>"))


def test_run_when_its_records_are_written_anew_then_the_figures_are_new_too(
    folder: Path, address: str, session: requests.Session
) -> None:
    lines = (folder / "rollouts.jsonl").read_text().replace('"reward": 0.5', '"reward": 0.25')
    (folder / "rollouts.jsonl").write_text(lines)
    mean = (0.25 + 2 + 0.25 + 7) / 4
    until(lambda: f"<dd>{mean:.4g}</dd>" in session.get(f"{address}/", timeout=20).text)


def test_events_when_a_page_shows_an_older_version_then_the_first_event_is_at_once(
    address: str, session: requests.Session
) -> None:
    page = session.get(f"{address}/view/0", timeout=20).text
    version = re.findall(r'data-version="([^"]+)"', page)[0]
    for query, headers in (("", {}), ("?seen=older", {}), (f"?seen={version}", {"Last-Event-ID": "older"})):
        with session.get(f"{address}/view/0/events{query}", headers=headers, stream=True, timeout=20) as events:
            lines = events.iter_lines()
            assert [next(lines), next(lines)] == [f"id: {version}".encode(), b"data: 4"]
    with session.get(f"{address}/view/0/events?seen={version}", stream=True, timeout=20) as events:
        assert next(events.iter_lines()) == b": here"


class View:
    """A view whose updates come as far as the test says, or fail."""

    name = "a view"

    def __init__(self, progress: Progress, error: Exception | None = None) -> None:
        self.progress, self.error = progress, error

    def update(self, *, most: int) -> Progress:
        if self.error is not None:
            raise self.error
        return self.progress

    def state(self) -> list[object]:
        return []

    def close(self) -> None:
        pass


def test_look_when_the_index_is_in_the_making_then_only_the_first_one_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_FIRST_WAIT_SECONDS", 60.0)
    view = View(Progress(100, 5))
    run = WatchedRun(view, 1.0)  # type: ignore[arg-type] # has what is used of a view
    assert run.progress is None  # so pages say that they read the records
    first = threading.Thread(target=run.look)
    first.start()
    until(lambda: run.progress is not None)
    run.look()
    assert first.is_alive()
    view.progress = Progress(100, 100)
    first.join(30)
    assert not first.is_alive()
    run.close()


@pytest.mark.parametrize("error", [OSError("gone"), RFTError("gone"), KeyError("gone")])
def test_update_when_it_fails_then_the_trouble_is_said_until_one_succeeds(error: Exception) -> None:
    view = View(Progress(1, 1), error)
    run = WatchedRun(view, 1.0)  # type: ignore[arg-type] # has what is used of a view
    run.look()
    until(lambda: "gone" in (run.trouble or ""))
    version = run.version
    view.error = None
    until(lambda: run.trouble is None and run.version != version)
    run.close()


@pytest.mark.parametrize(("low", "step", "kinds"), [(-1.0, 0.02, 71), (-0.5, 0.01, 71), (0.1, 1 / 3, 121)])
def test_bins_when_values_are_at_their_edges_then_counts_are_what_their_links_find(
    low: float, step: float, kinds: int
) -> None:
    values = Counter(low + step * number for number in range(kinds))
    bins = bins_of(values)
    for item in bins:
        found = [v for v in values if item.low <= v and (v <= item.high if item is bins[-1] else v < item.high)]
        assert len(found) == item.count


def test_charts_when_values_are_huge_then_they_are_still_drawn() -> None:
    values = Counter({-1.7e308: 1, 1.7e308: 1, **{float(number): 1 for number in range(30)}})
    assert sum(item.count for item in bins_of(values)) == 32
    for drawn in (histogram(bins_of(values), "x"), curve([(0, -1.7e308), (1, 1.7e308)], "x"), curve([(5, 0.0)], "x")):
        assert "nan" not in drawn
        assert "inf" not in drawn


def test_groups_when_numbers_are_missing_then_links_lead_to_those_that_are_there(tmp_path: Path) -> None:
    records = [record(number, 1.0) for number in (0, 1, 20, 21, 40)]  # of the groups 0, 5 and 10
    with served(write_records(tmp_path / "run", *records)) as address:
        session = requests.Session()
        found = {}
        for group in (0, 5, 10):
            page = session.get(f"{address}/view/0/groups/{group}?key={KEY}", timeout=20).text
            found[group] = re.findall(r'rel="(prev|next)" href="/view/0/groups/(\d+)"', page)
    assert found == {0: [("next", "5")], 5: [("prev", "0"), ("next", "10")], 10: [("prev", "5")]}


@pytest.mark.parametrize("recorded", [False, True])
def test_comparison_when_runs_met_prompts_in_another_order_then_equal_prompts_are_compared(
    tmp_path: Path, recorded: bool
) -> None:
    rewards = {"easy": 1.0, "hard": 0.0, "new": 0.5}
    for name, prompts in (("a", ("easy", "hard")), ("b", ("hard", "easy", "new"))):
        with Database(tmp_path / name) as database:
            for number, prompt in enumerate(prompts):
                database.add(f"t-{number:03d}", calculating(prompt), prompt=prompt, rewards=(rewards[prompt],))
        if recorded:
            write_records(tmp_path / name, *(record(4 * n, rewards[prompt]) for n, prompt in enumerate(prompts)))
    with served(tmp_path / "a", tmp_path / "b") as address:
        page = requests.Session().get(f"{address}/?key={KEY}", timeout=20).text
    figures = dict(re.findall(r"<dt>([^<]+)</dt><dd>([^<]+)", page))
    # Records number the prompts, so here another dataset was used.
    assert ("pairs have different prompts" in page) is recorded
    assert (figures["Worse"], figures["Better"]) == (("1", "1") if recorded else ("0", "0"))
    assert "0 prompts are in A only, and 1 in B only" in page
    links = re.findall(r'href="(/view/\d/groups/\d)" aria-label="group \d of [AB]"', page)
    assert len(links) == 4
    assert recorded or set(zip(links[::2], links[1::2], strict=True)) == {
        ("/view/0/groups/0", "/view/1/groups/1"),
        ("/view/0/groups/1", "/view/1/groups/0"),
    }


def test_secrets_when_anywhere_in_a_rollout_then_they_are_on_no_page_and_sampled_tokens_are(tmp_path: Path) -> None:
    secret = {"api_key": "sk-hidden", "headers": {"X-Any": "sk-hidden"}}
    tokens = {"content": [{"token": "Forty", "logprob": -0.5}]}
    row, _ = turn_rows(0, calculating(), extra_headers={"Authorization": "sk-hidden"})
    answer = json.loads(row.response)
    answer["choices"][0]["logprobs"] = tokens
    with Database(tmp_path) as database:
        rows = [row._replace(response=json.dumps(answer).encode())]
        database.add("t-000", rows=rows, prompt={"question": "Why?", **secret})
    write_records(tmp_path, record(0, 1.0, metrics={"judge": {"why": "good", **secret}}, state={"env": secret}))
    with served(tmp_path) as address:
        session = requests.Session()
        session.get(f"{address}/?key={KEY}", timeout=20)
        for path in ("/view/0/rollout?id=t-", "/view/0/rollout.json?id=t-", "/view/0/groups/0", "/view/0/rollouts"):
            text = session.get(address + path, timeout=20).text
            assert "t-000" in text
            assert "sk-hidden" not in text, path
        raw = session.get(f"{address}/view/0/rollout.json?id=t-0", timeout=20).json()  # the id may be shortened
    assert raw["recorded"][0]["response"]["choices"][0]["logprobs"] == tokens


def test_raw_when_nobody_looked_before_then_the_index_is_made_for_it(address: str) -> None:
    answer = requests.Session().get(f"{address}/view/0/rollout.json?id=t-001&key={KEY}", timeout=20)
    assert answer.json()["trajectory_id"] == "t-001"
