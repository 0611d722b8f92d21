"""Pages in a real Chromium for the tests: a plain static server, and a page opened from it."""

import functools
import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

from keras_butterfly.export.measurement.devices.browser import Browser
from keras_butterfly.export.measurement.devices.chromium import Chromium, find_chromium


class _Handler(http.server.SimpleHTTPRequestHandler):
    """What `python -m http.server` answers with, without its log."""

    def log_message(self, *arguments):
        pass


def skip_without_browser():
    """Skip the test if Chromium or LiteRT.js is missing."""
    if missing := Browser.missing():
        pytest.skip(missing)


@contextmanager
def served(folder) -> Iterator[str]:
    """Serve a folder, and yield the address of its root."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def opened(folder) -> Iterator[Chromium]:
    """Open the index.html of a folder in Chromium."""
    with served(folder) as url:
        chromium = Chromium(find_chromium())
        try:
            chromium.open(url)
            yield chromium
        finally:
            chromium.close()


def wait_for(chromium: Chromium, condition: str, seconds: float = 60):
    """Wait until a JavaScript expression is true in the page, and return its value."""
    end = time.monotonic() + seconds
    while not (value := chromium.evaluate(condition)):
        assert time.monotonic() < end, f"{condition} did not become true"
        time.sleep(0.05)
    return value


def drag(chromium: Chromium, selector: str, strokes) -> None:
    """Draw strokes on an element with the mouse. The points of a stroke are parts of its width and height, from 0 to 1."""
    box = chromium.evaluate(f"document.querySelector({selector!r}).getBoundingClientRect().toJSON()")

    def mouse(kind: str, point, buttons: int = 1):
        x, y = box["x"] + point[0] * box["width"], box["y"] + point[1] * box["height"]
        where = {"x": x, "y": y, "button": "left", "buttons": buttons, "clickCount": 1}
        chromium.call("Input.dispatchMouseEvent", type=kind, **where)

    for stroke in strokes:
        mouse("mousePressed", stroke[0])
        for start, end in pairwise(stroke):
            for part in (0.25, 0.5, 0.75, 1):
                mouse("mouseMoved", [a + part * (b - a) for a, b in zip(start, end, strict=True)])
        mouse("mouseReleased", stroke[-1], buttons=0)
