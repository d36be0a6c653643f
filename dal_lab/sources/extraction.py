"""Features of raw data, extracted once: in parts that survive an interruption, into a FeatureBank in the cache."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dal_core.checks import check_choice, check_whole
from dal_core.data import FeatureBank
from dal_core.devices import DEVICES, resolve_device
from dal_lab.runs.files import remove_leftovers, write_atomically
from dal_lab.runs.progress import progress
from dal_lab.sources.bank import load_bank, save_bank
from dal_lab.sources.encoders import Encoder, LoadedEncoder, load_encoder
from dal_lab.sources.raw import RawData, Split, UnreadableInstanceError
from dal_lab.sources.tables import training_scale

FORMAT = "dal_core.Features.1"  # of parts, and of the preprocessing that follows the model
PART_SIZE = 4096  # instances a file of features; what an interruption may cost
MOST_WORKERS = 8
# What decoders raise for a file that is cut off, empty, or no image or sound at all.
DECODING_ERRORS = (OSError, ValueError, SyntaxError, EOFError)


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

    device: str = "auto"
    batch_size: int = 128
    workers: int | None = None
    unreadable: str = "refuse"

    def __post_init__(self) -> None:
        check_choice("device", self.device, DEVICES)
        check_whole("batch_size", self.batch_size, 1)
        check_choice("unreadable", self.unreadable, ("refuse", "skip"))
        if self.workers is not None:
            check_whole("workers", self.workers, 0)

    def workers_for(self, kind: str) -> int:
        """Processes beside this one. Texts take none: their tokenizer has threads of its own."""
        if self.workers is not None:
            return self.workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return 0 if kind == "text" else min(MOST_WORKERS, cores)


@dataclasses.dataclass(frozen=True)
class Request:
    """Features of a data set through an encoder: what they depend on, and where they are kept.

    Args:
        dataset: its name.
        encoder, revision: the encoder, and what tells its files apart (`encoders.resolved_revision`).
        kind: of the instances.
        identity: what tells the data apart from other data of that name.
        folder: of the cache.
    """

    dataset: str
    encoder: Encoder
    revision: str
    kind: str
    identity: str
    folder: Path

    @cached_property
    def description(self) -> dict[str, Any]:
        """All that the features depend on, as JSON values."""
        return {
            "format": FORMAT,
            "dataset": self.dataset,
            "identity": self.identity,
            "encoder": self.encoder.described(self.kind),
            "revision": self.revision,
        }

    @cached_property
    def stem(self) -> str:
        """Of file names: readable words, and a digest of the description."""
        model = re.sub(r"[^A-Za-z0-9.]+", "-", self.encoder.model.rstrip("/").split("/")[-1])
        return f"{re.sub(r'[^A-Za-z0-9.]+', '-', self.dataset)}_{model}_{_digest(self.description)[:16]}"

    @property
    def path(self) -> Path:
        """Of the finished bank."""
        return self.folder / f"{self.stem}.safetensors"

    @property
    def parts(self) -> Path:
        """The folder of what is finished so far."""
        return self.folder / f"{self.stem}.parts"


def _digest(description: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def finished(request: Request) -> FeatureBank | None:
    """The bank in the cache, mapped from its file; None if there is none, with a warning if it is damaged."""
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
    """The bank in the cache, or a new one: encode what is missing, part by part, and put the parts together.

    A call that was interrupted goes on where it stopped. L2-normalised features are multiplied by sqrt(d), see
    `origins.tables.training_scale`. `fresh` forgets what is in the cache.

    Raises:
        UnreadableInstanceError: if an instance cannot be decoded and is not to be skipped.
        EncoderUnavailableError: if the model is not to be had.
    """
    request.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(request.folder / f"{request.stem}.lock"):  # another process may be at it
        remove_leftovers(request.folder)
        if fresh:
            request.path.unlink(missing_ok=True)
            shutil.rmtree(request.parts, ignore_errors=True)
        bank = finished(request)
        if bank is None:
            # Among the parts first: safetensors leaves nameless files when it is killed, which go with that folder.
            save_bank(_assemble(request, data, extraction), whole := request.parts / "whole.safetensors")
            whole.replace(request.path)
            shutil.rmtree(request.parts, ignore_errors=True)
            bank = load_bank(request.path)
    return bank


def _assemble(request: Request, data: RawData, extraction: Extraction) -> FeatureBank:
    device = resolve_device(extraction.device)
    encoder = _Lazy(lambda: load_encoder(request.encoder, data.kind, request.revision, device))
    splits = {name: getattr(data, name) for name in ("train", "test")}
    limit = _Limit(extraction.batch_size)
    found = {
        name: _SplitExtraction(request, data.kind, name, split, encoder, extraction, limit).features()
        for name, split in splits.items()
    }
    scale = training_scale(found["train"][0])
    labels = {name: torch.from_numpy(splits[name].labels)[kept] for name, (_, kept) in found.items()}
    skipped = {name: len(splits[name]) - len(kept) for name, (_, kept) in found.items()}
    return FeatureBank(
        found["train"][0].mul_(scale),
        labels["train"],
        found["test"][0].mul_(scale),
        labels["test"],
        data.class_names,
        {"source": request.dataset, "encoder": request.encoder.model, "scaling": f"multiplied by {scale:g}"}
        | {"skipped": skipped, "request": request.description},
    )


class _Lazy:
    """A model that is loaded when it is first needed, which it is not if all parts are there."""

    def __init__(self, load: Callable[[], LoadedEncoder]) -> None:
        self._load = load

    @cached_property
    def loaded(self) -> LoadedEncoder:
        return self._load()


@dataclasses.dataclass(frozen=True, eq=False)
class _SplitExtraction:
    """The features of one split."""

    request: Request
    kind: str
    name: str
    split: Split
    encoder: _Lazy
    extraction: Extraction
    limit: "_Limit"

    def features(self) -> tuple[Tensor, Tensor]:
        """Features [m, d] float32 and the positions [m] in the split that they belong to, ascending."""
        starts = range(0, len(self.split), PART_SIZE)
        missing = [start for start in starts if self._read(start) is None]
        if missing:
            self._encode(missing)
        features: Tensor | None = None
        kept: list[Tensor] = []
        for start in starts:  # written into one tensor, so that the features are in memory once
            part = self._read(start)
            assert part is not None, "a part that was written is there"
            if not len(part["kept"]):
                continue
            if features is None:
                features = part["features"].new_empty(len(self.split), part["features"].shape[1])
            end = sum(map(len, kept))
            features[end : end + len(part["kept"])] = part["features"]
            kept.append(part["kept"])
        if features is None:
            raise ValueError(
                f"dataset {self.request.dataset!r}: no instance of the {self.name} split can be decoded; "
                "at least one was expected"
            )
        return features[: sum(map(len, kept))], torch.cat(kept)

    def _path(self, start: int) -> Path:
        return self.request.parts / f"{self.name}-{start:09}.safetensors"

    def _description(self, start: int) -> str:
        about = {"split": self.name, "start": start, "size": len(self._positions(start))}
        how = {"unreadable": self.extraction.unreadable, "device": resolve_device(self.extraction.device).type}
        return _digest(self.request.description | about | how)

    def _positions(self, start: int) -> range:
        return range(start, min(start + PART_SIZE, len(self.split)))

    def _read(self, start: int) -> dict[str, Tensor] | None:
        """A finished part; None if there is none, or it is damaged or belongs to something else."""
        path = self._path(start)
        if not path.is_file():
            return None
        try:
            with safe_open(str(path), framework="pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in ("features", "kept")}
        except SafetensorError:
            return None
        wanted = {"description": self._description(start), "digest": _checksum(tensors)}
        return tensors if header == wanted else None

    def _write(self, start: int, positions: list[Tensor], features: list[Tensor]) -> None:
        kept = torch.cat(positions) if positions else torch.empty(0, dtype=torch.int64)
        rows = torch.cat(features).cpu() if features else torch.empty(0, 0)
        order = kept.argsort()
        tensors = {"features": rows[order], "kept": kept[order]}
        header = {"description": self._description(start), "digest": _checksum(tensors)}
        with write_atomically(self._path(start)) as temporary:
            save_file(tensors, temporary, metadata=header)

    def _encode(self, starts: Sequence[int]) -> None:
        """Encode the parts that begin at `starts` and write each as soon as it is done."""
        encoder = self.encoder.loaded
        batches = [batch for start in starts for batch in self._batches(start)]
        loader = DataLoader(
            _Readable(self.split),
            batch_sampler=batches,
            collate_fn=_Collation(encoder.prepare),
            num_workers=self.extraction.workers_for(self.kind),
            pin_memory=encoder.device.type == "cuda",
            generator=torch.Generator(),  # or the loader would draw from the global one
        )
        what = f"{self.request.dataset}, {self.name} split, with {Path(self.request.encoder.model).name}"
        done: dict[int, tuple[list[Tensor], list[Tensor]]] = {start: ([], []) for start in starts}
        count = dict.fromkeys(starts, 0)
        with progress(None, what, unit="instances", total=sum(len(batch) for batch in batches)) as bar:
            for batch, (positions, inputs, failures) in zip(batches, loader, strict=True):
                self._judge(failures)
                start = batch[0] - batch[0] % PART_SIZE
                if inputs is not None:
                    done[start][0].append(torch.tensor(positions))
                    # Features stay on the device until their part is whole, so that it never waits for the host.
                    done[start][1].extend(encoded(encoder, inputs, self.limit))
                count[start] += len(batch)
                if count[start] == len(self._positions(start)):
                    self._write(start, *done.pop(start))
                bar.update(len(batch))

    def _batches(self, start: int) -> list[list[int]]:
        """Positions of a part, batch by batch; texts by length, since all of a batch are padded to the longest."""
        positions = list(self._positions(start))
        if self.kind == "text":
            positions.sort(key=lambda i: len(self.split.instances[i]))
        size = self.extraction.batch_size
        return [positions[i : i + size] for i in range(0, len(positions), size)]

    def _judge(self, failures: list[tuple[int, str]]) -> None:
        for i, reason in failures:
            message = f"dataset {self.request.dataset!r}: {self.split.name(i)} cannot be decoded ({reason})"
            if self.extraction.unreadable == "refuse":
                raise UnreadableInstanceError(
                    f"{message}; repair or remove it, or leave such instances out with "
                    f"`python -m dal_lab features --unreadable skip`"
                )
            warnings.warn(f"{message}; it is left out", stacklevel=2)


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


class _Readable(Dataset):
    """Instances with their positions; one that cannot be decoded is the reason why."""

    def __init__(self, split: Split) -> None:
        self.instances = split.instances

    def __getitem__(self, i: int) -> tuple[int, Any, str | None]:
        try:
            return i, self.instances[i], None
        except DECODING_ERRORS as error:
            return i, None, f"{type(error).__name__}: {' '.join(str(error).split())}"


@dataclasses.dataclass(frozen=True)
class _Collation:
    """A batch from instances: positions and what the model takes (None if no instance could be read), and failures."""

    prepare: Callable[[list[Any]], dict[str, Tensor]]

    def __call__(
        self, read: list[tuple[int, Any, str | None]]
    ) -> tuple[list[int], dict[str, Tensor] | None, list[tuple[int, str]]]:
        whole = [(i, instance) for i, instance, reason in read if reason is None]
        failures = [(i, reason) for i, _, reason in read if reason is not None]
        inputs = self.prepare([instance for _, instance in whole]) if whole else None
        return [i for i, _ in whole], inputs, failures


@dataclasses.dataclass
class _Limit:
    """How many instances are encoded at a time; falls, and stays, when memory runs out."""

    size: int


def encoded(encoder: LoadedEncoder, inputs: dict[str, Tensor], limit: _Limit) -> Iterator[Tensor]:
    """Features of a batch, in pieces of at most `limit`, which is halved whenever memory runs out.

    Raises:
        RuntimeError: if memory does not suffice for a single instance.
    """
    start, size = 0, len(next(iter(inputs.values())))
    while start < size:
        piece = {name: each[start : start + limit.size] for name, each in inputs.items()}
        try:
            features = encoder.encode(piece)
        except RuntimeError as error:
            if not _out_of_memory(error) or limit.size == 1:
                raise
            limit.size = max(1, min(limit.size, size) // 2)
            warnings.warn(f"memory ran out; going on with {limit.size} instances at a time", stacklevel=2)
        else:
            start += limit.size
            yield features
            continue
        if encoder.device.type == "cuda":
            torch.cuda.empty_cache()  # outside of the except block, which keeps the failed call's tensors alive


def _out_of_memory(error: RuntimeError) -> bool:
    words = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in words or "not enough memory" in words
