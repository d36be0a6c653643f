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
from dal_core.experiment import Experiment
from dal_core.loop import FailedRunError
from dal_lab.checks import check_folder
from dal_lab.runs import engine
from dal_lab.runs.files import check_writable, remove_leftovers, write_text
from dal_lab.runs.own_strategies import OwnStrategies, own_strategies
from dal_lab.runs.plan import Failure, Plan, failure_summary
from dal_lab.runs.progress import progress
from dal_lab.runs.store import Store, Study, but_for_seed, own_of
from dal_lab.runs.study import bank_name, configuration, device_of, run, run_together
from dal_lab.sources import catalogue


@dataclasses.dataclass
class Grid:
    """Asks for the rows of many studies: what the store holds is read, the rest is computed and stored run by run.

    Args:
        folder: of the store; made if need be.
        jobs: processes that compute at the same time; None: one a core. On CUDA and MPS there is one process, and on
            CUDA runs that differ in the seed only go together (`groups`).
        data_dir: folder with local data files.
        fresh: compute everything that is asked for anew, once.
        dask: compute on the workers of the Dask cluster with this address, e.g. "tcp://host:8786". They have to see
            `folder` and `data_dir` under the same paths.
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
        # Dask's client would take most of a minute over what is none, and end with a traceback.
        if self.dask is not None and not re.fullmatch(r"(tcp|tls|ucx|wss?)://[^\s/]+:\d+(/\S*)?", self.dask):
            raise ValueError(f"dask is {self.dask!r}; the address of a scheduler was expected, like tcp://host:8786")
        for name in ("jobs", "cores", "processes"):
            check_whole(f"{name} of slurm", (self.slurm or {}).get(name, 1), 1)
        check_flag("fresh", self.fresh)
        check_folder("folder", self.folder)
        self.store = Store(Path(self.folder).expanduser().resolve())
        remove_leftovers(self.store.folder)
        self.data_dir = None if self.data_dir is None else Path(self.data_dir).expanduser().resolve()

    def rows(self, studies: Sequence[Study], what: str) -> pd.DataFrame:
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
        failures = self._compute(missing, what, total=len(keyed))
        if failures:
            kind = RunRefusedError if all(failure.refused for failure in failures) else RunError
            raise kind(failure_summary(failures, len(keyed), self.store.failures))
        rows |= {key: self.store.read(study, key) for key, study in missing.items()}
        self.keys += [key for key in keyed if key not in self.keys]
        return pd.concat([self._labelled(key, study, rows[key]) for key, study in keyed.items()], ignore_index=True)

    def plan(self, studies: Sequence[Study]) -> Plan:
        """What `rows` would read and what it would compute, with the time that stored runs but for the seed took."""
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
        digests = {(s.dataset, s.encoder): digest_of(s, self.data_dir) for s in studies}
        _check_names(studies, digests)
        keyed = {self.store.key(study, digests[study.dataset, study.encoder]): study for study in studies}
        redo = set() if not self.fresh else keyed.keys() - set(self.keys)
        rows = {key: self.store.read(study, key) for key, study in keyed.items() if key not in redo}
        return keyed, rows, {key: study for key, study in keyed.items() if rows.get(key) is None}

    def _compute(self, missing: Mapping[str, Study], what: str, total: int) -> list[Failure]:
        """Compute and store what is missing; returns what failed."""
        if not missing:
            return []
        check_writable(self.store.folder)
        failures, done = [], total - len(missing)
        try:
            with contextlib.closing(self._outcomes(missing)) as outcomes:
                for failure in progress(outcomes, what, total=len(missing)):
                    done += failure is None
                    if failure is not None:
                        failures.append(failure)
                        write_text(self.store.failure_path(failure.key), failure.text())
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"stopped: {self._kept(done, total)}") from None
        except engine.ClusterLostError as error:
            raise RunError(f"{error}: {self._kept(done, total)}") from error
        return failures

    def _kept(self, done: int, total: int) -> str:
        how = "without fresh, the same command goes on" if self.fresh else "the same command goes on"
        return f"{done} of {total} runs are done and kept in {self.store.folder}; {how} from there"

    def _outcomes(self, missing: Mapping[str, Study]) -> Generator[Failure | None, None, None]:
        """For each run None when it has been computed and stored, or why it failed, in the order of completion."""
        if self._on_cluster:  # a worker may have another device than this machine, whose device is part of the key
            missing = {key: dataclasses.replace(study, device=device_of(study).type) for key, study in missing.items()}
        together = groups(missing)
        own = own_strategies(set().union(*map(own_of, missing.values()))) if self._elsewhere(missing) else None
        tasks = [functools.partial(attempt, _absolute(group), self.store, self.data_dir, own) for group in together]
        with contextlib.closing(self._engine(tasks, missing)) as finished:
            for position, result in finished:
                if isinstance(result, Exception):  # the worker was lost, or could not even begin
                    result = [Failure.of(key, study, result) for key, study in together[position].items()]
                yield from result
                yield from [None] * (len(together[position]) - len(result))

    def _engine(self, tasks: Sequence[engine.Task], missing: Mapping[str, Study]) -> engine.Finished:
        if self.dask is not None:
            return engine.on_dask(tasks, self.dask, self.store.folder)
        if self.slurm is not None:
            return engine.on_slurm(tasks, self.slurm, self.store.folder)
        if self._elsewhere(missing):
            return engine.in_processes(tasks, self._side_by_side(missing))
        return engine.in_this_process(tasks)

    @property
    def _on_cluster(self) -> bool:
        return self.dask is not None or self.slurm is not None

    def _elsewhere(self, missing: Mapping[str, Study]) -> bool:
        """Whether other processes than this one compute."""
        return self._on_cluster or self._side_by_side(missing) > 1

    def _side_by_side(self, missing: Mapping[str, Study]) -> int:
        """How many runs are computed at the same time; 1 for a cluster that somebody else has started."""
        if self.slurm is not None:
            return self.slurm.get("jobs", 1) * self.slurm.get("processes", self.slurm.get("cores", 1))
        if self.dask is not None or any(device_of(study).type != "cpu" for study in missing.values()):
            return 1
        return max(1, min(self.jobs or joblib.cpu_count(), len(missing)))

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
    """Runs failed; the message names them."""


class RunRefusedError(RunError, ValueError):
    """Runs cannot be done as they were asked for."""


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


def _absolute(group: Mapping[str, Study]) -> dict[str, Study]:
    """The runs for a process that may have another working directory; their keys are the same."""
    return {
        key: study
        if study.dataset is None
        else dataclasses.replace(study, dataset=catalogue.absolute_name(study.dataset))
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


def digest_of(study: Study, data_dir: Path | str | None) -> str:
    """Digest of the data that a study computes on."""
    if study.dataset is None:
        return "no data"
    return catalogue.load(study.dataset, encoder=study.encoder, data_dir=data_dir).digest


def attempt(
    group: Mapping[str, Study], store: Store, data_dir: Path | str | None, own: OwnStrategies | None = None
) -> list[Failure]:
    """Compute the runs of a group and store them: what a worker does. Returns those that failed; the others go on.

    `own` has the strategies of the caller that a worker has not registered by itself.
    """
    left, failures = dict(group), []
    while left:
        try:
            if own is not None:
                own.register()
            _check_same_key(left, store, data_dir)
            compute_together(left, store, data_dir)
            break
        except FailedRunError as failure:  # one of several
            key = next(key for key, study in left.items() if study is failure.experiment)
            failures.append(Failure.of(key, left.pop(key), failure.__cause__ or failure))
        except Exception as error:
            return failures + [Failure.of(key, study, error) for key, study in left.items()]
    return failures


def _check_same_key(group: Mapping[str, Study], store: Store, data_dir: Path | str | None) -> None:
    """A machine of a cluster may have other data under the same name, or another version of the package."""
    key, study = next(iter(group.items()))
    if store.key(study, digest_of(study, data_dir)) != key:
        raise ValueError(
            f"{platform.node()} has other data for {bank_name(study)}, or another version of dal_core, than who asked"
        )


def compute_together(group: Mapping[str, Study], store: Store, data_dir: Path | str | None) -> None:
    """Compute the runs of a group and store them, all or none."""
    if len(group) == 1:
        for key, study in group.items():
            compute(study, key, store, data_dir)
        return
    started, start = datetime.now(UTC), time.perf_counter()
    experiments: list[Any] = list(group.values())  # `groups` puts nothing else together
    curves = run_together(experiments, data_dir=data_dir)
    seconds = (time.perf_counter() - start) / len(group)  # the share of each
    for (key, study), rows in zip(group.items(), curves, strict=True):
        store.write(study, key, rows, started=started, seconds=seconds)


def compute(study: Study, key: str, store: Store, data_dir: Path | str | None) -> None:
    """Compute one run and store it."""
    started, start = datetime.now(UTC), time.perf_counter()
    rows = run(study, data_dir=data_dir)
    store.write(study, key, rows, started=started, seconds=time.perf_counter() - start)
