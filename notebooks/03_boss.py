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
# Companion to *BoSS: A Best-of-Strategies Selector as an Oracle for Deep Active Learning* (Huseljic, Hahn, Herde, Sandrock and Sick, University of
# Kassel; [arXiv 2603.13109](https://arxiv.org/abs/2603.13109)).
#
# An oracle knows the labels that a strategy would have to pay for. It is no strategy, but it tells how much better a strategy could be. In each cycle
# BoSS has $T$ candidate batches $\mathcal{B}_1, \dots, \mathcal{B}_T$, each from a strategy chosen at random, asked on a random part of the pool. For
# each a head $f_t$ is trained on the labelled instances $\mathcal{L}$ and the batch, with its **true** labels, and the batch is bought after which
# the head makes the fewest errors on the **test** split $\mathcal{T}$:
#
# $$t^* = \arg\min_{t}\ \frac{1}{|\mathcal{T}|} \sum_{(x, y) \in \mathcal{T}} \mathbb{1}\big[\arg\max_k f_t(x)_k \neq y\big], \qquad
# f_t \text{ trained on } \mathcal{L} \cup \{(x, y_x) : x \in \mathcal{B}_t\}.$$
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
encoders = ["dinov2", "swinv2"]  # of images: also models of the hub, or local folders
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
import pandas as pd
import torch

import dal_core as dal
from dal_core import textbook
from dal_core.oracles.boss import CLASS_AWARE, STRATEGIES, boss, draw_candidates
from dal_core.randomness import integer_seed
from dal_lab import companion
from dal_lab.companion.budgets import BUDGETS, leads, records, side_by_side, standing, with_budget
from dal_lab.companion.explorer import candidates as candidate_batches
from dal_lab.companion.explorer.page import show
from dal_lab.companion.figures import curves as draw
from dal_lab.companion.figures.plane import few_heads
from dal_lab.companion.figures.style import label
from dal_lab.companion.paper_numbers import bank_names, beside, published
from dal_lab.companion.statistics import curve_means, in_percent, mean_over_seeds
from dal_lab.companion.verdicts import MARGIN, Claim, lead_over

# %%
session = companion.start("03_boss", globals())
setting = session.setting
candidates = {"num_candidates": num_candidates or min(100, max(setting.candidates))}

# %% [markdown]
# ## The method, on a dozen points
#
# `dal_core.textbook` judges one candidate batch after another: a head is trained anew with its true labels, and tested. Below, twelve unlabelled
# instances in the plane, of which strategies propose seven batches of three, and 60 of a test split. `boss`, which the experiments run, proposes the
# same batches and trains all $T$ heads at once, as one batched computation.

# %%
session.method(textbook.judge, textbook.retrain)
centres, drawn = torch.tensor([[-2.0, -0.6], [2.0, -0.6], [0.0, 1.6]]).double(), torch.Generator().manual_seed(20)
classes, of_test = torch.arange(15) % 3, torch.arange(60) % 3
points, test = (centres[k] + torch.randn(len(k), 2, generator=drawn, dtype=torch.float64) for k in (classes, of_test))
few = {"labelled": [0, 1, 2], "labels": classes[:3], "hidden_labels": classes[3:], "test": (test, of_test)}
few["learner"] = dal.Linear(dal.Training("sgd", drop_last=False))
head = textbook.retrain(dal.Snapshot.of(points, **few), bought=[], epochs=200, seed=0)
snapshot = dal.Snapshot.of(points, weight=head[0], bias=head[1], **few)
offers, judging = draw_candidates(snapshot, 3, torch.Generator().manual_seed(20), num_candidates=7)
seed = integer_seed(judging)
errors = textbook.judge(snapshot, offers.batches, epochs=50, seed=seed)
heads = {"Before": (*head, [])}
for t, name in enumerate(offers.strategies):
    after = textbook.retrain(snapshot, offers.batches[t], epochs=50, seed=seed)
    heads[f"{t + 1} {label(name)}: error {errors[t]:.0%}"] = *after, offers.batches[t].tolist()
