"""The check of strategies: honest ones pass, and of a broken one the property is named, with what was found."""

import re
import textwrap

import pytest
import torch
from pretend_device import PretendedDevice

from dal_core.strategies import registry
from dal_lab import strategy_check
from dal_lab.plugins import load_plugin
from dal_lab.strategy_answers import POOL, SETTINGS, SITUATIONS, Situation, example, tensors_of
from dal_lab.strategy_check import PROPERTIES, check, check_file

HEAD = """
import dataclasses, random, warnings
import numpy as np
import torch
import dal_core as dal
from dal_core.snapshot import LastLayer, Regression, Truth, WithModel

@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Pairs(LastLayer):
    partner: torch.Tensor

counted = []
scores = lambda snapshot: snapshot.features.square().sum(dim=1)
"""
HONEST = {
    "deterministic": "return scores(snapshot).argsort()[:batch_size]",
    "drawing": "return torch.randperm(len(snapshot.features), generator=generator)[:batch_size]",
}
POSITIONS = r"[\[\d, \]]+"
BROKEN = {  # The body of a strategy, and the lines about it.
    "writes": (
        "snapshot.features.mul_(2)\nreturn scores(snapshot).argsort()[:batch_size]",
        r"writes into its input: snapshot\.features changed by up to \d\.\d+; the same values as before were expected",
    ),
    "writes to the caller": (
        "snapshot.data.features.zero_()\nreturn scores(snapshot).argsort()[:batch_size]",
        r"writes into its input: snapshot\.data\.features changed by up to 2\.9, the caller's features changed by up "
        r"to 2\.9; the same values as before were expected",
    ),
    "writes labels": (
        "snapshot.labels.add_(1)\nreturn scores(snapshot).argsort()[:batch_size]",
        r"writes into its input: snapshot\.labels changed by up to 1, the caller's labels changed .*",
    ),
    "writes probabilities": (
        "snapshot.probabilities[0] = 0\nreturn scores(snapshot).argsort()[:batch_size]",
        r"writes into its input: snapshot\.probabilities changed by up to 0\.\d+; the same values .*",
    ),
    "asks for gradients": (
        "snapshot.features.requires_grad_()\nreturn scores(snapshot).argsort()[:batch_size]",
        r"writes into its input: snapshot\.features requires gradients; the same values as before were expected",
    ),
    "draws from torch": (
        "return torch.randperm(len(snapshot.features))[:batch_size]",
        "draws from a global generator: the state of torch changed; draws from the argument generator alone were "
        "expected",
        rf"depends on a global generator: {POSITIONS}, and {POSITIONS} \(other global seeds\); the same batch .*",
        rf"depends on the order of the pool: instances {POSITIONS}, and {POSITIONS} \(permuted pool\); the same "
        r"instances \(ties apart\), or draws from the argument generator, were expected",
    ),
    "draws from numpy and random": (
        "np.random.rand(), random.random()\nreturn scores(snapshot).argsort()[:batch_size]",
        r"draws from a global generator: the state of numpy\.random, random changed; draws from the .*",
    ),
    "draws behind a fork": (
        "with torch.random.fork_rng():\n"
        "    return torch.randperm(len(snapshot.features), generator=None)[:batch_size] + 0 * generator.seed()",
        rf"depends on a global generator: {POSITIONS}, and {POSITIONS} \(other global seeds\); the same batch .*",
    ),
    "counts its calls": (
        "counted.append(1)\nreturn scores(snapshot).argsort().roll(len(counted))[:batch_size]",
        rf"changes from call to call: {POSITIONS}, and {POSITIONS} \(second call\); the same batch was expected",
    ),
    "repeats": (
        "picks = scores(snapshot).argsort()[:batch_size]\nreturn torch.cat((picks[:1], picks[:-1]))",
        r"repeats a pick: position \d+ comes 2 times; different positions were expected",
    ),
    "takes the first": (
        "return torch.arange(batch_size)",
        rf"depends on the order of the pool: instances {POSITIONS}, and {POSITIONS} \(permuted pool\); the same "
        r"instances \(ties apart\), or draws from the argument generator, were expected",
    ),
    "sets the dtype": (
        "torch.set_default_dtype(torch.float64)\nreturn scores(snapshot).argsort()[:batch_size]",
        r"changes a setting of the process: the default dtype is torch\.float64, and was torch\.float32; the same as "
        "before was expected",
    ),
    "sets the threads": (
        "torch.set_num_threads(2)\ntorch.set_grad_enabled(False)\nreturn scores(snapshot).argsort()[:batch_size]",
        "changes a setting of the process: the number of threads is 2, and was 1, gradients enabled is False, and was "
        "True; the same as before was expected",
    ),
    "needs two classes": (
        "first, second, *_ = snapshot.labels.unique()\nreturn scores(snapshot).argsort()[:batch_size]",
        r"fails: ValueError: not enough values to unpack \(expected at least 2, got 1\) \(one class seen\); 7 "
        "positions were expected",
    ),
    "ends the program": (
        "raise SystemExit(3)",
        "fails: SystemExit: 3; 7 positions were expected",
    ),
    "needs float32": (
        "(snapshot.features @ torch.ones(snapshot.features.shape[1]))\nreturn scores(snapshot).argsort()[:batch_size]",
        r"fails: RuntimeError: .* same dtype.* \(float64\); 7 positions were expected",
    ),
    "returns instances": (
        "return snapshot.instances[scores(snapshot).argsort()[:batch_size]]",
        r"picks what is not in the pool: position \d\d.*; positions 0 to 36 in snapshot\.features, not in the data, "
        "were expected",
    ),
    "returns labelled": (
        "return torch.cat((snapshot.labelled, snapshot.instances))[:batch_size]",
        r"picks what is not in the pool: position \d\d.*; positions 0 to 36 in .*",
    ),
    "returns one too many": (
        "return scores(snapshot).argsort()[: batch_size + 1]",
        "returns no batch: 8 positions; a tensor of 7 integers was expected",
    ),
    "returns a list": (
        "return scores(snapshot).argsort()[:batch_size].tolist()",
        rf"returns no batch: {POSITIONS}; a tensor of 7 integers was expected",
    ),
    "returns scores": (
        "return scores(snapshot)[:batch_size]",
        r"returns no batch: tensor\(\[.*; a tensor of 7 integers was expected",
    ),
    "warns": (
        "warnings.warn('all the same\\nto me')\nreturn scores(snapshot).argsort()[:batch_size]",
        "warns: UserWarning: all the same to me; no warning was expected",
    ),
    "divides by the variance": (
        "1 / snapshot.features.std(dim=0).numpy()\nreturn scores(snapshot).argsort()[:batch_size]",
        r"warns: RuntimeWarning: divide by zero encountered in divide \(identical rows\); no warning was expected",
    ),
}


