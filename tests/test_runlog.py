from __future__ import annotations

import json
import logging
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from pipeline.runlog import RunLog, redact

KEY = "a-key-of-no-known-form-0123456789"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_events_are_json_lines_of_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    log = RunLog(str(path), "r1")
    log.info("start", rows=3)
    log.warning("slow")
    log.close()
    assert [(line["level"], line["event"], line["run"]) for line in lines(path)] == [
        ("info", "start", "r1"),
        ("warning", "slow", "r1"),
    ]
    assert lines(path)[0]["rows"] == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_second_run_appends(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    for run in ("r1", "r2"):
        log = RunLog(str(path), run)
        log.info("start")
        log.close()
    assert [line["run"] for line in lines(path)] == ["r1", "r2"]


@pytest.mark.parametrize(
    "said",
    [
        f"Incorrect API key provided: {KEY}",
        f"header Authorization: Bearer {KEY}",
        "key sk-abcdefghijklmnop is wrong",
        "Bearer abcdef was refused",
    ],
)
def test_a_key_is_taken_out_and_the_line_stays_json(tmp_path: Path, said: str) -> None:
    # A greedy pattern took the quote and the members behind a `Bearer` along, and no program could read the log.
    path = tmp_path / "run.log"
    log = RunLog(str(path), "r1", KEY)
    log.warning("attempt_failed", error=said, status=401)
    log.close()
    line = lines(path)[0]
    assert line["status"] == 401
    assert "[key]" in line["error"]
    for secret in (KEY, "sk-abcdefghijklmnop", "abcdef was"):
        assert secret not in line["error"]


def test_whoever_listens_hears_what_the_log_has_without_keys() -> None:
    heard: list[tuple[str, str]] = []
    log = RunLog(None, "r1", KEY)
    log.echo = lambda level, members, line: heard.append((level, line))
    log.error("stopped", message=f"wrong key {KEY}", exit_code=4)
    assert heard[0][0] == "error"
    assert KEY not in heard[0][1]
    assert json.loads(heard[0][1])["exit_code"] == 4


def test_nothing_that_is_logged_can_end_a_run(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    log = RunLog(str(path), "r1")
    log.info("odd", name=os.fsdecode(b"caf\xe9"), number=2**70, thing=object())
    assert lines(path)[0]["number"] == 2**70
    os.close(log._fd)  # the descriptor dies: EBADF
    log.info("lost")
    log.close()


def test_a_traceback_is_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    log = RunLog(str(path), "r1")
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError as exc:
        log.error("fault_of_ours", exc)
    log.close()
    assert "ZeroDivisionError" in lines(path)[0]["traceback"]


def test_what_libraries_log_goes_here_and_nowhere_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {
        name: (logging.getLogger(name).handlers, logging.getLogger(name).propagate) for name in ("asyncio", "aiohttp")
    }
    path = tmp_path / "run.log"
    log = RunLog(str(path), "r1", KEY)
    try:
        log.capture_library_warnings()
        logging.getLogger("aiohttp.client").error("Unclosed client session with %s", KEY)
        logging.getLogger("asyncio").info("not worth a line")
    finally:
        for name, (handlers, propagate) in before.items():
            logging.getLogger(name).handlers, logging.getLogger(name).propagate = handlers, propagate
        log.close()
    assert [line["event"] for line in lines(path)] == ["library"]
    assert KEY not in path.read_text()
    assert capsys.readouterr().err == ""


def test_a_log_is_never_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "run.log").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match=r"run\.log"):
        RunLog(str(tmp_path / "run.log"), "r1")


def test_words_that_are_no_keys_stay() -> None:
    assert redact("a bear, a task-list, a risk-taker") == "a bear, a task-list, a risk-taker"
    assert redact("nothing to hide") == "nothing to hide"