session.section("(0) method")
caption = "What the head decides before, and after each batch. Dots are the test split; picks have a red rim, the best a frame."
session.figure(few_heads(heads, snapshot, marked=1 + int(errors.argmin())), "method", caption=caption)
context = dal.Context()
batch = boss(snapshot, 3, torch.Generator().manual_seed(20), num_candidates=7, context=context)
apart = (torch.tensor(context.record["losses"]) - errors).abs().max()
print(f"textbook: {offers.batches[errors.argmin()].tolist()}, boss: {batch.tolist()}; errors differ by {apart:.0e}")

# %% [markdown]
# ## (a) BoSS beside other oracles
#
# **Question.** How good is BoSS, and what does a query cost? **Protocol.** That of the paper, in all experiments: SGD with Nesterov momentum, 200
# epochs, the head retrained from its initial weights in each cycle; batch and initial size belong to the data set. Judging trains for 50 epochs.
# *CDO* (Werner et al. 2024) builds a batch greedily: for each place in it 20 random instances are tried, and the best is taken if it lowers the
# cross-entropy on the test split, else the margin strategy's choice. That is 20 trained heads for each instance of a batch, where BoSS has $T$ for
# the whole batch: the larger the batch, the more CDO may try. *SAS* (Zhou et al. 2021) anneals the order of all acquisitions by the mean accuracy
# over the curve, once before the first acquisition; the published search takes 25 000 steps and 5000 greedy ones, the smaller presets take far fewer,
# at a temperature that falls as much in total. Times are those of one core; SAS's is that of the whole search, divided by the number of acquisitions.

# %%
session.section("(a) oracles")
compared = pd.concat([session.curves(["random", *oracles]), of_boss := session.curves("boss", candidates)])
session.figure(draw.learning_curves(compared), "oracles", compared, "Three oracles, and random selection.")

# %%
session.table(session.means(compared), "oracles", compared)
session.table(session.times(compared), "oracles_time", compared)
steps, greedy = (setting.variants["sas"][name] for name in ("steps", "greedy_steps"))
about = f"Mean accuracy over the learning curve; SAS with {steps:,} steps and {greedy:,} greedy ones:"
session.reading(session.leads(compared, "boss", [*oracles, "random"]), standing(compared, "boss"), about)

# %% [markdown]
# ## (b) How far are the strategies from it?
#
# **Question.** How much could a strategy still gain, and when? **Protocol.** Every strategy against BoSS; low, mid and high budget are thirds of the
# learning curve. The lead is that over the strategy with the best mean in that third, paired by seed.

# %%
session.section("(b) benchmark")
benchmark = with_budget(pd.concat([session.curves(dict.fromkeys(["random", *strategies])), of_boss]))
session.figure(draw.learning_curves(benchmark), "benchmark", benchmark, "What strategies reach, and what BoSS does.")
paper = published("boss_dinov2").assign(data=lambda table: bank_names(table["data"]), seed=0)
paper = paper[paper["strategy"].isin([*strategies, "random", "boss"])]
measured = session.means(benchmark, ["budget", "strategy"], ["accuracy"])
table = side_by_side(measured, {"accuracy": "{} (%)", "accuracy_ci": "{}_ci"})
table["all (%)"] = table[[f"{budget} (%)" for budget in BUDGETS]].mean(axis=1)
session.table(table.assign(seeds=setting.seeds), "benchmark", benchmark)
session.cells(measured, in_percent(paper), ["data", "budget", "strategy"], "benchmark", benchmark)

