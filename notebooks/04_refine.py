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
# # REFINE: filter the pool with an ensemble, then choose
#
# Companion to *Cleaning the Pool: Progressive Filtering of Unlabeled Pools in Deep Active Learning*
# (Huseljic, Herde and colleagues, University of Kassel; CVPR 2026, [arXiv 2511.22344](https://arxiv.org/abs/2511.22344)).
#
# No strategy is the best one on every data set and at every budget. REFINE does not choose among strategies: it lets all of them
# clean the pool. Stage 1, *progressive filtering*: in each of $d = 5$ rounds every one of nine strategies queries 11 batches, each on
# a random part of the current pool; the union of what was queried is the next pool. Stage 2: one strategy
# (uncertainty herding) picks the batch that is bought from what is left. No true labels are seen.
#
# | | question | figure |
# |---|---|---|
# | (a) | how does REFINE compare with its strategies, and with other ensembles? | learning curves, ranks |
# | (b) | how often does one strategy beat another? | win rates |
# | (c) | does a strategy choose better from the filtered pool? | differences |
# | (d) | what is it sensitive to? | alpha, depth, batches |
# | (e) | and when classes are rare? | long-tailed pools |
# | (f) | which form of the gain in coverage should herding use? | table |
# | (g) | what does the filter leave? | a closer look, to step through in Jupyter |
# | (h) | which of the paper's claims hold on these data? | verdicts |

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
encoders = ["dinov2", "dinov3", "clip", "swinv2"]  # of images: also models of the hub, or local folders
ensembles = ["tcm", "selectal", "tailor", "autoal"]  # beside REFINE in (a) and (b)
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
from dal_core.ensembles.members import STRATEGIES
from dal_lab.runs.settings import experiment_of
from dal_core.strategies import names as known_strategies
from dal_lab.companion.artefacts import Report
from dal_lab.companion.budgets import records
from dal_lab.companion.explorer import rounds
from dal_lab.companion.explorer.page import show
from dal_lab.companion.figures import comparisons as compare
from dal_lab.companion.figures import curves as draw
from dal_lab.companion.figures.style import label, use_style
from dal_lab.companion.paper_numbers import SOURCES, cell_by_cell, published
from dal_lab.companion.parameters import check_values
from dal_lab.companion.statistics import (
    blocks,
    curve_means,
    friedman,
    in_percent,
    mean_over_seeds,
    paired,
    verdict,
    win_rates,
)
from dal_lab.companion.verdicts import MARGIN, Claim, judged, lead_over
from dal_lab.runs.grid import Grid
from dal_lab.sources.catalogue import data_sets

# %%
check_values(globals())  # of the parameters above; what exists is checked below
digits = {"dataset": "digits", "subset_size": 1000, "ablations": True}
letter = {"dataset": "letter", "batch_size": 30}
banking = {"dataset": "banking77", "encoder": "minilm", "initial_size": 77, "batch_size": 77, "cycles": 10}
clinc = {"dataset": "clinc150", "encoder": "minilm", "initial_size": 150, "batch_size": 150, "cycles": 10}
image_sets = (
    "cifar10", "stl10", "snacks", "flowers102", "dopanim", "dtd", "food101", "cifar100", "tinyimagenet", "imagenet",
)  # fmt: skip
images = [
    {"dataset": name, "encoder": encoder, "ablations": encoder == encoders[0] and name in ("cifar10", "dtd")}
    | data_sets()[name].protocol()
    for encoder in encoders
    for name in image_sets
]
others = [
    {"dataset": name, "encoder": encoder} | data_sets()[name].protocol()
    for name, encoder in (("banking77", "bert"), ("clinc150", "bert"), ("esc50", "ast"))
]
# Options of REFINE in (a) are `refining`, in (c) `filtering`, in (d) and (e) `cheaper`; {} is what the paper has. (c) to (e) stop
# after `shorter` acquisitions, None: after all.
settings = {
    "quick": {
        "data": [digits], "seeds": 3, "filtering": {"num_batches": 27}, "cheaper": {"num_batches": 27}, "shorter": 5,
        "alphas": (0.1, 0.4, 0.9), "depths": (1, 3, 5), "batches": (9, 27, 90),
    },
    "real": {
        "data": [banking | {"ablations": True}, clinc, letter], "seeds": 3, "cheaper": {"num_batches": 27}, "shorter": 5,
        "batches": (9, 18, 27, 54),
    },
    "paper": {"data": [*images, *others], "seeds": 10},
    "tiny": {
        "data": [digits | {"subset_size": 60, "cycles": 2}], "seeds": 2, "options": {"epochs": 5}, "strategies": ("random", "margin", "unc_herding"),
        "refining": {"num_batches": 9}, "filtering": {"num_batches": 9}, "cheaper": {"num_batches": 9, "depth": 1},
        "alphas": (0.4, 0.9), "depths": (1, 2), "batches": (3, 6),
    },
}  # fmt: skip
check_choice("preset", preset, settings)
setting = {
    "options": {}, "refining": {}, "filtering": {}, "cheaper": {}, "shorter": None, "strategies": STRATEGIES,
    "alphas": (0.1, 0.2, 0.4, 0.6, 0.9), "depths": (1, 2, 3, 4, 5), "batches": (9, 27, 100, 200),
}  # fmt: skip
setting |= settings[preset] | ({} if seeds is None else {"seeds": seeds})
members = list(setting["strategies"])
for name in datasets or []:
    check_choice("datasets", name, [data["dataset"] for data in setting["data"]])
