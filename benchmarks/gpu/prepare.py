"""`--prepare`: what a machine with a GPU and no network needs, in a folder of at most 32 MB, and what it cost."""

import io
import json
import os
import shutil
import sys
import time
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.inputs import (
    ENCODER,
    FEATURES,
    IMAGES,
    LETTER,
    SPLITS,
    Arrays,
    quantised,
    read_arrays,
    restored,
    write_arrays,
)
from benchmarks.gpu.machine import MANIFEST
from benchmarks.gpu.protocols import IMAGES as IMAGE_SETS
from benchmarks.gpu.protocols import TEXTS
from dal_lab.runs.files import write_atomically, write_text
from dal_lab.runs.provenance import git_commit

LARGEST_FOLDER = 32e6  # bytes
MOST_IMAGES, MADE_UP_IMAGES = 3000, 1000
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg")
SIDE = 32  # pixels of images that are made up
MOST_TRAINED = 20_000  # instances of the logistic regression: all of what there is today
GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"


def prepare(folder: Path, *, data_dir: Path | None = None, encoder: Path | None = None) -> int:
    """Write the inputs into `folder`, say what they are and weigh, and return the exit code: 1 if they weigh too much.

    Whatever is not at hand is left out and named. `data_dir` (default: the variable DAL_DATA) holds Letter, features
    as `<dataset>_<encoder>.npz`, and images as `images/<name>/train/<class>/*`; `encoder` is a local model folder.
    """
    start = time.monotonic()
    if data_dir is None and os.environ.get("DAL_DATA"):
        data_dir = Path(os.environ["DAL_DATA"])
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        print(f"prepare is {folder}, a folder with other files; an empty one was expected", file=sys.stderr)
        return 2
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    about: dict[str, Any] = {"commit": git_commit(), "written": datetime.now(UTC).isoformat(timespec="seconds")}
    about |= {"left_out": [], "accuracy": {}}
    _features(folder, data_dir, about)
    _copy_letter(folder, data_dir, about)
    _golden(folder)
    _images(folder, data_dir, about)
    _encoder(folder, encoder, about)
    about["bytes"] = {str(path.relative_to(folder)): path.stat().st_size for path in _files(folder)}
    total = sum(path.stat().st_size for path in _files(folder))
    about |= {"total_bytes": total, "files": len(_files(folder)), "seconds": round(time.monotonic() - start, 1)}
    write_text(folder / MANIFEST, _json(about))
    print(_json({name: about[name] for name in ("left_out", "accuracy", "images", "total_bytes", "seconds")}), end="")
    if total > LARGEST_FOLDER:
        print(f"{folder} has {total:,} bytes; at most {LARGEST_FOLDER:,.0f} were expected", file=sys.stderr)
        return 1
    return 0


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=1) + "\n"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _features(folder: Path, data_dir: Path | None, about: dict[str, Any]) -> None:
    """Features of texts, and of images where somebody has extracted them, in eight bits."""
    wanted = [*(f"{name}_minilm" for name in TEXTS)]
    found = {path.stem: path for path in ([] if data_dir is None else data_dir.glob("*.npz"))}
    wanted += [stem for stem in sorted(found) if stem.partition("_")[0] in IMAGE_SETS]
    for stem in wanted:
        if stem not in found:
            about["left_out"].append(f"features {stem}: no {stem}.npz in the data folder")
            continue
        arrays = read_arrays(found[stem])
        packed = quantised(arrays)
        write_arrays(folder / FEATURES / f"{stem}.npz", packed, packed=True)
        about["accuracy"][stem] = accuracy_lost(arrays, restored(packed))


def accuracy_lost(arrays: Arrays, again: Arrays) -> dict[str, float]:
    """Test accuracy in percent of a logistic regression on the features as they were and as they are restored.

    Both on the same instances, multiplied by the root of the number of features where they have length 1, as the
    package trains on them.
    """
    rows = np.random.default_rng(0).permutation(len(arrays["x_train"]))[:MOST_TRAINED]
    before, after = (_accuracy(each, rows) for each in (arrays, again))
    error = max(float(np.abs(arrays[f"x_{s}"].astype(np.float32) - again[f"x_{s}"]).max()) for s in SPLITS)
    changed = {"largest_error": error, "trained_on": len(rows)}
    return {"before": before, "after": after, "lost_points": round(before - after, 4)} | changed


