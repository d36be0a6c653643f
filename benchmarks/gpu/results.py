"""`python -m benchmarks.gpu.results gpu.json`: keep the results of a card, and write the page about them.

The file goes to benchmarks/results/gpu-<card>.json, and the page "On a GPU" of benchmarks/RESULTS.md is written from
all the files there. Without an argument the page alone is written anew.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tabulate

from benchmarks.gpu.settings import NO_TIME
from benchmarks.record import GPU, write_gpu
from dal_lab.runs.files import write_text

ROOT = Path(__file__).resolve().parents[1]
FOLDER, PAGE = ROOT / "results", ROOT / "RESULTS.md"
NOTHING = """\
**Nothing has been measured on a GPU yet**, so that no figure of this project is about one. What is open, and would be
known after eight minutes on a card: whether the tests marked `cuda` pass there; times and memory beside the CPU's, for
BAIT over a pool of ImageNet's size (goal: under 15 s and 16 GB) and exact BAIT on Letter (goal: under 5 s) among them;
the notebooks' main grids under the published protocols; how far the accuracies of one card repeat themselves and the
CPU's; images and texts a second. `python -m benchmarks.gpu --help` says how to find out."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Keep the results, write the page, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.results", description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", metavar="gpu.json", help="what the command brought back")
    options = parser.parse_args(arguments)
    if options.results is not None:
        values = json.loads(options.results.read_text(encoding="utf-8"))
        if values["asked_for"]["device"] != "cuda":
            print(
                f"{options.results} is of the device {values['asked_for']['device']!r}; 'cuda' was expected",
                file=sys.stderr,
            )
            return 2
        path = FOLDER / f"gpu-{short_name(values)}.json"
        write_text(path, json.dumps(values, indent=1) + "\n")
        print(path)
    files = sorted(FOLDER.glob("gpu-*.json"))
    write_gpu(PAGE, page([json.loads(path.read_text(encoding="utf-8")) for path in files]))
    return 0


def short_name(values: dict[str, Any]) -> str:
    """Return the card in letters, digits and hyphens, for a file's name."""
    name = values["machine"].get("card", {}).get("name", "unknown")
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def page(results: Sequence[dict[str, Any]]) -> str:
    """Return the page, with its heading: a part a card, or that there is none."""
    return "\n\n".join([GPU, *map(_of_card, results)] if results else [GPU, NOTHING])


def _of_card(values: dict[str, Any]) -> str:
    sections = {name: part["items"] for name, part in values["sections"].items()}
    parts = [
        _machine(values),
        _tests(sections),
        _repeats(sections),
        _times(sections),
        _encoding(sections),
        _open(values),
    ]
    return "\n\n".join(part for part in parts if part)


def _machine(values: dict[str, Any]) -> str:
    machine, card = values["machine"], values["machine"].get("card", {})
    versions = ", ".join(f"{name} {machine['packages'][name]}" for name in ("torch", "transformers", "numpy"))
    settings = values["sections"].get("what_is_there", {}).get("items", {}).get("determinism", {})
    return (
        f"### {card.get('name', 'unknown card')}\n\n{values['started'][:10]}, commit {machine['commit']}, Python "
        f"{machine['python']}, {versions}, CUDA {card.get('cuda')}, {machine['cores']} cores ({machine['processor']}). "
        f"Deterministic algorithms: {settings.get('deterministic_algorithms')}; precision of float32 products: "
        f"{settings.get('float32_matmul_precision')}. {values.get('seconds', 'unknown')} s in all."
    )


def _tests(sections: dict[str, Any]) -> str:
    found = sections.get("what_is_there", {}).get("tests", {})
    if "counts" not in found:
        return f"Tests marked `cuda`: {found.get('line', 'none ran')}."
    counts = ", ".join(f"{count} {outcome}" for outcome, count in found["counts"].items())
    failed = f" Failed: {', '.join(f'`{name}`' for name in found['failed'])}." if found["failed"] else ""
    return f"Tests marked `cuda`: {counts}.{failed}"


