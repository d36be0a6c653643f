"""Frozen encoders: images, texts and sounds to features, with a model of the Hugging Face hub or of a local folder."""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dal_core.checks import check_choice, printable
from dal_core.parallel import in_parallel
from dal_lab.runs.files import is_file, write_text
from dal_lab.sources.hub import HUB_TIMEOUT
from dal_lab.sources.preparation import PREPARATIONS, prepared, sized
from dal_lab.sources.raw import KINDS, package, rows_of

POOLINGS = ("cls", "mean", "pooler")
PROCESSORS = {"image": "AutoImageProcessor", "text": "AutoTokenizer", "audio": "AutoFeatureExtractor"}
LONGEST_TEXT = 512  # Tokens of a text that are read where neither the table nor the tokenizer says less.
# Instances that a CPU encodes at a time. The activations of four images stay in its cache; those of 32 do not, and a
# convolutional network takes half as long again. Texts have few tokens, whose products larger blocks make faster.
BLOCKS = {"image": 4, "text": 32, "audio": 4}
MODEL_FILES = (".json", ".txt", ".model", ".safetensors")  # The files of a local folder that features depend on.


class EncoderUnavailableError(OSError):
    """The encoder's weights are neither on this machine nor available from the network."""


@dataclasses.dataclass(frozen=True)
class Encoder:
    """What turns instances into features: a model of the Hugging Face hub, or of a local folder, in safetensors.

    `pooling` makes one vector of the hidden states of the tokens: "cls" takes the first token, "mean" averages tokens
    that are not padding, "pooler" is the model's own `pooler_output`; None: mean for texts, else pooler. `preparation`
    names what is done to an image, one of `PREPARATIONS`; None: what the model's own processor does. `image_size` is
    the side in pixels of the square images that the model sees; None: what it was made for.
    """

    model: str
    kind: str | None = None  # image, text or audio; None: that of the data set
    pooling: str | None = None
    normalise: bool = False  # divide each vector by its length
    max_tokens: int | None = None  # longer texts are cut
    revision: str | None = None  # a commit, branch or tag; None: the main branch as it was when it was first used here
    preparation: str | None = None
    image_size: int | None = None
    unit_length: bool = False  # features of length 1 stay so, and are not multiplied by the root of their number
    files_of: str | None = None  # local feature files of this known encoder hold the same features, but for their scale
    note: str = ""  # what a user should know

    def described(self, kind: str) -> dict[str, Any]:
        """Return all that features of instances of `kind` depend on but the model's files, as JSON values."""
        folder = Path(self.model)
        model = folder.name if folder.is_dir() else self.model  # A folder is identified by its files, not its place.
        fields = dataclasses.asdict(self) | {"model": model, "kind": kind, "pooling": self.pooling_of(kind)}
        # Features without a size of their own keep the name that they had before there was one.
        left_out = {"files_of", "note"} | ({"image_size"} if self.image_size is None else set())
        return {name: value for name, value in fields.items() if name not in left_out}

    def pooling_of(self, kind: str) -> str:
        """Return the pooling for instances of `kind`."""
        return self.pooling or ("mean" if kind == "text" else "pooler")


@functools.cache
def known_encoders() -> dict[str, Encoder]:
    """Return the encoders that are known by name, from the table `encoders.toml`."""
    return {name: Encoder(**row) for name, row in rows_of("encoders.toml").items()}


def encoder_of(text: str, kind: str) -> Encoder:
    """Return the encoder of a name, hub identifier or folder; `@<revision>`, `:<pooling>`, `:<pixels>` may follow.

    Examples: "dinov2", "dinov2:mean", "facebook/dinov2-base:cls:154", "org/model@v1.0:mean", "/models/mine:160".

    Raises:
        ValueError: for a named encoder that does not read instances of `kind`, an unknown pooling, and an image size
            of 0 or for what is no image.
    """
    unsized, _, pixels = text.rpartition(":")
    if not (unsized and pixels.isdecimal()):
        unsized, pixels = text, ""
    elif kind != "image" or int(pixels) == 0:
        raise ValueError(f"the image size of encoder {text!r} is {pixels}, for {KINDS[kind]}; none was expected for "
                         "texts and sounds, and at least 1 pixel for images")  # fmt: skip
    rest, separator, pooling = unsized.rpartition(":")
    if separator and "/" not in pooling:
        check_choice(f"the pooling of encoder {text!r}", pooling, POOLINGS)
    else:
        rest, pooling = unsized, ""
    name, _, revision = (rest, "", "") if Path(rest).is_dir() else rest.partition("@")
    encoder = known_encoders().get(name, Encoder(name))
    if encoder.kind not in (None, kind):
        fitting = [known for known, each in known_encoders().items() if each.kind == kind]
        raise ValueError(f"encoder {text!r} reads {KINDS[encoder.kind or kind]}; one for {KINDS[kind]} was expected: "
                         f"{', '.join(fitting)}, or a model of the hub")  # fmt: skip
    given: dict[str, Any] = {"pooling": pooling, "revision": revision, "image_size": int(pixels or 0)}
    return dataclasses.replace(encoder, **{field: value for field, value in given.items() if value})


