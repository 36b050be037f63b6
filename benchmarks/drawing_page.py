"""How long the page of `export --web` takes to load and to draw, in a real Chromium.

    python -m xmc_jax.export --workdir=xmc_jax/demo/emoji --out=exports/emoji --nostandalone --web
    python -m benchmarks.drawing_page --folder=exports/emoji --out=docs/web.png

The page is served from this machine by Python's http.server, and each visit has an empty cache.
Prints the medians; --out also takes an image of the page. Needs playwright, and Chromium on PATH.
"""

import contextlib
import functools
import http.server
import shutil
import statistics
import threading
from collections.abc import Iterator

from absl import app, flags
from etils import epath
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks import measure
from xmc_jax.inference import exported

FOLDER = flags.DEFINE_string("folder", None, "An exported model with its page.", required=True)
OUT = flags.DEFINE_string("out", None, "File of an image of the page, *.png.")
VISITS = flags.DEFINE_integer("visits", 5, "Visits.", lower_bound=1)
SIZE = {"width": 860, "height": 900}


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serve(folder: epath.PathLike) -> Iterator[str]:
    """Serves a folder as ``python -m http.server`` does; gives the address of its page."""
    handler = functools.partial(_QuietHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{exported.PAGE}"
        server.shutdown()


def visit(browser: Browser, address: str) -> tuple[Page, float, float]:
    """The page with its first images, seconds until it could draw, and to the first image."""
    page = browser.new_page(viewport=SIZE)
    page.goto(address)
    page.locator('#images[aria-busy="false"]').wait_for(timeout=300_000)
    ready, drawn = page.evaluate(
        "['ready', 'drawn'].map(name => performance.getEntriesByName(name)[0].startTime / 1000)"
    )
    return page, ready, drawn - ready


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    measure.print_environment()
    times = []
    with sync_playwright() as playwright, serve(FOLDER.value) as address:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        # Chromium has no sandbox when run as root, as in containers; it opens our own page only.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        print(f"Chromium {browser.version}")
        for _ in range(VISITS.value):
            page, *seconds = visit(browser, address)
            times.append(seconds)
            if OUT.value:
                page.screenshot(path=OUT.value, full_page=True)
            page.context.close()
        browser.close()
    ready, first = map(statistics.median, zip(*times, strict=True))
    rows = [("loading, until it can draw", ready), ("from there to the first image", first)]
    measure.print_table(("", "seconds"), rows)


if __name__ == "__main__":
    app.run(main)
