"""Active learning in somebody's own annotation work: which instances to label next, and the labels that come back.

A state is a folder: `state.json` says what there is to label and what was asked, `labels.csv` holds the labels,
`batches/<n>.csv` what to label, and `features.safetensors` the features of texts and images.
"""

import collections
import csv
import dataclasses
import functools
import io
import json
import textwrap
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from dal_core import data
from dal_core.checks import check_options, check_whole, printable, shown
from dal_core.context import Context
from dal_core.data import FeatureData, Labelled
from dal_core.loop import draw_in
from dal_core.models.learners import Linear
from dal_core.parallel import fixed_threads
from dal_core.snapshot import AbsentError, take_snapshot
from dal_core.strategies import registry
from dal_core.task import Classification, as_many, check_converged
from dal_lab.runs.files import is_file, remove_leftovers, write_text
from dal_lab.sources.bank import training_scale
from dal_lab.sources.feature_files import absolute
from dal_lab.sources.raw import restated
from dal_lab.sources.tables import LABEL, few
from dal_lab.sources.unlabelled import (
    ENCODED,
    ID,
    TEXT,
    Instances,
    encoded_once,
    named_columns,
    read_instances,
    words_of,
)

FORMAT, LOCK = "dal_core.Annotation.1", ".lock"
FIRST, LATER = "typiclust", "badge"  # The strategies before and after there are labels of two classes.


@dataclasses.dataclass(frozen=True)
class State:
    """What there is to label, digests by id, and what was asked: a batch each with its strategy, options and ids."""

    kind: str
    path: str
    encoder: str | None = None
    standardise: bool = False
    instances: Mapping[str, str] = dataclasses.field(default_factory=dict)
    batches: tuple[dict[str, Any], ...] = ()
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> "State | None":
        """Return the state in a folder; None where there is none."""
        if not is_file(path := folder / "state.json"):
            return None
        damaged = (ValueError, KeyError, TypeError, AttributeError)
        with restated(damaged, f"{printable(path)} is no state that `dal suggest` wrote: "):
            found = json.loads(path.read_text(encoding="utf-8"))
            if found.pop("format") != FORMAT:
                raise ValueError(f"{FORMAT!r} was expected as its format")
            state = cls(**found | {"batches": tuple(found["batches"])})
        return state.with_labels_in(folder)

    def save(self, folder: Path) -> None:
        """Write the labels, then the rest, each of them whole or not at all."""
        if self.labels:
            _write_csv(folder / "labels.csv", {ID: self.labels.keys(), LABEL: self.labels.values()})
        rest = {name: value for name, value in vars(self).items() if name != "labels"}
        write_text(folder / "state.json", json.dumps({"format": FORMAT} | rest, indent=1) + "\n")
        (folder / LOCK).touch()  # What is refused later adds no file.

    @property
    def asked(self) -> set[str]:
        """Return the ids in all batches."""
        return {each for batch in self.batches for each in batch["ids"]}

    def of(self, instances: Instances) -> "State":
        """Return the state with instances and labels that were added to the data.

        Raises:
            ValueError: if an instance is gone or has changed, or a label contradicts the one that is known.
        """
        found = instances.digests()
        if other := [each for each, digest in self.instances.items() if found.get(each) != digest]:
            raise ValueError(
                f"{printable(self.path)} has changed since the last batch: {len(other)} instances are gone or have "
                f"other contents, e.g. {shown(other[0])}; new ones may be added, other data need a --state of their own"
            )
        return dataclasses.replace(self, instances={**self.instances, **found}).labelled(instances.labels, self.path)

    def labelled(self, more: Mapping[str, str], place: object) -> "State":
        """Return the state with more labels, which `place` holds.

        Raises:
            ValueError: for an unknown id, and for another label than is known.
        """
        if unknown := [each for each in more if each not in self.instances]:
            expected = f"one of the {len(self.instances):,} ids of {printable(self.path)} was expected"
            raise ValueError(f"{printable(place)} has unknown ids: {few(list(map(shown, unknown)))}; {expected}")
        return dataclasses.replace(self, labels=_together(self.labels, more, place))

    def with_labels_in(self, folder: Path) -> "State":
        """Return the state with the labels that its folder holds."""
        path = folder / "labels.csv"
        return self.labelled(read_labels(path), path) if is_file(path) else self

    def counts(self) -> str:
        """Return in words how many instances are labelled, of which classes, asked and left."""
        counts = collections.Counter(self.labels.values())
        each = ", ".join(f"{name}: {counts[name]:,}" for name in sorted(counts))
        words = " " + textwrap.shorten(f"of {len(counts)} classes ({each})", 1000) if counts else ""
        waiting, left = len(self.asked - self.labels.keys()), len(self.instances.keys() - self.labels.keys())
        return (
            f"labelled: {len(self.labels):,}{words}; asked and not labelled yet: {waiting:,}; left: {left - waiting:,}"
        )


