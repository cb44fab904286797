"""Takes the picture of README: the top of a run's page, as a browser shows it.

    python -m docs.tools.picture outputs/sweeps/TIME_bbq/1      # the main job's, at dial 1

Needs chromium and the Python package playwright.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from docs.tools.repo import DOCS

PICTURE = DOCS / "pictures" / "run.png"
WIDTH, HEIGHT = 1100, 760


def take(run: Path, out: Path = PICTURE) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto((run / "report.html").resolve().as_uri())
        page.wait_for_timeout(1500)  # figures are drawn when they are seen
        out.parent.mkdir(exist_ok=True)
        page.screenshot(path=out)
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    take(parser.parse_args().run)
    print(PICTURE)
