"""Linear and one-hidden-layer heads on frozen features.

Axes: e heads in a stack, n pool, k classes, d features, h hidden units.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from dal_core.contracts import Count, checked

HIDDEN_UNITS = 128
Kind = Literal["linear", "mlp"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclasses.dataclass(frozen=True, eq=False)
class Head:
    """The classifier on top of a frozen encoder, or a stack of them (then every tensor has a leading axis e).

    `weight` [k, d'] and `bias` [k] are the last layer, the one that the Laplace approximation and the strategies
    look at. A linear head has d' = d. A head with a hidden layer (`hidden_weight` [h, d], `hidden_bias` [h], ReLU)
    has d' = h and no last bias; its hidden activations are what strategies see as features (Huseljic et al. 2024).
    """

    weight: Float[Tensor, "*e k d_last"]
    bias: Float[Tensor, "*e k"] | None = None
    hidden_weight: Float[Tensor, "*e h d"] | None = None
    hidden_bias: Float[Tensor, "*e h"] | None = None

    def __post_init__(self) -> None:
        for name, part in vars(self).items():
            if part is not None and part.requires_grad:  # A network's own layer does, but heads are trained in place.
                object.__setattr__(self, name, part.detach())

    @classmethod
    @checked
    def initial(
        cls, kind: Kind, num_features: Count, num_classes: Count, generator: torch.Generator, *,
        hidden: Count = HIDDEN_UNITS, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu",
    ) -> "Head":  # fmt: skip
        """A head with PyTorch's default initialisation, uniform in +-1/sqrt(fan in), drawn from `generator`.

        It is drawn in float32, so that it is the same in every dtype.
        """

        def uniform(*shape: int, fan_in: int) -> Tensor:
            bound = 1 / math.sqrt(fan_in)
            drawn = torch.rand(*shape, generator=generator, dtype=torch.float32, device=generator.device)
            return ((2 * drawn - 1) * bound).to(device, dtype)

        if kind == "linear":
            weight = uniform(num_classes, num_features, fan_in=num_features)
            return cls(weight, uniform(num_classes, fan_in=num_features))
        hidden_weight, hidden_bias = (uniform(hidden, *width, fan_in=num_features) for width in ((num_features,), ()))
        return cls(uniform(num_classes, hidden, fan_in=hidden), None, hidden_weight, hidden_bias)

    def to(self, device: torch.device | str | Tensor) -> "Head":
        """The same head with its tensors on `device`, or with the dtype and on the device of a tensor."""
        return self._each(lambda tensor: tensor.to(device))

    def unstacked(self, i: int | slice) -> "Head":
        """Head i of a stack, or a part of the stack."""
        return self._each(lambda tensor: tensor[i])

    @classmethod
    def stack(cls, heads: Sequence["Head"]) -> "Head":
        """Return the heads, which are alike in shape, as one with a leading axis."""
        return heads[0]._each(lambda *tensors: torch.stack(tensors), *heads[1:])

    def _each(self, change: Callable[..., Tensor], *others: "Head") -> "Head":
        parts = zip(*(vars(head).values() for head in (self, *others)), strict=True)
        weight, *rest = (None if each[0] is None else change(*each) for each in parts)
        assert weight is not None, "a head has a last layer"
        return Head(weight, *rest)

    @property
    def largest_layer(self) -> Tensor:
        """The weight with the most entries."""
        return self.weight if self.hidden_weight is None else max(self.weight, self.hidden_weight, key=torch.numel)

    def embed(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "... n d_last"]:
        """What the last layer sees: the features themselves, or the hidden activations."""
        if self.hidden_weight is None or self.hidden_bias is None:
            return features
        return torch.relu(features @ self.hidden_weight.mT + self.hidden_bias.unsqueeze(-2))

    def last_layer(self, embedded: Float[Tensor, "... n d_last"]) -> Float[Tensor, "*e n k"]:
        """Logits from what `embed` returned."""
        logits = embedded @ self.weight.mT
        # In place: the logits of a million instances and a thousand classes take 5 GB.
        return logits if self.bias is None else logits.add_(self.bias.unsqueeze(-2))

    def logits(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "*e n k"]:
        return self.last_layer(self.embed(features))
