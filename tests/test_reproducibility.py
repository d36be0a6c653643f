"""What docs/reproducibility.md promises: each promise has a test, and some of these tests are here."""

import ast
import json
import os
import re
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def promises(root):
    """Of each row of the page's table, what is promised and the tests that are named."""
    lines = (root / "docs" / "reproducibility.md").read_text().splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    return {claim.strip(): re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", tests) for claim, tests in rows[2:]}


def test_each_promise_has_a_test_that_exists(promises, root):
    assert len(promises) >= 6
    for claim, tests in promises.items():
        assert tests, f"no test holds: {claim}"
        for path, name in tests:
            tree = ast.parse((root / path).read_text())
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{path}::{name}"


def digests_of_a_process(root, folder, **environment):
    """What a process of its own computes, started in `folder`."""
    script = root / "tests" / "all_strategies.py"
    command = [sys.executable, str(script)]
    paths = {"PYTHONPATH": str(root)}
    done = subprocess.run(
        command, cwd=folder, env=os.environ | paths | environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.slow
def test_processes_agree_bit_by_bit_on_every_strategy(root, tmp_path):
    one = digests_of_a_process(root, tmp_path, PYTHONHASHSEED="1", OMP_NUM_THREADS="1", TZ="UTC")
    two = digests_of_a_process(root, root, PYTHONHASHSEED="2", OMP_NUM_THREADS="4", TZ="Asia/Tokyo", LANG="C")
    assert len(one) >= 26
    assert one == two


@pytest.mark.slow
def test_nothing_reads_memory_that_was_never_written(root, tmp_path):
    """With deterministic algorithms torch fills new memory with NaN, and refuses operations that are not."""
    script = (
        "import torch\ntorch.use_deterministic_algorithms(True)\n"
        "import json, all_strategies\nprint(json.dumps(all_strategies.digests()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == digests_of_a_process(root, tmp_path)
