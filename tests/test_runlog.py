from __future__ import annotations

import json
import logging
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from pipeline import runlog
from pipeline.runlog import RunLog, as_json, redact

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


def a_run(path: Path, run: str, *, sends: bool) -> None:
    log = RunLog(str(path), run)
    log.info("plan")
    if sends:
        log.begin()
    log.info("end")
    log.close()


def runs(path: Path) -> list[str]:
    return [line["run"] for line in lines(path)]


def test_a_run_that_sends_begins_a_log_of_its_own_and_the_ten_before_it_stay(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    for number in range(13):
        a_run(path, f"r{number}", sends=True)
    assert runs(path) == ["r12", "r12"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(
        ["run.log", *(f"run.{number}.log" for number in range(1, 11))]
    )
    for number in range(1, 11):
        assert runs(tmp_path / f"run.{number}.log") == [f"r{12 - number}"] * 2


def test_a_run_that_sends_nothing_adds_its_lines_to_the_log_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    a_run(path, "r1", sends=True)
    a_run(path, "r2", sends=False)
    assert runs(path) == ["r1", "r1", "r2", "r2"]
    RunLog(str(path), "r3").close()  # one that has nothing to say
    assert runs(path) == ["r1", "r1", "r2", "r2"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.log"]


def test_a_job_that_is_refused_every_minute_does_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runlog, "MOST_BYTES", 1_000)
    path = tmp_path / "run.log"
    for number in range(300):
        a_run(path, f"r{number}", sends=False)
    sizes = [entry.stat().st_size for entry in tmp_path.iterdir()]
    assert len(sizes) == 11
    assert max(sizes) < 1_500


def test_a_crash_while_logs_step_aside_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.log"
    for number in range(5):
        a_run(path, f"r{number}", sends=True)
    honest = os.rename
    for survives in range(3):
        left = survives

        def crashing(source: str, target: str) -> None:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            honest(source, target)

        monkeypatch.setattr(os, "rename", crashing)
        with pytest.raises(KeyboardInterrupt):
            a_run(path, "crashed", sends=True)
        monkeypatch.setattr(os, "rename", honest)
        there = {run for entry in tmp_path.iterdir() for run in runs(entry)}
        assert there == {f"r{number}" for number in range(5)}
    a_run(path, "r5", sends=True)
    newest_first = [runs(tmp_path / f"run{number}.log")[0] for number in ("", ".1", ".2", ".3", ".4", ".5")]
    assert newest_first == ["r5", "r4", "r3", "r2", "r1", "r0"]


def test_a_name_that_is_taken_keeps_the_log_going_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    a_run(path, "r1", sends=True)
    for number in range(1, 11):
        (tmp_path / f"run.{number}.log").mkdir()
        (tmp_path / f"run.{number}.log" / "in the way").touch()
    a_run(path, "r2", sends=True)
    assert runs(path) == ["r1", "r1", "r2", "r2"]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_comes_by_the_million_is_told_a_thousand_times_a_kind_and_counted_once_a_minute(tmp_path: Path) -> None:
    path, clock = tmp_path / "run.log", Clock()
    log = RunLog(str(path), "r1", clock=clock)
    log.begin()
    for second in range(180):
        clock.now = float(second)
        for _ in range(50):
            log.often("attempt_failed", "rate_limited", row="k")
        log.tick()
    log.often("attempt_failed", "timeout", row="k")
    log.close()
    told = lines(path)
    full = [line["kind"] for line in told if line["event"] == "attempt_failed"]
    assert (full.count("rate_limited"), full.count("timeout")) == (1_000, 1)
    counted = [line for line in told if line["event"] == "attempt_failed_more"]
    assert [line["kind"] for line in counted] == ["rate_limited"] * 3
    assert sum(line["count"] for line in counted) == 180 * 50 - 1_000
    assert [line["over_s"] for line in counted[:2]] == [60.0, 60.0]
    assert counted[-1]["so_far"] == 180 * 50


def test_what_may_quote_a_row_is_for_who_listens_and_not_for_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    heard: list[str] = []
    log = RunLog(str(path), "r1")
    log.echo = lambda level, members, line: heard.append(line)
    log.warning("row_failed", row="k", aloud={"error": "the prompt itself"})
    log.close()
    assert json.loads(heard[0])["error"] == "the prompt itself"
    assert "error" not in lines(path)[0]


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
    log.begin()
    log.info("odd", name=os.fsdecode(b"caf\xe9"), number=2**70, thing=object())
    assert lines(path)[0]["number"] == 2**70
    os.close(log._fd)  # the descriptor dies: EBADF
    log.info("lost")
    log.close()


def test_a_traceback_is_in_the_log_without_the_words_of_the_error(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    log = RunLog(str(path), "r1")
    try:
        try:
            {"": 1}["the prompt itself"]
        except KeyError:
            raise OSError(28, "No space left on device") from None
    except OSError as exc:
        log.error("fault_of_ours", exc)
    try:
        try:
            int("the prompt itself")
        except ValueError as cause:
            raise RuntimeError("the answer itself") from cause
    except RuntimeError as exc:
        log.error("fault_of_ours", exc)
    log.close()
    first, second = (line["traceback"] for line in lines(path))
    assert first.endswith("OSError: No space left on device")
    assert "KeyError" not in first
    assert "ValueError\nthen:\n" in second
    assert second.endswith("RuntimeError")
    assert 'raise RuntimeError("the answer itself")' in second  # the line of the source, not what came of it


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
        RunLog(str(tmp_path / "run.log"), "r1").begin()
    a_run(tmp_path / "run.log", "r1", sends=False)
    assert (tmp_path / "target").read_text() == "precious"


def test_words_that_are_no_keys_stay() -> None:
    assert redact("a bear, a task-list, a risk-taker") == "a bear, a task-list, a risk-taker"
    assert redact("nothing to hide") == "nothing to hide"


def test_json_is_harmless_on_a_terminal_and_means_the_same() -> None:
    odd = {"a\x1b": "x\x07\x9b\u202e\U000e0001é日🎈", "n": [1, None]}
    text = as_json(odd)
    assert text.isprintable()
    assert "é日🎈" in text
    assert json.loads(text) == odd
    assert json.loads(as_json({"path": os.fsdecode(b"caf\xe9\x1b")}))["path"] == os.fsdecode(b"caf\xe9\x1b")
