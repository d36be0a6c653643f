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
# # Laplace updates: learning from a few new labels without retraining
#
# Companion to *Efficient Bayesian Updates for Deep Active Learning via Laplace Approximations*
# (Huseljic, Herde, Rauch, Hahn, Huang, Kottke, Vogt and Sick, University of Kassel; ECML PKDD 2025, [arXiv 2210.06112](https://arxiv.org/abs/2210.06112)).
#
# Active learning (AL) buys labels in batches and retrains the model after each one, which takes so long that within a batch the model stays blind to
# what it has just learnt. The paper approximates the posterior over the last layer by a Gaussian whose covariance $\Sigma$ is shared by all classes,
# and takes in a new label with one Newton step:
#
# $$\Sigma \leftarrow \Sigma - \frac{\Sigma\phi\,(\Sigma\phi)^\top}{1 + \phi^\top\Sigma\phi}, \qquad
# W \leftarrow W + \gamma\,(\mathrm{onehot}(y) - p)\,(\Sigma\phi)^\top .$$
#
# | | question | figure |
# |---|---|---|
# | (a) | what does an update do to a decision surface? | decision surfaces |
# | (b) | how close to retraining does an update come, and how much faster is it? | updating study |
# | (c) | how much does the step $\gamma$ matter? | ablation |
# | (d) | do batches get better when the model is updated after each pick? | sequential batches |
# | (e) | how good could a batch be? | look-ahead |
# | (f) | would a few plain gradient steps do as well? And for actively chosen samples? | gradient steps, active samples |
# | (g) | what does a strategy make of a head that learns while it picks? | a closer look, to step through in Jupyter |
# | (h) | which of the paper's claims hold on these data? | verdicts |

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
strategies = ["random", "margin", "badge", "bait"]  # of the sequential batches, experiment (d)
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
from dal_lab.companion.explorer import updates
from dal_lab.companion.explorer.page import show
from dal_lab.companion.figures import curves as draw
from dal_lab.companion.figures.plane import surfaces
from dal_lab.companion.figures.style import label
from dal_lab.companion.paper_numbers import published
from dal_lab.companion.statistics import curve_means, paired
from dal_lab.companion.verdicts import MARGIN, Claim, lead_over
from dal_lab.studies.updating_tables import at_equal_time, at_tuned_steps, in_settings, recovered, speedups, studies

# %%
session = companion.start("01_laplace_updates", globals())
setting = session.setting

# %% [markdown]
# ## The method, on a dozen points
#
# `dal_core.textbook` states the update as the paper does, sample by sample: a new label makes $\Sigma$ smaller in the direction of the sample's features,
# and moves $W$ along $\Sigma\phi$, the further the less the head expected it. `dal.second_order_update` takes all new samples in one call: the same.

