"""Three charts as SVG that stands in the page: its colours are the page's, so that it is dark where the page is.

Nothing of a row is drawn, only counts; what an answer says never comes near the drawing. The bytes depend on the
figures alone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pipeline.progress import short_number
from pipeline.report.figures import Latency, Pace

_INK, _MUTED, _LINE, _MAIN, _BAD = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _LINE: "--line", _MAIN: "--main", _BAD: "--bad"}
"""Colours that stand for the page's own."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "font.size": 10,
    "text.color": _MUTED,
    "text.parse_math": False,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _LINE,
    "grid.linewidth": 0.8,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "path.simplify": True,
}
_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_STEPS_A_BAR = 4
_SIZE_INCHES = (4.6, 2.7)
_UNITS = ((172_800.0, 86_400.0, "days"), (7_200.0, 3_600.0, "hours"), (120.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))


@dataclass(frozen=True, slots=True)
class Chart:
    title: str
    words: str  # what it says, for who cannot see it
    svg: str
    bad: bool = False  # failed rows are in it


def charts(pace: Pace, latency: Latency | None) -> list[Chart]:
    """empty where nothing has ended yet."""
    made = []
    if pace.ended:
        made += [_progress(pace), _throughput(pace)]
    if latency is not None:
        made.append(_latency(latency))
    return made


def _progress(pace: Pace) -> Chart:
    scale, unit = _unit(pace.at_work_s)
    ends = [step * pace.step_s / scale for step in range(len(pace.ended) + 1)]
    ended, failed = _sums(pace.ended), _sums(pace.failed)

    def draw(axes: Axes) -> None:
        axes.fill_between(ends, ended, color=_MAIN, alpha=0.15, linewidth=0)
        axes.plot(ends, ended, color=_MAIN, linewidth=1.8)
        if failed[-1]:
            axes.plot(ends, failed, color=_BAD, linewidth=1.8)
        _time_axis(axes, pace, scale, unit)

    words = f"{ended[-1]} rows ended, {failed[-1]} of them failed, in {ends[-1]:.1f} {unit} at work"
    return Chart("Rows ended", words, _svg("progress", draw), bad=bool(failed[-1]))


def _throughput(pace: Pace) -> Chart:
    scale, unit = _unit(pace.at_work_s)
    steps = range(0, len(pace.ended), _STEPS_A_BAR)
    rates = [sum(bar) / len(bar) / pace.step_s * 60 for bar in (pace.ended[at : at + _STEPS_A_BAR] for at in steps)]
    edges = [at * pace.step_s / scale for at in (*steps, len(pace.ended))]

    def draw(axes: Axes) -> None:
        axes.stairs(rates, edges, fill=True, color=_MAIN, alpha=0.55, linewidth=0)
        _time_axis(axes, pace, scale, unit)

    return Chart(
        "Rows a minute", f"between {min(rates):.0f} and {max(rates):.0f} rows a minute", _svg("throughput", draw)
    )


def _latency(latency: Latency) -> Chart:
    edges = [step * latency.step_s for step in range(len(latency.counts) + 1)]
    marks = [("p50", latency.p50), ("p95", latency.p95)]

    def draw(axes: Axes) -> None:
        axes.stairs(latency.counts, edges, fill=True, color=_MAIN, alpha=0.55, linewidth=0)
        axes.set_xlim(0, edges[-1])
        axes.set_xlabel("seconds (last step: and longer)")
        axes.margins(y=0.15)
        for place, (name, at) in enumerate(marks):
            axes.axvline(at, color=_INK, linewidth=1, linestyle=(0, (3, 2)))
            side = "right" if place == 0 else "left"
            axes.annotate(
                name, (at, 1), (-4 if place == 0 else 4, -2), xycoords=("data", "axes fraction"),
                textcoords="offset points", ha=side, va="top", color=_INK,
            )  # fmt: skip

    words = f"half of the answers took {latency.p50:.2f} s or less, 95 of 100 {latency.p95:.2f} s or less"
    return Chart("Seconds to an answer", words, _svg("latency", draw))


def _unit(seconds: float) -> tuple[float, str]:
    return next((scale, unit) for least, scale, unit in _UNITS if seconds >= least)


def _sums(counts: Sequence[int]) -> list[int]:
    sums = [0]
    for count in counts:
        sums.append(sums[-1] + count)
    return sums


def _time_axis(axes: Axes, pace: Pace, scale: float, unit: str) -> None:
    axes.set_xlim(0, pace.at_work_s / scale)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"{unit} at work")
    for at in pace.pauses_s:
        axes.axvline(at / scale, color=_MUTED, linewidth=0.8, linestyle=(0, (1, 2)))


def _svg(name: str, draw: Callable[[Axes], None]) -> str:
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        draw(axes)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata=_METADATA)
    return _inline(drawn.getvalue(), name)


def _inline(svg: str, name: str) -> str:
    """The drawing without what belongs to a file of its own: prologue, metadata, style sheet, name spaces, names that
    nothing refers to. What is left is named after the chart, because a page holds several."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href=", "href=")
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    referred = set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in referred else "", svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]*(?:; )?", "", svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"', "", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1).strip()
