"""An executed notebook as HTML that needs no script: formulas are MathML, code and messages are folded away."""

import base64
import re
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
FILE_DPI, SHOWN_DPI = 160, 110  # of figures as files and in notebooks, as style.mplstyle has them
LEGIBLE_DPI = 72  # at which their letters can still be read
WIDGET = "application/vnd.jupyter.widget-view+json"


def read_notebook(path: Path) -> Any:
    """Return a notebook, executed or not, without the cells that papermill added, and without controls.

    Sliders and progress bars are dead without the kernel that made them.

    Raises:
        ValueError: if the file is damaged, naming it.
    """
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat does not say for which file, nor which errors there are
        reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise ValueError(f"{path} is damaged: {reason}; execute the notebook again, or delete the file") from error
    notebook.cells = [cell for cell in notebook.cells if not ADDED & set(cell.metadata.get("tags", []))]
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("data", {}).pop(WIDGET, None) is not None and set(output["data"]) <= {"text/plain"}:
                output["data"].clear()  # The text is the name of the control.
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("data", True)]
    return notebook


def legible_width(png: bytes, dpi: int) -> int:
    """Return the pixels that a figure has to be wide on a page to be read; its first 24 bytes are enough."""
    return int.from_bytes(png[16:20]) * LEGIBLE_DPI // dpi


def body_of(notebook: Any) -> tuple[list[tuple[str, str]], Markup]:
    """Return headings of the sections as (anchor, text), and the cells with their outputs, as a piece of HTML.

    `notebook` is changed: an image without a text for readers who do not see it gets the heading that it stands below.
    """
    section = "this notebook"
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (found := re.findall(r"^#+ *(.*)", cell.source, flags=re.MULTILINE)):
            section = found[-1]
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                about = output.setdefault("metadata", {}).setdefault("image/png", {})
                about.setdefault("alt", f"Figure of the section “{section}”")
    exporter = _Exporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.raw_template = (Path(__file__).with_name("pages") / "cells.html.j2").read_text("utf-8")
    html, _ = exporter.from_notebook_node(notebook)
    soup = BeautifulSoup(html, "html.parser")
    about = {"class": "scroll", "tabindex": "0", "role": "group", "aria-label": "table"}
    for table in soup.select("table"):  # Wide tables scroll by themselves, not the page with them.
        table.wrap(soup.new_tag("div", attrs=about))
    for image in soup.select("img[src^='data:image/png;base64,']"):
        png = base64.b64decode(str(image["src"]).partition(",")[2][:32])
        image["style"] = f"--legible: {legible_width(png, SHOWN_DPI)}px"
        image.wrap(soup.new_tag("div", attrs=about | {"class": "paper scroll", "aria-label": "figure"}))
    for paragraph in soup.select("p:has(> strong:first-child)"):
        if paragraph.get_text().startswith("Figure. "):
            paragraph["class"] = "caption"
    # A heading ends with the mark that links to it.
    headings = [(str(part["id"]), part.get_text().removesuffix("¶").strip()) for part in soup.select("h2[id]")]
    return headings, Markup(soup)


def formula(latex: str, display: str) -> str:
    """Return a formula as MathML, `display` being inline or block; as it is written if the converter cannot read it."""
    try:
        html = convert(latex.replace(r"\arg", r"\operatorname{arg}\,"), display=display)
    except Exception:  # the converter's errors have no common class
        html = "\\"
    return f"<code>{escape(latex)}</code>" if "\\" in html else html


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
