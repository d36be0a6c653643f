"""TypiClass (Huseljic et al., arXiv 2603.13109): TypiClust with the classes in place of clusters."""

import torch
from torch import Tensor


def class_balanced_select(features: Tensor, labels: Tensor, counts: Tensor, batch_size: int) -> Tensor:
    """Pick, of the class with the fewest labels, the instance with the smallest summed squared distance to the others.

    All distances anew in every step; O(b n_c^2 d). Ties go to the lower number.
    """
    known, picked = counts.tolist(), []
    for _ in range(batch_size):
        left: dict[int, list[int]] = {label: [] for label in range(len(known))}
        for i, label in enumerate(labels.tolist()):
            if i not in picked:
                left[label].append(i)
        label = min((label for label in left if left[label]), key=lambda label: known[label])
        members = features[left[label]].double()
        sums = torch.cdist(members, members).square().sum(dim=1)
        picked.append(left[label][int((sums <= sums.min() * (1 + 1e-9)).int().argmax())])
        known[label] += 1
    return torch.tensor(picked)
