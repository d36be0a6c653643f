"""The strategies that look at predictions and at how they change, and batches with an update after each pick."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.case import Case
from benchmarks.data import Size, forgotten, in_float64, oracle_snapshot, size_of
from benchmarks.timing import check_agreement, check_picks
from dal_core import strategies, textbook
from dal_core.laplace import covariance_matrix, precision_matrix, predictive_variance, sample_weights
from dal_core.randomness import generator_for
from dal_core.snapshot import Snapshot
from dal_core.strategies.alfamix import diverse_picks
from dal_core.strategies.bald import mutual_information
from dal_core.updates import Updates, select_sequentially

STANDARD = Size(n=5000, m=300, b=100)
CHECKED, CHECKED_BATCH = 500, 20  # samples on which both ways have to pick the same, in float64
DRAWS = 100  # of BALD
BALD_TOLERANCE = 0.1  # of the largest value: both are means over 2,000 draws, and not over the same ones

Plain = Callable[[Snapshot, int], Tensor]


def strategy(name: str, plain: Plain | None, note: str, *names: str, small: bool, part: float = 1.0) -> Case:
    """A strategy beside a plain way, which has to pick the same; `names` are what it reads of X, Z and L."""
    size = STANDARD.fitted(small=small)
    at = size.snapshot()

    def ours(at: Snapshot, batch_size: int) -> Tensor:
        return strategies.get(name)(forgotten(at), batch_size, generator_for(0, "strategy"))

    if plain is not None:
        few, batch_size = in_float64(at, CHECKED), min(CHECKED_BATCH, size.b)
        check_picks(name, ours(few, batch_size), plain(few, batch_size))
    return Case(
        size_of(at, size.b),
        lambda: ours(at, size.b),
        None if plain is None else lambda: plain(at, size.b),
        scale=part,
        note=note,
        reads=_reads(at, size.b, names),
    )


def _reads(at: Snapshot, batch_size: int, names: tuple[str, ...]) -> dict[str, float]:
    tensors = {"X": at.features, "Z": at.logits, "L": at.labelled_features}
    factors = {"": 1, "b": batch_size, "3": 3}
    return {name: float(factors[name[:-1].strip()] * tensors[name[-1]].nbytes) for name in names}


def ranking(name: str, score: Callable[[Tensor], Tensor], *, small: bool) -> Case:
    """A strategy that ranks, against one instance after another."""

    def plain(at: Snapshot, batch_size: int) -> Tensor:
        return textbook.highest(score(at.logits.softmax(dim=1)), batch_size)

    return strategy(name, plain, "one instance after another", "Z", small=small)


def alfamix(*, small: bool) -> Case:
    """`alfamix`, against one interpolation an anchor; the k-means is ours in both."""

    def plain(at: Snapshot, batch_size: int) -> Tensor:
        candidates = textbook.alfamix_candidates(
            at.features, at.logits, at.weight, at.bias, at.labelled_features, at.labels
        )
        return diverse_picks(at.features, candidates, batch_size, generator_for(0, "strategy"))

    return strategy("alfamix", plain, "each anchor's interpolation; the same k-means", "X", "Z", "L", small=small)


def dropquery(*, small: bool) -> Case:
    """`dropquery`, against one instance after another; the k-means is ours in both."""

    def plain(at: Snapshot, batch_size: int) -> Tensor:
        generator = generator_for(0, "strategy")
        counts = textbook.dropout_disagreements(at.features, at.logits, at.weight, at.bias, generator)
        threshold = 1 if int((counts > 1).sum()) >= 25 * batch_size else 0
        return diverse_picks(at.features, (counts > threshold).nonzero().flatten(), batch_size, generator)

    note = "one instance after another; the same k-means"
    return strategy("dropquery", plain, note, "3 X", "Z", small=small)


def falcun(*, small: bool) -> Case:
    """`falcun`, against all distances anew for each pick, with the same random numbers."""

    def plain(at: Snapshot, batch_size: int) -> Tensor:
        return textbook.falcun_select(at.logits.softmax(dim=1), batch_size, generator_for(0, "strategy"))

    return strategy("falcun", plain, "all distances anew for each pick", "b Z", small=small)


def bald(*, small: bool) -> Case:
    """`bald`, which samples logits, against samples of the whole layer; their values agree up to the draws."""
    size, draws = STANDARD.fitted(small=small), 10 if small else DRAWS
    at = size.snapshot()

    def plain(at: Snapshot = at, draws: int = draws) -> Tensor:
        covariance = covariance_matrix(precision_matrix(at.labelled_features))
        hypotheses = sample_weights(at.weight, covariance, draws, generator_for(0, "hypotheses"))
        bias = 0 if at.bias is None else at.bias
        return textbook.mutual_information((at.features @ each.mT + bias).softmax(dim=1) for each in hypotheses)

    part = in_float64(at, CHECKED)
    covariance = covariance_matrix(precision_matrix(part.labelled_features))
    noise = torch.randn(2000, at.num_classes, generator=generator_for(0, "noise"), dtype=torch.float64)
    values = mutual_information(part.logits, predictive_variance(part.features, covariance), noise)
    check_agreement("bald", [values], [plain(part, 2000)], BALD_TOLERANCE)
    return Case(
        size_of(at, size.b),
        lambda: strategies.get("bald", {"draws": draws})(at, size.b, generator_for(0, "strategy")),
        plain,
        note=f"{draws} samples of the layer; other draws",
        reads=_reads(at, size.b, ("X", "Z", "L")),
    )


def sequential(*, small: bool) -> Case:
    """Margin with an update after each pick, against a loop that touches the whole covariance for each of them."""
    size = Size(n=5000, m=300, b=20, test=40).fitted(small=small)
    at = oracle_snapshot(size)
    seen, gamma = at.without_truth(), 10.0

    def ours() -> Tensor:
        return select_sequentially(
            strategies.get("margin"), seen, size.b, generator_for(0, "strategy"),
            at.hidden_labels, Updates(every=1, gamma=gamma),
        )  # fmt: skip

    def plain() -> Tensor:
        covariance = covariance_matrix(precision_matrix(seen.labelled_features))
        head = (seen.weight, seen.bias, covariance)
        return textbook.margin_with_updates(seen.features, *head, at.hidden_labels, size.b, gamma)

    check_picks("update-each-pick", ours(), plain())
    reads = {"b X": float(size.b * at.features.nbytes), "L": float(at.labelled_features.nbytes)}
    return Case(size_of(at, size.b), ours, plain, note="logits anew from the weight", reads=reads)


def _random(*, small: bool) -> Case:
    return strategy("random", None, "", small=small)


CASES = {
    "random": _random,
    "margin": functools.partial(ranking, "margin", textbook.margin_scores),
    "entropy": functools.partial(ranking, "entropy", textbook.entropy_scores),
    "least_confident": functools.partial(ranking, "least_confident", textbook.least_confident_scores),
    "alfamix": alfamix,
    "dropquery": dropquery,
    "falcun": falcun,
    "bald": bald,
    "update-each-pick": sequential,
}
