from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.notify import OUTPUT_BYTES, Notice, notify, without_key

PATH = {"PATH": os.environ["PATH"]}


def test_the_command_reads_the_summary_and_its_words_are_kept() -> None:
    assert notify(["cat"], b'{"exit_code": 0}', PATH) == Notice(None, '{"exit_code": 0}')
    assert notify(["/bin/sh", "-c", "cat >/dev/null; echo out; echo err >&2; exit 3"], b"x", PATH) == Notice(
        "ended with 3", "out\nerr\n"
    )
    assert notify(["/bin/sh", "-c", "kill -9 $$"], b"x", PATH).fault == "was ended by SIGKILL"


def test_a_command_that_is_none_is_told() -> None:
    assert "No such file" in (notify(["no-such-program"], b"x", PATH).fault or "")
    assert "cannot be run" in (notify(["a\0b"], b"x", PATH).fault or "")


def test_one_that_reads_nothing_and_one_that_says_too_much_block_nobody() -> None:
    assert notify(["true"], b"x" * 1_000_000, PATH) == Notice(None, "")
    told = notify(["/bin/sh", "-c", "head -c 5000000 /dev/zero | tr '\\0' x"], b"", PATH)
    assert told == Notice(None, "x" * OUTPUT_BYTES)


def test_one_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    note = tmp_path / "child"
    line = f"sleep 600 & echo $! > {note}; wait"
    told = notify(["/bin/sh", "-c", line], b"", PATH, limit_s=0.5)
    assert told.fault == "did not end within 0.5 s and was killed"
    child = int(note.read_text())
    deadline = time.monotonic() + 30
    while _alive(child):
        assert time.monotonic() < deadline, "its child lives on"
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_one_that_leaves_something_in_the_background_is_not_waited_for() -> None:
    began = time.monotonic()
    told = notify(["/bin/sh", "-c", "sleep 20 & echo done"], b"", PATH)
    assert told == Notice(None, "done\n")
    assert time.monotonic() - began < 15


def test_a_signal_that_interrupts_leaves_nothing_running(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = (
        "import sys\n"
        "from pipeline.errors import RunPaused\n"
        "from pipeline.notify import notify\n"
        "from pipeline.stop import signals_raise, signals_wait\n"
        "words = ['/bin/sh', '-c', 'echo $$ > $0.new; mv $0.new $0; sleep 600', sys.argv[1]]\n"
        "try:\n"
        "    with signals_raise():\n"
        "        notify(words, b'', {'PATH': '/usr/bin:/bin'}, shield=signals_wait)\n"
        "except RunPaused:\n"
        "    print('interrupted')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(note)], cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 30
        while not note.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(2)
        said, _ = process.communicate(timeout=30)
    assert said == "interrupted\n"
    assert not _alive(int(note.read_text()))


def test_the_key_is_not_handed_on_under_any_name() -> None:
    environ = {"API_KEY": "k3y", "OTHER": "Bearer k3y", "HOME": "/home/x", "EMPTY": ""}
    assert without_key(environ, "API_KEY") == {"HOME": "/home/x", "EMPTY": ""}
    assert without_key({"API_KEY": "", "HOME": "x"}, "API_KEY") == {"HOME": "x"}
    assert without_key({"HOME": "x"}, "API_KEY") == {"HOME": "x"}


@pytest.mark.parametrize("said", [b"\xff\xfe", b"\x1b[2J"])
def test_bytes_that_are_no_text_are_kept_as_well_as_may_be(said: bytes, tmp_path: Path) -> None:
    (tmp_path / "said").write_bytes(said)
    assert notify(["cat", str(tmp_path / "said")], b"", PATH).output == said.decode(errors="replace")
