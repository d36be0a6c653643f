"""The site over figures, tables and notebooks: what it says, that it is whole, and how a browser shows it."""

import html
import html.parser
import io
import json
import re
import shutil
import urllib.parse
from pathlib import Path

import browser
import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest

from dal_lab.companion.artefacts import ManifestError, Report, check_manifest, read_manifest
from dal_lab.companion.site.index import PROVENANCE, duration, write_site
from dal_lab.companion.site.notebook_page import WIDGET, formula, legible_width
from dal_lab.companion.tables import table_of
from dal_lab.companion.verdicts import Claim, judged

STEMS = ["01_laplace_updates", "02_fast_fishing", "03_boss", "04_refine"]


class Page(html.parser.HTMLParser):
    """What a page links to, loads, defines, and says to those who do not see its images."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.loads, self.anchors, self.images, self.tags = [], [], [], [], []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        about = dict(attrs)
        self.tags.append(tag)
        if "id" in about:
            self.anchors.append(about["id"])
        if tag == "a":
            self.links.append(about["href"])
        elif tag in ("link", "script", "img", "iframe", "source") and (about.get("src") or about.get("href")):
            self.loads.append(about.get("src") or about.get("href"))
        if tag == "img":
            self.images.append(about)


def write_notebook(path, cells, *, title="# A title\n\nCompanion to *A paper* (Somebody).", metadata=None):
    notebook = nbformat.v4.new_notebook(metadata=metadata or {})
    notebook.cells = [nbformat.v4.new_markdown_cell(title), *cells]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def ran(minute=0, seconds=75.2, device="CPU", **parameters):
    """Metadata of an executed notebook."""
    return {
        "papermill": {"end_time": f"2025-03-01T12:{minute:02}:00+00:00", "duration": seconds, "parameters": parameters},
        PROVENANCE: {"device": device, "versions": {"python": "3.11.9", "torch": "2.11.0", "dal_core": "1.0"},
                     "commit": "0123456789abcdef-dirty"},
    }  # fmt: skip


def shown(data, **metadata):
    return nbformat.v4.new_output("display_data", data, metadata=metadata)


SUMS = r"""## (a) Sums

For $K$: $$F = \sum_i x_i^\top x_i$$

| a | $\gamma$ |
|---|---|
| 2 | 1 |
| 10 | 2 |
"""
ODD = '<script>alert("x")</script> & "co"'
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Three notebooks: one executed, with a figure and tables; one failed; one that was not executed here."""
    tmp_path = tmp_path_factory.mktemp("project")
    folder, executed = tmp_path / "figures", tmp_path / "executed"
    report = Report(folder, "02_fast_fishing")
    for name in ("other", "benchmark_differences"):
        figure, axes = plt.subplots()
        axes.set(xlabel="Labels", ylabel=f"Accuracy <{name}>")
        figure.set_label("Mean over 3 seeds.")
        about = {"cell": "(c) benchmark", "keys": ["k1", "k2"], "caption": f"It <rises> in {name}."}
        report.figure(figure, name, **about)
    report.figure(plt.figure(), "zeroth", cell="(a) top-c", keys=[])
    table = pd.DataFrame({"strategy": [ODD, "bait"], "accuracy": [81.23456, float("nan")], "seeds": [3, 10]})
    report.table(table, "top_classes", cell="(a) top-c", keys=["k2", "k3"])
    report.table(table[["strategy"]], "names", cell="(a) top-c", keys=[])
    cells = [
        nbformat.v4.new_code_cell('data_dir = "/somebodys/folder"', metadata={"tags": ["injected-parameters"]}),
        nbformat.v4.new_markdown_cell(SUMS),
        nbformat.v4.new_code_cell("print('code')", outputs=[
            nbformat.v4.new_output("stream", name="stderr", text="left out: x\n"),
            shown({"image/png": PIXEL}), shown({"image/png": PIXEL}, **{"image/png": {"alt": 'A "curve"'}}),
        ]),
    ]  # fmt: skip
    for number, stem in enumerate(["01_laplace_updates", "02_fast_fishing", "03_boss"]):
        write_notebook(tmp_path / "notebooks" / f"{stem}.ipynb", [], title=f"# Title {number} {ODD}")
    (tmp_path / "notebooks" / "02_fast_fishing.py").write_text("# %%")
    about = '[about]\nheadline_figures = ["absent", "benchmark differences"]\nheadline_tables = ["top classes"]'
    (tmp_path / "notebooks" / "02_fast_fishing.toml").write_text(about)
    (tmp_path / "README.md").write_text(f"# It\n\n```bibtex\n@misc{{it, title = {ODD}}}\n```\n")
    error = nbformat.v4.new_output("error", ename="RuntimeError", evalue="no luck", traceback=["RuntimeError: no luck"])
    write_notebook(executed / "01_laplace_updates.failed.ipynb", [nbformat.v4.new_code_cell("1", outputs=[error])],
                   metadata=ran(minute=1, seconds=5))  # fmt: skip
    title = f"# {ODD}\n\nCompanion to *A paper* ({ODD}; [arXiv 1](https://arxiv.org/abs/1)).\n\nMore."
    write_notebook(executed / "02_fast_fishing.ipynb", cells, title=title, metadata=ran(minute=2, seeds=5))
    return tmp_path


