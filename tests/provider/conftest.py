from __future__ import annotations

import pytest


@pytest.fixture(params=["short", "session"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways that a client has: what holds for a call holds whichever it takes."""
    taken: str = request.param
    monkeypatch.setattr("pipeline.provider.client.is_tried", lambda: taken == "short")
    return taken