def resolved_revision(encoder: Encoder, cache: Path, *, renew: bool = False) -> str:
    """Return what identifies this model's files: a commit of the hub, or the digest of a local folder.

    The commit of a model that is named without one is asked for once and kept in `cache`: features stay comparable,
    and are found again without a network. `renew` asks anew.

    Raises:
        EncoderUnavailableError: if the model is not available; one line that says why, and the way out.
    """
    folder = Path(encoder.model)
    if folder.is_dir():
        digests = []
        for path in sorted(path for path in folder.iterdir() if path.suffix in MODEL_FILES):
            with open(path, "rb") as file:
                digests.append((path.name, hashlib.file_digest(file, "sha256").hexdigest()))
        return f"files {hashlib.sha256(json.dumps(digests).encode()).hexdigest()}"
    name = encoder.model if encoder.revision is None else f"{encoder.model}@{encoder.revision}"
    kept = cache / "revisions" / f"{name.replace('/', '--')}.txt"
    if is_file(kept) and not renew:
        commit = kept.read_text(encoding="ascii", errors="replace").strip()
        if re.fullmatch("[0-9a-f]{40}", commit):  # else the file is damaged
            return commit
    commit = _commit(encoder)
    write_text(kept, commit + "\n")
    return commit


def _commit(encoder: Encoder) -> str:
    """Return the commit of the model on the hub, or where that does not answer, in the hub's cache on this machine."""
    package("transformers", f"encoder {encoder.model!r} needs", EncoderUnavailableError)
    import huggingface_hub
    from huggingface_hub import errors

    model, revision = encoder.model, encoder.revision
    try:
        hub = huggingface_hub.HfApi()
        commit = hub.model_info(model, revision=revision, timeout=HUB_TIMEOUT).sha
        hub.auth_check(model)  # Everybody may know what a gated model is called, only some may have its files.
        return str(commit)
    except Exception as error:  # The hub's library and its transport raise many kinds.
        try:
            path = huggingface_hub.hf_hub_download(model, "config.json", revision=revision, local_files_only=True)
            return Path(path).parent.name  # <cache>/snapshots/<commit>/config.json
        except (OSError, ValueError):
            why = f"is neither in the local model cache nor to be had from the network ({_first_line(error)})"
            if isinstance(error, errors.GatedRepoError):
                note = f" ({encoder.note})" if encoder.note else ""
                login = "log in with `hf auth login` or set HF_TOKEN"
                why = f"is gated: ask for access on its page of the Hugging Face hub, then {login}{note}"
            elif isinstance(error, errors.RevisionNotFoundError):
                why = f"has no revision {revision!r}"
            elif isinstance(error, errors.RepositoryNotFoundError):
                why = "does not exist on the Hugging Face hub, or is private"
            raise _unavailable(encoder, why) from error


def _unavailable(encoder: Encoder, what: str) -> EncoderUnavailableError:
    way_out = "a local model folder as the encoder will do, too, or prepared features in --data-dir"
    return EncoderUnavailableError(f"encoder {encoder.model!r} {what}; {way_out}")


def _first_line(error: Exception) -> str:
    return printable((str(error).strip() or type(error).__name__).splitlines()[0])


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedEncoder:
    """A model that is ready: `prepare` instances, then `encode` what that returns."""

    prepare: Callable[[list[Any]], dict[str, Tensor]]
    model: torch.nn.Module
    pooling: str
    normalise: bool
    device: torch.device
    block: int | None = None  # instances that the model takes at a time, blocks side by side on all cores; None: all

    @property
    def precision(self) -> torch.dtype:
        """Return what the model computes in: half the bits on CUDA, where that is several times faster."""
        if self.device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16

    def encode(self, inputs: dict[str, Tensor]) -> Float[Tensor, "b d"]:
        """Return features in float32, on the encoder's device: the same bits on any number of cores.

        Raises:
            ValueError: if the model has no output of the kind that the pooling takes.
        """
        if self.block is None:
            return self._encode(inputs)
        names, blocks = list(inputs), zip(*(each.split(self.block) for each in inputs.values()), strict=True)
        return torch.cat(in_parallel(lambda block: self._encode(dict(zip(names, block, strict=True))), blocks))

    @torch.inference_mode()
    def _encode(self, inputs: dict[str, Tensor]) -> Float[Tensor, "b d"]:
        """Return the features of instances that the model takes at once."""
        moved = {name: each.to(self.device, non_blocking=True) for name, each in inputs.items()}
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            outputs = self.model(**moved)
        features = pooled(outputs, moved.get("attention_mask"), self.pooling)
        return torch.nn.functional.normalize(features, dim=1) if self.normalise else features