@pytest.fixture(autouse=True)
def own():
    """Forgets what a test registers."""
    yield
    registry.forget_own()


@pytest.fixture
def mine(tmp_path):
    """Writes a file that registers a strategy of this body, called mine."""

    def write(body, view=None, options=""):
        annotation = f": {view}" if view else ""
        head = f'@dal.register("mine")\ndef mine(snapshot{annotation}, batch_size, generator{options}):\n'
        (tmp_path / "my_strategy.py").write_text(HEAD + head + textwrap.indent(body, "    ") + "\n")
        return tmp_path / "my_strategy.py"

    return write


def lines_of(path, capsys, code):
    """What the check says of the strategies, below which it may say that the CPU is all there is."""
    assert check_file(path) == code
    lines = capsys.readouterr().out.splitlines()
    where = [] if torch.cuda.is_available() else ["checked on the CPU alone: torch sees no CUDA or MPS device here"]
    assert lines[len(lines) - len(where) :] == where
    return lines[: len(lines) - len(where)]


WELL = [f"mine: keeps all {len(PROPERTIES)} properties"]


@pytest.mark.parametrize("body", HONEST.values(), ids=HONEST)
def test_an_honest_strategy_passes(mine, capsys, body):
    assert lines_of(mine(body), capsys, 0) == WELL


@pytest.mark.parametrize(("body", "expected"), [(body, lines) for body, *lines in BROKEN.values()], ids=BROKEN)
def test_what_is_broken_is_named(mine, capsys, body, expected):
    lines = lines_of(mine(body), capsys, 1)
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(f"mine: {pattern}", line)


def test_there_is_a_broken_strategy_for_each_property():
    named = {pattern.partition(":")[0] for _, *patterns in BROKEN.values() for pattern in patterns}
    assert {each.broken for each in PROPERTIES} == named
    assert all(each.find.__doc__ for each in PROPERTIES)


