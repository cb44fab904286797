"""The report pages in a real browser: hostile text, search, narrow screens, dark scheme, print.

Needs Debian's chromium and the Python package playwright; skips without them, and fails instead
when REQUIRE_BROWSER=1.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from corrsteer.report.pages import cut, visible
from corrsteer.report.run_page import write_run_report
from corrsteer.report.sweep_page import write_sweep_report
from tests.report.fabricated_run import HOSTILE, fabricate_run, set_status

pytestmark = pytest.mark.long

Open = Callable[..., Any]
DRAWN = "performance.getEntriesByName('all figures drawn').length > 0"


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
        until(page, DRAWN)
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
def thirty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 jobs: five tasks, two seeds, three dials, each tested on all tasks. Fabricated once per
    seed and dial: what a page costs does not depend on what its numbers are."""
    folder = tmp_path_factory.mktemp("thirty")
    tasks = ("bbq", "mmlu", "gsm8k", "simpleqa", HOSTILE[0])
    jobs = itertools.product((0, 1), (0.5, 1, 2), tasks)
    for n, (seed, coef, task) in enumerate(jobs):
        first = n - n % len(tasks)
        if n == first:
            fabricate_run(folder / str(n), coef=coef, seed=seed, n_test=150, transfer=tasks)
        else:
            shutil.copytree(folder / str(first), folder / str(n))
        for file, change in (
            ("metrics.json", {"task": task}),
            ("status.json", {"overrides": [f"task={task}", f"coef={coef}", f"seed={seed}"]}),
        ):
            values = json.loads((folder / str(n) / file).read_text())
            (folder / str(n) / file).write_text(json.dumps(values | change))
    return write_sweep_report(folder)


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
    """Type into the search box; return the line that counts the matches."""
    before = page.inner_text("#example-count")
    page.fill("#example-search", words)
    until(page, f"document.getElementById('example-count').textContent !== {json.dumps(before)}")
    return page.inner_text("#example-count")


def test_hostile_text_shows_as_text(visit: Open, hostile: Path) -> None:
    page = visit(hostile)
    for more in page.query_selector_all(".fold"):
        more.click()
    shown = page.evaluate(
        "[...document.querySelectorAll('p.text')].map(p => p.textContent).join('')"
    )
    tokens = page.evaluate(
        "[...document.querySelectorAll('.tokens')].map(p => p.textContent).join('')"
    )
    cards = page.inner_text(".cards")
    tasks = page.locator("th bdi").all_text_contents()
    for text in HOSTILE:
        assert visible(text) in shown
        assert visible(text) in tokens
        assert cut(visible(text), 60) in tasks
    assert HOSTILE[0] in cards and HOSTILE[2] in cards
    for kind in ("unrelated", ""):
        page.check(f"input[name=kind][value='{kind}']")
        page.wait_for_timeout(200)
    assert page.evaluate("typeof window.broken_out") == "undefined"
    assert page.locator("main img").count() == 0


@pytest.mark.night
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


@pytest.mark.night
def test_search_and_filters(visit: Open, run: Path) -> None:
    page = visit(run)
    rows = pd.read_parquet(run.parent / "answers.parquet")
    right = rows.query("split == 'test'").pivot(index="id", columns="arm", values="score")
    fixed = right[(right["baseline"] == 0) & (right["steered"] == 1)].index
    broken = right[(right["baseline"] == 1) & (right["steered"] == 0)].index
    total = page.evaluate("JSON.parse(document.getElementById('example-data').textContent).length")
    assert total > len(fixed) + len(broken) + 100
    assert page.inner_text("#example-count") == f"50 shown of {total}"
    assert page.locator(".example").count() == 50

    page.click("#example-more")
    assert page.locator(".example").count() == 100

    assert search(page, fixed[-1]).startswith("1 shown of 1 matching")
    assert fixed[-1] in page.inner_text(".example")
    assert search(page, "no such words").startswith("0 shown")
    assert page.locator(".example").count() == 0 and not page.is_visible("#example-more")
    search(page, "")

    for kind, count in (("broken", len(broken)), ("same", 50), ("text", None), ("unrelated", None)):
        page.check(f"input[value={kind}]")
        until(page, f"document.querySelector('.example').className === 'example {kind}'")
        shown = page.locator(".example").count()
        assert shown == page.locator(f".example.{kind}").count() > 0
        assert count is None or shown == min(50, count)
    assert page.locator(".example.unrelated dt").all_inner_texts()[:2] == ["Baseline", "Steered"]
    assert "Gold" not in page.inner_text(".example.unrelated")


