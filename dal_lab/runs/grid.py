"""Many runs: each is computed once, kept in a file of its own, and read from there ever after."""

import contextlib
import dataclasses
import functools
import itertools
import platform
import re
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import joblib
import pandas as pd

from dal_core.checks import check_flag, check_whole, shown
from dal_core.experiment import Experiment, FailedRunError
from dal_core.parallel import using_workers
from dal_lab.checks import check_folder, expanded
from dal_lab.plugins import load_plugins
from dal_lab.runs import engine
from dal_lab.runs.committed import CommittedRun, committed_runs, digests_by_data, project_figures
from dal_lab.runs.failures import Failure, RunError, error_of
from dal_lab.runs.files import check_writable, is_folder, remove_leftovers, write_text
from dal_lab.runs.own_strategies import OwnStrategies, own_strategies
from dal_lab.runs.plan import Plan, but_for_seed
from dal_lab.runs.progress import progress
from dal_lab.runs.store import Store
from dal_lab.runs.study import (
    AnyStudy,
    bank_name,
    configuration,
    data_of,
    device_of,
    digest_of,
    for_workers,
    is_study,
    joint_training,
    own_texts,
    run,
    run_together,
    settings,
    strategies_of,
    warn_of_data,
)
from dal_lab.sources import catalogue

NAMING = ("run", "data", "dataset", "encoder", "strategy", "seed")  # columns that name a run