@pytest.fixture
def project(template, tmp_path):
    """A copy of the template to change: figures, executed notebooks and their sources."""
    shutil.copytree(template, tmp_path / "project")
    folder, executed, notebooks = (tmp_path / "project" / name for name in ("figures", "executed", "notebooks"))
    return folder, executed, sorted(notebooks.glob("*.ipynb"))


@pytest.fixture
def site(project):
    folder, executed, sources = project
    assert write_site(folder, executed, sources, preset="quick", about="minutes") == folder / "index.html"
    return folder


@pytest.fixture(scope="module")
def committed(root, tmp_path_factory):
    """The site over the committed figures, tables and notebooks with their outputs."""
    folder = tmp_path_factory.mktemp("committed") / "quick"
    shutil.copytree(root / "figures" / "quick", folder, ignore=shutil.ignore_patterns("*.html"))
    write_site(folder, root / "notebooks", sorted((root / "notebooks").glob("[0-9]*.ipynb")), preset="quick")
    return folder


def check_links(folder):
    pages = {path.name: Page(path) for path in folder.glob("*.html")}
    for name, page in pages.items():
        assert len(page.anchors) == len(set(page.anchors)), name
        for link in page.links + page.loads:
            target, _, anchor = link.partition("#")
            target = urllib.parse.unquote(target)
            if target.startswith(("https://", "data:")):
                continue
            assert not target or (folder / target).is_file(), f"{name} links to {link}"
            if anchor:
                assert anchor in pages[target or name].anchors, f"{name} links to {link}"
        assert all(load.startswith("data:") or ":" not in load for load in page.loads), f"{name} loads from elsewhere"
        assert not re.search(r"url\((?!data:)|@import|<script[^>]+src", page.text), f"{name} loads from elsewhere"
    return pages


def test_every_link_resolves_and_nothing_is_loaded_from_elsewhere(site):
    pages = check_links(site)
    assert sorted(pages) == ["01_laplace_updates.html", "02_fast_fishing.html", "index.html"]
    assert {"02_benchmark_differences.png", "02_benchmark_differences.pdf", "02_top_classes.csv",
            "02_fast_fishing.html", "01_laplace_updates.html"} <= set(pages["index.html"].links)  # fmt: skip


def test_the_committed_results_make_a_whole_site(committed):
    pages = check_links(committed)
    assert sorted(pages) == [*(f"{stem}.html" for stem in STEMS), "index.html"]
    front = pages["index.html"]
    assert {name for name in read_manifest(committed) if not name.endswith(".md")} <= set(front.links)
    for page in pages.values():
        assert all(image.get("alt", "").strip() for image in page.images)
        assert "No description" not in page.text


@pytest.mark.parametrize("stem", STEMS)
def test_formulas_of_the_notebooks_become_mathml(committed, root, stem):
    source = (root / "notebooks" / f"{stem}.py").read_text()
    page = Page(committed / f"{stem}.html")
    prose = re.sub(r"(?s)<(script|style|pre)\b.*?</\1>", "", page.text)
    assert "$" not in prose
    assert not re.search(r"<code>[^<]*\\", prose)  # a formula that was not understood
    assert page.tags.count("math") >= len(set(re.findall(r"\$[^$\n{]+\$", source)))


