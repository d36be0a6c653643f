import base64
import json

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.image import imread

from dal_lab.companion import artefacts
from dal_lab.companion.artefacts import MANIFEST, ManifestError, Report, check_manifest, read_manifest
from dal_lab.companion.tables import markdown


def draw():
    figure, axes = plt.subplots()
    axes.plot([0, 1], [0, 1])
    return figure


def table(value=0.5):
    return pd.DataFrame({"strategy": ["margin"], "accuracy": [value], "accuracy_ci": [0.01]})


@pytest.fixture
def folder(tmp_path):
    report = Report(tmp_path / "quick", "01_laplace_updates")
    report.figure(draw(), "curves", cell="(a)", keys=["b", "a"])
    report.table(table(), "accuracy", cell="(b)", keys=["a"])
    return tmp_path / "quick"


def test_each_file_has_an_entry_with_its_origin(folder):
    manifest = read_manifest(folder)
    assert sorted(manifest) == ["01_accuracy.csv", "01_accuracy.md", "01_curves.png"]
    entry = manifest["01_curves.png"]
    assert (entry["notebook"], entry["cell"], entry["keys"]) == ("01_laplace_updates", "(a)", ["a", "b"])
    check_manifest(folder)


def test_a_table_keeps_its_precision_in_csv_and_is_readable_in_markdown(folder):
    pd.testing.assert_frame_equal(pd.read_csv(folder / "01_accuracy.csv"), table())
    assert (folder / "01_accuracy.md").read_text().splitlines()[0].split("|")[1:-1] == [
        " strategy   ", "   accuracy (%) ", "    ± "]  # fmt: skip


def test_a_csv_has_no_digits_of_rounding_and_counts_are_whole(tmp_path):
    rows = pd.DataFrame({"strategy": ["a", "b"], "accuracy": [3.299999999999992, 1 / 3], "seeds": [3.0, float("nan")]})
    Report(tmp_path, "01_x").table(rows.assign(gain=2.0), "t", cell="(a)", keys=[])
    lines = (tmp_path / "01_t.csv").read_text().splitlines()
    assert lines == ["strategy,accuracy,seeds,gain", "a,3.3,3,2.0", "b,0.333333333333,,2.0"]


def test_markdown_formats_by_column_and_leaves_missing_numbers_empty():
    rows = pd.DataFrame({"step": [0.001, float("nan")], "update_s": [0.000123, 2.0], "nll": [1.0, 2.0]})
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown(rows).splitlines()]
    assert cells[0] == ["step", "time (s)", "NLL (nats)"]
    assert cells[2] == ["0.001", "0.000123", "1.00"]
    assert cells[3] == ["", "2", "2.00"]


def test_figures_are_whole_and_carry_commit_and_runs(folder):
    assert imread(folder / "01_curves.png").ndim == 3
    content = (folder / "01_curves.png").read_bytes()
    assert b"dal_core " in content
    assert b"runs " in content
    assert (folder / "01_curves.pdf").read_bytes()[:4] == b"%PDF"


def test_the_same_figure_is_the_same_file(tmp_path):
    for name in ("one", "two"):
        Report(tmp_path / name, "01_x").figure(draw(), "curves", cell="(a)", keys=["a"])
    for ending in ("png", "pdf"):
        first, second = (tmp_path / name / f"01_curves.{ending}" for name in ("one", "two"))
        assert first.read_bytes() == second.read_bytes()


def test_a_later_commit_keeps_the_files_of_the_same_figure(tmp_path, monkeypatch):
    def drawn_again(figure, *keys):
        Report(tmp_path, "01_laplace_updates").figure(figure, "curves", cell="(a)", keys=keys)
        return [path.read_bytes() for path in sorted(tmp_path.glob("01_curves.*"))]

    figure = drawn_again(draw(), "a", "b")
    monkeypatch.setattr(artefacts, "git_commit", lambda: "later")
    assert drawn_again(draw(), "a", "b") == figure
    check_manifest(tmp_path)
    pdf, png = drawn_again(draw(), "c")
    assert b"dal_core later, runs " in pdf
    assert b"dal_core later, runs " in png
    figure = draw()
    figure.axes[0].set_title("another")
    assert drawn_again(figure, "c")[1] != png


def test_a_pdf_is_drawn_where_there_is_none_of_the_png_beside_it(folder):
    pdf, png = folder / "01_curves.pdf", folder / "01_curves.png"

    def drawn_again(figure, **more):
        before = pdf.stat().st_mtime_ns if pdf.exists() else 0
        Report(folder, "01_laplace_updates").figure(figure, "curves", **({"cell": "(a)", "keys": ["a", "b"]} | more))
        return pdf.stat().st_mtime_ns != before

    first = pdf.read_bytes()
    pdf.unlink()
    check_manifest(folder)  # as in a fresh clone, which has no PDF
    assert drawn_again(draw())
    assert pdf.read_bytes() == first
    assert not drawn_again(draw())
    assert drawn_again(draw(), keys=["c"])  # which both files name
    assert drawn_again(draw())
    assert pdf.read_bytes() == first
    pdf.write_bytes(b"%PDF changed by hand")
    assert drawn_again(draw())
    assert pdf.read_bytes() == first
    other = draw()
    other.axes[0].set_title("another")
    assert drawn_again(other)
    kept = png.read_bytes()
    pdf.write_bytes(first)  # of an earlier figure, as beside a PNG that came with a pull
    other = draw()
    other.axes[0].set_title("another")
    assert drawn_again(other)
    assert png.read_bytes() == kept


