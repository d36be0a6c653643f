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
# $p_{\max}$ against the rest, which leaves one row $\sqrt{p(1-p)}\,\phi$ and matrices of $D \times D$.
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
import importlib.util, os, subprocess, sys

if importlib.util.find_spec("dal_core") is None:  # As on Colab: this clone is installed, or else the project's address.
    source = ["-e", ".."] if os.path.exists("../pyproject.toml") else [os.environ.get("DAL_REPOSITORY", "git+https://github.com/OWNER/REPOSITORY")]  # fmt: skip
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *source], check=True)
    sys.path.append("..")

# %% [markdown]
# Parameters: change them here, or from the command line (`./run_all.sh --help`). `None` leaves the choice to the preset.

# %% tags=["parameters"]
preset = "quick"  # quick: minutes on a laptop; real, paper: the published protocols; tiny: a test of the cells
seeds = None  # number of seeds
datasets = None  # names out of the preset's data sets
encoders = ["dinov2"]  # of images: names that `dal data` lists, models of the hub, or local folders
strategies = ["random", "margin", "badge", "typiclust", "bait"]  # of the benchmark, experiment (c)
device = "auto"  # auto, cpu, cuda or mps
jobs = None  # processes side by side; None: one a core
data_dir = None  # folder with local data files
output_dir = None  # figures and tables go to <output_dir>/<preset>; None: figures/ of the project
results_dir = None  # finished runs are kept here; None: results/ of the project
fresh = False  # compute every run anew

# %%
import pandas as pd
import torch

import dal_core as dal
from dal_core import textbook
from dal_lab import companion
from dal_lab.companion.explorer import picks as explain
from dal_lab.companion.explorer.page import show
from dal_lab.companion.figures import curves as draw
from dal_lab.companion.figures.plane import few_points
from dal_lab.companion.figures.style import label
from dal_lab.companion.paper_numbers import published
from dal_lab.companion.statistics import curve_means, difference_to, in_percent
from dal_lab.companion.verdicts import MARGIN, Claim, lead_over
from dal_lab.studies.scaling import AXES, growth, sweep

# %%
session = companion.start("02_fast_fishing", globals())
setting = session.setting

# %% [markdown]
# ## The method, on a dozen points
#
# `dal_core.textbook` states BAIT as its paper does: the scores of all instances by the formula above, the instance with the largest
# one, and $M$ with it. Twice the batch is picked; then those are removed again whose removal costs least.

# %%
session.method(textbook.bait.scores, textbook.bait.updated, textbook.bait.forward)

