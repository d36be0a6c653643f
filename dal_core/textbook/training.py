"""A linear head trained by torch's own modules and optimiser, as the papers of BoSS and REFINE train theirs."""

from collections.abc import Iterator, Sequence, Sized

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset

from dal_core.models.heads import Head
from dal_core.models.learners import Linear
from dal_core.models.training import Training
from dal_core.snapshot import Truth


def train_head(
    initial: Head, features: Tensor, labels: Tensor, training: Training, sampler: Sampler[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Return weight and bias after stochastic gradient descent; `sampler` replaces the shuffle of the DataLoader."""
    model = torch.nn.Linear(features.shape[1], len(initial.weight), dtype=features.dtype)
    model.load_state_dict({"weight": initial.weight, "bias": initial.bias})
    loader = DataLoader(
        TensorDataset(features, labels),
        batch_size=training.batch_size, shuffle=sampler is None, sampler=sampler, drop_last=training.drop_last,
    )  # fmt: skip
    optimiser = torch.optim.SGD(
        model.parameters(), lr=training.learning_rate, momentum=0.9, nesterov=True, weight_decay=training.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=training.epochs_to_zero)
    for _ in range(training.epochs):
        for inputs, targets in loader:
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs), targets).backward()
            optimiser.step()
        schedule.step()
    return model.weight.detach(), model.bias.detach()


def retrain(
    snapshot: Truth, bought: Tensor | Sequence[int], epochs: int, seed: int, labels: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return weight and bias trained anew on the labelled and the bought instances; None: with their true labels."""
    bought = torch.as_tensor(bought, dtype=torch.int64)
    labels = torch.cat((snapshot.labels, snapshot.hidden_labels[bought] if labels is None else labels))
    features = torch.cat((snapshot.labelled_features, snapshot.features[bought]))
    learner = snapshot.learner or Linear()
    assert isinstance(learner, Linear), "what is retrained here is a linear head"
    initial = learner.initial(features, snapshot.num_classes, snapshot.draw)
    training = learner.training.stopped_after(epochs)
    sampler = SameShuffle(labels, torch.Generator().manual_seed(seed))
    return train_head(initial, features, labels, training, sampler)


class SameShuffle(Sampler[int]):
    """The order that `train_heads` draws: one permutation an epoch and nothing else."""

    def __init__(self, samples: Sized, generator: torch.Generator) -> None:
        self.samples, self.generator = samples, generator

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(len(self.samples), generator=self.generator).tolist())

    def __len__(self) -> int:
        return len(self.samples)
