"""More rows in flight than a process may have files open: real processes under a real limit."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator

from tests.e2e.rig import DEADLINE_S, Endpoint, JobFolder
from tests.e2e.scripted import says

SOFT = 100
IN_FLIGHT = 160

# Configured limits: all of the rows go at once, instead of more and more of them.
AT_ONCE = {"limits": {"concurrency": IN_FLIGHT, "requests_per_minute": 6_000_000}}

REPLY = json.dumps(says("positive")[1]).encode()
HTTP = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(REPLY), REPLY)


class Crowd:
    """An endpoint that answers nobody before ``size`` ask at the same time; but for the first, who comes alone."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.asked = self.waiting = self.most = 0
        self.together = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
                await reader.readexactly(int(length[1]) if length else 0)
                self.asked += 1
                if self.asked > 1:
                    await self.meet()
                writer.write(HTTP)
                await writer.drain()

    async def meet(self) -> None:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        if self.waiting >= self.size:
            self.together.set()
        await self.together.wait()
        self.waiting -= 1


@contextlib.contextmanager
def crowded(size: int) -> Iterator[tuple[Crowd, Endpoint]]:
    loop = asyncio.new_event_loop()
    crowd = Crowd(size)
    server = loop.run_until_complete(asyncio.start_server(crowd.serve, "127.0.0.1", 0, backlog=1_024))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield crowd, Endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.run_until_complete(hang_up())
        loop.close()


async def hang_up() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def run(job: JobFolder, limit: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", f'{limit}; exec "$@"', "sh", *job.command(*arguments)]
    return subprocess.run(
        command,
        cwd=job.folder,
        env=job.environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_more_rows_are_in_flight_than_the_soft_limit_allows_files(new_job: Callable[..., JobFolder]) -> None:
    with crowded(IN_FLIGHT) as (crowd, endpoint):
        job = new_job(endpoint, more=AT_ONCE)
        job.number_of_rows(1 + 2 * IN_FLIGHT)
        done = run(job, f"ulimit -Sn {SOFT}", "run")
    assert done.returncode == 0, done.stderr
    assert crowd.most == IN_FLIGHT
    assert crowd.asked == 1 + 2 * IN_FLIGHT  # each once
    assert job.results()["status"].to_list() == ["ok"] * (1 + 2 * IN_FLIGHT)


def test_a_hard_limit_that_is_too_low_is_refused_before_anything_is_sent(new_job: Callable[..., JobFolder]) -> None:
    with crowded(1) as (crowd, endpoint):
        job = new_job(endpoint, more=AT_ONCE)
        job.number_of_rows(300)
        refused = run(job, "ulimit -n 140", "run")
        assert refused.returncode == 2
        assert f"limits.concurrency: {IN_FLIGHT} rows in flight need up to" in refused.stderr
        assert "ulimit -n" in refused.stderr
        assert crowd.asked == 0

        checked = run(job, "ulimit -n 140", "check")
        assert checked.returncode == 2
        assert checked.stderr.splitlines()[-1] == refused.stderr.splitlines()[-1]

        fits = re.findall(r"lower limits.concurrency to (\d+)", refused.stderr)[0]
        done = run(job, "ulimit -n 140", "run", "--set", f"limits.concurrency={fits}")
        assert done.returncode == 0, done.stderr
        assert crowd.asked == 300

        again = run(job, "ulimit -n 140", "run")  # there is nothing to send, and so nothing to refuse
        assert again.returncode == 0, again.stderr


def test_a_short_job_needs_no_more_connections_than_it_has_rows(new_job: Callable[..., JobFolder]) -> None:
    with crowded(1) as (_, endpoint):
        job = new_job(endpoint, more={"limits": {"concurrency": 10_000}})
        job.number_of_rows(5)
        assert run(job, "ulimit -n 140", "check").returncode == 0
        assert run(job, "ulimit -n 140", "run").returncode == 0


def test_a_rehearsal_holds_both_ends_of_its_connections(new_job: Callable[..., JobFolder]) -> None:
    with crowded(1) as (_, endpoint):
        job = new_job(endpoint, concurrency=50)
        job.number_of_rows(60)
        refused = run(job, "ulimit -n 140", "rehearse")
        assert refused.returncode == 2
        assert "50 rows in flight need up to 164" in refused.stderr
        assert run(job, "ulimit -n 140", "run").returncode == 0


def test_a_check_tells_that_a_run_will_raise_the_limit(new_job: Callable[..., JobFolder]) -> None:
    with crowded(1) as (_, endpoint):
        job = new_job(endpoint, more=AT_ONCE)
        job.number_of_rows(300)
        told = run(job, f"ulimit -Sn {SOFT}", "check").stderr
    assert f"connections: ok (160 rows in flight, at most 224 open files; a limit of {SOFT}, which a run raises" in told