for name in members:
    check_choice("strategies", name, known_strategies())
for name in ensembles:
    check_choice("ensembles", name, ["tcm", "selectal", "tailor", "autoal"])
data = [each for each in setting["data"] if datasets is None or each["dataset"] in datasets]

home = Path("..") if Path("../pyproject.toml").exists() else Path()
grid = Grid(results_dir or home / "results", jobs=jobs, data_dir=data_dir, fresh=fresh)
data, absent = grid.available(data)  # extracts features, once
for reason, names in absent.items():
    print(f"left out: {', '.join(names)}: {reason}", file=sys.stderr)

use_style()
report = Report(Path(output_dir or home / "figures") / preset, "04_refine", grid.digests, grid.strategies)
print(f"preset {preset}: {', '.join(each['dataset'] for each in data)}; seeds: {setting['seeds']}")
for part, options in {"(c)": setting["filtering"], "(d) and (e)": setting["cheaper"]}.items():
    changes = ", ".join(f"{name} = {value}" for name, value in options.items()) or "as in the paper"
    print(f"REFINE in {part}: {changes}; acquisitions: {setting['shorter'] or 'all'}")

# %% [markdown]
# All runs follow the paper's protocol: SGD with Nesterov momentum, 200 epochs, the head retrained from its initial weights in each
# cycle; batch and initial size belong to the data set, and the whole pool is there to choose from (digits: 1000 instances of it).


# %%
def curves(name, options=None, only=None, **changes):
    """Rows of runs of a strategy for every data set and seed; `changes` are to the setting of the runs."""
    runs = [
        experiment_of(
            **{"subset_size": None} | {key: value for key, value in each.items() if key != "ablations"} | changes,
            strategy=name, seed=seed, device=device, options=setting["options"] | (options or {}),
        )
        for each in (data if only is None else only)
        for seed in range(setting["seeds"])
    ]  # fmt: skip
    return grid.rows(runs, label(name))


def keys(rows):
    """The runs that rows come from."""
    return list(rows["run"].unique())


def summary(rows, by="strategy", values=("accuracy", "nll")):
    """Means over seeds and acquisitions for each data set and entry of `by`."""
    return mean_over_seeds(in_percent(rows), ["data", by], list(values)).sort_values("data", kind="stable")


alone = pd.concat([curves(name) for name in members])
refined = curves("refine", setting["refining"])

# %% [markdown]
# ## (a) REFINE, its strategies, and other ensembles
#
# **Question.** Is the ensemble better than its best member? **Protocol.** The nine strategies alone, REFINE, and: *TCM* (TypiClust in the
# first three acquisitions, then margin), *SelectAL* (finds out which budget it is at by what hurts most to lose, and takes
# TypiClust, a random batch or BADGE), *TAILOR* (a bandit draws the strategy of each instance), *AutoAL* (a network that
# weighs the strategies' picks by how hard they are to fit). Bands are 95 % confidence intervals over seeds.

# %%
both = pd.concat([alone, refined])
report.figure(draw.learning_curves(both), "strategies", cell="(a) learning curves", keys=keys(both))

# %%
best = alone.groupby("strategy", sort=False)["accuracy"].mean().idxmax()
beside = pd.concat([*(curves(name) for name in ensembles), alone[alone["strategy"].isin(["random", best])], refined])
report.figure(draw.learning_curves(beside), "ensembles", cell="(a) learning curves", keys=keys(beside))

