"""Tables of the results: CSV and Parquet files, all in one archive that is written anew with each of them."""

import tarfile

import pandas as pd

from benchmarks.gpu.settings import Settings
from dal_lab.runs.files import write_atomically

ARCHIVE = "tables.tar.gz"


def keep(settings: Settings, name: str, table: pd.DataFrame) -> None:
    """Put a table into the archive as `name`, which ends in .csv or .parquet; the others stay."""
    folder = settings.work / "tables"
    with write_atomically(folder / name) as temporary:
        if name.endswith(".parquet"):
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, index=False)
    with write_atomically(settings.out / ARCHIVE) as temporary, tarfile.open(temporary, "w:gz") as archive:
        for path in sorted(folder.iterdir()):
            if not path.name.startswith("."):  # what a killed process left half written
                archive.add(path, arcname=path.name)
