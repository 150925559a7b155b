from __future__ import annotations

import random
from collections import Counter

import pytest

from pipeline.evaluate import evaluate

LABELS = ("good", "bad", "mixed")


@pytest.mark.parametrize(
    ("pairs", "accuracy", "kappa"),
    [
        # Cohen's own kind of table: 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no. p_o = 0.7, p_e = 0.5*0.6 + 0.5*0.4.
        ({("y", "y"): 20, ("y", "n"): 5, ("n", "y"): 10, ("n", "n"): 15}, 0.7, 0.4),
        # 45 15 / 25 15: p_o = 0.6, p_e = 0.6*0.7 + 0.4*0.3 = 0.54
        ({("y", "y"): 45, ("y", "n"): 15, ("n", "y"): 25, ("n", "n"): 15}, 0.6, 0.06 / 0.46),
        ({("y", "y"): 3, ("n", "n"): 5}, 1.0, 1.0),
        ({("y", "n"): 4, ("n", "y"): 4}, 0.0, -1.0),
        ({("y", "y"): 3, ("n", "y"): 1}, 0.75, 0.0),  # whoever always says the same agrees by chance alone
        ({("y", "y"): 9}, 1.0, None),
    ],
)
def test_accuracy_and_kappa_are_what_was_worked_out_by_hand(
    pairs: dict[tuple[str | None, str | None], int], accuracy: float, kappa: float | None
) -> None:
    found = evaluate(pairs)
    assert found.accuracy == pytest.approx(accuracy)
    assert found.kappa == (None if kappa is None else pytest.approx(kappa))


@pytest.mark.parametrize("seed", range(20))
def test_the_figures_agree_with_counting_row_by_row(seed: int) -> None:
    chance = random.Random(seed)
    rows = [(chance.choice(LABELS), chance.choice((*LABELS, "other"))) for _ in range(chance.randrange(1, 60))]
    found = evaluate(Counter(rows))
    assert found.compared == len(rows)
    assert found.accuracy == pytest.approx(sum(gold == said for gold, said in rows) / len(rows))
    f1s = []
    for name in {label for row in rows for label in row}:
        right = sum(1 for gold, said in rows if gold == said == name)
        said_so = [gold for gold, said in rows if said == name]
        are_so = [said for gold, said in rows if gold == name]
        precision = right / len(said_so) if said_so else None
        recall = right / len(are_so) if are_so else None
        one = found.classes[name]
        assert (one.gold, one.answered) == (len(are_so), len(said_so))
        assert one.precision == (None if precision is None else pytest.approx(precision))
        assert one.recall == (None if recall is None else pytest.approx(recall))
        f1 = 2 * precision * recall / (precision + recall) if precision and recall else 0.0
        assert one.f1 == pytest.approx(f1)
        f1s.append(f1)
    assert found.macro_f1 == pytest.approx(sum(f1s) / len(f1s))
    # Kappa by its definition: any gold label may be drawn with any answered one.
    by_chance = sum(a == b for a, _ in rows for _, b in rows) / len(rows) ** 2
    if by_chance < 1:
        assert found.accuracy is not None
        assert found.kappa == pytest.approx((found.accuracy - by_chance) / (1 - by_chance))
    for gold in LABELS:
        for said in (*LABELS, "other"):
            assert found.confusion.get(gold, {}).get(said, 0) == rows.count((gold, said))


def test_rows_without_answer_or_gold_are_counted_apart_and_change_no_figure() -> None:
    pairs: dict[tuple[str | None, str | None], int] = {("y", "y"): 3, ("n", "y"): 1}
    found = evaluate({**pairs, ("y", None): 7, (None, "y"): 5, (None, None): 2})
    alone = evaluate(pairs)
    assert (found.compared, found.without_answer, found.without_gold) == (4, 7, 7)
    assert (found.accuracy, found.kappa, found.classes) == (alone.accuracy, alone.kappa, alone.classes)


def test_nothing_to_compare_is_unknown_and_not_nought() -> None:
    found = evaluate({("y", None): 2})
    assert (found.accuracy, found.kappa, found.macro_f1) == (None, None, None)
    assert "accuracy unknown" in found.line()
    assert found.lines()


def test_gold_that_was_typed_by_hand_is_the_label_it_means_and_the_figures_say_so() -> None:
    """Gold of 'Positive' beside answers of 'positive' was an accuracy of 0, without a word of why."""
    found = evaluate(
        {
            ("Positive", "positive"): 4,
            ("positive ", "negative"): 1,
            ("NEUTRAL", "positive"): 2,  # nobody answered neutral: the spelling that most rows have
            ("neutral", "negative"): 1,
            ("  ", "positive"): 3,
        }
    )
    assert (found.compared, found.without_gold) == (8, 3)
    assert found.accuracy == pytest.approx(4 / 8)
    assert set(found.classes) == {"positive", "negative", "NEUTRAL"}
    assert found.taken_as == {"Positive": "positive", "positive ": "positive", "neutral": "NEUTRAL"}
    assert found.members()["gold_taken_as"] == found.taken_as
    assert "'Positive' as 'positive'" in found.lines()[-1]


def test_labels_that_case_alone_tells_apart_stay_two() -> None:
    found = evaluate({("US", "US"): 2, ("us", "us"): 3, ("Us", "us"): 1})
    assert set(found.classes) == {"US", "us", "Us"}
    assert not found.taken_as
    assert "gold_taken_as" not in found.members()
