"""What tests of exports share."""

import pytest


@pytest.fixture
def two_lowerings(monkeypatch):
    """Let the planner try two lowerings of each layer only, for tests that are not about which ones it tries."""
    from keras_butterfly.export.lowering import Dense, Fused
    from keras_butterfly.export.planning import planner

    monkeypatch.setattr(planner, "shortlist", lambda *settings: [Fused(), Dense()])
