"""One file for all results: what `python -m benchmarks` measures, and then the results of a GPU."""

from pathlib import Path

from dal_lab.runs.files import write_text

SCALING = "## Cost against size"
GPU = "## On a GPU"


def write_table(path: str | Path, text: str) -> None:
    """Put `text` first; the sections stay."""
    _, scaling, gpu = _parts(path)
    _write(path, text, scaling, gpu)


def write_scaling(path: str | Path, section: str) -> None:
    """Put `section`, which begins with its heading, after the tables; the rest stays."""
    table, _, gpu = _parts(path)
    _write(path, table, section, gpu)


def write_gpu(path: str | Path, section: str) -> None:
    """Put `section`, which begins with its heading, last; the rest stays."""
    table, scaling, _ = _parts(path)
    _write(path, table, scaling, section)


def _write(path: str | Path, *parts: str) -> None:
    write_text(path, "\n\n".join(part.strip() for part in parts if part.strip()) + "\n")


def _parts(path: str | Path) -> tuple[str, str, str]:
    text = Path(path).read_text(encoding="utf-8") if Path(path).is_file() else ""
    rest, gpu_heading, gpu = text.partition(GPU)
    table, scaling_heading, scaling = rest.partition(SCALING)
    return table, scaling_heading + scaling, gpu_heading + gpu
