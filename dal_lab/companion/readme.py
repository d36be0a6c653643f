"""Puts outputs into the committed notebooks, and measured numbers into README.md and docs/, after a run.

These texts quote numbers only between markers that name the table which they come from, as a whole or a cell of it:

    <!-- table figures/quick/01_updating_study.md -->
    ...replaced by the table...
    <!-- end -->

    It reaches <!-- value figures/real/02_benchmark.csv accuracy: data=letter; strategy=Margin -->60.8<!-- end --> %.

`figures/quick/verdicts` names no file, but stands for the verdicts of all notebooks of that preset: as a table all of
them, as a value their counts.
"""

import itertools
import re
from pathlib import Path

import pandas as pd

from dal_lab.companion.origins import numbered
from dal_lab.companion.tables import markdown
from dal_lab.companion.verdicts import all_verdicts, counted
from dal_lab.runs.files import write_atomically, write_text

QUOTED = re.compile(
    r"(?P<start><!-- (?P<kind>table|value) (?P<path>\S+)(?: (?P<column>[^:>]+): (?P<where>.*?))? -->)"
    r".*?(?P<end><!-- end -->)",
    flags=re.DOTALL,
)


def publish_notebooks(folder: Path, executed: Path) -> list[Path]:
    """Give the notebooks in `folder` their text form's cells and the outputs of the executed copies.

    The cell that papermill injects, progress on stderr, and controls of a live notebook are left out. Returns the
    notebooks written.

    Raises:
        ValueError: if an executed copy has other cells than the text form: run the notebooks again.
    """
    import jupytext  # Not above: the README alone is read without them, in a second less.
    import nbformat

    from dal_lab.companion.site.index import PROVENANCE
    from dal_lab.companion.site.notebook_page import read_notebook

    written = []
    for text in numbered(folder, ".py")[0]:
        source = executed / f"{text.stem}.ipynb"
        if not source.is_file():
            raise FileNotFoundError(f"no executed notebook at {source}; run the quick preset first")
        run = read_notebook(source)
        fresh = jupytext.read(text)
        if [cell.source for cell in run.cells] != [cell.source for cell in fresh.cells]:
            raise ValueError(f"{source} has other cells than {text}; run the quick preset again")
        counts = itertools.count(1)  # as without the injected cell
        for number, (cell, done) in enumerate(zip(fresh.cells, run.cells, strict=True)):
            cell["id"] = f"cell-{number:02}"  # the same in every run, for readable differences
            if cell.cell_type == "code":
                cell.execution_count = next(counts)
                cell.outputs = [output for output in done.outputs if output.get("name") != "stderr"]
                for output in cell.outputs:
                    if output.output_type == "execute_result":
                        output["execution_count"] = cell.execution_count
        fresh.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        if seconds := run.metadata.get(PROVENANCE, {}).get("duration"):  # which tells the next run how long it takes
            fresh.metadata[PROVENANCE] = {"duration": seconds}
        fresh.nbformat, fresh.nbformat_minor = 4, 5
        path = text.with_suffix(".ipynb")
        with write_atomically(path) as temporary:
            nbformat.write(fresh, temporary)
        written.append(path)
    return written


def documents(root: Path) -> list[Path]:
    """Return the texts that may quote numbers: README.md and the pages of docs/."""
    return [path for path in (root / "README.md", *sorted((root / "docs").glob("*.md"))) if path.is_file()]


def rendered(text: str, root: Path) -> str:
    """Return a text with each quoted table and cell as it stands in its file now.

    Raises:
        ValueError: if a table or cell is quoted that does not exist.
    """
    return QUOTED.sub(lambda match: filled(match, root), text)


def filled(match: re.Match[str], root: Path) -> str:
    """Return a place that quotes a table or cell, with what stands in the file now; raises as `rendered` does."""
    path = root / match["path"]
    verdicts = all_verdicts(path.parent) if path.name == "verdicts" else pd.DataFrame()
    if verdicts.empty and not path.is_file():
        raise ValueError(f"{match['path']} is quoted, which does not exist")
    if match["kind"] == "value":
        text = _cell(path, match["column"], match["where"] or "") if verdicts.empty else counted(verdicts)
    elif verdicts.empty:
        text = f"\n\n{path.read_text(encoding='utf-8').strip()}\n\n"
    else:
        text = f"\n\n{counted(verdicts)}\n\n{markdown(verdicts[['notebook', 'claim', 'verdict']])}\n\n"
    return f"{match['start']}{text}{match['end']}"


def _cell(path: Path, column: str, where: str) -> str:
    """Return the one number of a column, with one decimal, whose row has the values of `where`: "data=x; seeds=3"."""
    table = pd.read_csv(path)
    for name, _, value in (condition.partition("=") for condition in where.split("; ")):
        texts = table.get(name, pd.Series("", table.index)).astype(str)
        table = table[texts.str.removesuffix(".0") == value]  # A column with a gap has whole numbers as 3.0.
    if column not in table or len(table) != 1:
        raise ValueError(f"{path.name} has {len(table)} rows with {where}; one with a column {column} was expected")
    return f"{float(table[column].iloc[0]):.1f}"


def render_documents(root: Path) -> list[Path]:
    """Put the numbers that README.md and docs/ quote into them, and return these files."""
    for path in documents(root):
        write_text(path, rendered(path.read_text(encoding="utf-8"), root))
    return documents(root)
