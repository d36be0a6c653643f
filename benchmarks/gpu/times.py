"""Section 2: times and memory on the card, as ratios within one process, beside two ceilings measured on it."""

import functools
from collections.abc import Callable

import torch

from benchmarks import rates
from benchmarks.gpu import queries, twins
from benchmarks.gpu.measuring import CPU, measured, moved, side_by_side
from benchmarks.gpu.settings import Item, Result, Settings
from benchmarks.gpu.twins import badge_without_waiting, core_set_without_waiting
from dal_core.randomness import generator_for
from dal_core.snapshot import Snapshot
from dal_core.strategies.badge import badge_select
from dal_core.strategies.coreset import k_center_greedy
from dal_core.strategies.herding import herding_select
from dal_core.strategies.probcover import probcover_select

# The cases that a run spends its time in, most of it first; the others follow in the order of the benchmarks.
FIRST = (
    "one-head", "many-heads", "bait-binary-large", "boss-query", "refine-query", "bait-exact", "bait-diagonal", "badge",
    "coreset", "typiclust", "unc_herding", "max_herding", "probcover", "candidate-heads", "k-means-many", "alfamix",
)  # fmt: skip
FOREIGN = ("activeml-", "laplace-")  # beside other packages' ways on NumPy: no cases for a card
CASE_WEIGHT, QUERY_WEIGHT = 0.4, 3.0
RADIUS = 1.25  # of ProbCover: a ball holds much of a class and little of others


def items(settings: Settings) -> list[Item]:
    """Return the measurements of this section."""
    from benchmarks.cases import CASES  # here, since the packages it compares with take seconds to import

    names = [*FIRST, *(name for name in CASES if name not in FIRST and not name.startswith(FOREIGN))]
    return [
        Item("ceilings", ceilings, 1.0),
        *(Item(name, measure, weight, may_take=0.4) for name, measure, weight in queries.FIRST),
        *(Item(f"case {name}", functools.partial(case, name), CASE_WEIGHT) for name in names[:2]),
        *(Item(f"twin of {name}", functools.partial(twin, name), 0.5) for name in TWINS),
        *(Item(name, measure, QUERY_WEIGHT) for name, measure in queries.of_protocols(settings).items()),
        *(Item(name, measure, QUERY_WEIGHT) for name, measure in queries.of_a_million().items()),
        *(Item(f"case {name}", functools.partial(case, name), CASE_WEIGHT) for name in names[2:]),
    ]


def ceilings(settings: Settings) -> Result:
    """Bytes a second of a large copy on the device, operations a second of large products, and copies to and fro."""
    found = rates.measure(settings.where)
    values: Result = {"bandwidth_bytes_s": found.bandwidth, "float32_operations_s": found.throughput}
    values["tf32_operations_s"] = found.with_tf32
    side = rates.SIDE[settings.device] if settings.device == "cuda" else 512
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        one = torch.randn(side, side, device=settings.where).to(dtype)
        name = str(dtype).removeprefix("torch.")
        try:
            seconds = rates.fastest(functools.partial(torch.mm, one, one), settings.where)
            values[f"{name}_operations_s"] = 2 * side**3 / seconds
        except RuntimeError as error:  # a card without this kind
            values[f"{name}_operations_s"] = str(error).splitlines()[0]
    here = torch.ones(2**24 if settings.scaled_down else 2**27)
    there = here.to(settings.where)
    values["to_device_bytes_s"] = here.nbytes / rates.fastest(
        lambda: here.to(settings.where, copy=True), settings.where
    )
    values["to_host_bytes_s"] = here.nbytes / rates.fastest(lambda: there.to("cpu", copy=True), settings.where)
    return values


def case(name: str, settings: Settings) -> Result:
    """Measure a case of the benchmarks on the CPU's cores and on the card, from the same tensors."""
    from benchmarks.cases import CASES

    queries.forget_large_pool()
    made = CASES[name](small=settings.scaled_down)
    on_cpu = measured(made.ours, CPU, settings.left() / 3)
    found = {"size": made.size, "cpu": on_cpu, "cores": torch.get_num_threads()}
    if settings.device == "cpu":  # which is measured again, to see how far two measurements are apart
        there = measured(made.ours, CPU, settings.left() / 2)
    else:
        there = measured(moved(made.ours, settings.where), settings.where, settings.left() / 2)
    return found | {"device": there, "times_faster": on_cpu["median_s"] / there["median_s"]}


def twin(name: str, settings: Settings) -> Result:
    """Time the package's way and the one without waiting for the card, in alternation; they have to pick the same."""
    queries.forget_large_pool()
    size = queries.TWIN_SIZE[settings.device]
    at = queries.snapshot(size, settings.where)
    ours, other = TWINS[name](at, size.batch_size)
    picks, twin_picks = ours().tolist(), other().tolist()
    found = side_by_side({"package": ours, "twin": other}, settings.where, settings.left() / 2)
    ratio = found["package"]["median_s"] / found["twin"]["median_s"]
    return found | {"size": queries.words(size), "same_picks": picks == twin_picks, "twin_times_faster": ratio}


Ways = tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor]]


def _probcover(at: Snapshot, batch_size: int) -> Ways:
    unit = torch.nn.functional.normalize
    pool = unit(at.features, dim=1), unit(at.labelled_features, dim=1)
    return (
        lambda: probcover_select(*pool, batch_size, generator_for(0, "twin"), radius=RADIUS),
        lambda: twins.probcover_without_waiting(*pool, batch_size, generator_for(0, "twin"), radius=RADIUS),
    )


def _lazy(at: Snapshot, batch_size: int) -> Ways:
    unit = torch.nn.functional.normalize
    pool = unit(at.features, dim=1), unit(at.labelled_features, dim=1)
    return (
        lambda: herding_select(*pool, batch_size, gamma=1.0),
        lambda: twins.herding_with_one_look(*pool, batch_size, gamma=1.0),
    )


def _core_set(at: Snapshot, batch_size: int) -> Ways:
    return (
        lambda: k_center_greedy(at.features, at.labelled_features, batch_size),
        lambda: core_set_without_waiting(at.features, at.labelled_features, batch_size),
    )


def _badge(at: Snapshot, batch_size: int) -> Ways:
    return (
        lambda: badge_select(at.features, at.logits, batch_size, generator_for(0, "twin")),
        lambda: badge_without_waiting(at.features, at.logits, batch_size, generator_for(0, "twin")),
    )


TWINS = {
    "probcover": _probcover,
    "lazy (herding)": _lazy,
    "positions (core-set)": _core_set,
    "positions (BADGE)": _badge,
}
