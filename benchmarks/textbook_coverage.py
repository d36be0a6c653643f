"""TypiClass as its paper states it."""

import torch
from torch import Tensor


def class_balanced(features: Tensor, labels: Tensor, counts: Tensor, batch_size: int) -> Tensor:
    """From the class with the fewest labels the instance with the smallest summed squared distance to the others."""
    seen, picked = counts.tolist(), []
    for _ in range(batch_size):
        left = {label: [] for label in range(len(seen))}
        for i, label in enumerate(labels.tolist()):
            if i not in picked:
                left[label].append(i)
        label = min((label for label in left if left[label]), key=lambda label: seen[label])
        members = features[left[label]].double()
        picked.append(left[label][int(torch.cdist(members, members).square().sum(dim=1).argmin())])
        seen[label] += 1
    return torch.tensor(picked)
