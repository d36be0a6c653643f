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
# (Huseljic, Herde, Rauch, Hahn and Sick, University of Kassel; CVPR 2026, [arXiv 2511.22344](https://arxiv.org/abs/2511.22344)).
#
# No strategy is the best one on every data set and at every budget. REFINE does not choose among strategies: it lets all of them clean the pool
# $P_0$. Stage 1, *progressive filtering*: in each of $d = 5$ rounds every one of nine strategies $s$ queries $T = 11$ batches of $b$ instances, each
# from a random part of the current pool; all that was queried is the next pool,
#
# $$P_r = \bigcup_{s} \bigcup_{t=1}^{T} s(A_{s,t}, b), \qquad A_{s,t} \subset P_{r-1} \text{ at random}, \qquad
# |A_{s,t}| = \max(b, \lfloor\alpha\,|P_{r-1}|\rfloor),$$
#
# with $\alpha = 0.4$, and 5000 in the first round. Stage 2: one strategy (uncertainty herding) picks the batch from $P_d$. No true labels are seen.
#
# | | question | figure |
# |---|---|---|
# | (a) | how does REFINE compare with its strategies, and with other ensembles? | learning curves, ranks |
# | (b) | how often does one strategy beat another? | win rates |
# | (c) | does a strategy choose better from the filtered pool? | differences |
# | (d) | what is it sensitive to? | alpha, depth, batches |
# | (e) | and when classes are rare? | long-tailed pools |
# | (f) | does it matter in which of its forms a method is? | table |
# | (g) | what does the filter leave? | a closer look, to step through in Jupyter |
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
encoders = ["dinov2_registers", "clip", "dinov3"]  # of images: also models of the hub, or local folders
ensembles = ["tcm", "selectal", "tailor", "autoal"]  # beside REFINE in (a) and (b)
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
from dal_core.ensembles.members import STRATEGIES
from dal_lab import companion
from dal_lab.companion import ensembles as summary
from dal_lab.companion.explorer import rounds
from dal_lab.companion.explorer.page import show
from dal_lab.companion.figures import comparisons as compare
from dal_lab.companion.figures import curves as draw
from dal_lab.companion.figures.plane import points_left
from dal_lab.companion.figures.style import label
from dal_lab.companion.paper_numbers import SOURCES, expected_misses, published
from dal_lab.companion.statistics import blocks, curve_means, in_percent, paired
from dal_lab.companion.verdicts import MARGIN, Claim, lead_over

# %%
session = companion.start("04_refine", globals())
setting, members = session.setting, session.setting.members
cheaper, shorter = setting.cheaper, setting.shorter
for part, options in {"(c)": setting.filtering, "(d) and (e)": cheaper}.items():
    print(f"REFINE in {part}: {options or 'as in the paper'}; changes to the runs: {shorter or 'none'}")

# %% [markdown]
# ## The method, on two dozen points
#
# `dal_core.textbook` states the filter as algorithm 1 does: one query after another, each on its own random part of the pool. Three strategies are
# enough to see it. `dal.progressive_filter`, which the experiments run, has fast strategies and asks those of a round on several threads.

# %%
session.method(textbook.progressive_filter, textbook.margin_scores, textbook.k_center_greedy)

