"""The wire's door: one row that is ready goes in, one outcome comes out.

A call passes ``retry``, then ``limiter``, then the mark that it is being sent, then ``client``. What is wrong with a
row alone becomes its outcome; what is wrong with the run (RunBlocked, RunPaused) is raised, and the row stays pending.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from pipeline.errors import AnswerUnusable, ProviderError, RowRejected, RunPaused
from pipeline.records import ApiCall, ApiReply, Billed, Completion, Exchange, Outcome, Row, Send, Status


class Witness(Protocol):
    """Who is told about every attempt, before it is sent and after it failed."""

    def sent(self, key: str) -> None: ...

    def superseded(self, key: str, error: ProviderError) -> None: ...


def marked(
    send: Send,
    witness: Witness,
    awaiting: Callable[[], AbstractContextManager[None]],
    stopping: Callable[[], bool],
    seen: Callable[[ApiReply], None],
) -> Send:
    """The last step before the wire: nothing goes out once the run is stopping, and what goes out leaves a mark."""

    async def attempt(call: ApiCall) -> ApiReply:
        if stopping():
            raise RunPaused("the run is stopping")
        witness.sent(call.row)
        with awaiting():
            reply = await send(call)
        seen(reply)
        return reply

    return attempt


def told(witness: Witness) -> Callable[[ApiCall, ProviderError, float], None]:
    """What ``retry`` calls when an attempt failed and another one follows."""

    def tell(call: ApiCall, error: ProviderError, wait_s: float) -> None:
        witness.superseded(call.row, error)

    return tell


async def ask(send: Send, row: Row, key: str, exchange: Exchange, call: ApiCall) -> Outcome:
    """Carry one exchange through. Raises RunBlocked and RunPaused; every other bad end is a failed outcome."""
    reply: ApiReply | None = None
    try:
        while True:
            reply = await send(call.for_row(key))
            try:
                call = exchange.send(reply)
            except StopIteration as end:
                return _answered(key, row, end.value, reply)
    except (RowRejected, AnswerUnusable) as error:
        return _failed(key, row, error, reply, permanent=True)
    except ProviderError as error:
        if error.exit_code != ProviderError.exit_code:
            raise  # RunBlocked
        return _failed(key, row, error, reply, permanent=False)
    finally:
        exchange.close()


def _answered(key: str, row: Row, completion: Completion, reply: ApiReply) -> Outcome:
    return Outcome(
        key=key,
        row=row,
        status=completion.status,
        text=completion.text,
        error=completion.refusal,
        finish_reason=completion.finish_reason,
        model=completion.model,
        request_id=completion.request_id,
        http_status=reply.status,
        usage=reply.usage,
        billed=Billed.YES,
        attempts=reply.attempts,
        latency_s=reply.latency_s,
        reasoning=completion.reasoning,
    )


def _failed(key: str, row: Row, error: ProviderError, reply: ApiReply | None, *, permanent: bool) -> Outcome:
    # The exchange itself may judge a good reply unusable: then the reply is what was paid for.
    judged = reply if isinstance(error, AnswerUnusable) and error.status is None else None
    return Outcome(
        key=key,
        row=row,
        status=Status.FAILED,
        kind=error.kind,
        error=str(error),
        request_id=error.request_id,
        http_status=judged.status if judged else error.status,
        usage=judged.usage if judged else error.usage,
        billed=error.billed,
        attempts=judged.attempts if judged else error.attempts,
        latency_s=judged.latency_s if judged else error.latency_s,
        raw=error.raw,
        permanent=permanent,
    )


def invalid(key: str, row: Row, reason: str) -> Outcome:
    """A row that cannot be sent."""
    return Outcome(key=key, row=row, status=Status.INVALID_INPUT, kind="invalid_input", error=reason, permanent=True)


def unexpected(key: str, row: Row, error: Exception) -> Outcome:
    """A fault of ours struck one row; a rerun tries it again."""
    text = f"a fault of this tool: {type(error).__name__}; the traceback is in run.log"
    return Outcome(key=key, row=row, status=Status.FAILED, kind="internal_error", error=text, billed=Billed.MAYBE)
