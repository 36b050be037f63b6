"""A real browser for tests of pages: headless Chromium that asks no other machine."""

import contextlib
import io
import pathlib
import shutil

import numpy as np
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTHS = {"phone": 390, "desktop": 1280}


def find() -> str | None:
    """Path of Chromium or Chrome; None if it is not installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """Opens pages from disk, and records their errors and requests to other addresses."""

    def __init__(self, chromium):
        self._chromium = chromium
        self._contexts = []

    def open(self, path, *, width: int = WIDTHS["desktop"], fragment: str = "", context=None):
        """Opens a file or an address in a new tab, in a new profile or an earlier tab's context.

        What an address loads must lie in the same folder.
        """
        address = str(path)
        if "://" not in address:
            address = pathlib.Path(path).absolute().as_uri()
        home = "file:" if address.startswith("file:") else address.rpartition("/")[0] + "/"
        if context is None:
            context = self._chromium.new_context(accept_downloads=True)
            self._contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.set_viewport_size({"width": width, "height": 844})
        page.faults = []
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("console", lambda m: page.faults.append(m.text) if m.type == "error" else None)
        allowed = (home, "data:", "blob:")
        page.on(
            "request", lambda r: None if r.url.startswith(allowed) else page.faults.append(r.url)
        )
        page.goto(address + fragment)
        return page

    def colour_of(self, locator) -> tuple[int, ...]:
        """Colour in the middle of an element on the screen."""
        pixels = np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB"))
        return tuple(map(int, pixels[pixels.shape[0] // 2, pixels.shape[1] // 2]))

    def assert_fits(self, page) -> None:
        """Asserts that nothing failed or was requested, and that no width scrolls sideways."""
        for name, width in WIDTHS.items():
            page.set_viewport_size({"width": width, "height": 844})
            needed = page.evaluate("document.documentElement.scrollWidth")
            assert needed <= width, f"the page is {needed} pixels wide on a {name} of {width}"
        assert page.faults == []

    def close_pages(self) -> None:
        """Closes all tabs of `open`."""
        while self._contexts:
            self._contexts.pop().close()


@contextlib.contextmanager
def start(executable: str):
    """Starts the browser, and stops it at the end of the block."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium has no sandbox when run as root, as in containers; it opens our own pages only.
        quiet = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
        chromium = playwright.chromium.launch(executable_path=executable, args=quiet)
        try:
            yield Browser(chromium)
        finally:
            chromium.close()
