"""One row that is ready goes in, one outcome comes out.

What is wrong with a row alone becomes its outcome; what is wrong with the run (RunBlocked, RunPaused) is raised, and
the row stays pending.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import AnswerUnusable, PipelineError, ProviderError, RowRejected
from pipeline.provider.wire import Witness
from pipeline.records import (
    NO_USAGE,
    YES,
    ApiCall,
    ApiReply,
    Billed,
    Completion,
    Exchange,
    Outcome,
    Row,
    Send,
    Status,
)


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

    The outcome has been told to the witness when it is returned. Raises RunBlocked and RunPaused, what the witness
    raises, and ReplyLost for a bug; every other bad end is a failed outcome.
    """
    talk = _Talk(row, key, exchange, witness, call)
    try:
        for reply in kept:
            if talk.outcome is None:
                talk.remember(reply)
        while talk.outcome is None:
            try:
                talk.heard(await send(talk.open()))
            except (RowRejected, AnswerUnusable) as error:
                talk.refused(error)
            except ProviderError as error:
                talk.failed(error)
            talk.settle()
        return talk.outcome
    finally:
        exchange.close()


class _Talk:
    """One exchange on its way: an ear for its replies, which hands on each the moment it is there."""

    __slots__ = (
        *(
            "_call",
            "_earlier",
            "_turns",
            "_exchange",
            "_fault",
            "_key",
            "_open",
            "_reply",
            "_row",
            "_tries",
            "_witness",
        ),
        "outcome",
    )

    def __init__(self, row: Row, key: str, exchange: Exchange, witness: Witness, call: ApiCall) -> None:
        self.outcome: Outcome | None = None
        self._row = row
        self._key = key
        self._exchange = exchange
        self._witness = witness
        self._call = call
        self._reply: ApiReply | None = None
        self._earlier = NO_USAGE  # of the replies before that one
        self._turns = 0  # how many these were
        self._open = False  # a reply is waited for
        self._tries = 0
        self._fault: Exception | None = None

    def open(self) -> ApiCall:
        self._open, self._tries = True, 0
        return self._call.for_row(self._key, self)

    def sent(self) -> None:
        self._tries += 1

    def heard(self, reply: ApiReply) -> None:
        if not self._open:
            return  # told already, on the way
        self._open = False
        try:
            self._take(reply if self._tries < 2 else reply._replace(attempts=self._tries))
        except Exception as fault:  # noqa: BLE001 - it must not strike whoever carries the reply: ``settle`` raises it
            self._fault = fault

    def settle(self) -> None:
        """Raises what went wrong while the reply was taken in."""
        if self._fault is not None:
            raise self._fault

    def remember(self, reply: ApiReply) -> None:
        """A reply of an earlier run: the ledger and the journal have it already."""
        following = self._advance(reply)
        if isinstance(following, Outcome):
            done = following._replace(usage=NO_USAGE, billed=Billed.NO, attempts=0)
            self._end(done._replace(earlier=self._earlier.plus(reply.usage), earlier_replies=self._turns + 1))
        else:
            self._go_on(following, reply)

    def refused(self, error: RowRejected | AnswerUnusable) -> None:
        """The exchange may ask in another way, or go on without this reply."""
        following = self._advance(error)
        if isinstance(following, ApiCall):
            self._witness.superseded(self._key, error)
            self._call = following
        else:
            self._end(self._with_earlier(following))

    def failed(self, error: ProviderError) -> None:
        self._end(self._with_earlier(self._failure(error)))

    def _take(self, reply: ApiReply) -> None:
        following = self._advance(reply)
        if isinstance(following, ApiCall):
            self._witness.kept(self._key, reply)
            self._go_on(following, reply)
        else:
            self._end(self._with_earlier(following))

    def _go_on(self, call: ApiCall, reply: ApiReply) -> None:
        self._earlier = self._earlier.plus(reply.usage)
        self._turns += 1
        self._call = call

    def _with_earlier(self, outcome: Outcome) -> Outcome:
        return outcome._replace(earlier=self._earlier, earlier_replies=self._turns) if self._turns else outcome

    def _end(self, outcome: Outcome) -> None:
        self._witness.ended(outcome)
        self.outcome = outcome

    def _advance(self, said: ApiReply | RowRejected | AnswerUnusable) -> ApiCall | Outcome:
        """The exchange's next call, or how it ended. What failed for good is put to it first: it may raise that."""
        try:
            if isinstance(said, ProviderError):
                return self._exchange.throw(said)
            self._reply = said
            return self._exchange.send(said)
        except StopIteration as end:
            assert self._reply is not None
            return _answered(self._key, self._row, end.value, self._reply)
        except ProviderError as error:
            return self._failure(error)
        except PipelineError:
            raise
        except Exception as fault:
            if isinstance(said, ProviderError):
                raise
            raise ReplyLost(said) from fault

    def _failure(self, error: ProviderError) -> Outcome:
        """Raises what is wrong with the run and not with the row."""
        if error.exit_code != ProviderError.exit_code:
            raise error  # RunBlocked
        permanent = isinstance(error, RowRejected | AnswerUnusable)
        return _failed(self._key, self._row, error, self._reply, permanent=permanent)


def _answered(key: str, row: Row, completion: Completion, reply: ApiReply) -> Outcome:
    return Outcome(
        key=key,
        row=row,
        status=completion.status,
        text=completion.text,
        kind=completion.kind,
        error=completion.problems or completion.refusal,
        finish_reason=completion.finish_reason,
        model=completion.model,
        request_id=completion.request_id,
        http_status=reply.status,
        usage=reply.usage,
        billed=YES,
        attempts=reply.attempts,
        latency_s=reply.latency_s,
        reasoning=completion.reasoning,
        permanent=completion.kind is not None,
        fields=completion.fields,
        step=completion.step,
        votes=completion.votes,
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
