"""The folder that `--prepare` writes: features as 8-bit integers with a scale a feature, Letter, images, an encoder."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.machine import MANIFEST
from benchmarks.gpu.settings import Settings
from dal_lab.runs.files import write_atomically, write_text

FEATURES, IMAGES, ENCODER = "features", "images.zip", "encoder"
LETTER = "letter-recognition.data"
LARGEST = 127  # of the 8-bit integers, which are symmetric
SPLITS = ("train", "test")

Arrays = dict[str, Any]  # of NumPy, by name


def quantised(arrays: Arrays) -> Arrays:
    """Features x_train, x_test [n, d] as 8-bit integers with the `scale` [d] that gives them back; the rest stays.

    The scale of a feature is its largest size on both splits over 127, so that nothing is cut off. Rounding is off by
    at most half of it.
    """
    largest = np.maximum(*(np.abs(arrays[f"x_{split}"].astype(np.float32)).max(axis=0) for split in SPLITS))
    scale = np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)
    rounded = {f"x_{split}": np.rint(arrays[f"x_{split}"].astype(np.float32) / scale) for split in SPLITS}
    return arrays | {name: each.astype(np.int8) for name, each in rounded.items()} | {"scale": scale}


def restored(arrays: Arrays) -> Arrays:
    """Return what `quantised` was given, in float32 and up to rounding."""
    features = {f"x_{split}": arrays[f"x_{split}"].astype(np.float32) * arrays["scale"] for split in SPLITS}
    return {name: each for name, each in arrays.items() if name != "scale"} | features


def read_arrays(path: Path) -> Arrays:
    """Return the arrays in an archive; nothing is unpickled."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def write_arrays(path: Path, arrays: Arrays, *, packed: bool) -> None:
    """Write an archive, compressed or as it is."""
    with write_atomically(path) as temporary, open(temporary, "wb") as file:
        (np.savez_compressed if packed else np.savez)(file, **arrays)


def data_folder(settings: Settings) -> Path:
    """Return a folder as `--data-dir` takes it, with what there is of the inputs; unpacked once a command."""
    folder = settings.work / "data"
    ready = folder / "ready.json"
    if ready.is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    there = []
    if (letter := settings.given(LETTER)) is not None:
        write_text(folder / LETTER, letter.read_text(encoding="utf-8"))
        there.append("letter")
    for path in sorted((settings.given(FEATURES) or folder / "nothing").glob("*.npz")):
        write_arrays(folder / path.name, restored(read_arrays(path)), packed=False)
        there.append(path.stem)
    write_text(ready, json.dumps(there))
    return folder


def names_of(settings: Settings) -> list[str]:
    """Return the data sets in `data_folder`: "letter", and features as `<dataset>_<encoder>`."""
    return list(json.loads((data_folder(settings) / "ready.json").read_text(encoding="utf-8")))


def manifest(settings: Settings) -> dict[str, Any]:
    """Return what `--prepare` wrote down about the folder; empty where it is not there."""
    path = settings.given(MANIFEST)
    return {} if path is None else dict(json.loads(path.read_text(encoding="utf-8")))
