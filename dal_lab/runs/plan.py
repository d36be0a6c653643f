"""Which runs of a grid are stored, which would run, and for how long."""

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dal_core.experiment import Experiment
from dal_lab.estimate import Estimate, estimate, usual_cores
from dal_lab.runs.study import described, described_by_seed, device_of
from dal_lab.sources import catalogue


@dataclasses.dataclass(frozen=True)
class Plan:
    """Runs that are stored, and those that would be computed, each with the seconds that runs like it took."""

    stored: Sequence[Any]
    missing: Sequence[tuple[Any, Sequence[float]]]
    side_by_side: int

    def seconds(self) -> float:
        """Return an estimate of missing runs whose like is stored: the sum of medians, `side_by_side` at a time."""
        known = [statistics.median(durations) for _, durations in self.missing if durations]
        return max(sum(known) / self.side_by_side, *known) if known else 0.0

    def lines(self) -> list[str]:
        """Return the plan for people, runs that differ in the seed only in one line."""
        lines = [f"stored     {what}" for what in described_by_seed(self.stored).values()]
        durations = {described(study): known for study, known in self.missing}
        for what, named in described_by_seed(study for study, _ in self.missing).items():
            known = durations[what]
            each = f"about {duration_in_words(statistics.median(known))} each" if known else "no estimate"
            lines.append(f"would run  {named}: {each}")
        return [*lines, self._total()]

    def _total(self) -> str:
        unknown = sum(not durations for _, durations in self.missing)
        counts = f"{len(self.stored)} runs are stored, {len(self.missing)} would run"
        if not self.missing:
            return counts
        if unknown == len(self.missing):
            return f"{counts}; no stored run tells for how long"
        beside = f"{self.side_by_side} at a time" if self.side_by_side > 1 else "one after another"
        without = f", and {unknown} that no stored run tells about" if unknown else ""
        return f"{counts}: about {duration_in_words(self.seconds())}, {beside}{without}"


def duration_in_words(seconds: float) -> str:
    """Return a duration as people say it, to about two digits."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.2g} {unit}" if seconds < 10 * length else f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0.1):.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def query_lines(experiments: Sequence[Experiment], data_dir: Path | None, side_by_side: int = 1) -> list[str]:
    """Return what the last, largest query of each strategy and data set costs, a line each; the data are read."""
    lines = {}
    for each in experiments:
        what = f"a query    {each.strategy.name} on {catalogue.short_name(each.data)}"
        try:
            lines[what] = _last_query(each, data_dir, max(1, usual_cores() // side_by_side)).line()
        except ValueError as refusal:  # what does not fit into memory, or an own strategy, of which there is no formula
            lines[what] = str(refusal)
        except OSError:  # Committed runs are read without their data, and without the encoder's.
            lines[what] = "no estimate, because the data are not here"
    return [f"{what}: {cost}" for what, cost in lines.items()]


def _last_query(experiment: Experiment, data_dir: Path | None, cores: int) -> Estimate:
    protocol, bank = experiment.protocol, catalogue.load(experiment.data, experiment.encoder, data_dir)
    batches = protocol.batches or (1,)
    labelled = protocol.total - protocol.batches[-1] if protocol.batches else protocol.total
    pool = int(len(bank.train_labels) * protocol.share) - protocol.validation_size - labelled
    return estimate(
        experiment.strategy.name, pool=min(pool, protocol.subset_size or pool), labelled=labelled, batch=max(batches),
        features=getattr(experiment.learner, "hidden", bank.num_features), classes=bank.num_classes,
        test=len(bank.test_labels), device="cuda" if device_of(experiment).type == "cuda" else "cpu", cores=cores,
        options=experiment.strategy.options,
    )  # fmt: skip


def but_for_seed(configuration: Mapping[str, Any]) -> str:
    """Return a text that is the same for runs that differ in the seed only."""
    return json.dumps({name: value for name, value in configuration.items() if name != "seed"}, sort_keys=True)
