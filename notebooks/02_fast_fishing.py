# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags
#     formats: ipynb,py:percent
#     notebook_metadata_filter: kernelspec,jupytext
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Fast Fishing: BAIT for pools of any size
#
# Companion to *Fast Fishing: Approximating BAIT for Efficient and Scalable Deep Active Image Classification*
# (Huseljic, Hahn, Herde, Rauch and Sick, University of Kassel; ECML PKDD 2024, [arXiv 2404.08981](https://arxiv.org/abs/2404.08981)).
#
# BAIT (Ash et al. 2021) picks the batch that makes the last layer's parameters most certain where the pool needs it:
# it minimises $\mathrm{tr}(M F)$, with $F$ the Fisher information of all instances and $M$ the inverse of that of the
# labelled ones. For $K$ classes and $D$ features these matrices are $KD \times KD$:
#
# $$F = \sum_i \big(\mathrm{diag}(p_i) - p_i p_i^\top\big) \otimes \phi_i\phi_i^\top = \sum_i x_i^\top x_i, \qquad
# \text{pick } \arg\max_i\ \mathrm{tr}\big(x_i M F M x_i^\top (I + x_i M x_i^\top)^{-1}\big).$$
#
# The paper makes this affordable in two ways: rows of $x_i$ for the $c$ most probable classes only, and a **binary** likelihood,
# $p_{\max}$ against the rest, which leaves one row $\sqrt{p(1-p)}\,\phi$ and matrices of $D \times D$. This companion's
# `bait_select` computes each of these exactly as the paper defines it, in another order: $M$ is never changed, the picks
# enter through Woodbury's identity, and a step reads the features once.
#
# | | question | figure |
# |---|---|---|
# | (a) | how many classes does the expectation need? | top-c |
# | (b) | which approximation of the likelihood is good enough? | likelihoods |
# | (c) | how does BAIT compare with other strategies? | learning curves, differences to random |
# | (d) | what does an acquisition cost as the pool grows? | scaling of time and memory |
# | (e) | what does a strategy see in the pool? | a closer look, to step through in Jupyter |
# | (f) | which of the paper's claims hold on these data? | verdicts |

# %%
# Colab and Binder: get the package when it is not there. REPOSITORY is the address of the project.
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("dal_core") is None:
    REPOSITORY = os.environ.get("DAL_REPOSITORY", "https://github.com/OWNER/REPOSITORY")
    clone = os.path.exists("../pyproject.toml")
    source = ["-e", "..[encoders]"] if clone else [f"dal-core[encoders] @ git+{REPOSITORY}"]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *source], check=True)
    importlib.invalidate_caches()
    if clone:
        sys.path.insert(0, os.path.abspath(".."))  # an editable installation is seen by new processes only

# %% [markdown]
# Parameters: change them here, or from the command line (`./run_all.sh --help`). `None` leaves the choice to the preset.

# %% tags=["parameters"]
preset = "quick"  # quick: minutes on a laptop; real, paper: the published protocols; tiny: a test of the cells
seeds = None  # number of seeds
datasets = None  # names out of the preset's data sets
encoders = ["dinov2"]  # of images: names of `python -m dal_lab datasets`, models of the hub, or local folders
strategies = ["random", "margin", "badge", "typiclust", "bait"]  # of the benchmark, experiment (c)
device = "auto"  # auto, cpu, cuda or mps
jobs = None  # processes side by side; None: one a core
data_dir = None  # folder with local data files
output_dir = None  # figures and tables go to <output_dir>/<preset>; None: figures/ of the project
results_dir = None  # finished runs are kept here; None: results/ of the project
fresh = False  # compute every run anew

# %%
from pathlib import Path

import pandas as pd
from IPython.display import Markdown, display

