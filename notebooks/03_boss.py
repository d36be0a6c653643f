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
# # BoSS: how far are today's strategies from what is possible?
#
# Companion to *BoSS: A Best-of-Strategies Selector as an Oracle for Deep Active Learning*
# (Huseljic, Herde, Rauch, Hahn, Sick and colleagues, University of Kassel; [arXiv 2603.13109](https://arxiv.org/abs/2603.13109)).
#
# An oracle knows the labels that a strategy would have to pay for. It is no strategy, but it tells how much better a
# strategy could be. BoSS, in each cycle: $T$ candidate batches are drawn, each by a strategy chosen at random, on a
# random part of the pool; for each of them a head is trained on the labelled instances and the batch, with the true
# labels; the batch after which the head makes the fewest errors on the test split is bought. All $T$ heads are trained
# at once, as one batched computation.
#
# **Every curve marked "(oracle)" has seen labels that were not bought, and the test split.**
#
# | | question | figure |
# |---|---|---|
# | (a) | how good is BoSS beside other oracles, and what does it cost? | learning curves, time |
# | (b) | how far are the strategies from it at low, mid and high budget? | learning curves, leads |
# | (c) | which strategy supplies the batches that are bought? | shares |
# | (d) | what is it sensitive to? | candidates, growing ensemble |
# | (e) | what does it choose among? | a closer look, to step through in Jupyter |
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
encoders = ["dinov2", "dinov3", "clip", "swinv2"]  # of images: also models of the hub, or local folders
num_candidates = None  # candidate batches of BoSS
strategies = ["random", "margin", "coreset", "badge", "typiclust", "alfamix", "dropquery", "bait"]  # of the benchmark
oracles = ["sas", "cdo"]  # beside BoSS in (a); CDO trains 20 heads for each instance that it picks, and takes its time
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
from dal_core.oracles.boss import STRATEGIES
from dal_core.strategies import names as known_strategies
from dal_core.strategies import needs_oracle
from dal_lab.companion.artefacts import Report
from dal_lab.companion.budgets import BUDGETS, leads, records, with_budget
from dal_lab.companion.explorer import candidates as candidate_batches
from dal_lab.companion.explorer.page import show
from dal_lab.companion.figures import curves as draw
from dal_lab.companion.figures.style import label, use_style
from dal_lab.companion.paper_numbers import SOURCES, bank_names, cell_by_cell, published
from dal_lab.companion.parameters import check_values
from dal_lab.companion.statistics import curve_means, in_percent, mean_over_seeds, verdict
from dal_lab.companion.verdicts import MARGIN, Claim, judged, lead_over
from dal_lab.runs.grid import Grid
from dal_lab.sources.catalogue import data_sets

# %%
check_values(globals())  # of the parameters above; what exists is checked below
# `judging`: options of the oracles that train heads to look ahead. `ablations`: whether (d) runs on the data set.
digits = {"dataset": "digits", "subset_size": 1000, "judging": {"retraining_epochs": 200}, "ablations": True}
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
settings = {
    "quick": {
        "data": [digits], "seeds": 3, "fewer": 10, "candidates": (5, 10, 25, 50, 100), "sas": (50, 10), "shorter": 10,
    },
    "real": {
        "data": [banking | {"ablations": True}, clinc, letter], "seeds": 5, "fewer": 10, "shorter": 5, "candidates": (5, 10, 25, 50, 100),
        "sas": (200, 50),
    },
    "paper": {"data": images, "seeds": 10, "fewer": 100, "sas": (25_000, 5000)},
    "tiny": {
        "data": [digits | {"subset_size": 60, "cycles": 2, "judging": {"retraining_epochs": 5}}],
        "seeds": 2, "candidates": (2, 4), "fewer": 2, "sas": (3, 2), "options": {"epochs": 5}, "growth": 2,
    },
}  # fmt: skip
check_choice("preset", preset, settings)
setting = {
    "candidates": (5, 10, 25, 50, 100, 200),
    "fewer": 25,
    "shorter": 20,
    "options": {},
    "growth": len(STRATEGIES),
}
setting |= settings[preset] | ({} if seeds is None else {"seeds": seeds})
candidates = num_candidates or min(100, max(setting["candidates"]))
for name in datasets or []:
    check_choice("datasets", name, [data["dataset"] for data in setting["data"]])
