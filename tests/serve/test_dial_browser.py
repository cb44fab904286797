"""The dial in a real browser: turned, a layer and a feature off, the random column, stop.

Needs Debian's chromium and the Python package playwright; skips without them, and fails instead
when REQUIRE_BROWSER=1.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from corrsteer.serve.worker import Job
from tests.report.test_report_browser import browser, until  # noqa: F401 - a fixture
from tests.serve.conftest import HOSTILE, PROMPTS, Served

pytestmark = pytest.mark.night

PANES = ("unsteered", "steered", "random")


@pytest.fixture
def visit(browser: Any, server: Served) -> Iterator[Any]:  # noqa: F811
    """Open the page; at the end, anything but silence from it fails the test."""
    noise: list[str] = []
    contexts = []

    def open_page(width: int = 1280, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: noise.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: noise.append(f"error: {error}"))
        page.on("dialog", lambda box: (noise.append(f"dialog: {box.message}"), box.dismiss()))
        page.on(
            "request",
            lambda request: (
                noise.append(f"request: {request.url}")
                if not request.url.startswith((server.url, "data:"))
                else None
            ),
        )
        page.goto(server.url)
        until(page, "document.querySelectorAll('.layer').length === 3")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert noise == []


def text(page: Any, pane: str) -> str:
    return page.evaluate(f"document.getElementById('text-{pane}').textContent")


def answered(page: Any) -> int:
    return page.evaluate("performance.getEntriesByName('answered').length")


def after(page: Any, act: Any) -> dict[str, str]:
    """The panes when the answer that ``act`` leads to is whole."""
    before = answered(page)
    act()
    until(page, f"performance.getEntriesByName('answered').length > {before}")
    return {pane: text(page, pane) for pane in PANES}


def answer(page: Any) -> dict[str, str]:
    return after(page, lambda: page.click("#ask"))


def turn(page: Any, what: str, value: float) -> None:
    page.evaluate(
        f"(() => {{ const range = document.querySelector({what!r}); range.value = {value};"
        " range.dispatchEvent(new Event('input')); })()"
    )


def test_the_dial_is_turned_and_everything_follows(visit: Any) -> None:
    page = visit()
    first = answer(page)
    assert len(set(first.values())) == 3
    assert page.locator("#text-steered .differs").count() > 0
    assert page.locator("#text-unsteered .differs").count() == 0

    off = after(page, lambda: turn(page, "#coef", 0))
    assert off["steered"] == off["random"] == off["unsteered"] == first["unsteered"]
    assert page.locator(".differs").count() == 0
    assert page.inner_text("#same-steered") == "the same answer as unsteered"
    page.focus("#coef")
    by_key = after(page, lambda: page.keyboard.press("ArrowRight"))
    assert page.inner_text("#coef-shown") == "0.05" and by_key["unsteered"] == off["unsteered"]

    twice = after(page, lambda: turn(page, "#coef", 2))
    assert twice["unsteered"] == first["unsteered"] and twice["steered"] != first["steered"]
    switch = ".layer[data-layer='1'] [type=checkbox]"
    without = after(page, lambda: page.click(switch))
    assert without["steered"] != twice["steered"] and without["unsteered"] == first["unsteered"]
    slider = ".layer[data-layer='0'] [type=range]"
    assert after(page, lambda: turn(page, slider, 0.25))["steered"] != without["steered"]
    assert after(page, lambda: page.click("#reset")) == first
    page.fill("#draw", "2")
    other = after(page, lambda: page.press("#draw", "Tab"))
    assert other["random"] != first["random"] and other["steered"] == first["steered"]
    assert page.inner_text("#random-what") == "features"


# In the page, and of a model that takes its time: this process and the browser may be slower than
# the tiny one, which would have written all by then.
TURN_AND_STOP = """(() => {
  const range = document.querySelector("#coef");
  const watch = new MutationObserver(() => {
    const spans = %(spans)s;
    if (spans.length > 5 && range.value === "0") {
      range.value = 2;
      range.dispatchEvent(new Event("input", { bubbles: true }));
    }
    if (spans.filter((span) => span.title.endsWith("dial 2")).length > 5) {
      watch.disconnect();
      document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
    }
  });
  watch.observe(document.getElementById("text-steered"), { childList: true, subtree: true });
})()"""


def test_a_dial_that_is_turned_while_it_writes_is_heard_and_escape_stops(
    visit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Job.advance
    monkeypatch.setattr(Job, "advance", lambda job: (time.sleep(0.05), advance(job))[1])
    page = visit()
    page.fill("#tokens", "100")
    turn(page, "#coef", 0)
    spans = "[...document.querySelectorAll('#text-steered span')]"
    page.evaluate(TURN_AND_STOP % {"spans": spans})
    after(page, lambda: page.press("#prompt", "Control+Enter"))
    titles = page.evaluate(f"{spans}.map(s => s.title.split(' ').at(-1))")
    assert len(titles) < 100 and titles[0] == "0" and titles[-1] == "2"
    assert titles == sorted(titles)
    assert page.inner_text("#status") == "stopped"


def test_two_people_do_not_mix(visit: Any) -> None:
    one, other = visit(), visit()
    turn(one, "#coef", 2)
    other.select_option("#question", "q-1")
    for page in (one, other):
        page.fill("#tokens", "40")
        page.click("#ask")
    for page in (one, other):
        until(page, "performance.getEntriesByName('answered').length > 0")
    found = [{pane: text(page, pane) for pane in PANES} for page in (one, other)]
    assert [answer(page) for page in (one, other)] == found
    assert found[0]["unsteered"] != found[1]["unsteered"]


def test_hostile_text_is_text(visit: Any) -> None:
    page = visit()
    page.select_option("#question", "q-2")
    assert page.input_value("#prompt") == HOSTILE
    assert HOSTILE in page.evaluate("document.querySelector('.layer').textContent")
    assert page.locator("main img").count() == page.locator(".layer a").count() == 0
    assert page.evaluate("typeof window.broken_out") == "undefined"
    page.fill("#prompt", PROMPTS[0])
    assert page.input_value("#question") == ""


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_screen(visit: Any, width: int, scheme: str) -> None:
    page = visit(width, scheme)
    answer(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_gate_lights_lamps_and_each_token_tells_of_the_activations(visit: Any) -> None:
    page = visit()
    first = answer(page)  # the SAEs have been read by now
    assert page.locator(".tokens .lamp").count() == 0 and not page.is_visible("#lamps-note")
    open_ = after(page, lambda: page.select_option("#gate", "active"))
    silent = after(page, lambda: page.select_option("#gate", "inactive"))
    assert open_["unsteered"] == silent["unsteered"] == first["unsteered"]
    assert open_["steered"] != silent["steered"] and page.is_visible("#lamps-note")
    spans = page.locator("#text-steered span")
    assert page.locator("#text-steered .lamp").count() == spans.count() > 0
    assert page.locator("#text-unsteered .lamp").count() == 0
    lamps = page.evaluate(
        "got.steered.map(one => [one.node.className, one.on, Object.entries(one.acts)])"
    )
    for name, on, acts in lamps:
        assert len(acts) == 3  # of each layer
        assert on == [int(layer) for layer, (before, _) in acts if before == 0]
        assert ("all" in name.split(), "none" in name.split()) == (len(on) == 3, not on)
    spans.first.dispatch_event("click")  # it may be white space
    before, after_ = lamps[0][2][0][1]
    shown = page.inner_text(".layer[data-layer='0'] .act-numbers").split(" → ")
    assert [float(shown[0]), float(shown[1].split()[0])] == pytest.approx(
        [before, after_], rel=0.01
    )
    assert spans.first.evaluate("node => node.classList.contains('read')")
    second = "got.steered.findIndex(one => one.node.classList.contains('read'))"
    page.focus("#text-steered")
    for press, at in (("ArrowRight", 1), ("ArrowLeft", 0), ("ArrowLeft", 0), ("End", -1)):
        page.keyboard.press(press)
        assert page.evaluate(second) == at  # the newest has no mark: it is followed
    assert after(page, lambda: page.click("#reset")) == first
    assert page.input_value("#gate") == "plan" and page.locator(".tokens .lamp").count() == 0
