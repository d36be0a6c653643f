"""Draws how costs grow: a figure an axis, with time beside memory and the exponents at the ends of the lines."""

import os
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import tabulate
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from benchmarks.record import SCALING
from benchmarks.scaling import AXES, CURVES, EPOCHS, NUM_CANDIDATES, NUM_LABELLED, NUM_TEST, exponents
from dal_lab.companion.figures.style import look, use_style

PANELS = {"seconds": "Time of a query (s)", "bytes": "Memory beyond the inputs (MB)"}
UNITS = {"seconds": 1.0, "bytes": 1e6}
DASHED = ("unc_herding", "boss")  # share their colour with another line
GAP = 0.062  # The least distance of two labels, as a share of the height of the axes.
WORDS = f"""\
One of N, D, K and b varies, the others stay at the base size; one thread, float32, {NUM_LABELLED} labelled. The
exponent a of cost ~ size^a is fitted to the upper half of the sizes, of time and, in brackets, of memory; fixed costs
make it smaller than that of the formula, and data that outgrow a cache make it larger. BoSS has {NUM_CANDIDATES}
candidates, {EPOCHS} epochs and {NUM_TEST} test instances, and its strategies see random parts of the pool. In the
second-order update b are the new samples, and there is no pool."""


def draw(points: pd.DataFrame, folder: Path) -> dict[str, Path]:
    """Write a PNG an axis and all points as CSV into `folder`; the figures by axis."""
    folder.mkdir(parents=True, exist_ok=True)
    points.to_csv(folder / "scaling.csv", index=False, float_format="%.6g")
    use_style()
    paths = {}
    for axis in AXES:
        paths[axis] = folder / f"scaling_{axis}.png"
        figure = _figure(points[points["axis"] == axis], exponents(points), axis)
        figure.savefig(paths[axis], metadata={"Software": None})
        plt.close(figure)
    return paths


def section(points: pd.DataFrame, figures: Mapping[str, Path], output: Path | None, machine: str) -> str:
    """Return the section of the results: exponents, base sizes, and the figures, linked from `output`."""
    found = exponents(points)
    rows = []
    for name in found.index:
        base = ", ".join(f"{_symbol(axis)}={size:,}" for axis, size in CURVES[name].base.items() if size)
        cells = [
            f"{_exponent(found.loc[name, (axis, 'seconds')])} ({_exponent(found.loc[name, (axis, 'bytes')])})"
            if axis in CURVES[name].along
            else "-"
            for axis in AXES
        ]
        rows.append((look(name)[0], *cells, base))
    header = ("algorithm", *(_symbol(axis) for axis in AXES), "base size")
    table = tabulate.tabulate(rows, header, tablefmt="github", disable_numparse=True)
    start = output.parent if output else Path()
    images = "\n\n".join(f"![Cost against {AXES[axis]}]({_relative(path, start)})" for axis, path in figures.items())
    stored = f"All points: [scaling.csv]({_relative(figures['n'].parent / 'scaling.csv', start)})." if figures else ""
    return "\n\n".join(filter(None, (SCALING, machine, WORDS, table, images, stored)))


def _relative(path: Path, start: Path) -> str:
    return Path(os.path.relpath(path.resolve(), start.resolve())).as_posix()


def _symbol(axis: str) -> str:
    return AXES[axis].split()[-1]


def _exponent(power: float) -> str:
    return f"{power:.2f}".replace("-0.00", "0.00")


def _figure(points: pd.DataFrame, found: pd.DataFrame, axis: str) -> Figure:
    figure, panels = plt.subplots(1, 2, figsize=(10.5, 4.2))
    for panel, (value, title) in zip(panels, PANELS.items(), strict=True):
        ends = []
        for name, curve in points.groupby("algorithm", sort=False):
            label, colour, marker = look(name)
            costs = curve[value] / UNITS[value]
            style = "--" if name in DASHED else "-"
            panel.plot(curve["size"], costs, color=colour, marker=marker, linestyle=style)
            power = f"{_symbol(axis)}$^{{{_exponent(found.loc[name, (axis, value)])}}}$"
            ends.append((curve["size"].iloc[-1], costs.iloc[-1], f"{label}, {power}", colour))
        _scales(panel, sorted(points["size"].unique()))
        panel.set_title(title, loc="left")
        panel.set_xlabel(AXES[axis][0].upper() + AXES[axis][1:])
        _label(panel, ends)
    return figure


def _scales(panel: Axes, sizes: list[int]) -> None:
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlim(sizes[0] / 1.15, sizes[-1] * 1.15)
    shown = sizes if len(sizes) <= 7 else sizes[::2]
    panel.set_xticks(shown)
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"{cost:,.7g}"))


def _label(panel: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Write each line's name right of the axes at the height of its end, as far apart as letters need."""
    transform = panel.transData + panel.transAxes.inverted()
    wanted = [float(transform.transform((x, y))[1]) for x, y, *_ in ends]
    for (x, y, text, colour), height in zip(ends, _apart(wanted), strict=True):
        panel.annotate(
            text, (x, y), (1.05, height), xycoords="data", textcoords="axes fraction", color=colour, fontsize=8,
            va="center", annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 4, "relpos": (0, 0.5)
            },
        )  # fmt: skip


def _apart(wanted: list[float]) -> list[float]:
    """Return heights at least `GAP` apart, in the same order: what is too close together spreads around its middle."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[list[int]] = []
    for i in order:
        blocks.append([i])
        while len(blocks) > 1 and _first(blocks[-1], wanted) < _first(blocks[-2], wanted) + GAP * len(blocks[-2]):
            last = blocks.pop()
            blocks[-1] += last
    heights = [0.0] * len(wanted)
    for block in blocks:
        for place, i in enumerate(block):
            heights[i] = _first(block, wanted) + GAP * place
    return heights


def _first(block: list[int], wanted: list[float]) -> float:
    """Return the height of the lowest of a block of neighbours."""
    return sum(wanted[i] for i in block) / len(block) - GAP * (len(block) - 1) / 2
