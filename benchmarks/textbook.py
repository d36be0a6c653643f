"""The yardsticks: the same computations as a reader would first write them, one sample and one head at a time.

Symbols as in `dal_core.laplace`: W weight [k, d], S covariance [d, d], b new samples, m labelled samples.
"""

from collections.abc import Iterable, Iterator, Sized

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset

from dal_core.models.heads import Head
from dal_core.models.training import Training


def update_gaussian(
    weight: Tensor, covariance: Tensor, features: Tensor, targets: Tensor, gamma: float, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """S <- S - t t^T / (1 + v), then W <- W + gamma (onehot(y) - p) (S phi)^T with the new S; O(b d (d + k))."""
    for phi, target in zip(features, targets, strict=True):
        probabilities = _probabilities(weight, phi, bias)
        step = covariance @ phi  # t
        covariance = covariance - torch.outer(step, step) / (1 + phi @ step)
        weight = weight + gamma * torch.outer(_error(probabilities, target), covariance @ phi)
    return weight, covariance


def update_categorical(
    weight: Tensor, covariance: Tensor, features: Tensor, targets: Tensor, gamma: float, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `update_gaussian`, with the curvature a = p_max (1 - p_max) taken before and after the step of W.

    W <- W + gamma (onehot(y) - p) (S' phi)^T  with  S' = S - a / (1 + v) t t^T,  then  S <- S - a' / (1 + a' v) t t^T
    """
    for phi, target in zip(features, targets, strict=True):
        probabilities = _probabilities(weight, phi, bias)
        step = covariance @ phi  # t
        variance = phi @ step  # v
        provisional = covariance - _curvature(probabilities) / (1 + variance) * torch.outer(step, step)
        weight = weight + gamma * torch.outer(_error(probabilities, target), provisional @ phi)
        curvature = _curvature(_probabilities(weight, phi, bias))  # a'
        covariance = covariance - curvature / (1 + curvature * variance) * torch.outer(step, step)
    return weight, covariance


def update_first_order(weight: Tensor, features: Tensor, targets: Tensor, gamma: float, bias: Tensor | None) -> Tensor:
    """W <- W + gamma (onehot(y) - p) phi^T."""
    for phi, target in zip(features, targets, strict=True):
        weight = weight + gamma * torch.outer(_error(_probabilities(weight, phi, bias), target), phi)
    return weight


def monte_carlo(
    hypotheses: Tensor, features: Tensor, targets: Tensor, pool: Tensor, gamma: float, bias: Tensor | None
) -> Tensor:
    """Mean over the hypotheses of their predictions for `pool`, weighted by what they say about the new samples."""
    scores = []
    for weight in hypotheses:
        pairs = zip(features, targets, strict=True)
        scores.append(sum(_probabilities(weight, phi, bias)[target].log() for phi, target in pairs))
    shares = torch.softmax(gamma * torch.stack(scores), dim=0)
    mean = torch.zeros(len(pool), hypotheses.shape[1], dtype=pool.dtype)
    for weight, share in zip(hypotheses, shares, strict=True):
        logits = pool @ weight.mT if bias is None else pool @ weight.mT + bias
        mean = mean + share * logits.softmax(dim=1)
    return mean


def precision(features: Tensor, logits: Tensor, likelihood: str) -> Tensor:
    """I + sum_n c_n phi_n phi_n^T with c_n = 1 or p_max (1 - p_max)."""
    precision = torch.eye(features.shape[1], dtype=features.dtype)
    for phi, p in zip(features, logits.softmax(dim=1), strict=True):
        precision = precision + (1 if likelihood == "gaussian" else _curvature(p)) * torch.outer(phi, phi)
    return precision


def mean_field(logits: Tensor, features: Tensor, covariance: Tensor, factor: float) -> Tensor:
    """logits / sqrt(1 + factor v) with v the diagonal of Phi S Phi^T."""
    variance = (features @ covariance @ features.mT).diagonal()
    return logits / torch.sqrt(1 + factor * variance).unsqueeze(1)


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


def _probabilities(weight: Tensor, phi: Tensor, bias: Tensor | None) -> Tensor:
    logits = weight @ phi if bias is None else weight @ phi + bias
    return logits.softmax(dim=-1)


def _error(probabilities: Tensor, target: Tensor) -> Tensor:
    """onehot(y) - p."""
    return torch.nn.functional.one_hot(target, len(probabilities)) - probabilities


def _curvature(probabilities: Tensor) -> Tensor:
    """p_max (1 - p_max)."""
    return probabilities.max() * (1 - probabilities.max())


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
