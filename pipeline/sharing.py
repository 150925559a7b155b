"""The clockwork of an allowance that several jobs share: about every second one look at the table, and a new share.

The look is a few reads and writes of small files (a fifth of a millisecond), but a disk may take its time, so it is
done in a thread that nobody waits for at the end. Whatever goes wrong costs the sharing, never the run: the job goes on
alone, says so once, and keeps trying.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar, cast

from pipeline.runlog import RunLog
from pipeline.share import FORMAT, Need, Share, claim, packed, take, unpacked
from pipeline.storage.leases import STALE_S, Leases, state_folder

BEAT_S = 1.0
PATIENCE_S = 2.0
"""How long one look may take."""

NOT_SHARING = "not_sharing"
_ALONE = "this job keeps to its limits alone, as if no other shared them"

Result = TypeVar("Result")
Needs = Callable[[], Mapping[str, Need]]
KeepTo = Callable[[Mapping[str, Share]], None]


class Sharing:
    """From its creation the job has a share of nothing; the first look of ``go`` gives it one."""

    def __init__(
        self,
        leases: Leases,
        needs: Needs,
        keep_to: KeepTo,
        log: RunLog,
        *,
        clock: Callable[[], float] = time.monotonic,
        every_s: float = BEAT_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._leases = leases
        self._needs = needs
        self._keep_to = keep_to
        self._log = log
        self._clock = clock
        self._every_s = every_s
        self._patience_s = patience_s
        self._over = asyncio.Event()
        self._jobs = 1
        self._looks = 0
        self._shared_s: float | None = None  # when it was last sure of its share
        self._told = False
        keep_to({name: Share(0.0, need.limit, 1) for name, need in needs().items()})

    async def go(self) -> None:
        """Until ``stop``. Raises nothing."""
        try:
            while not self._over.is_set():
                await self._look()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._over.wait(), self._every_s)
            await in_thread(self._leases.leave)
        except Exception as fault:  # noqa: BLE001 - a bug here must not stop a run that could go on without
            self._log.error("fault_of_ours", fault)
            self._keep_to({})

    def stop(self) -> None:
        """Nothing more will be sent: others may have the share now, while the last answers are waited for."""
        self._over.set()

    def leave(self) -> None:
        """At the end, when the loop does not go on for long."""
        self._over.set()
        self._leases.leave()

    async def _look(self) -> None:
        self._looks += 1
        try:
            shares = await asyncio.wait_for(in_thread(self._exchange(self._needs())), self._patience_s)
        except OSError as reason:  # a time-out is one
            if not self._over.is_set():
                self._missed(reason)
            return
        if not self._over.is_set():  # else it has left meanwhile, and what it is told last is what it had
            self._shared_s = self._clock()
            self._keep_to(shares)
            self._note(shares)

    def _exchange(self, needs: Mapping[str, Need]) -> Callable[[], Mapping[str, Share]]:
        shares: dict[str, Share] = {}
        look = self._looks

        def step(others: Sequence[bytes]) -> bytes:
            shares.update(take(needs, unpacked(others)))
            return packed(claim(needs, shares), pid=os.getpid(), look=look)

        def exchange() -> Mapping[str, Share]:
            self._leases.exchange(step)
            return shares

        return exchange

    def _missed(self, reason: OSError) -> None:
        """A share lasts until others give it away; who never had one waits for none."""
        if self._shared_s is not None and self._clock() - self._shared_s < STALE_S:
            return
        self._jobs = 1
        self._keep_to({})
        if not self._told:
            self._told = True
            what = str(reason) or "no answer from the disk"
            self._log.warning(NOT_SHARING, message=f"{_ALONE}: {what}")

    def _note(self, shares: Mapping[str, Share]) -> None:
        jobs = max((share.jobs for share in shares.values()), default=1)
        if jobs != self._jobs:
            self._jobs = jobs
            self._log.info("sharing", jobs=jobs, limits={name: share.limit for name, share in shares.items()})


def start_sharing(base_url: str, key: str | None, needs: Needs, keep_to: KeepTo, log: RunLog) -> Sharing | None:
    """With the jobs of this user on this machine that have the same address and key. None: it cannot be, as the log
    says, or there is no limit to share."""
    if not needs():
        return None
    try:
        home = state_folder(os.environ)
    except OSError as reason:
        log.warning(NOT_SHARING, message=f"{_ALONE}: {reason}")
        return None
    return Sharing(Leases(home, base_url, key, FORMAT), needs, keep_to, log)


async def in_thread(work: Callable[[], Result]) -> Result:
    """In a thread of its own, which the end of the program does not wait for."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, failure: BaseException | None) -> None:
        if done.done():
            return  # nobody waits any more
        if failure is not None:
            done.set_exception(failure)
        else:
            done.set_result(cast(Result, result))

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as exc:  # noqa: BLE001 - whoever waits is told
            failure = exc
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name="sharing", daemon=True).start()
    return await done
