"""Everything that runs on CUDA or MPS, on a pretended device: the same results, and no waiting in the inner loops."""

import dataclasses
import itertools

import pandas as pd
import pytest
import torch
from pretend_device import TO_CPU, TO_DEVICE, WAIT, DeviceTensor, PretendedDevice
from samples import points, seeded, snapshot_of, unit_points
from test_strategy_contract import ALL, ORACLES, on_device, strategy_of, usual

from dal_core import laplace, loop, metrics, strategies
from dal_core.checks import check_memory
from dal_core.context import Context
from dal_core.devices import now
from dal_core.models.heads import KINDS, Head
from dal_core.models.training import OPTIMISERS, Training, train_heads
from dal_core.strategies.bait import bait_select
from dal_core.strategies.probcover import probcover_select
from dal_core.strategies.shared.clustering import k_means
from dal_core.updates import Updates, select_sequentially
from dal_lab.runs import study
from dal_lab.runs.settings import experiment_of
from dal_lab.runs.study import run
from dal_lab.studies.updating import UpdateStudy

POOL = {"n": 97, "m": 23}
FACTORS, SELECTIONS, FISHERS = ("exact", "top", "binary"), ("forward_backward", "topk"), ("sum", "mean")
# Where the host decides for each pick, and how often it waits or copies for one at the most.
DECIDED_BY_THE_HOST = {
    "coreset": 1, "typiclust": 1, "tcm": 1, "typiclass": 1, "dropqueryclass": 1, "badge": 2, "falcun": 2, "selectal": 2,
    "probcover": 3, "boss": 3, "max_herding": 4, "unc_herding": 4,
    "cdo": 14,  # trains heads for each pick, and takes the best or the margin strategy's as their losses say
}  # fmt: skip


@pytest.fixture
def device():
    with PretendedDevice() as pretended:
        yield pretended


def moved(value, device):
    """On the device, and what stays with it: options, None."""
    return value.to(device.where) if isinstance(value, (torch.Tensor, Head)) else value


def both(function, device, *arguments, **options):
    """What a function of tensors returns on the CPU and on the device, the latter fetched; it has to be there."""
    expected = function(*arguments, **options)
    found = function(
        *(moved(each, device) for each in arguments), **{name: moved(each, device) for name, each in options.items()}
    )
    results = [each if isinstance(each, tuple) else (each,) for each in (expected, found)]
    assert all(isinstance(each, DeviceTensor) for each in results[1])
    return [[each.cpu() for each in part] for part in results]


def assert_equal_on_both(function, device, *arguments, **options):
    for expected, found in zip(*both(function, device, *arguments, **options), strict=True):
        assert found.tolist() == expected.tolist()


# --- the pretended device itself


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (
            lambda x: x + torch.ones(3, 2),
            r"at least two devices, cuda:0 and cpu: add of CPU tensors of shapes \[\(3, 2",
        ),
        (lambda x: torch.where(x > 0, x, torch.ones(2)), "at least two devices"),
        (lambda x: torch.ones(3)[x[:, 0].long()], "at least two devices"),
        (lambda x: x.index_put_((x[:, 0].long(),), torch.ones(2)), "at least two devices"),
        (lambda x: torch.ones(2).add_(x[0]), "at least two devices"),
        (lambda x: torch.ones(2).add_(x.sum()), "at least two devices"),
        (lambda x: x @ torch.ones(2), "at least two devices"),
        (lambda x: x.index_select(0, torch.tensor([0])), "at least two devices"),
        (lambda x: torch.stack((x.sum(), torch.tensor(1.0))), "at least two devices"),
        (lambda x: torch.rand(3, generator=seeded(), device=x.device), "Expected a 'cuda' device type for generator"),
        (lambda x: x.numpy(), "numpy"),
    ],
)
def test_what_cuda_refuses_is_refused(device, operation, message):
    with pytest.raises((RuntimeError, TypeError), match=message):
        operation(torch.ones(3, 2).to(device.where))


