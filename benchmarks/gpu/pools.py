"""A pool of ImageNet's size with structure and without ImageNet: classes in few directions, noise that decays.

It is made on the device it is used on, in blocks, so that nothing but the result is held. Axes: n instances, k classes,
d features.
"""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from dal_core.data import FeatureData, Labelled
from dal_core.snapshot import LastLayer, Truth, with_model

DIRECTIONS = 32  # that the class centres lie in
NOISE = 3.0  # of a feature on average, where a centre's entries have variance 1
DECAY = 16  # features after which the noise's variance is half of the first one's
SHARPNESS = 24.0  # of the head: the largest possible logit
ROWS = 2**15  # made at a time


@dataclasses.dataclass(frozen=True)
class Size:
    """What is queried; `refine` are options of REFINE that differ from the paper's."""

    num_pool: int
    num_labelled: int
    num_classes: int
    batch_size: int
    num_test: int
    num_candidates: int
    num_features: int = 384
    retraining_epochs: int = 50
    refine: dict[str, Any] = dataclasses.field(default_factory=dict)


SMALLER = {"depth": 2, "num_batches": 9, "initial_size": 2000}
SIZES = {
    "full": Size(1_281_167, 20_000, 1000, 1000, 50_000, 100),
    "small": Size(50_000, 1000, 100, 100, 5000, 10, refine=SMALLER),
    "tiny": Size(600, 80, 7, 6, 50, 10, 24, 2, SMALLER | {"initial_size": 200}),  # for the tests
}


class Source:
    """Draws features [n, d] of length sqrt(d), as a layer norm leaves them, with labels [n]."""

    def __init__(self, num_classes: int, num_features: int, device: torch.device) -> None:
        self.generator = torch.Generator(device).manual_seed(0)
        d = num_features
        centres = self._normal(num_classes, DIRECTIONS) @ self._normal(DIRECTIONS, d)
        self.centres = centres / math.sqrt(DIRECTIONS)
        variances = 1 / (1 + torch.arange(d, device=device) / DECAY)
        deviations = (variances / variances.mean()).sqrt() * NOISE
        self.mixing = deviations.unsqueeze(1) * torch.linalg.qr(self._normal(d, d)).Q
        # Towards the centres: right more often than not, and neither certain nor clueless.
        self.weight = torch.nn.functional.normalize(centres, dim=1) * SHARPNESS / math.sqrt(d)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        d, device = self.mixing.shape[0], self.mixing.device
        labels = torch.randint(len(self.centres), (count,), generator=self.generator, device=device)
        features = torch.empty(count, d, device=device)
        for rows, of_rows in zip(features.split(ROWS), labels.split(ROWS), strict=True):
            torch.addmm(self.centres[of_rows], self._normal(len(rows), d), self.mixing, out=rows)
            rows.mul_(math.sqrt(d) / torch.linalg.vector_norm(rows, dim=1, keepdim=True))
        return features, labels

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, device=self.generator.device)


def oracle_snapshot(size: Size, device: torch.device) -> Truth:
    """Return the pool, what is labelled, a test set, and a head that was made and not trained."""
    source = Source(size.num_classes, size.num_features, device)
    m, n = size.num_labelled, size.num_pool
    (features, labels), test = (source.draw(count) for count in (m + n, size.num_test))
    logits = features @ source.weight.mT
    # Views of one tensor: a million instances are held once.
    return with_model(LastLayer, truth=True)(
        features=features[m:], logits=logits[m:], labelled_features=features[:m], labelled_logits=logits[:m],
        labels=labels[:m], weight=source.weight, hidden_labels=labels[m:], data=FeatureData(features),
        instances=torch.arange(m, m + n, device=device), labelled=torch.arange(m, device=device),
        test=Labelled(FeatureData(test[0]), test[1]),
    )  # fmt: skip
