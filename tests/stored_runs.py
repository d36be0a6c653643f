"""Reads the files of a results folder, for comparing two folders byte for byte."""

import json

import pyarrow as pa
import pyarrow.parquet as pq

from dal_lab.runs.store import PROVENANCE

MEASURED = ("started", "duration_s", "load")  # of a run's provenance


def files(folder):
    """Return the stored runs, without what is hidden or half-written."""
    return sorted(folder.glob("[!.]*.parquet"))


def contents(folder):
    """Return by name of the file its provenance and the bytes of its columns; without times, which are measured."""
    found = {}
    for path in files(folder):
        table = pq.read_table(path)
        provenance = json.loads(table.schema.metadata[PROVENANCE])
        table = table.select([name for name in table.column_names if not name.endswith("_s")])
        stream = pa.BufferOutputStream()
        with pa.ipc.new_stream(stream, table.schema.remove_metadata()) as writer:
            writer.write_table(table.replace_schema_metadata(None).combine_chunks())
        kept = {name: value for name, value in provenance.items() if name not in MEASURED}
        found[path.name] = kept, stream.getvalue().to_pybytes()
    return found
