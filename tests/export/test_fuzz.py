"""A few of the random models of `make fuzz`, none of which is refused."""

import fuzz
import pytest


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=[] if seed < 1 else pytest.mark.long) for seed in range(12)])
def test_a_random_model_agrees_with_keras(seed):
    kind, why = fuzz.check(seed)
    assert kind == "right", f"{why}\n{fuzz.describe(seed)}"
