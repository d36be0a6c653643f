"""Many runs: each is computed once, kept in a file of its own, and read from there ever after."""

import contextlib
import dataclasses
import functools
import json
import platform
import re
import time
from collections.abc import Generator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import joblib
import pandas as pd

from dal_core import strategies
from dal_core.checks import check_flag, check_whole, shown
from dal_core.experiment import Experiment, FailedRunError
from dal_lab.checks import check_folder
from dal_lab.runs import engine
from dal_lab.runs.failures import Failure, RunError, error_of
from dal_lab.runs.files import check_writable, remove_leftovers, write_text
from dal_lab.runs.own_strategies import OwnStrategies, own_strategies
from dal_lab.runs.plan import Plan
from dal_lab.runs.progress import progress
from dal_lab.runs.settings import settings_of
from dal_lab.runs.store import Store, Study, but_for_seed, own_of
from dal_lab.runs.study import bank_name, configuration, data_field, data_of, device_of, run, run_together
from dal_lab.sources import catalogue


@dataclasses.dataclass
class Grid:
    """Rows of many studies: those in the store are read, the others computed and stored run by run.

    Args:
        folder: where runs are stored; made if need be.
        jobs: processes that compute side by side; None: one a core. On CUDA and MPS there is one process, and on CUDA
            runs that differ in the seed only go together.
        data_dir: folder with local data files.
        fresh: compute all runs anew, once, stored or not.
        dask: compute on the workers of the Dask cluster with this address, e.g. tcp://host:8786, which see the folders
            of results and data under the same paths.
        slurm: compute on workers that Slurm starts: options of dask_jobqueue.SLURMCluster, and `jobs`, how many Slurm
            jobs. Each call of `rows` that has something to compute submits its jobs and ends them.
    """

    folder: Path | str = "results"
    jobs: int | None = None
    data_dir: Path | str | None = None
    fresh: bool = False
    dask: str | None = None
    slurm: Mapping[str, Any] | None = None
    keys: list[str] = dataclasses.field(default_factory=list, init=False)  # of all runs asked for so far

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
        self.store = Store(Path(self.folder).expanduser().resolve())
        remove_leftovers(self.store.folder)
        self.data_dir = None if self.data_dir is None else Path(self.data_dir).expanduser().resolve()

    def rows(self, studies: Sequence[Study], what: str = "runs") -> pd.DataFrame:
        """The rows of all studies, in the order given, with the column `run` (the run's key) and the study's settings.

        `what` names the work in the progress bar. Runs that fail do not stop the others. What is computed is kept,
        however the call ends, and the same call goes on from there.

        Raises:
            RunError: at the end, if runs failed, naming them; their tracebacks are in the folder `failures` of the
                store. A RunRefusedError if none of them can be done as it was asked for.
            ValueError: if two data sets are called the same, or a strategy cannot be sent to worker processes.
            KeyboardInterrupt: on Ctrl-C, saying how many runs are done.
        """
        keyed, rows, missing = self._look_up(studies)
        if failures := self._compute(missing, what, total=len(keyed)):
            raise error_of(failures, len(keyed), self.store.failures)
        rows |= {key: self.store.read(study, key) for key, study in missing.items()}
        self.keys += [key for key in keyed if key not in self.keys]
        return pd.concat([_with_settings(key, study, rows[key]) for key, study in keyed.items()], ignore_index=True)

    def plan(self, studies: Sequence[Study]) -> Plan:
        """Which runs `rows` would read and which compute, with the seconds of stored runs that differ in the seed."""
        keyed, _, missing = self._look_up(studies)
        durations = self.store.durations() if missing else {}
        return Plan(
            stored=[study for key, study in keyed.items() if key not in missing],
            missing=[(study, durations.get(but_for_seed(configuration(study)), [])) for study in missing.values()],
            side_by_side=self._side_by_side(missing),
        )

    def _look_up(
        self, studies: Sequence[Study]
    ) -> tuple[dict[str, Study], dict[str, pd.DataFrame | None], dict[str, Study]]:
        """The studies by key, the rows of those that the store holds, and the others."""
        if not isinstance(studies, Sequence) or not studies or not all(isinstance(each, Study) for each in studies):
            raise ValueError(f"studies is {shown(studies)}; a list of Experiments or other studies was expected")
        digests = {(data_of(each), each.encoder): digest_of(each, self.data_dir) for each in studies}
        _check_names(studies, digests)
        keyed = {self.store.key(study, digests[data_of(study), study.encoder]): study for study in studies}
        redo = keyed.keys() - set(self.keys) if self.fresh else set()
        rows = {key: self.store.read(study, key) for key, study in keyed.items() if key not in redo}
        return keyed, rows, {key: study for key, study in keyed.items() if rows.get(key) is None}

    def _compute(self, missing: Mapping[str, Study], what: str, total: int) -> list[Failure]:
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

    def _outcomes(self, missing: Mapping[str, Study]) -> Generator[Failure | None, None, None]:
        """For each run None when it has been computed and stored, or why it failed, in the order of completion."""
        cluster, jobs, own = self.dask is not None or self.slurm is not None, self._side_by_side(missing), None
        if cluster:  # A worker may have another device than this machine, whose device is part of the key.
            types: dict[str, Any] = {key: device_of(study).type for key, study in missing.items()}
            missing = {key: dataclasses.replace(study, device=types[key]) for key, study in missing.items()}
        if cluster or jobs > 1:
            own = own_strategies(set().union(*map(own_of, missing.values())))
        together = groups(missing)
        tasks = [functools.partial(attempt, _absolute(group), self.store, self.data_dir, own) for group in together]
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

    def _side_by_side(self, missing: Mapping[str, Study]) -> int:
        """How many runs are computed at the same time; 1 for a cluster that somebody else has started."""
        if self.slurm is not None:
            return self.slurm.get("jobs", 1) * self.slurm.get("processes", self.slurm.get("cores", 1))
        if self.dask is not None or any(device_of(study).type != "cpu" for study in missing.values()):
            return 1
        return max(1, min(self.jobs or joblib.cpu_count(), len(missing)))


