"""The wire's door: one row that is ready goes in, one outcome comes out.

A call passes ``retry``, then the budget, then ``limiter``, then the mark that it is being sent, then ``client``. What
is wrong with a row alone becomes its outcome; what is wrong with the run (RunBlocked, RunPaused) is raised, and the row
stays pending.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from pipeline import __version__
from pipeline.errors import AnswerUnusable, PipelineError, ProviderError, RowRejected, RunPaused
from pipeline.ledger import Prices, Totals
from pipeline.provider.budget import Budget, Purse, tokens_of
from pipeline.provider.client import Client
from pipeline.provider.limiter import Limiter
from pipeline.provider.retry import retry
from pipeline.records import (
    NO_USAGE,
    ApiCall,
    ApiReply,
    Billed,
    Completion,
    Exchange,
    Outcome,
    Row,
    Send,
    Status,
    Usage,
)
from pipeline.share import Need, Share


class Witness(Protocol):
    """Who is told about every attempt: before it is sent, when a good reply is there, when another one follows."""

    def sent(self, key: str) -> None: ...

    def seen(self, reply: ApiReply) -> None: ...

    def superseded(self, key: str, error: ProviderError) -> None: ...

    def kept(self, key: str, reply: ApiReply) -> None:
        """A reply that is paid for, and is not the row's last: written down before the next call is sent."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where calls go, and how."""

    base_url: str
    key: str | None
    headers: Mapping[str, str]
    connect_s: float
    total_s: float
    max_reply_bytes: int
    proxy: str | None


@dataclass(frozen=True, slots=True)
class Limits:
    """What the whole job may ask for. None: not known, found out while running."""

    requests_per_minute: float | None
    tokens_per_minute: float | None
    input_tokens_per_minute: float | None
    output_tokens_per_minute: float | None
    concurrency: int
    max_output_tokens: int | None
    max_attempts: int
    max_wait_s: float
    max_in_doubt: int


def token_purse(limit: int, before: Totals, max_output_tokens: int) -> Purse:
    """``before``: all earlier runs. An attempt of theirs that told no tokens counts as an answer of full length."""
    told = before.usage
    spent = max((told.prompt_tokens or 0) + (told.completion_tokens or 0), told.total_tokens or 0)
    prompt = _mean_prompt(before)
    spent += round((before.maybe_billed + before.unreported) * (prompt + max_output_tokens))
    return Purse("tokens", limit, spent, lambda call: len(call.body) + max_output_tokens, tokens_of)


def money_purse(limit: float, before: Totals, max_output_tokens: int, prices: Prices) -> Purse:
    """USD; the price must be known."""

    def worst(prompt_tokens: int, requests: int = 1) -> float:
        most = Usage(prompt_tokens, max_output_tokens * requests)
        return prices.cost(most, requests) or 0.0

    spent = prices.cost(before.usage, before.billed) or 0.0 if before.billed else 0.0
    in_doubt = before.maybe_billed + before.unreported
    spent += worst(round(_mean_prompt(before) * in_doubt), in_doubt)
    return Purse("usd", limit, spent, lambda call: worst(len(call.body)), prices.cost)


def _mean_prompt(before: Totals) -> float:
    told = before.billed - before.unreported
    return (before.usage.prompt_tokens or 0) / told if told > 0 else 0.0


class Wire:
    """The way out: an async context manager, with the one ``send`` that all rows share."""

    def __init__(
        self,
        address: Address,
        limits: Limits,
        witness: Witness,
        awaiting: Callable[[], AbstractContextManager[None]],
        stopping: Callable[[], bool],
        purses: Sequence[Purse] = (),
    ) -> None:
        self._client = Client(
            base_url=address.base_url,
            key=address.key,
            headers=address.headers,
            connect_s=address.connect_s,
            total_s=address.total_s,
            concurrency=limits.concurrency,
            max_reply_bytes=address.max_reply_bytes,
            proxy=address.proxy,
            user_agent=f"prompt-pipeline/{__version__}",
        )
        self._limiter = Limiter(
            requests_per_minute=limits.requests_per_minute,
            tokens_per_minute=limits.tokens_per_minute,
            input_tokens_per_minute=limits.input_tokens_per_minute,
            output_tokens_per_minute=limits.output_tokens_per_minute,
            concurrency=limits.concurrency,
            max_output_tokens=limits.max_output_tokens,
        )
        sent = marked(self._client.send, witness, awaiting, stopping)
        self.send: Send = retry(
            Budget(purses).keep(self._limiter.limit(sent)),
            max_attempts=limits.max_attempts,
            max_wait_s=limits.max_wait_s,
            max_in_doubt=limits.max_in_doubt,
            on_retry=lambda call, error, wait_s: another(witness, stopping, call, error),
        )

    def found(self) -> dict[str, float | None]:
        """The limits as they were found."""
        return self._limiter.found()

    def needs(self) -> dict[str, Need]:
        """What this run could use of each configured limit. To be asked every second or so."""
        return self._limiter.needs()

    def keep_to(self, shares: Mapping[str, Share]) -> None:
        """From now on this run's share of what is configured; of a limit without one it has all."""
        self._limiter.keep_to(shares)

    def renew(self) -> None:
        """After a time that nobody lived through: connections from before it are not used again."""
        self._client.renew()

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, exc, trace)


