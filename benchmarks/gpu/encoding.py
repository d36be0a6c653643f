"""Section 4: images and texts a second, and the share of the card's peak that this is."""

import functools
import io
import math
import time
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.inputs import ENCODER, IMAGES, manifest
from benchmarks.gpu.machine import version
from benchmarks.gpu.settings import Item, Result, Settings, Skipped
from benchmarks.rates import fastest
from dal_core.loop import now
from dal_lab.sources.encoders import Encoder, LoadedEncoder, load_encoder, resolved_revision
from dal_lab.sources.extraction import Extraction, Request, extracted
from dal_lab.sources.raw import RawData, Split

PIXELS, CHANNELS = 224, 3
BATCHES = {"cuda": (64, 256, 1024), "cpu": (1,)}  # instances at a time
TOKENS = (16, 64, 256)  # of a question, a sentence or two, and the longest text that MiniLM takes
SIDE = {"cuda": 8192, "cpu": 1024}  # of the matrices whose product is the ceiling
FEW_IMAGES = 16  # of a CPU
MADE_UP = "random weights: they take the same time"


def items(settings: Settings) -> list[Item]:
    """Return the measurements of this section."""
    del settings
    return [
        Item("ceilings", ceilings, 0.5),
        Item("vision transformer of DINOv2-small's shape", vision_transformer, 3.0, may_take=0.4),
        Item("image encoder of the inputs", image_encoder, 3.0, may_take=0.4),
        Item("image encoder of the inputs, from files to features", from_files, 3.0, may_take=0.5),
        Item("MiniLM", text_encoder, 2.0, may_take=0.5),
    ]


def ceilings(settings: Settings) -> Result:
    """Measure operations a second of a large product of matrices, in what models compute in."""
    return {"operations_s": {name: _ceiling(settings.device, name) for name in ("float32", "bfloat16")}}


@functools.cache
def _ceiling(device: str, dtype: str) -> float:
    side = SIDE[device]
    one = torch.randn(side, side, device=device).to(getattr(torch, dtype))
    return 2 * side**3 / fastest(functools.partial(torch.mm, one, one), torch.device(device), 3)


def vision_transformer(settings: Settings) -> Result:
    """Measure a vision transformer with the sizes of DINOv2-small, whose weights are random, on random images."""
    transformers = _transformers()
    config = transformers.Dinov2Config(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, patch_size=14, image_size=518
    )
    encoder = _encoder(transformers.Dinov2Model(config), "cls", settings)
    return _images_a_second(encoder, settings) | {"weights": MADE_UP}


def image_encoder(settings: Settings) -> Result:
    """Measure the encoder among the inputs on random images."""
    return _images_a_second(_given_encoder(settings), settings)


def _images_a_second(encoder: LoadedEncoder, settings: Settings) -> Result:
    ways: dict[str, Any] = {}
    for batch in BATCHES[settings.device]:
        images = torch.randn(batch, CHANNELS, PIXELS, PIXELS, device=settings.where)
        ways[str(batch)] = _rates(encoder, {"pixel_values": images}, settings)
    return {"pixels": PIXELS, "by_batch": ways, "computes_in": str(encoder.precision)}


def _rates(encoder: LoadedEncoder, inputs: dict[str, torch.Tensor], settings: Settings) -> Result:
    """Return instances a second of a model as it is and as we run it, and their share of the ceiling."""
    count, repeats = len(next(iter(inputs.values()))), 1 if settings.scaled_down else 3
    if settings.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        with torch.inference_mode():
            plain = fastest(lambda: encoder.model(**inputs), settings.where, repeats)
        ours = fastest(lambda: encoder.encode(inputs), settings.where, repeats)
    except torch.OutOfMemoryError:
        return {"line": f"{count} instances at a time do not fit"}
    operations = _operations(encoder, inputs)
    precision = str(encoder.precision).removeprefix("torch.")
    ceiling = {name: _ceiling(settings.device, name) for name in ("float32", precision)}
    return {
        "plain_per_s": count / plain,
        "ours_per_s": count / ours,
        "times_faster": plain / ours,
        "operations_each": operations / count,
        "plain_share_of_peak": operations / plain / ceiling["float32"],
        "ours_share_of_peak": operations / ours / ceiling[precision],
        "peak_bytes": torch.cuda.max_memory_allocated() if settings.device == "cuda" else None,
    }


