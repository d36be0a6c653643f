"""Section 1: the card, how reproducible it is set, and the tests that need it, by name."""

import dataclasses
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import machine
from benchmarks.gpu.settings import Item, Result, Settings, Skipped
from dal_core.models.heads import Head
from dal_core.models.training import OPTIMISERS, Training, train_head
from dal_core.randomness import generator_for

ROOT = Path(__file__).resolve().parents[2]
TESTS = "tests/test_cuda.py"
PLUGIN = "benchmarks.gpu.outcomes"
QUERY = "name,driver_version,memory.total,clocks.max.sm,power.limit,pcie.link.gen.max"
EPOCHS = 20  # of a training that is repeated
TIME_TO_END = 3.0  # seconds kept of an item's time to read what its process has written


def items(settings: Settings) -> list[Item]:
    """Return the measurements of this section."""
    del settings
    return [
        Item("card", card, 0.5),
        Item("determinism", determinism, 0.5),
        Item("repeated training", repeated_training, 0.5),
        Item("operations without a fixed order", without_fixed_order, 0.5),
        Item("tests", tests, 8, may_take=1.0),
    ]


def card(settings: Settings) -> Result:
    """Name, memory and driver of the card, or of the processor."""
    if settings.device != "cuda":
        return {"name": machine.processor(), "kind": "cpu", "threads": torch.get_num_threads()}
    properties = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info()
    found = {"name": properties.name, "kind": "cuda", "memory_bytes": total, "free_bytes": free}
    for name in ("multi_processor_count", "major", "minor", "L2_cache_size"):
        found[name] = getattr(properties, name, None)
    found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "count": torch.cuda.device_count()}
    found["bfloat16"] = torch.cuda.is_bf16_supported()
    return found | {"nvidia_smi": _nvidia_smi()}


def _nvidia_smi() -> dict[str, str] | str:
    """Return what the driver's own tool says, or why it does not."""
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"{type(error).__name__}: {error}"
    lines = printed.strip().splitlines() or [""]
    return dict(zip(QUERY.split(","), map(str.strip, lines[0].split(",")), strict=False))


def determinism(settings: Settings) -> Result:
    """Return the settings on which it depends whether the same computation gives the same bits."""
    del settings
    return {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "CUBLAS_WORKSPACE_CONFIG": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "CUDA_LAUNCH_BLOCKING": os.environ.get("CUDA_LAUNCH_BLOCKING"),
    }


def repeated_training(settings: Settings) -> Result:
    """Return whether a head that is trained three times from one start has the same bits, and how far it differs."""
    found: Result = {}
    for name in OPTIMISERS:
        weights = [_trained(settings.where, name).weight for _ in range(3)]
        found[name] = {
            "same_bits": all(torch.equal(weights[0], each) for each in weights[1:]),
            "largest_difference": max(float((weights[0] - each).abs().max()) for each in weights[1:]),
            "largest_difference_to_cpu": float(
                (weights[0].cpu() - _trained(torch.device("cpu"), name).weight).abs().max()
            ),
        }
    return found


def _trained(device: torch.device, optimiser: str) -> Head:
    draw = generator_for(0, "features")
    features, labels = torch.randn(200, 64, generator=draw), torch.randint(10, (200,), generator=draw)
    start = Head.initial("linear", 64, 10, generator_for(0, "head"), device=device)
    everything = torch.arange(200, device=device)
    training = dataclasses.replace(Training(optimiser), epochs=EPOCHS)
    shuffle = generator_for(0, "minibatches")
    return train_head(start, features.to(device), labels.to(device), everything, training, shuffle)


def without_fixed_order(settings: Settings) -> Result:
    """Return what torch warns about in a run of each kind: operations whose sums come in no fixed order on the card."""
    from dal_lab.runs.settings import experiment_of
    from dal_lab.runs.study import run

    found: dict[str, list[str]] = {}
    for name in ("badge", "typiclust", "bait", "unc_herding", "probcover", "alfamix", "boss"):
        options: dict[str, Any] = {"epochs": 3}
        options |= {"num_candidates": 3, "retraining_epochs": 2} if name == "boss" else {}
        study = experiment_of(
            strategy=name,
            cycles=1,
            subset_size=100,
            device=settings.device,
            allow_oracle=name == "boss",
            options=options,
        )
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                run(study)
        finally:
            torch.use_deterministic_algorithms(False)
        texts = {str(each.message).split(" does not have a deterministic")[0] for each in caught}
        found[name] = sorted(text for text in texts if "\n" not in text and len(text) < 80)
    return {"by_strategy": found}


def tests(settings: Settings) -> Result:
    """Run the tests marked `cuda` in a process of their own: passed, failed and skipped, by name."""
    if machine.version("pytest") is None:
        raise Skipped("pytest is not installed")
    outcomes = settings.work / "outcomes.jsonl"
    command = [sys.executable, "-m", "pytest", "-p", PLUGIN, "-p", "no:cacheprovider", "-m", "cuda", "--tb=line", TESTS]
    variables = {"DAL_CUDA_TESTS_ON": settings.device, "DAL_OUTCOMES": str(outcomes)}
    golden = settings.given("golden")
    if golden is not None and not (ROOT / "tests" / "golden").is_dir():  # a tree that travelled without them
        variables["DAL_GOLDEN"] = str(golden)
    environment = os.environ | variables
    cut_off, printed = False, ""
    try:
        ended = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
            timeout=max(1.0, settings.left() - TIME_TO_END),
        )  # fmt: skip
        printed = ended.stdout + ended.stderr
    except subprocess.TimeoutExpired:
        cut_off = True
    return _summary(outcomes, printed, cut_off=cut_off)


def _summary(outcomes: Path, printed: str, *, cut_off: bool) -> Result:
    lines = outcomes.read_text(encoding="utf-8").splitlines() if outcomes.is_file() else []
    reports = [json.loads(line) for line in lines if line.endswith("}")]  # the last one may be half written
    by_outcome: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}
    for report in reports:
        by_outcome[report["outcome"]].append(report["name"])
    if not reports:
        last = (printed.strip().splitlines() or ["pytest said nothing"])[-1]
        raise RuntimeError(f"no test ran: {last}")
    reasons = {report["name"]: report["line"] for report in reports if report["line"]}
    counts = {name: len(names) for name, names in by_outcome.items()}
    return {"counts": counts, "cut_off": cut_off, **by_outcome, "reasons": reasons}
