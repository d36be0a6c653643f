"""What a query cannot do without, in seconds of the device it runs on.

A floor is the time of what has to be read at the device's measured bandwidth, and of the matrix products at its
measured throughput, phase after phase. It leaves out whatever a formula does not name.

Axes: n instances, m labelled, b batch, k classes, d features, t candidates. Features and logits are float32.
"""

from collections.abc import Sequence

from benchmarks.gpu.pools import Size
from benchmarks.rates import FLOAT, Phase, Rates, measure, seconds
from dal_core.ensembles.members import STRATEGIES
from dal_core.models.training import Training

__all__ = ["Phase", "Rates", "bait", "boss", "measure", "query", "refine", "seconds"]


def bait(size: Size) -> list[Phase]:
    """Set-up: the logits once, three products of the features with d by d matrices. 2 b forward steps: the features.

    The backward steps work on the picks alone and are left out.
    """
    n, d, k, b = size.num_pool, size.num_features, size.num_classes, size.batch_size
    steps = min(2 * b, n)
    set_up = Phase(FLOAT * n * (d + k), 6.0 * n * d**2)
    return [set_up, Phase(FLOAT * steps * n * d, 4.0 * steps * n * d)]  # with two vectors a step


def boss(size: Size) -> list[Phase]:
    """Training of t heads, forward and backward products; judging, the forward product on the test set.

    What the strategies that propose candidates do is left out, and so is what the optimiser reads and writes.
    """
    k, d, t = size.num_classes, size.num_features, size.num_candidates
    seen = _seen_an_epoch(size.num_labelled + size.batch_size) * size.retraining_epochs
    return [Phase(operations=4.0 * t * seen * k * d), Phase(operations=2.0 * t * size.num_test * k * d)]


def refine(size: Size, pool_sizes: Sequence[int]) -> list[Phase]:
    """Return the temperature's head, and what each query of the filter and the last one have to read and multiply.

    `pool_sizes` are what the rounds left.
    """
    k, d, m = size.num_classes, size.num_features, size.num_labelled
    options = {"depth": 5, "num_batches": 100, "alpha": 0.4, "initial_size": 5000} | size.refine
    training = Training("sgd").epochs * _seen_an_epoch(m - m // 5)
    phases = [Phase(operations=4.0 * training * k * d)]
    queries = max(1, options["num_batches"] // len(STRATEGIES))
    pools = [size.num_pool, *pool_sizes]
    for round_ in range(options["depth"]):
        part = options["initial_size"] if round_ == 0 else int(options["alpha"] * pools[round_])
        part = min(max(size.batch_size, part), pools[round_])
        phases += [query(name, part, size) for name in STRATEGIES] * queries
    return [*phases, query("unc_herding", pools[-1], size)]


def query(strategy: str, part: int, size: Size) -> Phase:
    """Return what a query on `part` instances reads at the least, and the largest of its matrix products."""
    d, k, b, m = size.num_features, size.num_classes, size.batch_size, size.num_labelled
    numbers, operations = {
        "random": (0, 0),
        "margin": (part * k, 0),
        "badge": (b * part * (k + d), 0),
        "bait": (part * k + min(2 * b, part) * part * d, 0),
        "typiclust": ((part + m) * d, 0),  # one of the many steps of k-means
        "alfamix": (part * (k + d), 0),
        "dropquery": (3 * part * d, 0),
        "max_herding": (part * d, 2 * part**2 * d),
        "unc_herding": (part * (k + d), 2 * part**2 * d),
    }[strategy]
    return Phase(float(FLOAT * numbers), float(operations))


def _seen_an_epoch(num_samples: int) -> int:
    """Samples of an epoch of the protocol that BoSS and REFINE train by."""
    return sum(rows.stop - rows.start for rows in Training("sgd").minibatches(num_samples))
