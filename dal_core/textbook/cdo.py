"""CDO, the greedy oracle of CDALBench (Werner et al. 2024)."""

import torch
from torch import Tensor

from dal_core.randomness import choose, integer_seed
from dal_core.snapshot import Truth
from dal_core.textbook.boss import mean_loss
from dal_core.textbook.training import retrain


def cdo(
    snapshot: Truth, batch_size: int, generator: torch.Generator,
    *, num_candidates: int = 20, retraining_epochs: int = 50, performance_on: str = "test",
) -> tuple[list[int], list[float], list[bool]]:  # fmt: skip
    """Pick the best of some random instances if it improves the head, else the margin strategy's; one head at a time.

    Beside the picks: the losses before the first and after each of them, and which were random ones.
    """
    judged, orders = getattr(snapshot, performance_on), torch.Generator().manual_seed(integer_seed(generator))

    def after(picked: list[int]) -> tuple[float, Tensor]:
        """The loss, and the gap between the two most probable classes of each instance."""
        weight, bias = retrain(snapshot, picked, retraining_epochs, integer_seed(orders))
        top = (snapshot.features @ weight.T + bias).softmax(dim=1).topk(2).values
        return float(mean_loss(judged.inputs() @ weight.T + bias, judged.labels, "cross_entropy")), top[:, 0] - top[
            :, 1
        ]

    picked: list[int] = []
    loss, gaps = after(picked)
    losses, improved = [loss], []
    for _ in range(batch_size):
        free = [i for i in range(len(snapshot.features)) if i not in picked]
        tried = [free[i] for i in choose(len(free), min(num_candidates, len(free)), generator).tolist()]
        tried.append(free[int(gaps[free].argmin())])
        heads = [after([*picked, i]) for i in tried]
        best = min(range(len(tried) - 1), key=[each[0] for each in heads].__getitem__)
        torch.randint(1, (), generator=generator)  # Chance decides between equal ones, of which there is one.
        improved.append(heads[best][0] < losses[-1])
        best = best if improved[-1] else -1
        picked.append(tried[best])
        loss, gaps = heads[best]
        losses.append(loss)
    return picked, losses, improved