def test_formula_that_is_not_understood_stays_as_it_is_written():
    assert formula(r"\nosuchthing{x<1}", "inline") == r"<code>\nosuchthing{x&lt;1}</code>"
    assert formula(r"\frac{", "block") == r"<code>\frac{</code>"
    assert formula(r"\arg\max_i", "inline").startswith("<math")


def test_images_say_what_they_show(site):
    front, notebook = Page(site / "index.html"), Page(site / "02_fast_fishing.html")
    first = {name: front.images[0][name] for name in ("src", "alt")}
    assert first == {"src": "02_benchmark_differences.png",
                     "alt": "(c) benchmark: Accuracy <benchmark_differences> against Labels"}  # fmt: skip
    assert [image["alt"] for image in notebook.images] == ["Figure of the section “(a) Sums”", 'A "curve"']


def test_an_entry_without_a_text_for_its_figure_is_named_by_its_cell(project):
    folder, executed, sources = project
    manifest = read_manifest(folder)
    for entry in manifest.values():
        entry.pop("alt", None)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    write_site(folder, executed, sources, preset="quick")
    assert Page(folder / "index.html").images[0]["alt"] == "(c) benchmark: benchmark differences"


def test_odd_text_stays_text(site):
    for name in ("index.html", "02_fast_fishing.html", "01_laplace_updates.html"):
        page = Page(site / name)
        assert page.tags.count("script") == 1  # the one that sorts
        assert "<script>alert" not in page.text
        assert ("&lt;script&gt;alert" in page.text) == (name != "01_laplace_updates.html")  # whose title is plain


def test_the_front_page_says_what_ran_where_and_for_how_long(site):
    text = " ".join(re.sub(r"<[^>]+>", " ", (site / "index.html").read_text()).split())
    assert "Preset quick: minutes" in text
    assert "Last run 2025-03-01 12:02 UTC" in text
    assert "Took" not in text  # drawing stored runs is quick, and says nothing
    assert "Runs behind it 3" in text
    assert "Device CPU Versions dal_core 1.0, torch 2.11.0, Python 3.11.9" in text
    assert "Commit 0123456789ab with changes" in text
    assert "Seeds 5" in text


def test_figures_stand_in_the_order_of_the_sections_with_their_captions(site):
    page = Page(site / "index.html")
    assert [image["src"] for image in page.images] == [
        "02_benchmark_differences.png", "02_zeroth.png", "02_other.png", "02_benchmark_differences.png",
    ]  # fmt: skip
    captions = [" ".join(each.split()) for each in re.findall(r"<figcaption>(.*?)<a", page.text, flags=re.DOTALL)]
    rises = [f"It &lt;rises&gt; in {name}. Mean over 3 seeds." for name in ("benchmark_differences", "other")]
    assert captions == [rises[0], "(a) top-c: zeroth", rises[1], rises[0]]
    assert re.findall(r"<h3>(.*)</h3>", page.text) == ["(a) top-c", "(c) benchmark"]


def test_the_first_figure_and_table_stand_for_a_notebook_that_names_none(project):
    folder, executed, sources = project
    sources[1].with_suffix(".toml").unlink()
    page = Page(write_site(folder, executed, [source.rename(source.with_stem("02_mine")) for source in sources[1:2]],
                           preset="quick"))  # fmt: skip
    assert not page.images
    for entry in (manifest := read_manifest(folder)).values():
        entry["notebook"] = "02_mine"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert Page(write_site(folder, executed, [sources[1].with_stem("02_mine")], preset="quick")).images[0]["src"] == (
        "02_zeroth.png"
    )


def test_pages_link_to_the_code_and_the_readme_and_say_how_to_cite(site, project):
    front = Page(site / "index.html")
    assert {"../README.md", "../notebooks/02_fast_fishing.py"} <= set(front.links)
    assert "../notebooks/02_fast_fishing.py" in Page(site / "02_fast_fishing.html").links
    assert html.unescape(front.text.partition('<pre class="scroll" tabindex="0">')[2]).startswith(
        f"@misc{{it, title = {ODD}}}"
    )
    (site.parent / "README.md").unlink()
    bare = Page(write_site(site, project[1], project[2], preset="quick"))
    assert "citation" not in bare.anchors
    assert "../README.md" not in bare.links


