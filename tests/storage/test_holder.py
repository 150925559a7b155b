from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import RunPaused
from pipeline.storage.holder import noted, terminate
from pipeline.storage.lock import Holder, Lock, held
from tests.storage.test_lock import Process


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "LOCK")


@pytest.fixture
def running(path: str) -> Iterator[Process]:
    process = Process(path)
    assert process.said() == "held"
    yield process
    process.end()


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with the lock."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    assert process.poll() is None, "somebody who had no part in it was signalled"
    process.communicate(b"\n")


def rewrite_note(path: str, **changes: object) -> Holder:
    """As if another process, or another machine, had written it."""
    note = json.loads(Path(path).read_text())
    Path(path).write_text(json.dumps({**note, **changes}))
    found = noted(path)
    assert found is not None
    return found


def test_the_holder_is_told_and_ends(path: str, running: Process) -> None:
    holder = noted(path)
    assert holder is not None
    assert (holder.pid, holder.host) == (running.child.pid, socket.gethostname())
    assert terminate(path, holder)
    assert running.child.wait(10) == -signal.SIGTERM
    assert not held(path)


def test_a_number_that_is_another_process_by_now_is_not_signalled(
    path: str, running: Process, bystander: subprocess.Popen[bytes]
) -> None:
    holder = rewrite_note(path, pid=bystander.pid)
    with pytest.raises(RunPaused, match=r"no process \d+ is seen here that has the lock open") as caught:
        terminate(path, holder)
    assert caught.value.exit_code == 75
    assert running.child.poll() is None


def test_a_note_of_a_dead_holder_is_not_acted_on(path: str, bystander: subprocess.Popen[bytes]) -> None:
    Lock(path).release()
    assert not terminate(path, rewrite_note(path, pid=bystander.pid))


def test_a_process_that_has_the_file_open_without_the_lock_is_not_signalled(path: str) -> None:
    Lock(path).release()
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; f = open(sys.argv[1]); print(1, flush=True); input()", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        assert not terminate(path, rewrite_note(path, pid=reader.pid))
        assert reader.poll() is None
        reader.communicate(b"\n")


def test_a_run_on_another_machine_is_refused_with_the_machines_name(path: str, running: Process) -> None:
    holder = rewrite_note(path, host="node-7")
    with pytest.raises(RunPaused, match="node-7; run `pipeline stop` there"):
        terminate(path, holder)
    assert running.child.poll() is None


def test_a_number_that_is_nobody_here_is_refused_while_the_lock_is_held(path: str, running: Process) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with pytest.raises(RunPaused, match="there is no process"):
        terminate(path, rewrite_note(path, pid=gone.pid))
    assert running.child.poll() is None


def test_an_old_kernel_without_pinning_serves_too(path: str, running: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(pid: int) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", unknown)
    holder = noted(path)
    assert holder is not None
    assert terminate(path, holder)
    assert running.child.wait(10) == -signal.SIGTERM


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"pid": 1}', b'{"pid": "x", "host": "h", "started": "s"}'])
def test_half_a_note_names_nobody(path: str, note: bytes) -> None:
    Path(path).write_bytes(note)
    assert noted(path) is None
    os.unlink(path)
    assert noted(path) is None