def _operations(encoder: LoadedEncoder, inputs: dict[str, torch.Tensor]) -> float:
    """Floating point operations of a forward pass, from that of one instance."""
    one = {name: each[:1] for name, each in inputs.items()}
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        encoder.model(**one)
    return float(counter.get_total_flops()) * len(next(iter(inputs.values()))) or math.nan


def from_files(settings: Settings) -> Result:
    """As `python -m dal_core features` does it: image files are read and prepared by processes, encoded, written."""
    encoder, files = _given_encoder(settings, load=False), _image_files(settings)
    workers = Extraction(settings.device).workers_for("image")
    how = Extraction(settings.device, workers=min(workers, 2) if settings.scaled_down else workers)
    # Of the second and later call: the first one starts CUDA and its libraries.
    for name in ("warm-up", "measured"):
        part = files[:FEW_IMAGES] if name == "warm-up" or settings.scaled_down else files
        raw = RawData("image", _split(part[2:]), _split(part[:2]), ("a", "b"))
        request = Request("images", encoder, "none", "image", name, settings.work / "features")
        start = now(settings.where)
        bank = extracted(request, raw, how)
        seconds = now(settings.where) - start
    about = {"images": len(part), "workers": how.workers_for("image"), "features": bank.num_features}
    return about | {"per_s": len(part) / seconds, "images_are": manifest(settings).get("images", "unknown")}


class _Files(Sequence[Any]):
    """Images that are decoded when asked for, as the instances of a split are."""

    def __init__(self, encoded: list[bytes]) -> None:
        self.encoded = encoded

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, i: Any) -> Any:
        from PIL import Image

        return Image.open(io.BytesIO(self.encoded[i]))


def _split(encoded: list[bytes]) -> Split:
    labels = np.arange(len(encoded), dtype=np.int64) % 2
    return Split(_Files(encoded), labels, lambda i: f"image {i}")


def _image_files(settings: Settings) -> list[bytes]:
    """Return the image files of the inputs, as bytes."""
    path = settings.given(IMAGES)
    if path is None:
        raise Skipped(f"there is no {IMAGES} among the inputs")
    with zipfile.ZipFile(path) as archive:
        return [archive.read(name) for name in sorted(archive.namelist())]


def text_encoder(settings: Settings) -> Result:
    """Measure a BERT with the sizes of all-MiniLM-L6-v2, of random weights, on random tokens of several lengths."""
    transformers = _transformers()
    config = transformers.BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, vocab_size=30_522
    )
    encoder = _encoder(transformers.BertModel(config), "mean", settings)
    by_length: dict[str, Any] = {}
    for tokens in TOKENS if not settings.scaled_down else TOKENS[:1]:
        batch = BATCHES[settings.device][min(1, len(BATCHES[settings.device]) - 1)]
        words = torch.randint(1000, config.vocab_size, (batch, tokens), device=settings.where)
        mask = torch.ones_like(words)
        by_length[str(tokens)] = _rates(encoder, {"input_ids": words, "attention_mask": mask}, settings)
    return {"by_tokens": by_length, "weights": MADE_UP, "computes_in": str(encoder.precision)}


def _encoder(model: torch.nn.Module, pooling: str, settings: Settings) -> LoadedEncoder:
    """Return a model as `load_encoder` returns it; nothing is prepared, since the inputs are tensors."""
    nothing: Callable[[list[Any]], dict[str, torch.Tensor]] = dict
    return LoadedEncoder(nothing, model.eval().to(settings.where), pooling, False, settings.where)


def _given_encoder(settings: Settings, *, load: bool = True) -> Any:
    folder = settings.given(ENCODER)
    if folder is None:
        raise Skipped(f"there is no folder {ENCODER} among the inputs")
    if "timm" in (folder / "config.json").read_text(encoding="utf-8") and version("timm") is None:
        raise Skipped("timm is not installed, which the encoder of the inputs is a model of")
    encoder = Encoder(str(folder), "image", "pooler")
    if not load:
        return encoder
    start = time.monotonic()
    revision = resolved_revision(encoder, settings.work)
    loaded = load_encoder(encoder, "image", revision, settings.where)
    print(f"loaded {folder.name} in {time.monotonic() - start:.1f} s", flush=True)
    return loaded


def _transformers() -> Any:
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise Skipped("transformers is not installed") from error
    return transformers
