"""Who may take how much, when several jobs draw on one allowance. Arithmetic: no clock, no file.

Each job lays its claim on a table that all can read: the limits its spec names, how much it could use, and how much of
them it holds. From the table each works out the same fair division, and moves towards it: down at once, up only into
what no other holds. So what is held in all never exceeds the allowance while jobs come and go; a newcomer holds nothing
until the others have made room, which takes each of them one look at the table.

The division is max-min fair: nobody gets more than it wants while another wants more than it gets, and what nobody
wants is dealt out evenly. Limits are shared one by one, among those whose specs name them; the smallest holds for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import orjson

FORMAT = 1
"""Jobs of another format sit at another table."""

FOOT_SHARE = 0.01
"""Share of an equal part that is kept for a job that wants nothing, so that it shows when it wants something again."""


@dataclass(frozen=True, slots=True)
class Need:
    """One limit of a job, in calls or tokens per minute."""

    limit: float  # as the job's spec names it
    want: float | None  # what it could use; None: all it can get


@dataclass(frozen=True, slots=True)
class Stake:
    """A need, and what the job holds at present."""

    limit: float
    want: float | None
    held: float


@dataclass(frozen=True, slots=True)
class Share:
    """What a job may take from now on, of which limit, and how many share it (the job included)."""

    mine: float
    limit: float
    jobs: int


def members(shares: Mapping[str, Share]) -> dict[str, float]:
    """For programs; nothing where nothing is shared."""
    if not shares:
        return {}
    told = {f"{name}_share": share.mine for name, share in shares.items()}
    return {"jobs_sharing": float(max(share.jobs for share in shares.values())), **told}


Claim = Mapping[str, Stake]
"""One job's stakes by the name of the limit."""


def room(limit: float, jobs: int) -> float:
    """What may be held in all. Calls come whole: each job may have one more in a minute than its share says."""
    return max(limit - (jobs - 1), limit / 2)


def divided(whole: float, wants: Sequence[float | None]) -> list[float]:
    """The fair parts of ``whole``, in the order of ``wants``; they add up to it."""
    foot = FOOT_SHARE * whole / len(wants)
    asked = [whole if want is None else min(max(want, foot), whole) for want in wants]
    parts = [0.0] * len(asked)
    left = whole
    modest_first = sorted(range(len(asked)), key=asked.__getitem__)
    for place, job in enumerate(modest_first):
        parts[job] = min(asked[job], left / (len(asked) - place))
        left -= parts[job]
    return [part + left / len(parts) for part in parts]


def take(needs: Mapping[str, Need], others: Sequence[Claim]) -> dict[str, Share]:
    """One job's look at the table: what it may take now. ``others``: the claims of all other jobs that are alive."""
    return {name: _taken(need, [claim[name] for claim in others if name in claim]) for name, need in needs.items()}


def _taken(need: Need, others: Sequence[Stake]) -> Share:
    limit = min([need.limit, *(stake.limit for stake in others)])
    whole = room(limit, 1 + len(others))
    fair = divided(whole, [need.want, *(stake.want for stake in others)])[0]
    free = whole - sum(stake.held for stake in others)
    return Share(max(0.0, min(fair, free)), limit, 1 + len(others))


def claim(needs: Mapping[str, Need], shares: Mapping[str, Share]) -> dict[str, Stake]:
    return {name: Stake(need.limit, need.want, shares[name].mine) for name, need in needs.items()}


# -- as it lies on the table -------------------------------------------------------------------------------------------


def packed(claim: Claim, **more: object) -> bytes:
    """``more``: for people, and to tell one look from the next."""
    return orjson.dumps({**more, "limits": claim}) + b"\n"


def unpacked(words: Iterable[bytes]) -> list[Claim]:
    """The claims that can be read. One that cannot is left out: its job writes it anew with its next look."""
    found: list[Claim] = []
    for text in words:
        try:
            found.append({str(name): _stake(told) for name, told in orjson.loads(text)["limits"].items()})
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return found


def _stake(told: Mapping[str, float | None]) -> Stake:
    limit, want, held = _amount(told["limit"]), told["want"], _amount(told["held"])
    if limit == 0.0:
        raise ValueError("a limit of nothing")
    return Stake(limit, None if want is None else _amount(want), held)


def _amount(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
        raise ValueError(f"{value!r} is no amount")
    return float(value)
