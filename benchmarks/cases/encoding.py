"""Encoding of images on a CPU beside timm's own loop in its best setting: channels last, four images at a time."""

import os
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks.case import Case, Goal
from benchmarks.timing import check_agreement
from dal_lab.sources.encoders import Encoder, load_encoder

SHARED = Path(__file__).resolve().parent.parent.parent.parent / "shared"
FOLDER = Path(os.environ.get("DAL_MODELS", SHARED / "models")) / "tf_efficientnet_lite0"
BLOCK = 4  # The fastest of 1, 2, 4, 8, 16 and 32 for timm, too.


def encoding(*, small: bool) -> Case:
    """From images in memory to features: prepared, and through EfficientNet-Lite0."""
    draw = np.random.default_rng(0)
    images = [Image.fromarray(draw.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(4 if small else 64)]
    ours = load_encoder(Encoder(str(FOLDER)), "image", "local", torch.device("cpu"))
    model = timm.create_model(FOLDER.name, num_classes=0).eval().to(memory_format=torch.channels_last)
    state = {name.removeprefix("timm_model."): each for name, each in load_file(FOLDER / "model.safetensors").items()}
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))

    @torch.inference_mode()
    def theirs() -> torch.Tensor:
        blocks = (images[i : i + BLOCK] for i in range(0, len(images), BLOCK))
        inputs = (torch.stack([transform(image) for image in block]) for block in blocks)
        return torch.cat([model(each.contiguous(memory_format=torch.channels_last)) for each in inputs])

    check_agreement("encoding", [ours.encode(ours.prepare(images))], [theirs()], 1e-5)
    return Case(
        f"n={len(images)}, 224 x 224 pixels, float32",
        lambda: ours.encode(ours.prepare(images)),
        theirs,
        Goal(ratio=1 / 1.15),
        note=f"timm's own loop, channels last, {BLOCK} images at a time",
    )


CASES = {"encoding-images": encoding}
