"""Seconds and peak bytes of one query of each strategy, from the operations of its algorithm, without torch.

A function a strategy, with the strategy's options and their defaults, adds up what its code does: multiply-adds of
matrix products, bytes that are read and written, exponentials and random numbers, and calls of torch.

Axes, fields of a query: n pool, m labelled, b batch, k classes, d features.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

FLOAT, DOUBLE = 4, 8  # bytes
BLOCK_BYTES = 64 * 2**20  # of intermediate results, as in `dal_core.blocks`
CACHE_BYTES = 4 * 2**20  # of a core
SORTED = 80  # A sort takes as long an instance as so many exponentials do.
ROW = 40  # A reduction over a short row takes as long as so many exponentials more.
MINIBATCH, EPOCHS = 64, 200  # of a run's training
GATHERED_BYTES = 2**20  # of its shuffled inputs
LLOYD_STEPS = 15
LARGEST_SIDE = 20_000  # of BAIT's matrices
TILE, KEPT_BYTES = 1024, 128 * 2**20  # of herding's kernel
MEMBERS = ("random", "margin", "badge", "bait", "typiclust", "alfamix", "dropquery", "max_herding", "unc_herding")
CANDIDATES = (
    "random", "typiclust", "dropquery", "bait", "typiclass", "dropqueryclass", "margin", "badge", "coreset", "alfamix",
)  # fmt: skip


class Rates(NamedTuple):
    """What one core, or one card, does in a second."""

    products: float  # multiply-adds of products of float32 matrices
    doubles: float  # of float64 ones
    traffic: float  # bytes that are read or written
    exponentials: float
    draws: float  # random numbers
    calls: float  # operations of torch on a few numbers


class Cost(NamedTuple):
    """Seconds, and the most bytes that tensors hold at the same time."""

    seconds: float
    peak: float = 0.0


@dataclasses.dataclass(frozen=True)
class Query:
    """The sizes of a query, and the machine that computes it."""

    n: int
    m: int
    d: int
    k: int
    b: int
    rates: Rates
    factors: Mapping[str, float] = dataclasses.field(default_factory=dict)  # measured / computed time, by strategy
    tests: int = 1000  # instances that oracles judge by
    cores: int = 1

    def product(self, rows: float, inner: float, columns: float, *, double: bool = False) -> float:
        """Return the seconds of a product of two matrices."""
        numbers, size = rows * inner + inner * columns + rows * columns, DOUBLE if double else FLOAT
        rate = self.rates.doubles if double else self.rates.products
        return rows * inner * columns / rate + numbers * size / self.rates.traffic

    def traffic(self, size: float) -> float:
        return size / self.rates.traffic

    def again(self, size: float) -> float:
        """Return the seconds of reading what was read before, faster where it is still in the cache."""
        return self.traffic(size / 3 if size < CACHE_BYTES else size)

    def exponentials(self, numbers: float) -> float:
        return numbers / self.rates.exponentials

    def rows(self, count: float, width: float) -> float:
        """Return the seconds of a softmax, an entropy or the like over each of `count` rows."""
        return (width + ROW) * count / self.rates.exponentials

    def draws(self, numbers: float) -> float:
        return numbers / self.rates.draws

    def calls(self, count: float) -> float:
        return count / self.rates.calls

    def parts(self, count: float) -> float:
        """Return on how many cores so many pieces are computed side by side."""
        return max(1.0, min(self.cores, count))

    def sized(self, **sizes: float) -> "Query":
        """Return the query of another size."""
        return dataclasses.replace(self, **{name: max(1, round(size)) for name, size in sizes.items()})  # type: ignore[arg-type]


Formula = Callable[..., Cost]
FORMULAS: dict[str, Formula] = {}


def formula(function: Formula) -> Formula:
    FORMULAS[function.__name__] = function
    return function


def cost(name: str, query: Query, options: Mapping[str, Any] | None = None) -> Cost:
    """Return the cost of one query of a strategy.

    >>> ones = Rates(1, 1, 1, 1, 1, 1)
    >>> cost("random", Query(n=100, m=5, d=8, k=3, b=10, rates=ones))
    Cost(seconds=120.0, peak=800)
    """
    seconds, peak = FORMULAS[name](query, **options or {})
    return Cost(seconds * query.factors.get(name, 1.0), peak)


def one_after_another(*parts: Cost) -> Cost:
    return Cost(sum(each.seconds for each in parts), max((each.peak for each in parts), default=0.0))


def k_means(q: Query, n: float, clusters: float) -> Cost:
    """Greedy k-means++ seeds, then steps of Lloyd."""
    clusters = min(clusters, n)
    trials = 2 + int(math.log(max(1, clusters)))
    a_seed = q.product(trials, q.d, n) + q.traffic(20 * trials * n) + q.calls(15)
    a_step = q.product(n, q.d, clusters) + q.traffic(8 * n * q.d + 4 * n * clusters) + q.calls(50)
    shared = q.parts(n / 2500)
    peak = FLOAT * max(4 * n * q.d, n * (q.d + clusters))
    return Cost((clusters * a_seed + LLOYD_STEPS * a_step) / shared, peak)


def heads(q: Query, count: float, m: float, epochs: float) -> Cost:
    """Linear heads that are trained together, on m instances each."""
    steps, size = epochs * max(1, m // MINIBATCH), min(m, MINIBATCH)
    blocks = max(1, math.ceil(4 * count * q.k * q.d * FLOAT / (4 * 2**20)))
    a_step = 2 * count * (size * q.d * q.k / q.rates.products + q.rows(size / 2, q.k))
    a_step += q.traffic(FLOAT * count * q.d * (8 * q.k + 3 * size)) + blocks * q.calls(25)
    orders = epochs * (count * q.calls(2) + q.draws(count * m) + blocks * q.calls(12))
    together = count / blocks
    gathered = max(FLOAT * together * size * q.d, GATHERED_BYTES if FLOAT * together * m * q.d < GATHERED_BYTES else 0)
    peak = 2 * gathered + FLOAT * (count * q.k * q.d * 3 + together * q.k * 2 * (q.d + size) + m * q.d)
    return Cost((steps * a_step + orders) / q.parts(blocks), peak + DOUBLE * count * m * 3)


def judged(q: Query, count: float) -> Cost:
    """The losses of so many heads on the test instances."""
    seconds = q.product(q.tests, q.d, count * q.k) + q.rows(count * q.tests, 2 * q.k)
    size = FLOAT * count * q.tests * q.k
    return Cost(seconds / q.parts(count), 2.2 * min(size, q.cores * 8 * 2**20 * q.k / max(q.k, q.d)))


def held_out_temperature(q: Query) -> float:
    """Seconds of a head that is trained on four fifths of the labelled, and of its calibration on the others."""
    return heads(q, 1, 0.8 * q.m, EPOCHS).seconds + q.exponentials(191 * q.m / 5 * q.k) + q.calls(100)


@formula
def random(q: Query) -> Cost:
    return Cost(q.draws(q.n) + q.calls(20), DOUBLE * q.n)


@formula
def margin(q: Query) -> Cost:
    return Cost(q.rows(q.n, 2 * q.k) + q.exponentials(SORTED * q.n) + q.calls(100), q.n * (8 * q.k + 16))


@formula
def entropy(q: Query) -> Cost:
    return Cost(q.rows(q.n, 3 * q.k) + q.exponentials(SORTED * q.n) + q.calls(80), q.n * max(8 * q.k + 4, 4 * q.k + 16))


@formula
def least_confident(q: Query) -> Cost:
    return Cost(q.rows(q.n, q.k / 2) + q.exponentials(SORTED * q.n) + q.calls(80), q.n * (4 * q.k + 16))


@formula
def bald(q: Query, *, draws: int = 100, likelihood: str = "gaussian", prior_precision: float = 1.0) -> Cost:  # noqa: ARG001
    sampled = FLOAT * q.n * draws * q.k
    block = min(sampled, BLOCK_BYTES)
    variances = q.product(q.d, q.m, q.d) + q.product(q.d, q.d, q.d) + q.product(q.n, q.d, q.d)
    return Cost(variances + 2.5 * q.rows(q.n * draws, 2 * q.k) + q.calls(200), (4 if sampled > block else 3) * block)


@formula
def falcun(q: Query, *, gamma: float = 10.0) -> Cost:  # noqa: ARG001
    a_pick = q.traffic(FLOAT * 2 * q.n * q.k) + q.exponentials(15 * q.n) + q.calls(60)
    return Cost(q.rows(q.n, 3 * q.k) + q.b * a_pick, q.n * (8 * q.k + 45))


@formula
def badge(q: Query) -> Cost:
    a_pick = q.again(FLOAT * q.n * (q.d + q.k)) + q.traffic(60 * q.n) + q.calls(30)
    if q.n * q.d > 2**20:  # Of many, those are chosen that may have come nearer.
        a_pick = q.traffic(FLOAT * q.n * (q.d / 4 + q.k)) + q.exponentials(40 * q.n) + q.calls(40)
    return Cost(q.rows(q.n, 3 * q.k) + q.traffic(12 * q.n * q.d) + q.b * a_pick, FLOAT * q.n * (q.d + q.k + 2))


def diverse_picks(q: Query, candidates: float) -> Cost:
    clustered = k_means(q, candidates, q.b)
    return Cost(clustered.seconds + q.traffic(60 * candidates * q.d) + q.draws(q.n), 28 * candidates * q.d)


@formula
def alfamix(q: Query, *, undefined: str = "limit") -> Cost:  # noqa: ARG001
    flips = 2 * q.product(q.n, q.d, q.k) + q.product(q.n, q.d, min(q.k, q.m)) + q.rows(q.n, 4 * q.k)
    flips += q.traffic(FLOAT * q.n * (8 * q.d + 8 * q.k)) + q.calls(100)
    found = diverse_picks(q, max(q.b, q.n / 10))
    return Cost(flips + found.seconds, max(3 * min(FLOAT * q.n * (q.d + q.k), BLOCK_BYTES), found.peak))


def dropout_passes(q: Query, num_passes: int) -> Cost:
    numbers = q.n * q.d
    a_pass = q.draws(numbers) + q.traffic(30 * numbers) + q.product(q.n, q.d, q.k) + q.rows(q.n, q.k) + q.calls(30)
    return Cost(num_passes * a_pass, 13 * min(numbers, BLOCK_BYTES / FLOAT))


@formula
def dropquery(q: Query, *, num_passes: int = 3, dropout: float = 0.75) -> Cost:  # noqa: ARG001
    return one_after_another(dropout_passes(q, num_passes), diverse_picks(q, min(q.n / 4, 25 * q.b)))


def central_picks(q: Query, n: float) -> Cost:
    """Picks of the instance nearest to the mean of its class, b times."""
    numbers = n * q.d / q.k
    return Cost(q.b * (q.traffic(40 * numbers) + q.calls(40)), 28 * numbers)


@formula
def typiclass(q: Query) -> Cost:
    return central_picks(q, q.n)


@formula
def dropqueryclass(q: Query, *, num_passes: int = 3, dropout: float = 0.75) -> Cost:  # noqa: ARG001
    unit = Cost(q.traffic(12 * q.n * q.d), 8 * q.n * q.d)
    return one_after_another(dropout_passes(q, num_passes), unit, central_picks(q, min(q.n, 25 * q.b)))


@formula
def coreset(q: Query) -> Cost:
    a_pick = q.again(FLOAT * q.n * q.d) + q.traffic(40 * q.n) + q.calls(25)
    peak = max(FLOAT * q.n * q.d, min(FLOAT * q.n * q.m, BLOCK_BYTES)) + 40 * q.n
    return Cost(q.product(q.n, q.d, q.m) + q.traffic(8 * q.n * q.d) + q.b * a_pick, peak)


def herding(q: Query) -> Cost:
    """Half of the kernel, tile by tile, and the rows of what could be best."""
    pairs, tiles = q.n * q.n, math.ceil(q.n / TILE) ** 2 / 2
    kept = FLOAT * pairs <= KEPT_BYTES
    first = q.product(q.n, q.d, q.n / 2) + q.exponentials(pairs) + q.traffic(FLOAT * 8 * pairs)
    rows = 0.0 if kept else (q.product(64, q.d, q.n) + q.exponentials(128 * q.n)) / q.parts(tiles)
    again = q.b * (rows + q.traffic(FLOAT * 4 * 64 * q.n) + q.calls(60))
    tile = FLOAT * min(q.n, TILE) ** 2
    held = FLOAT * q.n * (q.d + 8) + 2.4 * tile * q.parts(tiles)
    return Cost(first / q.parts(tiles) + again, held + (FLOAT * pairs if kept else 0))


@formula
def max_herding(q: Query, *, gamma: float = 1.0, form: str = "rowwise") -> Cost:  # noqa: ARG001
    return herding(q)


@formula
def unc_herding(
    q: Query, *, form: str = "rowwise", temperature: float | None = None, gamma: float | None = None  # noqa: ARG001
) -> Cost:  # fmt: skip
    herded = herding(q)
    scales = held_out_temperature(q) if temperature is None else 0.0
    scales += q.product(q.m, q.d, q.m, double=True) if gamma is None else 0.0
    return Cost(herded.seconds + scales + q.rows(q.n, 4 * q.k), herded.peak + FLOAT * q.n * 2)


@formula
def probcover(q: Query, *, radius: float | None = None, purity: float = 0.95) -> Cost:  # noqa: ARG001
    pairs, counted = q.n * q.n, q.product(q.n, q.d, q.n)
    clustered = k_means(q, q.n, q.k)
    pure = 0.0 if radius is not None else clustered.seconds + counted + q.traffic(FLOAT * 12 * pairs)
    counts = 2 * (counted + q.traffic(FLOAT * 3 * pairs)) + q.b * (q.traffic(FLOAT * q.n * q.d) + q.calls(40))
    block = min(FLOAT * pairs, BLOCK_BYTES)
    return Cost(pure + counts, (3.3 if 2 * block < FLOAT * pairs else 2.3) * block + FLOAT * q.n * q.d)


@formula
def typiclust(q: Query, *, num_neighbours: int = 20, max_clusters: int = 500, min_cluster_size: int = 5) -> Cost:  # noqa: ARG001
    n, clusters = q.n + q.m, min(q.m + q.b, max_clusters)
    clustered, size = k_means(q, n, clusters), 2 * n / clusters  # The largest clusters are asked first.
    a_pick = q.product(size, q.d, size, double=True) + q.traffic(60 * size * (q.d + size)) + q.calls(50)
    return Cost(clustered.seconds + q.b * a_pick, clustered.peak + FLOAT * n * (q.d + 2))


@formula
def tcm(q: Query, *, typiclust_acquisitions: int = 3) -> Cost:
    return cost("typiclust" if typiclust_acquisitions else "margin", q)


@formula
def bait(
    q: Query, *, approximation: str = "binary", top_classes: int | None = None, renormalise: bool = True,  # noqa: ARG001
    fisher: str = "sum", prior_precision: float = 1.0, selection: str = "forward_backward",  # noqa: ARG001
) -> Cost:  # fmt: skip
    """In the space of the parameters or of the rows of all factors, whichever `spaces.cheaper_space` takes."""
    if approximation not in (known := ("exact", "top", "binary", "diagonal")):
        raise ValueError(f"approximation is {approximation!r}; one of {', '.join(known)} was expected")
    picks = 0 if selection == "topk" else 2 * q.b
    softmax = q.rows(q.n, 2 * q.k)
    if approximation == "diagonal":
        size = q.k * q.d
        gains = q.traffic(FLOAT * 12 * size * (q.n + 100 * picks)) + (q.n * size / 2**23 + 60 * picks) * q.calls(1)
        peak = min(FLOAT * q.n * size, 2 * BLOCK_BYTES / 3) * 3 + FLOAT * (q.n * (q.d + 2 * q.k) + 4 * size)
        return Cost(softmax + q.product(q.k, q.n, q.d) + gains, peak)
    k, c = (1, 1) if approximation == "binary" else (q.k, q.k if approximation == "exact" else top_classes or 1)
    s, r = k * q.d, (q.n + q.m) * c
    if min(s, r) > LARGEST_SIDE:
        raise ValueError(f"bait would need matrices of side {min(s, r):,}; at most {LARGEST_SIDE:,} was expected")
    in_parameters = 10 * s**3 + 6 * q.n * s**2 + 20 * picks * s**2
    in_rows = 2 * r**2 * (k + q.d + 4 * q.m * c) + 10 * picks * r**2
    if r < s or (r <= min(LARGEST_SIDE, 3 * s) and in_rows < in_parameters):
        side, cm = r, c * q.m
        start = q.product(r, k + q.d, r) + q.product(r, cm, r, double=True) + q.product(cm, cm, r, double=True)
        start += q.product(q.n * c, r, c) + q.traffic(20 * r * r)
        a_pick = q.traffic(FLOAT * r * r) + q.traffic(40 * q.n * c * c)
        setup, held = 4 * FLOAT * r * r + 2 * DOUBLE * cm * r, FLOAT * r * r
    else:
        side = s
        start = s**3 / 2 / q.rates.doubles + 2 * q.product(s, s, s) + q.m * s * s / 2 / q.rates.doubles
        start += q.product(q.n, s, s) * (1 if k == 1 else 0.5) * 3
        a_pick = q.traffic(2 * FLOAT * s * s) + q.product(q.n, s, 2 * c) + q.traffic(40 * q.n * c * (c + k))
        setup = 4 * FLOAT * s * s + min(FLOAT * q.n * (s + 4 * k * k), 2 * BLOCK_BYTES)
        held = 2 * FLOAT * s * s
    a_pick += q.product(2 * c, picks * c, side, double=True) + q.calls(60)
    backward = picks / 2 * (q.traffic(6 * DOUBLE * (picks * c) ** 2) + q.calls(40))
    held += DOUBLE * (4 * picks * c * side + 4 * (picks * c) ** 2 + 4 * q.n * c * c)
    factors = FLOAT * q.n * (c + (0 if approximation == "binary" else q.k + 2 * c))
    seconds = start + picks * a_pick + backward
    slower = 1.0 if c == 1 else 1.3  # Products of many small matrices are.
    return Cost(softmax + slower * seconds, factors + max(setup, held, 2 * FLOAT * q.n * q.k))


def asked(q: Query, names: Sequence[str], options: Mapping[str, Mapping[str, Any]] | None = None) -> list[Cost]:
    """The cost of a query of each of these strategies."""
    for name in names:
        if name not in FORMULAS:
            known = ", ".join(sorted(FORMULAS))
            raise ValueError(f"strategies names {name!r}, of which there is no estimate; one of {known} was expected")
    return [cost(name, q, (options or {}).get(name)) for name in names]


def side_by_side(
    q: Query, size: float, names: Sequence[str], options: Mapping[str, Mapping[str, Any]] | None, times: float
) -> Cost:
    """The cost of `times` queries of each strategy, on parts of the pool; each runs on one core."""
    part = q.sized(n=size, cores=1)
    each = asked(part, names, options)
    largest = sorted((one.peak for one in each), reverse=True)[: q.cores]
    copies = len(largest) * part.n * (FLOAT * (q.d + q.k) + DOUBLE)
    longest = max(one.seconds for one in each)
    return Cost(max(longest, times * sum(one.seconds for one in each) / q.cores), sum(largest) + copies)


@formula
def tailor(q: Query, *, strategies: Sequence[str] = MEMBERS, decay: float = 0.9) -> Cost:  # noqa: ARG001
    each = one_after_another(*asked(q, strategies))
    return Cost(each.seconds + q.b * q.calls(20), each.peak)


@formula
def autoal(
    q: Query, *, strategies: Sequence[str] = MEMBERS, steps: int = 200, learning_rate: float = 1e-3  # noqa: ARG001
) -> Cost:  # fmt: skip
    half = q.m / 2
    simulated = q.sized(n=half, m=half, b=half / 2)
    a_step = 3 * (q.product(half, q.d, 128 + q.k, double=True) + q.traffic(6 * DOUBLE * q.d * (128 + q.k)))
    searched = Cost(steps * (a_step + q.calls(120)), DOUBLE * (10 * q.d * (128 + q.k) + 4 * half * q.d))
    return one_after_another(
        *asked(q, strategies), *asked(simulated, strategies), heads(q, 1, half, EPOCHS), searched
    )  # fmt: skip


@formula
def selectal(q: Query, *, share: float = 0.05, num_splits: int = 5, retraining_epochs: int = 50) -> Cost:
    """The regime is known afterwards only: TypiClust is the longest."""
    judged_by = heads(q, 3 * num_splits, (1 - share) ** 2 * q.m, retraining_epochs)
    typical = 2 * num_splits * q.k * (q.calls(40) + q.traffic(30 * (q.m / q.k) ** 2 * q.d))
    return one_after_another(judged_by, Cost(typical), cost("typiclust", q))


@formula
def refine(
    q: Query, *, strategies: Sequence[str] = MEMBERS, depth: int = 5, num_batches: int = 100, alpha: float = 0.4,
    initial_size: int = 5000, largest_pool: int = 10_000, final_strategy: str = "unc_herding",
    strategy_options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Cost:  # fmt: skip
    """Batches of a round overlap, most where they are many for the pool."""
    times, pool, parts = max(1, num_batches // len(strategies)), float(q.n), []
    shared = {"unc_herding": {"temperature": 1.0, "gamma": 1.0}}
    options = shared | {name: shared.get(name, {}) | dict(own) for name, own in (strategy_options or {}).items()}
    for round_ in range(depth):
        size = min(pool, max(q.b, alpha * pool if round_ else initial_size))
        parts.append(side_by_side(q, size, strategies, options, times))
        pool = max(q.b, min(largest_pool, pool * (1 - math.exp(-0.6 * times * len(strategies) * q.b / pool))))
    scales = Cost(held_out_temperature(q) + q.product(q.m, q.d, q.m, double=True))
    return one_after_another(*parts, scales, *asked(q.sized(n=pool), [final_strategy], options))


@formula
def boss(
    q: Query, *, num_candidates: int | None = 100, strategies: Sequence[str] = CANDIDATES, loss: str = "zero_one",  # noqa: ARG001
    look_ahead: str = "true", retraining: str = "train", performance_on: str = "test", retraining_epochs: int = 50,  # noqa: ARG001
    label_draws: int = 10, gamma: float = 10.0, prior_precision: float = 1.0,  # noqa: ARG001
    strategy_options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Cost:  # fmt: skip
    count = num_candidates or len(strategies)
    highest = min(max(5000, q.b), q.n)
    lowest = min(4 * q.b, highest)
    usual = math.sqrt((highest**2 + highest * lowest + lowest**2) / 3)  # root of the mean square: most are O(n^2)
    seconds = side_by_side(q, usual, strategies, strategy_options, count / len(strategies)).seconds
    found = Cost(seconds, side_by_side(q, highest, strategies, strategy_options, 1).peak)
    models = count * (label_draws if look_ahead == "monte_carlo" else 1)
    trained = updated(q, models) if retraining == "laplace_update" else heads(q, models, q.m + q.b, retraining_epochs)
    return one_after_another(found, trained, judged(q, models))


def updated(q: Query, models: float) -> Cost:
    """Second-order updates of the last layer with a batch each."""
    seconds = q.product(q.d, q.d, q.d) + q.product(models * q.b, q.d, q.d + q.k) + q.b * q.calls(30)
    return Cost(seconds + q.traffic(12 * models * q.k * q.d), FLOAT * models * (2 * q.k * q.d + 3 * q.b * q.d))


@formula
def lookahead(
    q: Query, *, num_candidates: int = 300, gamma: float = 10.0, prior_precision: float = 1.0,  # noqa: ARG001
    loss: str = "cross_entropy",  # noqa: ARG001
) -> Cost:  # fmt: skip
    keys = num_candidates * q.n
    drawn = Cost(q.draws(keys) + q.exponentials((2 * SORTED + 5) * keys), 24 * keys)
    return one_after_another(drawn, k_means(q, q.n, q.b), updated(q, num_candidates), judged(q, num_candidates))


@formula
def cdo(q: Query, *, num_candidates: int = 20, retraining_epochs: int = 50, performance_on: str = "test") -> Cost:  # noqa: ARG001
    count = min(num_candidates, q.n) + 1
    trained, losses = heads(q, count, q.m + q.b / 2, retraining_epochs), judged(q, count)
    a_pick = trained.seconds + losses.seconds + q.product(q.n, q.d, q.k) + q.rows(q.n, 4 * q.k) + q.draws(q.n)
    return Cost(q.b * (a_pick + q.calls(150)), FLOAT * q.n * q.d + max(trained.peak, losses.peak, 12 * q.n * q.k))


@formula
def sas(
    q: Query, *, steps: int = 25_000, greedy_steps: int = 5_000, annealing_factor: float = 0.1,  # noqa: ARG001
    retraining_epochs: int = 50, performance_on: str = "test",  # noqa: ARG001
) -> Cost:  # fmt: skip
    """Of one batch; in a run a step feels the acquisitions between two places, a third of all."""
    steps_in_all = steps + greedy_steps
    count, most = (
        min(2, steps_in_all),
        min(64, 1 + greedy_steps // 16),
    )  # Behind one that is kept, the others are judged anew.
    once = one_after_another(heads(q, count, q.m + q.b, retraining_epochs), judged(q, count))
    widest = heads(q, most, q.m + q.b, retraining_epochs).peak + judged(q, most).peak
    beside = q.traffic(3 * DOUBLE * count * q.n) + q.calls(200)
    return Cost(steps_in_all / max(1, count) * (once.seconds + beside), widest + 3 * DOUBLE * most * q.n)
