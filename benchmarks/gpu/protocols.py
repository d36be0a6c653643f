"""The main grids of the four notebooks, as their preset `real` has them, and the data that they run on."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from dal_core import strategies
from dal_core.ensembles.members import STRATEGIES as MEMBERS
from dal_core.experiment import Experiment, Strategy
from dal_lab.runs.settings import experiment_of
from dal_lab.studies.updating import UpdateStudy

Study = Experiment | UpdateStudy


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a grid: `name` is the method's, for the tables."""

    grid: str
    name: str
    study: Study

    @property
    def title(self) -> str:
        data = self.data if self.study.encoder is None else f"{self.data} ({self.study.encoder})"
        return f"seed {self.study.seed}, {self.grid}, {data}, {self.name}"

    @property
    def data(self) -> str:
        return self.study.data if isinstance(self.study, Experiment) else str(self.study.dataset)


LETTER = {"dataset": "letter"}
TEXTS = {
    "banking77": {"dataset": "banking77", "encoder": "minilm", "initial_size": 77, "batch_size": 77},
    "clinc150": {"dataset": "clinc150", "encoder": "minilm", "initial_size": 150, "batch_size": 150},
}
IMAGES = {
    "cifar10": {"dataset": "cifar10", "initial_size": 10, "batch_size": 10},
    "cifar100": {"dataset": "cifar100", "initial_size": 100, "batch_size": 100},
}
DIGITS = {"dataset": "digits"}
BAIT_OF_LETTER: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {}),
    "bait_top_1": ("bait", {"approximation": "top", "top_classes": 1}),
    "bait_top_2": ("bait", {"approximation": "top", "top_classes": 2}),
    "bait_top_5": ("bait", {"approximation": "top", "top_classes": 5}),
    "bait_exact": ("bait", {"approximation": "exact"}),
    "bait": ("bait", {}),
}
UPDATE_SIZES = (100, 500, 1000)  # labels before an update
BENCHMARK = ("random", "margin", "badge", "typiclust", "bait")
OF_BOSS = ("random", "margin", "coreset", "badge", "typiclust", "alfamix", "dropquery", "bait")
BESIDE_REFINE = ("tcm", "selectal", "tailor", "autoal")
# Where the sizes are those of a few cores. Heads of 20 epochs are far from trained: these numbers mean nothing.
SCALED_DOWN: dict[str, Any] = {"cycles": 1, "subset_size": 120, "epochs": 20}
SCALED_OPTIONS = {
    "boss": {"num_candidates": 6, "retraining_epochs": 5},
    "refine": {"num_batches": 9, "depth": 2},
    "selectal": {"num_splits": 2, "retraining_epochs": 5},
    "autoal": {"steps": 5},
}


def runs_of(
    seed: int, device: str, images: Sequence[dict[str, Any]] = (), *, scaled_down: bool = False
) -> Iterator[Run]:
    """Yield all runs of a seed, in the order of their worth; `images` are the image data there are, with encoders."""
    for grid in (_boss, _refine, _fast_fishing, _laplace):
        for run in grid(seed, device, list(images)):
            if not scaled_down:
                yield run
            elif not isinstance(run.study, UpdateStudy) or run.study.initial_size == UPDATE_SIZES[0]:
                yield _smaller(run)


def _boss(seed: int, device: str, images: list[dict[str, Any]]) -> Iterator[Run]:
    """Notebook 3, (b): the strategies beside BoSS."""
    for data in ({**TEXTS["banking77"], "cycles": 10}, {**TEXTS["clinc150"], "cycles": 10}, *images):
        for name in ("boss", *OF_BOSS):
            options = {"num_candidates": 100} if name == "boss" else {}
            yield Run("boss", name, _experiment(name, seed, device, data, options, subset_size=None))


