"""What the command for a GPU takes along and brings back: features in eight bits, pictures, the page of results."""

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu import encoding, figures, inputs, prepare, results, runs
from benchmarks.gpu.papermilled import PACKAGES
from benchmarks.gpu.settings import Settings
from dal_lab.runs.settings import experiment_of
from dal_lab.runs.study import run


@pytest.fixture
def here(tmp_path):
    """Settings on the CPU with a minute to go."""
    for name in ("out", "work"):
        (tmp_path / name).mkdir()
    return Settings("cpu", None, tmp_path / "out", tmp_path / "work", time.monotonic() + 60, scaled_down=True)


# --- inputs


def some_features(n=60, d=24):
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(3, d))
    labels = np.arange(n) % 3
    features = centres[labels] + 0.5 * draw.normal(size=(n, d))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    features[:, 4] = 0
    half = n // 2
    return {
        "x_train": features[:half].astype(np.float16), "y_train": labels[:half],
        "x_test": features[half:].astype(np.float16), "y_test": labels[half:], "classes": np.array(["a", "b", "c"]),
    }  # fmt: skip


def test_features_in_eight_bits_are_off_by_at_most_half_a_step():
    arrays = some_features()
    packed = inputs.quantised(arrays)
    assert packed["x_train"].dtype == np.int8
    again = inputs.restored(packed)
    assert set(again) == set(arrays)
    for split in ("train", "test"):
        error = np.abs(again[f"x_{split}"] - arrays[f"x_{split}"].astype(np.float32))
        assert (error <= packed["scale"] / 2 * (1 + 1e-5)).all()
        assert (again[f"x_{split}"][:, 4] == 0).all()
        assert (again[f"y_{split}"] == arrays[f"y_{split}"]).all()
    assert max(np.abs(packed[f"x_{split}"]).max() for split in ("train", "test")) == 127


def test_prepared_inputs_are_found_and_run_on(here, tmp_path, capsys, monkeypatch):
    data, folder = tmp_path / "data", tmp_path / "inputs"
    data.mkdir()
    np.savez(data / "banking77_minilm.npz", **some_features())
    monkeypatch.setattr(prepare, "MADE_UP_IMAGES", 5)
    assert prepare.prepare(folder, data_dir=data) == 0
    about = json.loads((folder / "prepared.json").read_text())
    assert about["total_bytes"] < prepare.LARGEST_FOLDER
    assert about["accuracy"]["banking77_minilm"]["lost_points"] == pytest.approx(0, abs=5)
    assert "5 made up" in about["images"]
    images = encoding._image_files(dataclasses.replace(here, inputs=folder))
    assert len(set(images)) == 5
    assert encoding._Files(images)[4].size == (32, 32)
    assert any("clinc150" in line for line in about["left_out"])
    assert any("Letter" in line for line in about["left_out"])
    with_inputs = dataclasses.replace(here, inputs=folder)
    assert inputs.names_of(with_inputs) == ["banking77_minilm"]
    study = experiment_of(dataset="banking77", encoder="minilm", initial_size=5, batch_size=5, cycles=1, device="cpu",
                       subset_size=None, options={"epochs": 50})  # fmt: skip
    rows = run(study, data_dir=inputs.data_folder(with_inputs))
    assert rows["n_labeled"].tolist() == [5, 10]
    titles = [item.name for item in runs.items(with_inputs)]
    assert "seed 0, boss, banking77 (minilm), boss" in titles
    assert not any("clinc150" in title or "letter" in title for title in titles)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert prepare.prepare(tmp_path / "mine") == 2
    assert "a folder with other files; an empty one was expected" in capsys.readouterr().err


def test_packages_of_the_notebooks_are_named_once():
    assert len(set(PACKAGES)) == len(PACKAGES)
    assert {"papermill", "nbclient", "ipykernel", "pyzmq", "tornado"} <= set(PACKAGES)


# --- pictures and the page


