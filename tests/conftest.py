"""Shared fixtures; shapes and types of the package's public functions are checked while tests run."""

import gc
import importlib.util
import os
from pathlib import Path

import jaxtyping
from jaxtyping import install_import_hook

# Before anything of dal_core is imported. Users do not pay for these checks, which see private functions, too. A
# machine that is borrowed for its GPU may lack beartype: the tests run there without them.
with install_import_hook(
    ("dal_core", "dal_lab"), "typechecker.typechecked" if importlib.util.find_spec("beartype") else None
):
    # Threads that wait for each other sleep: spinning takes 50 times as long where the cores are busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import dal_lab.studies.updating

import numpy as np
import pytest
import torch

import dal_lab.runs.grid

os.environ["DAL_PROGRESS"] = "plain"
torch.set_num_threads(1)  # the tests' tensors are tiny: more threads only wait for each other
ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(os.environ.get("DAL_GOLDEN", Path(__file__).parent / "golden"))
SHARED = ROOT.parent / "shared"


def pytest_collection_finish() -> None:
    """Keep what is imported and collected, thousands of tests, out of garbage collections."""
    gc.freeze()


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the project's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return a folder with the publishers' data files, which only some machines have."""
    folder = Path(os.environ.get("DAL_DATA", SHARED / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data sets in {folder}; name a folder with DAL_DATA")
    return folder


@pytest.fixture(scope="session")
def golden() -> dict[str, torch.Tensor]:
    """Inputs and expected outputs in float64 on scikit-learn's digits."""
    with np.load(GOLDEN / "digits_seed0.npz") as archive:
        return {name: torch.from_numpy(np.asarray(archive[name])) for name in archive.files}


@pytest.fixture
def computed(monkeypatch):
    """Names the runs that are computed in this process."""
    calls, compute = [], dal_lab.runs.grid.compute

    def counting(group, *arguments):
        for study in group.values():
            strategy = getattr(study, "strategy", type(study).__name__)
            calls.append((getattr(strategy, "name", strategy), study.seed))
        return compute(group, *arguments)

    monkeypatch.setattr(dal_lab.runs.grid, "compute", counting)
    return calls


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory) -> Path:
    """Return a folder with a small model of each family of encoders: bert, ast and models.IMAGE_MODELS."""
    pytest.importorskip("transformers")
    from models import IMAGE_MODELS, save_audio_model, save_image_model, save_text_model

    place = tmp_path_factory.mktemp("models")
    save_text_model(place / "bert")
    save_audio_model(place / "ast")
    for family in IMAGE_MODELS:
        save_image_model(family, place / family)
    return place


@pytest.fixture
def fresh_cache(monkeypatch, tmp_path):
    """Yield an empty cache folder, and nothing kept from other tests."""
    from dal_lab.sources import catalogue, feature_files

    monkeypatch.setenv("DAL_CACHE", str(tmp_path / "cache"))
    for kept in (catalogue._load, feature_files._cached):
        kept.cache_clear()
    yield
    for kept in (catalogue._load, feature_files._cached):
        kept.cache_clear()


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def unchecked():
    """As users run the package: without the checks of shapes and types that pytest adds, which answer first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