from dal_core.checks import check_choice
from dal_lab.runs.settings import experiment_of
from dal_core.strategies import names as known_strategies
from dal_lab.companion.artefacts import Report
from dal_lab.companion.explorer import picks as explain
from dal_lab.companion.explorer.page import show
from dal_lab.companion.figures import curves as draw
from dal_lab.companion.figures.style import label, use_style
from dal_lab.companion.paper_numbers import SOURCES, cell_by_cell, published
from dal_lab.companion.parameters import check_values
from dal_lab.companion.statistics import curve_means, difference_to, in_percent, mean_over_seeds, verdict
from dal_lab.companion.verdicts import MARGIN, Claim, judged, lead_over
from dal_lab.runs.grid import Grid
from dal_lab.sources.catalogue import data_sets
from dal_lab.studies.scaling import ScalingStudy, slope

# %%
check_values(globals())  # of the parameters above; what exists is checked below
digits = {"dataset": "digits", "approximations": ["top_1", "top_2", "top_5", "exact"]}
letter = {"dataset": "letter", "head": "mlp", "batch_size": 30, "approximations": ["top_1", "top_2", "top_5", "exact"]}
# A dense Fisher matrix of all classes has a side of 29,568 for Banking77 and 57,600 for CLINC150: no exact BAIT there.
banking = {
    "dataset": "banking77",
    "encoder": "minilm",
    "initial_size": 77,
    "batch_size": 77,
    "approximations": ["top_1", "top_2"],
}
clinc = {
    "dataset": "clinc150",
    "encoder": "minilm",
    "initial_size": 150,
    "batch_size": 150,
    "approximations": ["top_1", "top_2"],
}
APPROXIMATIONS = {
    "cifar10": ["top_1", "top_2", "top_5", "exact"], "stl10": ["top_1", "top_2", "top_5", "exact"],
    "snacks": ["top_1", "top_2", "top_5", "exact"], "dtd": ["top_1", "top_2", "exact"], "cifar100": ["top_1", "top_2"],
    "food101": ["top_1", "top_2"], "flowers102": ["top_1", "top_2"], "tinyimagenet": ["top_1"], "imagenet": [],
}  # fmt: skip
images = [
    {"dataset": name, "encoder": encoder, "approximations": approximations} | data_sets()[name].protocol()
    for encoder in encoders
    for name, approximations in APPROXIMATIONS.items()
]
settings = {
    "quick": {"data": [digits], "seeds": 3, "pools": (1000, 3000, 10_000)},
    "real": {"data": [letter, banking, clinc], "seeds": 10},
    "paper": {"data": images, "seeds": 10, "pools": (3000, 10_000, 30_000, 100_000, 300_000)},
    "tiny": {
        "data": [digits | {"approximations": ["top_1", "exact"]}],
        "seeds": 2,
        "cycles": 2,
        "subset": 60,
        "options": {"epochs": 5},
        "pools": (100, 200),
        "repeats": 1,
    },
}
check_choice("preset", preset, settings)
setting = {"cycles": 20, "subset": 1000, "options": {}, "pools": (1000, 3000, 10_000, 30_000, 100_000), "repeats": 3}
setting |= settings[preset] | ({} if seeds is None else {"seeds": seeds})
for name in datasets or []:
    check_choice("datasets", name, [data["dataset"] for data in setting["data"]])
for name in strategies:
    check_choice("strategies", name, known_strategies())
data = [each for each in setting["data"] if datasets is None or each["dataset"] in datasets]

home = Path("..") if Path("../pyproject.toml").exists() else Path()
grid = Grid(results_dir or home / "results", jobs=jobs, data_dir=data_dir, fresh=fresh)
data, absent = grid.available(data)  # extracts features, once
for reason, names in absent.items():
    print(f"left out: {', '.join(names)}: {reason}", file=sys.stderr)

use_style()
report = Report(Path(output_dir or home / "figures") / preset, "02_fast_fishing", grid.digests, grid.strategies)
print(f"preset {preset}: {', '.join(each['dataset'] for each in data)}; seeds: {setting['seeds']}")

