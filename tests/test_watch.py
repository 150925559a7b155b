from __future__ import annotations

import pytest

from pipeline.errors import InputError, RunBlocked, RunPaused
from pipeline.records import Outcome, Row, Status
from pipeline.watch import ALIKE_FIRST, CANARIES, INTERNAL, Watch


def ended(status: Status = Status.OK, kind: str | None = None, *, permanent: bool = False, **more: object) -> Outcome:
    return Outcome("0" * 32, Row(0, None, {}), status, kind=kind, permanent=permanent, **more)  # type: ignore[arg-type]


REFUSED = ended(Status.FAILED, "content_policy", permanent=True)
BROKEN = ended(Status.FAILED, "server_error", http_status=500)
INVALID = ended(Status.INVALID_INPUT, "invalid_input", permanent=True)


@pytest.fixture
def watch() -> Watch:
    return Watch("https://example.invalid/v1", "a-model")


def test_a_good_canary_settles_it(watch: Watch) -> None:
    assert watch.canary(ended()) is None
    assert watch.settled


@pytest.mark.parametrize("kind", ["not_found", "model_not_found", "method_not_allowed"])
def test_a_canary_that_no_other_row_would_outlive_ends_the_run(watch: Watch, kind: str) -> None:
    reason = watch.canary(ended(Status.FAILED, kind, permanent=True, raw='{"error": "no such"}'))
    assert isinstance(reason, RunBlocked)
    assert reason.exit_code == 4
    assert "no such" in str(reason)
    assert "a-model" in str(reason)


@pytest.mark.parametrize("kind", ["connect", "connect_timeout", "dns", "tls"])
def test_an_address_where_nobody_is_ends_the_run_even_for_a_row_that_failed_before(watch: Watch, kind: str) -> None:
    assert isinstance(watch.canary(ended(Status.FAILED, kind), again=True), RunBlocked)


def test_a_canary_refused_for_its_content_says_nothing_about_the_others(watch: Watch) -> None:
    assert watch.canary(REFUSED) is None
    assert watch.settled


def test_a_row_that_breaks_the_endpoint_is_followed_by_another_alone_and_only_three_end_the_run(watch: Watch) -> None:
    for _ in range(CANARIES - 1):
        assert watch.canary(BROKEN) is None
        assert not watch.settled
    reason = watch.canary(BROKEN)
    assert isinstance(reason, RunPaused)
    assert reason.exit_code == 75


def test_a_good_row_after_a_broken_one_settles_it(watch: Watch) -> None:
    watch.canary(BROKEN)
    assert watch.canary(ended()) is None
    assert watch.settled


def test_an_invalid_canary_is_no_canary(watch: Watch) -> None:
    assert watch.canary(INVALID) is None
    assert not watch.settled


def test_twenty_alike_end_the_run_and_nineteen_do_not(watch: Watch) -> None:
    assert [watch.look(REFUSED) for _ in range(ALIKE_FIRST - 1)] == [None] * (ALIKE_FIRST - 1)
    assert isinstance(watch.look(REFUSED), RunBlocked)


def test_two_kinds_in_turn_are_not_alike(watch: Watch) -> None:
    assert not any(watch.look(outcome) for _ in range(ALIKE_FIRST) for outcome in (REFUSED, BROKEN))


def test_twenty_rows_that_cannot_be_sent_are_the_fault_of_the_input(watch: Watch) -> None:
    reasons = [watch.look(INVALID) for _ in range(ALIKE_FIRST)]
    assert isinstance(reasons[-1], InputError)
    assert reasons[-1].exit_code == 2


def test_after_one_good_row_no_failures_end_the_run(watch: Watch) -> None:
    watch.look(ended(Status.TRUNCATED))
    assert not any(watch.look(REFUSED) for _ in range(10 * ALIKE_FIRST))


def test_rows_that_had_failed_before_and_fail_again_say_nothing(watch: Watch) -> None:
    assert watch.canary(BROKEN, again=True) is None
    assert watch.settled
    assert not any(watch.look(BROKEN, again=True) for _ in range(10 * ALIKE_FIRST))


def test_a_fault_of_ours_is_never_told_as_one_of_the_endpoint(watch: Watch) -> None:
    struck = ended(Status.FAILED, INTERNAL)
    assert watch.canary(struck) is None
    assert not watch.settled
    assert not any(watch.look(struck) for _ in range(2 * ALIKE_FIRST))
