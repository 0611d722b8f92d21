"""examples/web: the page is built, a plain server serves it, a real browser draws on it, and the networks read the drawing."""

import json
import math
import runpy
from pathlib import Path

import pytest
import web_site

# The networks of the page have to learn first.
pytestmark = pytest.mark.long

BUILD = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "web" / "build.py"))
MODELS = len(BUILD["MODELS"])
# An en dash stands for nothing.
NOTHING = "\u2013"
ANSWERS = "[...document.querySelectorAll('.digit')].map(digit => digit.textContent)"


def arc(x, y, radius, height, start, end):
    """Points on a part of an ellipse. Angles are in turns, clockwise from the right."""
    turns = [start + (end - start) * step / 20 for step in range(21)]
    return [(x + radius * math.cos(2 * math.pi * turn), y + height * math.sin(2 * math.pi * turn)) for turn in turns]


DRAWINGS = {
    "0": [arc(0.5, 0.5, 0.2, 0.3, -0.25, 0.75)],
    "1": [[(0.52, 0.15), (0.48, 0.85)]],
    "2": [[*arc(0.5, 0.32, 0.2, 0.2, -0.5, 0.12), (0.3, 0.82), (0.75, 0.82)]],
    "3": [arc(0.47, 0.33, 0.18, 0.18, -0.4, 0.25) + arc(0.47, 0.68, 0.2, 0.2, -0.25, 0.4)],
}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The folder of a page whose small networks learned scikit-learn's digits for a short time."""
    web_site.skip_without_browser()
    folder = tmp_path_factory.mktemp("web") / "page"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BUTTERFLY_EFFORT", "estimate")
        BUILD["build"](folder, data=None, digits=True, epochs=30, width=256, device="host", overwrite=False)
    return folder


@pytest.fixture(scope="module")
def chromium(page):
    with web_site.opened(page) as chromium:
        web_site.wait_for(chromium, "document.body.dataset.ready === 'yes' || !document.getElementById('problem').hidden")
        assert chromium.evaluate("document.getElementById('problem').textContent") == ""
        yield chromium


@pytest.mark.parametrize("digit", DRAWINGS)
def test_a_drawn_digit_is_read_by_all_networks(chromium, digit):
    chromium.evaluate("document.getElementById('clear').click()")
    web_site.wait_for(chromium, "document.body.dataset.strokes === '0'")
    assert chromium.evaluate(ANSWERS) == [NOTHING] * MODELS
    web_site.drag(chromium, "#paper", DRAWINGS[digit])
    web_site.wait_for(chromium, f"{ANSWERS}.every(digit => digit === '{digit}')", seconds=10)


def test_latencies_and_sizes_stand_side_by_side(chromium, page):
    web_site.drag(chromium, "#paper", DRAWINGS["1"])
    web_site.wait_for(chromium, "document.querySelectorAll('#times .number').length && call.textContent.includes('by itself')")
    times = chromium.evaluate("[...document.querySelectorAll('#times .number')].map(number => number.textContent)")
    assert len(times) == MODELS and all("µs" in time for time in times)
    widths = chromium.evaluate("[...document.querySelectorAll('#sizes .fill')].map(bar => parseFloat(bar.style.width))")
    sizes = [model["bytes"] for model in json.loads((page / "models.json").read_text())["models"]]
    assert widths == pytest.approx([100 * size / max(sizes) for size in sizes], rel=1e-3)


def test_page_asks_for_nothing_from_elsewhere_and_needs_no_headers(chromium):
    origins = chromium.evaluate("performance.getEntriesByType('resource').map(entry => new URL(entry.name).origin)")
    assert set(origins) == {chromium.evaluate("location.origin")} and len(origins) > 8
    assert not chromium.evaluate("crossOriginIsolated")


@pytest.mark.parametrize("width", [390, 1280])
def test_page_fits_the_screen(chromium, width):
    chromium.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width


def test_build_replaces_nothing_unasked(page):
    with pytest.raises(ValueError, match="exists"):
        BUILD["build"](page, data=None, digits=True, epochs=1, width=8, device="host", overwrite=False)
