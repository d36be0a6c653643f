"""Many runs: each is computed once, kept in a file of its own, and read from there ever after."""

import dataclasses
import hashlib
import itertools
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dal_core import RESULTS_VERSION, datasets, strategies
from dal_core.experiment import (
    Experiment,
    FailedRunError,
    bank_name,
    canonical,
    configuration,
    device_of,
    run,
    run_together,
)
from dal_core.files import remove_leftovers, write_atomically
from dal_core.progress import progress
from dal_core.provenance import git_commit, versions
from dal_core.scaling_study import ScalingStudy
from dal_core.strategies import registry
from dal_core.strategies.carrying import OwnStrategies, own_strategies
from dal_core.update_study import UpdateStudy

Study = Experiment | UpdateStudy | ScalingStudy
PROVENANCE = b"dal_core"  # key of the provenance in a Parquet file's metadata


@dataclasses.dataclass(frozen=True)
class Store:
    """A folder with one Parquet file a run, named by the hash of all that its rows depend on."""

    folder: Path

    def key(self, study: Study, data_digest: str) -> str:
        """Hash of the full configuration, the digest of the data and RESULTS_VERSION.

        A strategy of the user's own counts with the text of its function; what that calls does not.
        """
        sources = [registry.own_source(name) for name in _own_of(study)]
        identity = "\n".join((canonical(study), data_digest, str(RESULTS_VERSION), *sources))
        return hashlib.sha256(identity.encode()).hexdigest()[:32]

    def path(self, study: Study, key: str) -> Path:
        return self.folder / f"{type(study).__name__.lower()}-{key}.parquet"

    def write(self, study: Study, key: str, rows: pd.DataFrame, *, started: datetime, seconds: float) -> None:
        """Keep the rows of a run, with its provenance in the file's metadata, atomically."""
        provenance = {
            "key": key,
            "configuration": configuration(study),
            "seed": study.seed,
            "results_version": RESULTS_VERSION,
            "git_commit": git_commit(),
            "versions": versions(),
            "device": str(device_of(study)),
            "started": started.isoformat(timespec="seconds"),
            "duration_s": round(seconds, 3),
        }
        table = pa.Table.from_pandas(rows, preserve_index=False)
        metadata = (table.schema.metadata or {}) | {PROVENANCE: json.dumps(provenance, sort_keys=True).encode()}
        with write_atomically(self.path(study, key)) as temporary:
            pq.write_table(table.replace_schema_metadata(metadata), temporary, write_page_checksum=True)

    def read(self, study: Study, key: str) -> pd.DataFrame | None:
        """The rows of a finished run; None if there are none, and with a warning if the file is damaged."""
        path = self.path(study, key)
        if not path.is_file():
            return None
        try:
            table = pq.read_table(path, page_checksum_verification=True)
            provenance = json.loads((table.schema.metadata or {})[PROVENANCE])
            if provenance["key"] != key:
                raise ValueError(f"it holds the run {provenance['key']}")
            if (found := table.column_names) != list(study.columns):
                raise ValueError(f"it has the columns {found}; {list(study.columns)} were expected")
            if table.num_rows == 0:
                raise ValueError("it has no rows")
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            warnings.warn(f"{path} is damaged and will be computed anew: {reason}", stacklevel=2)
            return None
        return table.to_pandas()

    def provenance(self, path: Path) -> dict[str, Any]:
        """What `write` recorded about the run in `path`."""
        return json.loads((pq.read_schema(path).metadata or {})[PROVENANCE])


@dataclasses.dataclass
class Grid:
    """Asks for the rows of many studies: what the store holds is read, the rest is computed and stored run by run.

    Args:
        folder: of the store; made if need be.
        jobs: processes that compute at the same time; None: one a core. On CUDA and MPS there is one process, and on
            CUDA runs that differ in the seed only go together (`groups`).
        data_dir: folder with local data files.
        fresh: compute everything that is asked for anew, once.
    """

    folder: Path | str = "results"
    jobs: int | None = None
    data_dir: Path | str | None = None
    fresh: bool = False
    keys: list[str] = dataclasses.field(default_factory=list, init=False)  # of all runs asked for so far

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise ValueError(f"jobs is {self.jobs}; a whole number of at least 1 was expected, or None for one a core")
        self.store = Store(Path(self.folder).expanduser().resolve())
        remove_leftovers(self.store.folder)
        self.data_dir = None if self.data_dir is None else Path(self.data_dir).expanduser().resolve()

    def rows(self, studies: Sequence[Study], what: str) -> pd.DataFrame:
        """The rows of all studies, in the order given, with the column `run` (the run's key) and the study's settings.

        `what` names the work in the progress bar. A run that fails ends the call with its error; the runs that were
        finished by then are kept.

        Raises:
            RunError: if a run fails, naming it; a RunRefusedError if what was asked for cannot be done.
            ValueError: if two data sets are called the same, or a strategy cannot be sent to worker processes.
        """
        digests = {(s.dataset, s.encoder): self._digest(s) for s in studies}
        _check_names(studies, digests)
        keyed = {self.store.key(study, digests[study.dataset, study.encoder]): study for study in studies}
        redo = set() if not self.fresh else keyed.keys() - set(self.keys)
        rows = {key: self.store.read(study, key) for key, study in keyed.items() if key not in redo}
        missing = {key: study for key, study in keyed.items() if rows.get(key) is None}
        for key in self._compute(missing, what):
            rows[key] = self.store.read(keyed[key], key)
        self.keys += [key for key in keyed if key not in self.keys]
        return pd.concat([self._labelled(key, study, rows[key]) for key, study in keyed.items()], ignore_index=True)

    def _compute(self, missing: dict[str, Study], what: str) -> Any:
        """Yield the key of each run that has been computed and stored, in the order of completion."""
        if not missing:
            return
        on_gpu = any(device_of(study).type != "cpu" for study in missing.values())
        jobs = min(1 if on_gpu else self.jobs or joblib.cpu_count(), len(missing))
        own = None if jobs == 1 else own_strategies(set().union(*map(_own_of, missing.values())))
        tasks = [
            joblib.delayed(compute_together)(_wherever(group), self.store, self.data_dir, own)
            for group in groups(missing)
        ]
        finished = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)(tasks)
        yield from progress(itertools.chain.from_iterable(finished), what, total=len(missing))

    def _digest(self, study: Study) -> str:
        if study.dataset is None:
            return "no data"
        return datasets.load(study.dataset, encoder=study.encoder, data_dir=self.data_dir).digest

    def _labelled(self, key: str, study: Study, rows: pd.DataFrame | None) -> pd.DataFrame:
        assert rows is not None, "a run that was computed is in the store"
        settings: dict[str, Any] = {"run": key, "data": bank_name(study)}
        for name, value in dataclasses.asdict(study).items():
            if name not in rows.columns and not isinstance(value, (dict, tuple)):
                settings[name] = value
        # Options that set two curves of one strategy apart become columns of their own.
        settings |= {
            name: value if isinstance(value, (str, int, float, type(None))) else json.dumps(value)
            for name, value in study.options.items()
            if name not in rows.columns
        }
        return pd.concat([pd.DataFrame(settings, index=rows.index), rows], axis=1)