def suggest(
    folder: Path, kind: str | None = None, path: Path | None = None, *, encoder: str | None = None,
    strategy: str | None = None, batch: int = 10, options: Mapping[str, Any] | None = None, standardise: bool = False,
    seed: int = 0,
) -> list[str]:  # fmt: skip
    """Write the next batch to label into FOLDER/batches, and return what to tell about it, in lines.

    Without `kind` (features, texts or images) and path, the data are those of the batch before.

    Raises:
        ValueError: for data that have changed, and for a strategy that needs labels where there are too few.
    """
    check_whole("--batch", batch, 1)
    check_whole("--seed", seed, 0)
    check_options("--option", options or {})
    if strategy is None and options:
        raise ValueError(
            f"--option is given, {', '.join(options)}, but no --strategy; the one that has it was expected"
        )
    if strategy is not None:
        registry.get(strategy, options)
        if registry.needs_oracle(strategy):
            raise ValueError(f"strategy {strategy!r} looks at true labels; one that does without was expected")
    with _alone(folder):
        known = State.load(folder)
        if kind is None or path is None:
            if known is None:
                raise ValueError(f"{printable(folder)} has no state yet; --features, --texts or --images was expected")
            kind, path = known.kind, Path(known.path)
        path, known = absolute(path), known or State(kind, str(path))
        instances = read_instances(kind, path)
        state = dataclasses.replace(
            known, kind=kind, path=str(path), encoder=encoder or known.encoder,
            standardise=standardise or known.standardise,
        ).of(instances).with_labels_in(folder)  # fmt: skip
        features = _features(state, instances, folder)
        remove_leftovers(folder)
        lines, size = [], min(batch, len(state.instances.keys() - state.labels.keys() - state.asked))
        if size:
            name = strategy or (FIRST if len(set(state.labels.values())) < 2 else LATER)
            ids = _chosen(state, features, name, options or {}, size, seed)
            made = {"strategy": name, "options": dict(options or {}), "seed": seed, "ids": ids}
            state = dataclasses.replace(state, batches=(*state.batches, made))
            few_left = f", all that is left of {batch:,}" if size < batch else ""
            if (place := folder / "batches" / f"{len(state.batches)}.csv").exists():
                raise ValueError(f"{printable(place)} is there, and state.json knows no such batch; none was expected")
            lines = [f"batch {len(state.batches)}: {size:,} instances{few_left}, chosen by {name}: {place}"]
        state.save(folder)
        for number, each in enumerate(state.batches, start=1):
            if not (file := folder / "batches" / f"{number}.csv").exists():  # An interrupted call may have written it.
                texts = {TEXT: [instances.contents[name] for name in each["ids"]]} if kind == "texts" else {}
                _write_csv(file, {ID: each["ids"]} | texts)
                lines += [f"batch {number}, which was missing: {file}"] if number < len(state.batches) else []
    return [*(lines or ["nothing is left to ask"]), state.counts()]


def ingest(path: Path, folder: Path) -> list[str]:
    """Take labels from a table with the columns id and label, and return what to tell about them, in lines.

    Raises:
        ValueError: for unknown ids and for labels that contradict known ones; then nothing changes.
    """
    with _alone(folder):
        if (state := State.load(folder)) is None:
            raise ValueError(f"--state is {shown(str(folder))}; a folder that `dal suggest` has written was expected")
        found = read_labels(path)
        added = len(found.keys() - state.labels.keys())
        state = state.labelled(found, path)
        state.save(folder)
    return [f"{added:,} new labels of {len(found):,} in {path}", state.counts()]


