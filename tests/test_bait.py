"""BAIT against the rule as the paper states it, and what must not matter."""

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dal_core.strategies.bait import bait_first_scores, bait_select, select
from dal_core.strategies.bait.spaces import GramSpace, ParameterSpace
from dal_core.textbook import bait as plain

VARIANTS = [
    {"approximation": "exact"},
    {"approximation": "top", "top_classes": 1},
    {"approximation": "top", "top_classes": 2},
    {"approximation": "top", "top_classes": 2, "renormalise": False},
    {"approximation": "top", "top_classes": 4},
    {"approximation": "binary"},
    {"approximation": "diagonal"},
]
NAMES = ["-".join(str(value) for value in options.values()) for options in VARIANTS]
variants = pytest.mark.parametrize("options", VARIANTS, ids=NAMES)


def data(n=23, m=7, k=4, d=5, *, seed=0, dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n + m, d, generator=generator, dtype=torch.float64) * scale
    logits = features @ torch.randn(d, k, generator=generator, dtype=torch.float64)
    features, logits = features.to(dtype), logits.to(dtype)
    return features[m:], logits[m:], features[:m], logits[:m]


def textbook(*arguments, **options):
    return plain.bait_select(*arguments, **options).tolist()


@variants
@pytest.mark.parametrize("fisher", ["sum", "mean", "batch_means"])
@pytest.mark.parametrize("selection", ["forward_backward", "topk"])
def test_picks_are_those_of_the_textbook(options, fisher, selection):
    for seed, (batch_size, prior_precision) in enumerate(itertools.product((1, 6), (1.0, 0.1))):
        sample = data(seed=seed)
        more = {"fisher": fisher, "selection": selection, "prior_precision": prior_precision, **options}
        assert bait_select(*sample, batch_size, **more).tolist() == textbook(*sample, batch_size, **more)


@variants
def test_fewer_rows_than_parameters(options):
    """n + m = 9 samples of up to 4 rows, 4 * 40 parameters (40 in the binary case): the Gram matrix is the smaller."""
    sample = data(n=7, m=2, d=40, scale=0.3)
    assert bait_select(*sample, 3, **options).tolist() == textbook(*sample, 3, **options)


@variants
def test_nothing_labelled_yet(options):
    sample = data(m=0)
    assert bait_select(*sample, 4, **options).tolist() == textbook(*sample, 4, **options)


@pytest.mark.parametrize("options", VARIANTS[:6], ids=NAMES[:6])
def test_both_spaces_give_the_same_picks(options, monkeypatch):
    sample = data(n=30, m=36, k=4, d=8)
    spaces = {
        "parameters": lambda *parts: ParameterSpace.of(*parts[:3]),
        "rows": lambda *parts: GramSpace.of(*parts[:3]),
    }
    picked = {}
    for name, space in spaces.items():
        monkeypatch.setattr(select, "cheaper_space", space)
        picked[name] = [bait_select(*sample, 5, **options, fisher=each).tolist() for each in ("sum", "batch_means")]
    expected = [textbook(*sample, 5, **options, fisher=each) for each in ("sum", "batch_means")]
    assert picked["parameters"] == picked["rows"] == expected


def test_batch_means_are_the_mean_up_to_a_batch_and_another_rule_than_the_sum():
    """The means over batches of 32, summed up, weigh what is labelled less; the last batch is of 1 to 32 instances."""
    few, many = data(n=192 - 20, m=20, d=9), data(n=192 - 50, m=50, d=9)
    picks = {each: bait_select(*few, 10, fisher=each).tolist() for each in ("sum", "mean", "batch_means")}
    assert picks["mean"] == picks["batch_means"] != picks["sum"]
    more = {each: set(bait_select(*many, 10, fisher=each).tolist()) for each in ("sum", "mean", "batch_means")}
    assert more["batch_means"] != more["sum"]
    assert textbook(*many, 10, fisher="batch_means") == bait_select(*many, 10, fisher="batch_means").tolist()


@pytest.mark.parametrize(
    ("options", "n", "space"),
    [
        (VARIANTS[5], 400, ParameterSpace),  # 407 rows, 50 parameters
        (VARIANTS[5], 30, GramSpace),  # 37 rows
        (VARIANTS[1], 400, GramSpace),  # 407 rows, 200 parameters: twice as many, but far less work
        (VARIANTS[1], 700, ParameterSpace),  # more than three times as many
        (VARIANTS[0], 400, ParameterSpace),  # 1628 rows, 200 parameters
    ],
)
def test_the_cheaper_space_is_chosen(options, n, space, monkeypatch):
    chosen = []
    original = select.cheaper_space
    monkeypatch.setattr(select, "cheaper_space", lambda *parts: chosen.append(original(*parts)) or chosen[-1])
    bait_select(*data(n=n, m=7, k=4, d=50), 3, **options)
    assert [type(each) for each in chosen] == [space]


