"""The live page in a real browser: it grows with its files, loses nothing, and everybody can use it."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from recell.drawing import stylesheet
from recell.model.measure import TopologyGroup, TopologyService
from recell.report.page import render
from tests.private_server import free_ports
from tests.unit.test_report_write import _full
from tests.web.desk import Desk, big, many_steps, serving

CHROMIUM = "/usr/bin/chromium"
SLOW = 30_000  # ms; the machine may be busy with other things
expect.set_options(timeout=SLOW)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield launched
        launched.close()


class Seen:
    """What a page asked for and complained of."""

    def __init__(self, page: Page) -> None:
        self.asked: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda r: self.asked.append(r.url))
        page.on("pageerror", lambda e: self.complaints.append(str(e)))
        page.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(SLOW)
    yield context.new_page()
    context.close()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "desk")


def mark(page: Page) -> None:
    page.evaluate("window.kept = true")


def kept(page: Page) -> bool:
    """Whether the page is the one that was marked: it has not been loaded again."""
    return bool(page.evaluate("window.kept === true"))


def test_steps_and_users_appear_as_the_files_grow(page: Page, desk: Desk) -> None:
    seen = Seen(page)
    first, second = desk.plan.steps[0], desk.plan.steps[1]
    with serving(desk.directory) as (url, _):
        page.goto(url)
        expect(page.locator("#headline")).to_contain_text("Planned, not begun")
        expect(page.locator("#link")).to_contain_text("live")
        mark(page)
        journal = desk.journal()
        with journal.writing("apply", "forward"):
            journal.append(first.id, "forward", "started", finding="not done")
            expect(page.locator("#headline")).to_contain_text("step 1 of")
            expect(page.locator("#step-1")).to_contain_text("under way")
            expect(page.locator("#step-1")).to_have_attribute("aria-current", "step")
            expect(page.locator("#said")).to_contain_text(first.title)
            journal.append(first.id, "forward", "finished", seconds=0.3, verified="read <back>")
            journal.append(second.id, "forward", "started", finding="not done")
            expect(page.locator("#step-1")).to_contain_text("done")
            expect(page.locator("#step-1")).to_contain_text("read <back>")
            expect(page.locator("#step-2")).to_contain_text("under way")
            expect(page.locator(".progress")).to_have_attribute("aria-valuenow", "1")
            desk.users(0.2, 0.4)
            expect(page.locator("#strip")).to_contain_text("no failure")
            expect(page.locator("#figures")).to_contain_text("of 2 in this run")
            desk.users(0.1, 2.5, failed=1, why="short: 1 missing")
            expect(page.locator("#strip svg.timeline")).to_contain_text("1 failure")
            expect(page.locator("#figures .tile.bad")).to_contain_text("✕ 1")
            page.locator("#strip details summary").click()
            expect(page.locator("#strip details")).to_contain_text("short: 1 missing")
            desk.users(0.3)
            expect(page.locator("#figures")).to_contain_text("of 5 in this run")
            expect(page.locator("#strip details")).to_have_attribute("open", "")
            desk.through(journal, "ctl1/super-conductor")
            expect(page.locator("#now svg")).to_have_attribute(
                "aria-label", re.compile("super-conductor on 1 host")
            )
        assert kept(page)
    assert {urlsplit(u).netloc for u in seen.asked} == {urlsplit(url).netloc}
    assert [c for c in seen.complaints if "ERR_" not in c] == []


def test_users_who_get_no_answer_any_more_are_noticed(page: Page, desk: Desk) -> None:
    """Requests that hang are not in the probe's file: its silence must be seen."""
    desk.users(0.2, at=time.time() - 60)
    journal = desk.journal()
    with journal.writing("apply", "forward"), serving(desk.directory) as (url, _):
        page.goto(url)
        expect(page.locator("#strip .late")).to_contain_text(re.compile(r"! \d+ \w+ ago"))
        while page.locator("#strip .late").count():  # each answer is new for a few seconds only
            desk.users(0.2)
            page.wait_for_timeout(200)