def test_the_process_is_left_as_it_was(mine, capsys):
    torch.manual_seed(3)
    state, settings = torch.get_rng_state(), {name: read() for name, (read, _) in SETTINGS.items()}
    breaking = (
        "torch.rand(3)\ntorch.set_default_dtype(torch.float64)\nnp.seterr(all='ignore')\ntorch.set_num_threads(2)\n"
    )
    breaking += "torch.set_default_device('meta')\ntorch.set_grad_enabled(False)\n"
    breaking += "torch.set_float32_matmul_precision('medium')\ntorch.use_deterministic_algorithms(True)\n"
    breaking += "import os\nos.chdir('/')\n"
    (_, line, *_) = lines_of(mine(breaking + "return torch.arange(batch_size, device='cpu')"), capsys, 1)
    assert [name for name in settings if name not in line] == []
    assert {name: read() for name, (read, _) in SETTINGS.items()} == settings
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("view", "options", "body"),
    [
        ("", "", "(snapshot.mean + snapshot.variance.sqrt() + snapshot.members.mean(dim=1))"),
        ("Regression", "", "snapshot.variance"),
        ("WithModel", "", "snapshot.model.outputs(snapshot.data.inputs(snapshot.instances)).logits[:, 0]"),
        ("Truth", "", "(snapshot.hidden_labels + scores(snapshot) + len(snapshot.test.labels))"),
        ("", ", *, context, power=2, **more", "(scores(snapshot) ** (power + context.cycle))"),
    ],
)
def test_what_a_strategy_needs_is_given(mine, capsys, view, options, body):
    path = mine(f"return {body}.argsort(stable=True)[:batch_size]", view, options)
    assert lines_of(path, capsys, 0) == WELL


@pytest.mark.parametrize(
    ("view", "options", "body", "line", "code"),
    [
        ("", "", "snapshot.hidden_labels", "not checked: snapshot has no hidden_labels, which this strategy needs", 0),
        ("Pairs", "", "snapshot.partner", "not checked: snapshot has no partner, which this strategy needs", 0),
        (
            "", ", *, power", "(scores(snapshot) ** power)",
            "fails: TypeError: mine() missing 1 required keyword-only argument: 'power'; 7 positions were expected", 1,
        ),
    ],
)  # fmt: skip
def test_what_a_strategy_needs_and_cannot_have_is_said(mine, capsys, view, options, body, line, code):
    path = mine(f"return {body}.argsort()[:batch_size]", view, options)
    assert lines_of(path, capsys, code) == [f"mine: {line}"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import torch", "registers no strategy; a function below @dal_core.register.* was expected"),
        ("1 +", ".*"),
        ("raise RuntimeError('not today')", ".*not today"),
        (None, ".*"),
    ],
)
def test_a_file_without_a_strategy_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "my_strategy.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=rf"my_strategy\.py.* {message}") as raised:
        check_file(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ("snapshot.features.square().sum(dim=1)", []),
        (
            "torch.from_numpy(snapshot.features.numpy()).square().sum(dim=1)",
            [r"mine: fails: \w+: .* \(on cuda\); 7 positions were expected"],
        ),
    ],
)
def test_the_other_device_is_tried_where_there_is_one(mine, monkeypatch, body, lines):
    load_plugin(mine(f"return {body}.argsort()[:batch_size]"))
    with PretendedDevice() as device:
        there = {"on cuda": Situation(dtype="float32", device=device.where)}
        monkeypatch.setattr(strategy_check, "situations", lambda: SITUATIONS | there)
        found = check("mine")
    assert len(found) == len(lines)
    assert all(map(re.fullmatch, lines, found))


def test_the_pool_holds_what_a_wrong_position_shows_in():
    snapshot = example(SITUATIONS["float64"]).snapshot
    assert int(snapshot.labelled.max()) >= POOL
    assert int(snapshot.instances.max()) >= POOL


def test_every_tensor_is_watched():
    snapshot, arrays, _ = example(Situation(truth=True))
    assert {*tensors_of({"snapshot": snapshot})} == {
        f"snapshot.{name}"
        for name in (
            "features", "logits", "labelled_features", "labelled_logits", "labels", "instances", "labelled", "weight",
            "bias", "data.features", "hidden_labels", "test.data.features", "test.labels", "validation.data.features",
            "validation.labels", "model.stack.weight", "model.stack.bias", "model.head.weight", "model.head.bias",
        )
    }  # fmt: skip
    assert {*tensors_of(arrays)} >= {"features", "labels", "weight", "bias", "hidden_labels", "test.0", "test.1"}


@pytest.mark.parametrize(("page", "options"), [("README.md", ""), ("docs/extending.md", "squared")])
def test_the_strategy_that_is_shown_passes(root, tmp_path, capsys, page, options):
    text = (root / page).read_text()
    assert "dal check my_strategy.py" in text
    assert options in text
    block = next(each for each in text.split("```python\n")[1:] if "@dal.register(" in each)
    (tmp_path / "my_strategy.py").write_text(block.partition("```")[0])
    assert lines_of(tmp_path / "my_strategy.py", capsys, 0) == ["closest_to_origin" + WELL[0].removeprefix("mine")]
