"""Imports run one way, and every public function of the methods states its contract."""

import ast
import importlib
import inspect
import itertools

import pytest

from dal_core.contracts import is_checked
from dal_core.strategies import registry

# What is named first may import what comes after it, and nothing before; the front door imports when it is asked.
CORE = (
    "textbook", "loop", "experiment", "ensembles", "oracles", "updates", "strategies", "models", "posterior",
    "task", "laplace", "snapshot", "protocols", "pool", "context", "data", "metrics", "devices", "parallel",
    "randomness", "blocks", "contracts", "checks",
)  # fmt: skip
LAB = ("companion", "studies", "runs", "sources", "tools")
TOOLS = {"dal_lab.runs.files", "dal_lab.runs.progress"}  # They stand below the sources.
ELSEWHERE = ("dal_lab", "matplotlib", "seaborn", "torchvision", "transformers", "datasets")


def imported(path):
    """Names of modules that the file's statements import, those for type checkers left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(module):
    return module.split(".")[1]


def test_imports_run_one_way(root):
    files = [path for path in (root / "dal_core").rglob("*.py") if path != root / "dal_core" / "__init__.py"]
    assert len(files) > 30
    for path in files:
        own = ".".join(path.relative_to(root).with_suffix("").parts)
        for name in imported(path):
            assert not name.startswith(ELSEWHERE), own
            if name.startswith("dal_core.") and layer(name) not in ("__version__", "RESULTS_VERSION"):
                assert CORE.index(layer(own)) <= CORE.index(layer(name)), f"{own} imports {name}"


def room(module):
    return "tools" if any(f"{module}.".startswith(f"{each}.") for each in TOOLS) else layer(module)


def test_imports_of_the_laboratory_run_one_way(root):
    files = [path for name in LAB for path in (root / "dal_lab" / name).rglob("*.py")]
    assert len(files) > 40
    for path in files:
        own = ".".join(path.relative_to(root).with_suffix("").parts)
        for name in imported(path):
            if name.startswith("dal_lab.") and room(name) in LAB:
                assert LAB.index(room(own)) <= LAB.index(room(name)), f"{own} imports {name}"


def test_every_layer_is_named(root):
    there = {path.stem for path in (root / "dal_core").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert there - {"__init__", "__pycache__", "py"} <= {*CORE}


# The algorithms; what stands in the other files configures, counts or keeps.
METHODS = ("laplace", "metrics", "strategies", "oracles", "ensembles")
UNCHECKED = {"dal_core.strategies.registry"}  # It looks strategies up by name.
# Steps of methods, called in their loops on what the methods have checked.
INNER = {
    "last_layer", "most_probable", "factors", "cheaper_space", "first_of_smallest", "drawn_in_proportion",
    "lazy_argmax", "forward", "backward",
}  # fmt: skip


def public_functions(root):
    paths = itertools.chain.from_iterable(
        (root / "dal_core").glob(pattern) for name in METHODS for pattern in (f"{name}.py", f"{name}/**/*.py")
    )
    for path in sorted(paths):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        if module in UNCHECKED:
            continue
        for name, function in inspect.getmembers(importlib.import_module(module), inspect.isfunction):
            if function.__module__ == module and not name.startswith("_"):
                yield f"{module}.{name}", function


def test_every_public_function_of_the_methods_states_its_contract(root):
    found = dict(public_functions(root))
    assert len(found) > 50
    unchecked = {name.rpartition(".")[2] for name, function in found.items() if not is_checked(function)}
    assert unchecked == INNER


@pytest.mark.parametrize("name", registry.names())
def test_every_strategy_states_its_contract(name):
    assert is_checked(registry.get(name))
