"""How much time is left."""

import pytest

from keras_butterfly.export.compression import clock as clocks
from keras_butterfly.export.compression.clock import Clock


@pytest.fixture
def now(monkeypatch):
    """The time, as a list of one number that tests set."""
    seconds = [100.0]
    monkeypatch.setattr(clocks.time, "monotonic", lambda: seconds[0])
    return seconds


def test_the_time_that_is_left_follows_from_what_was_done(now):
    clock = Clock(None)
    clock.expect(40)
    assert clock.left == ""
    now[0] += 10
    clock.finish(10)
    assert clock.left == ", about 30 s left"
    clock.skip(20)
    assert clock.left == ", about 10 s left"
    clock.expect(200)
    assert clock.left == ", about 4 min left"
    assert not clock.is_over()


def test_the_limit(now):
    clock = Clock(20)
    clock.expect(40)
    now[0] += 8
    clock.finish(1)
    assert clock.left == ", about 12 s left"
    assert not clock.is_over() and not clock.is_over(0.5) and not clock.has_cut
    assert clock.is_over(0.3) and clock.has_cut
    now[0] += 13
    assert clock.is_over()


def test_what_is_done_is_shown(now):
    shown = []
    clock = Clock(None)
    clock.advance = lambda amount, text=None: shown.append((amount, text))
    clock.expect(2)
    clock.show("measure")
    clock.finish(1)
    assert shown == [(0, "measure"), (0.5, None)]
