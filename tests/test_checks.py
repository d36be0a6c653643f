"""Checks name the argument, what was found and what was expected."""

import pytest
import torch

from dal_core.checks import check_alike, check_choice, check_finite, check_labels, check_shape


def test_choice():
    check_choice("head", "mlp", ("linear", "mlp"))
    with pytest.raises(ValueError, match=r"^head is 'conv'; it has to be one of 'linear', 'mlp'$"):
        check_choice("head", "conv", (name for name in ("linear", "mlp")))


def test_alike():
    single, double = torch.zeros(2), torch.zeros(3).double()
    check_alike(a=single, b=torch.ones(5))
    check_alike(a=double, b=torch.ones(5).double())
    with pytest.raises(ValueError, match=r"^b has dtype torch\.float64, but a has torch\.float32; both have to agree$"):
        check_alike(a=single, b=double)
    with pytest.raises(ValueError, match=r"^c has device meta, but a has cpu; both have to agree$"):
        check_alike(a=single, b=single, c=torch.zeros(2, device="meta"))
    with pytest.raises(ValueError, match=r"^a has dtype torch\.int64; float32 or float64 was expected$"):
        check_alike(a=torch.zeros(2).long(), b=torch.zeros(2).long())


def test_shape():
    check_shape("x", torch.zeros(11, 5), (None, 5))
    for shape in [(11, 3), (11,), (1, 11, 5)]:
        with pytest.raises(ValueError, match=r"^x has shape \(.*\); \(any, 5\) was expected$"):
            check_shape("x", torch.zeros(shape), (None, 5))


def test_finite_names_the_first_place():
    tensor = torch.zeros(3, 4)
    check_finite(x=tensor)
    tensor[1, 2], tensor[2, 0] = torch.inf, torch.nan
    with pytest.raises(ValueError, match=r"^x holds 2 values that are NaN or infinite, the first at \(1, 2\)$"):
        check_finite(y=torch.zeros(2), x=tensor)


def test_labels():
    check_labels("y", torch.tensor([0, 2]), 3)
    check_labels("y", torch.tensor([], dtype=torch.int64), 3)
    for wrong in ([0, 3], [-1, 2]):
        lowest, highest = min(wrong), max(wrong)
        with pytest.raises(ValueError, match=rf"^y holds labels from {lowest} to {highest}; 0 to 2 was expected$"):
            check_labels("y", torch.tensor(wrong), 3)
    for dtype in (torch.float32, torch.bool, torch.complex64):
        with pytest.raises(ValueError, match=rf"^y has dtype {dtype}; integer class labels were expected$"):
            check_labels("y", torch.zeros(2, dtype=dtype), 3)