@pytest.mark.night
def test_both_answers_stand_side_by_side_or_on_a_phone_below_each_other(
    visit: Open, run: Path
) -> None:
    places = """[...document.querySelectorAll('.example .answers')[0].children]
        .map(e => e.getBoundingClientRect()).map(r => [r.left, r.top])"""
    (x1, y1), (x2, y2), _ = visit(run).evaluate(places)
    assert x1 + 200 < x2 and y1 == y2
    (x1, y1), (x2, y2), _ = visit(run, 375).evaluate(places)
    assert x1 == x2 and y1 < y2


@pytest.mark.night
def test_changed_words_are_marked_and_nothing_is_lost(visit: Open, run: Path) -> None:
    page = visit(run)
    search(page, "unrelated-")
    listed = page.evaluate("JSON.parse(document.getElementById('example-data').textContent)")
    (before, after) = next(
        (e["baseline"], e["steered"]) for e in listed if e["kind"] == "unrelated"
    )
    texts = page.locator(".example").first.locator("dd p.text")
    assert texts.all_text_contents() == [before, after]
    assert texts.nth(0).locator("mark").all_text_contents() == ["man."]
    assert texts.nth(1).locator("mark").all_text_contents() == ["man", "at", "the", "mill."]


def download(page: Any, what: str) -> list[list[str]]:
    with page.expect_download() as got:
        page.click(f"button[data-csv='{what}']")
    assert got.value.suggested_filename == f"{what}.csv"
    return list(csv.reader(io.StringIO(Path(got.value.path()).read_bytes().decode(), newline="")))


@pytest.mark.night
def test_data_of_figures_can_be_downloaded(visit: Open, run: Path, sweep: Path) -> None:
    metrics = json.loads((run.parent / "metrics.json").read_text())
    titles, *rows = download(visit(run), "fig-arms")
    steered = dict(zip(titles, next(r for r in rows if r[0] == "Steered"), strict=True))
    assert float(steered["accuracy"]) == metrics["arms"]["steered"]["accuracy"]
    flipped = dict(zip(titles, next(r for r in rows if r[0] == "Flipped sign"), strict=True))
    assert float(flipped["gain"]) == metrics["controls"]["flipped"]["gains"][0] < 0
    page = visit(sweep)
    titles, *rows = download(page, "fig-plane-1")
    assert [row[titles.index("job")] for row in rows] == ["0", "1", "2"]
    titles, *rows = download(page, "jobs")
    assert titles == list(pd.read_csv(sweep.parent / "summary.csv")) and len(rows) == 4