# %%
everything = pd.concat([alone, beside]).drop_duplicates(["run", "cycle"])
everything = pd.concat([everything[everything["strategy"] != "refine"], refined])  # REFINE last, as in the paper
report.table(summary(everything), "accuracy", cell="(a) learning curves", keys=keys(everything))

# %%
times = in_percent(everything.dropna(subset="query_s")).groupby(["data", "strategy"], sort=False)["query_s"]
times = times.agg(query_s="mean", longest_s="max").reset_index().sort_values("data", kind="stable")
report.table(times, "time", cell="(a) learning curves", keys=keys(everything))

# %% [markdown]
# Each strategy against REFINE: the difference of their mean accuracies, paired by seed, with the p-value of a paired t-test, and
# the p-value after Holm's correction for so many comparisons on a data set.

# %%
tests = paired(in_percent(everything), label("refine"))
over = {"difference": "over REFINE (points)", "difference_ci": "over REFINE (points)_ci"}
report.table(tests.rename(columns=over), "tests", cell="(a) learning curves", keys=keys(everything))

# %% [markdown]
# Ranks over all data sets and seeds; the seeds of one data set are not independent data sets, so that this is about these data
# sets, and not about others. Strategies joined by a bar are closer than Nemenyi's critical difference: their ranks
# alone do not tell them apart.

# %%
compared = blocks(everything)
report.figure(compare.ranks(compared), "ranks", cell="(a) learning curves", keys=keys(everything))

# %%
lines = []
for each, part in in_percent(everything).groupby("data", sort=False):
    means = part.groupby("strategy")["accuracy"].mean()
    single = means[[label(name) for name in members]].idxmax()
    lines.append(f"- {each}: REFINE is number {means.rank(ascending=False)[label('refine')]:.0f} of {len(means)}.")
    lines.append(f"- {each}: against the best single strategy, {verdict(part, label('refine'), single)}.")
    of_data = tests[tests["data"] == each]
    behind = of_data[(of_data["p_holm"] < 0.05) & (of_data["difference"] < 0)]["strategy"]
    names = "; ".join(behind) or "none"
    lines.append(f"- {each}: significantly below REFINE after Holm's correction: {names} ({len(of_data)} comparisons).")
lines.append(
    f"- Friedman's test that all are equally good: p = {friedman(compared):.2g} over {len(compared)} pairs of data set and seed."
)
display(Markdown("**Reading.** Mean accuracy over the learning curve:\n\n" + "\n".join(lines)))

# %% [markdown]
# ## (b) Win rates
#
# **Question.** How often is one strategy above another, whatever the data set and the budget? **Protocol.** Each cell is the share of
# data sets, seeds and acquisitions in which the strategy of the row has the higher accuracy than that of the column; ties count for
# neither, and the cycle before the first acquisition, in which all are equal, is left out. The published matrix is over the
# paper's data sets: where ours are others, the order can be compared, not the numbers.

# %%
paper = published("refine_win_rates").set_index("strategy")
measured = win_rates(everything)
order = [name for name in paper.index if name in measured.index]
measured, paper = measured.loc[order, order], paper.loc[order, order]
figure = compare.win_rates({"measured": measured, "published": paper})
report.figure(figure, "win_rates", cell="(b) win rates", keys=keys(everything))

# %%
print(f"published: {SOURCES['refine_win_rates']}")
table = pd.DataFrame({
    "strategy": [label(name) for name in order],
    "beaten by REFINE, measured": measured.loc["refine"].where(measured.index != "refine").to_numpy(),
    "beaten by REFINE, published": paper.loc["refine"].where(paper.index != "refine").to_numpy(),
    "mean win rate, measured": measured.sum(axis=1).to_numpy() / (len(order) - 1),
    "mean win rate, published": paper.sum(axis=1).to_numpy() / (len(order) - 1),
})  # fmt: skip
report.table(table, "win_rates", cell="(b) win rates", keys=keys(everything))

# %% [markdown]
# Cell by cell: the win rates of REFINE, in the paper preset those of all pairs. As in the published matrix, the cycle before the first
# acquisition counts as a tie here. "within ±" says whether the published rate lies in the 95 % interval of the measured one over seeds.


