"""An executed notebook as HTML that needs no script: formulas are MathML, code and messages are folded away."""

from importlib import resources
from pathlib import Path
from typing import Any

import nbformat
from bs4 import BeautifulSoup
from jinja2 import pass_context
from latex2mathml.converter import convert
from markupsafe import Markup, escape
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

# Cells that papermill adds: the parameters of a run, among them folders of this machine, and marks where it failed.
ADDED = {"injected-parameters", "papermill-error-cell-tag"}
WIDGET = "application/vnd.jupyter.widget-view+json"


def read_notebook(path: Path) -> Any:
    """A notebook, executed or not, without the cells that papermill added, and without controls of a live one.

    Raises:
        ValueError: if the file is damaged, naming it.
    """
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat does not say for which file, nor which errors there are
        reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise ValueError(f"{path} is damaged: {reason}; execute the notebook again, or delete the file") from error
    notebook.cells = [cell for cell in notebook.cells if not ADDED & set(cell.metadata.get("tags", []))]
    leave_out_widgets(notebook)
    return notebook


def leave_out_widgets(notebook: Any) -> None:
    """Take sliders and progress bars out of a notebook's outputs: they are dead without the kernel that made them."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("data", {}).pop(WIDGET, None) is not None and set(output["data"]) <= {"text/plain"}:
                output["data"].clear()  # the text is the name of the control
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("data", True)]


def body_of(notebook: Any) -> tuple[list[tuple[str, str]], Markup]:
    """Headings of the sections as (anchor, text), and the cells with their outputs, as a piece of HTML.

    `notebook` is changed: its images get texts.
    """
    _give_alternatives(notebook)
    exporter = _Exporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.raw_template = (
        resources.files("dal_lab.companion.site").joinpath("pages", "cells.html.j2").read_text("utf-8")
    )
    html, _ = exporter.from_notebook_node(notebook)
    soup = BeautifulSoup(html, "html.parser")
    for table in soup.select("table"):  # wide tables scroll by themselves, not the page with them
        table.wrap(
            soup.new_tag("div", attrs={"class": "scroll", "tabindex": "0", "role": "group", "aria-label": "table"})
        )
    headings = [(str(part["id"]), _text(part)) for part in soup.select("h2[id]")]
    return headings, Markup(soup)


def formula(latex: str, display: str) -> str:
    """A formula as MathML, `display` being inline or block; as it is written where the converter does not know it."""
    try:
        html = convert(latex.replace(r"\arg", r"\operatorname{arg}\,"), display=display)
    except Exception:  # the converter's errors have no common class
        html = "\\"
    return f"<code>{escape(latex)}</code>" if "\\" in html else html


def _give_alternatives(notebook: Any) -> None:
    """Images without a text for readers who do not see them get the heading that they stand below."""
    section = "this notebook"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            section = next(
                (line.lstrip("# ") for line in cell.source.splitlines()[::-1] if line.startswith("#")), section
            )
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                about = output.setdefault("metadata", {}).setdefault("image/png", {})
                about.setdefault("alt", f"Figure of the section “{section}”")


def _text(heading: Any) -> str:
    """A heading without the mark that links to it."""
    return heading.get_text().removesuffix("¶").strip()


class _Renderer(IPythonRenderer):
    """Markdown as nbconvert renders it, but for formulas, which it leaves to a script, and HTML, which stays text."""

    def inline_math(self, body: str) -> str:
        return formula(body, "inline")

    def block_math(self, body: str) -> str:
        return f'<span class="formula">{formula(body, "block")}</span>'


class _Exporter(HTMLExporter):
    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        attachments = context.get("cell", {}).get("attachments", {})
        return MarkdownWithMath(renderer=_Renderer(escape=True, attachments=attachments)).render(source)
