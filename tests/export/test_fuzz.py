"""A few of the random models of `make fuzz`; none of these is refused."""

import fuzz
import pytest


@pytest.mark.parametrize("seed", range(12))
def test_a_random_model_agrees_with_keras(seed):
    kind, why = fuzz.check(seed)
    assert kind == "right", f"{why}\n{fuzz.describe(seed)}"