def pooled(outputs: Any, mask: Shaped[Tensor, "b tokens"] | None, pooling: str) -> Float[Tensor, "b d"]:
    """Return one vector an instance from a model's outputs, in float32.

    Raises:
        ValueError: if the outputs lack what `pooling` takes.
    """
    check_choice("pooling", pooling, POOLINGS)
    wanted, others = ("pooler_output", "cls or mean") if pooling == "pooler" else ("last_hidden_state", "pooler")
    if (states := getattr(outputs, wanted, None)) is None:
        raise ValueError(f"pooling is {pooling!r}, but the model returns no {wanted}; {others} was expected")
    states = states.float()
    if pooling == "pooler":
        return states.flatten(1)  # convolutional models keep two axes of length 1
    if pooling == "cls":
        return states[:, 0]
    if mask is None:
        return states.mean(dim=1)
    weights = mask.unsqueeze(-1).to(states.dtype)  # [b, tokens, 1]
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def load_encoder(encoder: Encoder, kind: str, revision: str, device: torch.device) -> LoadedEncoder:
    """Load the model for instances of `kind`, from the files that `revision` (of `resolved_revision`) stands for.

    Weights are read from safetensors only, since a pickle could run code, and no code of the hub is run.

    Raises:
        EncoderUnavailableError: if the model is not available, or has no weights in safetensors.
        ValueError: if it does not take images of the encoder's `image_size`.
    """
    transformers = package("transformers", f"encoder {encoder.model!r} needs", EncoderUnavailableError)
    name, place = encoder.model, {} if Path(encoder.model).is_dir() else {"revision": revision}
    options = {"use_safetensors": True, "trust_remote_code": False, "dtype": torch.float32}
    try:
        processor: Any = PREPARATIONS.get(encoder.preparation or "")
        if processor is None:
            processor = getattr(transformers, PROCESSORS[kind]).from_pretrained(name, **place)
        try:
            model = transformers.AutoModel.from_pretrained(name, **place, **options).eval()
        except OSError:
            if not place or encoder.revision is not None:
                raise
            # Some older models of the hub have their weights in safetensors in a reference beside the main branch,
            # which the library looks for only when it is asked for the main branch.
            model = transformers.AutoModel.from_pretrained(name, revision="main", **options).eval()
    except (OSError, ValueError, KeyError) as error:
        raise _unavailable(encoder, f"cannot be loaded as one for {KINDS[kind]} ({_first_line(error)})") from error
    # Of a model for images and texts, the tower that reads what we have.
    tower = getattr(model, {"image": "vision_model", "text": "text_model"}.get(kind, ""), model)
    if encoder.image_size is not None:
        processor = sized(processor, encoder.image_size)
        _check_image_size(encoder, encoder.image_size, tower)
    if kind == "image" and device.type in ("cpu", "cuda"):
        for each in tower.modules():
            if isinstance(
                each, torch.nn.Conv2d
            ):  # Convolutions with the channels last are faster, depthwise ones most.
                each.to(memory_format=torch.channels_last)
    longest = encoder.max_tokens or min(getattr(processor, "model_max_length", LONGEST_TEXT), LONGEST_TEXT)
    prepare = functools.partial(prepared, kind, processor, longest)
    block = BLOCKS[kind] if device.type == "cpu" else None
    return LoadedEncoder(prepare, tower.to(device), encoder.pooling_of(kind), encoder.normalise, device, block)


@torch.inference_mode()
def _check_image_size(encoder: Encoder, pixels: int, tower: torch.nn.Module) -> None:
    """Raise ValueError unless the model takes images of that size: by whole patches, and by trying one."""
    patch = getattr(getattr(tower, "config", None), "patch_size", 1)
    reason = None
    if isinstance(patch, int) and pixels % patch:
        reason = f"a multiple of its patches of {patch} was expected"
    else:
        try:
            tower(pixel_values=torch.zeros(1, 3, pixels, pixels))
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = f"its own size was expected: {_first_line(error)}"
    if reason is not None:
        raise ValueError(f"image_size is {pixels}, which encoder {encoder.model!r} does not take; {reason}")