def test_a_caption_below_a_figure_of_a_notebook_looks_like_one(project):
    folder, executed, sources = project
    outputs = [shown({"image/png": PIXEL}), shown({"text/markdown": "**Figure.** It rises."}),
               shown({"text/markdown": "**Reading.** It does."})]  # fmt: skip
    write_notebook(executed / "03_boss.ipynb", [nbformat.v4.new_code_cell("1", outputs=outputs)], metadata=ran())
    write_site(folder, executed, sources, preset="quick")
    text = (folder / "03_boss.html").read_text()
    assert '<p class="caption"><strong>Figure.</strong> It rises.</p>' in text
    assert "<p><strong>Reading.</strong> It does.</p>" in text
    assert '<div aria-label="figure" class="paper scroll" role="group" tabindex="0"><img' in text


def test_a_figure_is_as_wide_as_its_letters_need():
    drawn = io.BytesIO()
    plt.figure(figsize=(10, 3)).savefig(drawn, dpi=160)
    assert legible_width(drawn.getvalue()[:24], 160) == 720


def test_failed_and_missing_notebooks_are_named_as_such(site):
    front = (site / "index.html").read_text()
    assert "It failed" in front
    assert "not executed on this machine" in front
    assert "no luck" in (site / "01_laplace_updates.html").read_text()
    assert not (site / "03_boss.html").exists()


def test_folders_of_this_machine_and_messages_do_not_get_in_the_way(site):
    text = (site / "02_fast_fishing.html").read_text()
    assert "/somebodys/folder" not in text
    assert re.search(r'<details class="messages">.*left out: x', text, flags=re.DOTALL)
    assert re.search(r'<details class="code">.*print', text, flags=re.DOTALL)


def test_controls_of_a_live_notebook_are_left_out(project):
    folder, executed, sources = project
    slider = {WIDGET: {"model_id": "1a2b", "version_major": 2, "version_minor": 0}, "text/plain": "VBox(children=(Play"}
    state = {WIDGET.replace("view", "state"): {"version_major": 2, "version_minor": 0, "state": {"1a2b": {}}}}
    outputs = [
        shown(slider),
        shown({"image/png": PIXEL, "text/plain": "a figure"}),
        shown({"text/plain": "plain words"}),
    ]
    cells = [nbformat.v4.new_code_cell("show(explorer)", outputs=outputs)]
    write_notebook(executed / "03_boss.ipynb", cells, metadata=ran() | {"widgets": state})
    write_site(folder, executed, sources, preset="quick")
    page = Page(folder / "03_boss.html")
    assert "jupyter.widget" not in page.text
    assert "1a2b" not in page.text
    assert "VBox" not in page.text
    assert "plain words" in page.text
    assert page.tags.count("img") == 1
    assert page.tags.count("script") == 1  # the one that sorts


def test_notebooks_of_several_runs_are_told_apart(project):
    folder, executed, sources = project
    write_notebook(executed / "03_boss.ipynb", [], metadata=ran(device="NVIDIA H100"))
    text = write_site(folder, executed, sources, preset="quick").read_text()
    assert "<dt>Device</dt><dd>CPU</dd><dd>NVIDIA H100</dd>" in text


def test_the_front_page_lists_the_verdicts_of_all_notebooks(project):
    folder, executed, sources = project
    assert "Verdicts" not in write_site(folder, executed, sources, preset="quick").read_text()
    for number, verdict in (("01", "holds"), ("02", "contradicted")):
        values = pd.Series([1.0, 1.0], pd.MultiIndex.from_product([["digits"], [0, 1]], names=["data", "seed"]))
        claims = [Claim(f"{ODD} {number}", "table 1", "gain (points)", values, above=0 if verdict == "holds" else 2)]
        judged(Report(folder, f"{number}_again"), claims, cell="(h) verdicts", keys=[])
    page = Page(write_site(folder, executed, sources, preset="quick"))
    text = html.unescape(" ".join(re.sub(r"<[^>]+>", " ", page.text).split()))
    assert "Claims that hold: 1 of 2; contradicted: 1; open: 0." in text
    assert f"01 {ODD} 01 holds 1 1.000 1.000 2 gain (points), above 0 table 1" in text
    assert f"02 {ODD} 02 contradicted 1 1.000 1.000 2 gain (points), above 2 table 1" in text
    assert "verdicts" in page.anchors


