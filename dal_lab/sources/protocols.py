"""The papers' protocols, a row a paper and data set, and the settings of experiments that follow from them."""

import functools
import re
from collections.abc import Mapping
from typing import Any

from dal_core.checks import check_choice
from dal_lab.sources.catalogue import FEATURES, data_sets
from dal_lab.sources.encoders import known_encoders
from dal_lab.sources.raw import rows_of

COLUMNS = (
    "paper", "data", "split", "share", "tested_on", "subset_size", "initial_size", "batch_size", "cycles", "encoder",
    "other_encoders", "preparation", "head", "optimiser", "learning_rate", "weight_decay", "minibatch", "drop_last",
    "epochs", "schedule", "metrics_from", "methods", "released", "extra", "note", "sources",
)  # fmt: skip
USUAL = {"other_encoders": [], "released": {}, "extra": False, "note": ""}  # What only some rows have.
# What the settings of an experiment call the columns that are options of its training and its protocol.
OPTIONS = {
    "share": "share", "learning_rate": "learning_rate", "weight_decay": "weight_decay", "epochs": "epochs",
    "drop_last": "drop_last", "minibatch": "training_batch_size",
}  # fmt: skip
PREPARED = {"squash": "resized to 256 x 256, centre of 224 x 224", None: "the model's own"}


@functools.cache
def papers() -> dict[str, dict[str, Any]]:
    """Return the papers by name: title, authors, and what `protocols.toml` says about their protocols."""
    return rows_of("protocols.toml")


def rows(paper: str | None = None) -> list[dict[str, Any]]:
    """Return the protocols of a paper, or of all of them: a dictionary of JSON values a data set, with `COLUMNS`.

    `sources` says for each value where it is from, and whether it was read there or is assumed; a `subset_size` of None
    is the whole pool.

    >>> next(row["batch_size"] for row in rows("boss") if row["data"] == "snacks")
    20

    Raises:
        ValueError: for an unknown paper; lists those that are known.
    """
    if paper is not None:
        check_choice("paper", paper, papers())
    return [_row(name, data) for name in ([paper] if paper else papers()) for data in papers()[name]["rows"]]


def _row(paper: str, data: str) -> dict[str, Any]:
    about = papers()[paper]
    own: Mapping[str, Any] = about["rows"][data]
    row = {"paper": paper, "data": data} | USUAL | about["every"] | own
    row["methods"] = about["every"]["methods"] | own.get("methods", {})
    row["sources"] = about["sources"] | own.get("sources", {})
    row["subset_size"] = None if row["subset_size"] == "all" else row["subset_size"]
    row.setdefault("initial_size", row["batch_size"])
    if data_sets()[data].kind == FEATURES:
        row |= {"encoder": None, "preparation": "standardised on the train split"}
    else:
        row["preparation"] = PREPARED[known_encoders()[row["encoder"]].preparation]
    return {name: row[name] for name in COLUMNS}


def settings(paper: str, encoder: str | None = None, *, released: bool = False) -> list[dict[str, Any]]:
    """Return the settings that `experiment_of` takes for a paper's protocol, a dictionary a data set.

    Args:
        paper: one of `papers()`.
        encoder: None: all data sets, each with the paper's own (first) encoder; else this encoder, and the data sets
            that it reads. A model of the hub or a folder is taken for one of images.
        released: take the values of the released code where the printed table needs others.

    >>> settings("fast_fishing", "clip")[0]["encoder"], settings("fast_fishing")[-1]["dataset"]
    ('clip', 'letter')

    Raises:
        ValueError: for an unknown paper; lists those that are known.
    """
    from dal_core.models.training import Training

    known = known_encoders().get(encoder or "")
    kind = (known.kind if known else None) or "image"
    found = []
    for row in rows(paper):
        if row["extra"] or (encoder is not None and data_sets()[row["data"]].kind != kind):
            continue
        row |= {name: value for name, value in row["released"].items() if name in row} if released else {}
        training = Training(row["optimiser"])
        usual = vars(training) | {"minibatch": training.batch_size, "share": 1.0}
        options = {option: row[name] for name, option in OPTIONS.items() if row[name] != usual[name]}
        same = ("initial_size", "batch_size", "cycles", "subset_size", "head", "optimiser")
        found.append(
            {"dataset": row["data"], "encoder": encoder or row["encoder"]}
            | {name: row[name] for name in same}
            | ({"options": options} if options else {})
        )
    return found


def printed() -> str:
    """Return the protocols as a table for a terminal, and what of them is assumed or not as released."""
    from tabulate import tabulate

    def line(row: Mapping[str, Any]) -> dict[str, Any]:
        encoders = ", ".join([row["encoder"] or row["preparation"], *row["other_encoders"]])
        last = "last dropped" if row["drop_last"] else "last kept"
        training = f"{row['optimiser']} {row['learning_rate']:g}, {row['minibatch']} ({last}), {row['epochs']} epochs"
        return {
            "paper": row["paper"], "data": row["data"], "pool": f"{row['share']:.3g} of {row['split']}",
            "seen": row["subset_size"] or "all", "initial": row["initial_size"], "batch": row["batch_size"],
            "cycles": row["cycles"], "encoders": encoders, "training": training,
        }  # fmt: skip

    remarks: dict[tuple[str, str], list[str]] = {}  # paper and remark to the data sets that it is about
    for row in rows():
        said = [f"{name} {text}" for name, text in row["sources"].items() if re.search("assumed|doubtful", text)]
        said += [f"{name} is {value} in the released code" for name, value in row["released"].items()]
        said += [f"metrics: {row['metrics_from']}", *filter(None, [row["note"]])]
        for text in said:
            remarks.setdefault((row["paper"], text), []).append(row["data"])
    notes = []
    for (paper, text), about in remarks.items():
        which = "" if len(about) == len(rows(paper)) else f" ({', '.join(about)})"
        notes.append(f"{paper}{which}: {text}")
    authors = [f"{name}: {each['authors']}, {each['title']}" for name, each in papers().items()]
    return "\n".join([tabulate([line(row) for row in rows()], headers="keys"), "", *notes, "", *authors])