# %%
def pairs_of(matrix):
    """A row for each pair of strategies in a matrix of win rates."""
    long = matrix.rename_axis(index="strategy", columns="against").stack().rename("rate").reset_index()
    return in_percent(long[long["strategy"] != long["against"]].assign(against=lambda part: part["against"].map(label)))


with_ties = everything["cycle"].max() / (everything["cycle"].max() + 1)
rates = [pairs_of(with_ties * win_rates(part)).assign(seed=seed) for seed, part in everything.groupby("seed")]
by = ["strategy", "against"]
cells = cell_by_cell(mean_over_seeds(pd.concat(rates), by, ["rate"]), pairs_of(paper), by, "rate", "share")
shown = cells if preset == "paper" else cells[cells["strategy"] == label("refine")]
display(report.table(shown, "win_rate_cells", cell="(b) win rates", keys=keys(everything)))
within = (shown["within ±"] == "yes").sum()
display(Markdown(f"**Reading.** {within} of {len(shown)} published rates lie in the interval of the measured ones."))

# %%
against = measured.loc["refine"].drop("refine")
above = against[against > measured["refine"].drop("refine")]
pairs = (paper + paper.T).stack()
pairs = pairs[pairs > 0].median()
correlation = table["mean win rate, measured"].corr(table["mean win rate, published"], method="spearman")
display(Markdown(
    f"**Reading.** REFINE wins more often than it loses against {len(above)} of {len(against)} strategies; its lowest win rate is "
    f"{against.min():.2f}, against {label(against.idxmin())}. Published: lowest {paper.loc['refine'].drop('refine').min():.2f}, "
    f"against {label(paper.loc['refine'].drop('refine').idxmin())}. The order of the strategies by mean win rate has a rank correlation of "
    f"{correlation:.2f} with the published one. (The published rates of a pair add up to {pairs:.2f} in the median: as if the cycle "
    f"before the first acquisition counted as a tie, one of 21.)"
))  # fmt: skip

# %% [markdown]
# ## (c) Does a strategy choose better from the filtered pool?
#
# **Question.** Is it the filter or the final strategy that makes REFINE good? **Protocol.** Each strategy picks its batches from the whole
# pool, or from what progressive filtering has left of it; paired by seed. The quick and the real preset stop after five
# acquisitions here and in (d) and (e), and save time by fewer batches a round where the first output says so.


# %%
cheaper, last = setting["cheaper"], setting["shorter"] or 20
shorter = [each | {"cycles": min(each.get("cycles", 20), last)} for each in data]


def from_filtered_pool(name):
    """Rows of runs in which the strategy chooses from the filtered pool; with herding by uncertainty that is REFINE."""
    if name == "unc_herding" and setting["filtering"] == setting["refining"]:
        return refined
    return curves("refine", setting["filtering"] | ({} if name == "unc_herding" else {"final_strategy": name}), shorter)


filtered = pd.concat([from_filtered_pool(name).assign(strategy=name) for name in members])
pools = pd.concat([alone.assign(pool="whole"), filtered.assign(pool="filtered")])
pools = pools[pools["cycle"] <= last]
gains = [
    paired(part.assign(accuracy=100 * part["accuracy"]), "whole", by="pool").assign(strategy=name)
    for name, part in pools.groupby("strategy", sort=False)
]
gains = pd.concat(gains).sort_values("data", kind="stable").drop(columns="p_holm")
figure = compare.differences(gains, "Filtered − whole pool (points)")
report.figure(figure, "filtered", cell="(c) filtering", keys=keys(pools))

# %%
means = (100 * pools.groupby(["data", "strategy", "pool"])["accuracy"].mean()).unstack("pool").reset_index()
table = gains.merge(means)[["data", "strategy", "whole", "filtered", "difference", "difference_ci", "p", "seeds"]]
table = table.assign(strategy=table["strategy"].map(label))
headings = {"whole": "whole pool (%)", "filtered": "filtered pool (%)"}
headings |= {"difference": "difference (points)", "difference_ci": "difference (points)_ci"}
report.table(table.rename(columns=headings), "filtered", cell="(c) filtering", keys=keys(pools))

# %% [markdown]
# How many instances are left after each round of the filter, mean over seeds and acquisitions.

# %%
told = records(pools[(pools["pool"] == "filtered") & (pools["strategy"] == members[-1])])
sizes = pd.DataFrame(told["pool_sizes"].tolist(), index=told["data"]).groupby("data", sort=False).mean()
sizes.columns = [f"after round {round_ + 1}" for round_ in sizes.columns]
report.table(sizes.round(0).astype(int).reset_index(), "pool_sizes", cell="(c) filtering", keys=keys(pools))

