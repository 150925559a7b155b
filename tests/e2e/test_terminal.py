"""What goes out: nothing that commands a terminal where there is none, and one bar on one."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.e2e.gate import gated
from tests.e2e.rig import DEADLINE_S, Endpoint, JobFolder
from tests.e2e.scripted import Said, says, scripted

Simulate = Callable[..., Endpoint]
NewJob = Callable[..., JobFolder]

ODD = "\x1b[2J\x1b]0;owned\x07\r\x9b31m\u202eevil\x00\x7f\u2066\u200b\u2028"
NAME = ODD.replace("\x00", "")  # what a file or an argument may hold


def harmless(stream: str) -> bool:
    return all(line.isprintable() for line in stream.split("\n"))


def endpoint_says(body: dict[str, Any]) -> Said:
    """One answer that fits no label, one refusal, one that fails for now, in the order of the rows."""
    row = re.search(r"row (\d)", body["messages"][-1]["content"])
    match int(row[1]) % 4 if row else 3:
        case 0:
            return 400, {"error": {"message": f"bad {ODD}", "type": "invalid_request_error"}}
        case 1:
            return 200, {**says(f"an {ODD} answer")[1], "model": f"m{ODD}"}
        case 2:
            return 500, {"error": {"message": f"down {ODD}", "code": ODD}}
        case _:
            return says(json.dumps({"label": "good"}))


def a_hostile_job(new_job: NewJob, base_url: str) -> JobFolder:
    column = "text" + NAME.replace("\r", "")
    job = new_job(Endpoint(base_url), template='{{ row["' + "text" + '"] }}')
    job.template = "row {{ n }} {{ text }}"
    odd_folder = "out" + NAME.replace("\u2028", "").replace("\u202e", "").replace("\u2066", "")
    job.more = {
        "answer": {"fields": {"label": ["good", "bad"]}, "mode": "json", "repair": 0},
        "evaluate": {"gold": "gold", "field": "label"},
        "retry": {"max_attempts": 1, "max_wait_s": 0.01},
        "notify": f"printf '{NAME.replace(chr(13), '')}'; exit 3",
        "output": odd_folder,
        "input": {"path": "in.parquet", "id": "id"},
    }
    table = {
        "id": [f"r{row}{ODD}" for row in range(8)],
        "n": [str(row) for row in range(8)],
        "text": [f"text {ODD}"] * 8,
        "gold": ["good", f"gold{ODD}"] * 4,
        column: ["x"] * 8,
    }
    pl.DataFrame(table).write_parquet(job.folder / "in.parquet")
    return job


VERBS = [
    ["check"],
    ["preview", "-n", "8"],
    ["plan"],
    ["plan", "--json"],
    ["run"],
    ["run", "--retry-failed", "--log-format", "json"],
    ["run", "--retry-failed", NAME],
    ["run", "--set", f"prompt={NAME}"],
    ["run", "--set", f"input.id={NAME}"],
    ["run", "--env-file", NAME],
    ["run", f"--{NAME}"],
    ["run", "--max-failed", NAME],
    ["rehearse"],
    ["status"],
    ["status", "--json"],
    ["failures"],
    ["failures", "--json"],
    ["evaluate"],
    ["evaluate", "--json"],
    ["export", "--to", f"{NAME}.csv"],
    ["export", "--to", NAME],
    ["verify"],
    ["stop"],
    ["status", "-C", NAME],
    [NAME],
]


def test_no_verb_sends_a_terminal_a_command_whatever_the_rows_and_the_endpoint_say(new_job: NewJob) -> None:
    with scripted(endpoint_says) as server:
        job = a_hostile_job(new_job, server.base_url)
        codes = {}
        for number, words in enumerate(VERBS):
            done = job.run(*words)
            assert harmless(done.stdout), (words, done.stdout)
            assert harmless(done.stderr), (words, done.stderr)
            assert "Traceback" not in done.stderr, (words, done.stderr)
            codes[number] = done.returncode
        out = next(path for path in job.folder.iterdir() if path.name.startswith("out"))
        assert {codes[number] for number in range(4)} == {0}
        assert codes[4] == 3
        for log in out.rglob("run*.log"):
            assert harmless(log.read_text()), log
        assert any(b"\\u202e" in log.read_bytes() for log in out.rglob("run*.log"))  # it was there to be made harmless


def test_a_job_file_of_an_odd_name_is_told_harmlessly(new_job: NewJob, simulate: Simulate) -> None:
    job = new_job(simulate())
    for words in (["run", NAME], ["check", NAME + "/x"], ["init", NAME + "/x"], ["init", NAME]):
        done = subprocess.run(
            [*job.command("run")[:3], *words],
            cwd=job.folder,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert harmless(done.stderr + done.stdout), (words, done.stderr)


# -- on a terminal


def on_a_terminal(
    job: JobFolder,
    *words: str,
    columns: int,
    waiting: Callable[[], object] = lambda: None,
    environ: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Exit code and all that the terminal was sent. ``waiting`` is called once it says that it waits."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        job.command(*words),
        cwd=job.folder,
        env={**job.environment(), "TERM": "xterm", **(environ or {})},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = bytearray()

    def read() -> None:
        while True:
            try:
                piece = os.read(ours, 65_536)
            except OSError:  # the other end is closed
                return
            if not piece:
                return
            said_before = b"waiting" in shown
            shown.extend(piece)
            if b"waiting" in shown and not said_before:
                waiting()

    reader = threading.Thread(target=read)
    reader.start()
    code = process.wait(DEADLINE_S)
    reader.join(DEADLINE_S)
    os.close(ours)
    return code, shown.decode()


def longest_bar(shown: str) -> int:
    bars = [piece for piece in re.split(r"[\r\n]|\x1b\[A", shown) if "row/s" in piece or "%|" in piece]
    assert bars, shown
    return max(map(len, bars))


@pytest.mark.parametrize("columns", [80, 40])
def test_a_bar_never_wraps(simulate: Simulate, new_job: NewJob, columns: int) -> None:
    job = new_job(
        simulate(latency_s=0.3), concurrency=4, more={"limits": {"concurrency": 4}, "prices": {"input": 1, "output": 1}}
    )
    job.number_of_rows(30)
    code, shown = on_a_terminal(job, "run", columns=columns)
    assert code == 0, shown
    assert longest_bar(shown) <= columns
    assert "30/30" in shown


@pytest.mark.parametrize(("name", "value"), [("TQDM_DISABLE", "1"), ("TERM", "dumb")])
def test_a_terminal_that_wants_no_bar_gets_plain_lines(
    simulate: Simulate, new_job: NewJob, name: str, value: str
) -> None:
    job = new_job(simulate())
    job.number_of_rows(5)
    code, shown = on_a_terminal(job, "run", columns=80, environ={name: value})
    assert code == 0
    assert harmless(shown.replace("\r\n", "\n"))
    assert "5/5 rows, " in shown


def test_watching_on_a_terminal_draws_in_place_and_leaves_the_last_block(new_job: NewJob) -> None:
    with gated(100) as (_gate, server):
        job = new_job(server.endpoint)
        job.number_of_rows(3)
        started: list[subprocess.Popen[str]] = []
        begin = lambda: started.append(job.start())  # noqa: E731
        code, shown = on_a_terminal(job, "status", "--watch", columns=40, waiting=begin)
        started[0].communicate(timeout=DEADLINE_S)
        assert code == 0
        assert shown.count("\x1b[?1049h") == shown.count("\x1b[?1049l") == 1
        drawn, _, left = shown.partition("\x1b[?1049l")
        assert "waiting for a run" in drawn
        lines = re.sub(r"\x1b\[[0-9?]*[A-Za-z]", "\n", drawn).replace("\r", "\n").split("\n")
        assert max(map(len, lines)) < 40
        assert "\x1b" not in left
        assert "answers    3 ok" in left


def test_a_file_of_lines_is_what_a_dumb_terminal_gets_from_watching(new_job: NewJob, tmp_path: Path) -> None:
    with gated(100) as (_gate, server):
        job = new_job(server.endpoint)
        job.number_of_rows(3)
        started: list[subprocess.Popen[str]] = []
        begin = lambda: started.append(job.start())  # noqa: E731
        code, shown = on_a_terminal(job, "status", "--watch", columns=80, waiting=begin, environ={"TERM": "dumb"})
        started[0].communicate(timeout=DEADLINE_S)
        assert code == 0
        assert harmless(shown.replace("\r\n", "\n"))
