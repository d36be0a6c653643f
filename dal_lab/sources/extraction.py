"""Features of raw data, extracted once: in parts that survive an interruption, into a FeatureBank in the cache."""

import dataclasses
import functools
import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import joblib
import safetensors.torch
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import DataLoader

from dal_core.contracts import Count, Size, check_fields
from dal_core.data import FeatureBank
from dal_core.devices import resolve_device
from dal_lab.runs.files import remove_leftovers, write_atomically
from dal_lab.runs.progress import progress
from dal_lab.sources.bank import load_bank, save_bank, training_scale
from dal_lab.sources.encoders import Encoder, LoadedEncoder, load_encoder
from dal_lab.sources.raw import RawData, Split, UnreadableInstanceError

FORMAT = "dal_core.Features.1"  # The format of parts, and of the preprocessing that follows the model.
PART_SIZE = 4096  # Instances in a file of features: what an interruption may cost.
MOST_WORKERS = 8
WAY_OUT = "repair or remove it (`dal features --unreadable skip` leaves such instances out)"


@dataclasses.dataclass(frozen=True)
class Extraction:
    """How features are extracted; none of this changes them, but for rounding.

    Args:
        device: where the model computes, as in `devices.resolve_device`.
        batch_size: instances at a time; halved when memory runs out.
        workers: processes that read and prepare instances; None: one a core for images and sounds, at most 8.
        unreadable: what to do about an instance that cannot be decoded: "refuse", or "skip" and count it.

    Raises:
        ValueError: on anything out of range.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    batch_size: Count = 128
    workers: Size | None = None
    unreadable: Literal["refuse", "skip"] = "refuse"

    def __post_init__(self) -> None:
        check_fields(self)

    def workers_for(self, kind: str) -> int:
        """Return the number of processes beside this one. Texts take none: their tokenizer has threads of its own."""
        if self.workers is not None:
            return self.workers
        return 0 if kind == "text" else min(MOST_WORKERS, joblib.cpu_count())


@dataclasses.dataclass(frozen=True)
class Request:
    """Features of a data set through an encoder: what they depend on, and where they are kept."""

    dataset: str
    encoder: Encoder
    revision: str  # identifies the encoder's files (`encoders.resolved_revision`)
    kind: str
    identity: str  # identifies the data among others of that name (`Source.identity`)
    folder: Path

    @cached_property
    def description(self) -> dict[str, Any]:
        """Return all that the features depend on, as JSON values."""
        return {
            "format": FORMAT,
            "dataset": self.dataset,
            "identity": self.identity,
            "encoder": self.encoder.described(self.kind),
            "revision": self.revision,
        }

    @cached_property
    def path(self) -> Path:
        """Return the path of the finished bank: data set and model in words, and a digest of the description."""
        model = self.encoder.model.rstrip("/").split("/")[-1]
        model += f"-{self.encoder.image_size}" if self.encoder.image_size else ""
        words = (self.dataset, model, _digest(self.description)[:16])
        return self.folder / f"{'_'.join(re.sub(r'[^A-Za-z0-9.]+', '-', word) for word in words)}.safetensors"

    @property
    def parts(self) -> Path:
        """Return the folder of what is finished so far."""
        return self.path.with_suffix(".parts")


def _digest(description: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def finished(request: Request) -> FeatureBank | None:
    """Return the bank in the cache, mapped from its file; None if there is none, with a warning if it is damaged."""
    if not request.path.is_file():
        return None
    try:
        bank = load_bank(request.path)
        if (found := bank.provenance.get("request")) != request.description:
            raise ValueError(f"it holds features of {found}")
    except ValueError as error:
        warnings.warn(f"{request.path} is not used, and will be computed anew: {error}", stacklevel=2)
        return None
    return bank


def extracted(request: Request, data: RawData, extraction: Extraction, *, fresh: bool = False) -> FeatureBank:
    """Return the bank in the cache, or a new one: encode what is missing, part by part, and put the parts together.

    A call that was interrupted goes on where it stopped. L2-normalised features are multiplied by sqrt(d), see
    `bank.training_scale`, unless the encoder leaves them at length 1. `fresh` forgets what is in the cache.

    Raises:
        UnreadableInstanceError: if an instance cannot be decoded and is not to be skipped.
        EncoderUnavailableError: if the model is not available.
    """
    request.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(request.path.with_suffix(".lock")):  # another process may be at it
        remove_leftovers(request.folder)
        if fresh:
            request.path.unlink(missing_ok=True)
            shutil.rmtree(request.parts, ignore_errors=True)
        if (bank := finished(request)) is None:
            # Among the parts first: safetensors leaves nameless files when it is killed, which go with that folder.
            save_bank(_Extractor(request, data, extraction).bank(), whole := request.parts / "whole.safetensors")
            whole.replace(request.path)
            shutil.rmtree(request.parts, ignore_errors=True)
            bank = load_bank(request.path)
    return bank


def encoded(request: Request, split: Split, extraction: Extraction) -> Tensor:
    """Return the features of one split as the model makes them; its parts stay, in `request.parts`.  [n, d] float32"""
    return _Extractor(request, RawData(request.kind, split, split, ()), extraction).features("train")[0]


@dataclasses.dataclass(frozen=True)
class _Part:
    """A file with the features of consecutive instances of a split, and of what depends on the extraction a digest."""

    path: Path
    positions: range
    description: str

    def read(self) -> dict[str, Tensor] | None:
        """Return `features` and `kept`, mapped from the file; None without a file, or if it is damaged or foreign."""
        if not self.path.is_file():
            return None
        try:
            with safe_open(str(self.path), framework="pt") as file:
                header, tensors = file.metadata(), {name: file.get_tensor(name) for name in ("features", "kept")}
        except SafetensorError:
            return None
        return tensors if header == self._header(tensors) else None

    def write(self, positions: Sequence[int], features: Sequence[Tensor]) -> None:
        """Keep the features, in the order of the positions in the split that they belong to."""
        kept = torch.tensor(positions, dtype=torch.int64)
        order = kept.argsort()
        rows = torch.cat(list(features)).cpu() if features else torch.empty(0, 0)
        tensors = {"features": rows[order], "kept": kept[order]}
        with write_atomically(self.path) as temporary:
            safetensors.torch.save_file(tensors, temporary, metadata=self._header(tensors))

    def _header(self, tensors: dict[str, Tensor]) -> dict[str, str]:
        digest = hashlib.sha256(safetensors.torch.save(tensors)).hexdigest()
        return {"description": self.description, "digest": digest}


class _Extractor:
    """Computes the features of one data set; the model is loaded if a part is missing, and not before."""

    def __init__(self, request: Request, data: RawData, extraction: Extraction) -> None:
        self.request, self.data, self.extraction = request, data, extraction
        self.device = resolve_device(extraction.device)
        self.limit = extraction.batch_size  # Instances encoded at a time: it falls, and stays, when memory runs out.

    @cached_property
    def encoder(self) -> LoadedEncoder:
        return load_encoder(self.request.encoder, self.data.kind, self.request.revision, self.device)

    def bank(self) -> FeatureBank:
        train, kept = self.features("train")
        test, test_kept = self.features("test")
        scale = 1.0 if self.request.encoder.unit_length else training_scale(train)
        labels, test_labels = (torch.from_numpy(split.labels) for split in (self.data.train, self.data.test))
        provenance = {
            "source": self.request.dataset,
            "encoder": self.request.encoder.model,
            "scaling": f"multiplied by {scale:g}",
            "skipped": {"train": len(labels) - len(kept), "test": len(test_labels) - len(test_kept)},
            "request": self.request.description,
        }
        names = self.data.class_names
        return FeatureBank(train.mul_(scale), labels[kept], test.mul_(scale), test_labels[test_kept], names, provenance)

    def features(self, name: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
        """Return features [m, d] float32 and the positions [m] in the split that they belong to, ascending."""
        split, parts = getattr(self.data, name), []
        for start in range(0, len(split), PART_SIZE):
            positions = range(start, min(start + PART_SIZE, len(split)))
            about = {"split": name, "start": start, "size": len(positions)}
            how = {"unreadable": self.extraction.unreadable, "device": self.device.type}
            path = self.request.parts / f"{name}-{start:09}.safetensors"
            parts.append(_Part(path, positions, _digest(self.request.description | about | how)))
        if missing := [part for part in parts if part.read() is None]:
            self._encode(name, split, missing)
        # Parts are mapped from their files, so that the features are in memory once.
        found = [tensors for part in parts if (tensors := part.read()) is not None and len(tensors["kept"])]
        if not found:
            raise ValueError(
                f"dataset {self.request.dataset!r}: no instance of the {name} split can be decoded; "
                "at least one was expected"
            )
        return torch.cat([each["features"] for each in found]), torch.cat([each["kept"] for each in found])

    def _encode(self, name: str, split: Split, parts: Sequence[_Part]) -> None:
        """Encode the instances of the parts and write each part as soon as it is done."""
        size, batches = self.extraction.batch_size, []
        for part in parts:
            positions = list(part.positions)
            if self.data.kind == "text":  # All texts of a batch are padded to the longest.
                positions.sort(key=lambda i: len(split.instances[i]))
            batches.append([positions[i : i + size] for i in range(0, len(positions), size)])
        positions_alone: Any = range(len(split))  # The loader's processes read the instances, in `_read`.
        loaded = iter(
            DataLoader(
                positions_alone,
                batch_sampler=[batch for of_part in batches for batch in of_part],
                collate_fn=functools.partial(_read, split.instances, self.encoder.prepare),
                num_workers=self.extraction.workers_for(self.data.kind),
                pin_memory=self.device.type == "cuda",
                generator=torch.Generator(),  # Without one, the loader draws from the global generator.
            )
        )
        what = f"{self.request.dataset}, {name} split, with {Path(self.request.encoder.model).name}"
        with progress(None, what, unit="instances", total=sum(len(part.positions) for part in parts)) as bar:
            for part, of_part in zip(parts, batches, strict=True):
                kept: list[int] = []
                features: list[Tensor] = []  # They stay on the device until the part is whole: no wait for the host.
                for batch in of_part:
                    decoded, inputs, failures = next(loaded)
                    for i, reason in failures:
                        message = f"dataset {self.request.dataset!r}: {split.name(i)} cannot be decoded ({reason})"
                        if self.extraction.unreadable == "refuse":
                            raise UnreadableInstanceError(f"{message}; {WAY_OUT}")
                        warnings.warn(f"{message}; it is left out", stacklevel=2)
                    kept += decoded
                    features += self._encoded(inputs) if decoded else []
                    bar.update(len(batch))
                part.write(kept, features)

    def _encoded(self, inputs: dict[str, Tensor]) -> Iterator[Tensor]:
        """Yield the features of a batch in pieces, which are halved whenever memory runs out, down to one instance."""
        start, size = 0, len(next(iter(inputs.values())))
        while start < size:
            try:
                features = self.encoder.encode({key: each[start : start + self.limit] for key, each in inputs.items()})
            except RuntimeError as error:  # Lack of memory has a class of its own on CUDA alone.
                if not re.search("out of memory|not enough memory", str(error), re.IGNORECASE) or self.limit == 1:
                    raise
                self.limit = max(1, min(self.limit, size) // 2)
                warnings.warn(f"memory ran out; going on with {self.limit} instances at a time", stacklevel=2)
            else:
                start += self.limit
                yield features


def _read(
    instances: Sequence[Any], prepare: Callable[[list[Any]], dict[str, Tensor]], positions: Sequence[int]
) -> tuple[list[int], dict[str, Tensor], list[tuple[int, str]]]:
    """Return those positions whose instances can be decoded, what the model takes of them, and why others cannot."""
    read, failures = {}, []
    for i in positions:
        try:
            read[i] = instances[i]
        except Exception as error:  # Decoders raise many kinds for a file that is cut off, empty, huge or no image.
            failures.append((i, f"{type(error).__name__}: {' '.join(str(error).split())}"))
    return list(read), prepare(list(read.values())) if read else {}, failures