def test_all_classes_on_top_are_the_exact_information():
    sample = data()
    exact = bait_select(*sample, 6, approximation="exact")
    assert bait_select(*sample, 6, approximation="top", top_classes=4).tolist() == exact.tolist()


@variants
def test_the_size_of_blocks_does_not_matter(options):
    sample = data(n=61, d=9)
    expected = bait_select(*sample, 8, **options).tolist()
    for block_bytes in (1, 5_000):
        assert bait_select(*sample, 8, block_bytes=block_bytes, **options).tolist() == expected


@variants
def test_permuting_the_pool_permutes_the_picks(options):
    features, logits, *labelled = data(n=40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    permuted = bait_select(features[order], logits[order], *labelled, 5, **options)
    assert order[permuted].tolist() == bait_select(features, logits, *labelled, 5, **options).tolist()


@pytest.mark.parametrize("options", VARIANTS[:6], ids=NAMES[:6])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_removals_in_blocks_leave_the_picks_of_single_ones(options, dtype, monkeypatch):
    """Of 150 picks 75 are removed: 64 before the matrices are corrected, then 11."""
    sample = data(n=160, d=12, dtype=dtype)
    single = bait_select(*sample, 75, **options).tolist()
    monkeypatch.setattr(select, "CACHED_PICKS", 0)
    assert bait_select(*sample, 75, **options).tolist() == single


@variants
@pytest.mark.parametrize("batch_size", [1, 23, 15])
def test_batches_up_to_the_whole_pool(options, batch_size):
    picked = bait_select(*data(), batch_size, **options)
    assert len(set(picked.tolist())) == batch_size
    assert set(picked.tolist()) <= set(range(23))


@pytest.mark.parametrize("options", [VARIANTS[5], VARIANTS[1]], ids=["binary", "top"])
def test_float32_picks_what_float64_picks_after_hundreds_of_steps(options):
    """300 steps on carried quantities: at least 95 of 100 picks have to agree."""
    sample = data(n=5000, m=77, k=6, d=96, scale=2.0)
    double = bait_select(*sample, 100, **options)
    single = bait_select(*(tensor.float() for tensor in sample), 100, **options)
    assert len(set(double.tolist()) & set(single.tolist())) >= 95


@pytest.mark.parametrize("name", ["exact", "binary", "top1_norm", "top1_raw", "top2_norm", "top5_raw"])
@pytest.mark.parametrize("fisher", ["sum", "mean"])
def test_golden_selections(golden, name, fisher):
    options = {"approximation": name}
    if name.startswith("top"):
        options = {"approximation": "top", "top_classes": int(name[3]), "renormalise": name.endswith("norm")}
    inputs = (golden[key] for key in ("x_unlabeled", "logits_unlabeled", "x_labeled", "logits_labeled"))
    picked = bait_select(*inputs, 10, fisher=fisher, **options)
    assert picked.tolist() == golden[f"bait/{name}/{fisher}/selected"].tolist()


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation allocates."""

    largest = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        inputs = {tensor.untyped_storage().data_ptr() for tensor in arguments if isinstance(tensor, torch.Tensor)}
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in inputs:
                self.largest = max(self.largest, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.parametrize("options", VARIANTS[:3], ids=NAMES[:3])
def test_no_factor_of_the_whole_pool_is_ever_formed(options):
    n, k, d = 3000, 5, 24
    sample = data(n=n, k=k, d=d)
    with LargestTensor() as seen:
        bait_select(*sample, 4, block_bytes=10_000, **options)
    allowed = max(n * d, 2 * n * k * k)  # features; products with t and w. A factor would be n k k d
    assert 0 < seen.largest <= allowed


def test_the_binary_approximation_keeps_no_probabilities_of_the_whole_pool():
    sample = data(n=500, k=200, d=7)
    with LargestTensor() as seen:
        bait_select(*sample, 4, block_bytes=10_000)
    assert 0 < seen.largest < 500 * 200 / 5


def test_a_matrix_too_large_is_refused_before_it_is_made():
    features, logits = torch.zeros(9000, 300), torch.zeros(9000, 100)
    with pytest.raises(ValueError, match=r"side 30,000, 14,400,000,000 bytes.*at most 20,000.*'binary', 'top'"):
        bait_select(features, logits, features[:0], logits[:0], 5, approximation="exact")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"approximation": "top"}, "top_classes is None; 1 to 4"),
        ({"approximation": "top", "top_classes": 0}, "top_classes is 0; 1 to 4"),
        ({"approximation": "top", "top_classes": 5}, "top_classes is 5; 1 to 4"),
        ({"approximation": "top", "top_classes": True}, "top_classes is True; a whole number was expected"),
        ({"approximation": "binary", "top_classes": 2}, "top_classes is 2, but it belongs to 'top'"),
        ({"approximation": "topp"}, "approximation is 'topp'; it has to be one of 'exact'"),
        ({"fisher": "median"}, "fisher is 'median'; it has to be one of 'sum', 'mean'"),
        ({"selection": "forward"}, "selection is 'forward'; it has to be one of"),
        ({"approximation": "exact", "top_classes": 0}, "top_classes is 0, but it belongs to 'top'"),
        ({"prior_precision": 0.0}, "prior_precision is 0.0"),
        ({"batch_size": 24}, "batch_size is 24; 1 to 23"),
        ({"batch_size": 0}, "batch_size is 0; 1 to 23"),
        ({"block_bytes": 0}, "block_bytes is 0"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        bait_select(*data(), **{"batch_size": 3, **options})


@pytest.mark.parametrize("function", [bait_select, bait_first_scores])
@pytest.mark.parametrize("approximation", ["exact", "binary", "diagonal"])
def test_logits_of_one_column_are_refused(function, approximation):
    """A sigmoid's output: its softmax is 1 everywhere, which would leave no information and an arbitrary batch."""
    features_u, logits_u, features_l, logits_l = data()
    with pytest.raises(ValueError, match=r"logits_u has shape \(23, 1\); at least two classes were expected"):
        function(features_u, logits_u[:, :1], features_l, logits_l[:, :1], 3, approximation=approximation)


def test_inputs_that_do_not_fit_each_other_are_refused():
    features_u, logits_u, features_l, logits_l = data()
    bad = logits_u.clone()
    bad[2, 1] = torch.nan
    with pytest.raises(ValueError, match="logits_u holds 1 values that are NaN or infinite"):
        bait_select(features_u, bad, features_l, logits_l, 3)
    with pytest.raises(ValueError, match="logits_u has dtype"):
        bait_select(features_u, logits_u.float(), features_l, logits_l, 3)
    with pytest.raises(ValueError, match="batch_size is 1; 1 to 0"):
        bait_select(features_u[:0], logits_u[:0], features_l, logits_l, 1)


@variants
@pytest.mark.parametrize("fisher", ["sum", "mean"])
@pytest.mark.parametrize("selection", ["forward_backward", "topk"])
def test_first_scores_are_the_drop_of_the_trace_that_each_instance_alone_would_bring(options, fisher, selection):
    features_u, logits_u, features_l, logits_l = data()
    b, prior = 4, 1.7
    unlabelled, labelled = (
        plain.factors(features_u, logits_u, **options),
        plain.factors(features_l, logits_l, **options),
    )
    n, m, s = len(unlabelled), len(labelled), unlabelled.shape[2]
    weights = (m, n + m) if fisher == "mean" else (1, 1)
    information = [torch.einsum("ncs,nct->st", x, x) for x in (labelled, torch.cat((unlabelled, labelled)))]
    precision = prior * torch.eye(s, dtype=torch.float64) + information[0] / weights[0] * m / (m + b)
    scale = (b / (m + b)) if selection == "forward_backward" else 1.0
    before = torch.trace(precision.inverse() @ information[1] / weights[1])
    after = torch.stack([
        torch.trace((precision + scale * x.mT @ x).inverse() @ information[1] / weights[1]) for x in unlabelled
    ])  # fmt: skip
    found = bait_first_scores(*data(), b, fisher=fisher, prior_precision=prior, selection=selection, **options)
    torch.testing.assert_close(found, before - after, rtol=1e-8, atol=1e-10)


@variants
def test_the_highest_first_scores_are_picked_without_a_recursion(options):
    scores = bait_first_scores(*data(), 6, selection="topk", **options)
    picked = bait_select(*data(), 6, selection="topk", **options)
    assert picked.tolist() == scores.sort(descending=True, stable=True).indices[:6].tolist()


def test_first_scores_refuse_what_the_selection_refuses():
    with pytest.raises(ValueError, match="selection is 'top'"):
        bait_first_scores(*data(), 3, selection="top")
    with pytest.raises(ValueError, match="top_classes is 2, but it belongs to 'top'"):
        bait_first_scores(*data(), 3, top_classes=2)


def test_exact_factors_of_the_textbook_have_the_fisher_information_as_gram():
    features, logits, _, _ = data(n=11, m=2, k=3)
    p = logits.softmax(dim=1)
    inner = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    expected = torch.stack([torch.kron(h, torch.outer(x, x)) for h, x in zip(inner, features, strict=True)])
    x = plain.factors(features, logits, "exact")
    torch.testing.assert_close(x.mT @ x, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("fisher", ["sum", "mean"])
def test_the_two_rows_of_the_binary_approximation_and_one_row_are_the_same(fisher):
    sample = data(n=37, m=7)
    two, one = plain.factors(*sample[:2], "binary"), plain.one_row(*sample[:2])
    torch.testing.assert_close(two.mT @ two, one.mT @ one, rtol=1e-12, atol=1e-14)
    assert bait_select(*sample, 6, fisher=fisher).tolist() == plain.rank_one_select(*sample, 6, fisher=fisher).tolist()