@pytest.mark.parametrize(
    ("operation", "log"),
    [
        (lambda x: x + torch.tensor(1.0), []),
        (lambda x: torch.minimum(x, -x, out=x).view(-1)[1:].mul_(2), []),
        (lambda x: x[1:].index_fill_(0, x.argmin(dim=0)[:1] * 0, 3.0), []),
        (lambda x: torch.zeros(2, device=x.device) + torch.zeros_like(x), []),
        (lambda x: x.masked_fill_(x > 0, 1.0), []),
        (lambda x: x.cpu(), [TO_CPU]),
        (lambda x: x.tolist(), [TO_CPU]),
        (lambda x: float(x.sum()), [WAIT]),
        (lambda x: bool(x.any()), [WAIT]),
        (lambda x: x[x[:, 0].argmax()], [WAIT]),
        (lambda x: x[x > 0], [WAIT]),
        (lambda x: x.nonzero(), [WAIT]),
        (lambda x: x.unique(), [WAIT]),
        (lambda x: torch.linalg.cholesky(x[:2].T @ x[:2] + torch.eye(2, device=x.device)), [WAIT]),
        (lambda x: x[torch.tensor([0, 1])], [TO_DEVICE]),
        (lambda x: torch.tensor([1], device=x.device), [TO_DEVICE]),
        (lambda x: torch.ones(2).to(x.device), [TO_DEVICE]),
    ],
)
def test_what_the_host_waits_for_is_logged(device, operation, log):
    x = torch.arange(6.0).view(3, 2).to(device.where)
    device.log.clear()
    operation(x)
    assert [event.kind for event in device.log] == log


def test_the_log_says_where(device):
    with pytest.raises(ValueError, match="holds 1 values"):
        k_means(torch.tensor([[1.0], [torch.inf]], device=device.where), 1, seeded())
    assert any("check_finite < " in event.place and " _look" in event.place for event in device.log[1:])
    assert "wait: _local_scalar_dense, checks.py:" in device.report()


# --- the same results


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ALL)
def test_strategies_pick_as_on_the_cpu(device, name):
    for sizes in ({}, POOL):
        snapshot = usual(name, **sizes)
        expected = strategy_of(name)(snapshot, 7, seeded())
        found = strategy_of(name)(on_device(snapshot, device.where), 7, seeded())
        assert isinstance(found, DeviceTensor)
        assert found.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("approximation", "selection", "fisher"), list(itertools.product((*FACTORS, "diagonal"), SELECTIONS, FISHERS))
)
@pytest.mark.parametrize("d", [5, 40])  # in the space of the parameters, and in that of the rows
def test_bait_picks_as_on_the_cpu(device, approximation, selection, fisher, d):
    snapshot = snapshot_of(d=d)
    options = {"approximation": approximation, "selection": selection, "fisher": fisher}
    options |= {"top_classes": 2} if approximation == "top" else {}
    pool = (snapshot.features, snapshot.logits, snapshot.labelled_features, snapshot.labelled_logits)
    assert_equal_on_both(bait_select, device, *pool, 7, **options)


@pytest.mark.parametrize("radius", [0.01, 0.3, 0.7, 1.9])  # nobody has neighbours, ..., everything is covered at once
@pytest.mark.parametrize("kind", ["usual", "duplicates", "zeros"])
def test_probcover_picks_as_on_the_cpu(device, kind, radius):
    unlabelled, labelled = unit_points(n=59, m=4)
    if kind == "duplicates":
        unlabelled = unlabelled[:7].repeat(9, 1)[:59]
    if kind == "zeros":
        unlabelled[20:30] = 0
    expected = probcover_select(unlabelled, labelled, 31, seeded(), radius=radius)
    there = [each.to(device.where) for each in (unlabelled, labelled)]
    assert probcover_select(*there, 31, seeded(), radius=radius).tolist() == expected.tolist()


def test_k_means_finds_the_clusters_of_the_cpu(device):
    features, _ = points(n=300, d=9)
    found = k_means(features.to(device.where), 12, seeded())
    assert isinstance(found, DeviceTensor)
    assert found.tolist() == k_means(features, 12, seeded()).tolist()


@pytest.mark.parametrize("name", ["margin", "bait", "badge"])
def test_sequential_batches_are_those_of_the_cpu(device, name):
    snapshot, truth = snapshot_of(), torch.arange(31) % 3

    def batch(snapshot, truth):
        return select_sequentially(strategies.get(name), snapshot, 7, seeded(), truth, Updates(every=2))

    found = batch(on_device(snapshot, device.where), truth.to(device.where))
    assert isinstance(found, DeviceTensor)
    assert found.tolist() == batch(snapshot, truth).tolist()