for name in strategies:
    check_choice("strategies", name, known_strategies())
for name in oracles:
    check_choice("oracles", name, ["sas", "cdo"])
data = [each for each in setting["data"] if datasets is None or each["dataset"] in datasets]

home = Path("..") if Path("../pyproject.toml").exists() else Path()
grid = Grid(results_dir or home / "results", jobs=jobs, data_dir=data_dir, fresh=fresh)
data, absent = grid.available(data)  # extracts features, once
for reason, names in absent.items():
    print(f"left out: {', '.join(names)}: {reason}", file=sys.stderr)

use_style()
report = Report(Path(output_dir or home / "figures") / preset, "03_boss", grid.digests, grid.strategies)
print(f"preset {preset}: {', '.join(each['dataset'] for each in data)}; seeds: {setting['seeds']}, T = {candidates}")

# %% [markdown]
# All runs follow the paper's protocol: SGD with Nesterov momentum, 200 epochs, the head retrained from its initial weights in each
# cycle; batch and initial size belong to the data set. Judging trains for 50 epochs, as in the paper. On digits, whose
# features are short, a head is far from trained after 50 epochs, and is no good guess of what 200 will make of it; so the
# oracles judge after 200 epochs there, and (d) shows what 50 do.

# %%
JUDGING = ("boss", "cdo", "sas")  # train heads to look ahead
NOT_OURS = ("judging", "ablations")  # entries of a data set that are no settings of a run


def curves(names, options=None, only=None, **changes):
    """Rows of runs for every strategy, data set and seed; `options` are those of the strategies."""
    parts = []
    for name in names:
        runs = [
            experiment_of(
                **{"subset_size": None} | {key: value for key, value in each.items() if key not in NOT_OURS} | changes,
                strategy=name, seed=seed, device=device, allow_oracle=needs_oracle(name),
                options=setting["options"] | (each.get("judging", {}) if name in JUDGING else {}) | (options or {}),
            )
            for each in (data if only is None else only)
            for seed in range(setting["seeds"])
        ]  # fmt: skip
        parts.append(grid.rows(runs, label(name)))
    return pd.concat(parts)


def keys(rows):
    """The runs that rows come from."""
    return list(rows["run"].unique())


boss = curves(["boss"], {"num_candidates": candidates})

# %% [markdown]
# ## (a) BoSS beside other oracles
#
# **Question.** How good is BoSS, and what does a query cost? **Protocol.** *CDO* (Werner et al. 2024) builds a batch greedily: for each
# place in it 20 random instances are tried, and the best is taken if it lowers the cross-entropy on the test split, else
# the margin strategy's choice. That is 20 trained heads for each instance of a batch, where BoSS has $T$ for the whole batch: the larger
# the batch, the more CDO may try. *SAS* (Zhou et al. 2021) anneals the order of all acquisitions by the mean accuracy over the
# curve, once before the first acquisition; the published search takes 25 000 steps and 5000 greedy ones, the smaller
# presets take far fewer, at a temperature that falls as much in total. Times are those of one core; SAS's is that of
# the whole search, divided by the number of acquisitions.

# %%
steps, greedy_steps = setting["sas"]
annealing = {"steps": steps, "greedy_steps": greedy_steps, "annealing_factor": 0.1 * 25_000 / steps}
beside = [curves([name], annealing if name == "sas" else {}) for name in oracles]
compared = pd.concat([curves(["random"]), *beside, boss])
report.figure(draw.learning_curves(compared), "oracles", cell="(a) oracles", keys=keys(compared))

# %%
as_published = [each | {"judging": {}} for each in data if each.get("judging")]  # where (a) judges by other epochs
if as_published:
    with_50 = [curves([name], only=as_published) for name in oracles if name == "cdo"]
    with_50 = pd.concat([*with_50, curves(["boss"], {"num_candidates": candidates}, as_published)])
    parts = {"as in the figure": compared, "after 50 epochs": with_50}
    both = pd.concat([part.assign(judged=how) for how, part in parts.items()])
