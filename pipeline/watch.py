"""A run that can only fail is ended by its first rows, instead of failing a million of them.

The first request of a run goes alone (the canary): a reply that says the address or the model is wrong ends the run
there. Then, while not one row has come out well, twenty ends of one kind in a row say that it is not the rows.
"""

from __future__ import annotations

from pipeline.errors import InputError, PipelineError, RunBlocked
from pipeline.records import Outcome, Status

ALIKE_FIRST = 20
_NOT_THE_ROW = frozenset({"not_found", "model_not_found", "method_not_allowed"})
"""Kinds of refusal that no other row of the job would escape."""


class Watch:
    """Looks at outcomes in the order of their coming."""

    def __init__(self, base_url: str, model: str) -> None:
        self._base_url = base_url
        self._model = model
        self._kind: str | None = None
        self._alike = 0
        self._over = False

    def canary(self, outcome: Outcome) -> PipelineError | None:
        """Why the run should end after its first request, None when it should go on."""
        if outcome.status is Status.FAILED and outcome.kind in _NOT_THE_ROW:
            return self._blocked(outcome, "the first request was refused")
        if outcome.status is Status.FAILED and not outcome.permanent:
            return self._blocked(outcome, f"the endpoint could not be used ({outcome.attempts} attempts)")
        return self.look(outcome)

    def look(self, outcome: Outcome) -> PipelineError | None:
        """Why the run should end now, None when it should go on."""
        if self._over:
            return None
        if outcome.status is not Status.FAILED and outcome.status is not Status.INVALID_INPUT:
            self._over = True
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
        excerpt = f" The reply began: {' '.join(outcome.raw.split())[:300]}" if outcome.raw else ""
        return RunBlocked(
            f"{what} by {self._base_url} (model {self._model!r}): {outcome.error} [{outcome.kind}].{excerpt} "
            "Look at endpoint and model in the spec; the other rows stay pending",
            kind=outcome.kind or "failed",
            billed=outcome.billed,
            status=outcome.http_status,
        )
