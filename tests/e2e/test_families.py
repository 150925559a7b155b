"""One worked example for each chat-format family of the gateway, run against the simulator in that family's shape."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from tests.e2e.rig import DEADLINE_S, Endpoint

ROOT = Path(__file__).parents[2]
FAMILIES = sorted(path.stem for path in (ROOT / "jobs" / "families").glob("*.yaml"))
TYPED = ["gemini-text", "gpt-4o-text", "grok", "doubao-text"]
SEEING = ["gemini-vision", "gpt-4o-vision", "doubao-vision"]
DRAWING = ["gemini-image", "gpt-4o-image", "flux"]

Simulate = Callable[..., Endpoint]


def command(verb: str, family: str, endpoint: Endpoint, out: Path, *more: str) -> str:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pipeline", verb, f"jobs/families/{family}.yaml", *more),
            *("--set", f"endpoint.base_url={endpoint.base_url}", "--set", f"output.path={out}"),
        ],
        cwd=ROOT,
        env={**os.environ, "GPTPROTO_API_KEY": ""},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(family: str, endpoint: Endpoint, out: Path) -> tuple[pl.DataFrame, dict[str, Any]]:
    command("run", family, endpoint, out)
    summary: dict[str, Any] = json.loads((out / "summary.json").read_bytes())
    return pl.read_parquet(out / "results.parquet"), summary


def sent(family: str, endpoint: Endpoint, out: Path) -> list[dict[str, Any]]:
    """The bodies, which preview shows as they go out."""
    lines = command("preview", family, endpoint, out, "-n", "100", "--full").splitlines()
    return [json.loads(line)["body"] for line in lines]


def test_every_family_of_the_gateway_has_its_example() -> None:
    assert set(FAMILIES) == {*TYPED, *SEEING, *DRAWING, "claude-pdf", "veo"}
    assert len(FAMILIES) == 12


@pytest.mark.parametrize("family", TYPED)
def test_text_in_gives_typed_labels(simulate: Simulate, tmp_path: Path, family: str) -> None:
    endpoint = simulate()
    results, summary = run(family, endpoint, tmp_path / "out")
    assert results.height == 5
    assert set(results["status"]) == {"ok"}
    assert set(results["sentiment"]) <= {"positive", "negative", "neutral"}
    assert summary["cost_usd"] > 0
    assert summary["cost_usd"] == pytest.approx(results["cost_usd"].sum())


@pytest.mark.parametrize("family", SEEING)
def test_pictures_go_along_and_are_labelled(simulate: Simulate, tmp_path: Path, family: str) -> None:
    endpoint = simulate()
    results, summary = run(family, endpoint, tmp_path / "out")
    assert set(results["said_shape"]) <= {"circle", "square", "triangle", "line"}
    assert summary["evaluation"]["compared"] == 5
    for body in sent(family, endpoint, tmp_path / "out"):
        (text, picture) = next(message for message in body["messages"] if message["role"] == "user")["content"]
        assert text["type"] == "text"
        assert picture["image_url"]["url"].startswith("data:image/png;base64,")


@pytest.mark.parametrize("family", DRAWING)
def test_pictures_that_come_back_are_saved_and_open(simulate: Simulate, tmp_path: Path, family: str) -> None:
    results, _ = run(family, simulate(), tmp_path / "out")
    assert set(results["status"]) == {"ok"}
    assert results["response"].str.contains(";base64,").sum() == 0
    for paths in results["media"].to_list():
        assert paths
        for path in paths:
            with Image.open(tmp_path / "out" / path) as picture:
                picture.load()
                assert picture.format == "PNG"


def test_a_video_is_fetched_while_its_link_is_good(simulate: Simulate, tmp_path: Path) -> None:
    endpoint = simulate()
    results, _ = run("veo", endpoint, tmp_path / "out")
    for paths in results["media"].to_list():
        films = [path for path in paths if path.endswith(".mp4")]
        assert films
        assert all((tmp_path / "out" / film).read_bytes()[4:8] == b"ftyp" for film in films)
    assert all(body["stream"] for body in sent("veo", endpoint, tmp_path / "out"))


def test_a_document_goes_along_under_its_name(simulate: Simulate, tmp_path: Path) -> None:
    endpoint = simulate()
    results, _ = run("claude-pdf", endpoint, tmp_path / "out")
    assert set(results["status"]) == {"ok"}
    bodies = sent("claude-pdf", endpoint, tmp_path / "out")
    files = [part["file"] for body in bodies for part in body["messages"][-1]["content"] if "file" in part]
    assert sorted(file["filename"] for file in files) == ["invoice.pdf", "invoice.pdf", "notice.pdf"]
    assert all(file["file_data"].startswith("data:application/pdf;base64,") for file in files)
