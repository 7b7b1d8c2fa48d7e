"""Draw docs/explore.png: the explorer's page, as Chromium shows it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

OUT = Path(__file__).parent.parent / "docs" / "explore.png"
STATE = "step=5&layer=0&head=1"


def main() -> None:
    command = [sys.executable, "-m", "regard", "explore", "en-fr", "--no-browser"]
    service = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert service.stderr is not None
        address = service.stderr.readline().split(" at ")[1].split()[0]
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1180, "height": 900}, reduced_motion="reduce")
            page.goto(f"{address}#{STATE}")
            page.wait_for_selector('.view[data-shown="process"]')
            page.wait_for_timeout(300)
            page.screenshot(path=OUT, full_page=True)
    finally:
        service.terminate()
        service.wait(20)


if __name__ == "__main__":
    main()
