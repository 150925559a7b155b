"""Real limits, set for a child process: this one keeps its own."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from pipeline import descriptors
from pipeline.descriptors import FILES, Room, told
from pipeline.errors import SpecError

ASK = """
import resource
from pipeline.descriptors import make_room
from pipeline.errors import SpecError
try:
    make_room({rows}, {each})
except SpecError as exc:
    print(exc.exit_code, exc)
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def limited(limit: str, rows: int, each: int = 1) -> list[str]:
    """What ``make_room`` says, if anything, and the limits that it leaves."""
    command = ["sh", "-c", f'{limit}; exec "$@"', "sh", sys.executable, "-c", ASK.format(rows=rows, each=each)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_the_soft_limit_is_raised_as_far_as_is_needed() -> None:
    soft, hard = map(int, limited("ulimit -Sn 100", 300)[0].split())
    assert soft == 300 + FILES
    assert hard > soft


def test_a_limit_that_is_high_enough_stays_as_it_is() -> None:
    assert limited("ulimit -Sn 500", 300)[0].split()[0] == "500"


def test_each_row_may_need_more_than_one_connection() -> None:
    assert limited("ulimit -Sn 100", 300, 2)[0].split()[0] == str(600 + FILES)


def test_a_hard_limit_that_is_too_low_is_refused_with_the_way_out() -> None:
    said, limits = limited("ulimit -n 200", 5_000)
    assert said.startswith("2 limits.concurrency: 5000 rows in flight need up to 5064 open files and connections")
    assert "allows this process 200; nothing was sent" in said
    assert "ulimit -n 5064" in said
    assert "LimitNOFILE=5064" in said
    assert limits == "200 200"


@pytest.mark.parametrize("each", [1, 2, 3])
def test_the_lower_concurrency_that_is_told_fits_and_one_more_does_not(each: int) -> None:
    said = limited("ulimit -n 300", 5_000, each)[0]
    fits = int(re.findall(r"lower limits.concurrency to (\d+)", said)[0])
    assert limited("ulimit -n 300", fits, each) == ["300 300"]
    assert len(limited("ulimit -n 300", fits + 1, each)) == 2


def test_files_left_open_by_whoever_started_us_count() -> None:
    opened = "; ".join(f"exec {number}</dev/null" for number in range(3, 10))
    few = limited(f"ulimit -Sn 100; {opened}", 300)[0].split()[0]
    assert few == str(300 + FILES)  # so few are among those that are reserved
    spawn = (
        "import os, resource, subprocess, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 1000)); "
        "held = [os.open('/dev/null', os.O_RDONLY) for _ in range(90)]; "
        "subprocess.run([sys.executable, '-c', sys.argv[1]], pass_fds=held, check=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", spawn, ASK.format(rows=300, each=1)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout.split()[0]) > 300 + FILES + 90 - FILES // 2


def test_where_no_room_is_left_for_one_row_that_is_said() -> None:
    said = limited("ulimit -n 60", 5_000)[0]
    assert "close some of the files that are open" in said
    assert "concurrency to" not in said


def test_a_system_without_a_limit_is_asked_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "_limits", lambda: (None, None))
    monkeypatch.setattr(descriptors, "_open_now", lambda: 0)  # whoever tests has files of its own open
    descriptors.make_room(1_000_000)
    assert told(descriptors.room(10)) == "10 rows in flight, at most 74 open files; no limit"


def test_a_system_that_allows_less_than_it_says_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(what: int, limits: tuple[int, int]) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(descriptors, "_limits", lambda: (100, None))
    monkeypatch.setattr(descriptors, "_open_now", lambda: 0)
    monkeypatch.setattr("resource.setrlimit", refuse)
    with pytest.raises(
        SpecError, match=r"364 open files.* allows this process 100; .*to 36 \(raising it failed: current limit exceeds"
    ):
        descriptors.make_room(300)


def test_a_check_tells_what_a_run_will_do() -> None:
    assert told(Room(64, 1, 128, 1024, 4096)) == "64 rows in flight, at most 128 open files; a limit of 1024"
    assert told(Room(2000, 1, 2064, 1024, 4096)).endswith("a limit of 1024, which a run raises for itself")
    with pytest.raises(SpecError, match="allows this process 4096"):
        told(Room(5000, 1, 5064, 1024, 4096))