@pytest.mark.night
def test_a_downloaded_text_is_no_formula(visit: Open, tmp_path: Path) -> None:
    fabricate_run(tmp_path / "run", n_test=60, transfer=("=1+1", "-2", "@x"))
    answers = pd.read_parquet(tmp_path / "run" / "answers.parquet")
    evil = ['=HYPERLINK("http://x","a,b")', "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "a\n=1", "–1"]
    changed = (answers["split"] == "unrelated") & (answers["arm"] == "steered")
    answers.loc[changed, "answer"] = [evil[k % len(evil)] for k in range(changed.sum())]
    answers.to_parquet(tmp_path / "run" / "answers.parquet")
    page = visit(write_run_report(tmp_path / "run"))
    titles, *rows = download(page, "examples")
    got = {row[titles.index("steered")] for row in rows if row[titles.index("kind")] == "unrelated"}
    assert got == {"'" + text if text[0] in "=+-@\t\r" else text for text in evil}
    titles, *rows = download(page, "fig-transfer")
    assert [row[0] for row in rows] == ["'=1+1", "'-2", "'@x"]
    assert min(float(row[titles.index("gain_low")]) for row in rows) < 0  # a number stays one


@pytest.mark.night
def test_thousands_of_flips_stay_fast(visit: Open, tmp_path: Path) -> None:
    fabricate_run(tmp_path / "run", n_test=100)
    answers = pd.read_parquet(tmp_path / "run" / "answers.parquet")
    tested = answers[(answers["split"] == "test") & answers["arm"].isin(["baseline", "steered"])]
    flipped = tested[tested.groupby("id")["score"].transform("nunique") == 2]
    copies = [flipped.assign(id=flipped["id"] + f"-{k}") for k in range(4000 * 2 // len(flipped))]
    pd.concat([answers, *copies]).to_parquet(tmp_path / "run" / "answers.parquet")
    page = visit(write_run_report(tmp_path / "run"))
    assert page.locator(".example").count() == 50
    spent = page.evaluate(
        """async () => {
            const start = performance.now(), count = document.getElementById("example-count");
            const box = document.getElementById("example-search"), before = count.textContent;
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


@pytest.mark.parametrize(
    ("which", "width", "scheme"),
    [
        *(("run", 375, "dark"), ("hostile", 375, "light"), ("sweep", 1280, "light")),
        *(
            pytest.param(*one, marks=pytest.mark.night)
            for one in (
                *itertools.product(("run", "sweep"), (1280, 375), ("light", "dark")),
                *(("hostile", 1280, "dark"), ("thirty", 375, "light")),
            )
        ),
    ],
)
def test_fits_the_screen_and_follows_the_scheme(
    visit: Open, request: pytest.FixtureRequest, which: str, width: int, scheme: str
) -> None:
    page = visit(request.getfixturevalue(which), width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if (which, width) == ("sweep", 1280):  # the table of verdicts is seen whole
        table = page.locator("[aria-label=Verdicts]")
        assert table.evaluate("e => e.scrollWidth <= e.clientWidth")
    assert page.evaluate(CUT) == []
    figure, text = page.evaluate(COLOURS)
    assert figure == text


@pytest.mark.night
def test_the_verdict_comes_first_and_numbers_soon_after_it(visit: Open, run: Path) -> None:
    """On a phone, the tiles and the first figure begin within a screen and a half."""
    sizes = "[...document.querySelectorAll('.verdict p')].map(p => getComputedStyle(p).fontSize)"
    for width in (375, 1280):
        page = visit(run, width)
        first, *others = (float(size.removesuffix("px")) for size in page.evaluate(sizes))
        assert 0 < len(others) <= 5 and first > 1.2 * max(others)
        for part in (".numbers", ".plot"):
            top = page.evaluate(f"document.querySelector('{part}').getBoundingClientRect().top")
            assert top < 1.5 * 812, part


@pytest.mark.night
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


@pytest.mark.night
def test_sweep_links_to_its_jobs_and_shows_errors(visit: Open, sweep: Path) -> None:
    page = visit(sweep)
    assert HOSTILE[0] in page.inner_text("pre")
    links = page.locator("table a")
    assert links.count() == 1
    assert links.evaluate("a => a.href") == (sweep.parent / "1" / "report.html").as_uri()
    assert "chosen" in page.locator("tr.chosen", has_text="done").inner_text()


OPENED = """[
    performance.getEntriesByType('navigation')[0].loadEventEnd,
    performance.getEntriesByName('first-contentful-paint')[0].startTime,
]"""


@pytest.mark.night
def test_a_sweep_of_thirty_jobs_is_small_and_opens_fast(browser: Any, thirty: Path) -> None:
    """Under 15 MB, and 2 seconds of wall time until it is loaded and painted, best of three: then
    verdict, tables and numbers are there to read. Figures follow when Plotly has been evaluated."""
    assert thirty.stat().st_size < 15e6
    opened = []
    for _ in range(3):
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        page = context.new_page()
        page.goto(thirty.as_uri())
        assert page.is_visible(".verdict")
        assert page.locator("table.jobs").first.locator("tbody tr").count() == 5
        until(page, DRAWN)
        opened.append(max(page.evaluate(OPENED)) / 1000)
        figures = page.locator(".plot")
        assert figures.count() == page.locator(".plot > .plot-container").count() > 20
        context.close()
    assert min(opened) < 2, opened


@pytest.mark.night
def test_paper_has_every_figure(browser: Any, thirty: Path) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(thirty.as_uri())  # and print at once, before all figures are drawn
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".plot").count() == page.locator(".plot > .plot-container").count()
    widths = page.evaluate(
        "[...document.querySelectorAll('.plot .main-svg')].map(s => s.clientWidth)"
    )
    assert set(widths) == {640}
    assert page.pdf().startswith(b"%PDF")
    context.close()