# %%
lines = []
for each, part in table.groupby("data", sort=False):
    no_worse = part[part["difference"] >= 0]
    lines.append(
        f"- {each}: {len(no_worse)} of {len(part)} strategies are at least as good on the filtered pool as on the whole one "
        f"({'; '.join(no_worse['strategy']) or 'none'}); the mean change is {part['difference'].mean():+.2f} points."
    )
    gain = part.loc[part["difference"].idxmax()]
    lines.append(f"- {each}: the largest gain is {gain['difference']:+.2f} points, of {gain['strategy']}.")
display(Markdown("**Reading.** Mean accuracy over the learning curve:\n\n" + "\n".join(lines)))

# %% [markdown]
# ## (d) What is it sensitive to?
#
# **Question.** How large a part of the pool should a strategy see ($\alpha$), how many rounds, how many batches, which batch size, and what
# do bad strategies in the ensemble do? **Protocol.** As in (c); one setting is changed at a time.

# %%
chosen = [each for each in shorter if each.get("ablations")] or shorter[:1]
PAPER = {"alpha": 0.4, "depth": 5, "num_batches": 100}


def varied(name, values):
    """REFINE with each of the values of an option; what is as in the paper is left out, so that it is one run."""
    parts = []
    for value in values:
        options = {key: each for key, each in (cheaper | {name: value}).items() if each != PAPER[key]}
        parts.append(curves("refine", options, chosen).assign(value=value))
    return pd.concat(parts)


alphas = varied("alpha", setting["alphas"])
report.figure(
    draw.ablation({"alpha": alphas}, x="value", label="Part of the pool α", log=False),
    "alpha",
    cell="(d) ablations",
    keys=keys(alphas),
)

# %%
depths = varied("depth", setting["depths"])
report.figure(
    draw.ablation({"depth": depths}, x="value", label="Rounds of filtering", log=False),
    "depth",
    cell="(d) ablations",
    keys=keys(depths),
)

# %%
batches = varied("num_batches", setting["batches"])
report.figure(
    draw.ablation({"batches": batches}, x="value", label="Batches a round"),
    "batches",
    cell="(d) ablations",
    keys=keys(batches),
)

# %%
settings_varied = pd.concat([
    rows.assign(option=name, value=rows["value"].astype(str))
    for name, rows in {"alpha": alphas, "depth": depths, "batches a round": batches}.items()
])  # fmt: skip
table = mean_over_seeds(in_percent(settings_varied), ["data", "option", "value"], ["accuracy", "nll"])
report.table(table, "ablations", cell="(d) ablations", keys=keys(settings_varied))

# %% [markdown]
# Batch size, up to the same number of labels; the best single strategy beside it, because the curves of two batch sizes have other points.

# %%
sizes = []
for each in chosen:
    batch, cycles = each.get("batch_size", 10), each.get("cycles", 20)
    for factor in (0.5, 1, 2):
        changes = {"batch_size": int(batch * factor), "cycles": int(cycles / factor)}
        for name, options in (("refine", cheaper), (best, {})):
            sizes.append(curves(name, options, [each], **changes).assign(batch=int(batch * factor)))
sizes = pd.concat(sizes)
table = mean_over_seeds(in_percent(sizes), ["data", "strategy", "batch"], ["accuracy"])
report.table(table.sort_values("data", kind="stable"), "batch_size", cell="(d) ablations", keys=keys(sizes))

# %% [markdown]
# **Other ensembles.** The paper's nine; these with core-set and entropy; without the best of them; random batches alone, which filter
# at random; no filter at all.

# %%
ENSEMBLES = {
    "the nine": {},
    "with core-set and entropy": {"strategies": [*STRATEGIES, "coreset", "entropy"]},
    f"without {label(best)}": {"strategies": [name for name in STRATEGIES if name != best]},
    "random batches alone": {"strategies": ["random"]},
    "no filter": {"depth": 0},
}
made_of = pd.concat(
    [curves("refine", cheaper | options, chosen).assign(ensemble=name) for name, options in ENSEMBLES.items()]
)
report.table(summary(made_of, by="ensemble"), "ensembles_of_the_filter", cell="(d) ablations", keys=keys(made_of))

