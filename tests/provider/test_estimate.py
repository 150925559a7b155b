from __future__ import annotations

import random

import pytest

from pipeline.provider.estimate import Estimate
from pipeline.records import Usage


def test_before_anything_is_learned_the_requests_own_maximum_is_reserved() -> None:
    assert Estimate(300).output_tokens() == 300
    assert Estimate(None).output_tokens() > 0


def test_bytes_per_token_are_learned_from_the_replies() -> None:
    estimate = Estimate()
    for _ in range(3):
        estimate.learn(400, Usage(prompt_tokens=200, completion_tokens=5))
    assert estimate.input_tokens(100) == pytest.approx(50)


def test_max_tokens_does_not_stand_for_the_answers_length_for_long() -> None:
    estimate = Estimate(4096)
    rng = random.Random(1)
    for _ in range(200):
        estimate.learn(400, Usage(100, rng.randint(50, 150), None))
    assert 95 < estimate.output_tokens() < 130


def test_the_guess_never_exceeds_the_requests_maximum() -> None:
    estimate = Estimate(10)
    estimate.learn(1, Usage(1, 500, 501))  # reasoning beside the limit
    assert estimate.output_tokens() == 10


def test_usage_that_is_not_reported_teaches_nothing() -> None:
    estimate = Estimate(77)
    estimate.learn(400, Usage())
    assert estimate.output_tokens() == 77
