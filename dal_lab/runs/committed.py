"""Runs that figures were drawn from, as they travel with the figures: one Parquet file a notebook.

It has a row a cycle: `run_key`, `run_configuration` and all else that a store records with a run, then the columns of
the studies, null where a study has no such column. To a grid its runs are finished, also where their data are absent,
since the digest of the data is recorded.
"""

import base64
import functools
import itertools
import json
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from dal_core import RESULTS_VERSION
from dal_lab.runs.provenance import PACKAGE
from dal_lab.runs.store import Store, read_sealed, warn_if_damaged, write_sealed

ENDING = "_runs.parquet"
LARGEST = 3 * 2**20  # Bytes a file, since every clone has them all.
OURS = "run_"  # What the names of the file's own columns begin with.
AS_JSON = ("configuration", "strategies", "versions")  # These records of a store are kept as text.
SCHEMAS = b"dal_core.schemas"  # Key in the file's metadata: columns and types of its runs, as `run_schema` counts them.


class CommittedRun(NamedTuple):
    """A run in a file of many."""

    about: dict[str, Any]  # What the store recorded with the run.
    rows: pa.Table
    schema: pa.Schema  # The schema of the table as it was stored.

    def table(self) -> pa.Table:
        """Return the table as it was stored; among others some of its columns were widened."""
        columns = [
            pa.nulls(len(self.rows)) if pa.types.is_null(field.type) else self.rows[field.name].cast(field.type)
            for field in self.schema
        ]
        return pa.Table.from_arrays(columns, schema=self.schema)

    def read(self) -> pd.DataFrame:
        """Return the rows, equal to those that the store has."""
        return self.table().to_pandas()


def project_figures() -> Path:
    """Return the folder of figures of the clone that this package is used from."""
    return Path(os.environ.get("DAL_ROOT") or PACKAGE.parent) / "figures"


def committed_runs(folders: Iterable[Path]) -> dict[str, CommittedRun]:
    """Return the runs by key in all files `*_runs.parquet` of the folders and of the folders in them.

    A file is read once, as long as nobody changes it; damaged ones are named in a warning.
    """
    runs: dict[str, CommittedRun] = {}
    for folder in folders:
        for path in sorted([*folder.glob(f"*{ENDING}"), *folder.glob(f"*/*{ENDING}")]):
            runs |= _runs_in(path, path.stat().st_mtime_ns)
    return runs


@functools.lru_cache(maxsize=64)
def _runs_in(path: Path, changed: int) -> dict[str, CommittedRun]:  # noqa: ARG001 - when to read again
    with warn_if_damaged(path, "its runs will be computed anew"):
        table, runs, start = read_sealed(path).combine_chunks(), dict[str, CommittedRun](), 0
        schemas = [
            pa.ipc.read_schema(pa.py_buffer(base64.b64decode(s))) for s in json.loads(table.schema.metadata[SCHEMAS])
        ]
        ours = table.select([name for name in table.column_names if name.startswith(OURS)])
        for key, rows in itertools.groupby(table["run_key"].to_pylist()):
            (values,), count = ours.slice(start, 1).to_pylist(), sum(1 for _ in rows)
            about = {name.removeprefix(OURS): value for name, value in values.items() if value is not None}
            about |= {name: json.loads(about[name]) for name in AS_JSON if name in about}
            runs[key] = CommittedRun(about, table.slice(start, count), schemas[about.pop("schema")])
            start += count
        return runs
    return {}


def digests_by_data(runs: Iterable[CommittedRun]) -> dict[str, list[str]]:
    """Return by name of data the digests that they had when runs of this RESULTS_VERSION were computed."""
    of_now = [run.about for run in runs if run.about["results_version"] == RESULTS_VERSION and "data" in run.about]
    pairs = sorted({(about["data"], about["data_digest"]) for about in of_now})
    return {name: [digest for _, digest in group] for name, group in itertools.groupby(pairs, lambda pair: pair[0])}


def commit(keys: Iterable[str], store: Store, path: Path) -> None:
    """Write the runs with these keys, those of the store or else those that are committed, into the file `path`.

    Without runs there is no file, nor with more than 3 MB of them, which a warning says.

    Raises:
        ValueError: if a run is in neither, or damaged.
    """
    stored, committed = store.paths(), committed_runs((project_figures(), path.parent))
    schemas, parts = dict[str, int](), []
    for key in sorted(keys):
        if key not in stored and key not in committed:
            raise ValueError(f"the run {key} is not in {store.folder}; run the notebook again")
        about, table = store.load(stored[key]) if key in stored else (committed[key].about, committed[key].table())
        schema = base64.b64encode(table.schema.serialize()).decode()
        values = about | {name: json.dumps(about[name], sort_keys=True) for name in AS_JSON if name in about}
        values |= {"schema": schemas.setdefault(schema, len(schemas))}
        ours = {f"{OURS}{name}": pa.repeat(value, len(table)) for name, value in values.items()}
        parts.append(pa.table(ours | {name: table[name] for name in table.column_names}))
    if not parts:
        path.unlink(missing_ok=True)
        return
    try:
        together = pa.concat_tables(parts, promote_options="permissive")
    except pa.ArrowTypeError as error:
        raise ValueError(
            f"studies whose columns of one name have different types have no common file: {error}"
        ) from error
    metadata = {SCHEMAS: json.dumps([*schemas]).encode()}
    write_sealed(together.replace_schema_metadata(metadata), path, compression="zstd", compression_level=19)
    if (size := path.stat().st_size) > LARGEST:
        path.unlink()
        warnings.warn(f"{path} would have {size / 2**20:.1f} MB: its runs are not committed", stacklevel=2)