# %%
lines = []
for each, part in in_percent(made_of).groupby("data", sort=False):
    for name, rows in {"alpha": alphas, "depth": depths, "number of batches": batches}.items():
        means = in_percent(rows[rows["data"] == each]).groupby("value")["accuracy"].mean()
        lines.append(
            f"- {each}: {name} matters by {means.max() - means.min():.2f} points; best {means.idxmax():g}, worst {means.idxmin():g}."
        )
    for name in list(ENSEMBLES)[1:]:
        lines.append(f"- {each}: {verdict(part, name, 'the nine', by='ensemble', form='*{}*')}.")
display(Markdown("**Reading.** Mean accuracy over the learning curve:\n\n" + "\n".join(lines)))

# %% [markdown]
# ## (e) Rare classes
#
# **Question.** Does REFINE help when some classes are rare? **Protocol.** The classes of the pool are thinned by factors from 1 to 10, in an order
# that is drawn for each seed; the test split stays as it is. The long tail leaves fewer than half of the instances.

# %%
tail = {"imbalance": 10}
long_tail = pd.concat([*(curves(name, tail, shorter) for name in members), curves("refine", cheaper | tail, shorter)])
report.figure(draw.learning_curves(long_tail), "long_tail", cell="(e) long tail", keys=keys(long_tail))

# %%
report.table(summary(long_tail), "long_tail", cell="(e) long tail", keys=keys(long_tail))

# %%
lines = []
for each, part in in_percent(long_tail).groupby("data", sort=False):
    means = part.groupby("strategy")["accuracy"].mean()
    single = means.drop(label("refine")).idxmax()
    lines.append(f"- {each}: against the best single strategy, {verdict(part, label('refine'), single)}.")
display(Markdown("**Reading.** Mean accuracy over the learning curve:\n\n" + "\n".join(lines)))

# %% [markdown]
# ## (f) Two forms of herding
#
# **Question.** Herding picks what covers most of the pool. With the kernel $K$, the coverage $c$ and the uncertainty $u$, the definition weighs
# every covered instance, $\frac{1}{n} \sum_j u_j \max(K_{ij} - c_j, 0)$ (*coverage*); the papers' results rest on
# $u_i \frac{1}{n} \sum_j \max(K_{ij} - c_i, 0)$ (*rowwise*). Does it matter? **Protocol.** As in (a).

# %%
herding = [name for name in ("max_herding", "unc_herding") if name in members]
forms = pd.concat([
    *(alone[alone["strategy"] == name].assign(form="rowwise") for name in herding),
    *(curves(name, {"form": "coverage"}).assign(form="coverage") for name in herding),
])  # fmt: skip
table = mean_over_seeds(in_percent(forms), ["data", "strategy", "form"], ["accuracy", "nll"])
report.table(
    table.sort_values(["data", "strategy"], kind="stable"), "herding_forms", cell="(f) herding", keys=keys(forms)
)

# %%
lines = []
for (each, name), part in in_percent(forms).groupby(["data", "strategy"], sort=False):
    lines.append(f"- {each}, {name}: {verdict(part, 'coverage', 'rowwise', by='form', form='*{}*')}.")
display(Markdown("**Reading.** Mean accuracy over the learning curve:\n\n" + "\n".join(lines)))

# %% [markdown]
# ## (g) A closer look: the pool, round after round
#
# **Question.** What does the filter leave? **Protocol.** Two half moons, 5 labels at random, batches of 5, a hidden layer of 128 units. Each strategy queries 3 batches a
# round, in the first one from 200 instances each, since the pool has no more than 745. Dots with a rim are what is left, dark where the head is uncertain; rings are the
# batch that uncertainty herding picks.


# %%
def closer(data="moons", alpha=0.4):
    """A run in the plane, small enough to look at every round."""
    options = {"num_batches": 27, "initial_size": 200, "alpha": alpha} | setting["options"]
    return experiment_of(
        dataset=data, strategy="refine", head="mlp", device="cpu", initial_size=5, batch_size=5, subset_size=None,
        cycles=2 if preset == "tiny" else 4, options=options,
    )  # fmt: skip


cleaned = rounds.views(closer())
figure = rounds.figure(cleaned, range(0, closer().protocol.cycles, 2), (0, 1, 3, 5))
report.figure(figure, "rounds", cell="(g) a closer look", keys=[])

# %%
display(Markdown(f"**Reading.** Acquisition by acquisition:\n\n{rounds.summary(cleaned)}"))