@dataclasses.dataclass
class Grid:
    """Rows of many studies: finished ones are read, the others computed and stored run by run.

    Finished are those in the folder, and those that are committed with the project's figures; where the data of the
    latter are absent, their configuration is enough.

    Args:
        folder: where runs are stored; made if need be.
        jobs: processes that compute side by side; None: one a core. On CUDA and MPS there is one process, and on CUDA
            runs that differ in the seed only go together.
        data_dir: folder with local data files.
        fresh: compute all runs anew, once, stored or committed or not.
        dask: compute on the workers of the Dask cluster with this address, e.g. tcp://host:8786, which see the folders
            of results and data under the same paths.
        slurm: compute on workers that Slurm starts: options of dask_jobqueue.SLURMCluster, and `jobs`, how many Slurm
            jobs. Each call of `rows` that has something to compute submits its jobs and ends them.
        committed: more folders with files of committed runs, beside the project's figures.
    """

    folder: Path | str = "results"
    jobs: int | None = None
    data_dir: Path | str | None = None
    fresh: bool = False
    dask: str | None = None
    slurm: Mapping[str, Any] | None = None
    committed: Sequence[Path] = ()
    keys: list[str] = dataclasses.field(default_factory=list, init=False)  # Keys of all runs asked for so far.
    digests: dict[str, str] = dataclasses.field(default_factory=dict, init=False)  # Digests of their data, by name.
    strategies: dict[str, int] = dataclasses.field(default_factory=dict, init=False)  # Their strategies, with versions.

    def __post_init__(self) -> None:
        if self.jobs is not None:
            check_whole("jobs", self.jobs, 1)
        if len(chosen := [name for name in ("jobs", "dask", "slurm") if getattr(self, name) is not None]) > 1:
            raise ValueError(f"{' and '.join(chosen)} are given; one of them was expected")
        # For what is no address, Dask's client would take most of a minute and end with a traceback.
        if self.dask is not None and not re.fullmatch(r"(tcp|tls|ucx|wss?)://[^\s/]+:\d+(/\S*)?", self.dask):
            raise ValueError(f"dask is {self.dask!r}; the address of a scheduler was expected, like tcp://host:8786")
        for name in ("jobs", "cores", "processes"):
            check_whole(f"{name} of slurm", (self.slurm or {}).get(name, 1), 1)
        check_flag("fresh", self.fresh)
        check_folder("folder", self.folder)
        load_plugins()
        self.store = Store(expanded("folder", self.folder).resolve())
        remove_leftovers(self.store.folder)
        self.data_dir = None if self.data_dir is None else expanded("data_dir", self.data_dir).resolve()

    def rows(self, studies: Sequence[AnyStudy], what: str = "runs") -> pd.DataFrame:
        """Return the rows of all studies in the order given, with their settings and the column `run`, the run's key.

        `what` names the work in the progress bar. Runs that fail do not stop the others. What is computed is kept,
        however the call ends, and the same call goes on from there.

        Raises:
            RunError: at the end, if runs failed, naming them; their tracebacks are in the folder `failures` of the
                store. A RunRefusedError if none of them can be done as it was asked for.
            ValueError: if two data sets are called the same, or a strategy cannot be sent to worker processes.
            KeyboardInterrupt: on Ctrl-C, saying how many runs are done.
        """
        keyed, rows, missing = self._look_up(studies)
        plain = [each for each in missing.values() if isinstance(each, Experiment) and not each.protocol.standardise]
        for study in {data_of(each): each for each in plain}.values():
            warn_of_data(study, self.data_dir)  # here, as workers write into logs
        if failures := self._compute(missing, what, total=len(keyed)):
            raise error_of(failures, len(keyed), self.store.failures)
        rows |= {key: self.store.read(study, key) for key, study in missing.items()}
        self.keys += [key for key in keyed if key not in self.keys]
        return pd.concat([_with_settings(key, study, rows[key]) for key, study in keyed.items()], ignore_index=True)

    def plan(self, studies: Sequence[AnyStudy]) -> Plan:
        """Return which runs `rows` would read and which compute, with seconds of runs that differ in the seed."""
        keyed, _, missing = self._look_up(studies)
        durations: dict[str, list[float]] = {}
        for about in self.records() if missing else ():
            durations.setdefault(but_for_seed(about["configuration"]), []).append(about["duration_s"])
        return Plan(
            stored=[study for key, study in keyed.items() if key not in missing],
            missing=[(study, durations.get(but_for_seed(configuration(study)), [])) for study in missing.values()],
            side_by_side=self._side_by_side(missing),
        )

    def records(self) -> Iterator[dict[str, Any]]:
        """Return what is recorded with each stored or committed run: its configuration, seed, duration_s and more."""
        committed = (run.about for run in self._committed().values())
        return itertools.chain(self.store.provenances(), committed)

    def available(self, wanted: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
        """Return what `catalogue.available` returns, with data counted as available that committed runs are of."""
        return catalogue.available(wanted, self.data_dir, digests_by_data(self._committed().values()))

    def _look_up(
        self, studies: Sequence[AnyStudy]
    ) -> tuple[dict[str, AnyStudy], dict[str, pd.DataFrame | None], dict[str, AnyStudy]]:
        """Return the studies by key, the rows of those that are finished, and the others."""
        if not isinstance(studies, Sequence) or not studies or not all(map(is_study, studies)):
            raise ValueError(f"studies is {shown(studies)}; a list of Experiments or other studies was expected")
        committed, keyed = self._committed(), {}
        some = {data_of(study): study for study in studies}
        digests = {data: self._digests(study, committed) for data, study in some.items()}
        _check_names(some, digests)
        self.digests |= {bank_name(some[data]): digests[data][0] for data in filter(None, some)}
        for study in studies:
            self.strategies |= strategies_of(study)
            keys = [self.store.key(study, digest) for digest in digests[data_of(study)]]
            keyed[next((key for key in keys if key in committed), keys[0])] = study
        redo = keyed.keys() - set(self.keys) if self.fresh else set()
        rows = {key: self.store.read(study, key) for key, study in keyed.items() if key not in redo}
        for key in keyed.keys() & committed.keys():
            if rows[key] is None:  # The user's own folder takes precedence.
                rows[key] = committed[key].read()
        return keyed, rows, {key: study for key, study in keyed.items() if rows.get(key) is None}

    def _committed(self) -> dict[str, CommittedRun]:
        return {} if self.fresh else committed_runs((project_figures(), *self.committed))

    def _digests(self, study: AnyStudy, committed: Mapping[str, CommittedRun]) -> list[str]:
        """Return the digest of a study's data; where they are absent, those that they had for the committed runs."""
        try:
            return [digest_of(study, self.data_dir)]
        except (catalogue.DatasetUnavailableError, catalogue.EncoderUnavailableError):
            known = digests_by_data(committed.values()).get(bank_name(study))
            if known is None or not (self.data_dir is None or is_folder(self.data_dir)):
                raise
            return known

    def _compute(self, missing: Mapping[str, AnyStudy], what: str, total: int) -> list[Failure]:
        """Compute and store the missing runs; returns the failures."""
        if not missing:
            return []
        check_writable(self.store.folder)
        failures, done = [], total - len(missing)
        how = "without fresh, the same command goes on" if self.fresh else "the same command goes on"
        kept = f"of {total} runs are done and kept in {self.store.folder}; {how} from there"
        try:
            with contextlib.closing(self._outcomes(missing)) as outcomes:
                for failure in progress(outcomes, what, total=len(missing)):
                    done += failure is None
                    if failure is not None:
                        failures.append(failure)
                        write_text(self.store.failure_path(failure.key), failure.text())
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"stopped: {done} {kept}") from None
        except engine.ClusterLostError as error:
            raise RunError(f"{error}: {done} {kept}") from error
        return failures

    def _outcomes(self, missing: Mapping[str, AnyStudy]) -> Generator[Failure | None, None, None]:
        """Yield for each run, in the order of completion, None if it was computed and stored, or why it failed."""
        cluster, jobs, own = self.dask is not None or self.slurm is not None, self._side_by_side(missing), None
        if cluster or jobs > 1:
            own = own_strategies(set().union(*map(strategies_of, missing.values())))
        together = groups({key: for_workers(study) for key, study in missing.items()})
        # Many runs have a core each; few share those that there are, and workers of a cluster have one each.
        share = 1 if cluster else max(1, joblib.cpu_count() // min(jobs, len(together)))
        tasks = [
            functools.partial(
                attempt, group, self.store, self.data_dir, own, own_texts(next(iter(group.values()))), share
            )
            for group in together
        ]
        with contextlib.closing(self._finished(tasks, jobs)) as finished:
            for position, result in finished:
                if isinstance(result, Exception):  # The worker was lost, or could not even begin.
                    result = [Failure.of(key, study, result) for key, study in together[position].items()]
                yield from result
                yield from [None] * (len(together[position]) - len(result))

    def _finished(self, tasks: Sequence[engine.Task], jobs: int) -> engine.Finished:
        if self.dask is not None:
            return engine.on_dask(tasks, self.dask, self.store.folder)
        if self.slurm is not None:
            return engine.on_slurm(tasks, self.slurm, self.store.folder)
        return engine.in_processes(tasks, jobs) if jobs > 1 else engine.in_this_process(tasks)

    def _side_by_side(self, missing: Mapping[str, AnyStudy]) -> int:
        """Return how many runs are computed at the same time; 1 for a cluster that somebody else has started."""
        if self.slurm is not None:
            return self.slurm.get("jobs", 1) * self.slurm.get("processes", self.slurm.get("cores", 1))
        if self.dask is not None or any(device_of(study).type != "cpu" for study in missing.values()):
            return 1
        return max(1, min(self.jobs or joblib.cpu_count(), len(missing)))


def _with_settings(key: str, study: AnyStudy, rows: pd.DataFrame | None) -> pd.DataFrame:
    """Return the rows, behind columns with the run's key, its data and its settings."""
    assert rows is not None, "a run that was computed is in the store"
    about = {name: value for name, value in ({"run": key} | settings(study)).items() if name not in rows.columns}
    return pd.concat([pd.DataFrame(about, index=rows.index), rows], axis=1)


def _check_rows(study: AnyStudy, rows: pd.DataFrame) -> None:
    """Raise ValueError unless there are rows with the study's columns, none of which names the run."""
    found = list(rows.columns)
    if taken := [name for name in NAMING if name in found and name in ("run", *settings(study))]:
        raise ValueError(f"the rows have the columns {taken}, which name the run; other names were expected")
    expected = found if study.columns is None else list(study.columns)
    if found != expected or rows.empty:
        differ = sorted({*map(str, found)} ^ {*map(str, expected)}) or "none but for their order"
        message = f"{len(rows)} rows have the columns {found}; at least one with {expected}, by `columns`, was expected"
        raise ValueError(f"{message} ({differ} differ)")


def _check_names(some: Mapping[Any, AnyStudy], digests: Mapping[Any, Sequence[str]]) -> None:
    """Raise ValueError if two data sets are called the same: their rows would be taken for those of one."""
    first: dict[str, Any] = {}
    for data in filter(None, some):
        other = first.setdefault(name := bank_name(some[data]), data)
        if digests[other] != digests[data]:
            raise ValueError(
                f"{other[0]!r} and {data[0]!r} are different data of the same name {name!r}; "
                "different names were expected: rename a file"
            )


def groups(missing: Mapping[str, AnyStudy]) -> list[dict[str, AnyStudy]]:
    """Return the runs by key, split into those to compute at once: on CUDA the ones that differ in the seed only.

    On a CPU, where processes compute side by side, each run is a group of its own.
    """
    found: dict[Any, dict[str, AnyStudy]] = {}
    for key, study in missing.items():
        joins = joint_training(study) if device_of(study).type == "cuda" else None
        found.setdefault(joins or key, {})[key] = study
    return list(found.values())


def attempt(
    group: Mapping[str, AnyStudy], store: Store, data_dir: Path | str | None,
    own: OwnStrategies | None = None, texts: Sequence[str] | None = None, workers: int = 1,
) -> list[Failure]:  # fmt: skip
    """Compute the runs of a group and store them, in a worker; returns those that failed, while the others go on.

    `own` has the strategies of the caller that a worker has not registered by itself, `texts` its code (`own_texts`);
    `workers` is the run's share of the cores.
    """
    left, failures = dict(group), []
    while left:
        try:
            if own is not None:
                own.register()
            key, study = next(iter(left.items()))
            if store.key(study, digest_of(study, data_dir), texts) != key:  # The machine of a cluster has other data.
                found = f"{platform.node()} has other data for {bank_name(study)}, or another version of dal_core"
                raise ValueError(f"{found}, than who asked")
            with using_workers(workers):
                compute(left, store, data_dir)
            break
        except FailedRunError as failure:  # one of several
            key = next(key for key, study in left.items() if study is failure.experiment)
            failures.append(Failure.of(key, left.pop(key), failure.__cause__ or failure))
        except (Exception, SystemExit) as error:  # A strategy may end the process; a worker would be lost.
            return failures + [Failure.of(key, study, error) for key, study in left.items()]
    return failures


def compute(group: Mapping[str, AnyStudy], store: Store, data_dir: Path | str | None) -> None:
    """Compute the runs of a group and store them, all or none."""
    started, start = datetime.now(UTC), time.perf_counter()
    studies: list[Any] = list(group.values())
    plain = isinstance(studies[0], Experiment)
    curves = run_together(studies, data_dir=data_dir) if plain else [run(studies[0], data_dir=data_dir)]
    seconds = (time.perf_counter() - start) / len(group)  # Each run of the group gets its share.
    for study, rows in zip(studies, curves, strict=True):
        _check_rows(study, rows)
    for (key, study), rows in zip(group.items(), curves, strict=True):
        digest = digest_of(study, data_dir)
        store.write(study, key, rows, data_digest=digest, started=started, seconds=seconds)