def _accuracy(arrays: Arrays, rows: np.ndarray) -> float:
    from sklearn.linear_model import LogisticRegression

    scale = np.sqrt(arrays["x_train"].shape[1])
    train, test = (arrays[f"x_{split}"].astype(np.float32) * scale for split in SPLITS)
    model = LogisticRegression(C=0.1, max_iter=200)
    model.fit(train[rows], arrays["y_train"][rows])
    return round(100 * float(model.score(test, arrays["y_test"])), 3)


def _copy_letter(folder: Path, data_dir: Path | None, about: dict[str, Any]) -> None:
    source = None if data_dir is None else data_dir / LETTER
    if source is None or not source.is_file():
        about["left_out"].append(f"Letter: no {LETTER} in the data folder")
        return
    write_text(folder / LETTER, source.read_text(encoding="utf-8"))


def _golden(folder: Path) -> None:
    """Return the vectors of the tests, so that they are there even where the tree travels without them."""
    (folder / "golden").mkdir()
    for path in sorted(GOLDEN.glob("*.npz")):
        shutil.copyfile(path, folder / "golden" / path.name)


def _images(folder: Path, data_dir: Path | None, about: dict[str, Any]) -> None:
    """Return a few thousand image files, or made-up ones where there are none: how they are decoded takes its time."""
    places = [] if data_dir is None else [path for path in (data_dir / "images").glob("*/train") if path.is_dir()]
    for place in sorted(places):
        chosen = _in_turn([sorted(_of_images(each)) for each in sorted(place.iterdir()) if each.is_dir()], MOST_IMAGES)
        if chosen:
            _pack(folder, [(path.suffix.lower(), path.read_bytes()) for path in chosen])
            about["images"] = f"{len(chosen)} of the train split of {place.parent.name}"
            return
    about["left_out"].append("images: no folder images/<name>/train in the data folder; they are made up")
    about["images"] = f"{MADE_UP_IMAGES} made up, smooth noise of {SIDE} x {SIDE} pixels"
    _pack(folder, [(".jpg", _made_up(i)) for i in range(MADE_UP_IMAGES)])


def _pack(folder: Path, images: Sequence[tuple[str, bytes]]) -> None:
    """Write endings and contents of image files as one archive: thousands of files take long to copy."""
    with write_atomically(folder / IMAGES) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for i, (ending, content) in enumerate(images):
            archive.writestr(f"{i:05}{ending}", content)


def _of_images(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_ENDINGS]


def _in_turn(classes: Sequence[Sequence[Path]], most: int) -> list[Path]:
    """Return the first of each class, then the second of each, until there are enough."""
    longest = max(map(len, classes), default=0)
    return [each[i] for i in range(longest) for each in classes if i < len(each)][:most]


def _made_up(seed: int) -> bytes:
    """Return an image that compresses about as a photograph does: noise that is smooth."""
    from PIL import Image

    small = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
    return file.getvalue()


def _encoder(folder: Path, encoder: Path | None, about: dict[str, Any]) -> None:
    """Return the files of an image encoder, if one was named and it fits."""
    if encoder is None:
        about["left_out"].append("encoder: none was named with --encoder")
        return
    files = [path for path in sorted(encoder.iterdir()) if path.is_file()]
    size = sum(path.stat().st_size for path in [*files, *_files(folder)])
    if size > LARGEST_FOLDER:
        about["left_out"].append(
            f"encoder: with {encoder.name} the folder would have {size:,} bytes; copy it to {ENCODER}/ where the GPU is"
        )
        return
    (folder / ENCODER).mkdir()
    for path in files:
        shutil.copyfile(path, folder / ENCODER / path.name)
    about["encoder"] = encoder.name
