"""How the simulator shall behave. All of it is told here; nothing is read from the environment."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import SpecError
from pipeline.simulator.faults import FAULTS, GROUPS

WINDOWS = ("sliding", "fixed", "bucket")


@dataclass(frozen=True, slots=True)
class Settings:
    """Refuses impossible values with a SpecError that names all of them."""

    seed: int = 1
    latency_s: float = 0.2  # median
    latency_sigma: float = 0.0  # of the lognormal; 0 = constant
    latency_tail: tuple[float, float] | None = None  # share of answers, and by what factor they take longer
    answer_tokens: tuple[int, int] | None = None  # answers of a length in this range instead of sensible ones
    canned: bool = False  # the same word for everybody
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    window: str = "sliding"
    window_s: float = 60.0  # what "minute" means above; tests make it shorter
    burst: int | None = None  # size of the bucket in requests; the tokens' bucket holds the same share of its minute
    concurrency: int | None = None
    reserve_max_tokens: bool = False  # charge max_tokens at the door and give the rest back, as OpenAI does
    rate_headers: bool = True
    retry_after: str | None = None  # sent on a 429 of the limits, whatever is true and whatever rate_headers says
    change_after_s: float | None = None  # after start or reset
    change_requests_per_minute: int | None = None
    change_tokens_per_minute: int | None = None
    faults: Mapping[str, float] = field(default_factory=dict)  # kind or group -> share of the requests
    slow_s: float = 5.0  # how long slow faults take (gateway timeouts, a dripping body)
    outage: tuple[float, float, str] | None = None  # from, to (s after start or reset), and the fault everybody gets
    api_key: str | None = field(default=None, repr=False)
    models: tuple[str, ...] | None = None
    unknown_model_status: int = 503  # the gateway's own; others say 404
    balance_requests: int | None = None  # so many billed requests empty the account
    ledger_path: Path | None = None

    def __post_init__(self) -> None:
        if problems := [*self._number_problems(), *self._word_problems()]:
            raise SpecError("the simulator cannot be set up like this:\n  " + "\n  ".join(problems))

    def _number_problems(self) -> Iterator[str]:
        for name in ("latency_s", "latency_sigma", "slow_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                yield f"{name} must be 0 or more, not {getattr(self, name)}"
        for name in (
            *("requests_per_minute", "tokens_per_minute", "burst", "concurrency"),
            *("change_requests_per_minute", "change_tokens_per_minute", "window_s"),
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                yield f"{name} must be above 0, not {value}"
        if self.answer_tokens is not None and not 0 < self.answer_tokens[0] <= self.answer_tokens[1]:
            yield f"answer_tokens must be a range from 1 up, not {self.answer_tokens[0]}..{self.answer_tokens[1]}"
        if self.latency_tail is not None and not (0 <= self.latency_tail[0] <= 1 and self.latency_tail[1] >= 0):
            yield f"latency_tail must be a share in 0..1 and a factor, not {self.latency_tail}"

    def _word_problems(self) -> Iterator[str]:
        if self.window not in WINDOWS:
            yield f"window must be one of {', '.join(WINDOWS)}, not {self.window!r}"
        for name, share in self.faults.items():
            if name not in FAULTS and name not in GROUPS:
                yield f"{name!r} is no fault{_likely(name)}"
            if not 0 <= share <= 1:
                yield f"the share of {name} must lie in 0..1, not {share}"
        if sum(self.faults.values()) > 1 + 1e-9:
            yield f"the shares of the faults add up to {sum(self.faults.values()):g}; at most 1 can be given out"
        if self.outage is not None and self.outage[2] not in FAULTS:
            yield f"{self.outage[2]!r} is no fault for an outage{_likely(self.outage[2])}"


def _likely(name: str) -> str:
    near = difflib.get_close_matches(name, [*FAULTS, *GROUPS], n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join([*FAULTS, *GROUPS])}"
