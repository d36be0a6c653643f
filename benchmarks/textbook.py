"""The yardsticks of training: the same computations as a reader would first write them, one head at a time."""

from collections.abc import Iterable, Iterator, Sized

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset

from dal_core.models.heads import Head
from dal_core.models.training import Training


def train_head(
    initial: Head, features: Tensor, labels: Tensor, training: Training, sampler: Sampler[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Weight and bias of an nn.Linear trained with torch.optim.SGD and a DataLoader; `sampler` replaces its shuffle."""
    assert initial.bias is not None
    model = torch.nn.Linear(features.shape[1], len(initial.weight), dtype=features.dtype)
    model.load_state_dict({"weight": initial.weight, "bias": initial.bias})
    loader = DataLoader(
        TensorDataset(features, labels),
        batch_size=training.batch_size, shuffle=sampler is None, sampler=sampler, drop_last=training.drop_last,
    )  # fmt: skip
    optimiser = torch.optim.SGD(
        model.parameters(), lr=training.learning_rate, momentum=0.9, nesterov=True, weight_decay=training.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=training.epochs)
    for _ in range(training.epochs):
        for inputs, targets in loader:
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs), targets).backward()
            optimiser.step()
        schedule.step()
    return model.weight.detach(), model.bias.detach()


class SameShuffle(Sampler[int]):
    """The order that `dal_core.models.training.train_heads` draws: one permutation an epoch and nothing else."""

    def __init__(self, samples: Sized, generator: torch.Generator) -> None:
        self.samples, self.generator = samples, generator

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(len(self.samples), generator=self.generator).tolist())

    def __len__(self) -> int:
        return len(self.samples)


def judge(
    initial: Head,
    known: tuple[Tensor, Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    test: tuple[Tensor, Tensor],
    training: Training,
    seed: int,
    loss: str = "zero_one",
) -> Tensor:
    """Test losses of heads that are trained one after another on the `known` features and labels and one batch more."""
    losses = []
    for features, labels in batches:
        both = torch.cat((known[0], features)), torch.cat((known[1], labels))
        sampler = SameShuffle(both[1], torch.Generator().manual_seed(seed))
        weight, bias = train_head(initial, *both, training, sampler)
        logits = test[0] @ weight.mT + bias
        if loss == "zero_one":
            losses.append((logits.argmax(dim=1) != test[1]).to(logits.dtype).mean())
        else:
            losses.append(torch.nn.functional.cross_entropy(logits, test[1]))
    return torch.stack(losses)