def marked(
    send: Send,
    witness: Witness,
    awaiting: Callable[[], AbstractContextManager[None]],
    stopping: Callable[[], bool],
) -> Send:
    """The last step before the wire: nothing goes out once the run is stopping, and what goes out leaves a mark."""

    async def attempt(call: ApiCall) -> ApiReply:
        _go_on(stopping)
        witness.sent(call.row)
        with awaiting():
            reply = await send(call)
        witness.seen(reply)
        return reply

    return attempt


def another(witness: Witness, stopping: Callable[[], bool], call: ApiCall, error: ProviderError) -> None:
    """An attempt failed and another one would follow, after a wait; a run that is stopping waits for none."""
    witness.superseded(call.row, error)
    _go_on(stopping)


def _go_on(stopping: Callable[[], bool]) -> None:
    if stopping():
        raise RunPaused("the run is stopping")


class ReplyLost(Exception):
    """A fault of ours struck after a reply had come, which is paid for."""

    def __init__(self, reply: ApiReply) -> None:
        super().__init__(reply)
        self.reply = reply


async def ask(
    send: Send,
    row: Row,
    key: str,
    exchange: Exchange,
    call: ApiCall,
    *,
    witness: Witness,
    kept: Sequence[ApiReply] = (),
) -> Outcome:
    """Carry one exchange through. ``kept``: replies that an earlier run paid for, given again instead of bought again.

    Raises RunBlocked and RunPaused, and ReplyLost for a bug; every other bad end is a failed outcome.
    """
    reply: ApiReply | None = None
    earlier = NO_USAGE  # of the replies before this one
    turn = 0
    try:
        while True:
            said: ApiReply | RowRejected
            if turn < len(kept):
                said = reply = kept[turn]
            else:
                try:
                    said = reply = await send(call.for_row(key))
                except RowRejected as error:
                    said = error
            following = _advance(exchange, said)
            if isinstance(following, Completion):
                assert reply is not None
                outcome = _answered(key, row, following, reply)
                if turn < len(kept):  # the ledger has it already
                    return outcome._replace(usage=NO_USAGE, billed=Billed.NO, attempts=0, earlier=earlier + reply.usage)
                return outcome if turn == 0 else outcome._replace(earlier=earlier)
            call = following
            if isinstance(said, RowRejected):
                witness.superseded(key, said)
                continue
            if turn >= len(kept):
                witness.kept(key, said)
            earlier += said.usage
            turn += 1
    except (RowRejected, AnswerUnusable) as error:
        return _failed(key, row, error, reply, permanent=True)._replace(earlier=earlier)
    except ProviderError as error:
        if error.exit_code != ProviderError.exit_code:
            raise  # RunBlocked
        return _failed(key, row, error, reply, permanent=False)._replace(earlier=earlier)
    finally:
        exchange.close()


def _advance(exchange: Exchange, said: ApiReply | RowRejected) -> ApiCall | Completion:
    """The exchange's next call, or its end. A refusal is put to it first: it may ask in another way, or raise it."""
    try:
        if isinstance(said, RowRejected):
            return exchange.throw(said)
        return exchange.send(said)
    except StopIteration as end:
        completion: Completion = end.value
        return completion
    except PipelineError:
        raise
    except Exception as fault:
        if isinstance(said, RowRejected):
            raise
        raise ReplyLost(said) from fault


def _answered(key: str, row: Row, completion: Completion, reply: ApiReply) -> Outcome:
    return Outcome(
        key=key,
        row=row,
        status=completion.status,
        text=completion.text,
        kind=Status.INVALID_ANSWER if completion.status is Status.INVALID_ANSWER else None,
        error=completion.problems or completion.refusal,
        finish_reason=completion.finish_reason,
        model=completion.model,
        request_id=completion.request_id,
        http_status=reply.status,
        usage=reply.usage,
        billed=Billed.YES,
        attempts=reply.attempts,
        latency_s=reply.latency_s,
        reasoning=completion.reasoning,
        permanent=completion.status is Status.INVALID_ANSWER,
        fields=completion.fields,
        step=completion.step,
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


def unexpected(key: str, row: Row, fault: Exception, *, sent: bool) -> Outcome:
    """A fault of ours struck one row; a rerun tries it again. ``sent``: a request of it may have gone out."""
    reply = fault.reply if isinstance(fault, ReplyLost) else None
    name = type(fault if reply is None else fault.__cause__).__name__
    return Outcome(
        key=key,
        row=row,
        status=Status.FAILED,
        kind="internal_error",
        error=f"a fault of this tool: {name}; the traceback is in run.log",
        http_status=reply.status if reply else None,
        usage=reply.usage if reply else NO_USAGE,
        billed=Billed.YES if reply else Billed.MAYBE if sent else Billed.NO,
        attempts=reply.attempts if reply else int(sent),
        latency_s=reply.latency_s if reply else None,
    )
