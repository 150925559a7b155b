"""The benchmark's own arithmetic: a figure that is wrong is worse than none."""

from __future__ import annotations

import http.client
import json
import os
import sys
import types
from pathlib import Path

import pytest

from pipeline.storage.files import Files
from tests.bench import report, stages, tally, traffic, waiting
from tests.bench.figures import Figure
from tests.bench.measures import Bench, Sizes
from tests.bench.peers import __main__ as peers
from tests.bench.peers.install import Environment, pins
from tests.bench.process import CannedServer, NotMeasured, Spent, Stats
from tests.bench.workplace import Workplace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def process_time(self) -> float:
        return 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    told = types.SimpleNamespace(monotonic=clock.monotonic, process_time=clock.process_time)
    monkeypatch.setattr(tally, "time", told)
    return clock


def ask(number: int) -> bytes:
    return b'POST /v1 HTTP/1.1\r\n\r\n{"messages":[{"role":"user","content": "%d some words"}]}' % number


def stats_of(seen: tally.Tally) -> Stats:
    return Stats(**json.loads(json.dumps(seen.members())))


def test_bursts_tell_the_rate_by_what_is_in_flight_on_average(clock: Clock) -> None:
    """A canary, then bursts of a hundred, a second each: counted by replies a middle could hold one burst or two."""
    seen = tally.Tally(numbered=False)
    seen.came(ask(0))
    clock.now += 1.0
    seen.went()
    for _ in range(5):
        for _ in range(100):
            seen.came(ask(0))
        clock.now += 1.0
        for _ in range(100):
            seen.went()
        clock.now += 0.25  # lost between a reply and the next request
    told = stats_of(seen)
    assert told.requests == 501
    assert told.most_in_flight == 100
    assert told.going_per_s(1.0) == pytest.approx(100 / 1.25, rel=0.01)
    assert told.ramp_s() == 0.0
    assert told.per_s() == pytest.approx(501 / 7.0)


def test_a_ramp_and_a_tail_are_told_apart_from_the_time_between(clock: Clock) -> None:
    seen = tally.Tally(numbered=False)
    for most in [1, 8, 16, 32, 64, 64, 64, 64, 5]:
        for _ in range(most):
            seen.came(ask(0))
        clock.now += 0.5
        for _ in range(most):
            seen.went()
    told = stats_of(seen)
    assert told.ramp_s() == pytest.approx(3 * 0.5)  # 8, 16, 32
    assert told.going_per_s(0.5) == pytest.approx(64 / 0.5, rel=0.01)


def test_a_server_that_saw_nothing_tells_no_rate() -> None:
    told = stats_of(tally.Tally(numbered=False))
    for figure in (told.per_s, told.ramp_s, lambda: told.going_per_s(1.0)):
        with pytest.raises(NotMeasured):
            figure()


def test_rows_that_come_out_of_turn_are_told_with_how_far_and_how_long(clock: Clock) -> None:
    seen = tally.Tally(numbered=True)
    for number in [0, 1, 2, 12, 4, 3, 5]:
        seen.came(ask(number))
        clock.now += 0.5
    told = stats_of(seen)
    assert told.most_overtaken == 12 - 3
    assert told.longest_overtaken_s == pytest.approx(1.5)  # 5 came that long after 12


def test_rows_in_order_overtake_nobody(clock: Clock) -> None:
    seen = tally.Tally(numbered=True)
    for number in range(50):
        seen.came(ask(number))
        clock.now += 0.1
    told = stats_of(seen)
    assert (told.most_overtaken, told.longest_overtaken_s) == (0, 0.0)


def test_the_canned_server_tells_what_came_since_the_last_reset() -> None:
    with CannedServer(numbered=True) as server:
        for _ in range(2):
            server.reset()
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            for number in (1, 0):
                connection.request("POST", "/v1/chat/completions", ask(number).split(b"\r\n\r\n")[1])
                assert json.loads(connection.getresponse().read())["model"] == "canned"
            connection.close()
            told = server.stats()
            assert (told.requests, told.most_in_flight, told.most_overtaken) == (2, 1, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="told to the scheduler of Linux only")
def test_the_canned_server_takes_no_core_from_the_client_at_work() -> None:
    with CannedServer() as server:
        assert os.sched_getscheduler(server._child.pid) == os.SCHED_BATCH


