"""The configuration of an active learning run, made of frozen parts."""

import contextlib
import copy
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from dal_core.checks import check_choice, check_options, check_text, shown
from dal_core.contracts import Between, Count, Positive, Share, Size, check_fields
from dal_core.models.learners import Linear
from dal_core.protocols import Learner, Task
from dal_core.snapshot import LastLayer, Regression, Snapshot, with_model
from dal_core.strategies import registry
from dal_core.task import Classification
from dal_core.updates import Updates

Initial = Literal["random", "balanced", "typiclust", "coreset", "max_herding"]


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class Strategy:
    """A registered strategy and its options.

    >>> Strategy("bait", approximation="top", top_classes=2)
    Strategy('bait', approximation='top', top_classes=2)

    Raises:
        ValueError: for an unknown name or option, and a value that JSON cannot hold.
    """

    name: str
    options: dict[str, Any]

    def __init__(self, name: str, **options: Any) -> None:
        check_options("options", options)
        registry.get(name, options)
        for option in registry.NAMING:
            for each in value if isinstance(value := options.get(option, ()), list | tuple) else [value]:
                check_choice(option, each, registry.names())
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "options", copy.deepcopy(options))  # A list of the caller's may change later.

    def __repr__(self) -> str:
        options = (f"{name}={value!r}" for name, value in self.options.items())
        return f"Strategy({', '.join([repr(self.name), *options])})"

    @property
    def function(self) -> registry.Strategy:
        """The strategy with its options bound."""
        return registry.get(self.name, self.options)

    def __hash__(self) -> int:
        return hash(self.name)  # Values of options may be lists.


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How instances are bought. A tuple as `batch_size` has the sizes of all cycles, and decides how many there are.

    Args:
        initial_size: instances labelled at the start.
        batch_size: instances bought in a cycle.
        cycles: number of acquisitions.
        subset_size: the strategy sees that many unlabelled instances, drawn anew in each cycle; None: the whole pool.
        initial: how the initial set is chosen: at random, as many of each class ("balanced", which looks at labels), or
            by a strategy that needs features alone.
        validation_size: instances that are set aside and never bought, for oracles that judge by a validation set.
        share: of the instances, drawn at random, that make the pool.
        imbalance: how many times rarer the rarest class of the pool is than the most frequent one
            (`pool.long_tailed`); 1: the pool as it comes.
        standardise: features get mean 0 and deviation 1 on the train split, for tables whose scales differ.
        mean_field: also measure the mean-field predictions of a Laplace approximation with this factor
            (`task.Classification`), as the four papers do with 0.4; None: the plain predictions alone.
    """

    initial_size: Count = 10
    batch_size: Count | tuple[Count, ...] = 10
    cycles: Size = 20
    subset_size: Count | None = None
    initial: Initial = "random"
    validation_size: Size = 0
    share: Share = 1.0
    imbalance: Annotated[float, Between(1, math.inf, "low")] = 1.0
    standardise: bool = False
    mean_field: Positive | None = None

    def __post_init__(self) -> None:
        if isinstance(self.batch_size, list | tuple):
            if self.cycles not in (type(self).cycles, expected := len(self.batch_size)):
                raise ValueError(f"cycles is {shown(self.cycles)}; {expected}, the sizes in batch_size, was expected")
            object.__setattr__(self, "batch_size", tuple(self.batch_size))
            object.__setattr__(self, "cycles", expected)
        check_fields(self)
        largest = self.batch_size if isinstance(self.batch_size, int) else max(self.batch_size, default=1)
        if self.subset_size is not None and self.subset_size < largest:
            raise ValueError(
                f"subset_size is {self.subset_size}; a whole number of at least {largest}, the batch size, was expected"
            )

    @property
    def total(self) -> int:
        """How many instances are labelled in the end."""
        bought = self.batch_size * self.cycles if isinstance(self.batch_size, int) else sum(self.batch_size)
        return self.initial_size + bought

    @property
    def batches(self) -> tuple[int, ...]:
        """The sizes of all batches."""
        return (self.batch_size,) * self.cycles if isinstance(self.batch_size, int) else self.batch_size


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Configuration of one active learning run; everything that its rows depend on, next to the data.

    Args:
        data: the name of a data set, or the path of a feature file of your own.
        encoder: what turns its images, texts or sounds into features.
        strategy: a registered name, or a `Strategy` with options.
        learner: what is trained in each cycle, e.g. `Linear(Training("radam"))` or `Mlp()`.
        protocol: how much is bought, and how.
        updates: updates of the last layer within a batch; None: whole batches.
        task: what is judged; None: that of the data, `Classification` by its labels.
        seed: of the initial labelled set, the initial weights, the minibatches, the pool subsets, the strategy.
        device: "auto" takes CUDA where there is one, else MPS, else the CPU. On MPS, which has no float64, models are
            trained; strategies choose on the CPU.
        allow_oracle: allow a strategy that looks at true labels.

    Raises:
        ValueError: on anything unknown or out of range, and for a strategy or a task that needs more than the
            learner's models give.
    """

    data: str = "digits"
    encoder: str | None = None
    strategy: Strategy = "margin"  # type: ignore[assignment]  # A name becomes a Strategy.
    learner: Learner = Linear()  # noqa: RUF009  # It is frozen.
    protocol: Protocol = Protocol()
    updates: Updates | None = None
    task: Task | None = None
    seed: Size = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    allow_oracle: bool = False

    def __post_init__(self) -> None:
        check_text("data", self.data)
        if self.encoder is not None:
            check_text("encoder", self.encoder)
        if not isinstance(self.strategy, Strategy):
            object.__setattr__(self, "strategy", Strategy(self.strategy))
        check_fields(self)
        gives: Any = getattr(self.learner, "gives", None)
        if Snapshot not in getattr(gives, "__mro__", ()) or isinstance(self.learner, type):
            found = f"learner is {shown(self.learner)}"
            raise ValueError(f"{found}; a learner that gives a view was expected, such as Linear() or Mlp()")
        name = self.strategy.name
        if registry.needs_oracle(name):
            if not self.allow_oracle:
                raise ValueError(
                    f"strategy {name!r} looks at true labels: allow_oracle is False, True was expected to run it"
                )
            if issubclass(gives, Regression) and registry.compares_classes(registry.get(name)):
                found = (
                    f"strategy {name!r} compares classes, but models of {type(self.learner).__name__} are a regression"
                )
                raise ValueError(f"{found}; a classification was expected")
            if self.updates is not None:
                raise ValueError(f"updates is given, but the oracle {name!r} picks whole batches")
        offered = with_model(gives, truth=True)
        needs = {
            f"strategy {each!r}": registry.needed_view(each)
            for each in sorted(registry.used(name, self.strategy.options))
        }
        needs |= {"task": self.task.needs} if self.task is not None else {}
        needs |= {"updates": LastLayer} if self.updates is not None else {}
        if (factor := self.protocol.mean_field) is not None:
            needs["protocol.mean_field"] = LastLayer
            if self.task is not None:
                raise ValueError(f"protocol.mean_field is {factor}, but task is given; one of them was expected")
        for who, kind in needs.items():
            if not issubclass(offered, kind):
                found = f"models of {type(self.learner).__name__} give {gives.__name__}"
                raise ValueError(f"{who} needs {kind.__name__}, but {found}")

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Of the run's rows; None for a task that does not say which are its own."""
        own = getattr(self.task or Classification(2, self.protocol.mean_field), "columns", None)
        return None if own is None else ("cycle", "n_labeled", *own, "query_s", "train_s", "acquired", "record")


def check_alike_but_for_seed(experiments: Sequence[Experiment]) -> None:
    """Raise ValueError unless there are experiments, and they differ in the seed alone."""
    if other := [each for each in experiments if not isinstance(each, Experiment)]:
        raise ValueError(f"experiments holds a {type(other[0]).__name__}; a list of Experiments was expected")
    if not experiments:
        raise ValueError("experiments is empty; at least one was expected")
    names = [field.name for field in dataclasses.fields(Experiment) if field.name != "seed"]
    first, *others = experiments
    if different := [name for name in names if any(getattr(e, name) != getattr(first, name) for e in others)]:
        raise ValueError(
            f"experiments differ in {', '.join(different)}; runs that go together differ in the seed alone"
        )


@contextlib.contextmanager
def naming(experiment: Experiment, together: Sequence[Experiment]) -> Iterator[None]:
    """Say whose error it is, where it could be that of another run."""
    try:
        yield
    except Exception as error:
        if len(together) == 1:
            raise
        raise FailedRunError(experiment) from error


class FailedRunError(RuntimeError):
    """One of several runs that go together failed: `experiment`, for the reason in `__cause__`."""

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(f"the run with the seed {experiment.seed} failed")
        self.experiment = experiment
