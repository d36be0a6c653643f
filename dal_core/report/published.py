"""Figures from the papers, to stand beside the measured ones."""

from importlib import resources

import pandas as pd

from dal_core.checks import check_choice

SOURCES = {
    "laplace_updates": "Huseljic et al. 2025, arXiv 2210.06112, updating study; test accuracy in percent",
    "fast_fishing": "Huseljic et al. 2024, arXiv 2404.08981; accuracy in percent, mean over the curve and 10 seeds; "
    "time of an acquisition, mean (letter) or longest (snacks)",
    "boss_dinov2": "Huseljic et al., BoSS, arXiv 2603.13109, DINOv2-S; mean accuracy, as a share, over the cycles 0-6 "
    "(low), 7-13 (mid) and 14-20 (high)",
    "boss_ablations": "Huseljic et al., BoSS, arXiv 2603.13109; accuracy in percent, mean over the curve",
    "refine_win_rates": "Huseljic et al., REFINE, arXiv 2511.22344; pairwise win rates, share of data sets, seeds and "
    "cycles in which the row is above the column; cycle 0 seems to be among them, as pairs sum to 20/21",
}


def published(name: str) -> pd.DataFrame:
    """A published table as the papers print it; `SOURCES[name]` says where.

    Raises:
        ValueError: for an unknown name, with the list of what exists.
    """
    check_choice("name", name, SOURCES)
    with resources.files("dal_core.published").joinpath(f"{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, comment="#")
