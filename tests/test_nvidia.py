"""The line about an NVIDIA card that torch cannot use."""

import re

import pytest
import torch

from dal_lab.companion import command_line
from dal_lab.nvidia import unseen_card


@pytest.fixture
def card(tmp_path, monkeypatch):
    """Return a function that pretends a card with this answer of nvidia-smi, and a torch for this CUDA."""

    def pretend(answer, cuda, seen=False):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{answer}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: seen)
        monkeypatch.setattr(torch.version, "cuda", cuda)

    return pretend


@pytest.mark.parametrize(
    ("driver", "cuda", "expected"),
    [
        ("470.57.02", "13.2", r"its CUDA 13\.2 needs driver 580 or newer, and 470\.57\.02 is installed$"),
        (
            "525.60.13",
            "12.8",
            r"needs driver 525 or newer, and 525\.60\.13 is installed; is it hidden by CUDA_VISIBLE_",
        ),
        ("470.57.02", None, "this build has no CUDA"),
        ("600.1", "14.0", "its CUDA 14.0 needs driver 580 or newer"),
    ],
)
def test_line_names_the_driver_that_is_needed(card, driver, cuda, expected):
    card(f"echo 'NVIDIA T4, {driver}'\necho 'NVIDIA T4, {driver}'", cuda)
    line = unseen_card()
    assert re.search(expected, line)
    assert line.startswith(f"torch {torch.__version__} cannot use the NVIDIA T4 here: ")


@pytest.mark.parametrize(
    ("answer", "seen"), [("echo 'T4, 580.1'", True), ("echo 'No devices were found'", False), ("exit 9", False)]
)
def test_nothing_is_said_without_a_card_or_when_torch_sees_it(card, answer, seen):
    card(answer, "13.2", seen)
    assert unseen_card() is None


@pytest.mark.parametrize(("device", "lines"), [("auto", 1), ("cpu", 0)])
def test_commands_say_it_once(card, capsys, device, lines):
    card("echo 'NVIDIA T4, 470.1'", "13.2")
    assert (
        command_line.main(["run", "--cycles", "1", "--initial-size", "10", "--batch-size", "5", "--device", device])
        == 0
    )
    assert capsys.readouterr().err.count("needs driver 580") == lines
