"""What answers link to: fetched right after the answer is recorded, saved whole, noted.

It costs no money and fails no row: a link that cannot be had is a line in ``media_error``. A row whose note is missing
(the run ended in between) is fetched by the next run, which may find that its links have expired.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from pipeline.errors import StorageError
from pipeline.media import links
from pipeline.provider.fetch import Fetcher, Unfetched
from pipeline.runlog import RunLog
from pipeline.storage.checkpoint import Checkpoint
from pipeline.storage.shelf import Entry

MOST_LINKS: Final = 20
"""Of one answer; a model may write a list of a thousand."""

_TRIES: Final = 2


class Linked:
    """An async context manager. ``fetcher`` is None for a job that fetches nothing; ``awaiting``: see ``Pool``."""

    def __init__(
        self,
        fetcher: Fetcher | None,
        checkpoint: Checkpoint,
        log: RunLog,
        awaiting: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._fetcher = fetcher
        self._checkpoint = checkpoint
        self._log = log
        self._awaiting = awaiting
        self._shelf = checkpoint.shelf
        self._opened = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        if self._fetcher is not None:
            await self._opened.enter_async_context(self._fetcher)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opened.aclose()

    async def get(self, texts: Mapping[str, str]) -> None:
        """Fetch and note the links of answers, by row key. Raises StorageError; a stop lets it finish, a hurry not."""
        if self._fetcher is not None and texts:
            with self._awaiting():
                try:
                    async with asyncio.TaskGroup() as group:
                        for key, text in texts.items():
                            group.create_task(self._row(self._fetcher, key, text))
                except* StorageError as several:
                    reason = several.exceptions[0]
                    raise reason from None

    async def _row(self, fetcher: Fetcher, key: str, text: str) -> None:
        async with fetcher.places:
            await self._links_of(fetcher, key, text)

    async def _links_of(self, fetcher: Fetcher, key: str, text: str) -> None:
        entries: list[Entry] = []
        errors: list[str] = []
        found = links(text)
        for place, address in enumerate(found[:MOST_LINKS], 1):
            try:
                entries.append(await self._one(fetcher, key, place, address))
            except Unfetched as why:
                errors.append(f"link {place} ({_host(address)}): {why}")
                self._log.warning("link_not_fetched", row=key, place=place, host=_host(address), error=str(why))
        if len(found) > MOST_LINKS:
            errors.append(f"{len(found) - MOST_LINKS} further links were not fetched")
        self._checkpoint.fetched(key, entries, errors)

    async def _one(self, fetcher: Fetcher, key: str, place: int, address: str) -> Entry:
        for turn in range(1, _TRIES + 1):
            incoming = self._shelf.incoming(key, place)
            try:
                kind = await fetcher.fetch(address, incoming.write)
            except Unfetched as why:
                incoming.drop()
                if turn == _TRIES or not why.passing:
                    raise
                continue
            except BaseException:
                incoming.drop()
                raise
            # From here the file belongs to the thread: cut off, it still ends with all of it or nothing.
            return await asyncio.to_thread(incoming.finish, kind)
        raise AssertionError("the last try returns or raises")


def _host(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "")[:100]
    except ValueError:
        return ""
