from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.storage.leases import STALE_S, Leases, Step, state_folder, table_name

ROOT = Path(__file__).parents[2]
URL = "https://endpoint.example/v1"
KEY = "sk-canary-0123456789abcdefghij"

HOLDER = """
import sys
from pipeline.storage.leases import Leases
leases = Leases(sys.argv[1], sys.argv[2], sys.argv[3], 1)
leases.exchange(lambda others: b"from a process of its own")
print("said", flush=True)
sys.stdin.read()
"""


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def new(tmp_path: Path, clock: Clock) -> Callable[..., Leases]:
    def make(key: str | None = KEY, base_url: str = URL, format_: int = 1) -> Leases:
        return Leases(str(tmp_path / "home"), base_url, key, format_, clock=clock, lock_wait_s=0.0)

    return make


def said(leases: Leases, words: bytes = b"mine") -> list[bytes]:
    """What the others say, while this one says its words."""
    heard: list[bytes] = []

    def step(others: Sequence[bytes]) -> bytes:
        heard.extend(others)
        return words

    leases.exchange(step)
    return heard


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A job of its own, that has said its words and holds its lease."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "home"), URL, KEY],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "said\n"
        yield child
        child.kill()


def test_each_hears_what_the_others_said_last(new: Callable[..., Leases]) -> None:
    one, two, three = new(), new(), new()
    assert said(one, b"I am one") == []
    assert said(two, b"I am two, and say much") == [b"I am one"]
    assert said(two, b"less") == [b"I am one"]
    assert sorted(said(three)) == [b"I am one", b"less"]


def test_another_key_another_address_or_another_format_is_another_table(new: Callable[..., Leases]) -> None:
    others = [new(), new(key="other"), new(key=None), new(base_url=URL + "/x"), new(format_=2)]
    assert [said(leases) for leases in others] == [[]] * 5


def test_who_leaves_is_not_heard_any_more_and_leaves_no_file(new: Callable[..., Leases], tmp_path: Path) -> None:
    one, two = new(), new()
    said(one)
    said(two)
    one.leave()
    one.leave()
    assert said(two) == []
    assert len(list(tmp_path.rglob("*.lease"))) == 1
    one.exchange(lambda others: pytest.fail("it has left"))


def test_a_job_killed_with_9_is_gone_at_once(
    new: Callable[..., Leases], process: subprocess.Popen[str], tmp_path: Path
) -> None:
    watcher = new()
    assert said(watcher) == [b"from a process of its own"]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert said(watcher) == []
    assert len(list(tmp_path.rglob("*.lease"))) == 1


def test_a_job_that_is_stopped_counts_for_nothing_until_it_says_something_new(
    new: Callable[..., Leases], clock: Clock
) -> None:
    one, two = new(), new()
    said(one, b"look 1")
    assert said(two) == [b"look 1"]
    clock.now += STALE_S - 0.1
    assert said(two) == [b"look 1"]
    clock.now += 0.1
    assert said(two) == []
    said(one, b"look 2")
    assert said(two) == [b"look 2"]


def test_nothing_in_the_folder_shows_the_key_and_nobody_else_may_read_it(
    new: Callable[..., Leases], tmp_path: Path
) -> None:
    old = os.umask(0)
    try:
        said(new())
    finally:
        os.umask(old)
    home = tmp_path / "home"
    found = [home, *home.rglob("*")]
    assert len(found) == 6  # home, secret, LOCK; the table, its LOCK, one lease
    for path in found:
        assert KEY not in str(path)
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


def test_a_name_tells_nothing_of_the_key_without_the_secret(new: Callable[..., Leases], tmp_path: Path) -> None:
    said(new())
    (secret,) = tmp_path.rglob("secret")
    names = {path.name for path in (tmp_path / "home").iterdir() if path.is_dir()}
    assert names == {table_name(secret.read_bytes(), URL, KEY, 1)}
    assert names != {table_name(bytes(32), URL, KEY, 1)}


def test_address_and_key_cannot_be_mistaken_for_each_other() -> None:
    assert table_name(b"s", "ab", "c", 1) != table_name(b"s", "a", "bc", 1)


def test_a_broken_secret_is_made_anew(new: Callable[..., Leases], tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "secret").write_bytes(b"torn")
    one = new()
    said(one, b"one")
    assert said(new()) == [b"one"]
    assert len((tmp_path / "home" / "secret").read_bytes()) == 32


def test_a_folder_that_is_removed_under_a_job_is_made_again(new: Callable[..., Leases], tmp_path: Path) -> None:
    one = new()
    said(one)
    for path in sorted((tmp_path / "home").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    said(one, b"still here")
    assert said(new()) == [b"still here"]


def raises(leases: Leases, step: Step = lambda others: b"mine") -> str:
    with pytest.raises(OSError) as caught:
        leases.exchange(step)
    return str(caught.value)


def test_a_lock_that_another_keeps_is_not_waited_for_longer_than_said(
    new: Callable[..., Leases], tmp_path: Path
) -> None:
    leases = new()
    said(leases)
    (table,) = (path for path in (tmp_path / "home").iterdir() if path.is_dir())
    with (table / "LOCK").open("r") as kept:
        fcntl.flock(kept, fcntl.LOCK_EX)
        assert "kept the lock" in raises(leases)
    assert said(leases) == []


def test_a_look_that_has_not_ended_is_not_followed_by_another(new: Callable[..., Leases]) -> None:
    leases = new()

    def step(others: Sequence[bytes]) -> bytes:
        assert "has not ended" in raises(leases)
        return b"mine"

    leases.exchange(step)
    assert said(leases) == []


def test_a_link_in_place_of_a_lease_is_not_followed(new: Callable[..., Leases], tmp_path: Path) -> None:
    leases = new()
    said(leases)
    (lease,) = tmp_path.rglob("*.lease")
    precious = tmp_path / "precious"
    precious.write_bytes(b"of somebody")
    lease.with_name("other.lease").symlink_to(precious)
    raises(leases)
    assert precious.read_bytes() == b"of somebody"


def test_a_home_that_is_a_file_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "home").write_bytes(b"")
    assert "home" in raises(Leases(str(tmp_path / "home"), URL, KEY, 1))


@pytest.mark.parametrize("told", ["", "relative/state"])
def test_the_state_folder_is_where_programs_of_this_user_keep_theirs(
    told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert state_folder({"XDG_STATE_HOME": told}) == "/home/somebody/.local/state/prompt-pipeline"
    assert state_folder({"XDG_STATE_HOME": "/elsewhere"}) == "/elsewhere/prompt-pipeline"