def test_a_caption_is_what_the_notebook_says_and_what_the_figure_says_of_itself(tmp_path, monkeypatch):
    figure, said = draw(), []
    figure.set_label("Bands: 95 % intervals (t over 3 seeds).")
    shown = Report(tmp_path, "01_x").figure(figure, "curves", cell="(a)", keys=[], caption="It rises.")
    assert shown.caption == "It rises. Bands: 95 % intervals (t over 3 seeds)."
    assert read_manifest(tmp_path)["01_curves.png"]["caption"] == shown.caption
    monkeypatch.setattr("IPython.display.display", lambda *found, **about: said.append((found, about)))
    shown._ipython_display_()
    ((picture,), about), ((text,), _) = said
    assert base64.b64decode(picture["image/png"]) == shown.png
    assert about["metadata"] == {"image/png": {"alt": shown.alt}}
    assert text.data == f"**Figure.** {shown.caption}"


def test_an_orphan_a_missing_and_a_changed_file_are_found(folder):
    (folder / "01_old_figure.png").write_bytes(b"x")
    with pytest.raises(ManifestError, match=r"without an entry .*01_old_figure\.png"):
        check_manifest(folder)
    (folder / "01_old_figure.png").unlink()
    (folder / "01_accuracy.csv").write_text("strategy,accuracy\nmargin,0.9\n")
    with pytest.raises(ManifestError, match=r"changed after they were written: 01_accuracy\.csv"):
        check_manifest(folder)
    (folder / "01_accuracy.csv").unlink()
    with pytest.raises(ManifestError, match=r"entries without a file: 01_accuracy\.csv"):
        check_manifest(folder)


def test_a_figure_that_no_cell_makes_any_more_becomes_an_orphan(folder):
    again = Report(folder, "01_laplace_updates")
    again.table(table(), "accuracy", cell="(b)", keys=["a"])
    with pytest.raises(ManifestError, match=r"without an entry .*: 01_curves\.png$"):
        check_manifest(folder)


def test_notebooks_do_not_touch_each_others_entries(folder):
    Report(folder, "02_fast_fishing").table(table(), "accuracy", cell="(a)", keys=[])
    assert {"01_curves.png", "02_accuracy.csv"} <= set(read_manifest(folder))
    check_manifest(folder)


def test_a_figure_keeps_a_text_for_readers_who_do_not_see_it(tmp_path):
    figure = draw()
    figure.axes[0].set(xlabel="Labels", ylabel="Accuracy (%)")
    shown = Report(tmp_path, "01_x").figure(figure, "curves", cell="(a) study", keys=[])
    png, metadata = shown._repr_png_()
    assert png.startswith(b"\x89PNG")
    assert metadata == {"alt": "(a) study: Accuracy (%) against Labels"}
    assert {entry["alt"] for entry in read_manifest(tmp_path).values()} == {metadata["alt"]}
    assert "PNG" not in repr(shown)  # which a notebook keeps beside the picture
    assert not plt.fignum_exists(figure.number)


def test_hidden_files_and_pages_do_not_count(folder):
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "index.html").write_text("x")
    check_manifest(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"01_a.png": 3}', '{"01_a.png": {"cell": "x"}}'])
def test_a_damaged_manifest_is_refused(folder, text):
    (folder / MANIFEST).write_text(text)
    with pytest.raises(ManifestError, match="delete it and run the notebooks again"):
        read_manifest(folder)


def test_measured_times_need_time_in_the_name(tmp_path):
    times = pd.DataFrame({"strategy": ["margin"], "query_s": [0.1]})
    report = Report(tmp_path, "01_x")
    with pytest.raises(ValueError, match=r"table 'acquisition' has the measured times \['query_s'\]"):
        report.table(times, "acquisition", cell="(d)", keys=[])
    assert not list(tmp_path.iterdir())
    report.table(times, "acquisition_time", cell="(d)", keys=[])
    assert json.loads((tmp_path / MANIFEST).read_text()).keys() == {"01_acquisition_time.csv", "01_acquisition_time.md"}


def test_the_committed_figures_and_their_manifest_agree(root):
    check_manifest(root / "figures" / "quick")


def test_columns_have_names_for_programs_and_headings_for_readers(tmp_path):
    table = pd.DataFrame(
        {"low (points)": [1.5], "low (points)_ci": [0.5], "published (%)": [60.0], "best at low": ["x"]}
    )
    shown = Report(tmp_path, "01_it").table(table, "leads", cell="(a)", keys=[])
    names = ["low_points", "low_points_ci", "published_percent", "best_at_low"]
    assert (tmp_path / "01_leads.csv").read_text().splitlines() == [",".join(names), "1.5,0.5,60.0,x"]
    words = ["low (points)", "±", "published (%)", "best at low"]
    assert read_manifest(tmp_path)["01_leads.csv"]["headings"] == words
    assert [cell.strip() for cell in shown.text.splitlines()[0].strip("|").split("|")] == words
