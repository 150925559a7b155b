"""A run that can only fail is ended by its first rows, instead of failing a million of them.

The first request of a run goes alone (the canary): a reply that says the address or the model is wrong ends the run
there, and so does an address that nobody answers at. A row that fails for a passing reason may be its own fault, so
the next one goes alone, too, until three have failed. Then, while not one row has come out well, twenty ends of one
kind in a row say that it is not the rows.

A row that had failed before, and fails again, says nothing: else a few hopeless rows would end every rerun.
"""

from __future__ import annotations

from pipeline.errors import EndpointDown, InputError, PipelineError, RunBlocked
from pipeline.records import Outcome, Status

ALIKE_FIRST = 20
CANARIES = 3
INTERNAL = "internal_error"
"""The kind of a row that a fault of ours struck; whoever counts these is not the watch."""

_NOT_THE_ROW = frozenset({"not_found", "model_not_found", "method_not_allowed"})
"""Kinds of refusal that no other row of the job would escape."""

_NOBODY_THERE = frozenset({"connect", "connect_timeout", "dns", "proxy", "tls"})


class Watch:
    """Looks at outcomes in the order of their coming. ``again``: the row had failed in an earlier run."""

    def __init__(self, base_url: str, model: str) -> None:
        self._base_url = base_url
        self._model = model
        self._kind: str | None = None
        self._alike = 0
        self._over = False
        self._canaries = 0
        self.settled = False
        """A canary has told what it can; until then the next row goes alone."""

    @property
    def over(self) -> bool:
        """A row has come out well: there is nothing to watch for any more."""
        return self._over

    def end(self) -> None:
        """Another process of this run has seen a row come out well."""
        self._over = self.settled = True

    def canary(self, outcome: Outcome, *, again: bool = False) -> PipelineError | None:
        """Why the run should end after a row that went alone, None when it should go on."""
        failed = outcome.status is Status.FAILED
        if failed and outcome.kind in _NOT_THE_ROW:
            return self._blocked(outcome, "the first request was refused")
        if failed and outcome.kind in _NOBODY_THERE:
            return self._blocked(outcome, f"the endpoint could not be reached ({outcome.attempts} attempts)")
        passing = failed and not outcome.permanent and not again
        if passing and outcome.kind != INTERNAL:
            self._canaries += 1
            if self._canaries >= CANARIES:
                told = self._told(outcome, f"the first {CANARIES} rows failed, one after the other,")
                return EndpointDown(f"{told} The other rows stay pending; run the same command again later")
        self.settled = not passing and outcome.status is not Status.INVALID_INPUT
        return self.look(outcome, again=again)

    def look(self, outcome: Outcome, *, again: bool = False) -> PipelineError | None:
        """Why the run should end now, None when it should go on."""
        if self._over:
            return None
        if outcome.status is not Status.FAILED and outcome.status is not Status.INVALID_INPUT:
            self._over = True
            return None
        if again or outcome.kind == INTERNAL:
            return None
        self._alike = self._alike + 1 if outcome.kind == self._kind else 1
        self._kind = outcome.kind
        if self._alike < ALIKE_FIRST:
            return None
        if outcome.status is Status.INVALID_INPUT:
            return InputError(
                f"the first {ALIKE_FIRST} rows all cannot be sent: {outcome.error}. Mend the template or the input; "
                "nothing was sent"
            )
        return self._blocked(outcome, f"the first {ALIKE_FIRST} rows all failed alike")

    def _blocked(self, outcome: Outcome, what: str) -> RunBlocked:
        return RunBlocked(
            f"{self._told(outcome, what)} Look at endpoint and model in the spec; the other rows stay pending",
            kind=outcome.kind or "failed",
            billed=outcome.billed,
            status=outcome.http_status,
        )

    def _told(self, outcome: Outcome, what: str) -> str:
        excerpt = f" The reply began: {' '.join(outcome.raw.split())[:300]}" if outcome.raw else ""
        return f"{what} at {self._base_url} (model {self._model!r}): {outcome.error} [{outcome.kind}].{excerpt}"
