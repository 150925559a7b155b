"""The report in a real browser; ``make test-browser``, never part of ``make test``.

Needs Chromium in the path. PIPELINE_BROWSER=1 asks for it; PIPELINE_PICTURES=FOLDER keeps the pictures.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.rig import Endpoint, JobFolder, new_job, simulate

__all__ = ["new_job", "simulate"]

pytestmark = pytest.mark.skipif(
    not os.environ.get("PIPELINE_BROWSER"), reason="needs Chromium in the path: `make test-browser`"
)

SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)


@pytest.fixture
def browser() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert found, "no Chromium in the path; install it, then make test-browser"
    return found


@pytest.mark.parametrize(
    ("name", "width", "more"),
    [("light", 1120, ()), ("dark", 1120, ("--blink-settings=preferredColorScheme=0",)), ("narrow", 500, ())],
)
def test_the_page_opens_without_an_error(
    browser: str,
    tmp_path: Path,
    simulate: Callable[..., Endpoint],
    new_job: Callable[..., JobFolder],
    name: str,
    width: int,
    more: tuple[str, ...],
) -> None:
    job = new_job(simulate(latency_s=0.02, latency_sigma=0.4, faults={"empty_content": 0.05}))
    job.more = {"answer": {"fields": {"mood": ["good", "bad"]}}, "evaluate": {"gold": "gold", "field": "mood"}}
    job.rows([{"id": str(n), "text": f"<script>{n}", "gold": ("good", "bad")[n % 2]} for n in range(80)])
    job.run("run", "--max-failed", "100%")
    assert job.run("report").returncode == 0
    picture = Path(os.environ.get("PIPELINE_PICTURES", tmp_path)) / f"report-{name}.png"
    told = picture_of(browser, job.out / "report.html", picture, tmp_path / "profile", width, more)
    assert "CONSOLE" not in told
    head = picture.read_bytes()[:24]
    assert struct.unpack(">II", head[16:24])[0] == width


def test_an_error_on_the_console_would_be_seen(browser: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><script>nothing.of.the.kind()</script>")
    assert "CONSOLE" in picture_of(browser, page, tmp_path / "page.png", tmp_path / "profile", 500, ())


def picture_of(browser: str, page: Path, picture: Path, profile: Path, width: int, more: tuple[str, ...]) -> str:
    """Gives what the browser had to say."""
    picture.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [browser, *SWITCHES, *more, f"--user-data-dir={profile}", f"--window-size={width},2600",
         f"--screenshot={picture}", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert picture.exists(), done.stderr
    return done.stderr
