"""Metrics: of predictions beside scikit-learn's, where it has them, and win rates beside a loop over duels."""

import itertools

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import accuracy_score, log_loss

from benchmarks.case import Case
from benchmarks.data import Size
from benchmarks.timing import check_agreement
from dal_core.metrics import accuracy, evaluate, nll, win_rates
from dal_core.randomness import generator_for

SIZE = Size(n=10_000, m=0, b=0)
STRATEGIES, DUELS = 12, 2000


def predictions(*, small: bool) -> Case:
    """All five metrics, against accuracy and log-loss of scikit-learn."""
    size = SIZE.fitted(small=small)
    draw = generator_for(0, "logits")
    logits, labels = torch.randn(size.n, size.k, generator=draw), torch.randint(size.k, (size.n,), generator=draw)

    def theirs() -> list[torch.Tensor]:
        p = logits.double().softmax(dim=1).numpy()
        found = accuracy_score(labels.numpy(), p.argmax(axis=1)), log_loss(labels, p, labels=range(size.k))
        return [torch.tensor(value) for value in found]

    check_agreement("metrics", [torch.tensor(metric(logits, labels)) for metric in (accuracy, nll)], theirs(), 1e-9)
    return Case(
        f"n={size.n:,}, k={size.k}, float32",
        lambda: evaluate(logits, labels),
        theirs,
        note="scikit-learn's accuracy and log-loss alone; ours are five",
        foreign=True,
        reads={"Z": float(logits.nbytes)},
    )


def duels(*, small: bool) -> Case:
    """Pairwise win rates, against a loop over pairs and duels."""
    count = 20 if small else DUELS
    names = [f"strategy {i}" for i in range(STRATEGIES)]
    values = torch.rand(count, STRATEGIES, generator=generator_for(0, "scores"), dtype=torch.float64).numpy()
    scores = pd.DataFrame(
        {"strategy": names * count, "duel": np.repeat(np.arange(count), STRATEGIES), "accuracy": values.ravel()}
    )

    def plain() -> torch.Tensor:
        found = {(duel, name): value for name, duel, value in scores.itertuples(index=False)}
        rates = torch.zeros(STRATEGIES, STRATEGIES, dtype=torch.float64)
        ordered = sorted(names)
        for (i, one), (j, other) in itertools.product(enumerate(ordered), repeat=2):
            rates[i, j] = sum(found[duel, one] > found[duel, other] for duel in range(count)) / count
        return rates

    check_agreement("win rates", [torch.from_numpy(win_rates(scores).to_numpy().copy())], [plain()], 1e-12)
    reads = {"scores": float(values.nbytes)}
    return Case(f"{STRATEGIES} strategies, {count:,} duels", lambda: win_rates(scores), plain, reads=reads)


CASES = {"metrics": predictions, "win-rates": duels}