# %%
lead, of_paper = leads(benchmark, "boss"), leads(paper, "boss")
sources = pd.concat([lead.assign(source="measured"), of_paper.assign(source="published")])
session.figure(draw.leads(sources), "leads", benchmark, "The lead of BoSS over the best strategy of each budget.")
table = mean_over_seeds(in_percent(lead), ["data", "budget", "strategy"], ["difference"])
columns = {"difference": "{} (points)", "difference_ci": "{}_ci", "strategy": "best at {}"}
session.table(side_by_side(table, columns).assign(seeds=setting.seeds), "leads", benchmark)
lines = []
for data, part in (100 * curve_means(benchmark)).groupby(level="data", sort=False):
    above = (part["boss"] > part.drop(columns="boss").max(axis=1)).sum()
    lines.append(f"{data}: BoSS is above every strategy for {above} of {len(part)} seeds.")
means, sets = 100 * of_paper.groupby("budget")["difference"].mean(), of_paper["data"].nunique()
shape = ", ".join(f"{means[budget]:.1f} points at {budget}" for budget in BUDGETS)
lines.append(f"For context, the paper's mean lead over {sets} sets of images: {shape} budget.")
session.reading(lines, standing(benchmark, "boss"))

# %% [markdown]
# ## (c) Which strategy supplies the batches?
#
# **Question.** If BoSS were one strategy in disguise, that one would be enough. **Protocol.** Every strategy proposes about a tenth of the candidates
# (the dashed line); counted is what was bought. TypiClass and DropQueryClass see true labels themselves.

# %%
session.section("(c) suppliers")
bought = with_budget(records(of_boss))
counts = bought.groupby(["data", "budget"], sort=False)["supplier"].value_counts().unstack("supplier", fill_value=0)
counts = counts.reindex(columns=list(STRATEGIES), fill_value=0)
figure = draw.shares(counts, expected=100 / len(STRATEGIES))
session.figure(figure, "suppliers", of_boss, "Who proposed the batches that BoSS (oracle) has bought.")
shares = 100 * counts.div(counts.sum(axis=1), axis=0).rename(columns=lambda name: f"{label(name)} (%)")
session.table(shares.assign(batches=counts.sum(axis=1)).reset_index(), "suppliers", of_boss)
lines, homes = [], []
for data, part in counts.groupby(level="data", sort=False):
    each, aware = part.sum().sort_values(ascending=False), part[list(CLASS_AWARE)].to_numpy().sum()
    lines.append(f"{data}: " + ", ".join(f"{label(name)} {count}" for name, count in each.items()) + ".")
    first = f"{label(each.index[0])}, {each.iloc[0]} of {each.sum()} batches; the two that see true labels have {aware}"
    homes.append(f"on {data} of {first}, where {each.sum() / len(each):.1f} were an equal share")
session.reading(lines, f"The largest share is {'. It is '.join(homes)}.", "Batches that were bought, over all seeds:")

# %% [markdown]
# ## (d) What is it sensitive to?
#
# **Question.** How many candidates, which loss, how long a training, which batch, which strategies, and does it need the ground truth at all?
# **Protocol.** As in (b); one setting is changed at a time.
#
# **Number of candidates.** The candidates of a smaller $T$ are among those of a larger one, as long as both have bought the same.


# %%
def varied(name, options):
    """Runs of BoSS with each of these options; the column `name` has their keys."""
    return pd.concat([session.curves("boss", each, chosen).assign(**{name: key}) for key, each in options.items()])


session.section("(d) ablations")
chosen = session.chosen("ablations")
of_counts = varied("candidates", {count: {"num_candidates": count} for count in setting.candidates})
paper = published("boss_ablations").assign(data=lambda table: bank_names(table["data"]), seed=0)
more = paper[paper["ablation"] == "candidates"].astype({"variant": int}).rename(columns={"variant": "candidates"})
panels = {"measured": of_counts, "published": beside(of_counts, more)[0].eval("accuracy = accuracy / 100")}
figure = draw.ablation(panels, x="candidates", label="Candidate batches T")
session.figure(figure, "candidates", of_counts, "BoSS (oracle) with more candidates.")
session.table(table := session.means(of_counts, ["candidates"], ["accuracy"]), "candidates", of_counts)
session.cells(table, more, ["data", "candidates"], "candidates", of_counts)