else:
    both = compared.assign(judged="as in the figure")
table = mean_over_seeds(in_percent(both), ["data", "judged", "strategy"], ["accuracy", "nll"])
report.table(table.sort_values("data", kind="stable"), "oracles", cell="(a) oracles", keys=keys(both))

# %%
times = in_percent(compared.dropna(subset="query_s")).groupby(["data", "strategy"], sort=False)["query_s"]
times = times.agg(query_s="mean", longest_s="max").reset_index().sort_values("data", kind="stable")
report.table(times, "oracles_time", cell="(a) oracles", keys=keys(compared))

# %%
lines = []
for each, part in in_percent(compared).groupby("data", sort=False):
    for other in (*oracles, "random"):
        lines.append(f"- {each}: {verdict(part, label('boss'), label(other))}.")
display(Markdown(f"**Reading.** Mean accuracy over the learning curve; SAS with {steps:,} steps and {greedy_steps:,} greedy ones:\n\n"
                 + "\n".join(lines)))  # fmt: skip

# %% [markdown]
# ## (b) How far are the strategies from it?
#
# **Question.** How much could a strategy still gain, and when? **Protocol.** Every strategy against BoSS; low, mid and high
# budget are thirds of the learning curve. The lead is that over the strategy with the best mean in that third, paired by seed.
# The published tables are of image data sets with DINOv2 features: where ours are others, the shape can be compared,
# not the numbers.

# %%
benchmark = with_budget(pd.concat([curves(dict.fromkeys(["random", *strategies])), boss]))
report.figure(draw.learning_curves(benchmark), "benchmark", cell="(b) benchmark", keys=keys(benchmark))


# %%
def by_budget(rows):
    """Accuracies with a column a budget."""
    means = in_percent(rows).groupby(["data", "strategy", "budget"], sort=False)["accuracy"].mean().unstack("budget")
    return means[list(BUDGETS)].assign(all=means.mean(axis=1)).reset_index()


paper = published("boss_dinov2")
paper = paper[paper["strategy"].isin([*strategies, "random", "boss"])]
table = pd.concat([by_budget(benchmark).assign(source="measured"), by_budget(paper).assign(source="published")])
print(f"published: {SOURCES['boss_dinov2']}")
table = table[["source", "data", "strategy", *BUDGETS, "all"]]
report.table(table, "benchmark", cell="(b) benchmark", keys=keys(benchmark))

# %% [markdown]
# Cell by cell: "within ±" says whether the published accuracy lies in the 95 % interval of the measured one.


# %%
def show_cells(measured, paper, by, name, **about):
    """A table of published and measured accuracies, cell by cell, where the paper has cells of these data."""
    paper = in_percent(paper.assign(data=bank_names(paper["data"])))
    cells = cell_by_cell(measured, paper, by).sort_values("data", kind="stable")
    if len(cells):
        display(report.table(cells, f"{name}_cells", **about))
    else:
        print(f"the paper has {', '.join(paper['data'].unique())}: none of this preset's data")


of_budgets = mean_over_seeds(in_percent(benchmark), ["data", "budget", "strategy"], ["accuracy"])
show_cells(of_budgets, paper, ["data", "budget", "strategy"], "benchmark", cell="(b) benchmark", keys=keys(benchmark))

# %%
lead = pd.concat([
    leads(benchmark, "boss").assign(source="measured"),
    leads(paper.assign(seed=0), "boss").assign(source="published"),
])  # fmt: skip
drawn = lead.assign(line=lead["data"].where(lead["source"] == "measured", "published, mean of its data sets"))
figure, (panel,) = draw.panels(1, panel=(5.2, 3.4))
for name, part in drawn.groupby("line", sort=False):
    means = 100 * part.groupby("budget")["difference"].mean()[list(BUDGETS)]
    panel.plot(BUDGETS, means, "--" if name.startswith("published") else "-", marker="o", label=name)