def test_a_reload_and_a_restart_of_the_server_lose_nothing(page: Page, desk: Desk) -> None:
    journal = desk.journal()
    with journal.writing("apply", "forward"):
        desk.through(journal, desk.plan.steps[1].id)
        (port,) = free_ports(1)  # that nobody takes while the page is away
        with serving(desk.directory, port) as (url, process):
            page.goto(url)
            expect(page.locator("#step-2")).to_contain_text("done")
            page.reload()
            expect(page.locator("#step-2")).to_contain_text("done")
            expect(page.locator("#link")).to_contain_text("live")
            page.locator("#now details.hosts summary").click()
            mark(page)
            process.kill()
            process.wait()
            expect(page.locator("#link")).to_contain_text("trying again")
            journal.append(desk.plan.steps[2].id, "forward", "started", finding="not done")
            journal.append(desk.plan.steps[2].id, "forward", "finished", seconds=1.0, verified="meanwhile")
            desk.users(0.2)
        with serving(desk.directory, port) as (again, _):
            assert again == url
            expect(page.locator("#step-3")).to_contain_text("meanwhile")
            expect(page.locator("#figures")).to_contain_text("of 1 in this run")
            expect(page.locator("#link")).to_contain_text("live")
            expect(page.locator("#now details.hosts")).to_have_attribute("open", "")
            assert kept(page)


def test_who_knows_the_state_is_sent_nothing_and_others_everything(desk: Desk) -> None:
    with serving(desk.directory) as (url, _):
        html = urllib.request.urlopen(url).read().decode()  # noqa: S310
        state = re.findall(r'data-state="([0-9a-f]+)"', html)[0]

        def first_events(headers: dict[str, str], seconds: float) -> str:
            request = urllib.request.Request(url + "events", headers=headers)  # noqa: S310
            text = ""
            with urllib.request.urlopen(request, timeout=seconds) as answer:  # noqa: S310
                try:
                    while line := answer.readline().decode():
                        text += line
                        if line.startswith("data: {"):
                            break
                except TimeoutError:
                    pass
            return text

        assert "event: news" not in first_events({"Last-Event-ID": state}, 2.5)
        news = first_events({"Last-Event-ID": "another"}, 30)
        assert f"id: {state}" in news and '"step-1"' in news and '"state"' in news


def test_a_turn_to_undo_shows_the_way_back(page: Page, desk: Desk) -> None:
    journal = desk.journal()
    with journal.writing("apply", "forward"):
        desk.through(journal, desk.plan.steps[4].id)
    with serving(desk.directory) as (url, _):
        page.goto(url)
        expect(page.locator("#headline")).to_contain_text("after 5 of")
        with journal.writing("undo", "backward"):
            journal.append(desk.plan.steps[4].id, "backward", "started", finding="not done")
            expect(page.locator("#headline")).to_contain_text("Undoing: step 1 of 5")
            expect(page.locator("#step-1")).to_contain_text(desk.plan.steps[4].id)


