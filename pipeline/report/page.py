"""The page: figures and charts into HTML, everything that comes from a row as text and nothing else.

The template escapes whatever it is given. What a text could still do is taken out before: control characters, and
addresses, which stay readable and are none to a machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from pipeline import __version__
from pipeline.drift import Labels
from pipeline.evaluate import Evaluation
from pipeline.progress import money, plain, short_number, short_time
from pipeline.report.charts import Chart
from pipeline.report.figures import Figures

_MOST_CHARACTERS = 400
_MOST_LABELS = 12
_MOST_CLASSES = 12
_MOST_RUNS = 10


@dataclass(frozen=True, slots=True)
class LabelRow:
    label: str
    rows: int
    share: float
    before: float | None


@dataclass(frozen=True, slots=True)
class Cell:
    rows: int
    share: float  # of the rows with this gold label
    right: bool


def render(figures: Figures, drawn: Sequence[Chart]) -> str:
    """One HTML document."""
    made = Environment(
        loader=PackageLoader("pipeline.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(text=text, n=_number, short=short_number, pct=_percent, usd=money, took=_took, when=_when)
    return made.get_template(
        "page.html"
    ).render(
        f=figures,
        charts=[(chart, Markup(chart.svg)) for chart in drawn],  # noqa: S704 - drawn by us, from counts alone
        state=_state(figures),
        label_rows={name: list(_label_rows(figures, name, one)) for name, one in figures.labels.items()},
        matrix=None if figures.evaluation is None else _matrix(figures.evaluation),
        past=list(reversed(figures.past[-_MOST_RUNS:])),
        version=__version__,
    )


def text(value: object, most: int = _MOST_CHARACTERS) -> Markup:
    """Text out of the data, harmless: cut, without control characters, escaped, and no address."""
    lines = str(value).replace("\r\n", "\n").split("\n")
    shown = "\n".join(map(plain, lines))
    if len(shown) > most:
        shown = shown[: most - 1] + "…"
    return Markup(escape(shown).replace("://", Markup("&#58;//")))  # noqa: S704 - escaped just now


def _state(figures: Figures) -> str:
    if figures.running:
        return "running"
    if figures.finished:
        return "alarm" if figures.reasons else "finished"
    return "stopped early" if figures.pending else "not published"


def _label_rows(figures: Figures, name: str, labels: Labels) -> Iterator[LabelRow]:
    """The most frequent labels; those that only the run before had stand behind them."""
    before = None if figures.before is None else figures.before.labels.get(name)
    known = before is not None and before.ok > 0
    there = list(labels.counts)[:_MOST_LABELS]
    gone = [label for label in (before.counts if before else ()) if label not in labels.counts]
    for label in there + gone[: _MOST_LABELS - len(there)]:
        then = before.share(label) if before is not None and known else None
        yield LabelRow(label, labels.counts.get(label, 0), labels.share(label), then)


def _matrix(found: Evaluation) -> tuple[list[str], list[tuple[str, list[Cell]]]]:
    """The most frequent classes, and a row of cells for each gold one."""
    frequent = sorted(found.classes, key=lambda name: (-found.classes[name].gold - found.classes[name].answered, name))
    names = sorted(frequent[:_MOST_CLASSES])
    return names, [(gold, _cells(found, gold, names)) for gold in names]


def _cells(found: Evaluation, gold: str, names: Sequence[str]) -> list[Cell]:
    met, all_of_it = found.confusion.get(gold, {}), found.classes[gold].gold
    return [Cell(met.get(said, 0), met.get(said, 0) / max(1, all_of_it), said == gold) for said in names]


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.0f}"


def _percent(share: float | None, digits: int = 1) -> str:
    return "unknown" if share is None else f"{share * 100:.{digits}f} %"


def _took(seconds: float) -> str:
    return short_time(seconds) if seconds >= 60 else f"{seconds:.1f}s" if seconds >= 10 else f"{seconds:.2f}s"


def _when(seconds: float | None) -> str:
    return "never" if seconds is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
