from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ledger import Ledger, Prices, Totals
from pipeline.records import NO_USAGE, Billed, Usage

PRICES = Prices(input=1.25, output=10.0, cached_input=0.25)


def test_cached_tokens_have_their_own_price() -> None:
    usage = Usage(1_000_000, 100_000, 1_100_000, cached_tokens=400_000)
    assert PRICES.cost(usage) == pytest.approx(0.6 * 1.25 + 0.4 * 0.25 + 0.1 * 10)


def test_without_a_price_for_them_cached_tokens_cost_what_others_do() -> None:
    usage = Usage(1_000_000, 0, cached_tokens=400_000)
    assert Prices(1.0, 1.0).cost(usage) == pytest.approx(1.0)


def test_more_cached_tokens_than_prompt_tokens_never_make_money() -> None:
    assert PRICES.cost(Usage(10, 0, cached_tokens=1000)) == pytest.approx(10 * 0.25 / 1e6)


def test_a_price_per_request_needs_no_tokens() -> None:
    assert Prices(per_request=0.02).cost(NO_USAGE, 3) == pytest.approx(0.06)


def test_both_prices_add_up() -> None:
    assert Prices(1.0, 2.0, None, 0.5).cost(Usage(1_000_000, 1_000_000), 2) == pytest.approx(1 + 2 + 1)


@pytest.mark.parametrize("prices", [Prices(), Prices(input=1.0), Prices(output=1.0)])
def test_an_unknown_price_makes_unknown_money_and_never_nothing(prices: Prices) -> None:
    assert not prices.known
    assert prices.cost(Usage(1, 1)) is None
    assert Totals(billed=1, usage=Usage(1, 1)).cost(prices) is None
    assert Totals().cost(prices) is None


@pytest.mark.parametrize("usage", [NO_USAGE, Usage(1, None), Usage(None, 1), Usage(total_tokens=2)])
def test_missing_counts_make_unknown_money(usage: Usage) -> None:
    assert PRICES.cost(usage) is None


def test_nothing_billed_costs_nothing() -> None:
    assert Totals(attempts=3, maybe_billed=1).cost(PRICES) == 0.0


def test_every_attempt_is_counted_by_what_it_cost() -> None:
    ledger = Ledger(Totals())
    ledger.add(Billed.NO, NO_USAGE)
    ledger.add(Billed.MAYBE, NO_USAGE)
    ledger.add(Billed.YES, NO_USAGE)
    ledger.add(Billed.YES, Usage(10, 5, 15, 2))
    totals = ledger.totals()
    assert (totals.attempts, totals.billed, totals.maybe_billed, totals.unreported) == (4, 2, 1, 1)
    assert (totals.usage.prompt_tokens, totals.usage.completion_tokens, totals.usage.cached_tokens) == (10, 5, 2)


def test_earlier_runs_are_added() -> None:
    ledger = Ledger(Totals(5, 4, 1, Usage(100, 50, 150), 0))
    ledger.add(Billed.YES, Usage(10, 5, 15))
    totals = ledger.totals()
    assert (totals.attempts, totals.billed, totals.usage.prompt_tokens) == (6, 5, 110)


counts = st.one_of(st.none(), st.integers(0, 10**6))
usages = st.builds(Usage, counts, counts, counts, counts, counts)
totals = st.builds(Totals, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), usages, st.integers(0, 9))


@given(totals, totals, totals)
def test_adding_does_not_care_for_order(a: Totals, b: Totals, c: Totals) -> None:
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert a + Totals() == a
