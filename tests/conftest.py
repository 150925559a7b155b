"""For all tests: what hypothesis tries is the same on every machine, no slow machine fails a test, and jobs that share
their limits do so in a folder of the session, never in that of whoever runs the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: a fifth of the suite waits for an endpoint."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(scope="session", autouse=True)
def _state_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        # Nothing here goes outside, and reading the system's certificates is a tenth of every start of the command.
        patch.setenv("SSL_CERT_FILE", os.devnull)
        yield