def test_laplace_functions_are_those_of_the_cpu(device):
    s, targets = snapshot_of(), torch.tensor([2, 0, 1, 1])
    new, candidates = s.features[:4], s.features[:12].view(3, 4, 5)
    for likelihood in laplace.LIKELIHOODS:
        known = (s.labelled_features, s.labelled_logits)
        assert_equal_on_both(laplace.precision_matrix, device, *known, likelihood=likelihood)
        covariance = laplace.covariance_matrix(laplace.precision_matrix(*known, likelihood=likelihood))
        update = (laplace.second_order_update, device, s.weight, covariance, new, targets)
        assert_equal_on_both(*update, likelihood=likelihood, passes=2)
    assert_equal_on_both(laplace.covariance_matrix, device, torch.eye(5) * 2)
    variance = laplace.predictive_variance(s.features, covariance)
    assert_equal_on_both(laplace.predictive_variance, device, s.features, covariance)
    assert_equal_on_both(laplace.mean_field_logits, device, s.logits, variance, 0.4)
    batches = (candidates, targets.expand(3, -1))
    assert_equal_on_both(laplace.second_order_weights, device, s.weight, covariance, *batches)
    assert_equal_on_both(laplace.first_order_update, device, s.weight, new, targets, gamma=0.1)
    hypotheses = laplace.sample_weights(s.weight, covariance, 6, seeded())
    there = laplace.sample_weights(moved(s.weight, device), moved(covariance, device), 6, seeded())
    assert there.tolist() == hypotheses.tolist()
    assert_equal_on_both(laplace.monte_carlo_weights, device, hypotheses, new, targets, gamma=0.3)
    shares = torch.full((6,), 1 / 6, dtype=torch.float64)
    assert_equal_on_both(laplace.monte_carlo_probabilities, device, hypotheses, shares, s.features)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_heads_are_those_of_the_cpu(device, kind, optimiser):
    features, _ = points(n=31)
    sets = torch.stack([torch.arange(11), torch.arange(20, 31)])
    training = dataclasses.replace(Training(optimiser), epochs=7, batch_size=4)

    def trained(features, labels, sets):
        initial = Head.initial(kind, 5, 3, seeded(), dtype=torch.float64, device=features.device)
        head = train_heads(initial, features, labels, sets, training, [seeded(i) for i in range(2)])
        return tuple(part for part in vars(head).values() if part is not None)

    arguments = (features, torch.arange(31) % 3, sets)
    assert_equal_on_both(trained, device, *arguments)
    there = [moved(each, device) for each in arguments]
    device.log.clear()
    trained(*there)
    orders = [event for event in device.log if event.kind == TO_DEVICE and "_train_block" in event.place]
    assert len(orders) == 1, device.report()  # of all epochs, because they are small
    assert device.count(WAIT) < 10, device.report()  # of checks, before the first epoch
    assert device.count(TO_CPU) == 0


def test_metrics_are_those_of_the_cpu(device):
    logits, labels = snapshot_of().logits, torch.arange(31) % 3
    there = [each.to(device.where) for each in (logits, labels)]
    assert metrics.evaluate(*there) == metrics.evaluate(logits, labels)
    device.log.clear()
    for metric in (metrics.accuracy, metrics.nll, metrics.brier, metrics.ece):
        assert metric(*there) == metric(logits, labels)
    assert device.count(TO_CPU) == 0, device.report()
    assert metrics.ace(*there) == metrics.ace(logits, labels)
    assert device.count(TO_CPU) == 2, device.report()  # its bins are NumPy's


def without_times(rows):
    return rows.drop(columns=[name for name in rows if name.endswith("_s")])


def resolved_to(device, monkeypatch):
    for module in (study, loop):
        monkeypatch.setattr(module, "resolve_device", lambda _: device.where)


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": "margin", "head": "mlp"},
        {"strategy": "typiclust", "optimiser": "radam"},
        {"strategy": "bait", "options": {"update_every": 4}},
        {"strategy": "boss", "allow_oracle": True, "options": {"num_candidates": 4, "retraining_epochs": 2}},
        {"strategy": "tailor", "options": {"strategies": ["random", "margin", "coreset"], "imbalance": 3}},
    ],
    ids=str,
)
def test_experiments_have_the_rows_of_the_cpu(device, monkeypatch, changes):
    options = {"epochs": 3} | changes.get("options", {})
    study = experiment_of(**{"cycles": 2, "subset_size": 60} | changes | {"device": "cpu", "options": options})
    expected = run(study)
    resolved_to(device, monkeypatch)
    pd.testing.assert_frame_equal(without_times(run(study)), without_times(expected), check_exact=True)
    assert device.count() > 0  # it was there


def test_updating_studies_have_the_rows_of_the_cpu(device, monkeypatch):
    study = UpdateStudy(
        new_sizes=(1, 3), draws=2, num_hypotheses=5, gradient_steps=(2,), device="cpu", options={"epochs": 3}
    )
    expected = run(study)
    resolved_to(device, monkeypatch)
    pd.testing.assert_frame_equal(without_times(run(study)), without_times(expected), check_exact=True)
    assert device.count() > 0


# --- inner loops


def events(device, name, batch_size):
    """What a query logs on a pool that does not depend on the size of the batch."""
    snapshot = on_device(usual(name, **POOL), device.where)
    device.log.clear()
    strategy_of(name)(snapshot, batch_size, seeded())
    return device.count()