panel.set(xlabel="Budget", ylabel="Lead over the best strategy (points)", ylim=(min(0, panel.get_ylim()[0]), None))
draw.shared_legend(figure, [panel])
report.figure(figure, "leads", cell="(b) benchmark", keys=keys(benchmark))

# %%
table = mean_over_seeds(in_percent(lead), ["source", "data", "budget", "strategy"], ["difference"])
wide = {}
for budget in BUDGETS:
    part = table[table["budget"] == budget].set_index(["source", "data"])
    wide |= {
        f"{budget} (points)": part["difference"],
        f"{budget}_ci": part["difference_ci"],
        f"best at {budget}": part["strategy"],
    }
table = pd.DataFrame(
    wide | {"seeds": part["seeds"].where(part.index.get_level_values("source") == "measured")}
).reset_index()
report.table(table, "leads", cell="(b) benchmark", keys=keys(benchmark))

# %%
lines = []
per_seed = benchmark.groupby(["data", "seed", "strategy"], sort=False)["accuracy"].mean().unstack("strategy")
for each, part in per_seed.groupby(level="data", sort=False):
    ahead = (part["boss"] > part.drop(columns="boss").max(axis=1)).sum()
    lines.append(f"- {each}: BoSS is above every strategy for {ahead} of {len(part)} seeds.")
    measured = 100 * lead[lead["data"] == each].groupby("budget")["difference"].mean()
    lines.append(
        f"- {each}: its lead over the best strategy is "
        + ", ".join(f"{measured[b]:.1f} points at {b}" for b in BUDGETS)
        + " budget."
    )
printed = lead[lead["source"] == "published"].reset_index(drop=True)
largest = printed.loc[printed.groupby("data", sort=False)["difference"].idxmax(), "budget"].value_counts()
shape = ", ".join(f"{name} budget {count}" for name, count in largest.items())
display(Markdown("**Reading.** Mean accuracy over the learning curve:\n\n" + "\n".join(lines)
                 + f"\n- Published: the lead is largest at {shape} of {printed['data'].nunique()} times."))  # fmt: skip

# %% [markdown]
# ## (c) Which strategy supplies the batches?
#
# **Question.** If BoSS were one strategy in disguise, that one would be enough. **Protocol.** Every strategy proposes about a tenth
# of the candidates (the dashed line); counted is what was bought. TypiClass and DropQueryClass see true labels themselves.

# %%
bought = with_budget(records(boss))
shares = bought.groupby(["data", "budget"], sort=False)["supplier"].value_counts(normalize=True).mul(100)
shares = shares.unstack("supplier", fill_value=0.0).reindex(columns=list(STRATEGIES), fill_value=0.0)
figure = draw.shares(shares, expected=100 / len(STRATEGIES))
report.figure(figure, "suppliers", cell="(c) suppliers", keys=keys(boss))

# %%
table = shares.rename(columns=label).reset_index()
report.table(table, "suppliers", cell="(c) suppliers", keys=keys(boss))

# %%
lines = []
for each, part in bought.groupby("data", sort=False):
    counts = part["supplier"].value_counts(normalize=True)
    order = ", ".join(f"{label(name)} {100 * share:.0f} %" for name, share in counts.items())
    lines.append(f"- {each}: {len(counts)} of {len(STRATEGIES)} strategies supplied a batch that was bought: {order}.")
    favourites = part.groupby("budget", sort=False)["supplier"].agg(lambda names: label(names.mode().iloc[0]))
    lines.append(
        f"- {each}: most often " + ", ".join(f"{name} at {budget} budget" for budget, name in favourites.items()) + "."
    )
display(Markdown("**Reading.**\n\n" + "\n".join(lines)))

# %% [markdown]
# ## (d) What is it sensitive to?
#
# **Question.** How many candidates, which loss, how long a training, which batch, which strategies, and does it need the ground
# truth at all? **Protocol.** As in (b); one setting is changed at a time.
#
# **Number of candidates.** The candidates of a smaller $T$ are among those of a larger one, as long as both have bought the same.

