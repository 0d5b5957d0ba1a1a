"""The plots of docs/performance.md, as SVG that is the same whenever the figures are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from . import batches, growth
from .report import ROOT
from .rows import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FOLDER = ROOT / "docs" / "plots"
COLOURS = {"limit": "#888888", "threads": "#1f6fb4", "asyncio": "#d1495b", "trio": "#3a9d5d"}

SETTINGS: Any = {
    "svg.hashsalt": "atom",  # else every identifier is another each time
    "svg.fonttype": "none",  # text stays text: smaller, and searchable
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#dddddd",
    "legend.frameon": False,
}


def draw(figures: dict[str, Any]) -> list[Path]:
    """Draw what there are figures for; returns what was written."""
    written = []
    with mpl.rc_context(SETTINGS):
        if "batches" in figures:
            written.append(_batches(figures["batches"]))
        if "growth" in figures:
            written += [_streams(figures["growth"]["streams"]), _pending(figures["growth"]["pending"])]
        if "peers" in figures:
            written.append(_peers(figures["peers"]))
    return written


def _plot(title: str, height: float = 3.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left")
    return figure, axes


def _save(figure: Figure, name: str) -> Path:
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    return path


def _batches(figures: dict[str, Any]) -> Path:
    figure, axes = _plot("CPU an event by batch size, us")
    for kind, values in batches.series(figures).items():
        *limit, loop = kind.split()
        style = "--." if limit or loop == "limit" else "-o"
        label = f"limit on {loop}" if limit else kind
        axes.plot(batches.SIZES, values, style, color=COLOURS[loop], label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(batches.SIZES, [f"{size:,}" for size in batches.SIZES])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("events a batch")
    axes.legend(ncols=2)
    return _save(figure, "batches")


def _streams(figures: dict[str, Any]) -> Path:
    figure, axes = _plot("CPU an event by number of streams, 64 a batch, as a multiple of one stream", 2.6)
    for who, label in (("limit", "limit"), ("ours", "threads")):
        values = [multiple for _, multiple in growth.steps(figures, who, growth.STREAMS)]
        axes.plot(growth.STREAMS, values, marker="o", color=COLOURS[label], label=label)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("streams")
    axes.legend()
    return _save(figure, "streams")


def _pending(figures: dict[str, Any]) -> Path:
    figure, axes = _plot("CPU an event by size of the backlog, us", 2.6)
    series = (("ours", 0, "threads, fill", "--"), ("ours", 1, "threads, drain", "-"), ("limit", 1, "limit, drain", "-"))
    for who, part, label, line in series:
        values = [cost for cost, _ in growth.steps(figures, who, growth.PENDING, part)]
        axes.plot(growth.PENDING, values, line, marker="o", color=COLOURS[label.split(",")[0]], label=label)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("events pending")
    axes.legend()
    return _save(figure, "pending")


def _peers(rows: list[dict[str, Any]]) -> Path:
    shown = sorted((row for row in rows if row["ratio"]), key=lambda row: row["ratio"], reverse=True)
    figure, axes = _plot("CPU an event, as a multiple of the limit loop", 0.9 + 0.24 * len(shown))
    names = [row["name"] for row in shown]
    ratios = [row["ratio"] for row in shown]
    colours = [
        COLOURS["limit"] if row is rows[0] else "#c9c9c9" if row["version"] else COLOURS["threads"] for row in shown
    ]
    bars = axes.barh(names, ratios, color=colours)
    axes.bar_label(bars, [f"{number(ratio)}x" for ratio in ratios], padding=3)
    axes.set_xscale("log")
    axes.grid(visible=False)
    axes.margins(x=0.15)
    return _save(figure, "peers")