# %%
points = torch.randn(12, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
known, classes = torch.tensor([[-1.5, -0.5], [1.5, 0.5]], dtype=torch.float64), torch.tensor([0, 1])
weight = torch.tensor([[-1.0, -0.3], [1.0, 0.3]], dtype=torch.float64)  # a head that two labels may have taught
x_u, x_l = (textbook.bait.factors(phi, phi @ weight.T, "binary") for phi in (points, known))
x, M, F = textbook.bait.start(x_u, x_l, batch_size=2)
pictures = {}
for count in range(1, 5):
    scores = textbook.bait.scores(x, textbook.bait.forward(x, M, F, count - 1)[1], F, sign=1)
    picked, after = textbook.bait.forward(x, M, F, count)
    pictures[f"tr(MF) = {torch.trace(after @ F):.2f}"] = scores, picked.tolist()
kept = textbook.bait.backward(x, picked, after, F, batch_size=2).tolist()
session.section("(0) method")
caption = (
    "Dark where the score before the last pick is high; numbers are the order of the picks, large markers two labels."
)
session.figure(few_points(pictures, points, known, classes), "method", caption=caption)

# %% [markdown]
# `bait_select`, which the experiments run, finds the same batch without changing $M$: the picks enter through Woodbury's identity, and a
# step reads the features once.

# %%
fast = dal.bait_select(points, points @ weight.T, known, known @ weight.T, 2, approximation="binary").tolist()
print(f"the textbook's batch: {sorted(kept)}, bait_select's: {sorted(fast)}")

# %% [markdown]
# ## (a) How many classes does the expectation need?
#
# **Question.** The exact Fisher information is an expectation over all $K$ classes. Are the few most probable ones enough?
# **Protocol.** The paper's: RAdam, 200 epochs, the head retrained from its initial weights in each of 20 cycles; batch and initial size
# belong to the data set. BAIT with rows for $c = 1, 2, 5$ classes, their probabilities renormalised, and with all of them, out of
# a random subset of 1000 of the pool. Beside it mean time of an acquisition, each run on one core.


# %%
def tables(rows, experiment, name):
    """Measured accuracies with their differences to random selection, published ones of the same data, and times."""
    paper = published("fast_fishing").rename(columns={"method": "strategy"})
    paper = paper[paper["experiment"] == experiment].assign(strategy=lambda table: table["strategy"].map(label))
    session.table(session.means(difference_to(rows, "random"), values=["accuracy", "difference"]), name, rows)
    session.cells(session.means(rows, values=["accuracy"]), paper, ["data", "strategy"], name, rows)
    session.table(session.times(rows), f"{name}_time", rows)


session.section("(a) top-c")
top = session.curves(lambda about: ["random", *(f"bait_{name}" for name in about["approximations"])])
figure = draw.learning_curves(top, reference="bait_exact")
session.figure(figure, "top_classes", top, "BAIT over the c most probable classes, and over all.")
session.figure(draw.accuracy_against_time(top), "top_classes_time", top, "Up and to the left is better.")

# %%
tables(top, "top_classes", "top_classes")

# %%
session.reading(
    session.leads(top, "bait_top_1", ["random", "bait_top_2", "bait_top_5", "bait_exact"]),
    session.apart(top, "bait_top_1", "bait_exact", "One class is {:+.1f} points from all of them"),
)

# %% [markdown]
# ## (b) Which approximation of the likelihood is good enough?
#
# **Question.** The binary likelihood knows one probability an instance, the diagonal keeps no relation between parameters.
# What does each lose? **Protocol.** As in (a).

# %%
session.section("(b) likelihood")
likelihoods = session.curves(
    lambda about: ["random", "bait_diagonal", "bait", *(["bait_exact"] if "exact" in about["approximations"] else [])]
)
caption = "BAIT with three likelihoods, and random selection."
session.figure(draw.learning_curves(likelihoods), "likelihoods", likelihoods, caption)
tables(likelihoods, "likelihood", "likelihoods")

# %%
session.reading(
    session.leads(likelihoods, "bait", ["random", "bait_diagonal", "bait_exact"]),
    session.apart(likelihoods, "bait", "bait_exact", "The binary likelihood is {:+.1f} points from the exact one"),
)

# %% [markdown]
# ## (c) Benchmark
#
# **Question.** How does BAIT compare with other strategies when nothing is subsampled? **Protocol.** As in (a), but every
# strategy sees the whole pool. The second figure has the differences to random selection, paired by seed.

# %%
session.section("(c) benchmark")
benchmark = session.curves(dict.fromkeys(["random", *strategies]), subset_size=None)
session.figure(draw.learning_curves(benchmark), "benchmark", benchmark, "Accuracy as labels are bought.")

# %%
figure = draw.learning_curves(difference_to(benchmark, "random").query("strategy != 'random'"), y="difference")
for panel in figure.axes:
    panel.axhline(0, color="black", linewidth=0.8)
session.figure(figure, "benchmark_differences", benchmark, "The same less random selection with the same seed.")

# %%
tables(benchmark, "benchmark", "benchmark")

# %%
session.reading(
    session.ranking(benchmark) + session.leads(benchmark, "bait", strategies),
    session.place(benchmark, "bait"),
)

# %% [markdown]
# ## (d) What an acquisition costs
#
# **Question.** How do time and memory of one acquisition grow with the pool ($N$), the features ($D$), the classes ($K$) and the
# batch ($b$)? **Protocol.** Made-up features, 100 labelled instances, one core, nothing beside it; time is the median of three
# acquisitions, memory what is held in tensors besides the features. One size is varied at a time, the others are the same for
# all curves. Exponents $a$ of the growth $\sim N^a$ are fitted to the upper half of the sizes. Expected for binary BAIT: $O((N + m) D^2)$ once and
# $O(N D)$ in each of $2b$ steps, nothing in $K$; for exact BAIT $O((N + m) (KD)^2 + (KD)^3)$ once and $O(N K^2 D)$ a step. With one row an instance
# ($c = 1$) a small pool is worked on in the Gram matrix of all rows, whose side depends on neither $K$ nor $D$.

# %%
session.section("(d) scaling")
costed = {name: session.experiment(name) for name in ("bait", "bait_top_1", "bait_diagonal", "bait_exact")}
doubled = {axis: [setting.costs[name] * 2**i // 2 for i in range(4)] for axis, name in AXES.items()}
scaling = sweep(session.serial, costed, setting.costs, doubled, repeats=setting.repeats)
others = ", ".join(f"{axis} = {setting.costs[name]}" for axis, name in AXES.items())
caption = f"One size is varied in each panel, the others stay: {others}."
session.figure(draw.costs(scaling, y="query_s"), "scaling_time", scaling, caption)
session.figure(draw.costs(scaling, y="peak_bytes"), "scaling_memory", scaling, caption)

# %%
session.table(growth(scaling, "query_s", setting.costs), "scaling_time", scaling)
scaling = scaling.assign(peak_mb=scaling["peak_bytes"] / 1e6)
session.table(growth(scaling, "peak_mb", setting.costs), "scaling_memory", scaling)

# %% [markdown]
# The strategies of (c) on pools of growing size, with more features and larger batches.

# %%
shown = {name: session.experiment(name) for name in dict.fromkeys(["random", *strategies])}
pools = sweep(session.serial, shown, setting.pool_costs, {"N": setting.pools}, repeats=setting.repeats)
session.figure(draw.costs(pools, y="query_s"), "pool_size_time", pools, "Time on pools of growing size.")
wide = in_percent(pools).pivot(index="size", columns="strategy", values="query_s").add_suffix("_s").reset_index()
session.table(wide.rename(columns={"size": "pool"}), "pool_size_time", pools)

# %%
exponents = growth(pools, "query_s").set_index("strategy")["exponent of N"].drop("random")
largest = pools[pools["size"] == max(setting.pools)].set_index("strategy")["query_s"]
session.reading(
    [f"{label(name)}: $N^{{{value:.2f}}}$, {largest[name]:.2g} s at the end." for name, value in exponents.items()],
    f"Of these, {label(exponents.idxmax())} grows fastest with the pool; an exponent of 1 is linear growth.",
    f"Growth of the time from a pool of {min(setting.pools):,} to one of {max(setting.pools):,} instances:",
)

# %% [markdown]
# ## (e) A closer look: what each strategy picks, and why
#
# **Question.** What does a strategy see in the pool, and what does it make of it? **Protocol.** Four clusters in the plane, 5 labels at random, batches of 5, a
# hidden layer of 128 units, the whole pool. Above each panel the number of labels and the accuracy on the test split.


# %%
def closer(strategy, data="blobs"):
    """What a strategy sees and picks in a run in the plane, acquisition by acquisition."""
    return explain.views(session.experiment(strategy, dataset=data, **setting.closer))


session.section("(e) a closer look")
looks = {name: closer(name) for name in ["random", "margin", "badge", "typiclust", "bait", "bait_diagonal"]}
figure = explain.figure(looks, (0, 1) if preset == "tiny" else (0, 1, 3, 5))
session.figure(
    figure, "picks", caption="Dots are the pool, dark where the strategy's measure is high; rings the picks."
)

# %%
correct = {label(name): views[-1].correct for name, views in looks.items()}
home = f"In this one run {max(correct, key=correct.get)} ends highest; the picture explains picks, not ranks."
session.reading(explain.summary(looks, 1), home, "The picks with 10 labels, in the second column:")

# %% [markdown]
# In a notebook that is open in Jupyter the next cell shows a page to step through: a slider over the acquisitions, with strategy and data to
# choose, and beside the map how the scores of the picks stand among those of the pool. It takes the keyboard: Tab reaches a control, arrow
# keys move it.

# %%
order = ["bait", "bait_exact", "bait_top_1", "bait_diagonal", "random", "margin", "badge", "coreset", "typiclust"]
show({"strategy": {label(name): name for name in order}, "data": ["blobs", "moons"]}, closer)

# %% [markdown]
# ## (f) Verdicts
#
# **Question.** Which of the paper's claims hold on these data? The growth of time and memory in (d) is measured once, without seeds, and has no verdict.

# %%
of_top, of_likelihoods, of_benchmark = (100 * curve_means(rows) for rows in (top, likelihoods, benchmark))
rivals = [name for name in strategies if name not in ("random", "bait")]
of_times = pd.concat([top, likelihoods]).drop_duplicates(["run", "cycle"])
seconds = of_times.groupby(["data", "seed", "strategy"])["query_s"].mean().unstack("strategy")
seconds = seconds.reindex(columns=["bait", "bait_top_1", "bait_exact", "bait_diagonal"])
session.section("(f) verdicts")
session.verdicts([
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
])  # fmt: skip

# %% [markdown]
# ## How to cite
#
# Huseljic, D., Hahn, P., Herde, M., Rauch, L., Sick, B.: *Fast Fishing: Approximating BAIT for Efficient and Scalable Deep Active
# Image Classification*. ECML PKDD 2024. arXiv 2404.08981. BAIT itself: Ash, J., Goel, S., Krishnamurthy, A., Kakade, S.: *Gone
# Fishing: Neural Active Learning with Fisher Embeddings*. NeurIPS 2021.