# %% [markdown]
# In a notebook that is open in Jupyter the next cell shows a page to step through: a slider over rounds and acquisitions, with data and $\alpha$ to
# choose. It takes the keyboard: Tab reaches a control, arrow keys move it.

# %%
show({"data": ["moons", "blobs"], "alpha": [0.4, 0.1, 0.9]}, lambda **chosen: rounds.views(closer(**chosen)))

# %% [markdown]
# ## (h) Verdicts
#
# **Question.** Which of the paper's claims hold on these data? **Protocol.** Each claim says where a mean lies, in the column *measure*: pairs that share
# their seed, a value a seed, averaged over the learning curve unless it says otherwise; over the data sets' means where there are several. The
# claim *holds* if the 95 % interval lies wholly there, is *contradicted* if it lies wholly outside, and else *open*: few seeds leave much open, whatever
# the means are. Intervals are corrected for the number of claims (Holm). "No worse" and "as good" allow for half a point of accuracy.
# The best strategy is the one with the highest mean over the seeds of a data set.


# %%
def surplus(rows):
    """REFINE's share of wins less its share of losses in percent, of the pair in which that is lowest."""
    wins = win_rates(rows)
    return 100 * (wins.loc["refine"] - wins["refine"]).drop("refine").min()


of_everything, of_tail = 100 * curve_means(everything), 100 * curve_means(long_tail)
of_filters = 100 * curve_means(made_of, by="ensemble")
of_pools = 100 * pools.groupby(["data", "seed", "strategy", "pool"], sort=False)["accuracy"].mean().unstack("pool")
change = (of_pools["filtered"] - of_pools["whole"]).unstack("strategy")
claims = [
    Claim("REFINE is no worse than its best strategy", "learning curves",
          "REFINE − the best of its strategies (points)", lead_over(of_everything, "refine", members), above=-MARGIN),
    Claim("REFINE is better than other ensembles", "learning curves",
          f"REFINE − the best of {', '.join(map(label, ensembles))} (points)",
          lead_over(of_everything, "refine", ensembles), above=0),
    Claim("REFINE wins more often than it loses against each strategy and ensemble", "matrix of win rates",
          "share of wins − share of losses, of the pair where it is lowest for the seed (points)",
          everything.groupby(["data", "seed"], sort=False)[list(everything)].apply(surplus), above=0),
    Claim("Progressive filtering makes strategies better", "strategies on the filtered pool",
          "filtered − whole pool, mean over the strategies (points)", change.mean(axis=1), above=0),
    Claim("Progressive filtering makes every strategy better", "strategies on the filtered pool",
          "filtered − whole pool, of the strategy with the lowest mean (points)",
          lead_over(-change.assign(nothing=0.0), "nothing", members), above=0),
    Claim("The filter, not the final strategy alone, makes REFINE good", "ablations, depth",
          "the nine − no filter (points)", lead_over(of_filters, "the nine", ["no filter"]), above=0),
    Claim("Strategies that are bad by themselves do no harm in REFINE's ensemble", "ablations, ensemble",
          "with core-set and entropy − the nine (points)",
          lead_over(of_filters, "with core-set and entropy", ["the nine"]), above=-MARGIN),
    Claim("REFINE is no worse than its best strategy when classes are rare", "long-tailed pools",
          "REFINE − the best of its strategies, imbalance 10 (points)",
          lead_over(of_tail, "refine", members), above=-MARGIN),
]  # fmt: skip
for shown in judged(report, claims, cell="(h) verdicts", keys=grid.keys):
    display(shown)

# %% [markdown]
# ## How to cite
#
# Huseljic, D., Herde, M. and colleagues: *Cleaning the Pool: Progressive Filtering of Unlabeled Pools in Deep Active Learning*. CVPR 2026,
# arXiv 2511.22344. TCM: Doucet, P. et al.: *Bridging Diversity and Uncertainty in Active Learning with
# Self-Supervised Pre-Training*, 2024. SelectAL: Hacohen, G. and Weinshall, D.: *How to Select Which Active Learning Strategy is Best Suited for
# Your Specific Problem and Budget*. NeurIPS 2023. TAILOR: Zhang, J. et al.: *Algorithm Selection for Deep Active Learning with Imbalanced
# Datasets*. NeurIPS 2023. AutoAL: Wang, Y. et al.: *AutoAL: Automated Active Learning with Differentiable Query Strategy Search*. ICML 2025.
