"""Whether published figures, tables and runs are what was written."""

from pathlib import Path

from dal_core.checks import shown
from dal_lab.companion.artefacts import MANIFEST, ManifestError, check_manifest
from dal_lab.runs.committed import ENDING
from dal_lab.runs.store import read_sealed


def faults_by_folder(root: Path) -> dict[Path, list[str]]:
    """Return what differs from its digest in `root` and the folders in it: the manifest's files, the committed runs.

    Raises:
        ValueError: if none of them holds either.
    """
    found: dict[Path, list[str]] = {}
    for path in sorted(
        path for name in (MANIFEST, f"*{ENDING}") for path in (*root.glob(name), *root.glob(f"*/{name}"))
    ):
        faults = found.setdefault(path.parent, [])
        try:
            check_manifest(path.parent) if path.name == MANIFEST else read_sealed(path)
        except ManifestError as error:
            faults.append(str(error))
        except Exception as error:  # Damaged files make their readers raise all sorts of errors.
            faults.append(f"{path.name} is damaged: {error}")
    if not found:
        raise ValueError(f"folder is {shown(str(root))}; one with {MANIFEST} or files *{ENDING} was expected")
    return found