# %%
chosen = [each for each in data if each.get("ablations")] or data[:1]
counts = {count: curves(["boss"], {"num_candidates": count}, chosen) for count in setting["candidates"]}
rows = pd.concat([part.assign(variant=count) for count, part in counts.items()])
paper = published("boss_ablations")
paper["accuracy"] /= 100
more = paper[paper["ablation"] == "candidates"].astype({"variant": int}).assign(seed=0)
figure = draw.ablation({"measured": rows, "published": more}, x="variant", label="Candidate batches T")
report.figure(figure, "candidates", cell="(d) ablations", keys=keys(rows))

# %%
table = pd.concat([
    mean_over_seeds(in_percent(rows), ["data", "variant"], ["accuracy"]).assign(source="measured"),
    in_percent(more).drop(columns=["seed", "ablation"]).assign(source="published"),
]).rename(columns={"variant": "candidates"})  # fmt: skip
table = table[["source", "data", "candidates", "accuracy", "accuracy_ci", "seeds"]]
print(f"published: {SOURCES['boss_ablations']}")
report.table(table, "candidates", cell="(d) ablations", keys=keys(rows))

# %%
of_counts = mean_over_seeds(in_percent(rows), ["data", "variant"], ["accuracy"])
show_cells(of_counts, more, ["data", "variant"], "candidates", cell="(d) ablations", keys=keys(rows))

# %% [markdown]
# **Loss, retraining, batch size, and what a look-ahead costs without ground truth.** All with fewer candidates, to save time.
# With *pseudo* labels a batch gets the labels that the head predicts, with *Monte-Carlo* labels those drawn from its
# probabilities; performance on the unlabelled instances is what the new head itself expects. The last two see no ground truth: they are
# strategies, made of the ordinary ones alone. One batch a strategy: $T$ is the number of strategies. The quick and the real
# preset stop after half of the acquisitions here.

# %%
few = setting["fewer"]
chosen = [each | {"cycles": min(each.get("cycles", 20), setting["shorter"])} for each in chosen]
ordinary = {"strategies": [name for name in STRATEGIES if not needs_oracle(name)], "performance_on": "unlabelled"}
VARIANTS = {
    "as in (b), fewer candidates": {},
    "loss: cross-entropy": {"loss": "cross_entropy"},
    "loss: Brier": {"loss": "brier"},
    "judged after 50 epochs": {"retraining_epochs": 50},
    "judged after 200 epochs": {"retraining_epochs": 200},
    "judged by Laplace update": {"retraining": "laplace_update"},
    "one batch a strategy": {"num_candidates": None},
    "no ground truth, pseudo labels": ordinary | {"look_ahead": "pseudo", "loss": "cross_entropy"},
    "no ground truth, Monte-Carlo labels": ordinary
    | {"look_ahead": "monte_carlo", "label_draws": 5, "loss": "cross_entropy"},
}
variants = pd.concat(
    [
        curves(["boss"], {"num_candidates": few} | options, chosen).assign(variant=name)
        for name, options in VARIANTS.items()
    ]
)
table = mean_over_seeds(in_percent(variants), ["data", "variant"], ["accuracy", "nll"])
table = table.sort_values("data", kind="stable")
report.table(table, "variants", cell="(d) ablations", keys=keys(variants))

# %%
losses = {"zero_one": "as in (b), fewer candidates", "cross_entropy": "loss: cross-entropy", "brier": "loss: Brier"}
of_losses = paper[paper["ablation"] == "loss"].assign(variant=lambda part: part["variant"].map(losses))
of_variants = table.drop(columns=["nll", "nll_ci"])
show_cells(of_variants, of_losses, ["data", "variant"], "losses", cell="(d) ablations", keys=keys(variants))

# %%
times = variants.dropna(subset="query_s").groupby(["data", "variant"], sort=False)["query_s"].mean().reset_index()
report.table(times, "variants_time", cell="(d) ablations", keys=keys(variants))

