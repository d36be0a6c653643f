"""A notebook the way people use it: opened in JupyterLab, in a browser, run from its menu, a parameter changed."""

import json
import os
import shutil
import subprocess
import sys

import browser
import nbformat
import pytest
from filelock import FileLock

pytestmark = pytest.mark.browser
TOKEN = "of-these-tests"
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # cells out of sight are in the page, too
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
# The cells of code as the page shows them.
CELLS = """
return [...document.querySelectorAll('.jp-CodeCell')].map((cell) => ({
  source: cell.querySelector('.cm-content')?.innerText ?? '',
  text: [...cell.querySelectorAll('.jp-OutputArea-output')].map((each) => each.innerText).join('\\n'),
  images: [...cell.querySelectorAll('.jp-OutputArea img')].filter((image) => image.naturalWidth > 100).length,
  failed: cell.innerText.includes('Traceback (most recent call last)'),
}))
"""
FINISHED = """
const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map((each) => each.textContent.trim())
const stopped = document.body.innerText.includes('Traceback (most recent call last)')
return stopped || (prompts.length > 0 && prompts.every((prompt) => /^\\[\\d+\\]:$/.test(prompt)))
"""
# Puts the cursor's selection on the value that the parameter cell gives to a name.
SELECT = """
for (const line of document.querySelectorAll('.jp-CodeCell .cm-line')) {
  const found = new RegExp(`^${arguments[0]} = ([^ ]+)`).exec(line.textContent)
  if (!found) continue
  const start = arguments[0].length + 3, end = start + found[1].length
  const range = document.createRange(), walker = document.createTreeWalker(line, NodeFilter.SHOW_TEXT)
  let seen = 0
  for (let node; (node = walker.nextNode()); seen += node.length) {
    if (seen <= start && start < seen + node.length) range.setStart(node, start - seen)
    if (seen < end && end <= seen + node.length) range.setEnd(node, end - seen)
  }
  line.closest('.cm-content').focus()
  getSelection().removeAllRanges()
  getSelection().addRange(range)
  return getSelection().toString()
}
"""
LINE = """
return [...document.querySelectorAll('.jp-CodeCell .cm-line')]
  .find((each) => each.textContent.startsWith(`${arguments[0]} = `))
"""


@pytest.fixture(scope="module")
def window():
    if reason := browser.missing():
        pytest.skip(reason)
    with browser.browser() as opened:
        opened.shape(1400, 1000)
        yield opened


@pytest.fixture(scope="module")
def lab(root, tmp_path_factory):
    """JupyterLab on a free port of this machine, over a copy of the notebooks; its address and its folder."""
    pytest.importorskip("jupyterlab")
    home = tmp_path_factory.mktemp("lab")
    work = home / "work"
    work.mkdir()
    for notebook in (root / "notebooks").glob("[0-9]*.ipynb"):
        shutil.copy(notebook, work)
    for name, settings in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(settings))
    places = {f"JUPYTER_{what}_DIR": str(home / what.lower()) for what in ("CONFIG", "DATA", "RUNTIME")}
    places |= {f"JUPYTERLAB_{what}_DIR": str(home / what.lower()) for what in ("SETTINGS", "WORKSPACES")}
    port = browser.free_port()
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.port_retries=0"),
        *(f"--port={port}", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={work}"),
    ]
    environment = os.environ | places | {"PYTHONPATH": str(root), "JUPYTER_PLATFORM_DIRS": "1"}
    del environment["DAL_PROGRESS"]  # with which tests ask for what a log shows, where nobody looks
    with (
        # One at a time: kernels of two servers that start at once may take the same ports.
        FileLock(tmp_path_factory.getbasetemp().parent / "lab.lock"),
        (home / "log").open("w") as log,
        subprocess.Popen(command, cwd=work, env=environment, stdout=log, stderr=log) as server,
    ):
        try:
            browser.wait_for(port, seconds=60)
            yield f"http://127.0.0.1:{port}", work
        finally:
            server.terminate()


def open_notebook(window, lab, name):
    """The notebook alone in the window, its kernel ready."""
    window.open(f"{lab[0]}/lab/tree/{name}?reset&token={TOKEN}")
    window.wait("return document.querySelectorAll('.jp-CodeCell').length > 10", seconds=90)
    window.wait("return document.querySelector('.jp-Notebook-ExecutionIndicator[data-status=idle]')", seconds=60)


def from_menu(window, menu, command):
    window.click(
        "return [...document.querySelectorAll('.lm-MenuBar-item')].find((each) => each.innerText === arguments[0])",
        menu,
    )
    window.click("return document.querySelector(`.lm-Menu-item[data-command='${arguments[0]}']`)", command)


