"""Pictures of the results: times on the card beside the CPU's, and learning curves of the runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import style
from matplotlib.figure import Figure

from dal_lab.runs.files import write_atomically


@style.context("default")
def draw_times(sections: dict[str, Any], path: Path) -> None:
    """Draw how many times faster than the CPU's cores each case is on the device; nothing without cases."""
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
    panel.margins(y=0.01)
    _save(figure, path)


@style.context("default")
def draw_growth(sections: dict[str, Any], path: Path) -> None:
    """Draw seconds of a query against the size of the pool; nothing without such queries."""
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


@style.context("default")
def draw_runs(sections: dict[str, Any], path: Path) -> None:
    """Draw learning curves of each grid and data set, the mean over the seeds that are there; nothing without runs."""
    items = sections.get("runs", {}).get("items", {})
    panels: dict[str, dict[str, list[Any]]] = {}
    for name, item in items.items():
        if item.get("status") == "done" and item.get("curve"):
            of_panel = panels.setdefault(f"{item['grid']}, {name.split(', ')[2]}", {})
            of_panel.setdefault(item["method"], []).append(item["curve"])
    if not panels:
        return
    figure = Figure(figsize=(6.5, 3 * len(panels)), layout="constrained")
    for panel, (title, methods) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True):
        for method, curves in methods.items():
            accuracies = [curve["accuracy"] for curve in curves]
            means = [100 * sum(values) / len(values) for values in zip(*accuracies, strict=True)]
            panel.plot(curves[0]["n_labeled"], means, marker=".", label=f"{method} ({len(curves)})")
        panel.set(title=f"{title} (number of seeds)", xlabel="Labels", ylabel="Accuracy (%)")
        panel.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with mpl.rc_context({"savefig.dpi": 110}), write_atomically(path) as temporary:
        figure.savefig(temporary)


Drawing = Callable[[dict[str, Any], Path], None]
DRAWINGS: dict[str, Drawing] = {"times.png": draw_times, "growth.png": draw_growth, "runs.png": draw_runs}