# %% [markdown]
# Batch size, up to the same number of labels: half and twice the batch, in twice and half as many acquisitions. The curves have other
# points then, so that a batch size is to be compared with the margin strategy beside it, not with another batch size.

# %%
sizes = []
for each in chosen:
    batch, cycles = each.get("batch_size", 10), each.get("cycles", 20)
    for factor in (0.5, 1, 2):
        changes = {"batch_size": int(batch * factor), "cycles": int(cycles / factor)}
        for name, options in (("boss", {"num_candidates": few}), ("margin", {})):
            sizes.append(curves([name], options, [each], **changes).assign(batch=int(batch * factor)))
sizes = pd.concat(sizes)
table = mean_over_seeds(in_percent(sizes), ["data", "strategy", "batch"], ["accuracy"])
report.table(table.sort_values("data", kind="stable"), "batch_size", cell="(d) ablations", keys=keys(sizes))

# %% [markdown]
# **Growing ensemble.** The strategies join one after another, in the order in which the paper lists them; the number of candidates
# stays the same.

# %%
grown = pd.concat([
    curves(["boss"], {"num_candidates": few, "strategies": list(STRATEGIES[:size])}, chosen).assign(size=size)
    for size in range(1, setting["growth"] + 1)
])  # fmt: skip
figure = draw.ablation({"measured": grown}, x="size", label="Strategies in the ensemble", log=False)
report.figure(figure, "growing_ensemble", cell="(d) ablations", keys=keys(grown))

# %%
table = mean_over_seeds(in_percent(grown), ["data", "size"], ["accuracy"])
table.insert(2, "joins", table["size"].map(lambda size: label(STRATEGIES[size - 1])))
report.table(table, "growing_ensemble", cell="(d) ablations", keys=keys(grown))

# %%
lines = []
percent = in_percent(variants)
reference = next(iter(VARIANTS))
for each, part in percent.groupby("data", sort=False):
    means = 100 * rows[rows["data"] == each].groupby("variant")["accuracy"].mean()
    lines.append(
        f"- {each}: accuracy with "
        + ", ".join(f"{count} candidates {value:.2f} %" for count, value in means.items())
        + "."
    )
    for name in list(VARIANTS)[1:]:
        lines.append(f"- {each}: {verdict(part, name, reference, by='variant', form='*{}*')}.")
    growth = 100 * grown[grown["data"] == each].groupby("size")["accuracy"].mean()
    lines.append(
        f"- {each}: growing from 1 to {growth.index[-1]} strategies takes it from {growth.iloc[0]:.2f} to {growth.iloc[-1]:.2f} %."
    )
display(Markdown("**Reading.** Mean accuracy over the learning curve:\n\n" + "\n".join(lines)))

# %% [markdown]
# ## (e) A closer look: the candidates of an acquisition
#
# **Question.** What does BoSS choose among? **Protocol.** Four clusters in the plane, 5 labels at random, batches of 5, a hidden layer of 128 units, 40
# candidate batches. On the maps dots are the pool, dark where many candidates hold them; rings are the batch that was bought, crosses the
# worst candidate. Below, the test error after each candidate, a line a strategy; all are judged with true labels, which TypiClass and
# DropQueryClass have seen before, when they propose.


# %%
def closer(data="blobs"):
    """A run in the plane, small enough to look at every candidate."""
    return experiment_of(
        dataset=data, strategy="boss", head="mlp", device="cpu", initial_size=5, batch_size=5, subset_size=None,
        cycles=5, allow_oracle=True, options={"num_candidates": 40, "retraining_epochs": 200} | setting["options"],
    )  # fmt: skip


offers = candidate_batches.views(closer())
figure = candidate_batches.figure(offers, (0, 1, 2, 4))
report.figure(figure, "candidate_batches", cell="(e) a closer look", keys=[])

# %%
display(Markdown(f"**Reading.** Acquisition by acquisition:\n\n{candidate_batches.summary(offers)}"))

# %% [markdown]
# In a notebook that is open in Jupyter the next cell shows a page to step through: a slider over the acquisitions, with the data to choose. It takes
# the keyboard: Tab reaches a control, arrow keys move it.

