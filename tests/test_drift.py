from __future__ import annotations

from dataclasses import asdict

import orjson
import pytest

from pipeline.drift import Alarm, Drift, Flips, Labels, Past, Shift, exceeded, judge, shifts


def labels(**counts: int) -> Labels:
    return Labels("label", sum(counts.values()), counts)


def test_a_first_run_has_nothing_to_be_held_against_but_its_failures() -> None:
    first = Drift(1, failed=3, rows=10)
    assert exceeded(first, Alarm(0.0, 0.0, None)) == ()
    assert exceeded(first, Alarm(0.0, 0.0, 0.3)) == ()
    (reason,) = exceeded(first, Alarm(0.0, 0.0, 0.29))
    assert "3 of 10 rows failed, 30.0 %" in reason


def test_without_an_alarm_in_the_spec_nothing_is_one() -> None:
    drift = Drift(2, 10, 10, 1, 0.0, (Shift("a", "x", 0.0, 1.0),), (Flips("a", 10, 10),))
    assert exceeded(drift, None) == ()
    assert exceeded(drift, Alarm()) == ()
    assert len(exceeded(drift, Alarm(0.5, 0.5, 0.5))) == 3


def test_the_label_that_moved_most_counts_also_one_that_came_or_went() -> None:
    (shift,) = shifts({"a": labels(yes=5, no=5)}, {"a": labels(yes=4, maybe=6)})
    assert (shift.label, shift.before, shift.now) == ("maybe", 0.0, 0.6)
    assert shift.change == pytest.approx(0.6)


def test_a_share_that_changed_by_just_as_much_as_is_allowed_is_no_alarm() -> None:
    moved = shifts({"a": labels(yes=3, no=7)}, {"a": labels(yes=4, no=6)})  # 0.4 - 0.3 > 0.1 to a computer
    assert exceeded(Drift(2, 0, 10, 1, shifts=moved), Alarm(label_share_change=0.1)) == ()
    assert exceeded(Drift(2, 0, 10, 1, shifts=moved), Alarm(label_share_change=0.0999)) != ()


def test_labels_that_drown_in_rambling_are_seen() -> None:
    then, now = labels(yes=50, no=50), Labels("label", 100, {"yes": 10}, others=90)
    assert not now.followed
    (shift,) = shifts({"a": then}, {"a": now})
    assert shift == Shift("a", "no", 0.5, 0.0)


def test_free_text_is_not_held_against_anything() -> None:
    many = Labels("text", 100, {f"text {n}": 1 for n in range(100)})
    assert not many.followed
    assert shifts({"a": many}, {"a": labels(yes=1)}) == ()
    assert shifts({}, {"a": labels(yes=1)}) == ()
    assert shifts({"a": labels(yes=1)}, {"a": Labels("label", 0, {})}) == ()  # all failed: no share to speak of


def test_no_reason_names_a_label_because_the_log_must_not() -> None:
    drift = Drift(2, 5, 10, 1, 0.0, (Shift("mood", "secret-label", 0.0, 1.0),), (Flips("mood", 10, 10),))
    assert all("secret-label" not in reason for reason in exceeded(drift, Alarm(0.0, 0.0, 0.0)))
    assert any("secret-label" in line for line in drift.lines())


@pytest.mark.parametrize(
    ("failed", "allowed", "reasons", "judged"),
    [
        (0, 0, (), (0, "")),
        (2, 2, (), (0, "")),
        (2, 1, (), (3, "told")),
        (0, 0, ("a", "b"), (3, "alarm: a; b")),
        (2, 1, ("a",), (3, "told; alarm: a")),
    ],
)
def test_failed_rows_and_alarms_are_told_together(
    failed: int, allowed: float, reasons: tuple[str, ...], judged: tuple[int, str]
) -> None:
    assert judge(failed, allowed, reasons, "told") == judged


def test_what_is_kept_of_a_run_comes_back_from_json() -> None:
    drift = Drift(2, 1, 10, 1, 5.0, (Shift("a", "yes", 0.1, 0.2),), (Flips("a", 1, 9),), ("why",))
    past = Past(
        2, "r", 1.5, "q", "k", {"ok": 9}, {"e": 1}, 10, 5, None, "id", "status", {"a": labels(yes=9)}, [1, 2], drift
    )
    assert Past.of(orjson.loads(orjson.dumps(asdict(past)))) == past
