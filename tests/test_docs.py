"""README.md and docs/: their code runs, their commands are understood, their links lead somewhere."""

import importlib.util
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from sklearn.datasets import load_digits

import dal_core as dal
from dal_core.strategies import registry
from dal_lab.companion.command_line import app, main
from dal_lab.companion.readme import documents
from dal_lab.sources.catalogue import READERS
from dal_lab.sources.encoders import Encoder

ROOT = Path(__file__).resolve().parent.parent
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in documents(ROOT)}
ELSEWHERE = ("--dask", "--slurm", "--encoder", "--images", "notebooks", "--jobs")  # a cluster, a network, many minutes
SHORT, ALONE = ["--cycles", "2"], ["--cycles", "2", "--jobs", "1"]
SHORTER = {"run": SHORT, "plan-study": SHORT, "grid": ALONE, "report": ALONE, "compare": ALONE}
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:href|src)=\"([^\"]+)\"")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def commands(text):
    """The commands `dal` and `./run_all.sh` of a page, as arguments of the program."""
    lines = [shlex.split(line, comments=True) for block in blocks(text, "bash") for line in block.splitlines()]
    return [["notebooks", *rest] if name == "./run_all.sh" else rest
            for name, *rest in filter(None, lines) if name in ("dal", "./run_all.sh")]  # fmt: skip


def pages(function, language=None):
    return [name for name, text in TEXTS.items() if function(text, *filter(None, [language]))]


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """An empty working folder with the files that the pages speak of; own strategies are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    table = load_digits(as_frame=True).frame.rename(columns={"target": "label"})
    table.to_parquet("my.parquet")
    table.drop(columns="label").rename_axis("id").to_csv("unlabelled.csv")
    pd.DataFrame({"id": range(20), "label": ["a", "b"] * 10}).to_csv("labels.csv", index=False)
    yield tmp_path
    registry.forget_own()


def write_files(text):
    """Write the blocks that begin with the name of a file into it."""
    for block in (*blocks(text, "python"), *blocks(text, "toml")):
        if named := re.match(r"# (\w+\.(?:py|toml))\n", block):
            Path(named[1]).write_text(block)


@pytest.mark.parametrize("page", pages(blocks, "python"))
def test_the_python_of_a_page_runs(page, scratch, monkeypatch):
    write_files(TEXTS[page])
    path = scratch / "page_of_docs.py"
    path.write_text("\n".join(blocks(TEXTS[page], "python")))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)  # where texts of classes are looked for
    spec.loader.exec_module(module)
    if page == "README.md":
        assert len(set(module.batch.tolist())) == 10
        assert not set(module.batch.tolist()) & set(module.labelled.tolist())


@pytest.mark.parametrize("page", pages(commands))
def test_the_commands_of_a_page_are_understood(page):
    for arguments in commands(TEXTS[page]):
        app.parse_args(arguments, exit_on_error=False, print_error=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages(commands))
def test_the_commands_of_a_page_do_what_they_say(page, scratch):
    write_files(TEXTS[page])
    for arguments in commands(TEXTS[page]):
        if not set(arguments) & set(ELSEWHERE):
            assert main([*arguments, *SHORTER.get(arguments[0], [])]) == 0, shlex.join(arguments)


@pytest.mark.parametrize("page", [*TEXTS, "CONTRIBUTING.md"])
def test_links_lead_to_files_and_headings_that_are_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in {a or b for a, b in LINK.findall(text)}:
        assert "OWNER" not in link
        place, _, heading = link.partition("#")
        if not place.startswith("http"):
            target = (ROOT / page).parent / place if place else ROOT / page
            assert target.exists(), link
            titles = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), flags=re.MULTILINE) if heading else []
            assert not heading or heading in {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in titles}


def test_every_page_is_linked_from_the_readme():
    linked = {link for link, _ in LINK.findall(TEXTS["README.md"])}
    assert not [page for page in TEXTS if page not in linked | {"README.md"}]


def test_the_address_that_is_not_known_stands_on_one_page():
    assert [page for page, text in TEXTS.items() if "OWNER" in text] == ["docs/online.md"]


def test_the_readme_is_short_and_shows_python_and_its_scope_at_once():
    text = TEXTS["README.md"]
    assert len(text.encode()) <= 9000
    first = "\n".join(text.splitlines()[:40])
    assert "```python" in first
    assert "classification" in first.lower()


def test_the_readmes_table_has_every_strategy():
    section = TEXTS["README.md"].split("## Strategies", 1)[1].split("\n## ", 1)[0]
    named = [name for row in re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE) for name in row.split(", ")]
    assert sorted(name.strip("`") for name in named) == sorted(set(dal.names()) - registry.own().keys())


def test_an_extension_is_shown_in_fewer_than_thirty_lines():
    for block in re.findall(r"^```\w+\n(.*?)^```$", TEXTS["docs/extending.md"], flags=re.DOTALL | re.MULTILINE):
        assert len([line for line in block.splitlines() if line.strip()]) < 30


def test_the_rows_of_tables_that_are_shown_have_fields_that_exist():
    data, encoder, _ = (tomllib.loads(block) for block in blocks(TEXTS["docs/extending.md"], "toml"))
    for source in data["beans"]["sources"]:
        assert READERS[source.pop("reader")](**source).where() == "Hugging Face AI-Lab-Makerere/beans"
    assert Encoder(**encoder["dinov2_base"]).pooling == "cls"