def read_labels(path: Path) -> dict[str, str]:
    """Return labels by id; rows without a label are left out.

    Raises:
        ValueError: for a table without the columns id and label, and for an id with two labels.
    """
    frame = named_columns(path, ID, LABEL)
    rows = [row for row in zip(words_of(frame[ID]), words_of(frame[LABEL]), strict=True) if row[1]]
    labels = dict(rows)
    if other := [row for row in rows if labels[row[0]] != row[1]]:
        _together(labels, dict(other[:1]), path)
    return labels


def _together(known: Mapping[str, str], more: Mapping[str, str], place: object) -> dict[str, str]:
    """Return labels of both; raise ValueError if they contradict each other."""
    if other := [each for each, label in more.items() if known.get(each, label) != label]:
        both = f"{shown(more[other[0]])}, and {shown(known[other[0]])} before"
        raise ValueError(
            f"{printable(place)}: {len(other)} ids have two labels, e.g. {shown(other[0])} has {both}; "
            "one was expected (labels.csv in the --state folder may be corrected by hand)"
        )
    return {**known, **more}


def _chosen(
    state: State, features: Tensor, strategy: str, options: Mapping[str, Any], size: int, seed: int
) -> list[str]:
    """Return the ids that a strategy chooses, as the loop of an experiment would let it.

    Until there are labels of two classes it sees features alone. What is asked then counts as labelled, since labels
    teach nothing yet, so that a strategy of coverage looks elsewhere.
    """
    ids, cycle, asked = list(state.instances), len(state.batches), state.asked
    classes = {name: i for i, name in enumerate(sorted(set(state.labels.values())))}
    taken = state.labels.keys() if len(classes) > 1 else state.labels.keys() | asked
    labelled = torch.tensor([i for i, each in enumerate(ids) if each in taken], dtype=torch.int64)
    free = [i for i, each in enumerate(ids) if each not in state.labels and each not in asked]
    targets = torch.tensor([classes.get(state.labels.get(each, ""), 0) for each in ids])
    train, visible = Labelled(FeatureData(features), targets), torch.tensor(free)
    learner, task = Linear(), Classification(max(2, len(classes)))
    draw, model = functools.partial(draw_in, seed, cycle), None
    with fixed_threads():
        if len(classes) > 1:
            known = [labelled], [train.labels_at(labelled)]
            (model,) = as_many(1, learner.fit(task, train.data, *known, [draw]), learner)
            check_converged(model, learner)
        snapshot = take_snapshot(train, labelled, visible, learner, model, task=task, cycle=cycle, draw=draw)
        function = registry.get(strategy, options)
        try:
            picked = registry.query(function, snapshot, size, draw("strategy"), Context(cycle, (size,)))
        except ValueError as error:  # Ensembles restate what one of their members lacks.
            if model is not None or not isinstance(error.__cause__ or error, AbsentError):
                raise
            raise ValueError(
                f"strategy {strategy!r} needs labels of at least 2 classes, and there are {len(state.labels)} of "
                f"{len(classes)}; until then {FIRST}, coreset, max_herding or random choose by features alone"
            ) from error
    return [ids[i] for i in visible[picked.cpu()].tolist()]


def _features(state: State, instances: Instances, folder: Path) -> Tensor:
    """Return a row of features for each instance of the state, in its order.  [n, d] float32"""
    contents, source = [instances.contents[name] for name in state.instances], Path(state.path).name
    if state.kind in ENCODED:
        features = encoded_once(contents, state.instances, state.kind, source, state.encoder, folder)
    elif state.encoder is None:
        features = torch.from_numpy(np.stack(contents))
    else:
        raise ValueError(f"encoder is {state.encoder!r}, but --features are features already; None was expected")
    whole = Labelled(FeatureData(features * training_scale(features)), torch.zeros(len(features), dtype=torch.int64))
    if state.standardise:
        return data.standardised(whole, whole)[0].inputs()
    data.warn_of_scales(whole, {"source": source, "columns": instances.columns})
    return whole.inputs()


def _write_csv(path: Path, columns: Mapping[str, Iterable[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *zip(*columns.values(), strict=True)])
    write_text(path, text.getvalue())


def _alone(folder: Path) -> AbstractContextManager[Any]:
    """Return what keeps other commands away from a state that is there."""
    return FileLock(folder / LOCK) if is_file(folder / "state.json") else nullcontext()