@pytest.mark.parametrize("width", [360, 1280])
def test_hundreds_of_hosts_stay_readable(browser: Browser, tmp_path: Path, width: int) -> None:
    desk = Desk(tmp_path / "big", big(400), many_steps())
    journal = desk.journal()
    journal._db.execute("PRAGMA synchronous = OFF")
    context = browser.new_context(viewport={"width": width, "height": 800}, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(SLOW)
    last = next(s.id for s in desk.plan.steps if s.where == "cmp200" and s.acts != "backward")
    with journal.writing("apply", "forward"):
        desk.through(journal, last)
        with serving(desk.directory) as (url, _):
            page.goto(url)
            expect(page.locator("#now svg")).to_contain_text("400 computes")
            expect(page.locator("#now svg")).to_contain_text("through")
            assert page.locator("li.step").count() > 800
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            box = page.locator("#now svg").bounding_box()
            assert box is not None and box["height"] < 900
            hosts = page.locator("#now details.hosts")
            assert not hosts.get_by_text("cmp200").is_visible()
            hosts.locator("summary").focus()
            page.keyboard.press("Enter")
            expect(hosts.locator("dd").last).to_contain_text("cmp199, cmp200, cmp201")
            # The step that comes next is in view, among hundreds.
            at = page.evaluate(
                "(() => { const l = document.getElementById('follow').getBoundingClientRect();"
                " const s = document.querySelector('li.step.todo').getBoundingClientRect();"
                " return s.top >= l.top && s.bottom <= l.bottom; })()"
            )
            assert at is True
    context.close()


# -- for everybody -----------------------------------------------------------------------------

CONTRAST = """
() => {
  const parse = (c) => { const m = c.match(/[\\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c[3] === 1) return c;
    }
    return [255, 255, 255, 1];
  };
  const poor = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || e.closest("svg, script, noscript, style")) continue;
    const style = getComputedStyle(e);
    if (!e.getClientRects().length) continue;
    const [a, b] = [light(parse(style.color)), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${e.className} ${e.textContent.trim().slice(0, 40)}`);
  }
  return poor;
}
"""
STRUCTURE = """
() => {
  const wrong = [];
  const need = (ok, what) => { if (!ok) wrong.push(what); };
  need(document.documentElement.lang === "en", "no language");
  need(document.title.trim(), "no title");
  need(document.querySelectorAll("main").length === 1, "not one main");
  need(document.querySelectorAll("h1").length === 1, "not one h1");
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  need(new Set(ids).size === ids.length, "an id twice");
  const levels = [...document.querySelectorAll("h1, h2, h3")].map((h) => Number(h.tagName[1]));
  levels.forEach((l, i) => need(i === 0 || l <= levels[i - 1] + 1, "a heading skipped"));
  for (const e of document.querySelectorAll("[aria-labelledby]"))
    need(document.getElementById(e.getAttribute("aria-labelledby")), "labelled by nothing");
  for (const e of document.querySelectorAll("svg"))
    need(e.closest("[role=img], [role=progressbar], [aria-hidden=true]"), "a picture without a role");
  for (const e of document.querySelectorAll("[role=img], [role=progressbar]"))
    need(e.getAttribute("aria-label"), "a picture without words");
  for (const e of document.querySelectorAll("a, summary, button, [tabindex='0']"))
    need((e.textContent + (e.getAttribute("aria-label") || "")).trim(), "a control without a name");
  for (const e of document.querySelectorAll("th")) need(e.scope, "a header without scope");
  for (const e of document.querySelectorAll("li")) need(e.closest("ul, ol"), "an item without a list");
  return wrong;
}
"""


@pytest.fixture
def busy(desk: Desk) -> Iterator[str]:
    """The page of a conversion in which there is everything to see, served."""
    journal = desk.journal()
    desk.users(0.2, 0.4, 3.0, failed=1, why="no answer")
    with journal.writing("apply", "forward"):
        desk.through(journal, "ctl1/super-conductor")
        journal.append("ctl1/nova-scheduler", "forward", "started", finding="not done")
        journal.append("ctl1/nova-scheduler", "forward", "failed", why="mq4 does not answer")
        desk.users(0.2, 0.4)
        (desk.directory / "requests.jsonl").open("a").write("nonsense\n")
        with serving(desk.directory) as (url, _):
            yield url


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_read_it(browser: Browser, busy: str, tmp_path: Path, scheme: str) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": 360, "height": 740})  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(SLOW)
    page.goto(busy)
    expect(page.locator("#link")).to_contain_text("live")
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.evaluate(STRUCTURE) == []
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("header, main, footer").count() == 3
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(15, 19, 24)") is (scheme == "dark")
    report = tmp_path / "report.html"
    report.write_text(render(_full(failing=True)))
    page.goto(report.as_uri())
    assert page.evaluate(STRUCTURE) == []
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()


def test_the_keyboard_reaches_everything(page: Page, busy: str) -> None:
    page.goto(busy)
    expect(page.locator("#link")).to_contain_text("live")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "document.activeElement.id || document.activeElement.closest('details')?.dataset.key || ''"
            )
        )
    assert {"failures", "follow", "silent", "before", "now", "wanted"} <= set(reached)
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid" or reached[-1] == ""


