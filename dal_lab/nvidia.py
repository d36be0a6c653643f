"""An NVIDIA card that torch cannot use, and why."""

import shutil
import subprocess
import warnings

OLDEST_DRIVERS = {11: 450, 12: 525, 13: 580}  # Releases of a major version of CUDA are compatible.


def unseen_card() -> str | None:
    """Return in one line why torch cannot use the NVIDIA card of this machine; None where it can, or there is none."""
    if shutil.which("nvidia-smi") is None:
        return None
    import torch  # It takes seconds, which only machines with a card need.

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own lines about the same thing
        if torch.cuda.is_available():
            return None
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout
        card, driver = (part.strip() for part in found.splitlines()[0].split(","))
        version = int(driver.split(".")[0])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None  # The program is there and the card or its driver is not.
    before = f"torch {torch.__version__} cannot use the {card} here"
    if torch.version.cuda is None:
        return f"{before}: this build has no CUDA, another one of torch is needed"
    needed = OLDEST_DRIVERS.get(int(torch.version.cuda.split(".")[0]), max(OLDEST_DRIVERS.values()))
    reason = f"its CUDA {torch.version.cuda} needs driver {needed} or newer, and {driver} is installed"
    if version >= needed:
        reason += "; is it hidden by CUDA_VISIBLE_DEVICES, or from this container?"
    return f"{before}: {reason}"
