"""Frozen encoders: texts to features with a pretrained transformer, once, kept on disk."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from dal_core.files import write_atomically
from dal_core.progress import progress

ENCODERS = {"minilm": "sentence-transformers/all-MiniLM-L6-v2"}
BATCH_SIZE = 128
MAX_TOKENS = 256  # what all-MiniLM-L6-v2 was trained for


class EncoderUnavailableError(OSError):
    """The encoder's weights are neither on this machine nor to be had from the network."""


def encode_texts(texts: list[str], encoder: str, cache: Path) -> np.ndarray:
    """Sentence embeddings: the mean of the last hidden states over the tokens, L2-normalised.  [n, d] float32

    Args:
        texts: what to encode.
        encoder: a name of `ENCODERS`, a model identifier of the Hugging Face hub, or a local model folder.
        cache: folder where the features are kept, keyed by the texts and the encoder.

    Raises:
        EncoderUnavailableError: if the model is not on this machine and cannot be downloaded.
    """
    model_id = ENCODERS.get(encoder, encoder)
    key = hashlib.sha256(json.dumps([_identity(model_id), MAX_TOKENS, texts]).encode()).hexdigest()
    path = cache / f"{key[:32]}.safetensors"
    if path.is_file():
        try:
            return load_file(path)["features"]
        except (SafetensorError, KeyError):
            path.unlink()  # damaged: encode again
    features = _encode(texts, model_id)
    with write_atomically(path) as temporary:
        save_file({"features": features}, temporary, metadata={"encoder": model_id})
    return features


def _identity(model_id: str) -> list[str]:
    """The model's name, with the digests of its files if it is a local folder, which may be given another content."""
    files = sorted(path for path in Path(model_id).glob("*") if path.suffix in (".json", ".safetensors", ".txt"))
    return [model_id, *(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)]


@torch.inference_mode()
def _encode(texts: list[str], model_id: str) -> np.ndarray:
    # Imported here: transformers takes seconds to import, and most runs need no encoder.
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model_id)
        model = AutoModel.from_pretrained(model_id, use_safetensors=True).eval()
    except (OSError, ValueError) as error:  # the latter for a folder without a model
        reason = str(error).splitlines()[0]
        raise EncoderUnavailableError(
            f"encoder {model_id!r} is neither in the local model cache nor to be had from the network ({reason}); "
            "give a local model folder as the encoder, or prepared features in --data-dir"
        ) from error
    blocks = []
    for start in progress(range(0, len(texts), BATCH_SIZE), f"encoding with {model_id}", unit="batches"):
        batch = texts[start : start + BATCH_SIZE]
        tokens = tokenizer(batch, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        hidden = model(**tokens).last_hidden_state  # [b, tokens, d]
        mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)  # [b, tokens, 1]
        mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        blocks.append(torch.nn.functional.normalize(mean, dim=1))
    return torch.cat(blocks).numpy()
