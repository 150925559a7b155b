"""Labels held against gold labels: how often they agree, and how much of that is more than chance.

All figures are of the rows that have both. A row without an answer is no wrong answer: it is counted apart. Gold labels
are often typed by hand: one that differs from an answered label only in case or in blanks around it is that label, and
the figures say that they took it so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_Pair = tuple[str | None, str | None]
_SHOWN = 20  # classes in the lines for people; the members have all


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """None: nothing to divide by."""

    gold: int
    answered: int
    precision: float | None
    recall: float | None
    f1: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """``confusion`` names gold, then answered label; pairs that never met are left out."""

    compared: int
    without_answer: int
    without_gold: int
    accuracy: float | None
    kappa: float | None  # None: chance alone explains all
    macro_f1: float | None
    classes: Mapping[str, ClassFigures]
    confusion: Mapping[str, Mapping[str, int]]
    taken_as: Mapping[str, str] = field(default_factory=dict)  # gold labels that are spelled otherwise in the answers

    def members(self) -> dict[str, Any]:
        return {
            "compared": self.compared,
            "without_answer": self.without_answer,
            "without_gold": self.without_gold,
            "accuracy": self.accuracy,
            "cohens_kappa": self.kappa,
            "macro_f1": self.macro_f1,
            "classes": {
                name: {
                    "gold": one.gold,
                    "answered": one.answered,
                    "precision": one.precision,
                    "recall": one.recall,
                    "f1": one.f1,
                }
                for name, one in self.classes.items()
            },
            "confusion": {gold: dict(row) for gold, row in self.confusion.items()},
            **({"gold_taken_as": dict(self.taken_as)} if self.taken_as else {}),
        }

    def line(self) -> str:
        missing = f", {self.without_answer} without an answer" if self.without_answer else ""
        unknown = f", {self.without_gold} without a gold label" if self.without_gold else ""
        return (
            f"against gold: accuracy {_short(self.accuracy)}, Cohen's kappa {_short(self.kappa)}, "
            f"macro F1 {_short(self.macro_f1)} ({self.compared} rows compared{missing}{unknown})"
        )

    def lines(self) -> list[str]:
        """For people."""
        lines = [self.line()]
        for name, one in list(self.classes.items())[:_SHOWN]:
            met = ", ".join(f"{count} as {label!r}" for label, count in self.confusion.get(name, {}).items())
            lines.append(
                f"  {name!r}: precision {_short(one.precision)}, recall {_short(one.recall)}, F1 {_short(one.f1)}; "
                f"{one.gold} rows" + (f", answered {met}" if met else "")
            )
        if len(self.classes) > _SHOWN:
            lines.append(f"  and {len(self.classes) - _SHOWN} more labels, see --json")
        if self.taken_as:
            taken = [f"{gold!r} as {label!r}" for gold, label in list(self.taken_as.items())[:_SHOWN]]
            more = ", and more, see --json" if len(self.taken_as) > _SHOWN else ""
            lines.append(f"  gold labels taken for one that is spelled otherwise: {', '.join(taken)}{more}")
        return lines


def evaluate(pairs: Mapping[_Pair, int]) -> Evaluation:
    """From how often each gold label met each answered one; None or blank is a missing one."""
    taken_as = _spelled_otherwise(pairs)
    pairs = _renamed(pairs, taken_as)
    met = {(gold, said): n for (gold, said), n in pairs.items() if gold is not None and said is not None}
    gold_counts: Counter[str] = Counter()
    said_counts: Counter[str] = Counter()
    for (gold, said), n in met.items():
        gold_counts[gold] += n
        said_counts[said] += n
    names = sorted(gold_counts.keys() | said_counts.keys())
    classes = {name: _class(met.get((name, name), 0), gold_counts[name], said_counts[name]) for name in names}
    compared = sum(met.values())
    agreed = sum(met.get((name, name), 0) for name in names)
    by_chance = sum(gold_counts[name] * said_counts[name] for name in names)
    return Evaluation(
        compared=compared,
        without_answer=sum(n for (gold, said), n in pairs.items() if gold is not None and said is None),
        without_gold=sum(n for (gold, _), n in pairs.items() if gold is None),
        accuracy=_share(agreed, compared),
        kappa=_share(agreed * compared - by_chance, compared * compared - by_chance),
        macro_f1=_share(sum(one.f1 for one in classes.values()), len(classes)),
        classes=classes,
        confusion=_confusion(met),
        taken_as={gold: label for gold, label in sorted(taken_as.items()) if label is not None},
    )


def _spelled_otherwise(pairs: Mapping[_Pair, int]) -> dict[str, str | None]:
    """Gold labels, and the label that each is but for case and blanks: the answered one, where only one can be meant;
    where none was answered, the spelling most rows have. None for a blank one."""
    answered = {said for _, said in pairs if said is not None}
    golds: Counter[str] = Counter()
    for (gold, _), n in pairs.items():
        if gold is not None:
            golds[gold] += n
    alike: dict[str, list[str]] = {}
    for gold in sorted(golds, key=lambda one: (-golds[one], one)):
        alike.setdefault(_folded(gold), []).append(gold)
    meant: dict[str, set[str]] = {}
    for label in answered:
        meant.setdefault(_folded(label), set()).add(label)
    found: dict[str, str | None] = {}
    for name, spellings in alike.items():
        labels = meant.get(name, {spellings[0]})
        if not name:
            found.update(dict.fromkeys(spellings))
        elif len(labels) == 1:
            (label,) = labels
            found.update({gold: label for gold in spellings if gold != label})
    return found


def _renamed(pairs: Mapping[_Pair, int], taken_as: Mapping[str, str | None]) -> Mapping[_Pair, int]:
    if not taken_as:
        return pairs
    renamed: Counter[_Pair] = Counter()
    for (gold, said), n in pairs.items():
        renamed[gold if gold is None else taken_as.get(gold, gold), said] += n
    return renamed


def _folded(label: str) -> str:
    return label.strip().casefold()


def _class(agreed: int, gold: int, answered: int) -> ClassFigures:
    return ClassFigures(gold, answered, _share(agreed, answered), _share(agreed, gold), 2 * agreed / (gold + answered))


def _confusion(met: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    confusion: dict[str, dict[str, int]] = {}
    for (gold, said), n in sorted(met.items()):
        confusion.setdefault(gold, {})[said] = n
    return confusion


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _short(figure: float | None) -> str:
    return "unknown" if figure is None else f"{figure:.3f}"
