"""One file for all results: the table of `python -m benchmarks`, then that of `python -m benchmarks.imagenet`."""

from pathlib import Path

from dal_core.files import write_text

IMAGENET = "## Queries at the size of ImageNet"


def write_table(path: str | Path, text: str) -> None:
    """Put `text` before the section about ImageNet, which stays."""
    _, section = _parts(path)
    write_text(path, f"{text.rstrip()}\n\n{section}".rstrip() + "\n")


def write_imagenet(path: str | Path, section: str) -> None:
    """Put `section`, which begins with its heading, after the table, which stays."""
    table, _ = _parts(path)
    write_text(path, f"{table}\n\n{section}".strip() + "\n")


def _parts(path: str | Path) -> tuple[str, str]:
    text = Path(path).read_text(encoding="utf-8") if Path(path).is_file() else ""
    table, heading, section = text.partition(IMAGENET)
    return table.strip(), heading + section
