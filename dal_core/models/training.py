"""The one routine that trains one head or e heads at once.

Axes: e heads trained together, n pool, m labelled, b minibatch, k classes, d features, h hidden units.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.checks import check_alike, check_labels, check_memory, check_shape, free_memory
from dal_core.contracts import Below, Between, Count, Size, check_fields, checked
from dal_core.models.heads import Head
from dal_core.parallel import in_parallel, using_workers

ALIGNMENT = 8  # Rows of parameters are filled up to a multiple of so many numbers.
LARGEST_RATE = 1e30  # float32 ends at 3e38, and nothing is learnt at rates far below.
# Parameters, gradients and optimiser state of the heads of one block. On a CPU they should stay in the cache, and leave
# work for all cores.
BLOCK_BYTES = {"cpu": 4 * 2**20, "cuda": 2 * 2**30}
GATHERED_BYTES = 2**20  # Shuffled inputs of several epochs are held at a time where they stay in the cache.


# What belongs to an optimiser unless it is set: SGD as in BoSS and REFINE, RAdam as in Fast Fishing.
USUAL: dict[str, dict[str, Any]] = {
    "sgd": {"weight_decay": 5e-4, "drop_last": True},
    "radam": {"weight_decay": 1e-4, "drop_last": False},
}


@dataclasses.dataclass(frozen=True)
class Training:
    """How a head is trained; a weight decay or `drop_last` of None is that of the papers with the optimiser.

    The learning rate falls along a cosine that would reach 0 after `schedule_epochs`; None: after `epochs`. `drop_last`
    leaves out an epoch's last incomplete minibatch, unless it is the only one. `PROTOCOLS` has those of the papers.

    >>> Training("radam").weight_decay
    0.0001
    """

    optimiser: Literal["sgd", "radam"] = "sgd"
    learning_rate: Annotated[float, Between(0, LARGEST_RATE, "high")] = 1e-2
    weight_decay: Annotated[float, Between(0, LARGEST_RATE, "both")] = None  # type: ignore[assignment]
    batch_size: Count = 64
    epochs: Size = 200
    drop_last: bool = None  # type: ignore[assignment]
    schedule_epochs: Size | None = None

    def __post_init__(self) -> None:
        for name, value in USUAL.get(str(self.optimiser), {}).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        check_fields(self)
        if self.schedule_epochs is not None and self.schedule_epochs < self.epochs:
            found = f"schedule_epochs is {self.schedule_epochs}"
            raise ValueError(f"{found}; at least {self.epochs}, the number of epochs, was expected")

    @property
    def epochs_to_zero(self) -> int:
        """The number of epochs after which the learning rate would be 0."""
        return self.epochs if self.schedule_epochs is None else self.schedule_epochs

    def stopped_after(self, epochs: int) -> "Training":
        """Return the first `epochs` of this training: the learning rate is the same in each of them.

        Where the training is shorter than that, its schedule is stretched to `epochs`.

        >>> Training(epochs=200).stopped_after(50).epochs_to_zero
        200
        """
        return dataclasses.replace(self, epochs=epochs, schedule_epochs=max(epochs, self.epochs_to_zero))

    def minibatches(self, num_samples: int) -> list[slice]:
        """The slices of a shuffled epoch over `num_samples`."""
        size = self.batch_size
        end = num_samples - num_samples % size if self.drop_last and num_samples > size else num_samples
        return [slice(start, min(start + size, end)) for start in range(0, end, size)]


PROTOCOLS = {
    "laplace_updates": Training("radam", drop_last=True),
    "fast_fishing": Training("radam"),
    "boss": Training("sgd"),
    "refine": Training("sgd"),
}


@checked
def train_heads(
    initial: Head,
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"] | Int[Tensor, "e m"],
    index_sets: Annotated[Int[Tensor, "e m"], Below("n")],
    training: Training,
    generators: Sequence[torch.Generator],
    *,
    block_bytes: int | None = None,
) -> Head:
    """Train e heads with cross-entropy at once, head i on the instances `index_sets[i]`, and return them stacked.

    Minibatches are shuffled anew in every epoch by the head's own (CPU) generator, and the learning rate falls from
    epoch to epoch along a cosine (`Training`), so that a head is the same whether trained alone or among others, up to
    rounding. Heads are worked off in blocks whose parameters and optimiser state fit into `block_bytes`.

    Args:
        initial: one head, the start of all, or a stack of e heads. Not modified.
        labels: of the instances; or of the entries of `index_sets`, where heads are told different labels.
        index_sets: positions in `features`; all sets have the same size.
        generators: one a head, on the CPU whatever the device, so that minibatches are the same on every device.

    Raises:
        ValueError: if dtypes or devices differ, a label or index is out of range, a set is empty, or the numbers of
            heads, sets and generators disagree.
    """
    num_heads, num_samples = index_sets.shape
    if len(generators) != num_heads:
        raise ValueError(
            f"generators has {len(generators)} entries; {num_heads} were expected, one a row of index_sets"
        )
    if num_samples == 0 or num_heads == 0:
        raise ValueError(f"index_sets has shape {tuple(index_sets.shape)}; at least one non-empty set was expected")
    first_layer = initial.weight if initial.hidden_weight is None else initial.hidden_weight
    check_alike(features=features, weight=first_layer)
    check_shape("features", features, (None, first_layer.shape[-1]))
    check_labels("labels", labels, initial.weight.shape[-2])
    # The optimiser's state is made a block of heads at a time.
    layer = initial.largest_layer
    check_memory("the stack of heads", (num_heads, *layer.shape[-2:]), layer, "train fewer heads at once")
    parameters = _with_bias_column(initial, num_heads)
    # Only the rows in use are gathered and get the constant 1 that the bias is the weight of.
    used, local_sets = index_sets.unique(return_inverse=True)
    width = parameters[0].shape[-1]
    inputs = features.new_zeros(len(used), width)  # [u, w]
    inputs[:, : features.shape[1]] = features[used]
    inputs[:, features.shape[1]] = 1
    targets = labels if labels.ndim == 2 else labels[index_sets]  # [e, m]

    head_bytes = 4 * sum(tensor[0].nbytes for tensor in parameters)
    budget = BLOCK_BYTES.get(features.device.type, BLOCK_BYTES["cpu"])
    if features.device.type == "cuda":
        budget = min(budget, free_memory(features.device) // 4)
    most = max(1, (block_bytes or budget) // head_bytes)
    heads_a_block = math.ceil(num_heads / math.ceil(num_heads / most))  # Blocks of one size end together.

    def train(start: int) -> None:
        block = slice(start, start + heads_a_block)
        views = [tensor[block] for tensor in parameters]
        _train_block(views, inputs, targets[block], local_sets[block], training, generators[block])

    # Elsewhere than on a CPU a block may take a quarter of the memory: one at a time.
    with using_workers(None if features.device.type == "cpu" else 1):
        in_parallel(train, range(0, num_heads, heads_a_block))
    return _without_bias_column(parameters, initial, features.shape[1])


def train_head(
    initial: Head,
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    indices: Int[Tensor, " m"],
    training: Training,
    generator: torch.Generator,
) -> Head:
    """Train one head on the instances `indices`; `train_heads` with e = 1.

    >>> draw = torch.Generator().manual_seed(0)
    >>> features = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
    >>> initial = Head.initial("linear", num_features=2, num_classes=2, generator=draw)
    >>> head = train_head(initial, features, torch.tensor([0, 1, 0, 1]), torch.arange(4), Training(), draw)
    >>> head.logits(features).argmax(dim=1).tolist()
    [0, 1, 0, 1]
    """
    stacked = train_heads(initial, features, labels, indices.unsqueeze(0), training, [generator])
    return stacked.unstacked(0)


def _with_bias_column(head: Head, num_heads: int) -> list[Tensor]:
    """Parameters [e, k, w], or hidden [e, h, w] and last [e, k, h]: a bias is the weight of a constant 1.

    w is d + 1 rounded up with columns of zeros, which stay zero: matrix products are up to 1.7 times slower over rows
    that do not start at a multiple of the processor's vectors.
    """

    def stacked(tensor: Tensor) -> Tensor:
        if tensor.ndim == 3 and len(tensor) != num_heads:
            raise ValueError(f"initial stacks {len(tensor)} heads; 1 or {num_heads} were expected")
        return tensor.expand(num_heads, *tensor.shape[-2:])

    def joined(weight: Tensor, bias: Tensor) -> Tensor:
        filling = weight.new_zeros(num_heads, weight.shape[-2], -(weight.shape[-1] + 1) % ALIGNMENT)
        return torch.cat((stacked(weight), stacked(bias.unsqueeze(-1)), filling), dim=-1)

    if head.hidden_weight is None or head.hidden_bias is None:
        assert head.bias is not None, "a linear head has a bias"
        return [joined(head.weight, head.bias)]
    return [joined(head.hidden_weight, head.hidden_bias), stacked(head.weight).clone()]


def _without_bias_column(parameters: list[Tensor], like: Head, num_features: int) -> Head:
    first = parameters[0]
    weight, bias = first[..., :num_features].contiguous(), first[..., num_features].contiguous()
    if like.hidden_weight is None:
        return Head(weight, bias)
    return Head(parameters[1], None, weight, bias)


def _train_block(
    parameters: list[Tensor],
    inputs: Tensor,
    targets: Tensor,
    index_sets: Tensor,
    training: Training,
    generators: Sequence[torch.Generator],
) -> None:
    """Train the heads of one block in place."""
    gradients = [torch.empty_like(tensor) for tensor in parameters]
    step = OPTIMISERS[training.optimiser](parameters, gradients)
    minus_one = inputs.new_full((len(index_sets), 1, training.batch_size), -1.0)
    for epoch, batch_inputs, batch_targets in _minibatches(inputs, targets, index_sets, training, generators):
        _cross_entropy_gradient(
            parameters, gradients, batch_inputs, batch_targets, minus_one[..., : batch_targets.shape[2]],
            training.weight_decay,
        )  # fmt: skip
        step(training.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / training.epochs_to_zero)))


def _minibatches(
    inputs: Tensor, targets: Tensor, index_sets: Tensor, training: Training, generators: Sequence[torch.Generator]
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield epoch, inputs [e, b, w] and targets [e, 1, b] of each minibatch; small epochs are gathered several at once.

    Each head has an order of its own, drawn on the CPU so that it is the same on every device.
    """
    num_heads, num_samples = index_sets.shape
    first, *others = generators
    alike = all(torch.equal(first.get_state(), each.get_state()) for each in others)  # One order is drawn for all.
    buffer = inputs.new_empty(num_heads * training.batch_size, inputs.shape[1])
    together = max(1, GATHERED_BYTES // (num_heads * num_samples * inputs[0].nbytes))
    for begin in range(0, training.epochs, together):
        epochs = range(begin, min(begin + together, training.epochs))
        drawing = [first] if alike else generators
        orders = [torch.cat([torch.randperm(num_samples, generator=each) for _ in epochs]) for each in drawing]
        order = torch.stack(orders).to(index_sets.device).expand(num_heads, -1)  # [e, epochs m]
        shuffled, shuffled_targets = index_sets.gather(1, order), targets.gather(1, order).unsqueeze(1)
        gathered = _rows(inputs, shuffled) if together > 1 else None
        for start, epoch in enumerate(epochs):
            for each in training.minibatches(num_samples):
                batch = slice(start * num_samples + each.start, start * num_samples + each.stop)
                rows = _rows(inputs, shuffled[:, batch], buffer) if gathered is None else gathered[:, batch]
                yield epoch, rows, shuffled_targets[..., batch]
    for other in others if alike else ():
        other.set_state(first.get_state())


def _rows(inputs: Tensor, rows: Int[Tensor, "e b"], buffer: Tensor | None = None) -> Float[Tensor, "e b w"]:
    # index_select copies whole rows, several times faster than inputs[rows]; a buffer, since new memory is slow.
    out = None if buffer is None else buffer[: rows.numel()]
    return torch.index_select(inputs, 0, rows.flatten(), out=out).view(*rows.shape, -1)


def _cross_entropy_gradient(
    parameters: list[Tensor], gradients: list[Tensor], inputs: Tensor, targets: Tensor, minus_one: Tensor,
    weight_decay: float,
) -> None:  # fmt: skip
    """Gradient of the mean cross-entropy plus `weight_decay` times the parameters, written into `gradients`.

    inputs [e, b, w], targets and minus_one [e, 1, b]. The gradient of the logits is (softmax - onehot) / b.
    """
    mean = 1 / targets.shape[2]
    # Samples go last: products with a class or unit a row are faster than those with a sample a row.
    hidden, last_inputs = None, inputs.mT
    if len(parameters) == 2:
        hidden = last_inputs = torch.bmm(parameters[0], inputs.mT).relu_()  # [e, h, b]
    errors = torch.bmm(parameters[-1], last_inputs).softmax(dim=1)  # [e, k, b]
    errors.scatter_add_(1, targets, minus_one)
    torch.baddbmm(parameters[-1], errors, last_inputs.mT, beta=weight_decay, alpha=mean, out=gradients[-1])
    if hidden is not None:
        hidden_errors = torch.bmm(parameters[-1].mT, errors).mul_(hidden > 0)  # [e, h, b]
        torch.baddbmm(parameters[0], hidden_errors, inputs, beta=weight_decay, alpha=mean, out=gradients[0])


Step = Callable[[float], None]  # takes the learning rate, updates the parameters in place from the gradients


def _sgd(parameters: list[Tensor], gradients: list[Tensor], momentum: float = 0.9) -> Step:
    """Stochastic gradient descent with Nesterov momentum, as torch.optim.SGD defines it."""
    velocities = [torch.zeros_like(tensor) for tensor in parameters]

    def step(rate: float) -> None:
        torch._fused_sgd_(  # one pass over the parameters
            parameters, gradients, velocities, momentum=momentum, nesterov=True, lr=rate, weight_decay=0.0,
            dampening=0.0, maximize=False, is_first_step=False,
        )  # fmt: skip

    return step


def _radam(
    parameters: list[Tensor], gradients: list[Tensor], decay: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8
) -> Step:
    """Rectified Adam (Liu et al. 2020, algorithm 2), as torch.optim.RAdam defines it."""
    firsts = [torch.zeros_like(tensor) for tensor in parameters]  # moving average of the gradient
    seconds = [torch.zeros_like(tensor) for tensor in parameters]  # and of its square
    length_limit = 2 / (1 - decay[1]) - 1  # of the moving average, for t to infinity
    t = 0

    def step(rate: float) -> None:
        nonlocal t
        t += 1
        first_correction, second_correction = 1 - decay[0] ** t, 1 - decay[1] ** t
        length = length_limit - 2 * t * decay[1] ** t / second_correction
        for parameter, gradient, first, second in zip(parameters, gradients, firsts, seconds, strict=True):
            first.lerp_(gradient, 1 - decay[0])
            second.mul_(decay[1]).addcmul_(gradient, gradient, value=1 - decay[1])
            if length <= 5:  # the variance of the adaptive rate is not tractable yet: plain momentum
                parameter.add_(first, alpha=-rate / first_correction)
                continue
            rectification = math.sqrt(
                (length - 4) * (length - 2) * length_limit / ((length_limit - 4) * (length_limit - 2) * length)
            )
            scale = rate * rectification * math.sqrt(second_correction) / first_correction
            parameter.addcdiv_(first, torch.sqrt(second, out=gradient).add_(epsilon), value=-scale)

    return step


OPTIMISERS: dict[str, Callable[[list[Tensor], list[Tensor]], Step]] = {"sgd": _sgd, "radam": _radam}