def test_pictures_are_drawn_of_what_is_there_and_none_of_nothing(tmp_path):
    curve = {"n_labeled": [10, 20], "accuracy": [0.5, 0.6]}
    run_item = {"status": "done", "grid": "boss", "method": "margin", "curve": curve}
    steps = [{"instances": 10, "median_s": 0.1}, {"instances": 20, "median_s": 0.2}]
    sections = {
        "times": {"items": {
            "case badge": {"status": "done", "times_faster": 3.0}, "case sas": {"status": "failed", "line": "no"},
            "BADGE, ImageNet's size": {"status": "done", "steps": steps},
        }},
        "runs": {"items": {f"seed {seed}, boss, digits, margin": run_item for seed in (0, 1)}},
    }  # fmt: skip
    for name, draw in figures.DRAWINGS.items():
        draw({}, tmp_path / name)
        assert not (tmp_path / name).exists()
        draw(sections, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_the_page_says_that_nothing_was_measured_or_what_was(tmp_path, monkeypatch, capsys):
    assert "Nothing has been measured on a GPU yet" in results.page([])
    steps = [{"instances": 9000, "median_s": 2.5}]
    values = {
        "started": "2026-01-02T03:04:05+00:00", "asked_for": {"device": "cuda"}, "seconds": 470,
        "machine": {
            "commit": "abc", "python": "3.12.3",
            "packages": {"torch": "2.11.0", "transformers": "5.17.0", "numpy": "2.5.2"},
            "cores": 16, "processor": "a processor", "card": {"name": "A Card 80GB", "cuda": "13.0"},
        },
        "sections": {
            "what_is_there": {"items": {"tests": {
                "status": "done", "counts": {"passed": 3, "failed": 1}, "failed": ["test_x[a]"],
            }}},
            "times": {"items": {
                "case badge": {
                    "status": "done", "size": "n=5", "cpu": {"median_s": 0.4},
                    "device": {"median_s": 0.1, "peak_bytes": 2e9},
                },
                "case sas": {"status": "out of time", "line": "not done after 9 s"},
                "BADGE, ImageNet's size": {"status": "done", "line": "the whole pool", "steps": steps},
            }},
            "runs": {"items": {"the same grid again": {
                "status": "done", "largest_spread": 0.012, "mean_spread": 0.001, "largest_difference_to_cpu": 0.02,
                "mean_difference_to_cpu": 0.002, "same_batches_each_time": 0.75, "repeats": 3,
            }}},
        },
    }  # fmt: skip
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(results, "PAGE", tmp_path / "RESULTS.md")
    (tmp_path / "gpu.json").write_text(json.dumps(values))
    assert results.main([str(tmp_path / "gpu.json")]) == 0
    assert json.loads((tmp_path / "results" / "gpu-a-card-80gb.json").read_text()) == values
    text = (tmp_path / "RESULTS.md").read_text()
    assert "### A Card 80GB\n\n2026-01-02, commit abc, Python 3.12.3, torch 2.11.0" in text
    assert "Tests marked `cuda`: 3 passed, 1 failed. Failed: `test_x[a]`." in text
    assert "differ by at most 1.20 points (mean 0.10), and from the CPU's by at most 2.00 (mean 0.20)" in text
    assert "| case badge | n=5    | 100 ms | 400 ms        | 4x             | 2 GB" in text
    assert "- BADGE, ImageNet's size: 9,000 in 2.5 s; the whole pool." in text
    assert "- times, case sas: out of time: not done after 9 s" in text
    (tmp_path / "cpu.json").write_text(json.dumps(values | {"asked_for": {"device": "cpu"}}))
    assert results.main([str(tmp_path / "cpu.json")]) == 2
    assert "is of the device 'cpu'; 'cuda' was expected" in capsys.readouterr().err


def test_the_committed_page_is_that_of_the_committed_results():
    values = [json.loads(path.read_text()) for path in sorted(results.FOLDER.glob("gpu-*.json"))]
    assert Path(results.PAGE).read_text().endswith(results.page(values) + "\n")
