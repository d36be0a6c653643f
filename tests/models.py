"""Small models with random weights, one of each family of encoders, saved as the hub keeps them."""

import torch

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "how", "do", "i", "card", "##s", "lost", "fees"]
IMAGE_MODELS = ("dinov2", "dinov2_registers", "dinov3", "clip", "clip_vision", "swinv2")
HIDDEN = 16
_SIDE = 28  # pixels of the images that the models see


def save_text_model(folder) -> None:
    """Save a BERT of two layers, and a tokenizer with twelve word pieces."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    BertTokenizerFast(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20,
        max_position_embeddings=600, initializer_range=0.5,
    )  # fmt: skip
    _save(BertModel, config, folder)


def save_audio_model(folder) -> None:
    """Save an audio spectrogram transformer of two layers that hears a fifth of a second or so."""
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    ASTFeatureExtractor(max_length=64, num_mel_bins=32).save_pretrained(folder)
    sizes = {"hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
    _save(ASTModel, ASTConfig(**sizes, max_length=64, num_mel_bins=32, initializer_range=0.5), folder)


def save_image_model(family: str, folder) -> None:
    """Save a model of one of IMAGE_MODELS, with its own kind of image processor."""
    import transformers as hf

    vit = {"hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": _SIDE}
    vit |= {"patch_size": 14, "initializer_range": 0.5}
    towers = vit | {"intermediate_size": 20}
    text = {"hidden_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}
    square, cropped = {"height": _SIDE, "width": _SIDE}, {"shortest_edge": 32}
    swin = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
    kind, config, processor = {
        "dinov2": lambda: (
            hf.Dinov2Model,
            hf.Dinov2Config(**vit),
            hf.BitImageProcessor(size=cropped, crop_size=square),
        ),
        "dinov2_registers": lambda: (
            hf.Dinov2WithRegistersModel,
            hf.Dinov2WithRegistersConfig(**vit),
            hf.BitImageProcessor(size=cropped, crop_size=square),
        ),
        "dinov3": lambda: (hf.DINOv3ViTModel, hf.DINOv3ViTConfig(**towers), hf.AutoImageProcessor),
        "clip": lambda: (
            hf.CLIPModel,
            hf.CLIPConfig(text_config=text | {"vocab_size": 30}, vision_config=towers, projection_dim=8),
            hf.CLIPImageProcessor(size={"shortest_edge": _SIDE}, crop_size=square),
        ),
        "clip_vision": lambda: (
            hf.CLIPVisionModel,
            hf.CLIPVisionConfig(**towers),
            hf.CLIPImageProcessor(size={"shortest_edge": _SIDE}, crop_size=square),
        ),
        "swinv2": lambda: (
            hf.Swinv2Model,
            hf.Swinv2Config(**swin, initializer_range=0.5),
            hf.ViTImageProcessor(size={"height": 32, "width": 32}),
        ),
    }[family]()
    if family == "dinov3":
        # The top level offers it under one of two names, depending on the version.
        name = "DINOv3ViTImageProcessor" if hasattr(hf, "DINOv3ViTImageProcessor") else "DINOv3ViTImageProcessorFast"
        processor = getattr(hf, name)(size=square)
    processor.save_pretrained(folder)
    _save(kind, config, folder)


def _save(kind, config, folder) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind(config).save_pretrained(folder)