def _with_settings(key: str, study: Study, rows: pd.DataFrame | None) -> pd.DataFrame:
    """The rows behind columns with the run's key, its data and its settings."""
    assert rows is not None, "a run that was computed is in the store"
    if isinstance(study, Experiment):
        fields = settings_of(study)
    else:
        fields = {k: v for k, v in dataclasses.asdict(study).items() if not isinstance(v, (dict, tuple))}
        fields |= study.options
    # Options that set two curves of one strategy apart become columns of their own.
    fields = {n: v if isinstance(v, str | int | float | None) else json.dumps(v) for n, v in fields.items()}
    settings = {"run": key, "data": bank_name(study), **fields}
    settings = {name: value for name, value in settings.items() if name not in rows.columns}
    return pd.concat([pd.DataFrame(settings, index=rows.index), rows], axis=1)


def _check_names(studies: Sequence[Study], digests: Mapping[Any, str]) -> None:
    """Raise ValueError if two data sets are called the same: their rows would be taken for those of one."""
    first: dict[str, tuple[str, str]] = {}
    for study in studies:
        if (data := data_of(study)) is None:
            continue
        digest, name = digests[data, study.encoder], bank_name(study)
        other, of_other = first.setdefault(name, (data, digest))
        if of_other != digest:
            raise ValueError(
                f"{other!r} and {data!r} are different data of the same name {name!r}; "
                "different names were expected: rename a file"
            )


def _absolute(group: Mapping[str, Study]) -> dict[str, Study]:
    """The runs with full paths of their data, since a worker may have another working directory; keys do not change."""
    changed = dict(group)
    for key, study in group.items():
        if (name := data_of(study)) is not None:
            place: dict[str, Any] = {data_field(study): catalogue.absolute_name(name)}
            changed[key] = dataclasses.replace(study, **place)
    return changed


def groups(missing: Mapping[str, Study]) -> list[dict[str, Study]]:
    """The runs by key, split into those to compute at once: on CUDA the ones that differ in the seed only.

    On a CPU, where processes compute side by side, each run is a group of its own.
    """
    # Oracles and ensembles, which query far longer than a head trains, go alone: an interruption would lose more of
    # their group's work than the joint training saves.
    quick = set(strategies.members())
    found: dict[Any, dict[str, Study]] = {}
    for key, study in missing.items():
        joins = isinstance(study, Experiment) and study.strategy.name in quick and device_of(study).type == "cuda"
        found.setdefault(dataclasses.replace(study, seed=0) if joins else key, {})[key] = study
    return list(found.values())


def digest_of(study: Study, data_dir: Path | str | None) -> str:
    """Digest of the data that a study computes on."""
    if (name := data_of(study)) is None:
        return "no data"
    return catalogue.load(name, encoder=study.encoder, data_dir=data_dir).digest


def attempt(
    group: Mapping[str, Study], store: Store, data_dir: Path | str | None, own: OwnStrategies | None = None
) -> list[Failure]:
    """Compute the runs of a group and store them, in a worker; returns those that failed, while the others go on.

    `own` has the strategies of the caller that a worker has not registered by itself.
    """
    left, failures = dict(group), []
    while left:
        try:
            if own is not None:
                own.register()
            _check_same_key(left, store, data_dir)
            compute(left, store, data_dir)
            break
        except FailedRunError as failure:  # one of several
            key = next(key for key, study in left.items() if study is failure.experiment)
            failures.append(Failure.of(key, left.pop(key), failure.__cause__ or failure))
        except Exception as error:
            return failures + [Failure.of(key, study, error) for key, study in left.items()]
    return failures


def _check_same_key(group: Mapping[str, Study], store: Store, data_dir: Path | str | None) -> None:
    """Refuse to compute on a machine of a cluster that has other data of the same name, or another version."""
    key, study = next(iter(group.items()))
    if store.key(study, digest_of(study, data_dir)) != key:
        raise ValueError(
            f"{platform.node()} has other data for {bank_name(study)}, or another version of dal_core, than who asked"
        )


def compute(group: Mapping[str, Study], store: Store, data_dir: Path | str | None) -> None:
    """Compute the runs of a group and store them, all or none."""
    started, start = datetime.now(UTC), time.perf_counter()
    studies: list[Any] = list(group.values())
    curves = [run(studies[0], data_dir=data_dir)] if len(group) == 1 else run_together(studies, data_dir=data_dir)
    seconds = (time.perf_counter() - start) / len(group)  # the share of each
    for (key, study), rows in zip(group.items(), curves, strict=True):
        store.write(study, key, rows, started=started, seconds=seconds)
