"""The annotation is the check: what is refused and in which words, and what is accepted and equal."""

# ruff: noqa: F722  (shapes are strings that ruff takes for annotations)
import dataclasses
import functools
import math
import pickle
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from jaxtyping import Bool, Float, Int
from refusals import refusal_of
from torch import Tensor

from dal_core.contracts import (
    AtLeast,
    BatchSize,
    Below,
    Between,
    Count,
    Fewest,
    Fraction,
    NonNegative,
    Positive,
    Share,
    Size,
    UpTo,
    check_fields,
    checked,
    is_checked,
    unchecked,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("unchecked")  # as users run the package
N, D = 11, 5
X, Y = torch.arange(N * D, dtype=torch.float32).view(N, D) / 50, torch.arange(N) % 3
NAN, INFINITE = X.clone(), X.clone()
NAN[2, 1], INFINITE[3, 0] = math.nan, math.inf
Matrix = Float[Tensor, "n d"]


@dataclasses.dataclass(frozen=True)
class Options:
    rate: Positive = 0.1
    epochs: Size = 3
    optimiser: Literal["sgd", "adam"] = "sgd"
    flag: bool = False

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    features: Matrix
    labels: Annotated[Int[Tensor, " m"], Below("k")]
    weight: Float[Tensor, "k d"]
    bias: Float[Tensor, " k"] | None = None
    cycle: "Size" = 0
    trace: "Never" = None  # noqa: F821  # A name that cannot be resolved is no check.

    def __post_init__(self):
        check_fields(self)


def taking(annotation):
    """A checked function that returns its argument `x`, which it looks at as its result's kind is not known."""

    def function(x):
        return x

    function.__annotations__ = {"x": annotation}
    return checked(function)


REFUSED = [
    # Tensors
    (Matrix, [[1.0]], "x is a list; a tensor was expected"),
    (Matrix, X.numpy(), "x is a ndarray; a tensor was expected: torch.from_numpy makes one of it"),
    (Matrix, None, "x is a NoneType; a tensor was expected"),
    (Matrix | None, "a", "x is a str; a tensor was expected"),
    (Matrix, X[0], "x has shape (5,); (n, d) was expected"),
    (Annotated[Matrix, Fewest("d", 6, "classes")], X, "x has shape (11, 5); 6 or more classes were expected"),
    (Matrix, X[None], "x has shape (1, 11, 5); (n, d) was expected"),
    (Float[Tensor, "n n"], X, "x has shape (11, 5); (n, n) with n = 11 as in x was expected"),
    (Float[Tensor, "2 n"], X, "x has shape (11, 5); (2, n) was expected"),
    (Float[Tensor, "*s n d"], X[0], "x has shape (5,); (*s, n, d) was expected"),
    (Float[Tensor, ""], X, "x has shape (11, 5); () was expected"),
    (Matrix, X.half(), "x has dtype torch.float16; float32 or float64 was expected"),
    (Matrix, X.long(), "x has dtype torch.int64; float32 or float64 was expected"),
    (Matrix, X.to_sparse(), "x has layout torch.sparse_coo; a dense tensor was expected"),
    (Int[Tensor, " n"], Y.float(), "x has dtype torch.float32; int64 was expected"),
    (Int[Tensor, " n"], Y.int(), "x has dtype torch.int32; int64 was expected"),
    (Int[Tensor, " n"], Y.bool(), "x has dtype torch.bool; int64 was expected"),
    (Bool[Tensor, " n"], Y, "x has dtype torch.int64; bool was expected"),
    (Int[Tensor, " n"] | Int[Tensor, "e m"], Y.view(1, 1, N), "x has shape (1, 1, 11); (n) was expected; or (e, m)"),
    (Tensor, X.numpy(), "x is a ndarray; a tensor was expected"),
    # Values
    (Matrix, NAN, "x holds 1 values that are NaN or infinite, the first at (2, 1)"),
    (Matrix, INFINITE, "x holds 1 values that are NaN or infinite, the first at (3, 0)"),
    (Matrix, NAN.mT, "x holds 1 values that are NaN or infinite, the first at (1, 2)"),
    (Matrix, torch.cat((X, NAN), dim=1)[:, ::2], "x holds 1 values that are NaN or infinite, the first at (2, 3)"),
    (Matrix | None, -NAN.double(), "x holds 1 values that are NaN or infinite, the first at (2, 1)"),
    (Annotated[Matrix, Fewest("d", 9, "columns")], X, "x has shape (11, 5); 9 or more columns were"),
    (Annotated[Matrix, Fewest("n", 1, "rows")], X[:0], "x has shape (0, 5); 1 or more rows were expected"),
    (Matrix, X * -1e30, "x holds values up to 1.08e+30, whose squares overflow; smaller numbers or float64"),
    (Matrix, X.double() * 1e200, "x holds values up to 1.08e+200, whose squares overflow; smaller numbers were"),
    (Sequence[Matrix], [X, NAN], "x[1] holds 1 values that are NaN or infinite, the first at (2, 1)"),
    (Sequence[Matrix], (X, X[1:]), "x[1] has shape (10, 5); (n, d) with n = 11 as in x[0] was expected"),
    (Matrix, torch.full((3, 5), 1.5e19), "x holds values up to 1.5e+19, whose squares overflow, summed over a row"),
    (Matrix, X.double() * 0 - 1e154, "x holds values up to 1e+154, whose squares overflow, summed over"),
    # Whole numbers
    (Count, 0, "x is 0; a whole number of at least 1 was expected"),
    (Count, 2.5, "x is 2.5; a whole number of at least 1 was expected"),
    (Count, True, "x is True; a whole number of at least 1 was expected"),
    (Count, np.int64(-3), "x is -3; a whole number of at least 1 was expected"),
    (Count, torch.tensor(True), "x is tensor(True); a whole number of at least 1 was expected"),
    (Count, torch.tensor([2]), "x is tensor([2]); a whole number of at least 1 was expected"),
    (Count, "3", "x is '3'; a whole number of at least 1 was expected"),
    (Size, -1, "x is -1; a whole number of at least 0 was expected"),
    (int, None, "x is None; a whole number was expected"),
    (Annotated[int, Between(1, 5, "both")], 6, "x is 6; a whole number from 1 to 5 was expected"),
    (BatchSize, 0, "x is 0; a whole number of at least 1 was expected"),
    # Numbers
    (Positive, 0, "x is 0.0; a finite number above 0 was expected"),
    (Positive, math.inf, "x is inf; a finite number above 0 was expected"),
    (Positive, math.nan, "x is nan; a finite number above 0 was expected"),
    (Positive, np.float32(-1), "x is -1.0; a finite number above 0 was expected"),
    (Positive, "1", "x is '1'; a number was expected"),
    (Positive, True, "x is True; a number was expected"),
    (Positive, 10**400, "a number of at most 1e+308 was expected"),
    (NonNegative, -0.5, "x is -0.5; a finite number of at least 0 was expected"),
    (Fraction, 1.5, "x is 1.5; a number from 0 to 1 was expected"),
    (Share, 0, "x is 0.0; a number above 0 and at most 1 was expected"),
    (Annotated[float, Between(0, 1)], 1.0, "x is 1.0; a number between 0 and 1 was expected"),
    (Annotated[float, Between(0, 1, "low")], 1.0, "x is 1.0; a number of at least 0 and below 1 was expected"),
    (Annotated[float, AtLeast(1)] | None, 0.5, "x is 0.5; a finite number of at least 1 was expected"),
    (float, math.nan, "x is nan; a number was expected"),
    (bool, "no", "x is 'no'; True or False was expected"),
    (bool, 1, "x is 1; True or False was expected"),
    # Words, objects and what holds them
    (Literal["diagonal", "top"], "tpo", "x is 'tpo'; it has to be one of 'diagonal', 'top'; did you mean 'top'?"),
    (Literal["diagonal", "top"], ["top"], "x is ['top']; it has to be one of 'diagonal', 'top'"),
    (Count | Literal["all"], "al", "x is 'al'; a whole number of at least 1 was expected; or it has to be one of"),
    (str, 3, "x is a int; a str was expected"),
    (torch.Generator, 0, "x is 0; a torch.Generator was expected"),
    (torch.device, "cpu", "x is a str; a device was expected"),
    (Options, {}, "x is a dict; a Options was expected"),
    (Options, None, "x is None; a Options was expected"),
    (type[Options], 3, "x is a int; a type was expected"),
    (Callable[[int], int], 3, "x is a int; a Callable was expected"),
    (Sequence[Count], [1, 0], "x[1] is 0; a whole number of at least 1 was expected"),
    (list[torch.Generator], [torch.Generator(), None], "x[1] is None; a torch.Generator was expected"),
    (Sequence[str], "margin", "x is 'margin'; a list was expected"),
    (tuple[float, ...], 0.1, "x is 0.1; a tuple was expected"),
    (tuple[int, ...], (1, 0.5), "x[1] is 0.5; a whole number was expected"),
    (Mapping[str, Any], [1], "x is a list; a Mapping was expected"),
    (dict[str, Any] | None, [1], "x is a list; a dict was expected"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("annotation", "bad", "words"), REFUSED, ids=lambda each: each if isinstance(each, str) else ""
)
def test_refused(annotation, bad, words):
    refusal_of(lambda: taking(annotation)(bad), words, kinds=(ValueError,))


GENERATOR = torch.Generator()
ACCEPTED = [
    (Count, np.int64(5), 5), (Count, np.uint8(5), 5), (Count, torch.tensor(7), 7), (Size, 0, 0),
    (Positive, 3, 3.0), (Positive, np.float32(0.5), 0.5), (Positive, np.float64(0.1), 0.1), (Positive, 1e-300, 1e-300),
    (float, math.inf, math.inf), (float, np.int32(2), 2.0), (Fraction, 0, 0.0), (Share, 1, 1.0), (bool, np.True_, True),
    (Literal["a", 2], np.int64(2), 2), (Count | Literal["all"], "all", "all"), (Count | None, None, None),
    (Options | None, None, None), (torch.Generator, GENERATOR, GENERATOR), (Callable[..., Any], len, len),
    (Sequence[Count], (np.int64(1), 2), (1, 2)), (tuple[float, ...], [1, 2.5], (1.0, 2.5)), (list[int], [], []),
    (Mapping[str, Any], Options.__annotations__, Options.__annotations__), (Any, NAN, NAN),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "given", "taken"), ACCEPTED)
def test_plain_values_are_what_the_function_gets(annotation, given, taken):
    found = taking(annotation)(given)
    assert found is taken or found == taken
    assert type(found) is type(taken)


@pytest.mark.parametrize(
    ("annotation", "tensor"),
    [
        (Float[Tensor, "*s n d"], X), (Float[Tensor, "*s n d"], X.view(1, 1, N, D)), (Float[Tensor, "... d"], X[0]),
        (Float[Tensor, "2 n"], torch.ones(2, 7)), (Int[Tensor, " n"] | Int[Tensor, "e m"], Y.view(1, N)),
        (Int[Tensor, " _"], Y), (Float[Tensor, ""], X.sum()), (Bool[Tensor, " n"], Y > 0), (Int[Tensor, ""], Y.sum()),
        (Matrix, X[:0]), (Matrix, X.mT), (Matrix | None, X.double()), (Float[Tensor, "n n-1"], X), (Tensor, X.half()),
        (Matrix, torch.full((3, 1), 1.5e19)), (Float[Tensor, " n"], torch.full((9,), 1.5e19)),
        (Matrix, X.double() * 1e150), (Matrix, torch.full((300, 300), 1e18)), (Matrix, torch.ones(1, 1).expand(9, 9)),
    ],
)  # fmt: skip
def test_tensors_that_fit_are_passed_as_they_are(annotation, tensor):
    """Large values among them: the sum of the squares of 1e18 is no float32, but each square is."""
    assert taking(annotation)(tensor) is tensor


@checked
def scores(
    features: Matrix, weight: Float[Tensor, "k d"], *, targets: Annotated[Int[Tensor, " n"], Below("k")] | None = None
) -> Float[Tensor, "n k"]:
    """The documentation."""
    assert not features.requires_grad
    return features @ weight.mT


@checked
def picks(
    features: Matrix, batch_size: BatchSize, index: Annotated[Int[Tensor, " b"], Below("n")] | None = None
) -> Int[Tensor, " b"]:
    return features.sum(dim=1).argsort()[:batch_size]


@checked
def view_picks(
    view: View, batch_size: BatchSize, *, top_classes: Annotated[int, UpTo("k", "the number of classes")] = 1
) -> Int[Tensor, " b"]:
    return view.features[:, 0].argsort(descending=True)[:batch_size]


W = torch.ones(3, D)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: scores(X, W[:, 1:]), "weight has shape (3, 4); (k, d) with d = 5 as in features was expected"),
        (lambda: scores(X, W.double()), "weight has dtype torch.float64, but features has torch.float32; both have to"),
        (lambda: scores(X, W.to("meta")), "weight has device meta, but features has cpu; both have to agree"),
        (lambda: scores(X, W, targets=Y.float()), "targets has dtype torch.float32; integer class labels were"),
        (lambda: scores(X, W, targets=Y.int()), "targets has dtype torch.int32; int64 was expected"),
        (lambda: scores(X, W, targets=Y + 1), "targets holds labels from 1 to 3; 0 to 2 was expected"),
        (lambda: scores(weight=W, features=NAN), "features holds 1 values that are NaN or infinite, the first"),
        (lambda: scores(X * 1e38, W), "features holds values up to 1.08e+38, whose squares overflow; smaller numbers"),
        (lambda: scores(X.clamp_min(1) * 1e19, W.double().mul(1e19).float() * 1.5),
         "features holds values up to 1.08e+19, whose squares overflow, summed over a row; smaller numbers or float64"),
        (lambda: picks(X, 12), "batch_size is 12; 1 to 11, the number of unlabelled instances, was expected"),
        (lambda: picks(X, 2.5), "batch_size is 2.5; 1 to 11, the number of unlabelled instances, was expected"),
        (lambda: picks(X, 2, Y - 1), "index holds positions from -1 to 1; 0 to 10 was expected"),
        (lambda: view_picks(View(X, Y, W), 12), "batch_size is 12; 1 to 11, the number of unlabelled instances, was"),
        (lambda: view_picks(View(X, Y, W), 2, top_classes=4), "top_classes is 4; 1 to 3, the number of classes, was"),
        (lambda: Options(rate=0), "rate is 0.0; a finite number above 0 was expected"),
        (lambda: Options(optimiser="sdg"), "did you mean 'sgd'?"),
        (lambda: View(X, Y + 1, W), "labels holds labels from 1 to 3; 0 to 2 was expected"),
        (lambda: View(X, Y, W, cycle=-1), "cycle is -1; a whole number of at least 0 was expected"),
        (lambda: View(X, Y, W, bias=W[0]), "bias has shape (5,); (k) with k = 3 as in weight was expected"),
        (lambda: View(NAN, Y, W), "features holds 1 values that are NaN or infinite, the first at (2, 1)"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_each_other(call, words):
    refusal_of(call, words, kinds=(ValueError,))


def test_python_itself_refuses_names_and_numbers_of_arguments():
    for call in (
        lambda: picks(X),
        lambda: picks(X, 1, None, 4),
        lambda: picks(X, 1, wrong=2),
        lambda: picks(X, features=X),
    ):
        with pytest.raises(TypeError, match=r"picks\(\)"):
            call()


def test_gradients_are_detached_also_in_lists_and_in_threads():
    weight = torch.nn.Parameter(W.clone())

    @checked
    def product(features: Matrix, weights: Sequence[Float[Tensor, "k d"]]) -> Float[Tensor, "n k"]:
        found = []
        thread = threading.Thread(target=lambda: found.append(features @ weights[0].mT))
        thread.start()
        thread.join()
        found[0].numpy()  # which torch refuses of a tensor with a gradient
        return found[0] + weight.sum() * 0

    result = product(X.clone().requires_grad_(), [weight])
    assert torch.equal(result, X @ W.mT)
    assert not result.requires_grad
    assert weight.requires_grad, "the argument is not changed"
    assert torch.equal(scores(X.clone().requires_grad_(), weight), X @ W.mT)
    assert not View(X, Y, weight).weight.requires_grad


def test_features_of_inference_mode_can_be_trained_on():
    with torch.inference_mode():
        features = X * 2
    weight = W.clone().requires_grad_()
    (taking(Matrix)(features) @ weight.mT).sum().backward()
    assert torch.equal(weight.grad[0], features.sum(dim=0))
    assert View(features, Y, W).features.is_inference() is False


def test_autocast_around_a_call_changes_nothing():
    plain = scores(X, W)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(scores(X, W), plain)
        assert (X @ W.mT).dtype == torch.bfloat16, "autocast is on again"
    assert plain.dtype == torch.float32


def test_a_decomposition_that_fails_on_nan_names_the_argument():
    @checked
    def factor(matrix: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
        return torch.linalg.cholesky(matrix)

    broken = torch.eye(3)
    broken[0, 0] = math.nan
    refusal_of(lambda: factor(broken), "matrix holds 1 values that are NaN", kinds=(ValueError,))
    with pytest.raises(torch.linalg.LinAlgError):
        factor(-torch.eye(3))
    with pytest.raises(ValueError, match="matrix holds") as raised:
        factor(broken)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


def test_a_model_that_diverged_is_a_result_that_callers_judge():
    @dataclasses.dataclass(frozen=True, slots=True)
    class Model:
        weight: Float[Tensor, "k d"]

    @checked
    def fit(weight: Float[Tensor, "k d"]) -> Model:
        return Model(weight.log())

    assert torch.equal(fit(W * 0).weight, torch.full((3, D), -math.inf))
    refusal_of(lambda: fit(W * math.nan), "weight holds 15 values that are NaN", kinds=(ValueError,))


def test_results_that_are_tuples_are_looked_at():
    @checked
    def pair(weight: Float[Tensor, "k d"]) -> tuple[Float[Tensor, "k d"], Float[Tensor, " d"]]:
        return weight, weight.sum(dim=0).log()

    refusal_of(lambda: pair(W * 0), "weight lead to values that are not finite", kinds=(ValueError,))
    refusal_of(lambda: pair(W * math.nan), "weight holds 15 values that are NaN", kinds=(ValueError,))


def test_names_that_come_later_and_names_that_never_come():
    @checked
    def function(later: "Later", never: "Never", size: "Count"):  # noqa: F821
        return later, never, size

    function.__wrapped__.__globals__["Later"] = Options
    assert function(Options(), 3, np.int64(2)) == (Options(), 3, 2)
    refusal_of(lambda: function({}, 3, 2), "later is a dict; a Options was expected", kinds=(ValueError,))
    refusal_of(lambda: function(Options(), 3, 0), "size is 0; a whole number", kinds=(ValueError,))


class Head:
    @checked
    def logits(self, features: Matrix, count: Count = 1) -> Float[Tensor, "n d"]:
        return features * count

    @classmethod
    @checked
    def of(cls, features: Matrix) -> "Head":
        return cls()


def test_methods():
    assert torch.equal(Head().logits(X, np.int64(2)), X * 2)
    assert isinstance(Head.of(X), Head)
    refusal_of(lambda: Head().logits(X, 0), "count is 0", kinds=(ValueError,))
    refusal_of(lambda: Head.of(3), "features is a int", kinds=(ValueError,))


def test_fields_are_plain_numbers_and_keep_the_rest():
    options = Options(rate=np.float32(0.5), epochs=np.int64(2), flag=np.True_)
    assert options == Options(0.5, 2, "sgd", True)
    assert [type(each) for each in vars(options).values()] == [float, int, str, bool]
    assert View(X, Y, W).features is X


@pytest.mark.parametrize("large", [torch.ones(2000, 1000).mT, torch.ones(2000, 1000)[:, ::2]], ids=["mT", "columns"])
def test_looking_for_large_values_copies_nothing(large):
    with torch.profiler.profile(profile_memory=True) as profile:
        taking(Matrix)(large)
    assert max(each.self_cpu_memory_usage for each in profile.key_averages()) < 1000  # bytes


def test_a_list_that_a_function_appends_to_stays_the_same():
    record = [1]
    taking(list[int])(record).append(2)
    assert record == [1, 2]


def test_the_function_remains_what_it_was():
    assert scores.__doc__ == "The documentation."
    assert unchecked(scores)(NAN, W).isnan().any(), "inner loops are not checked"
    assert unchecked(len) is len
    assert pickle.loads(pickle.dumps(scores)) is scores
    assert is_checked(scores)
    assert is_checked(functools.partial(scores, X))
    assert is_checked(Head().logits)
    assert is_checked(Head.of)
    assert not is_checked(unchecked(scores))
    assert not is_checked(len)


def test_values_are_right_with_all_arguments():
    assert picks(X.flip(0), batch_size=np.int64(3)).tolist() == [10, 9, 8]
    assert view_picks(View(X, Y, W), 2, top_classes=3).tolist() == [10, 9]
    assert torch.equal(scores(X, W, targets=Y), X @ W.mT)


def test_a_message_is_one_line_of_a_limited_length():
    text = "first\nsecond\x1b[0m" * 1000
    for annotation in (Count, Literal["a"], Positive, Sequence[int]):
        message = refusal_of(lambda: taking(annotation)(text), "x is 'first", kinds=(ValueError,))  # noqa: B023
        assert len(message) < 500
        assert "\x1b" not in message