# %% [markdown]
# A method is a strategy with its options. All runs follow the paper's protocol: RAdam, 200 epochs, the head retrained from
# its initial weights in each of 20 cycles; batch and initial size belong to the data set.

# %%
METHODS = {
    "bait_top_1": {"approximation": "top", "top_classes": 1},
    "bait_top_2": {"approximation": "top", "top_classes": 2},
    "bait_top_5": {"approximation": "top", "top_classes": 5},
    "bait_exact": {"approximation": "exact"},
    "bait_diagonal": {"approximation": "diagonal"},
}


def curves(methods, subset_size):
    """Learning curves: rows of each data set's `methods(settings of the data set)` for all seeds."""
    parts = []
    names = list(dict.fromkeys(name for each in data for name in methods(each)))
    for name in names:
        runs = [
            experiment_of(
                **{"cycles": setting["cycles"]}
                | {key: value for key, value in each.items() if key != "approximations"},
                seed=seed,
                device=device,
                strategy="bait" if name in METHODS else name,
                optimiser="radam",
                subset_size=subset_size,
                options=METHODS.get(name, {}) | setting["options"],
            )
            for each in data
            if name in methods(each)
            for seed in range(setting["seeds"])
        ]
        parts.append(grid.rows(runs, label(name)).assign(strategy=name))
    return pd.concat(parts)


def accuracy_table(rows):
    """Mean accuracy over the curve, and the difference to random of the same seeds."""
    table = mean_over_seeds(in_percent(difference_to(rows, "random")), ["data", "strategy"], ["accuracy", "difference"])
    return table.sort_values("data", kind="stable")


def beside_the_paper(rows, experiment):
    """Published accuracies and the measured ones, with the difference to random of each."""
    paper = published("fast_fishing").rename(columns={"method": "strategy"})
    paper = paper[paper["experiment"] == experiment].copy()
    paper["difference"] = paper["accuracy"] - paper["accuracy"].iloc[0]  # random comes first
    paper["strategy"] = paper["strategy"].map(label)
    columns = ["source", "data", "strategy", "accuracy", "accuracy_ci", "difference", "difference_ci", "seeds"]
    measured = accuracy_table(rows).assign(source="measured")
    return pd.concat([paper.assign(source="published", seeds=10), measured])[columns]


def show_cells(rows, experiment, name, **about):
    """A table of published and measured accuracies, cell by cell, where the paper has cells of these data."""
    paper = published("fast_fishing").rename(columns={"method": "strategy"})
    paper = paper[paper["experiment"] == experiment].assign(strategy=lambda table: table["strategy"].map(label))
    cells = cell_by_cell(
        accuracy_table(rows).drop(columns=["difference", "difference_ci"]), paper, ["data", "strategy"]
    )
    if len(cells):
        display(report.table(cells, f"{name}_cells", **about))
    else:
        print(f"the paper has {', '.join(paper['data'].unique())}: none of this preset's data")


def keys(rows):
    """The runs that rows come from."""
    return list(rows["run"].unique())


# %% [markdown]
# ## (a) How many classes does the expectation need?
#
# **Question.** The exact Fisher information is an expectation over all $K$ classes. Are the few most probable ones enough?
# **Protocol.** BAIT with rows for $c = 1, 2, 5$ classes, their probabilities renormalised, and with all of them, out of
# a random subset of 1000 of the pool. Bands are 95 % confidence intervals over seeds.

# %%
top = curves(lambda each: ["random", *(f"bait_{name}" for name in each["approximations"])], setting["subset"])
report.figure(draw.learning_curves(top), "top_classes", cell="(a) top-c", keys=keys(top))

# %%
table = beside_the_paper(top, "top_classes")
print(f"published: {SOURCES['fast_fishing']}")
report.table(table, "top_classes", cell="(a) top-c", keys=keys(top))

# %% [markdown]
# Cell by cell: "within ±" says whether the published accuracy lies in the 95 % interval of the measured one.

# %%
show_cells(top, "top_classes", "top_classes", cell="(a) top-c", keys=keys(top))

