"""A folder of finished runs: each in a file of its own, which shows when it was changed."""

import contextlib
import dataclasses
import hashlib
import io
import json
import warnings
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dal_core import RESULTS_VERSION
from dal_core.experiment import COLUMNS, Experiment, Strategy
from dal_core.strategies import registry
from dal_lab.runs.files import UNSEALED, is_intact, sealed, write_atomically
from dal_lab.runs.provenance import git_commit, versions
from dal_lab.runs.study import canonical, configuration, device_of
from dal_lab.studies.scaling import ScalingStudy
from dal_lab.studies.updating import UpdateStudy

Study = Experiment | UpdateStudy | ScalingStudy
PROVENANCE, SEAL = b"dal_core", b"dal_core.seal"  # keys in a Parquet file's metadata


@dataclasses.dataclass(frozen=True)
class Store:
    """A folder with one Parquet file a run, named by the hash of all that its rows depend on."""

    folder: Path

    def key(self, study: Study, data_digest: str) -> str:
        """Hash of the full configuration, the digest of the data and RESULTS_VERSION.

        A strategy of the user's own adds the text of its function; what that calls does not count.
        """
        sources = [registry.own_source(name) for name in sorted(own_of(study))]
        identity = "\n".join((canonical(study), data_digest, str(RESULTS_VERSION), *sources))
        return hashlib.sha256(identity.encode()).hexdigest()[:32]

    def path(self, study: Study, key: str) -> Path:
        return self.folder / f"{type(study).__name__.lower()}-{key}.parquet"

    @property
    def failures(self) -> Path:
        """Folder with the tracebacks of the runs that failed the last time they were tried."""
        return self.folder / "failures"

    def failure_path(self, key: str) -> Path:
        return self.failures / f"{key}.txt"

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
        about = {PROVENANCE: json.dumps(provenance, sort_keys=True).encode(), SEAL: UNSEALED}
        metadata, content = (table.schema.metadata or {}) | about, io.BytesIO()
        pq.write_table(table.replace_schema_metadata(metadata), content, write_page_checksum=True)
        with write_atomically(self.path(study, key)) as temporary:
            temporary.write_bytes(sealed(content.getvalue()))
        with contextlib.suppress(OSError):  # The run is kept, whatever lies in the place of that folder.
            self.failure_path(key).unlink(missing_ok=True)

    def read(self, study: Study, key: str) -> pd.DataFrame | None:
        """The rows of a finished run; None if there are none, and with a warning if the file is damaged.

        Raises:
            IsADirectoryError: if there is a folder in place of the file.
        """
        path = self.path(study, key)
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder; a file with the rows of a run was expected: move it away")
        if not path.is_file():
            return None
        try:
            # Page checksums leave out headers and schema, where a changed byte may cost rows without an error.
            if not is_intact(content := path.read_bytes()):
                raise ValueError("its bytes are not those that were written")
            table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
            provenance = json.loads((table.schema.metadata or {})[PROVENANCE])
            if provenance["key"] != key:
                raise ValueError(f"it holds the run {provenance['key']}")
            if (found := table.column_names) != (expected := [*getattr(study, "columns", COLUMNS)]):
                raise ValueError(f"it has the columns {found}; {expected} were expected")
            if table.num_rows == 0:
                raise ValueError("it has no rows")
            return table.to_pandas()
        except Exception as error:  # Damaged files make their readers raise all sorts of errors.
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            warnings.warn(f"{path} is damaged and will be computed anew: {reason}", stacklevel=2)
            return None

    def provenance(self, path: Path) -> dict[str, Any]:
        """The configuration, versions and times that `write` recorded with the run in `path`."""
        return json.loads((pq.read_schema(path).metadata or {})[PROVENANCE])

    def durations(self) -> dict[str, list[float]]:
        """Seconds that the stored runs took, by their configuration less the seed."""
        found: dict[str, list[float]] = {}
        for path in sorted(self.folder.glob("[!.]*.parquet")):
            with contextlib.suppress(OSError, ValueError, KeyError, pa.ArrowException):  # a damaged file
                provenance = self.provenance(path)
                found.setdefault(but_for_seed(provenance["configuration"]), []).append(provenance["duration_s"])
        return found


def own_of(study: Study) -> set[str]:
    """Names of the user's own strategies that a study runs, itself or as parts of another strategy."""
    if isinstance(study, UpdateStudy):
        return set()
    strategy = study.strategy if isinstance(study, Experiment) else Strategy(study.strategy, **study.options)
    return registry.used(strategy.name, strategy.options) & registry.own().keys()


def but_for_seed(configuration: Mapping[str, Any]) -> str:
    """A text that is the same for runs that differ in the seed only."""
    return json.dumps({name: value for name, value in configuration.items() if name != "seed"}, sort_keys=True)
