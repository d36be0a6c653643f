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
import importlib.util, os, subprocess, sys  # noqa: E401, I001 - the package is installed where it is missing, as on Colab

if importlib.util.find_spec("dal_core") is None:
    source = ["-e", ".."] if os.path.exists("../pyproject.toml") else [os.environ.get("DAL_REPOSITORY", "git+https://github.com/OWNER/REPOSITORY")]
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
from dal_lab.studies.scaling import ScalingStudy, slope

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
generator = torch.Generator().manual_seed(4)
points = torch.randn(12, 2, generator=generator, dtype=torch.float64)
known, classes = torch.tensor([[-1.5, -0.5], [1.5, 0.5]], dtype=torch.float64), torch.tensor([0, 1])
weight = torch.tensor([[-1.0, -0.3], [1.0, 0.3]], dtype=torch.float64)  # a head that two labels may have taught
of_pool, of_labelled = (textbook.bait.factors(x, x @ weight.T, "binary") for x in (points, known))
x, M, F = textbook.bait.start(of_pool, of_labelled, batch_size=2)
pictures, picked = {}, []
for step in range(4):
    scores = textbook.bait.scores(x, M, F, sign=1)
    picked.append(int(scores.index_fill(0, torch.tensor(picked, dtype=torch.int64), -torch.inf).argmax()))
    pictures[f"pick {step + 1}: tr(MF) = {torch.trace(M @ F):.2f}"] = scores, list(picked)
    M = textbook.bait.updated(x[picked[-1]], M, sign=1)
kept = textbook.bait.backward(x, torch.tensor(picked), M, F, batch_size=2)

session.section("(m) method")
session.figure(
    few_points(pictures, points, known, classes), "method",
    caption="Twelve instances, dark where the score is high, and two labelled ones, marked by class. Numbers are the order of the picks, of which "
    f"{' and '.join(str(picked.index(int(i)) + 1) for i in kept)} are kept for a batch of two.",
)  # fmt: skip

# %% [markdown]
# `bait_select`, which the experiments below run, finds the same batch without changing $M$: the picks enter through Woodbury's identity, and a
# step reads the features once.

# %%
import dal_core as dal

fast = dal.bait_select(points, points @ weight.T, known, known @ weight.T, 2, approximation="binary")
print(f"textbook: {sorted(kept.tolist())}, bait_select: {sorted(fast.tolist())}")

# %% [markdown]
# ## (a) How many classes does the expectation need?
#
# **Question.** The exact Fisher information is an expectation over all $K$ classes. Are the few most probable ones enough?
# **Protocol.** The paper's: RAdam, 200 epochs, the head retrained from its initial weights in each of 20 cycles; batch and initial size
# belong to the data set. BAIT with rows for $c = 1, 2, 5$ classes, their probabilities renormalised, and with all of them, out of
# a random subset of 1000 of the pool.

# %%
VARIANTS = {
    "bait_top_1": ("bait", {"approximation": "top", "top_classes": 1}),
    "bait_top_2": ("bait", {"approximation": "top", "top_classes": 2}),
    "bait_top_5": ("bait", {"approximation": "top", "top_classes": 5}),
    "bait_exact": ("bait", {"approximation": "exact"}),
    "bait_diagonal": ("bait", {"approximation": "diagonal"}),
}


def curves(names_of, subset):
    """Rows of the strategies and variants of BAIT that `names_of` gives for a data set's approximations."""
    parts = []
    for each in session.data:
        names = names_of(each["about"].get("approximations", []))
        runs = {name: VARIANTS.get(name, (name, {})) for name in names}
        parts.append(session.curves(runs, data=[each], cycles=setting.cycles, optimiser="radam", subset_size=subset))
    return pd.concat(parts)


def beside_the_paper(rows, experiment, name):
    """The table of measured accuracies, and the published ones of the same data beside them."""
    with_random = difference_to(rows, "random")
    session.table(session.means(with_random, values=["accuracy", "difference"]), name, rows)
    paper = published("fast_fishing").rename(columns={"method": "strategy"})
    paper = paper[paper["experiment"] == experiment].assign(strategy=lambda table: table["strategy"].map(label))
    session.cells(session.means(rows, values=["accuracy"]), paper, ["data", "strategy"], name, rows)


session.section("(a) top-c")
top = curves(lambda known: ["random", *(f"bait_{name}" for name in known)], setting.subset)
session.figure(draw.learning_curves(top), "top_classes", top, "Binary BAIT aside, each curve is BAIT over the c most probable classes.")

# %%
beside_the_paper(top, "top_classes", "top_classes")

# %% [markdown]
# What it costs: mean time of an acquisition, each run on one core.

# %%
session.figure(draw.accuracy_against_time(top), "top_classes_time", top, "Up and to the left is better.")

# %%
session.table(session.times(top), "top_classes_time", top)

# %%
means = 100 * curve_means(top)
few = (means["bait_top_2"] - means.reindex(columns=["bait_exact"])["bait_exact"]).dropna() if "bait_top_2" in means else pd.Series()
session.reading(
    session.leads(top, "bait_top_1", ["random", "bait_top_2", "bait_top_5", "bait_exact"]),
    "Where all classes can be had, two of them are "
    + (f"{few.mean():+.2f} points from them on average." if len(few) else "not compared in this preset."),
)

# %% [markdown]
# ## (b) Which approximation of the likelihood is good enough?
#
# **Question.** The binary likelihood knows one probability an instance, the diagonal keeps no relation between parameters.
# What does each lose? **Protocol.** As in (a).

# %%
session.section("(b) likelihood")
likelihoods = curves(
    lambda known: ["random", "bait_diagonal", "bait", *(["bait_exact"] if "exact" in known else [])], setting.subset
)
session.figure(draw.learning_curves(likelihoods), "likelihoods", likelihoods, "BAIT with three likelihoods, and random selection.")

# %%
beside_the_paper(likelihoods, "likelihood", "likelihoods")

# %%
session.table(session.times(likelihoods), "likelihoods_time", likelihoods)
