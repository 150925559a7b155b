"""A job's budget in tokens and in money, with all that earlier runs have spent of it."""

from __future__ import annotations

from pipeline.ledger import Prices, Totals
from pipeline.provider.budget import Purse, tokens_of
from pipeline.records import ApiCall, Usage


def token_purse(limit: int, before: Totals, max_output_tokens: int, attachment_tokens: int = 0) -> Purse:
    """``before``: all earlier runs. An attempt of theirs that told no tokens counts as an answer of full length.
    ``attachment_tokens``: the most that one attachment costs."""
    told = before.usage
    spent = max((told.prompt_tokens or 0) + (told.completion_tokens or 0), told.total_tokens or 0)
    prompt = _mean_prompt(before)
    spent += round((before.maybe_billed + before.unreported) * (prompt + max_output_tokens))
    return Purse("tokens", limit, spent, lambda call: _most(call, attachment_tokens) + max_output_tokens, tokens_of)


def money_purse(
    limit: float, before: Totals, max_output_tokens: int, prices: Prices, attachment_tokens: int = 0
) -> Purse:
    """USD; the price must be known."""

    def worst(prompt_tokens: int, requests: int = 1) -> float:
        most = Usage(prompt_tokens, max_output_tokens * requests)
        return prices.cost(most, requests) or 0.0

    spent = prices.cost(before.usage, before.billed) or 0.0 if before.billed else 0.0
    in_doubt = before.maybe_billed + before.unreported
    spent += worst(round(_mean_prompt(before) * in_doubt), in_doubt)
    return Purse("usd", limit, spent, lambda call: worst(_most(call, attachment_tokens)), prices.cost)


def _most(call: ApiCall, attachment_tokens: int) -> int:
    """The most tokens that a prompt can be: a byte of its text each, and what an attachment costs at most."""
    return call.text_bytes + call.attachments * attachment_tokens


def _mean_prompt(before: Totals) -> float:
    told = before.billed - before.unreported
    return (before.usage.prompt_tokens or 0) / told if told > 0 else 0.0