def test_pages_are_no_results_and_those_of_gone_notebooks_go(project):
    folder, executed, sources = project
    (folder / "07_gone.html").write_text("x")
    write_site(folder, executed, sources, preset="quick")
    assert not (folder / "07_gone.html").exists()
    check_manifest(folder)


def test_a_missing_figure_is_left_out(project):
    folder, executed, sources = project
    (folder / "02_other.png").unlink()
    (folder / "02_benchmark_differences.pdf").unlink()
    write_site(folder, executed, sources, preset="quick")
    check_links(folder)
    images = [image["src"] for image in Page(folder / "index.html").images]
    assert images == ["02_benchmark_differences.png", "02_zeroth.png", "02_benchmark_differences.png"]


def test_without_any_result_the_page_says_so(project, tmp_path):
    text = write_site(tmp_path / "none", tmp_path / "nowhere", project[2], preset="real").read_text()
    assert text.count("not executed on this machine") == 3


def test_a_damaged_manifest_is_refused(project):
    folder, executed, sources = project
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ManifestError, match="is damaged"):
        write_site(folder, executed, sources, preset="quick")


def test_tables_show_what_the_markdown_shows_and_hold_the_digits_of_the_csv(root):
    files = sorted((root / "figures").glob("*/*.csv"))
    assert len(files) > 40
    manifests = {folder: read_manifest(folder) for folder in {path.parent for path in files}}
    for path in files:
        headings, rows = table_of(path, manifests[path.parent][path.name].get("headings"))
        lines = path.with_suffix(".md").read_text().splitlines()
        split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        assert [text for text, _ in headings] == split[0], path
        assert [[cell.text for cell in row] for row in rows] == split[2:], path
        for column, numbers in pd.read_csv(path).select_dtypes("number").items():
            place = list(pd.read_csv(path).columns).index(column)
            values = [float(row[place].value or "nan") for row in rows]
            assert pd.Series(values).equals(numbers.astype(float).rename(None)), (path, column)


def test_an_empty_table_has_no_rows(tmp_path):
    (tmp_path / "empty.csv").write_text("\n")
    assert table_of(tmp_path / "empty.csv") == ([], [])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations_are_for_readers(seconds, text):
    assert duration(seconds) == text


# In a browser


@pytest.fixture(scope="module")
def window():
    if reason := browser.missing():
        pytest.skip(reason)
    with browser.browser() as opened:
        yield opened


@pytest.mark.browser
@pytest.mark.parametrize("name", ["index", *STEMS])
def test_a_browser_has_nothing_to_complain_about(window, committed, name):
    window.shape(1200)
    window.open(committed / f"{name}.html")
    window.run("for (const each of document.querySelectorAll('details')) each.open = true;"
               "for (const each of document.images) each.loading = 'eager'")  # fmt: skip
    window.wait("return [...document.images].every((each) => each.complete)")
    assert window.run("return document.images.length") >= 5
    assert window.run("return [...document.images].filter((each) => !each.naturalWidth).map((each) => each.src)") == []
    assert window.errors() == []


