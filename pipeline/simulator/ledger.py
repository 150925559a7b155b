"""What the simulator received and what it billed: the bill against which a run's own ledger is held.

Every complete POST is ``requests``; it ends as one of ``answers`` (made without a fault, billed), ``by_fault``,
``refused`` (by a limit, or as wrong), or is still ``in_flight``. So, with nothing in flight:
``requests == answers + sum(by_fault) + sum(refused)`` and ``billed == answers + the billed ones of by_fault``.

With a path, each received request and each bill is one line, written before anything follows from it, so the ledger
outlives the death of its process. Replies that are not billed are counted since the start only.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from pipeline.errors import SpecError
from pipeline.simulator.chance import digest


class Ledger:
    def __init__(self, clock: Callable[[], float], path: Path | None = None) -> None:
        self._clock = clock
        self.in_flight = self._max_in_flight = 0
        self._clear()
        self._file = None if path is None else self._open(path)

    def receive(self, body: bytes) -> bytes:
        """A complete POST is here. Returns its digest, by which it is known from now on."""
        name = digest(body)
        self._note({"received": name.hex()})
        self._receive(name)
        self.in_flight += 1
        self._max_in_flight = max(self._max_in_flight, self.in_flight)
        second = self._by_second.setdefault(int(self._clock() - self._start), [0, 0])
        second[0] += 1
        return name

    def see(self, name: bytes) -> None:
        """The request passed the limits (or met its fault before them), so chance has decided on it."""
        self._seen[name] = self._seen.get(name, 0) + 1

    def times_seen(self, name: bytes) -> int:
        return self._seen.get(name, 0)

    def bill(self, name: bytes, prompt_tokens: int, completion_tokens: int, fault: str | None) -> None:
        self._note({"billed": name.hex(), "tokens": [prompt_tokens, completion_tokens], "fault": fault})
        self._bill(name, prompt_tokens, completion_tokens, fault)
        self._by_second.setdefault(int(self._clock() - self._start), [0, 0])[1] += 1

    def fault(self, kind: str) -> None:
        """An unbilled one; billed ones are counted by ``bill``."""
        self._by_fault[kind] += 1

    def refuse(self, why: str) -> None:
        self._refused[why] += 1

    def reply(self, status: int) -> None:
        self._by_status[str(status) if status else "none"] += 1

    def leave(self) -> None:
        self.in_flight -= 1

    def reset(self) -> None:
        """Everything to 0 but what is in flight; the file is kept, with a line that says so."""
        self._note({"reset": True})
        self._clear()
        self._max_in_flight = self.in_flight

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @property
    def elapsed_s(self) -> float:
        """Since start or reset."""
        return self._clock() - self._start

    def stats(self, *, bodies: bool = False, seconds: bool = False) -> dict[str, Any]:
        told: dict[str, Any] = {
            "simulator": True,
            "requests": self._requests,
            "answers": self._answers,
            "billed": self.billed,
            "prompt_tokens": self._tokens[0],
            "completion_tokens": self._tokens[1],
            "total_tokens": sum(self._tokens),
            "by_status": dict(self._by_status),
            "by_fault": dict(self._by_fault),
            "billed_by_fault": {
                kind: {"billed": count, "prompt_tokens": prompt, "completion_tokens": completion}
                for kind, (count, prompt, completion) in self._spoiled.items()
            },
            "refused": dict(self._refused),
            "in_flight": self.in_flight,
            "max_in_flight": self._max_in_flight,
            "distinct": len(self._received),
            "repeated": sum(self._repeats.values()),
            "max_repeats": max(self._repeats.values(), default=0),
            "uptime_s": round(self.elapsed_s, 3),
        }
        if seconds:
            told["requests_by_second"] = {str(at): counts for at, counts in self._by_second.items()}
        if bodies:
            told["bodies"] = {
                name.hex(): [count, self._billed_of.get(name, 0)] for name, count in self._received.items()
            }
        return told

    def _clear(self) -> None:
        self._start = self._clock()
        self._requests = self._answers = self.billed = 0
        self._tokens = [0, 0]
        self._by_status: Counter[str] = Counter()
        self._by_fault: Counter[str] = Counter()
        self._spoiled: dict[str, list[int]] = {}
        self._refused: Counter[str] = Counter()
        self._repeats: Counter[bytes] = Counter()
        self._by_second: dict[int, list[int]] = {}
        # By digest: how often received, decided on, and billed. Apart, because small ints cost no memory.
        self._received: dict[bytes, int] = {}
        self._seen: dict[bytes, int] = {}
        self._billed_of: dict[bytes, int] = {}

    def _receive(self, name: bytes) -> None:
        self._requests += 1
        self._received[name] = self._received.get(name, 0) + 1
        if name in self._billed_of:
            self._repeats[name] += 1

    def _bill(self, name: bytes, prompt_tokens: int, completion_tokens: int, fault: str | None) -> None:
        self.billed += 1
        self._billed_of[name] = self._billed_of.get(name, 0) + 1
        self._tokens[0] += prompt_tokens
        self._tokens[1] += completion_tokens
        if fault is None:
            self._answers += 1
            return
        self._by_fault[fault] += 1
        spoiled = self._spoiled.setdefault(fault, [0, 0, 0])
        for at, amount in enumerate((1, prompt_tokens, completion_tokens)):
            spoiled[at] += amount

    def _note(self, line: dict[str, Any]) -> None:
        if self._file is not None:
            os.write(self._file, orjson.dumps(line) + b"\n")

    def _open(self, path: Path) -> int:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
            for number, line in enumerate(lines[:-1], start=1):
                self._load(line, f"{path}, line {number}")
            opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise SpecError(f"the simulator cannot keep its ledger in {path}: {exc.strerror}") from exc
        if lines[-1]:  # torn by a death; ended here, and skipped from now on because it is not JSON
            os.write(opened, b"\n")
        return opened

    def _load(self, line: bytes, where: str) -> None:
        try:
            noted = orjson.loads(line)
        except orjson.JSONDecodeError:
            return
        try:
            if "reset" in noted:
                self._clear()
            elif "received" in noted:
                self._receive(bytes.fromhex(noted["received"]))
            else:
                name = bytes.fromhex(noted["billed"])
                self.see(name)
                prompt_tokens, completion_tokens = noted["tokens"]
                self._bill(name, prompt_tokens, completion_tokens, noted["fault"])
        except (KeyError, TypeError, ValueError) as exc:
            raise SpecError(f"{where}: this is no line of a simulator's ledger; name another file") from exc
