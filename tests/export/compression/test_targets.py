"""The limits of a compressed model."""

import pytest

from keras_butterfly.export.compression.targets import Targets


def test_load_and_excess():
    both = Targets(latency=2e-6, size=1000)
    assert both.load(1e-6, 1500) == 1.5
    assert both.costs(1e-6, 1500) == (1e-6, 1500)
    assert both.excess(1e-6, 900, drop=1.0) == 0
    assert both.excess(3e-6, 900, drop=0.0) == pytest.approx(0.5)
    assert Targets(size=10).costs(1.0, 2.0) == (2.0,) and Targets(size=10).only_size
    alone = Targets(drop=0.01)
    assert not alone.limits_cost
    assert alone.costs(1.0, 2.0) == (1.0,)
    assert alone.excess(9.0, 9.0, drop=0.03) == pytest.approx(0.02)
    assert alone.excess(9.0, 9.0, drop=-0.5) == 0
    assert alone.excess(9.0, 9.0, drop=1 - 0.99) == 0


def test_no_drop_at_all_may_be_asked_for():
    assert Targets(drop=0).excess(1.0, 1.0, 0.0) == 0


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "Expected at least one target"),
        ({"latency": 0}, "`target_latency` must be a positive number"),
        ({"size": float("nan")}, "`target_size` must be a positive number"),
        ({"drop": -0.1}, "`max_accuracy_drop` must be 0 or a positive number"),
        ({"latency": "fast"}, "`target_latency` must be a positive number"),
    ],
)
def test_bad_limits(limits, message):
    with pytest.raises(ValueError, match=message):
        Targets(**limits)