def _repeats(sections: dict[str, Any]) -> str:
    found = sections.get("runs", {}).get("the same grid again", {})
    if "largest_spread" not in found:
        return ""
    points = {name: f"{100 * found[name]:.2f}" for name in found if name.startswith(("largest_", "mean_"))}
    return (
        f"The same grid {found['repeats']} times with the same seeds: accuracies differ by at most "
        f"{points['largest_spread']} points (mean {points['mean_spread']}), and from the CPU's by at most "
        f"{points['largest_difference_to_cpu']} (mean {points['mean_difference_to_cpu']}). "
        f"{100 * found['same_batches_each_time']:.0f} % of the batches are the same each time."
    )


def _times(sections: dict[str, Any]) -> str:
    """Return a table of all times: on the card, on the CPU's cores where it was measured there too, and the memory."""
    rows = []
    for name, item in sections.get("times", {}).items():
        if item["status"] != "done":
            continue
        if "device" in item:
            device, cpu = item["device"], item["cpu"]["median_s"]
        elif "twin" in item:
            device, cpu = item["twin"], None
        else:
            device, cpu = item, None
        if "median_s" not in device:
            continue
        memory = device.get("peak_bytes")
        met = {True: "yes", False: "NO", None: "-"}[item.get("met")]
        rows.append((
            name, item.get("size", "-"), _seconds(device["median_s"]), "-" if cpu is None else _seconds(cpu),
            "-" if cpu is None else f"{cpu / device['median_s']:.3g}x",
            "-" if memory is None else f"{memory / 1e9:.3g} GB",
            item.get("goal", "-"), met,
        ))  # fmt: skip
    columns = ("what", "size", "time", "CPU's cores", "times faster", "peak memory", "goal", "met")
    lines = [f"- {name}: {_growth(item)}." for name, item in sections.get("times", {}).items() if "steps" in item]
    lines += [
        f"- {name}: {item['twin_times_faster']:.3g} times as fast as the package's way, "
        f"{'the same' if item['same_picks'] else 'OTHER'} picks."
        for name, item in sections.get("times", {}).items()
        if "twin_times_faster" in item
    ]
    return "\n\n".join(filter(None, (_table(rows, columns), "\n".join(lines))))


def _table(rows: list[tuple[str, ...]], columns: Sequence[str]) -> str:
    return tabulate.tabulate(rows, columns, tablefmt="github", disable_numparse=True) if rows else ""


def _growth(item: dict[str, Any]) -> str:
    """Times by the size of the pool, and why the largest one is the largest."""
    steps = [f"{step['instances']:,} in {_seconds(step['median_s'])}" for step in item["steps"]]
    return "; ".join([*steps, item["line"]])


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def _encoding(sections: dict[str, Any]) -> str:
    rows = []
    for name, item in sections.get("encoding", {}).items():
        for size, found in (item.get("by_batch") or item.get("by_tokens") or {}).items():
            if "ours_per_s" in found:
                words = f"{size} at a time" if "by_batch" in item else f"{size} tokens"
                shares = (found["plain_share_of_peak"], found["ours_share_of_peak"])
                rates = (f"{found['plain_per_s']:,.0f}", f"{found['ours_per_s']:,.0f}")
                rows.append((name, words, *rates, *(f"{100 * (share or 0):.1f} %" for share in shares)))
    columns = ("model", "size", "plain, a second", "as we run it, a second", "share of peak, plain", "as we run it")
    return _table(rows, columns)


def _open(values: dict[str, Any]) -> str:
    """Return what failed or was not reached, a line each; runs that there was no time for are counted alone."""
    lines, waiting = [], 0
    for section, part in values["sections"].items():
        for name, item in part["items"].items():
            waiting += item["status"] == "skipped" and item.get("line") == NO_TIME
            if item["status"] in ("failed", "out of time"):
                lines.append(f"- {section}, {name}: {item['status']}: {item.get('line', '')}")
    if waiting:
        lines.append(f"- no time was left for {waiting} items")
    return "\n".join(["Open:", "", *lines]) if lines else ""


if __name__ == "__main__":
    sys.exit(main())