@pytest.mark.browser
def test_the_browser_would_say_what_a_page_lacks(window, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text('<!doctype html><link rel="icon" href="data:,"><script src="https://example.org/x.js"></script>')
    window.open(page)
    assert len(window.errors()) == 1


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", ["index", *STEMS])
def test_a_narrow_window_is_not_wider_than_it_is(window, committed, name, dark):
    window.shape(360, dark=dark)
    window.open(committed / f"{name}.html")
    window.run("for (const each of document.querySelectorAll('details')) each.open = true")
    assert window.run("return [document.documentElement.scrollWidth, document.body.scrollWidth]") == [360, 360]


def lightness(window, selector, what):
    """0 to 1, of a colour as the browser computed it."""
    script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    red, green, blue = map(float, re.findall(r"[\d.]+", window.run(script, selector, what))[:3])
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


@pytest.mark.browser
@pytest.mark.parametrize("name", ["index", "02_fast_fishing"])
def test_dark_mode_is_dark_and_figures_stay_on_white(window, committed, name):
    ground = {}
    for dark in (False, True):
        window.shape(1200, dark=dark)
        window.open(committed / f"{name}.html")
        ground[dark] = lightness(window, "body", "backgroundColor")
        assert abs(lightness(window, "body", "color") - ground[dark]) > 0.6
        assert abs(lightness(window, "a[href^='#']", "color") - ground[dark]) > 0.4
        assert lightness(window, ".paper", "backgroundColor") > 0.99
    assert ground[True] < 0.2 < 0.8 < ground[False]


@pytest.mark.browser
def test_what_is_wider_than_a_narrow_window_says_so_and_scrolls(window, site):
    wide = """
        const figure = document.querySelector('figure.headline .paper')
        figure.querySelector('img').style.setProperty('--legible', arguments[0])
        return figure.scrollWidth > figure.clientWidth + 1
    """
    cue = "return getComputedStyle(document.querySelector('figure.headline .paper'), '::before').content"
    for width, legible, scrolls in ((400, "900px", True), (400, "200px", False), (1200, "900px", False)):
        window.shape(width)
        window.open(site / "index.html")
        window.wait("return [...document.images].some((each) => each.complete)")
        assert window.run(wide, legible) == scrolls
        assert window.wait(f"{cue} {'!==' if scrolls else '==='} 'none'")
    window.shape(400)
    window.open(site / "index.html")
    assert "more to the right" in window.wait("""
        const table = [...document.querySelectorAll('.scroll')].find((each) => each.querySelector('table.notebooks'))
        const found = getComputedStyle(table, '::before').content
        return found === 'none' ? null : found
    """)


COLUMN = """
const table = document.querySelector('#notebook-02 table');
return [...table.tBodies[0].rows].map((row) => row.cells[arguments[0]].textContent.trim())
"""


@pytest.mark.browser
def test_a_table_sorts_by_the_heading_that_is_pressed(window, site):
    window.shape(1200)
    window.open(site / "index.html")
    headings = "[...document.querySelector('#notebook-02 table').tHead.rows[0].cells]"
    press = f"{headings}[arguments[0]].querySelector('button').click()"
    state = f"return {headings}.map((each) => each.getAttribute('aria-sort'))"
    assert window.run(COLUMN, 2) == ["3", "10"]
    window.run(press, 2)
    assert window.run(COLUMN, 2) == ["3", "10"]  # by value, not by letters
    assert window.run(state) == [None, None, "ascending"]
    window.run(press, 2)
    assert window.run(COLUMN, 2) == ["10", "3"]
    assert window.run(state) == [None, None, "descending"]
    for direction in ("ascending", "descending"):  # an empty cell is last both ways
        window.run(press, 1)
        assert window.run(COLUMN, 1) == ["81.23", ""]
        assert window.run(state) == [None, direction, None]
    for order in ([ODD, "bait"], ["bait", ODD]):
        window.run(press, 0)
        assert window.run(COLUMN, 0) == order
    assert window.errors() == []


@pytest.mark.browser
def test_headings_are_reached_and_pressed_with_the_keyboard(window, site):
    window.shape(1200)
    window.open(site / "02_fast_fishing.html")
    window.run("document.querySelector('table th button').focus()")
    for kind in ("keyDown", "keyUp"):
        window.command(
            "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13
        )
    rows = "return [...document.querySelector('table').tBodies[0].rows].map((row) => row.cells[0].textContent)"
    assert window.run("return document.querySelector('table th').getAttribute('aria-sort')") == "ascending"
    assert window.run(rows) == ["2", "10"]


@pytest.mark.browser
def test_code_is_unfolded_by_one_button(window, site):
    window.open(site / "02_fast_fishing.html")
    unfolded = "return [...document.querySelectorAll('details.code')].map((each) => each.open)"
    assert window.run(unfolded) == [False]
    window.run("document.getElementById('codes').click()")
    assert window.run(unfolded) == [True]