class RunError(RuntimeError):
    """A run failed; the message names it."""


class RunRefusedError(RunError, ValueError):
    """A run cannot be done as it was asked for. A type, because a cause does not survive the way from a worker."""


def _own_of(study: Study) -> list[str]:
    """The user's own strategies that a study names, be it among its options."""
    text = canonical(study)
    return sorted(name for name in registry.own() if json.dumps(name) in text)


def _check_names(studies: Sequence[Study], digests: Mapping[Any, str]) -> None:
    """Raise ValueError if two data sets are called the same: their rows would be taken for those of one."""
    called: dict[str, tuple[str, str]] = {}
    for study in studies:
        if study.dataset is None:
            continue
        here = (study.dataset, digests[study.dataset, study.encoder])
        other = called.setdefault(bank_name(study), here)
        if other[1] != here[1]:
            raise ValueError(
                f"{other[0]!r} and {here[0]!r} are different data of the same name {bank_name(study)!r}; "
                "different names were expected: rename a file"
            )


def _wherever(group: Mapping[str, Study]) -> dict[str, Study]:
    """The runs for a process that may have another working directory; their keys are the same."""
    return {
        key: study if study.dataset is None else dataclasses.replace(study, dataset=datasets.wherever(study.dataset))
        for key, study in group.items()
    }


def groups(missing: Mapping[str, Study]) -> list[dict[str, Study]]:
    """The runs by key, split into those to compute at once: on CUDA the ones that differ in the seed only.

    On a CPU, where processes compute side by side, each run is a group of its own.
    """
    # Oracles and ensembles, which query far longer than a head trains, go alone: an interruption would lose more of
    # their group's work than the joint training saves.
    quick = set(strategies.members())
    found: dict[Any, dict[str, Study]] = {}
    for key, study in missing.items():
        joins = isinstance(study, Experiment) and study.strategy in quick
        joins = joins and device_of(study).type == "cuda"
        found.setdefault(dataclasses.replace(study, seed=0) if joins else key, {})[key] = study
    return list(found.values())


def compute_together(
    group: Mapping[str, Study], store: Store, data_dir: Path | None, own: OwnStrategies | None = None
) -> list[str]:
    """Compute the runs of a group and store them, all or none; what a worker process does.  Returns their keys.

    `own` has the strategies of the caller that a worker process has not registered by itself.
    """
    if own is not None:
        own.register()
    if len(group) == 1:
        return [compute(study, key, store, data_dir) for key, study in group.items()]
    started, start = datetime.now(UTC), time.perf_counter()
    experiments: list[Any] = list(group.values())  # `groups` puts nothing else together
    try:
        curves = run_together(experiments, data_dir=data_dir)
    except FailedRunError as failure:
        raise _named(f"the run {configuration(failure.experiment)}", failure.__cause__ or failure) from failure
    except Exception as error:  # the data or a training, which are those of all
        settings = configuration(experiments[0]) | {"seed": [experiment.seed for experiment in experiments]}
        raise _named(f"the runs {settings}", error) from error
    seconds = (time.perf_counter() - start) / len(group)  # the share of each
    for (key, study), rows in zip(group.items(), curves, strict=True):
        store.write(study, key, rows, started=started, seconds=seconds)
    return list(group)


def compute(study: Study, key: str, store: Store, data_dir: Path | None) -> str:
    """Compute one run and store it.  Returns the key."""
    started, start = datetime.now(UTC), time.perf_counter()
    try:
        rows = run(study, data_dir=data_dir)
    except Exception as error:
        raise _named(f"the run {configuration(study)}", error) from error
    store.write(study, key, rows, started=started, seconds=time.perf_counter() - start)
    return key


def _named(what: str, error: BaseException) -> RunError:
    kind = RunRefusedError if isinstance(error, (ValueError, OSError)) else RunError
    return kind(f"{what} failed: {type(error).__name__}: {error}")
