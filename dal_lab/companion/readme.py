"""What a maintainer does after a run: outputs into the committed notebooks, measured numbers into the README.

The README quotes numbers only between markers that name the table they come from:

    <!-- table figures/quick/01_updating_study.md -->
    ...replaced by the table...
    <!-- end -->

`figures/quick/verdicts` names no file, but stands for the verdicts of all notebooks of that preset.
"""

import itertools
import re
from pathlib import Path

from dal_lab.companion.origins import numbered
from dal_lab.companion.tables import markdown
from dal_lab.companion.verdicts import all_verdicts, counted
from dal_lab.runs.files import write_atomically, write_text

QUOTED = re.compile(r"(<!-- table (?P<path>\S+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


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


def rendered(readme: str, root: Path) -> str:
    """Return the README's text with each quoted table as it stands in its file now.

    Raises:
        ValueError: if a table is quoted that does not exist.
    """
    return QUOTED.sub(lambda match: filled(match, root), readme)


def filled(match: re.Match[str], root: Path) -> str:
    """Return a place that quotes a table, with the table as it stands in its file now; raises as `rendered` does."""
    path = root / match["path"]
    if path.name == "verdicts" and len(found := all_verdicts(path.parent)):
        text = f"{counted(found)}\n\n{markdown(found[['notebook', 'claim', 'verdict']])}"
    elif path.is_file():
        text = path.read_text(encoding="utf-8")
    else:
        raise ValueError(f"README.md quotes {match['path']}, which does not exist")
    return f"{match[1]}\n{text.strip()}\n\n{match[3]}"


def render_readme(root: Path) -> None:
    """Put the tables that README.md quotes into it."""
    path = root / "README.md"
    write_text(path, rendered(path.read_text(encoding="utf-8"), root))