# %%
show({"data": ["blobs", "moons"]}, lambda **chosen: candidate_batches.views(closer(**chosen)))

# %% [markdown]
# ## (f) Verdicts
#
# **Question.** Which of the paper's claims hold on these data? **Protocol.** Each claim says where a mean lies, in the column *measure*: pairs that share
# their seed, a value a seed, averaged over the learning curve unless it says otherwise; over the data sets' means where there are several. The
# claim *holds* if the 95 % interval lies wholly there, is *contradicted* if it lies wholly outside, and else *open*: few seeds leave much open, whatever
# the means are. Intervals are corrected for the number of claims (Holm). "No worse" and "as good" allow for half a point of accuracy.
# The best strategy is the one with the highest mean over the seeds of a data set.

# %%
of_oracles, of_benchmark, by_loss = (
    100 * curve_means(part) for part in (compared, benchmark, variants.assign(strategy=variants["variant"]))
)
of_candidates = 100 * curve_means(rows, by="variant")
half, whole = sorted(setting["candidates"])[-2:]
of_leads = lead[lead["source"] == "measured"].pivot(index=["data", "seed"], columns="budget", values="difference")
suppliers = bought.groupby(["data", "seed"])["supplier"].agg(lambda names: names.value_counts(normalize=True).max())
seconds = compared.groupby(["data", "seed", "strategy"])["query_s"].mean().unstack("strategy")
seconds = seconds.reindex(columns=["boss", "cdo"])
claims = [
    Claim("BoSS is better than the oracle CDO", "comparison of oracles",
          "BoSS − CDO (points)", lead_over(of_oracles, "boss", ["cdo"]), above=0),
    Claim("BoSS is better than the oracle SAS", "comparison of oracles",
          f"BoSS − SAS with {steps:,} steps (points)", lead_over(of_oracles, "boss", ["sas"]), above=0),
    Claim("No strategy comes up to BoSS", "benchmark, tables of accuracies",
          "BoSS − the best strategy (points)", lead_over(of_benchmark, "boss", ["random", *strategies]), above=0),
    Claim("The lead of BoSS shrinks as the budget grows", "benchmark, tables of accuracies",
          "lead over the best strategy at low − at high budget (points)",
          100 * (of_leads["low"] - of_leads["high"]), above=0),
    Claim("No strategy supplies most of the batches that BoSS buys", "suppliers of the batches",
          "share of the batches that the most frequent supplier of a seed has (%)", 100 * suppliers, below=50),
    Claim("More candidate batches make BoSS better", "ablations, candidate batches",
          f"T = {whole} − T = {min(of_candidates)} (points)",
          lead_over(of_candidates, whole, [min(of_candidates)]), above=0),
    Claim("The gain of BoSS levels off as candidate batches are added", "ablations, candidate batches",
          f"T = {whole} − T = {half} (points)", lead_over(of_candidates, whole, [half]), above=-MARGIN, below=MARGIN),
    Claim("Judging batches by the zero-one loss is no worse than by the cross-entropy", "ablations, loss",
          "zero-one loss − cross-entropy (points)",
          lead_over(by_loss, losses["zero_one"], [losses["cross_entropy"]]), above=-MARGIN),
    Claim("BoSS takes less time than CDO", "comparison of oracles, times",
          "time of an acquisition, CDO ÷ BoSS", seconds["cdo"] / seconds["boss"], above=1, time=True),
]  # fmt: skip
for shown in judged(report, claims, cell="(f) verdicts", keys=grid.keys):
    display(shown)

# %% [markdown]
# ## How to cite
#
# Huseljic, D., Herde, M., Rauch, L., Hahn, P., Sick, B. and colleagues: *BoSS: A Best-of-Strategies Selector as an Oracle for Deep Active
# Learning*. arXiv 2603.13109. CDO: Werner, T. et al.: *A Cross-Domain Benchmark for Active Learning*, 2024. SAS: Zhou, Y. et al.: *Towards
# Understanding the Behaviors of Optimal Deep Active Learning Algorithms*. AISTATS 2021.