def test_it_works_without_scripts(browser: Browser, busy: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_default_timeout(SLOW)
    page.goto(busy)
    expect(page.locator("#headline")).to_contain_text("step")
    expect(page.locator("noscript")).to_have_count(1)
    context.close()


def test_colours_of_pictures_have_contrast() -> None:
    """Text in pictures, in both themes: the pairs that the style sheet puts on one another."""
    themes = re.findall(r":root \{(.*?)\}", stylesheet(), re.DOTALL)
    light = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", themes[0]))
    dark = {**light, **dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", themes[1]))}
    pairs = [("ink", b) for b in ("card", "sunk", "broker", "wait-soft", "accent-soft", "bad-soft")]
    pairs += [("soft", "card"), ("soft", "bg"), ("ok", "ok-soft"), ("bad", "bad-soft"), ("wait", "wait-soft")]
    pairs += [("ok", "card"), ("bad", "card"), ("soft", "wait-soft"), ("soft", "bad-soft")]

    def light_of(colour: str) -> float:
        values = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for theme in (light, dark):
        for front, back in pairs:
            high, low = sorted((light_of(theme[front]), light_of(theme[back])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (front, back)


# -- for nobody else ---------------------------------------------------------------------------


def test_the_server_shows_its_page_and_nothing_more(page: Page, desk: Desk) -> None:
    with serving(desk.directory) as (url, _):
        answer = page.request.get(url)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert "<script>" not in answer.text() and " style=" not in answer.text()
        assert not re.search(r"\son\w+=", answer.text())
        for path in ("plan.json", "static/../app.py", "static/app.py", "docs", "journal.sqlite"):
            assert page.request.get(url + path).status == 404, path
        for send in (page.request.post, page.request.put, page.request.delete):
            assert send(url).status == 405
        # A website that points its own name at this machine must not read the page.
        assert page.request.get(url, headers={"Host": "evil.example"}).status == 400


def test_what_comes_from_outside_is_shown_as_text(page: Page, desk: Desk) -> None:
    seen = Seen(page)
    journal = desk.journal()
    step = desk.plan.steps[0].id
    nasty = "<script>alert(1)</script><img src=x onerror=alert(2)> rabbit://nova:s3cret@mq1:5672/"
    with journal.writing("apply", "forward"):
        with serving(desk.directory) as (url, _):
            page.goto(url)
            journal.append(step, "forward", "started", finding="not done")
            journal.append(step, "forward", "finished", seconds=1.0, verified=nasty)
            desk.users(0.1, failed=1, why=nasty)
            expect(page.locator("#step-1")).to_contain_text("<script>alert(1)</script>")
            expect(page.locator("#strip")).to_contain_text("1 failure")
            assert "s3cret" not in page.content() and "s3cret" not in page.request.get(url).text()
            assert page.locator("main script, main img").count() == 0
        assert [c for c in seen.complaints if "ERR_" not in c] == []


def test_a_report_asks_for_nothing(page: Page, tmp_path: Path) -> None:
    seen = Seen(page)
    path = tmp_path / "report.html"
    measurement = _full(failing=True)
    nasty = TopologyGroup("<script>alert(1)</script>", "mq1", "", (TopologyService("api", ("a",)),))
    object.__setattr__(measurement, "topology_after", (nasty,))
    path.write_text(render(measurement))
    page.goto(path.as_uri())
    expect(page.locator("h1")).to_contain_text("1 request failed")
    assert seen.asked == [path.as_uri()] and seen.complaints == []
    assert page.locator("svg.timeline .bar").count() == 2
    boxes = [b.bounding_box() for b in page.locator("svg.timeline .bar rect").all()]
    assert all(a and b and a["x"] < b["x"] for a, b in pairwise(boxes))
