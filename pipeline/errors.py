"""What can go wrong, and where it leads: the class of an error is its route, and carries the exit code.

A message says what, where, what was seen and what to do; it never holds a key.
"""

from __future__ import annotations

from pipeline.records import NO_USAGE, Billed, Usage

OF_THE_USER = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Errors of the system that whoever gave the command can mend."""


class PipelineError(Exception):
    """Anything this tool raises on purpose. On its own: a fault of ours."""

    exit_code = 1
    quotes = False
    """The words may be those of an input or of a reply: for people, and not for the log."""


class SpecError(PipelineError):
    """The job spec or the command line is wrong; nothing was sent."""

    exit_code = 2


class InputError(PipelineError):
    """The input table is wrong; nothing was sent."""

    exit_code = 2
    quotes = True


class CheckpointError(PipelineError):
    """The output folder cannot be used as it is; nothing was sent."""

    exit_code = 2


class StorageError(PipelineError):
    """The disk failed us (full, or an I/O error). What was acknowledged is kept."""

    exit_code = 1


class Unattachable(PipelineError):
    """A file or an address that cannot go with a prompt; its row is not sent and not paid for."""


class RunPaused(PipelineError):
    """Stopped early; the same command goes on: signal, deadline, lock, endpoint in trouble. Rows stay pending."""

    exit_code = 75


class InUse(RunPaused):
    """Another run holds the job."""


class EndpointDown(RunPaused):
    """The endpoint fails us for now, in its own words."""

    quotes = True


class BudgetSpent(RunPaused):
    """The budget is spent; rows stay pending."""

    exit_code = 5


class ProviderError(PipelineError):
    """A call that brought no good reply.

    ``kind`` is a short stable word (``rate_limited``, ``timeout``, ``content_policy`` ...), ``billed`` what we must
    assume we pay, ``raw`` a capped excerpt of what came back, ``attempts`` how often the call was tried in all.
    ``counted`` is False when the endpoint as a whole was in trouble: then it costs the row none of its attempts.
    """

    quotes = True

    def __init__(
        self,
        message: str,
        *,
        kind: str,
        billed: Billed = Billed.NO,
        status: int | None = None,
        usage: Usage = NO_USAGE,
        raw: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
        latency_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.billed = billed
        self.status = status
        self.usage = usage
        self.raw = raw
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.latency_s = latency_s
        self.attempts = 1
        self.counted = True


class TransientError(ProviderError):
    """The same call again may well succeed."""


class Overloaded(TransientError):
    """The endpoint is overloaded (503, 529, 'saturated'): everyone slows down."""


class RateLimited(Overloaded):
    """429: everyone pauses."""


class AnswerUnusable(ProviderError):
    """Paid for, and of no use (broken JSON, no choices, empty content). The raw body is kept."""


class RowRejected(ProviderError):
    """This row is a dead letter: the same request would be refused again."""


class RunBlocked(ProviderError):
    """The endpoint refuses us as a whole: key, balance, permission, unknown model. Rows stay pending."""

    exit_code = 4