def _refine(seed: int, device: str, images: list[dict[str, Any]]) -> Iterator[Run]:
    """Notebook 4, (a): REFINE, its members and other ensembles; runs that another grid has are left to it."""
    others = [name for name in (*MEMBERS, *BESIDE_REFINE) if name not in OF_BOSS]
    for data in ({**TEXTS["banking77"], "cycles": 10}, {**TEXTS["clinc150"], "cycles": 10}, *images):
        for name in ("refine", *others):
            yield Run("refine", name, _experiment(name, seed, device, data, {}, subset_size=None))


def _fast_fishing(seed: int, device: str, images: list[dict[str, Any]]) -> Iterator[Run]:
    """Notebook 2, (a) and (c): BAIT's approximations on Letter, and the benchmark on whole pools."""
    of_letter = LETTER | {"head": "mlp", "batch_size": 30}
    for name, (strategy, options) in BAIT_OF_LETTER.items():
        study = _experiment(strategy, seed, device, of_letter, options, optimiser="radam", subset_size=1000)
        yield Run("fast_fishing", name, study)
    for data in (*TEXTS.values(), *images):
        for name in BENCHMARK:
            study = _experiment(name, seed, device, data, {}, optimiser="radam", subset_size=None)
            yield Run("fast_fishing", name, study)


def _laplace(seed: int, device: str, images: list[dict[str, Any]]) -> Iterator[Run]:
    """Notebook 1, (b): the updating study."""
    texts = [{"dataset": name, "encoder": "minilm"} for name in TEXTS]
    pictures = [{"dataset": each["dataset"], "encoder": each["encoder"]} for each in images]
    for data in (LETTER | {"head": "mlp"}, *texts, *pictures):
        for size in UPDATE_SIZES:
            study = UpdateStudy(
                **data, seed=seed, initial_size=size, device=device, draws=3, num_hypotheses=100,
                gradient_steps=(1, 3, 10, 30), gradient_rates=(0.001, 0.01, 0.1),
            )  # fmt: skip
            yield Run("laplace_updates", f"{size} labels", study)


def _experiment(
    strategy: str, seed: int, device: str, data: dict[str, Any], options: dict[str, Any], **changes: Any
) -> Experiment:
    allowed = strategies.needs_oracle(strategy)
    return experiment_of(
        strategy=strategy, seed=seed, device=device, allow_oracle=allowed, options=options, **data | changes
    )


def _smaller(run: Run) -> Run:
    study = run.study
    if isinstance(study, UpdateStudy):
        fewer: dict[str, Any] = {
            "initial_size": 20,
            "new_sizes": (2,),
            "draws": 1,
            "num_hypotheses": 10,
            "gradient_steps": (1,),
        }
        return dataclasses.replace(
            run, name="20 labels", study=dataclasses.replace(study, **fewer, options={"epochs": 5})
        )
    strategy, batch_size = study.strategy, max(study.protocol.batches)
    training = dataclasses.replace(study.learner.training, epochs=SCALED_DOWN["epochs"])  # type: ignore[attr-defined]
    sizes = {"cycles": SCALED_DOWN["cycles"], "subset_size": max(SCALED_DOWN["subset_size"], batch_size)}
    parts: dict[str, Any] = {
        "strategy": Strategy(strategy.name, **{**strategy.options, **SCALED_OPTIONS.get(strategy.name, {})}),
        "learner": dataclasses.replace(study.learner, training=training),  # type: ignore[type-var]
        "protocol": dataclasses.replace(study.protocol, **sizes),
    }
    return dataclasses.replace(run, study=dataclasses.replace(study, **parts))


def reproducibility(seeds: Sequence[int], device: str, *, scaled_down: bool = False) -> Iterator[Run]:
    """Yield a small grid on digits that needs no inputs, to be run several times."""
    names = ("random", "margin", "bait", "badge", "typiclust", "alfamix", "unc_herding", "boss")
    for seed in seeds:
        for name in names:
            options: dict[str, Any] = {"num_candidates": 10} if name == "boss" else {}
            study = _experiment(name, seed, device, DIGITS | {"cycles": 5}, options)
            run = Run("reproducibility", name, study)
            yield _smaller(run) if scaled_down else run