# %% [markdown]
# What it costs: mean time of an acquisition, each run on one core.

# %%
report.figure(draw.accuracy_against_time(top), "top_classes_time", cell="(a) top-c", keys=keys(top))


# %%
def time_table(rows, experiment):
    """Acquisition times, published and measured."""
    paper = published("fast_fishing").rename(columns={"method": "strategy"}).dropna(subset="query_s")
    paper = in_percent(paper[paper["experiment"] == experiment].drop(columns="accuracy"))
    measured = in_percent(rows).groupby(["data", "strategy"], sort=False)["query_s"]
    measured = measured.agg(query_s="mean", longest_s="max").reset_index().sort_values("data", kind="stable")
    return pd.concat([paper.assign(source="published"), measured.assign(source="measured")])[
        ["source", "data", "strategy", "query_s", "longest_s"]
    ]


report.table(time_table(top, "top_classes"), "top_classes_time", cell="(a) top-c", keys=keys(top))

# %%
points = in_percent(top)
lines = []
for each, part in points.groupby("data", sort=False):
    present = [name for name in part["strategy"].unique() if name != label("random")]
    reference = present[-1]  # exact where it can be had, else the largest c
    for name in present:
        lines.append(f"- {each}: {verdict(part, name, label('random'))}.")
    lines.append(f"- {each}: {verdict(part, present[0], reference)}.")
display(Markdown("**Reading.** Mean accuracy over the learning curve:\n\n" + "\n".join(lines)))

# %% [markdown]
# ## (b) Which approximation of the likelihood is good enough?
#
# **Question.** The binary likelihood knows one probability an instance, the diagonal keeps no relation between parameters.
# What does each lose? **Protocol.** As in (a).

# %%
likelihoods = curves(
    lambda each: ["random", "bait_diagonal", "bait", *(["bait_exact"] if "exact" in each["approximations"] else [])],
    setting["subset"],
)
report.figure(draw.learning_curves(likelihoods), "likelihoods", cell="(b) likelihood", keys=keys(likelihoods))

# %%
report.table(beside_the_paper(likelihoods, "likelihood"), "likelihoods", cell="(b) likelihood", keys=keys(likelihoods))

# %%
show_cells(likelihoods, "likelihood", "likelihoods", cell="(b) likelihood", keys=keys(likelihoods))

# %%
report.table(time_table(likelihoods, "likelihood"), "likelihoods_time", cell="(b) likelihood", keys=keys(likelihoods))

# %%
lines = []
for each, part in in_percent(likelihoods).groupby("data", sort=False):
    for other in ("random", "bait_diagonal", "bait_exact"):
        if label(other) in set(part["strategy"]):
            lines.append(f"- {each}: {verdict(part, label('bait'), label(other))}.")
display(Markdown("**Reading.** Mean accuracy over the learning curve:\n\n" + "\n".join(lines)))

# %% [markdown]
# ## (c) Benchmark
#
# **Question.** How does BAIT compare with other strategies when nothing is subsampled? **Protocol.** As in (a), but every
# strategy sees the whole pool. The second figure has the differences to random selection, paired by seed.

# %%
benchmark = curves(lambda each: dict.fromkeys(["random", *strategies]), None)
report.figure(draw.learning_curves(benchmark), "benchmark", cell="(c) benchmark", keys=keys(benchmark))

# %%
differences = difference_to(benchmark, "random").query("strategy != 'random'")
figure = draw.learning_curves(differences, y="difference")
for panel in figure.axes:
    panel.axhline(0, color="black", linewidth=0.8)
report.figure(figure, "benchmark_differences", cell="(c) benchmark", keys=keys(benchmark))

# %%
report.table(beside_the_paper(benchmark, "benchmark"), "benchmark", cell="(c) benchmark", keys=keys(benchmark))

# %%
show_cells(benchmark, "benchmark", "benchmark", cell="(c) benchmark", keys=keys(benchmark))

