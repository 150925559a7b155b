"""summary.json: how a run ended, for programs; and the few lines of it that a person reads."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass, field
from typing import Any

import orjson

from pipeline import __version__
from pipeline.drift import Drift
from pipeline.evaluate import Evaluation
from pipeline.ledger import Prices, Totals
from pipeline.progress import money, plain, short_number
from pipeline.records import Status
from pipeline.storage.files import Files, write_whole

NAME = "summary.json"
FORMAT = 1
_FLAGGED = (Status.TRUNCATED, Status.FILTERED, Status.REFUSAL, Status.EMPTY)


@dataclass(frozen=True, slots=True)
class Summary:
    """One run of a job. Counts are of the whole input; ``*_this_run`` of this run alone."""

    job: str
    exit_code: int
    message: str
    finished: bool  # every row has ended; the tables were written
    rows: int | None
    statuses: dict[str, int]
    failures: dict[str, int]
    ended_this_run: int
    totals: Totals
    prices: Prices
    in_doubt: int
    seconds: float
    started: float
    folder: str
    simulated: bool
    question: str
    input: str
    plan: dict[str, int] = field(default_factory=dict)
    since_last_run: dict[str, int] = field(default_factory=dict)  # kept, new, changed, gone
    limits_found: dict[str, Any] = field(default_factory=dict)
    nothing_to_do: bool = False
    evaluation: Evaluation | None = None
    carried: dict[str, Any] = field(default_factory=dict)  # of an earlier summary, and still true
    drift: Drift | None = None  # of a finished run
    alarm: tuple[str, ...] = ()  # why there is one
    run: str = ""  # its name in the log

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    @property
    def verdicts(self) -> dict[str, int]:
        """Answers that came, by what is to be said of them: whether their rows were kept or failed for it."""
        counts = {str(verdict): self.statuses.get(verdict, 0) + self.failures.get(verdict, 0) for verdict in _FLAGGED}
        invalid = self.statuses.get(Status.INVALID_ANSWER, 0)  # a status of its own either way
        empty = counts.pop(Status.EMPTY) + self.failures.get("empty_content", 0)
        return {"ok": self.statuses.get(Status.OK, 0), **counts, "empty": empty, "invalid_answer": invalid}

    def members(self) -> dict[str, Any]:
        usage = self.totals.usage
        return {
            "format": FORMAT,
            "job": self.job,
            "run": self.run,
            "exit_code": self.exit_code,
            "message": self.message,
            "finished": self.finished,
            "simulated": self.simulated,
            "rows": self.rows,
            "statuses": self.statuses,
            "failures": self.failures,
            "verdicts": self.verdicts,
            "plan": self.plan,
            "rows_since_last_run": self.since_last_run,
            "rows_ended_this_run": self.ended_this_run,
            "requests": self.totals.attempts,
            "requests_billed": self.totals.billed,
            "requests_maybe_billed": self.totals.maybe_billed,
            "requests_in_doubt_from_a_killed_run": self.in_doubt,
            "tokens": {
                "prompt": usage.prompt_tokens,
                "completion": usage.completion_tokens,
                "cached": usage.cached_tokens,
                "reasoning": usage.reasoning_tokens,
                "billed_requests_without_counts": self.totals.unreported,
            },
            "cost_usd": self.totals.cost(self.prices),
            **({} if self.evaluation is None else {"evaluation": self.evaluation.members()}),
            "alarm": list(self.alarm),
            **({} if self.drift is None else {"drift": self.drift.members()}),
            "limits_found": self.limits_found,
            **self.carried,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "seconds": round(self.seconds, 3),
            "question_fingerprint": self.question,
            "input_fingerprint": self.input,
            "versions": {"prompt-pipeline": __version__, "python": platform.python_version()},
        }

    def write(self, files: Files) -> None:
        path = os.path.join(self.folder, NAME)
        write_whole(files, path, orjson.dumps(self.members(), option=orjson.OPT_INDENT_2, default=str) + b"\n")

    @staticmethod
    def to_carry(folder: str) -> dict[str, Any]:
        """What a run with nothing to do cannot know of itself, out of the summary of the run that did it."""
        members = read_json(os.path.join(folder, NAME))
        if not isinstance(members, dict):
            return {}
        return {name: members[name] for name in ("evaluation", "limits_found") if name in members}

    @staticmethod
    def last_failures(folder: str) -> dict[str, int] | None:
        """Failed rows of the last run's input by kind; None when no summary tells."""
        try:
            found = read_json(os.path.join(folder, NAME))["failures"]
            return {str(kind): int(rows) for kind, rows in found.items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def lines(self) -> list[str]:
        """For people."""
        rows = "an unknown number of" if self.rows is None else str(self.rows)
        counts = ", ".join(f"{count} {status}" for status, count in sorted(self.statuses.items(), key=lambda i: -i[1]))
        lines = [f"{self.job}: {rows} rows: {counts or 'none'}"]
        if self.failures:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.failures.items(), key=lambda i: -i[1]))
            # The tables of a run that did not finish are those of an earlier one, if there are any.
            where = os.path.join(self.folder, "failed.parquet") if self.finished else "them with `pipeline failures`"
            lines.append(f"  failed: {kinds}; see {where}")
        gone = self.since_last_run.get("gone", 0)
        if gone:
            what = "gone from the input, or ask something else now; their answers are kept"
            lines.append(f"  {gone} rows of the last run are {what}")
        usage = self.totals.usage
        maybe = f", {self.totals.maybe_billed} more may have been billed" if self.totals.maybe_billed else ""
        unknown = f", {self.totals.unreported} without token counts" if self.totals.unreported else ""
        lines.append(
            f"  all runs: {self.totals.attempts} requests, {self.totals.billed} billed{maybe}{unknown}; "
            f"{short_number(usage.prompt_tokens or 0)} prompt + {short_number(usage.completion_tokens or 0)} "
            f"completion tokens, {money(self.totals.cost(self.prices))}"
        )
        if self.evaluation is not None:
            lines.append(f"  {self.evaluation.line()}")
        if self.alarm and self.drift is not None:
            lines += [f"  since the run before: {plain(line)}" for line in self.drift.lines()]
        if self.simulated:
            lines.append("  these answers come from the simulator: they are made up")
        if self.finished:
            lines.append(f"  results: {os.path.join(self.folder, 'results.parquet')}")
        if self.message:
            lines.append(f"  {self.message}")
        return lines


def read_json(path: str) -> Any:
    """None for a file that is not there, or holds none."""
    try:
        with open(path, "rb") as file:
            return orjson.loads(file.read())
    except (OSError, ValueError):
        return None
