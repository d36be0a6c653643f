"""What is done to images, texts and sounds before a model takes them; called in the processes that read the data."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor


def prepared(kind: str, processor: Any, max_tokens: int, instances: list[Any]) -> dict[str, Tensor]:
    """Return what the model takes, from instances of one kind."""
    options: dict[str, Any] = {"return_tensors": "pt"}
    if kind == "image":
        instances = [image.convert("RGB") for image in instances]
    elif kind == "text":
        options |= {"padding": True, "truncation": True, "max_length": max_tokens}
    else:
        rate = processor.sampling_rate
        instances = [resampled(wave, found, rate) for wave, found in instances]
        options |= {"padding": True, "sampling_rate": rate}
    return dict(processor(instances, **options))


def squash(
    images: list[Any],
    return_tensors: str = "pt",  # noqa: ARG001 - a processor's
    pixels: int = 224,
) -> dict[str, Tensor]:
    """Return images resized to 256 x 256 whatever their shape, cropped to 224 x 224, in ImageNet's mean and deviation.

    So do the papers' authors for DINOv2; its own processor keeps the ratio of the sides. Other `pixels` than 224 change
    both in proportion.
    """
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    side = round(pixels * 256 / 224)
    resize = Resize((side, side), InterpolationMode.BICUBIC)
    steps = Compose([resize, CenterCrop(pixels), ToTensor(), Normalize(mean, deviation)])
    return {"pixel_values": torch.stack([steps(image) for image in images])}


PREPARATIONS: dict[str, Callable[..., dict[str, Tensor]]] = {"squash": squash}


def sized(processor: Callable[..., Any], pixels: int) -> Callable[..., Any]:
    """Return a preparation of images like `processor` whose result has a side of `pixels`.

    Where images are cropped, the size before changes in proportion.

    Raises:
        ValueError: if the processor has no size.
    """
    if processor is squash:
        return functools.partial(squash, pixels=pixels)
    if config := getattr(processor, "data_config", None):  # timm's
        kind: Any = type(processor)
        return kind(config | {"input_size": (config["input_size"][0], pixels, pixels)})
    crops = getattr(processor, "do_center_crop", False)
    size, cropped = ({side: each for side, each in dict(getattr(processor, name, None) or {}).items() if each}
                     for name in ("size", "crop_size"))  # fmt: skip
    if not (found := cropped if crops else size):
        raise ValueError(f"image_size is {pixels}, but {type(processor).__name__} has no size; None was expected")
    options = {"size": {side: round(each * pixels / min(found.values())) for side, each in size.items()}}
    if crops:
        options["crop_size"] = {"height": pixels, "width": pixels}
    return functools.partial(processor, **options)


def resampled(wave: Shaped[np.ndarray, " samples"], rate: int, wanted: int) -> np.ndarray:
    """Return a waveform at another rate (hertz), by polyphase filtering.  [samples'] float32"""
    if rate == wanted:
        return wave
    from scipy.signal import resample_poly

    return resample_poly(wave, wanted, rate).astype(np.float32)