# %% [markdown]
# **Loss, retraining, and what a look-ahead costs without ground truth.** All with fewer candidates, to save time. With *pseudo* labels a batch gets
# the labels that the head predicts, with *Monte-Carlo* labels those drawn from its probabilities; performance on the unlabelled instances is what the
# new head itself expects. These two see no ground truth: they are strategies, made of the ordinary ones alone. One batch a strategy: $T$ is the
# number of strategies. The quick and the real preset stop after half of the acquisitions here.

# %%
fewer = {"num_candidates": setting.fewer}
chosen = [each | {"cycles": min(each.get("cycles", 20), setting.shorter)} for each in chosen]
options = setting.ablations | {"one batch a strategy": {"num_candidates": None}}
variants, plain = varied("variant", {name: fewer | each for name, each in options.items()}), next(iter(options))
session.table(session.means(variants, ["variant"]), "variants", variants)
session.table(session.times(variants, "variant").drop(columns="longest_s"), "variants_time", variants)
losses = dict(zip(["zero_one", "cross_entropy", "brier"], options, strict=False))
of_losses = paper[paper["ablation"] == "loss"].assign(variant=lambda table: table["variant"].map(losses))
session.cells(session.means(variants, ["variant"], ["accuracy"]), of_losses, ["data", "variant"], "losses", variants)

# %% [markdown]
# **Batch size**, up to the same number of labels: half and twice the batch, in twice and half as many acquisitions. The curves have other points
# then, so that a batch size is to be compared with the margin strategy beside it, not with another batch size. **Growing ensemble.** The strategies
# join one after another, in the order of the paper; the number of candidates stays the same.