@pytest.mark.parametrize("name", ALL)
def test_the_host_does_not_wait_for_each_pick(device, name):
    few = events(device, name, 4)
    many = events(device, name, 16)
    assert many - few <= 12 * DECIDED_BY_THE_HOST.get(name, 0), device.report()
    assert (many > few) == (name in DECIDED_BY_THE_HOST), device.report()


@pytest.mark.parametrize(
    ("approximation", "selection", "fisher"), list(itertools.product(FACTORS, SELECTIONS, FISHERS))
)
def test_the_host_does_not_wait_for_each_pick_of_bait(device, approximation, selection, fisher):
    snapshot, counts = on_device(snapshot_of(n=97), device.where), []
    options = {"approximation": approximation, "selection": selection, "fisher": fisher}
    options |= {"top_classes": 2} if approximation == "top" else {}
    for batch_size in (4, 16):
        device.log.clear()
        strategies.get("bait", options)(snapshot, batch_size, seeded())
        counts.append(device.count())
    picked_by_the_host = approximation == "diagonal" and selection == "forward_backward"
    assert counts[1] - counts[0] <= 12 * 9 * picked_by_the_host, device.report()


def test_annealing_waits_for_each_step_and_no_more(device):
    """It is a walk: what the next proposal changes depends on whether the last one was kept."""
    snapshot, counts = on_device(usual("sas", **POOL), device.where), []
    for steps in (4, 24):
        device.log.clear()
        options = {"steps": steps, "greedy_steps": 0, "retraining_epochs": 3}
        strategies.get("sas", options)(snapshot, 3, seeded(), context=Context(remaining=(3, 3)))
        counts.append(device.count())
    assert counts[1] - counts[0] <= 20 * 20, device.report()


# --- a device without float64


@pytest.mark.parametrize("head", KINDS)
@pytest.mark.parametrize("name", ["margin", "bait", "typiclust", "boss"])
def test_experiments_make_no_float64_on_mps(monkeypatch, head, name):
    options = {"epochs": 3} | ({"num_candidates": 4, "retraining_epochs": 2} if name in ORACLES else {})
    study = experiment_of(
        strategy=name, head=head, cycles=2, subset_size=60, device="cpu", allow_oracle=name in ORACLES, options=options
    )
    expected = run(study)
    with PretendedDevice("mps", float64=False) as device:
        resolved_to(device, monkeypatch)
        with pytest.raises(TypeError, match="mps has no float64"):
            torch.ones(1, dtype=torch.float64).to(device.where)
        device.log.clear()
        rows = run(study)
    pd.testing.assert_frame_equal(without_times(rows), without_times(expected), check_exact=True)
    assert any("_train_block" in event.place for event in device.log)  # heads are trained there


def test_studies_but_for_experiments_leave_mps_to_the_cpu(monkeypatch):
    monkeypatch.setattr(study, "resolve_device", lambda _: torch.device("mps"))
    assert study.device_of(UpdateStudy()) == torch.device("cpu")
    assert study.device_of(experiment_of()) == torch.device("mps")
    assert study.configuration(UpdateStudy())["device"] == "cpu"


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_the_clock_waits_for_the_device(monkeypatch, kind):
    waited = []
    monkeypatch.setattr(getattr(torch, kind), "synchronize", lambda *_: waited.append(kind))
    now(torch.device("cpu"))
    assert waited == []
    now(torch.device(kind))
    assert waited == [kind]


# --- memory


def test_free_memory_is_that_of_the_device_in_use(device, monkeypatch):
    like = torch.empty(0, device=device.where)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 2000))
    with pytest.raises(ValueError, match=r"needs 1,200 bytes, 1,000 are free on cuda:0; make it smaller"):
        check_memory("the thing", (300,), like, "make it smaller")
    check_memory("the thing", (300,), torch.empty(0), "make it smaller")
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 700)  # of which 300 are in use
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 300)
    check_memory("the thing", (300,), like, "make it smaller")


def test_a_small_gpu_trains_fewer_heads_at_a_time(device, monkeypatch):
    sizes, original = [], torch.cuda.mem_get_info
    monkeypatch.setattr("dal_core.models.training._train_block", lambda views, *_: sizes.append(len(views[0])))
    features, labels = points(n=31)[0].to(device.where), (torch.arange(31) % 3).to(device.where)
    sets = torch.arange(11).expand(6, -1).to(device.where)
    head_bytes = 4 * 3 * 8 * 8  # with its gradient and the optimiser's state; 5 features and the bias in rows of 8
    for free in (original(), (4 * 2 * head_bytes, 0)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: free)
        initial = Head.initial("linear", 5, 3, seeded(), dtype=torch.float64, device=device.where)
        train_heads(initial, features, labels, sets, Training("sgd"), [seeded()] * 6)
    assert sizes == [6, 2, 2, 2]
