"""A folder of finished runs: each in a file of its own, which shows when it was changed."""

import contextlib
import dataclasses
import hashlib
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dal_core import RESULTS_VERSION
from dal_lab.runs.files import UNSEALED, is_intact, sealed, write_atomically
from dal_lab.runs.provenance import git_commit, load_beside, versions
from dal_lab.runs.study import AnyStudy, bank_name, canonical, code_of, configuration, device_of, strategies_of

PROVENANCE, SEAL = b"dal_core", b"dal_core.seal"  # keys in a Parquet file's metadata


@dataclasses.dataclass(frozen=True)
class Store:
    """A folder with one Parquet file a run, named by the hash of all that its rows depend on."""

    folder: Path

    def key(self, study: AnyStudy, data_digest: str, texts: Sequence[str] | None = None) -> str:
        """Return the hash of configuration, digest of the data, RESULTS_VERSION and versions of strategies.

        What is the user's own, a strategy, learner, task or study, adds its `own_texts`, or `texts` where these cannot
        be read; what its functions call does not count.
        """
        identity = "\n".join((canonical(study), data_digest, str(RESULTS_VERSION), *code_of(study, texts)))
        return hashlib.sha256(identity.encode()).hexdigest()[:32]

    def path(self, study: AnyStudy, key: str) -> Path:
        return self.folder / f"{type(study).__name__.lower()}-{key}.parquet"

    def paths(self) -> dict[str, Path]:
        """Return the files of all runs by their keys."""
        return {path.stem.rpartition("-")[2]: path for path in sorted(self.folder.glob("[!.]*.parquet"))}

    @property
    def failures(self) -> Path:
        """Return the folder with the tracebacks of the runs that failed the last time they were tried."""
        return self.folder / "failures"

    def failure_path(self, key: str) -> Path:
        return self.failures / f"{key}.txt"

    def write(
        self, study: AnyStudy, key: str, rows: pd.DataFrame, *, data_digest: str, started: datetime, seconds: float
    ) -> None:
        """Keep the rows of a run, with its provenance in the file's metadata, atomically."""
        provenance = {
            "key": key,
            "configuration": configuration(study),
            "seed": study.seed,
            "data": bank_name(study),
            "data_digest": data_digest,
            "results_version": RESULTS_VERSION,
            "strategies": strategies_of(study),
            "git_commit": git_commit(),
            "versions": versions(),
            "device": str(device_of(study)),
            "started": started.isoformat(timespec="seconds"),
            "duration_s": round(seconds, 3),
            **load_beside(seconds),
        }
        table = pa.Table.from_pandas(rows, preserve_index=False)
        about = {PROVENANCE: json.dumps(provenance, sort_keys=True).encode()}
        write_sealed(table.replace_schema_metadata((table.schema.metadata or {}) | about), self.path(study, key))
        with contextlib.suppress(OSError):  # The run is kept, whatever lies in the place of that folder.
            self.failure_path(key).unlink(missing_ok=True)

    def read(self, study: AnyStudy, key: str) -> pd.DataFrame | None:
        """Return the rows of a finished run; None if there are none, and with a warning if the file is damaged.

        Raises:
            IsADirectoryError: if there is a folder in place of the file.
        """
        path = self.path(study, key)
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder; a file with the rows of a run was expected: move it away")
        if not path.is_file():
            return None
        with warn_if_damaged(path, "will be computed anew"):
            provenance, table = self.load(path)
            if provenance["key"] != key:
                raise ValueError(f"it holds the run {provenance['key']}")
            if study.columns is not None and (found := table.column_names) != list(study.columns):
                raise ValueError(f"it has the columns {found}; {list(study.columns)} were expected")
            if table.num_rows == 0:
                raise ValueError("it has no rows")
            return table.to_pandas()
        return None

    def load(self, path: Path) -> tuple[dict[str, Any], pa.Table]:
        """Return what is recorded with the run in `path`, and its table, with what pandas has to know about it.

        Raises:
            ValueError, KeyError: if the file is damaged.
        """
        table = read_sealed(path)
        metadata = table.schema.metadata or {}
        for_pandas = {name: text for name, text in metadata.items() if name == b"pandas"}
        return json.loads(metadata[PROVENANCE]), table.replace_schema_metadata(for_pandas)

    def provenance(self, path: Path) -> dict[str, Any]:
        """Return the configuration, versions and times that `write` recorded with the run in `path`."""
        return json.loads((pq.read_schema(path).metadata or {})[PROVENANCE])

    def provenances(self) -> Iterator[dict[str, Any]]:
        """Yield what is recorded with each stored run, without damaged files."""
        for path in self.paths().values():
            with contextlib.suppress(OSError, ValueError, KeyError, pa.ArrowException):
                yield self.provenance(path)


def write_sealed(table: pa.Table, path: Path, **options: Any) -> None:
    """Write a table as Parquet with a digest of the file in its metadata, atomically."""
    metadata, content = (table.schema.metadata or {}) | {SEAL: UNSEALED}, io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), content, write_page_checksum=True, **options)
    with write_atomically(path) as temporary:
        temporary.write_bytes(sealed(content.getvalue()))


def read_sealed(path: Path) -> pa.Table:
    """Read what `write_sealed` wrote.

    Raises:
        ValueError, and what a reader of damaged files raises: if it was changed since.
    """
    # Page checksums leave out headers and schema, where a changed byte may cost rows without an error.
    if not is_intact(content := path.read_bytes()):
        raise ValueError("its bytes are not those that were written")
    return pq.read_table(pa.BufferReader(content), page_checksum_verification=True)


@contextlib.contextmanager
def warn_if_damaged(path: Path, consequence: str) -> Iterator[None]:
    """Make any error of the block a warning that `path` is damaged."""
    try:
        yield
    except Exception as error:  # Damaged files make their readers raise all sorts of errors.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        warnings.warn(f"{path} is damaged and {consequence}: {reason}", stacklevel=4)