# %%
points = torch.randn(26, 2, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
points[:2] = torch.tensor([[-1.5, -0.5], [1.5, 0.5]])  # the labelled ones
logits = points @ torch.tensor([[-1.0, 1.0], [-0.3, 0.3]], dtype=torch.float64)  # of a head they may have taught
snapshot = dal.Snapshot.of(points, logits, labelled=[0, 1], labels=[0, 1])
queries = {
    "margin": lambda part, b, draw: textbook.highest(textbook.margin_scores(part.probabilities), b),
    "coreset": lambda part, b, draw: textbook.k_center_greedy(part.features, part.labelled_features, b),
    "random": lambda part, b, draw: torch.randperm(len(part.features), generator=draw)[:b],
}
how = {"depth": 3, "num_batches": 6, "alpha": 0.4, "initial_size": 16}
left = textbook.progressive_filter(snapshot, 2, torch.Generator().manual_seed(0), queries, **how)
last, scores = left[-1], textbook.margin_scores(snapshot.probabilities)
herded = textbook.herding_select(snapshot.features[last], points[:2], 2, gamma=1.0, uncertainty=scores[last])
figure = points_left(left, scores, last[herded].tolist(), snapshot.features, points[:2], [0, 1])
session.section("(0) method")
caption = "Dark: small margin; dots: filtered out; large markers: two labels; numbers: picks of uncertainty herding."
session.figure(figure, "method", caption=caption)
fast = dal.progressive_filter(snapshot, 2, torch.Generator().manual_seed(0), strategies=list(queries), **how)
print(f"the textbook leaves {last.tolist()}, dal.progressive_filter {fast.positions.tolist()}")

# %% [markdown]
# ## (a) REFINE, its strategies, and other ensembles
#
# **Question.** Is the ensemble better than its best member? **Protocol.** In all runs the paper's: SGD with Nesterov momentum, 200 epochs, the head
# retrained from its initial weights in each cycle; batch and initial size belong to the data set, and the whole pool is there to choose from (digits:
# 1000 instances of it). The nine strategies alone, REFINE, and: *TCM* (TypiClust in the first three acquisitions, then margin), *SelectAL* (finds
# out which budget it is at by what hurts most to lose, and takes TypiClust, a random batch or BADGE), *TAILOR* (a bandit draws the strategy of each
# instance), *AutoAL* (a network that weighs the strategies' picks by how hard they are to fit). In the third table p is that of a paired t-test
# against REFINE, also corrected (Holm) for the comparisons on a data set.

# %%
session.section("(a) learning curves")
others = session.curves(dict.fromkeys([*members, *ensembles]))
refined = session.curves("refine", setting.refining)
everything = pd.concat([others, refined])  # REFINE last, as in the paper
alone = others[others["strategy"].isin(members)]
best = alone.groupby("strategy", sort=False)["accuracy"].mean().idxmax()
few = everything[everything["strategy"].isin([*ensembles, "random", best, "refine"])]
both = pd.concat([alone, refined])
session.figure(draw.learning_curves(both), "strategies", both, "REFINE and each of its strategies alone.")
caption = f"REFINE, other ensembles, and of single strategies {label(best)}, the best, and random selection."
session.figure(draw.learning_curves(few), "ensembles", few, caption)

# %%
session.table(session.means(everything), "accuracy", everything)
session.table(session.times(everything), "time", everything)
tests = paired(in_percent(everything), label("refine"))
over = {"difference": "over REFINE (points)", "difference_ci": "over REFINE (points)_ci"}
session.table(tests.rename(columns=over), "tests", everything)

# %%
lines, home = summary.beside_best(everything, "refine", members)
lines += summary.below(tests, "refine")
ranked = blocks(everything)
if compare.enough_blocks(ranked):
    session.figure(compare.ranks(ranked), "ranks", everything, "Average ranks of all strategies.")
else:
    lines.append(f"No ranks: {len(ranked)} blocks of data set and seed are too few, {compare.BLOCKS} are needed.")
session.reading(lines, f"{session.place(everything, 'refine')} {home}")

# %% [markdown]
# ## (b) Win rates
#
# **Question.** How often is one strategy above another, whatever the data set and the budget? **Protocol.** Each cell is the share of data sets, seeds
# and acquisitions in which the strategy of the row has the higher accuracy than that of the column; ties count for neither, and the cycle before the
# first acquisition, in which all are equal, is left out. The published matrix is over the paper's data sets: where ours are others, the order can
# be compared, not the numbers. Cell by cell that cycle counts as a tie, as it seems to do in the published matrix.

# %%
session.section("(b) win rates")
paper = published("refine_win_rates").set_index("strategy")
sides = summary.beside_published(everything, paper)
caption = "How often the strategy of a row beats that of a column."
session.figure(compare.win_rates(sides), "win_rates", everything, caption)
session.table(summary.win_rate_means(sides, "refine"), "win_rates", everything)
cells = summary.win_rate_cells(everything, paper, same_data=preset == "paper")
session.table(cells[(cells["strategy"] == "refine") | (preset == "paper")], "win_rate_cells", everything)
lines, home = summary.win_rate_reading(sides, "refine")
lines += [expected_misses(cells)] if preset == "paper" else []
session.reading(lines, home, f"Shares of data sets, seeds and acquisitions. Published: {SOURCES['refine_win_rates']}.")

# %% [markdown]
# ## (c) Does a strategy choose better from the filtered pool?
#
# **Question.** Is it the filter or the final strategy that makes REFINE good? **Protocol.** Each strategy picks its batches from the whole pool, or
# from what progressive filtering has left of it; paired by seed, p also corrected (Holm) for the comparisons on a data set. The quick and the real
# preset stop after five acquisitions here and in (d) and (e), and save time by fewer batches a round where the first output says so. The second
# table has the instances left after each round, mean over seeds and acquisitions.

# %%
session.section("(c) filtering")
pools = [alone.assign(pool="whole pool (%)")]
for name in members:
    final = {} if name == "unc_herding" else {"final_strategy": name}
    stop = shorter if final or setting.filtering != setting.refining else {}  # REFINE itself has been run in (a).
    left = session.curves("refine", setting.filtering | final, **stop)
    pools.append(left.assign(strategy=name, pool="filtered pool (%)"))
pools = pd.concat(pools).query(f"cycle <= {shorter.get('cycles', 20)}")
gains = summary.by_strategy(pools, "filtered pool (%)", "whole pool (%)", "pool")
figure = compare.differences(gains, "Filtered − whole pool (points)")
session.figure(figure, "filtered", pools, "Right of 0 a strategy chooses better from what is left.")
in_points = {"difference": "difference (points)", "difference_ci": "difference (points)_ci"}
session.table(gains.rename(columns=in_points), "filtered", pools)
left = pools[(pools["pool"] == "filtered pool (%)") & (pools["strategy"] == members[-1])]
session.table(summary.pool_sizes(left), "pool_sizes", pools)
session.reading(*summary.changes(gains, "the filtered pool", "the whole one"))

# %% [markdown]
# ## (d) What is it sensitive to?
#
# **Question.** How large a part of the pool should a strategy see ($\alpha$), how many rounds, how many batches, which batch size, and what do bad
# strategies in the ensemble do? **Protocol.** As in (c); one setting is changed at a time. Batch sizes go up to the same number of labels, with the
# best single strategy beside them, because the curves of two batch sizes have other points. Other ensembles than the paper's nine: these with
# core-set and entropy; without the best of them; random batches alone, which filter at random; no filter at all.

# %%
session.section("(d) ablations")
chosen, ablations, sizes = session.chosen("ablations"), [], []
PAPER = {"alpha": 0.4, "depth": 5, "num_batches": 100}  # left out of the options, so that it is one run
TEXTS = {"alpha": "Part of the pool α", "depth": "Rounds of filtering", "num_batches": "Batches a round"}
for name, text in TEXTS.items():
    rows, plain = pd.DataFrame(), name.removeprefix("num_")
    for value in setting.varied[name]:
        options = {key: each for key, each in (cheaper | {name: value}).items() if each != PAPER[key]}
        rows = pd.concat([rows, session.curves("refine", options, chosen, **shorter).assign(value=value)])
    figure = draw.ablation({plain: rows}, x="value", label=text, log=plain == "batches")
    session.figure(figure, plain, rows, "REFINE, mean over the learning curve, as one setting changes.")
    ablations.append(rows.assign(option=plain.replace("batches", "batches a round"), value=rows["value"].astype(str)))
ablations = pd.concat(ablations)
varied = session.means(ablations, ["option", "value"])
session.table(varied, "ablations", ablations)

# %%
for each in chosen:
    batch, cycles = each.get("batch_size", 10), shorter.get("cycles", each.get("cycles", 20))
    for factor in (0.5, 1, 2):
        changes = {"batch_size": int(batch * factor), "cycles": int(cycles / factor)}
        for name, options in (("refine", cheaper), (best, {})):
            sizes.append(session.curves(name, options, [each], **changes).assign(batch=changes["batch_size"]))
sizes = pd.concat(sizes)
session.table(session.means(sizes, ["strategy", "batch"], ["accuracy"]), "batch_size", sizes)
without = f"without {label(best)}"
setting.variants[without] = {"strategy": "refine", "strategies": [name for name in STRATEGIES if name != best]}
made_of = ["the nine", "with core-set and entropy", without, "random batches alone", "no filter"]
filters = session.curves(made_of, cheaper, chosen, **shorter).rename(columns={"strategy": "ensemble"})
session.table(session.means(filters, ["ensemble"]), "ensembles_of_the_filter", filters)
spans = varied.groupby(["data", "option"], sort=False)["accuracy"].agg(lambda means: means.max() - means.min())
lines = [f"{data}: {option} matters by {span:.2f} points." for (data, option), span in spans.items()]
lines += session.leads(filters, "the nine", made_of[1:], by="ensemble", form="*{}*")
home = f"The largest effect of an option is {spans.max():.1f} points ({spans.idxmax()[1]}); a mean accuracy is known to"
session.reading(lines, f"{home} ± {varied['accuracy_ci'].median():.1f} points (median).")

# %% [markdown]
# ## (e) Rare classes
#
# **Question.** Does REFINE help when some classes are rare? **Protocol.** The classes of the pool are thinned by factors from 1 to 10, in an order
# that is drawn for each seed; the test split stays as it is. The long tail leaves fewer than half of the instances.

# %%
session.section("(e) long tail")
tails = [session.curves(members, {"imbalance": 10}, **shorter)]
long_tail = pd.concat([*tails, session.curves("refine", cheaper | {"imbalance": 10}, **shorter)])
session.figure(draw.learning_curves(long_tail), "long_tail", long_tail, "As in (a), where classes are rare.")
session.table(session.means(long_tail), "long_tail", long_tail)
lines, home = summary.beside_best(long_tail, "refine", members)
session.reading(lines, f"{session.place(long_tail, 'refine')} {home}")

# %% [markdown]
# ## (f) Forms of one method
#
# **Question.** Herding weighs, with the kernel $K$, the coverage $c$ and the uncertainty $u$, every covered instance in its definition,
# $\frac{1}{n} \sum_j u_j \max(K_{ij} - c_j, 0)$; the papers' results rest on $u_i \frac{1}{n} \sum_j \max(K_{ij} - c_i, 0)$. BAIT sums the
# Fisher information over the pool; the released code of this paper sums means over batches of 32. Does it matter? **Protocol.** As in (a), REFINE as
# in (d), in the other form: herding's definition, and BAIT's batch means, alone and within REFINE (in the paper preset the sum).

# %%
session.section("(f) forms")
names = [name for name in setting.forms if name in members]
usual = [alone[alone["strategy"].isin(names)], session.curves("refine", cheaper, **shorter)]
others = [session.curves(name, setting.forms[name]) for name in names]
others.append(session.curves("refine", cheaper | setting.forms["refine"], **shorter))
forms = pd.concat([pd.concat(usual).assign(form="as above"), pd.concat(others).assign(form="other form")])
by_form = session.means(forms, ["strategy", "form"]).sort_values(["data", "strategy"], kind="stable")
session.table(by_form, "forms", forms)
form_gains = summary.by_strategy(forms, "other form", "as above", "form")
session.reading(*summary.changes(form_gains, "*the other form*", "*the form above*"))

# %% [markdown]
# ## (g) A closer look: the pool, round after round
#
# **Question.** What does the filter leave? **Protocol.** Two half moons, 5 labels at random, batches of 5, a hidden layer of 128 units. Each strategy
# queries 3 batches a round, in the first one from 200 instances each, since the pool has no more than 745. In Jupyter the second cell shows a page
# to step through: a slider over rounds and acquisitions, data and $\alpha$ to choose. Tab reaches a control, arrow keys move it.


# %%
def closer(data="moons", alpha=0.4):
    """A run in the plane, small enough to look at every round."""
    options = {"num_batches": 27, "initial_size": 200, "alpha": alpha}
    return rounds.views(session.experiment("refine", options, dataset=data, **setting.closer))


session.section("(g) a closer look")
cleaned = closer()
figure = rounds.figure(cleaned, range(0, setting.closer["cycles"], 2), (0, 1, 3, 5))
session.figure(figure, "rounds", caption="A row an acquisition: the pool, what rounds leave of it, and the batch.")
session.reading(rounds.summary(cleaned), rounds.taken_home(cleaned), "Acquisition by acquisition:")

# %%
show({"data": ["moons", "blobs"], "alpha": [0.4, 0.1, 0.9]}, closer)

# %% [markdown]
# ## (h) Verdicts
#
# **Question.** Which of the paper's claims hold on these data?

# %%
session.section("(h) verdicts")
of_everything, of_tail = 100 * curve_means(everything), 100 * curve_means(long_tail)
of_filters = 100 * curve_means(filters, by="ensemble")
change = summary.by_seed(pools, "filtered pool (%)", "whole pool (%)", "pool")
session.verdicts([
    Claim("REFINE is no worse than its best strategy", "learning curves", "REFINE − the best of its strategies (points)",
          lead_over(of_everything, "refine", members), above=-MARGIN),
    Claim("REFINE is better than other ensembles", "learning curves", f"REFINE − the best of {', '.join(map(label, ensembles))} (points)",
          lead_over(of_everything, "refine", ensembles), above=0),
    Claim("REFINE wins more often than it loses against each strategy and ensemble", "matrix of win rates",
          "share of wins − share of losses, of the pair where it is lowest for the seed (points)", summary.surplus(everything, "refine"), above=0),
    Claim("Progressive filtering makes strategies better", "strategies on the filtered pool",
          "filtered − whole pool, mean over the strategies (points)", change.mean(axis=1), above=0),
    Claim("Progressive filtering makes every strategy better", "strategies on the filtered pool",
          "filtered − whole pool, of the strategy with the lowest mean (points)", lead_over(-change.assign(nothing=0.0), "nothing", members), above=0),
    Claim("The filter, not the final strategy alone, makes REFINE good", "ablations, depth", "the nine − no filter (points)",
          lead_over(of_filters, "the nine", ["no filter"]), above=0),
    Claim("Strategies that are bad by themselves do no harm in REFINE's ensemble", "ablations, ensemble", "with core-set and entropy − the nine (points)",
          lead_over(of_filters, "with core-set and entropy", ["the nine"]), above=-MARGIN),
    Claim("REFINE is no worse than its best strategy when classes are rare", "long-tailed pools",
          "REFINE − the best of its strategies, imbalance 10 (points)", lead_over(of_tail, "refine", members), above=-MARGIN),
])  # fmt: skip

# %% [markdown]
# ## How to cite
#
# Huseljic, D., Herde, M., Rauch, L., Hahn, P., Sick, B.: *Cleaning the Pool: Progressive Filtering of Unlabeled Pools in Deep Active Learning*. CVPR 2026,
# arXiv 2511.22344. TCM: Doucet, P. et al.: *Bridging Diversity and Uncertainty in Active Learning with
# Self-Supervised Pre-Training*, 2024. SelectAL: Hacohen, G. and Weinshall, D.: *How to Select Which Active Learning Strategy is Best Suited for
# Your Specific Problem and Budget*. NeurIPS 2023. TAILOR: Zhang, J. et al.: *Algorithm Selection for Deep Active Learning with Imbalanced
# Datasets*. NeurIPS 2023. AutoAL: Wang, Y. et al.: *AutoAL: Automated Active Learning with Differentiable Query Strategy Search*. ICML 2025.