def test_what_cannot_be_measured_is_told_and_stops_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    monkeypatch.setattr(report, "ROOT", tmp_path)

    def fails(bench: Bench) -> list[Figure]:
        raise NotMeasured("there is no such option")

    bench = Bench(Workplace(tmp_path), None, Sizes())  # type: ignore[arg-type]
    figures = report.measure({"one": fails, "two": lambda bench: [Figure("two", 2.0, "x")]}, bench)
    seen = {"load_average": (0.0, 0.0, 0.0), "usable_cores": 2, "python": "3"}
    report.tell(figures, seen, quick=False)
    assert "not measured" in capsys.readouterr().out
    assert report.write("bench", figures, seen, {}, 0.0, quick=False) == 1
    kept = json.loads((tmp_path / "bench.json").read_text())["figures"]
    assert [(one["name"], one["value"], one["note"]) for one in kept] == [
        ("one", None, "there is no such option"),
        ("two", 2.0, ""),
    ]


def test_a_peer_that_cannot_be_installed_is_told_with_what_pip_said(tmp_path: Path) -> None:
    environment = Environment()
    environment.python = tmp_path / "python"
    environment.python.write_text("#!/bin/sh\necho 'ERROR: some advice' >&2\necho \"ERROR: no $7\" >&2\nexit 1\n")
    environment.python.chmod(0o755)
    with pytest.raises(NotMeasured, match=r"lm-deluge could not be installed into .*: ERROR: no lm-deluge==\d"):
        environment.install("lm-deluge")


def test_the_peers_are_pinned() -> None:
    assert {peer.package for peer in peers.PEERS} < set(pins())
    assert all(pins().values())


def spent(cpu_s: float) -> Spent:
    return Spent(0, cpu_s, 1.0, 50.0, 0.0, "")


def test_ratios_are_of_one_round_and_a_peer_in_trouble_leaves_the_others() -> None:
    ours = peers.Side(lambda rows: spent(1.0), ms=[0.2, 0.4], peak_mb=[90.0, 90.0], per_s=[5.0, 5.0])
    bare = peers.Side(lambda rows: spent(1.0), ms=[0.2, 0.2], peak_mb=[30.0, 30.0], per_s=[5.0, 5.0])
    slow = peers.Side(lambda rows: spent(1.0), ms=[2.0, 2.0], peak_mb=[60.0, 60.0], per_s=[1.0, 1.0])
    name, other = (peer.name for peer in peers.PEERS)
    sides = {peers.BARE: bare, peers.OURS: ours, name: slow, other: peers.Side(slow.ask, trouble="no wheel")}
    figures = {one.name: one for one in peers.figures_of(sides, 1_000)}
    assert figures[f"CPU, {name} / pipeline"].samples == [10.0, 5.0]
    assert figures["CPU, pipeline / bare loop"].samples == [1.0, 2.0]
    assert figures[f"marginal CPU, {other}"].value is None
    assert figures[f"marginal CPU, {other}"].note == "no wheel"


def test_what_a_run_writes_is_told_by_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("open", "write"):
        monkeypatch.setattr(Files, name, getattr(Files, name))  # they are as they were afterwards
    by_kind = traffic.counted()
    files = Files()
    for folder, name, data in [
        ("journal", "0001.jsonl", b'{"e":"s","k":"0"}'),
        ("journal", "0001.jsonl", b'{"e":"o"}' * 10),
        ("parts", "part-0001.parquet.tmp", b"p" * 50),
        ("", "results.parquet.tmp", b"r" * 40),
        ("", "keys.bin", b"k" * 16),
    ]:
        (tmp_path / folder).mkdir(exist_ok=True)
        fd = files.open(str(tmp_path / folder / name), os.O_WRONLY | os.O_CREAT)
        files.write(fd, data)
        files.close(fd)
    assert traffic.told(by_kind, 100) == "journal 0.90, parts 0.50, tables 0.40, marks before requests 0.17, keys 0.16"


def test_stages_of_too_few_rows_are_refused(tmp_path: Path) -> None:
    bench = Bench(Workplace(tmp_path), None, Sizes(stage_rows=(stages.LEFT,)))  # type: ignore[arg-type]
    with pytest.raises(NotMeasured, match="more than 1,000 rows"):
        stages.stages(bench)


def test_a_limit_that_never_binds_is_a_number_to_yaml() -> None:
    assert float(waiting.NAMED.split(":")[1]) / 60 > 100_000
