"""Pictures of the results: times on the card beside the CPU's, and accuracies of the runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from dal_core.files import write_atomically


def draw_times(sections: dict[str, Any], path: Path) -> None:
    """How many times faster than the CPU's cores each case is on the device; nothing without cases."""
    items = sections.get("times", {}).get("items", {})
    ratios = {
        name.removeprefix("case "): item["times_faster"]
        for name, item in items.items()
        if item.get("status") == "done" and "times_faster" in item and name.startswith("case ")
    }
    if not ratios:
        return
    figure = Figure(figsize=(6, 0.25 * len(ratios) + 1.2), layout="constrained")
    panel = figure.subplots()
    panel.barh(list(ratios), list(ratios.values()), color="#0072B2")
    panel.axvline(1, color="black", linewidth=0.8)
    panel.set(xscale="log", xlabel="Times faster than on the CPU's cores")
    panel.invert_yaxis()
    _save(figure, path)


def draw_growth(sections: dict[str, Any], path: Path) -> None:
    """Seconds of a query against the size of the pool; nothing without such queries."""
    items = sections.get("times", {}).get("items", {})
    curves = {name.partition(",")[0]: item["steps"] for name, item in items.items() if item.get("steps")}
    if not curves:
        return
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    panel = figure.subplots()
    for name, steps in curves.items():
        panel.plot([step["instances"] for step in steps], [step["median_s"] for step in steps], marker="o", label=name)
    panel.set(xscale="log", yscale="log", xlabel="Instances in the pool", ylabel="Time of a query (s)")
    panel.legend(fontsize="small")
    _save(figure, path)


def draw_runs(sections: dict[str, Any], path: Path) -> None:
    """Mean accuracy over the curve of each method of a grid, a point a seed; nothing without runs."""
    items = sections.get("runs", {}).get("items", {})
    points: dict[str, list[tuple[str, float]]] = {}
    for name, item in items.items():
        if item.get("status") == "done" and "method" in item and "accuracy" in item:
            data = name.split(", ")[2]
            points.setdefault(f"{item['grid']}, {data}", []).append((item["method"], 100 * item["accuracy"]))
    if not points:
        return
    figure = Figure(figsize=(6, 2.4 * len(points)), layout="constrained")
    panels = figure.subplots(len(points), squeeze=False)[:, 0]
    for panel, (grid, values) in zip(panels, points.items(), strict=True):
        panel.plot([value for _, value in values], [method for method, _ in values], "o")
        panel.set(title=grid, xlabel="Mean accuracy over the curve (%)")
        panel.invert_yaxis()
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with mpl.rc_context({"savefig.dpi": 110}), write_atomically(path) as temporary:
        figure.savefig(temporary)


Drawing = Callable[[dict[str, Any], Path], None]
DRAWINGS: dict[str, Drawing] = {"times.png": draw_times, "growth.png": draw_growth, "runs.png": draw_runs}