# %%
sizes = [
    session.curves(name, options, [each], batch_size=size, cycles=each["cycles"] * batch // size).assign(batch=size)
    for each in chosen
    for batch in [each.get("batch_size", 10)]
    for size in (batch // 2, batch, 2 * batch)
    for name, options in (("boss", fewer), ("margin", {}))
]
session.table(session.means(pd.concat(sizes), ["strategy", "batch"], ["accuracy"]), "batch_size", pd.concat(sizes))
growing = {size: fewer | {"strategies": list(STRATEGIES[:size])} for size in range(1, setting.growth + 1)}
grown = varied("size", growing)
figure = draw.ablation({"measured": grown}, x="size", label="Strategies in the ensemble", log=False)
session.figure(figure, "growing_ensemble", grown, "BoSS (oracle) whose candidates come from ever more strategies.")
table = session.means(grown, ["size"], ["accuracy"])
table.insert(2, "joins", table["size"].map(lambda size: label(STRATEGIES[size - 1])))
session.table(table, "growing_ensemble", grown)
lines = session.leads(variants, plain, options, by="variant", form="*{}*")
for part, by in ((of_counts, "candidates"), (grown, "size")):
    for data, means in (100 * curve_means(part, by=by)).groupby(level="data", sort=False).mean().iterrows():
        lines.append(f"{data}, {by}: " + ", ".join(f"{entry} → {value:.1f} %" for entry, value in means.items()) + ".")
session.reading(lines, standing(variants, plain, by="variant"))

# %% [markdown]
# ## (e) A closer look: the candidates of an acquisition
#
# **Question.** What does BoSS choose among? **Protocol.** Four clusters in the plane, 5 labels at random, batches of 5, a hidden layer of 128 units,
# 40 candidate batches. On the maps dots are the pool, dark where many candidates hold them; rings are the bought batch, crosses the worst candidate.
# Below, a line a strategy; all are judged with true labels, which TypiClass and DropQueryClass have seen before, when they propose.


# %%
def closer(data="blobs"):
    """The candidates of a run in the plane, small enough to look at every one."""
    options = {"num_candidates": 40, "retraining_epochs": 200}
    return candidate_batches.views(session.experiment("boss", options, dataset=data, **setting.closer))


session.section("(e) a closer look")
figure = candidate_batches.figure(offers := closer(), (0, 1, 2, 4))
session.figure(figure, "candidate_batches", caption="Candidates in the plane, and the test error after each of them.")
lowered = ", ".join(str(int((each.losses < each.loss_before).sum())) for each in offers)
home = f"In this one run {lowered} of 40 candidates lower the test error, acquisition by acquisition."
session.reading(candidate_batches.summary(offers), home, "What was bought:")

# %% [markdown]
# In Jupyter the next cell shows a page with a slider over the acquisitions and the data to choose: Tab reaches a control, arrow keys move it.

# %%
show({"data": ["blobs", "moons"]}, closer)

# %% [markdown]
# ## (f) Verdicts
#
# **Question.** Which of the paper's claims hold on these data?

# %%
of_oracles, of_benchmark = (100 * curve_means(part) for part in (compared, benchmark))
of_candidates, by_loss = 100 * curve_means(of_counts, by="candidates"), 100 * curve_means(variants, by="variant")
half, whole = sorted(setting.candidates)[-2:]
of_leads = lead.pivot(index=["data", "seed"], columns="budget", values="difference")
suppliers = bought.groupby(["data", "seed"])["supplier"].agg(lambda names: names.value_counts(normalize=True).max())
seconds = compared.pivot_table("query_s", ["data", "seed"], "strategy").reindex(columns=["boss", "cdo"])
session.section("(f) verdicts")
session.verdicts([
    Claim("BoSS is better than the oracle CDO", "comparison of oracles",
          "BoSS − CDO (points)", lead_over(of_oracles, "boss", ["cdo"]), above=0),
    Claim("BoSS is better than the oracle SAS", "comparison of oracles",
          f"BoSS − SAS with {steps:,} steps (points)", lead_over(of_oracles, "boss", ["sas"]), above=0),
    Claim("No strategy comes up to BoSS", "benchmark, tables of accuracies",
          "BoSS − the best strategy (points)", lead_over(of_benchmark, "boss", ["random", *strategies]), above=0),
    Claim("The lead of BoSS shrinks as the budget grows", "benchmark, tables of accuracies",
          "lead over the best strategy at low − at high budget (points)", 100 * (of_leads["low"] - of_leads["high"]), above=0),
    Claim("No strategy supplies most of the batches that BoSS buys", "suppliers of the batches",
          "share of the batches that the most frequent supplier of a seed has (%)", 100 * suppliers, below=50),
    Claim("More candidate batches make BoSS better", "ablations, candidate batches",
          f"T = {whole} − T = {min(of_candidates)} (points)", lead_over(of_candidates, whole, [min(of_candidates)]), above=0),
    Claim("The gain of BoSS levels off as candidate batches are added", "ablations, candidate batches",
          f"T = {whole} − T = {half} (points)", lead_over(of_candidates, whole, [half]), above=-MARGIN, below=MARGIN),
    Claim("Judging batches by the zero-one loss is no worse than by the cross-entropy", "ablations, loss",
          "zero-one loss − cross-entropy (points)", lead_over(by_loss, losses["zero_one"], [losses["cross_entropy"]]), above=-MARGIN),
    Claim("BoSS takes less time than CDO", "comparison of oracles, times",
          "time of an acquisition, CDO ÷ BoSS", seconds["cdo"] / seconds["boss"], above=1, time=True),
])  # fmt: skip

# %% [markdown]
# ## How to cite
#
# Huseljic, D., Hahn, P., Herde, M., Sandrock, C., Sick, B.: *BoSS: A Best-of-Strategies Selector as an Oracle for Deep Active Learning*. arXiv
# 2603.13109. CDO: Werner, T. et al.: *A Cross-Domain Benchmark for Active Learning*, 2024. SAS: Zhou, Y. et al.: *Towards Understanding the
# Behaviors of Optimal Deep Active Learning Algorithms*. AISTATS 2021.
