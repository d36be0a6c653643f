"""Texts to features with a tiny transformer: mean pooling, whatever the padding, once."""

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from dal_core import encoders
from dal_core.encoders import EncoderUnavailableError, encode_texts

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "how", "do", "i", "card", "##s", "lost", "fees"]
TEXTS = ["how do i", "card", "lost cards how do i lost cards", "fees fees", "unknown", "how"]
HIDDEN = 16


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A BERT of two layers with random weights, and a tokenizer with twelve word pieces."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    BertTokenizerFast(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20,
        max_position_embeddings=300, initializer_range=0.5,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and an empty model cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "models"))


def pooled(texts: list[str], folder: str) -> np.ndarray:
    """One text at a time: the mean over its tokens of the last hidden states, divided by its length."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    for text in texts:
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0]  # [tokens, d]
        mean = sum(hidden) / len(hidden)
        rows.append((mean / mean.square().sum().sqrt()).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("batch_size", [1, 4, 128])
def test_features_equal_a_loop_over_single_texts_whatever_the_padding(monkeypatch, tmp_path, model_folder, batch_size):
    monkeypatch.setattr(encoders, "BATCH_SIZE", batch_size)
    features = encode_texts(TEXTS, model_folder, tmp_path)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, pooled(TEXTS, model_folder), atol=1e-5)
    assert np.abs(features[0] - features[1]).max() > 0.01  # the model does tell texts apart


def test_rows_are_normalised(tmp_path, model_folder):
    features = encode_texts(TEXTS, model_folder, tmp_path)
    assert features.shape == (len(TEXTS), HIDDEN)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)


def test_long_texts_are_cut_to_what_the_encoder_was_trained_for(tmp_path, model_folder):
    words = ["how", "card", "fees"] * 100
    kept = words[: encoders.MAX_TOKENS - 2]  # the first and last token are [CLS] and [SEP]
    features = encode_texts([" ".join(words), " ".join(kept), " ".join(kept[:-1])], model_folder, tmp_path)
    np.testing.assert_allclose(features[0], features[1], atol=1e-6)
    assert np.abs(features[0] - features[2]).max() > 1e-5


def forbid_the_model(monkeypatch) -> None:
    def refuse(*_):
        raise AssertionError("the model is not to be loaded")

    monkeypatch.setattr(encoders, "_encode", refuse)


def test_second_call_reads_the_cache(monkeypatch, tmp_path, model_folder):
    first = encode_texts(TEXTS, model_folder, tmp_path / "features")
    forbid_the_model(monkeypatch)
    assert np.array_equal(encode_texts(TEXTS, model_folder, tmp_path / "features"), first)


@pytest.mark.parametrize("texts", [TEXTS[:-1], TEXTS[::-1], [*TEXTS, "how"]], ids=["fewer", "other order", "more"])
def test_other_texts_are_encoded_anew(monkeypatch, tmp_path, model_folder, texts):
    encode_texts(TEXTS, model_folder, tmp_path)
    np.testing.assert_allclose(encode_texts(texts, model_folder, tmp_path), pooled(texts, model_folder), atol=1e-5)
    assert len(list(tmp_path.iterdir())) == 2


def test_other_encoders_do_not_share_the_cache(monkeypatch, tmp_path, model_folder):
    encode_texts(TEXTS, model_folder, tmp_path)
    forbid_the_model(monkeypatch)
    with pytest.raises(AssertionError, match="the model is not to be loaded"):
        encode_texts(TEXTS, model_folder + "-other", tmp_path)


@pytest.mark.parametrize("kept", [0, 20, -4], ids=lambda kept: f"first {kept} bytes")
def test_damaged_cache_is_computed_anew(tmp_path, model_folder, kept):
    first = encode_texts(TEXTS, model_folder, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:kept])
    assert np.array_equal(encode_texts(TEXTS, model_folder, tmp_path), first)
    assert np.array_equal(load_file(path)["features"], first)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("encoder", ["minilm", "nobody/no-such-model", "/nowhere/model", "no/such/model"])
def test_absent_model_is_named_in_one_line(tmp_path, encoder):
    with pytest.raises(EncoderUnavailableError) as error:
        encode_texts(TEXTS, encoder, tmp_path)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(
        f"encoder {encoders.ENCODERS.get(encoder, encoder)!r} is neither in the local model cache"
    )
    assert "--data-dir" in message
    assert list(tmp_path.glob("*.safetensors")) == []


@pytest.mark.usefixtures("offline")
def test_folder_without_a_model_is_named_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(EncoderUnavailableError, match=r"^encoder '.*/empty' is neither .*--data-dir$"):
        encode_texts(TEXTS, str(tmp_path / "empty"), tmp_path)
