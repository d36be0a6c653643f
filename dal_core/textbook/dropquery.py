"""DropQuery (Gupte et al. 2024, arXiv 2401.14555)."""

import torch
from torch import Tensor


def dropout_disagreements(
    features: Tensor, logits: Tensor, weight: Tensor, bias: Tensor | None, generator: torch.Generator,
    *, num_passes: int = 3, dropout: float = 0.75,
) -> Tensor:  # fmt: skip
    """Count the passes with dropout in which the prediction of an instance changes, one instance after another.  [n]"""
    counts = torch.zeros(len(features), dtype=torch.int64)
    for _ in range(num_passes):
        for i, (x, own) in enumerate(zip(features, logits, strict=True)):
            kept = torch.rand(x.shape, generator=generator, dtype=torch.float32) >= dropout
            outputs = weight @ (x * kept / (1 - dropout)) + (0 if bias is None else bias)
            counts[i] += outputs.argmax() != own.argmax()
    return counts