def give(window, name, value):
    """Write another value into the parameter cell, as somebody would: select the old one, type."""
    window.click(LINE, name)
    assert window.wait(SELECT, name)
    window.command("Input.insertText", text=value)
    window.wait(f"{LINE.strip()}.textContent.startsWith(`${{arguments[0]}} = ${{arguments[1]}}`)", name, value)


def run_all(window, seconds=180):
    """Run All Cells of the menu; the cells once all have run, or one has failed."""
    from_menu(window, "Run", "runmenu:run-all")
    window.wait("return [...document.querySelectorAll('.jp-InputPrompt')].some((each) => /\\*/.test(each.textContent))")
    window.wait(FINISHED, seconds=seconds)
    return window.run(CELLS)


def tables(cells):
    return [cell["text"] for cell in cells if "session.table(" in cell["source"]]


def test_run_all_draws_every_figure_a_changed_parameter_the_result_and_the_file_holds_them(window, lab):
    open_notebook(window, lab, "01_laplace_updates.ipynb")
    give(window, "preset", '"tiny"')
    first = run_all(window)
    assert [cell["text"] for cell in first if cell["failed"]] == []
    # A page to step through shows a picture, too.
    drawn = {cell["source"]: cell["source"].count("session.figure(") + ("\nshow(" in cell["source"]) for cell in first}
    drawing = [cell for cell in first if drawn[cell["source"]]]
    assert sum(drawn.values()) >= 11
    assert [cell["source"] for cell in drawing if cell["images"] != drawn[cell["source"]]] == []
    assert any("preset tiny: digits; seeds: 2" in cell["text"] for cell in first)

    give(window, "seeds", "1")
    second = run_all(window)
    assert [cell["text"] for cell in second if cell["failed"]] == []
    assert any("preset tiny: digits; seeds: 1" in cell["text"] for cell in second)
    assert tables(second) != tables(first)

    give(window, "seeds", "2")
    again = run_all(window)
    # Measured times and progress bars differ.
    assert {table for table in tables(first) if "(s)" not in table and "[0" not in table} <= set(tables(again))

    from_menu(window, "File", "docmanager:save")
    window.wait("return document.querySelector('.lm-TabBar-tab.jp-mod-dirty') === null")
    saved = nbformat.read(lab[1] / "01_laplace_updates.ipynb", as_version=4)
    images = sum("image/png" in output.get("data", {}) for cell in saved.cells for output in cell.get("outputs", []))
    assert images >= sum(source.count("session.figure(") for source in drawn)  # The page is a widget in the file.
    assert any('preset = "tiny"' in cell.source for cell in saved.cells)


def test_a_wrong_parameter_is_named_below_its_cell(window, lab):
    open_notebook(window, lab, "02_fast_fishing.ipynb")
    give(window, "preset", '"tyni"')
    from_menu(window, "Run", "runmenu:run-all")
    window.wait("return document.body.innerText.includes('Traceback (most recent call last)')", seconds=60)
    (failed,) = [cell for cell in window.run(CELLS) if cell["failed"]]
    assert "ValueError: preset is 'tyni'" in failed["text"]


PAGE = """
const page = [...document.querySelectorAll('.jp-CodeCell')].find((each) => each.querySelector('.noUi-handle'))
return page && page.querySelector('figure img') && {
  picture: page.querySelector('figure img').src,
  words: page.querySelector('figure img').alt,
  where: [...page.querySelectorAll('.widget-label')].map((each) => each.textContent).join(' '),
  reason: page.querySelector('figcaption').textContent,
}
"""


def test_the_closer_look_is_stepped_through_with_the_keyboard(window, lab):
    open_notebook(window, lab, "02_fast_fishing.ipynb")
    give(window, "preset", '"tiny"')
    assert [cell["text"] for cell in run_all(window) if cell["failed"]] == []
    first = window.wait(PAGE, seconds=60)
    assert "1 of 6: cycle 0, 5 labels" in first["where"]
    window.run("document.querySelector('.noUi-handle').focus()")
    window.press("ArrowRight")
    after = f"const seen = (() => {{ {PAGE} }})(); return seen && seen.words !== arguments[0] && seen"
    second = window.wait(after, first["words"])
    assert "2 of 6: cycle 1, 10 labels" in second["where"]
    assert second["picture"] != first["picture"]
    window.run("""
        const choice = document.querySelector('.widget-dropdown select')
        choice.value = [...choice.options].find((each) => each.textContent === 'Margin').value
        choice.dispatchEvent(new Event('change', { bubbles: true }))
    """)
    other = window.wait(after, second["words"])
    assert "2 of 6: cycle 1, 10 labels" in other["where"]
    assert other["reason"].startswith("Margin takes the instances for which the two most probable classes are closest.")