# %%
report.table(time_table(benchmark, "benchmark"), "benchmark_time", cell="(c) benchmark", keys=keys(benchmark))

# %%
lines = []
for each, part in in_percent(benchmark).groupby("data", sort=False):
    ranking = part.groupby("strategy")["accuracy"].mean().sort_values(ascending=False)
    lines.append(f"- {each}: " + ", ".join(f"{name} {value:.1f} %" for name, value in ranking.items()) + ".")
    for other in (name for name in strategies if name != "bait" and "bait" in strategies):
        lines.append(f"  - {verdict(part, label('bait'), label(other))}.")
display(Markdown("**Reading.** Mean accuracy over the learning curve:\n\n" + "\n".join(lines)))

# %% [markdown]
# ## (d) What an acquisition costs
#
# **Question.** How do time and memory of one acquisition grow with the pool ($N$), the features ($D$), the classes ($K$) and the
# batch ($b$)? **Protocol.** Made-up features of as many classes as are asked for, 100 labelled instances, one core, nothing
# beside it; time is the median of three acquisitions, memory what is held in tensors besides the features. One size is
# varied at a time; the others are those in the tables below, with the exponent $a$ of the growth $\sim N^a$, fitted to the upper
# half of the sizes. Expected for binary BAIT: $O((N + m) D^2)$ once and $O(N D)$ in each of $2b$ steps, nothing in $K$; for exact
# BAIT $O((N + m) (KD)^2 + (KD)^3)$ once and $O(N K^2 D)$ a step. With one row an instance ($c = 1$) a small pool is worked on
# in the Gram matrix of all rows, whose side depends on neither $K$ nor $D$.

# %%
BASES = {
    "bait": {"num_unlabelled": 2000, "num_features": 128, "num_classes": 10, "batch_size": 40},
    "bait_top_1": {"num_unlabelled": 1000, "num_features": 512, "num_classes": 10, "batch_size": 40},
    "bait_diagonal": {"num_unlabelled": 1000, "num_features": 128, "num_classes": 10, "batch_size": 40},
    "bait_exact": {"num_unlabelled": 1000, "num_features": 32, "num_classes": 10, "batch_size": 10},
}
if preset == "tiny":
    BASES = {name: base | {"num_unlabelled": 200, "batch_size": 4} for name, base in BASES.items()}
FACTORS = (0.5, 1, 2, 4)
AXES = {"N": "num_unlabelled", "D": "num_features", "K": "num_classes", "b": "batch_size"}
serial = Grid(results_dir or home / "results", jobs=1, data_dir=data_dir, fresh=fresh)  # times: nothing runs beside


def cost(strategy, base, varied, sizes):
    """Rows of one acquisition each, with one of the settings in `base` varied."""
    studies = [
        ScalingStudy(
            **base | {AXES[varied]: size}, strategy="bait" if strategy in METHODS else strategy, device=device,
            repeats=setting["repeats"], options=METHODS.get(strategy, {}),
        )
        for size in sizes
    ]  # fmt: skip
    return serial.rows(studies, f"{label(strategy)}, {varied}").assign(
        strategy=strategy, varied=varied, size=list(sizes)
    )


scaling = pd.concat(
    [
        cost(name, base, varied, [int(factor * base[setting_name]) for factor in FACTORS])
        for name, base in BASES.items()
        for varied, setting_name in AXES.items()
    ]
)
report.figure(draw.costs(scaling, y="query_s"), "scaling_time", cell="(d) scaling", keys=keys(scaling))

# %%
report.figure(draw.costs(scaling, y="peak_bytes"), "scaling_memory", cell="(d) scaling", keys=keys(scaling))


# %%
def slopes(rows, value):
    """Exponents of the cost's growth, fitted to the upper half of the sizes."""
    table = rows.groupby(["strategy", "varied"], sort=False).apply(lambda part: slope(part["size"], part[value]))
    return table.unstack("varied").rename(columns=lambda varied: f"exponent of {varied}")


