"""The report pages in a real browser: hostile text, search, narrow screens, dark scheme, print.

Needs Debian's chromium and the Python package playwright; skips without them, and fails instead
when REQUIRE_BROWSER=1.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fabricated_run import HOSTILE, fabricate_run, set_status

from corrsteer.stages.pages import visible
from corrsteer.stages.report import write_run_report, write_sweep_report

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium")
    missing = [] if chromium else ["chromium (Debian: apt-get install chromium)"]
    if importlib.util.find_spec("playwright") is None:
        missing.append("the Python package playwright")
    if missing:
        stop = pytest.fail if os.environ.get("REQUIRE_BROWSER") == "1" else pytest.skip
        stop(f"the browser tests need {' and '.join(missing)}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium)
        yield started
        started.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    """Open a page; at the end, anything but silence from it fails the test."""
    noise: list[str] = []
    contexts = []

    def open_page(path: Path, width: int = 1280, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: noise.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: noise.append(f"error: {error}"))
        page.on("dialog", lambda box: (noise.append(f"dialog: {box.message}"), box.dismiss()))
        page.on("request", lambda request: requested.append(request.url))
        requested: list[str] = []
        page.goto(path.as_uri())
        page.wait_for_selector(".plot .main-svg")
        page.wait_for_timeout(100)
        noise.extend(f"request: {url}" for url in requested if url != path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert noise == []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "run"
    fabricate_run(folder, n_test=800)
    return write_run_report(folder)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "run"
    fabricate_run(folder, n_test=120, fixed=0.3, hostile=True)
    return write_run_report(folder)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    for n, coef in enumerate((0.5, 1, 2)):
        fabricate_run(folder / str(n), coef=coef, n_test=100)
    write_run_report(folder / "1")
    set_status(folder / "3", "failed", HOSTILE[0] + HOSTILE[4])
    return write_sweep_report(folder)


def until(page: Any, condition: str) -> None:
    """Wait until a JavaScript expression holds. Playwright's own wait needs eval, which the page's
    policy forbids."""
    deadline = time.monotonic() + 30
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, f"never came true: {condition}"
        page.wait_for_timeout(20)


def search(page: Any, words: str) -> str:
    """Type into the search box; return the line that counts what is found."""
    before = page.inner_text("#flip-count")
    page.fill("#flip-search", words)
    until(page, f"document.getElementById('flip-count').textContent !== {json.dumps(before)}")
    return page.inner_text("#flip-count")


def test_hostile_text_shows_as_text(visit: Open, hostile: Path) -> None:
    page = visit(hostile)
    for more in page.query_selector_all(".fold"):
        more.click()
    shown = page.evaluate(
        "[...document.querySelectorAll('.said')].map(p => p.textContent).join('')"
    )
    tokens = page.evaluate(
        "[...document.querySelectorAll('.tokens')].map(p => p.textContent).join('')"
    )
    for text in HOSTILE:
        assert visible(text) in shown
        assert visible(text) in tokens
    assert page.evaluate("typeof window.broken_out") == "undefined"
    assert page.locator("main img").count() == 0


def test_long_text_folds(visit: Open, hostile: Path) -> None:
    page = visit(hostile)
    fold = page.locator("button.fold", has_text="Show all 100,").first
    text = fold.locator("xpath=preceding-sibling::p")
    assert len(text.text_content()) < 1000
    fold.click()
    assert (
        len(
            page.locator("button.fold", has_text="Show less")
            .first.locator("xpath=preceding-sibling::p")
            .text_content()
        )
        > 100_000
    )


def test_search_and_filters(visit: Open, run: Path) -> None:
    page = visit(run)
    rows = pd.read_parquet(run.parent / "answers.parquet").query("split == 'test'")
    right = rows.pivot(index="id", columns="arm", values="score")
    fixed = right[(right["baseline"] == 0) & (right["steered"] == 1)].index
    broken = right[(right["baseline"] == 1) & (right["steered"] == 0)].index
    total = len(fixed) + len(broken)
    assert total > 50
    assert page.inner_text("#flip-count") == f"50 shown of {total}"
    assert page.locator(".flip").count() == 50

    page.click("#flip-more")
    assert page.locator(".flip").count() == min(100, total)

    assert search(page, f"({fixed[-1].split('-')[-1]})") == f"1 shown of 1 matching, of {total}"
    assert fixed[-1] in page.inner_text(".flip")
    assert search(page, "no such words").startswith("0 shown")
    assert page.locator(".flip").count() == 0 and not page.is_visible("#flip-more")
    search(page, "")

    page.check("input[value=broken]")
    until(page, "!document.querySelector('.flip.fixed')")
    assert page.locator(".flip.broken").count() == min(50, len(broken))
    assert f"of {len(broken)} matching" in page.inner_text("#flip-count")


def test_thousands_of_flips_stay_fast(visit: Open, tmp_path: Path) -> None:
    fabricate_run(tmp_path / "run", n_test=100)
    answers = pd.read_parquet(tmp_path / "run" / "answers.parquet")
    tested = answers[(answers["split"] == "test") & answers["arm"].isin(["baseline", "steered"])]
    flipped = tested[tested.groupby("id")["score"].transform("nunique") == 2]
    copies = [flipped.assign(id=flipped["id"] + f"-{k}") for k in range(4000 * 2 // len(flipped))]
    pd.concat([answers, *copies]).to_parquet(tmp_path / "run" / "answers.parquet")
    page = visit(write_run_report(tmp_path / "run"))
    assert page.locator(".flip").count() == 50
    spent = page.evaluate(
        """async () => {
            const start = performance.now(), count = document.getElementById("flip-count");
            const box = document.getElementById("flip-search"), before = count.textContent;
            box.value = "tessarin";
            box.dispatchEvent(new Event("input", { bubbles: true }));
            while (count.textContent === before) await new Promise(r => setTimeout(r, 5));
            return performance.now() - start;
        }"""
    )
    assert spent < 1000


CUT = """() => [...document.querySelectorAll('.plot')].flatMap(plot => {
    const box = plot.getBoundingClientRect();
    return [...plot.querySelectorAll('text')].filter(t => t.textContent).filter(t => {
        const r = t.getBoundingClientRect();
        return r.left < box.left - 1 || r.right > box.right + 1 ||
               r.top < box.top - 1 || r.bottom > box.bottom + 1;
    }).map(t => t.textContent);
})"""

COLOURS = """() => [
    getComputedStyle(document.querySelector('.plot .xtick text')).fill,
    getComputedStyle(document.body).color,
]"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
@pytest.mark.parametrize("which", ["run", "hostile", "sweep"])
def test_fits_the_screen_and_follows_the_scheme(
    visit: Open, request: pytest.FixtureRequest, which: str, width: int, scheme: str
) -> None:
    page = visit(request.getfixturevalue(which), width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CUT) == []
    figure, text = page.evaluate(COLOURS)
    assert figure == text


def test_figures_follow_a_change_of_scheme_and_print_light(visit: Open, run: Path) -> None:
    page = visit(run)
    light = page.evaluate(COLOURS)
    page.emulate_media(color_scheme="dark")
    until(page, f"({COLOURS})()[0] !== '{light[0]}'")
    dark = page.evaluate(COLOURS)
    assert dark[0] == dark[1] != light[1]
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    until(page, f"({COLOURS})()[0] === '{light[0]}'")
    assert page.evaluate(COLOURS) == light
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    until(page, f"({COLOURS})()[0] === '{dark[0]}'")
    assert page.pdf().startswith(b"%PDF")


def test_sweep_links_to_its_jobs_and_shows_errors(visit: Open, sweep: Path) -> None:
    page = visit(sweep)
    assert HOSTILE[0] in page.inner_text("pre")
    links = page.locator("table a")
    assert links.count() == 1
    assert links.evaluate("a => a.href") == (sweep.parent / "1" / "report.html").as_uri()
    assert "chosen" in page.inner_text("tr.chosen")