# %%
session.method(textbook.precision_matrix, textbook.second_order_update)
points = torch.randn(12, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
classes = (points.sum(dim=1) > 0).long()
weight = torch.tensor([[-0.8, 0.4], [0.8, -0.4]], dtype=torch.float64)  # a head that four labels may have taught
states = [(weight, textbook.covariance_matrix(textbook.precision_matrix(points[:4])))]
for i in (4, 5, 6):
    states.append(textbook.second_order_update(*states[-1], points[[i]], classes[[i]], gamma=10.0))
pictures = {}
for new, (W, _) in enumerate(states):
    right = ((points @ W.T).argmax(dim=1) == classes).sum()
    pictures[f"{new} new: {right} of 12 right"] = lambda x, W=W: x @ W.T, 4 + new
session.section("(0) method")
caption = "Small: labels that the head knows; red rim: new ones; hollow: unlabelled. Right: one standard deviation of the weights."
session.figure(surfaces(pictures, points, classes, [(W[1], S) for W, S in states]), "method", caption=caption)
fast = dal.second_order_update(*states[0], points[4:7], classes[4:7], gamma=10.0)
apart = [f"{(one - other).abs().max():.0e}" for one, other in zip(fast, states[-1], strict=True)]
print(f"W and Σ of the textbook after three labels and those of one call differ by {' and '.join(apart)} at most")

# %% [markdown]
# ## (a) What an update does to a decision surface
#
# **Question.** Does the updated model look like the retrained one? **Protocol.** Two half moons, 12 labels, a hidden layer of 128 units; 8 new
# labels arrive. Shown are the model before, after the second-order update of its last layer ($\gamma = 10$), and after retraining.

# %%
session.section("(a) decision surfaces")
session.method(updates.half_moons)
moons, order, heads = updates.half_moons()
test, truth = moons.test_features, moons.test_labels
right = {name: 100 * dal.accuracy(head.logits(test), truth) for name, (head, _) in heads.items()}
pictures = {f"{name}: {right[name]:.1f} % correct": (head.logits, known) for name, (head, known) in heads.items()}
figure = surfaces(pictures, moons.train_features[order], moons.train_labels[order])
session.figure(figure, "decision_surfaces", caption="One run. Shades: confidence; red rim: new; hollow: unlabelled.")
lines = [f"{name}: {right[name] - right['Before']:+.1f} points." for name in list(heads)[1:]]
_, updated, retrained = (head.logits(test).argmax(dim=1) for head, _ in heads.values())
home = f"Updated and retrained head agree on {100 * (updated == retrained).double().mean():.1f} % of the test split; one toy set and one seed rank nothing."
session.reading(lines, home, "With 8 new labels the test accuracy changes:")

# %% [markdown]
# ## (b) Updating study
#
# **Question.** How much of what retraining would learn from a few new labels does an update learn, and how fast? **Protocol.** A head is trained on an
# initial labelled set (RAdam, 200 epochs). One to ten new samples are drawn at random, several times a seed. Compared are the base head as it is,
# the Monte-Carlo update (re-weighted hypotheses), the first-order and the second-order update, and retraining from scratch. Every method's step size is
# tuned in the same way, for each initial size: the best mean accuracy on a fifth of the train split that is held out. Gains are paired with the base
# head of the same seed; flips are test predictions that differ from its own; times are those of one head on one core.

# %%
shared, found = setting.study | setting.gradients | {"options": setting.options, "device": device}, {}
for selection in ("random", "margin"):  # the latter for (f)
    runs = studies(session.data, setting.initial_sizes, setting.seeds, selection=selection, **shared)
    found[selection] = session.grid.rows(runs, f"updating study, {selection} samples")
methods = ["base", "monte_carlo", "first_order", "second_order", "retraining"]
study, active = (at_tuned_steps(rows, methods) for rows in found.values())
gains = study[study["method"] != "base"]
session.section("(b) updating study")
session.figure(draw.updating_study(gains, y="gain"), "updating_gain", study, "What a few new labels bring.")
session.figure(draw.updating_study(gains, y="flips"), "updating_flips", study, "How many predictions they change.")
values = ["accuracy", "gain", "nll", "flips"]
session.table(session.means(study, ["initial_size", "method", "step"], values), "updating_study", study)
spent = speedups(gains, ["data", "initial_size"])
session.table(spent, "update_time", study)
by_number = speedups(gains, ["data", "initial_size", "n_new"]).query("method != 'retraining'").assign(seed=0)
figure = draw.updating_study(by_number, y="speedup", band=False)
session.figure(figure, "update_time", study, "How many times faster than retraining an update is.")
least, most = spent[spent["method"] == "second_order"]["speedup"].agg(["min", "max"])
home = f"The update, {least:.0f} to {most:.0f} times faster (median times), is {{:+.1f}} points from retraining"
home = session.apart(gains, "second_order", "retraining", home, "method")
lines = session.leads(study, "second_order", methods, by="method")
session.reading(lines, home, "Mean over all initial sizes and numbers of new samples:")

# %% [markdown]
# **Beside the published study** (table of accuracies), which is of other data, so that only shapes compare: which share of the accuracy that
# retraining gains does each update recover?

# %%
session.section("(b) beside the paper")
paper = published("laplace_updates")
measured = recovered(
    100 * study.groupby(["data", "initial_size", "method"])["accuracy"].mean().unstack("method")[methods]
)
printed = recovered(paper.pivot(index="initial_size", columns="method", values="accuracy")[methods])
session.table(measured, "recovered_gain", study)
session.table(printed.assign(source="published, other data"), "recovered_gain_published")
here, there = (table.groupby("method", sort=False)["recovered"].median() for table in (measured, printed))
lines = [f"{label(name)}: {share:.0f} %, published {there[name]:.0f} %." for name, share in here.items()]
home = (
    f"The second-order update recovers {here['second_order']:.0f} % of it; of a gain below a point a share says little."
)
session.reading(lines, home, "Share of retraining's gain that an update recovers, median over initial sizes:")

# %% [markdown]
# ## (c) The step size
#
# **Question.** How much does $\gamma$ matter? **Protocol.** As in (b), the second-order update with each $\gamma$.

# %%
session.section("(c) gamma ablation")
ablation = found["random"].query("method == 'second_order'")
base, update, retraining = (study[study["method"] == name] for name in ("base", "second_order", "retraining"))
figure = draw.step_sizes(ablation, base=base, retraining=retraining)
session.figure(figure, "gamma_ablation", study, "The second-order update by its step.")
session.table(session.means(ablation, ["initial_size", "gamma"], ["accuracy", "nll", "flips"]), "gamma_ablation", study)
named = in_settings(ablation).assign(gamma=ablation["gamma"].map("γ = {:g}:".format))
home = session.place(named, "γ = 10:", "gamma").replace(":", "") + " The verdict in (h) says how sure that is."
session.reading(session.ranking(named, "gamma"), home, "Mean over the numbers of new samples:")

# %% [markdown]
# ## (d) Sequential batches
#
# **Question.** Do batches get better when the head is updated after each pick, with the label that the annotator gives? **Protocol.** 10 initial labels,
# acquisitions of 10, out of a random subset of 1000 of the pool; retraining after each batch. A sequential batch picks one instance at a time and
# updates the head in between (second-order, prior precision 1), once with the published $\gamma = 10$ and once with the $\gamma$ that (b) tuned for the
# smallest initial size. The random strategy does not look at the head: its curves show what chance alone does. BAIT here is the binary one, the
# paper's is exact: a second table has both, for the first acquisitions alone where that saves time. NLL is that of the head, and of mean-field
# predictions, which the paper's runs are measured by.

# %%
tuned_gamma = update.groupby("dataset")["step"].first()  # of the smallest size
several, of_bait = [], []
for each in session.data:
    own = float(tuned_gamma[each["dataset"]])
    each["about"]["options"] = {"lookahead_tuned": {"gamma": own}}  # for (e)
    for kind, gamma in {"plain": None, "updates, γ = 10": 10.0, "updates, γ tuned": own}.items():
        options = {"update_every": 1, "update_gamma": gamma} if gamma else {}
        several.append(session.curves(strategies, options, [each]).assign(batch=kind))
        if kind != "updates, γ = 10":
            both = session.curves(["bait", "bait_exact"], options, [each], cycles=setting.exact_cycles)
            of_bait.append(both.assign(batch=kind))
curves, of_bait = pd.concat(several), pd.concat(of_bait)
session.section("(d) sequential batches")
panels = curves.assign(data=curves["strategy"].map(label) + ", " + curves["data"], strategy=curves["batch"])
caption = "Accuracy as labels are bought. Random looks at no head: its curve with γ = 10 lies exactly under the one with γ tuned."
session.figure(draw.learning_curves(panels), "sequential_batches", curves, caption)
table = session.means(curves, ["strategy", "batch"], ["accuracy", "nll", "nll_mean_field"])
session.table(table.sort_values(["data", "strategy"]), "sequential_batches", curves)
choosing = curves[curves["strategy"] != "random"].groupby(["data", "seed", "cycle", "batch"], sort=False)["accuracy"]
over_all = choosing.mean().reset_index().rename(columns={"batch": "strategy"})
session.table(session.means(of_bait, ["strategy", "batch"]), "sequential_bait", of_bait)
home = " ".join(session.leads(over_all, "updates, γ tuned", ["plain"]))
lines = session.leads(of_bait[of_bait["batch"] != "plain"], "bait", ["bait_exact"])
lines += [line for kind in panels["strategy"].unique() for line in session.leads(panels, kind, ["plain"])]
session.reading(lines, f"Mean over the strategies but random, {home}")

# %% [markdown]
# ## (e) Look-ahead: how good could a batch be?
#
# **Question.** How far are strategies from what a batch could bring? **Protocol.** As in (d). In every cycle 300 candidate batches are made: a third at
# random, a third with one instance from each of ten k-means clusters, a third out of the instances with a margin uncertainty above the mean. The one
# is bought after whose update by its true labels the cross-entropy on the test split is lowest: an oracle, not a strategy.

# %%
session.section("(e) look-ahead")
ahead = session.curves(["random", "margin", "lookahead_10", "lookahead_tuned"])
session.figure(draw.learning_curves(ahead), "lookahead", ahead, "The look-ahead knows labels, the others do not.")
session.table(session.means(ahead), "lookahead", ahead)
session.section("(d) and (e)")
both = pd.concat([curves, ahead[ahead["strategy"] == "lookahead_tuned"].assign(batch="plain")])
acquisition = both.dropna(subset="query_s").groupby(["data", "strategy", "batch"])["query_s"].median().reset_index()
session.table(acquisition, "acquisition_time", both)
home = session.apart(ahead, "lookahead_tuned", "margin", "The look-ahead, an oracle, is {:+.1f} points from Margin")
session.reading(session.leads(ahead, "lookahead_tuned", ["random", "margin", "lookahead_10"]), home)

# %% [markdown]
# ## (f) The baselines that reviewers would miss
#
# **Question.** Would a few plain gradient steps do what the update does? **Protocol.** As in (b). From the base head, 1, 3, 10 or 30 full-batch gradient
# steps (momentum 0.9, cosine rate) on the new samples only, on all samples, or on a mixture of the new samples and as many old ones, at tuned learning
# rates. The second table is at equal time: of each kind of steps the largest number that takes no longer than the update, or else the smallest one.
#
# **Actively chosen samples.** New samples that a strategy chose are not i.i.d. Does the update still work? As in (b), but the new samples are those with
# the largest margin uncertainty in a random half of the pool.

# %%
session.section("(f) gradient steps")
steps = at_tuned_steps(found["random"], ["gradient_all", "gradient_mixture", "gradient_new"])
caption = "Dashed the methods of (b), of which retraining is no upper line. Mean over the numbers of new samples."
session.figure(draw.gradient_steps(steps, pd.concat([base, update, retraining])), "gradient_steps", study, caption)
session.table(session.means(steps, ["initial_size", "method", "steps", "rate"], values), "gradient_steps", study)
equal = at_equal_time(steps, update)
session.table(equal, "gradient_equal_time", study)
longest = in_settings(pd.concat([steps.query("method == 'gradient_all' and steps == 30"), update, retraining]))
against = paired(longest, "retraining", by="method").query("method == 'gradient_all'")
above, sure = (against["difference"] > half for half in (0, against["difference_ci"]))
line = "retraining is no upper line here" if above.any() else "retraining stays the upper line"
home = f"""30 plain gradient steps on all samples end above retraining in {above.sum()} of {len(against)} settings, in {sure.sum()} by more than the
seeds' scatter: {line}. At equal time the second-order update is above gradient steps in
{(equal["second_order"] > equal["accuracy"]).sum()} of {len(equal)} comparisons."""
lines = session.leads(longest, "gradient_all", ["second_order", "retraining"], by="method")
session.reading(lines, home, "30 gradient steps on all samples, mean over the numbers of new samples:")

# %%
session.section("(f) active samples")
figure = draw.updating_study(active[active["method"] != "base"], y="gain")
session.figure(figure, "active_samples", active, "What a few new labels bring if margin chooses them.")
session.table(session.means(active, ["initial_size", "method", "step"], values), "active_samples", active)
both = pd.concat([study.assign(data="random, " + study["data"]), active.assign(data="active, " + active["data"])])
home = "The update is " + session.apart(both, "second_order", "retraining", "{:+.1f} points from retraining", "method")
lines = session.leads(both, "second_order", ["base", "retraining"], by="method")
session.reading(lines, home, "Random and active samples, mean over initial sizes and numbers of new samples:")

# %% [markdown]
# ## (g) A closer look: one label after another
#
# **Question.** What does a strategy make of a head that learns while it picks? **Protocol.** The half moons of (a), 8 labels, batches of 8, a hidden
# layer of 128 units, margin with an update after each pick. Above: the updated head; below: retraining on the same labels; in numbers: test accuracy. In
# Jupyter a page follows to step through the picks of two batches, with strategy, $\gamma$ and data to choose: Tab reaches a control, arrow keys move it.


# %%
def closer(gamma, strategy="margin", data="moons"):
    """A run in the plane that updates its head after each pick."""
    options = {"update_every": 1, "update_gamma": gamma}
    return updates.views(session.experiment(strategy, options, dataset=data, **setting.closer))


session.section("(g) a closer look")
one_by_one = {gamma: closer(gamma) for gamma in (1.0, 10.0)}
caption = "One run. Rings: the batch so far, with the next pick; crosses: what margin would have picked at once."
session.figure(updates.figure(one_by_one, (0, 2, 5, 7)), "one_by_one", caption=caption)
right = ", ".join(f"{views[7].correct} with γ = {gamma:g}" for gamma, views in one_by_one.items())
home = f"With seven of the labels the updated head is right on {right}; one run explains picks and ranks nothing."
session.reading(updates.summary(one_by_one, 7), home, "Before the eighth pick of the first batch:")
show({"strategy": ["margin", "badge", "bait"], "gamma": [10.0, 1.0, 5.0, 30.0], "data": ["moons", "blobs"]}, closer)

# %% [markdown]
# ## (h) Verdicts
#
# **Question.** Which of the paper's claims hold on these data? Steps are those that (b) tuned; methods are compared over all sizes and numbers of samples.

# %%
of_methods, of_active = (100 * curve_means(each, by="method", value="gain") for each in (study, active))
of_steps = curve_means(ablation, by="gamma").reindex(columns=[10.0])[10.0]
seconds = study.groupby(["data", "seed", "method"])["update_s"].median().unstack("method")
session.section("(h) verdicts")
session.verdicts([
    Claim("A second-order update recovers most of what retraining gains", "updating study, table of accuracies",
          "gain of the update − half the gain of retraining (points)", of_methods["second_order"] - of_methods["retraining"] / 2, above=0),
    Claim("A second-order update is as good as retraining", "updating study, table of accuracies",
          "second-order update − retraining (points)", lead_over(of_methods, "second_order", ["retraining"]), above=-MARGIN, below=MARGIN),
    Claim("A second-order update is better than a first-order one", "updating study, table of accuracies",
          "second-order − first-order update (points)", lead_over(of_methods, "second_order", ["first_order"]), above=0),
    Claim("A second-order update is better than a Monte-Carlo one", "updating study, table of accuracies",
          "second-order − Monte-Carlo update (points)", lead_over(of_methods, "second_order", ["monte_carlo"]), above=0),
    Claim("The step size γ of an update matters and has to be tuned to the data", "ablation of γ",
          "update with tuned γ − update with γ = 10 (points)", 100 * (curve_means(study, by="method")["second_order"] - of_steps), above=0),
    Claim("An update after each pick makes better batches", "sequential batches",
          "updates, γ tuned − plain batch, mean over the strategies but random (points)", 100 * lead_over(curve_means(over_all), "updates, γ tuned", ["plain"]), above=0),
    Claim("A second-order update also recovers most of what retraining gains from actively chosen samples", "updating study",
          "gain of the update − half the gain of retraining, samples chosen by margin (points)", of_active["second_order"] - of_active["retraining"] / 2, above=0),
    Claim("A second-order update is at least ten times faster than retraining", "updating study, times",
          "time of retraining ÷ time of the update (median)", seconds["retraining"] / seconds["second_order"], above=10, time=True),
])  # fmt: skip

# %% [markdown]
# ## How to cite
#
# Huseljic, D., Herde, M., Rauch, L., Hahn, P., Huang, Z., Kottke, D., Vogt, S., Sick, B.: *Efficient Bayesian Updates for Deep Active Learning via
# Laplace Approximations*. ECML PKDD 2025. arXiv 2210.06112.