base_table = pd.DataFrame(BASES).T.rename(columns={value: key for key, value in AXES.items()})
base_cost = scaling[
    (scaling["varied"] == "N") & (scaling["size"] == scaling["strategy"].map(base_table["N"]))
].set_index("strategy")
table = base_table.join(slopes(scaling, "query_s")).assign(query_s=base_cost["query_s"])
table.insert(0, "strategy", [label(name) for name in table.index])
report.table(table, "scaling_time", cell="(d) scaling", keys=keys(scaling))

# %%
table = base_table.join(slopes(scaling, "peak_bytes")).assign(peak_mb=base_cost["peak_bytes"] / 1e6)
table.insert(0, "strategy", [label(name) for name in table.index])
report.table(table, "scaling_memory", cell="(d) scaling", keys=keys(scaling))

# %% [markdown]
# The strategies of (c) on pools of growing size, in the setting of binary BAIT above.

# %%
pools = pd.concat([cost(name, BASES["bait"], "N", setting["pools"]) for name in dict.fromkeys(["random", *strategies])])
figure = draw.costs(pools, y="query_s")
report.figure(figure, "pool_size_time", cell="(d) scaling", keys=keys(pools))

# %%
wide = in_percent(pools).pivot(index="size", columns="strategy", values="query_s").add_suffix("_s").reset_index()
report.table(wide.rename(columns={"size": "pool"}), "pool_size_time", cell="(d) scaling", keys=keys(pools))

# %%
growth = {
    name: slope(part["size"], part["query_s"])
    for name, part in pools.groupby("strategy", sort=False)
    if name != "random"
}
largest = pools[pools["size"] == max(setting["pools"])].set_index("strategy")["query_s"]
display(Markdown(
    f"**Reading.** From a pool of {min(setting['pools']):,} to one of {max(setting['pools']):,} instances the time of an acquisition grows as "
    + ", ".join(f"$N^{{{value:.2f}}}$ ({label(name)}, {largest[name]:.2g} s at the end)" for name, value in growth.items())
    + ". Linear growth has the exponent 1."
))  # fmt: skip

# %% [markdown]
# ## (e) A closer look: what each strategy picks, and why
#
# **Question.** What does a strategy see in the pool, and what does it make of it? **Protocol.** Four clusters in the plane, 5 labels at random, batches of 5, a
# hidden layer of 128 units, the whole pool. Dots are the pool, dark where the strategy's own measure is high; rings are the
# picks. Above each panel the number of labels and the accuracy on the test split.


# %%
def closer(strategy, data="blobs"):
    """A run in the plane, small enough to look at every pick."""
    return experiment_of(
        dataset=data, strategy="bait" if strategy in METHODS else strategy, head="mlp", optimiser="radam", device="cpu",
        initial_size=5, batch_size=5, cycles=6, subset_size=None, options=METHODS.get(strategy, {}) | setting["options"],
    )  # fmt: skip


shown = ["random", "margin", "badge", "typiclust", "bait", "bait_diagonal"]
looks = {name: explain.views(closer(name)) for name in shown}
cycles = (0, 1) if preset == "tiny" else (0, 1, 3, 5)
report.figure(explain.figure(looks, cycles), "picks", cell="(e) a closer look", keys=[])

# %%
display(Markdown(f"**Reading.** The picks with 10 labels, in the second column:\n\n{explain.summary(looks, 1)}"))

# %% [markdown]
# In a notebook that is open in Jupyter the next cell shows a page to step through: a slider over the acquisitions, with strategy and data to
# choose, and beside the map how the scores of the picks stand among those of the pool. It takes the keyboard: Tab reaches a control, arrow
# keys move it.

# %%
order = [
    "bait",
    "bait_exact",
    "bait_top_1",
    "bait_diagonal",
    "random",
    "margin",
    "entropy",
    "badge",
    "coreset",
    "typiclust",
]
show(
    {"strategy": {label(name): name for name in order}, "data": ["blobs", "moons"]},
    lambda **chosen: explain.views(closer(**chosen)),
)

