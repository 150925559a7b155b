"""Many calls, one timer: what is due ends, and nothing else does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pipeline.provider.deadline import Deadlines


class Clock:
    """A loop's time that moves when it is told to, and the alarms that were set by it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.alarms: list[tuple[float, Any, tuple[Any, ...]]] = []
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "time", lambda: self.now)
        monkeypatch.setattr(loop, "call_at", self._call_at)

    def _call_at(self, at_s: float, ring: Any, *given: Any) -> asyncio.Handle:
        entry = (at_s, ring, given)
        self.alarms.append(entry)
        loop = asyncio.get_running_loop()

        class Handle(asyncio.Handle):
            def cancel(handle) -> None:
                self.alarms.remove(entry)

        return Handle(ring, given, loop)

    async def to(self, now: float) -> None:
        self.now = now
        while due := [alarm for alarm in self.alarms if alarm[0] <= now]:
            self.alarms.remove(due[0])
            due[0][1](*due[0][2])
        for _ in range(5):
            await asyncio.sleep(0)


async def call(deadlines: Deadlines, until: asyncio.Event) -> str:
    try:
        with deadlines.one():
            await until.wait()
    except TimeoutError:
        return "due"
    return "done"


async def test_each_call_ends_when_it_is_due_and_one_alarm_serves_all(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, deadlines, never, answered = Clock(monkeypatch), Deadlines(10.0), asyncio.Event(), asyncio.Event()
    tasks = []
    for until in (never, answered, never):  # they begin at 102, 104 and 106
        tasks.append(asyncio.ensure_future(call(deadlines, until)))
        await clock.to(clock.now + 2.0)
        assert len(clock.alarms) == 1
    answered.set()
    await clock.to(111.9)
    assert [task.done() for task in tasks] == [False, True, False]
    await clock.to(112.1)
    assert [task.done() for task in tasks] == [True, True, False]
    await clock.to(115.9)
    assert not tasks[2].done()
    await clock.to(116.1)
    assert [await task for task in tasks] == ["due", "done", "due"]
    assert not clock.alarms


async def test_calls_one_after_the_other_each_have_the_whole_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, deadlines = Clock(monkeypatch), Deadlines(10.0)
    for _ in range(5):
        answered = asyncio.Event()
        task = asyncio.ensure_future(call(deadlines, answered))
        await clock.to(clock.now + 9.0)
        answered.set()
        assert await task == "done"


async def test_who_is_cancelled_by_another_is_cancelled_and_not_late(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, deadlines = Clock(monkeypatch), Deadlines(10.0)
    task = asyncio.ensure_future(call(deadlines, asyncio.Event()))
    await clock.to(101.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    both = asyncio.ensure_future(call(deadlines, asyncio.Event()))
    await clock.to(102.0)
    clock.now = 200.0
    _, ring, given = clock.alarms.pop()
    ring(*given)  # due, and cancelled in the same moment
    both.cancel()
    with pytest.raises(asyncio.CancelledError):
        await both


async def test_a_task_that_was_late_once_can_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, deadlines = Clock(monkeypatch), Deadlines(10.0)

    async def twice() -> list[str]:
        return [await call(deadlines, asyncio.Event()), await call(deadlines, second)]

    second = asyncio.Event()
    task = asyncio.ensure_future(twice())
    await clock.to(100.5)
    await clock.to(110.5)
    second.set()
    assert await task == ["due", "done"]
    assert task.cancelling() == 0
