"""What tests of exports share."""

import pytest


@pytest.fixture
def two_lowerings(monkeypatch):
    """Only two lowerings of each layer are tried, where a test is not about which ones are."""
    from keras_butterfly.export.lowering import Dense, Fused
    from keras_butterfly.export.planning import planner

    monkeypatch.setattr(planner, "shortlist", lambda *settings: [Fused(), Dense()])
