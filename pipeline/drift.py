"""A finished run held against the one before it, and when that is an alarm. Pure: counts in, verdicts out.

A label is a short value of a column that has few of them. Shares are among the rows whose status is ``ok``; a row
flips when its label is another one than the previous finished run gave it, among the rows that both gave one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

MOST_CHARACTERS = 60
"""A longer value is no label."""
MOST_LABELS = 200
_FEW = 12
_ROWS_A_LABEL = 4
_SAME = 1e-9  # two shares whose difference is a matter of rounding


@dataclass(frozen=True, slots=True)
class Labels:
    """How often each label stands in one column, among ``ok`` rows with and without a value."""

    column: str  # of results.parquet
    ok: int
    counts: Mapping[str, int]  # of the first MOST_LABELS labels
    others: int = 0  # longer values, and labels beyond the first

    @property
    def followed(self) -> bool:
        """The column is one of labels: few values, most of them short."""
        few = len(self.counts) <= max(_FEW, self.ok // _ROWS_A_LABEL)
        return bool(self.counts) and few and 2 * self.others <= self.ok

    def share(self, label: str) -> float:
        return self.counts.get(label, 0) / self.ok if self.ok else 0.0


@dataclass(frozen=True, slots=True)
class Shift:
    """The label of a field whose share changed most."""

    field: str
    label: str
    before: float
    now: float

    @property
    def change(self) -> float:
        return abs(self.now - self.before)


@dataclass(frozen=True, slots=True)
class Flips:
    """Rows whose label changed, of those that have one in both runs."""

    field: str
    flipped: int
    compared: int

    @property
    def rate(self) -> float:
        return self.flipped / self.compared if self.compared else 0.0


@dataclass(frozen=True, slots=True)
class Drift:
    """What distinguishes a finished run from the one before. ``against`` is None for a first one."""

    number: int  # of this run among the finished ones
    failed: int
    rows: int
    against: int | None = None
    against_ended: float | None = None  # wall clock, seconds since 1970
    shifts: tuple[Shift, ...] = ()
    flips: tuple[Flips, ...] = ()
    notes: tuple[str, ...] = ()  # what could not be compared, and why

    @property
    def failure_rate(self) -> float:
        return self.failed / self.rows if self.rows else 0.0

    @classmethod
    def of(cls, members: Mapping[str, Any]) -> Drift:
        """Raises KeyError or TypeError for what another version wrote otherwise."""
        shifts = tuple(Shift(**one) for one in members["shifts"])
        flips = tuple(Flips(**one) for one in members["flips"])
        return cls(**{**members, "shifts": shifts, "flips": flips, "notes": tuple(members["notes"])})

    def members(self) -> dict[str, Any]:
        """For summary.json."""
        return {
            "run": self.number,
            "against_run": self.against,
            "failure_rate": self.failure_rate,
            "label_shares": [{**asdict(shift), "change": shift.change} for shift in self.shifts],
            "flips": [{**asdict(flips), "rate": flips.rate} for flips in self.flips],
            "not_compared": list(self.notes),
        }

    def lines(self) -> list[str]:
        """For people; labels are in it, so it is not for the log."""
        lines = [
            f"{shift.field}: {shift.label!r} {_percent(shift.before)} of the rows before, {_percent(shift.now)} now"
            for shift in self.shifts
            if shift.change > _SAME
        ]
        lines += [f"{one.field}: {one.flipped} of {one.compared} rows changed" for one in self.flips if one.flipped]
        return lines + [f"not compared: {note}" for note in self.notes]


@dataclass(frozen=True, slots=True)
class Past:
    """What is kept of a finished run."""

    number: int
    run: str  # as run.log names it
    ended: float  # wall clock, seconds since 1970
    question: str
    answers: str  # the same rows, asked the same, with nothing sent since
    statuses: Mapping[str, int]
    failures: Mapping[str, int]
    requests: int
    tokens: int | None
    cost_usd: float | None
    id: str | None  # the column that names a row
    status: str  # the column that says how a row ended
    labels: Mapping[str, Labels]
    results: Sequence[int | str]  # names results.parquet; nothing when there was none
    drift: Drift

    @classmethod
    def of(cls, members: Mapping[str, Any]) -> Past:
        """Raises KeyError or TypeError for what another version wrote otherwise."""
        labels = {name: Labels(**one) for name, one in members["labels"].items()}
        return cls(**{**members, "labels": labels, "drift": Drift.of(members["drift"])})


@dataclass(frozen=True, slots=True)
class Alarm:
    """Shares that must not be passed. None: not watched."""

    label_share_change: float | None = None
    flip_rate: float | None = None
    failure_rate: float | None = None


def shifts(before: Mapping[str, Labels], now: Mapping[str, Labels]) -> tuple[Shift, ...]:
    """For each field of labels in both runs, the label whose share changed most."""
    found = []
    for name in comparable(before, now):
        old, new = before[name], now[name]
        labels = sorted(old.counts.keys() | new.counts.keys())
        moved = [Shift(name, label, old.share(label), new.share(label)) for label in labels]
        found.append(max(moved, key=lambda shift: shift.change))
    return tuple(found)


def comparable(before: Mapping[str, Labels], now: Mapping[str, Labels]) -> list[str]:
    """Columns of labels then. Now they may be anything: a model that began to ramble must not go unseen."""
    return [name for name, labels in now.items() if labels.ok and name in before and before[name].followed]


def exceeded(drift: Drift, alarm: Alarm | None) -> tuple[str, ...]:
    """Why there is an alarm, a clause a reason. No label is in it: the reasons go into the log."""
    if alarm is None:
        return ()
    reasons = []
    worst = max(drift.shifts, key=lambda shift: shift.change, default=None)
    if worst is not None and _passed(worst.change, alarm.label_share_change):
        reasons.append(
            f"the share of a label of {worst.field} changed from {_percent(worst.before)} to {_percent(worst.now)} "
            f"(label_share_change: {alarm.label_share_change:g})"
        )
    flips = max(drift.flips, key=lambda one: one.rate, default=None)
    if flips is not None and _passed(flips.rate, alarm.flip_rate):
        reasons.append(
            f"{flips.flipped} of {flips.compared} rows changed their {flips.field}, {_percent(flips.rate)} "
            f"(flip_rate: {alarm.flip_rate:g})"
        )
    if _passed(drift.failure_rate, alarm.failure_rate):
        reasons.append(
            f"{drift.failed} of {drift.rows} rows failed, {_percent(drift.failure_rate)} "
            f"(failure_rate: {alarm.failure_rate:g})"
        )
    return tuple(reasons)


def judge(failed: int, allowed: float, reasons: Sequence[str], told: str) -> tuple[int, str]:
    """Exit code and message of a finished run; ``told`` says what to do about failed rows."""
    words = [told] if failed > allowed else []
    if reasons:
        words.append(f"alarm: {'; '.join(reasons)}")
    return (3 if words else 0), "; ".join(words)


def _passed(figure: float, most: float | None) -> bool:
    return most is not None and figure > most + _SAME


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"
