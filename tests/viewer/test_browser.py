"""The pages in a real browser: views, keys, filters, live updates, hostile texts, dark mode, accessibility."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from runs.making import Database, calculating, calling, said, write_records
from viewer.browsing import Tab, chromium, needs_browser, served
from viewer.test_pages import record
from viewer.test_rollout_page import turn_with_tokens

from aws_rft_sdk.cli import main
from aws_rft_sdk.runtime import LocalRuntime, standin

pytestmark = needs_browser
BOMB = "document.documentElement.dataset.hacked=1"
HOSTILE = [
    f"<script>{BOMB}</script>",
    f"</pre></article></main><script>{BOMB}</script>",
    f"<img src=x onerror={BOMB}>",
    f"<svg onload={BOMB}>",
    f"<svg><script>{BOMB}</script></svg>",
    f"<body onload={BOMB}>",
    f"<iframe srcdoc='<script>parent.{BOMB}</script>'></iframe>",
    f"<iframe src='javascript:parent.{BOMB}'></iframe>",
    f"<a href='javascript:{BOMB}' autofocus onfocus={BOMB}>x</a>",
    f"<form action='https://evil.example'><input name=q autofocus onfocus={BOMB}></form>",
    "<form action='/view/0/rollouts'><button formaction='https://evil.example'>go</button></form>",
    f"<input autofocus onfocus={BOMB}>",
    f"<details open ontoggle={BOMB}>",
    f"<video><source onerror={BOMB}></video>",
    f"<math><mtext><table><mglyph><style><img src=x onerror={BOMB}>",
    f"<object data='data:text/html,<script>{BOMB}</script>'></object>",
    "<embed src='data:text/html,x'>",
    "<link rel=stylesheet href='https://evil.example/x.css'>",
    "<style>body{display:none}</style>",
    "<style>@import 'https://evil.example/x.css'</style>",
    "<base href='https://evil.example/'>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<img src='https://evil.example/pixel.png'>",
    "<img srcset='https://evil.example/pixel.png 1x'>",
    "<picture><source srcset='https://evil.example/p.png'></picture>",
    "<audio src='https://evil.example/a.mp3' autoplay>",
    f"{{{{ cycler.__init__.__globals__ }}}} {{% set x = 1 %}} ${{{BOMB}}}",
    "{# comment #} {% raw %} {{ 7*7 }}",
    f"<noscript><p title='</noscript><img src=x onerror={BOMB}>'>",
    f"<template><script>{BOMB}</script></template>",
    f"<!--><script>{BOMB}</script>-->",
    f"<![CDATA[<script>{BOMB}</script>]]>",
    f"\"'><script>{BOMB}</script>",
    f"' onmouseover='{BOMB}",
    f'" onmouseover="{BOMB}',
    "`${alert(1)}`",
    f"\u0000<script>{BOMB}</script>",
    f"<scr\u0000ipt>{BOMB}</scr\u0000ipt>",
    f"\uff1cscript\uff1e{BOMB}\uff1c/script\uff1e",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;alert(1)&#60;/script&#62;",
    "\u202eevil\u202c \u2066isolate\u2069 \u200f\u200e",
    "\u202a" * 500 + "deep",
    "e" + "\u0301" * 500,
    "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 50,
    "\ud800 half a character",
    "\x1b[31mred\x1b]8;;https://evil.example\x07link\x1b]8;;\x07",
    "\r\n\r\nHTTP/1.1 200 OK\r\nSet-Cookie: a=b",
    "A" * 1_000_000,
    "word " * 200_000,
    "\n" * 100_000,
    "<b>" * 20_000,
    json.dumps({"a": "<script>" * 100}),
    "data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==",
    "javascript:alert(1)",
    "[click](javascript:alert(1)) ![x](https://evil.example/x.png)",
    "<plaintext>",
    "<textarea>",
    "<title>other</title></title>",
    "<xmp><script>alert(1)</script></xmp>",
    "</body></html>",
    f"<button data-copy='x' id=search onclick={BOMB}>",
    "<div id=main><a id=group class=item rel=next href='https://evil.example'>x</a></div>",
    "%3Cscript%3Ealert(1)%3C/script%3E",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    records = [record(number, float(number % 2)) for number in range(12)]
    with Database(path) as database:
        for number, one in enumerate(records):
            turns = calculating(f"Question {one.prompt_index}?", f"{one.reward}")
            rows = None
            if number == 1:  # from sure to unlikely: a token for each word, -n / 2
                rows = [turn_with_tokens(number, 0, *turns[0], [1, 2], "Let me see . " * 3)]
                rows.append(turn_with_tokens(number, 1, *turns[1], [9], "It is 0.0 ."))
            database.add(one.trajectory_id, turns, rows=rows)
    return write_records(path, *records)


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with served(folder) as found:
        yield found


@pytest.fixture
def tab(browser: Any, address: str) -> Iterator[Tab]:
    with_context = browser.new_context(viewport={"width": 1400, "height": 900})
    found = Tab(with_context.new_page(), address)
    yield found
    with_context.close()
    assert found.errors == []
    assert found.elsewhere == []


def test_keys_when_pressed_then_they_lead_from_list_to_rollout_to_group_and_back(tab: Tab) -> None:
    page = tab.open("/view/0/rollouts")
    page.keyboard.press("j")
    page.keyboard.press("j")
    second = page.locator("a.item").nth(1).get_attribute("href")
    assert page.evaluate("document.activeElement.getAttribute('href')") == second
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    page.wait_for_url("**/rollout?id=t-000")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**/rollout?id=t-001")
    page.keyboard.press("g")
    page.wait_for_url("**/groups/0")
    page.keyboard.press("o")
    page.wait_for_url("**/view/0")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("jgo question")  # keys are letters in a field
    page.keyboard.press("Escape")
    page.keyboard.press("r")
    page.wait_for_url("**/rollouts")


def test_filters_when_used_then_each_view_has_an_address_that_shows_it_again(tab: Tab, browser: Any) -> None:
    page = tab.open("/")
    page.locator("figure a").first.click()
    page.wait_for_url("**/rollouts?where=*")
    assert page.locator("tbody tr").count() == 6
    page.fill("input[name=text]", "question 1")
    page.click("form button")
    assert page.locator("tbody tr").count() == 2
    rows = page.locator("tbody").inner_text()
    again = tab.open(page.url.removeprefix(tab.address))
    assert again.locator("tbody").inner_text() == rows


PAGES = ("/", "/view/0/rollouts", "/view/0/groups", "/view/0/groups/1", "/view/0/rollout?id=t-001")


@pytest.mark.parametrize("path", PAGES)
def test_pages_when_scripts_are_off_then_they_are_whole_and_links_work(browser: Any, address: str, path: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    found = Tab(context.new_page(), address)
    page = found.open(path)
    assert page.locator("main").inner_text().strip()
    page.get_by_role("link", name="Rollouts").first.click()
    assert page.locator("tbody tr").count() == 12
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_pages_when_looked_at_then_they_fit_and_are_accessible(
    browser: Any, address: str, width: int, scheme: Any
) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="needs: pip install axe-playwright-python"
    )
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    found = Tab(context.new_page(), address)
    for path in (*PAGES, f"{PAGES[-1]}&tokens=mask", f"{PAGES[-1]}&tokens=logprobs", "/view/9"):
        page = found.open(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        violations = axe.Axe().run(page).response["violations"]
        assert [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in violations] == []
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") is (scheme == "light")
    context.close()


HIDE = """hidden => {
  Object.defineProperty(document, "hidden", { get: () => hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""
NEWS = """version => new Promise(resolve => {
  const source = new EventSource(`${document.body.dataset.events}?seen=${version}`);
  source.onmessage = () => { source.close(); resolve(); };
})"""


def test_page_when_rollouts_go_on_then_it_shows_them_by_itself_also_those_that_came_while_it_was_busy(
    browser: Any,
) -> None:
    with LocalRuntime(standin(0)) as runtime:
        runtime.new_rollout("first")
        context = browser.new_context()
        found = Tab(context.new_page(), runtime.endpoint)
        page = found.open("/view/0/rollouts")
        page.wait_for_selector("tbody tr")
        for number in range(3):
            runtime.new_rollout(f"another {number}")
        page.locator("tbody tr").nth(3).wait_for()
        page.evaluate(HIDE, True)
        runtime.new_rollout("while nobody looks")
        page.evaluate(NEWS, page.locator("body").get_attribute("data-version"))
        assert page.locator("tbody tr").count() == 4
        page.evaluate(HIDE, False)
        page.locator("tbody tr").nth(4).wait_for()
        page.keyboard.press("j")
        runtime.new_rollout("while a line is chosen")
        page.evaluate(NEWS, page.locator("body").get_attribute("data-version"))
        assert page.locator("tbody tr").count() == 5
        page.evaluate("document.activeElement.blur()")
        page.locator("tbody tr").nth(5).wait_for()
        assert found.errors == []
        context.close()


def test_tabs_when_many_are_open_then_the_next_one_still_loads(browser: Any, address: str) -> None:
    context = browser.new_context()
    tabs = [Tab(context.new_page(), address) for _ in range(8)]  # a browser opens six connections to a server
    for one in tabs:
        one.open("/view/0/groups").evaluate(HIDE, True)
    tabs[0].page.reload()
    assert tabs[0].page.locator("tbody tr").count() == 3
    context.close()


def test_buttons_when_pressed_then_texts_are_copied_to_the_letter_and_nothing_else_is_asked(
    browser: Any, tmp_path: Path
) -> None:
    text, arguments = "\u202e" + "x" * 30_000, '{"expression":  "6 * 7"}'
    with Database(tmp_path / "run") as database:
        asked = [said("system", "s"), said("user", text)]
        database.add("t-0", [(asked, calling("", ("calculator", arguments)))])
    write_records(tmp_path / "run", record(0, 1.0))
    with served(tmp_path / "run") as address:
        context = browser.new_context()
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        found = Tab(context.new_page(), address)
        page = found.open("/view/0/rollout?id=t-0")
        raw = page.evaluate("fetch('/view/0/rollout.json?id=t-0').then(answer => answer.text())")
        expected = {
            "the id": "t-0",
            "the span id of turn 0": "span-0-0",
            "the arguments": arguments,
            "the raw JSON": raw,
        }
        expected = {f"Copy {name}": value for name, value in expected.items()}
        for name, value in expected.items():
            page.get_by_role("button", name=name, exact=True).click()
            page.get_by_role("button", name=name, exact=True).filter(has_text="Copied").wait_for()
            assert page.evaluate("navigator.clipboard.readText()") == value
        page.get_by_role("button", name="Copy the text of this message").nth(1).click()
        page.get_by_text("Copied").nth(len(expected)).wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == text
        assert (found.errors, found.elsewhere) == ([], [])
        context.close()


def test_page_when_the_server_ends_and_comes_back_then_it_says_so_and_goes_on(browser: Any) -> None:
    with LocalRuntime(standin(0)) as runtime:
        runtime.new_rollout("first")
        context = browser.new_context()
        found = Tab(context.new_page(), runtime.endpoint)
        page = found.open("/view/0/rollouts")
        page.locator("tbody tr").first.wait_for()
        note = page.locator("#connection")
        assert not note.is_visible()
        page.evaluate("""() => {
            const note = document.getElementById("connection");
            window.noted = new Promise(done => new MutationObserver(() => done(note.textContent)).observe(
                note, { childList: true }));
        }""")
        runtime.restart()
        assert "The server has ended or cannot be reached" in page.evaluate("window.noted")
        runtime.new_rollout("second")
        page.locator("tbody tr").nth(1).wait_for()
        note.wait_for(state="hidden")
        context.close()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "hostile"
    records = []
    with Database(path) as database:
        for number, text in enumerate(HOSTILE):
            safe = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
            answer = calling(safe, (safe[:2000], safe))
            turns = [([said("system", safe), said("user", safe)], answer | {"reasoning_content": safe})]
            one = record(
                number, 0.5, error=safe, traceback=safe, status="failed", metrics={safe[:50]: 1.0, "note": safe}
            )
            database.add(one.trajectory_id, turns, prompt=safe)
            records.append(one)
    return write_records(path, *records)


def test_hostile_texts_when_shown_then_none_runs_and_none_breaks_a_page(
    browser: Any, hostile: Path, tmp_path: Path
) -> None:
    assert len(HOSTILE) >= 60
    report = tmp_path / "report.html"
    done = CliRunner().invoke(main, ["report", str(hostile), "-o", str(report), "--samples", "40"])
    assert done.exit_code == 0, done.output
    with served(hostile) as address:
        context = browser.new_context()
        found = Tab(context.new_page(), address)
        paths = [f"/view/0/rollout?id=t-{number:03d}" for number in range(len(HOSTILE))]
        for path in ["/", "/view/0/rollouts", "/view/0/rollouts?page=2", "/view/0/groups", "/view/0/groups/0", *paths]:
            page = found.open(path)
            page.locator("summary").evaluate_all("all => all.forEach(one => { one.parentElement.open = true })")
            assert page.locator("header nav").is_visible(), path
            assert page.locator("footer").count() == 1, path
            assert page.evaluate("[document.title, document.documentElement.dataset.hacked ?? '']")[1] == "", path
            assert (
                page.locator(
                    "main form:not(.choices), main iframe, main img, main script, main style, main object"
                ).count()
                == 0
            )
            assert page.evaluate("document.documentElement.scrollWidth") <= 1281, path
        page.goto(report.as_uri())
        assert page.locator("script, iframe, img, form, object, link").count() == 0
        assert page.evaluate("document.documentElement.dataset.hacked ?? ''") == ""
        assert found.errors == []
        assert [url for url in found.elsewhere if not url.startswith("file:")] == []
        context.close()