# %% [markdown]
# ## (f) Verdicts
#
# **Question.** Which of the paper's claims hold on these data? **Protocol.** Each claim says where a mean lies, in the column *measure*: pairs that share
# their seed, a value a seed, averaged over the learning curve unless it says otherwise; over the data sets' means where there are several. The
# claim *holds* if the 95 % interval lies wholly there, is *contradicted* if it lies wholly outside, and else *open*: few seeds leave much open, whatever
# the means are. Intervals are corrected for the number of claims (Holm). "No worse" and "as good" allow for half a point of accuracy.
# The growth of time and memory in (d) is measured once, without seeds, and has no verdict.

# %%
of_top, of_likelihoods, of_benchmark = (100 * curve_means(rows) for rows in (top, likelihoods, benchmark))
rivals = [name for name in strategies if name not in ("random", "bait")]
of_times = pd.concat([top, likelihoods]).drop_duplicates(["run", "cycle"])
seconds = of_times.groupby(["data", "seed", "strategy"])["query_s"].mean().unstack("strategy")
seconds = seconds.reindex(columns=["bait", "bait_top_1", "bait_exact", "bait_diagonal"])
claims = [
    Claim("BAIT over the two most probable classes is no worse than over all", "expectation over the top classes, table (Letter)",
          "BAIT, c = 2 − exact (points)", lead_over(of_top, "bait_top_2", ["bait_exact"]), above=-MARGIN),
    Claim("BAIT over the most probable class alone is no worse than over all", "expectation over the top classes, table (Letter)",
          "BAIT, c = 1 − exact (points)", lead_over(of_top, "bait_top_1", ["bait_exact"]), above=-MARGIN),
    Claim("Binary BAIT is no worse than exact BAIT", "likelihoods, table (Snacks)",
          "BAIT, binary − exact (points)", lead_over(of_likelihoods, "bait", ["bait_exact"]), above=-MARGIN),
    Claim("Binary BAIT is better than diagonal BAIT", "likelihoods, table (Snacks)",
          "BAIT, binary − diagonal (points)", lead_over(of_likelihoods, "bait", ["bait_diagonal"]), above=0),
    Claim("Binary BAIT is better than random selection", "benchmark, table (ImageNet)",
          "BAIT, binary − random, whole pool (points)", lead_over(of_benchmark, "bait", ["random"]), above=0),
    Claim("Binary BAIT is better than the other strategies", "benchmark, table (ImageNet)",
          f"BAIT, binary − the best of {', '.join(map(label, rivals))}, whole pool (points)",
          lead_over(of_benchmark, "bait", rivals), above=0),
    Claim("Binary BAIT is faster than exact BAIT", "likelihoods, times (Snacks)",
          "time of an acquisition, exact ÷ binary", seconds["bait_exact"] / seconds["bait"], above=1, time=True),
    Claim("BAIT over the most probable class alone is faster than over all", "expectation over the top classes, times (Letter)",
          "time of an acquisition, exact ÷ c = 1", seconds["bait_exact"] / seconds["bait_top_1"], above=1, time=True),
    Claim("Binary BAIT is faster than diagonal BAIT", "likelihoods, times (Snacks)",
          "time of an acquisition, diagonal ÷ binary", seconds["bait_diagonal"] / seconds["bait"], above=1, time=True),
]  # fmt: skip
for shown in judged(report, claims, cell="(f) verdicts", keys=grid.keys):
    display(shown)

# %% [markdown]
# ## How to cite
#
# Huseljic, D., Hahn, P., Herde, M., Rauch, L., Sick, B.: *Fast Fishing: Approximating BAIT for Efficient and Scalable Deep Active
# Image Classification*. ECML PKDD 2024. arXiv 2404.08981. BAIT itself: Ash, J., Goel, S., Krishnamurthy, A., Kakade, S.: *Gone
# Fishing: Neural Active Learning with Fisher Embeddings*. NeurIPS 2021.
