"""Metrics of predictions beside scikit-learn's, where it has them."""

import torch
from sklearn.metrics import accuracy_score, log_loss

from benchmarks.case import Case
from benchmarks.data import Size
from benchmarks.timing import check_agreement
from dal_core.metrics import accuracy, evaluate, nll
from dal_core.randomness import generator_for

SIZE = Size(n=10_000, m=0, b=0)


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


CASES = {"metrics": predictions}
