"""Data through scikit-learn: what comes with it, which are digits and points in the plane, and tables of OpenML."""

import dataclasses
from typing import Any

import numpy as np
from sklearn import datasets as sklearn_datasets

from dal_core.data import FeatureBank
from dal_lab.sources.bank import STRATIFIED, bank, in_two, standardised
from dal_lab.sources.network import patient_libraries
from dal_lab.sources.raw import DatasetUnavailableError, Places, Source, restated


@dataclasses.dataclass(frozen=True)
class Bundled(Source):
    """Data that a function of sklearn.datasets returns or generates, split 75/25 by class."""

    place = "scikit-learn"
    function: str
    arguments: dict[str, Any]
    about: str  # the function and its arguments, for the provenance
    scale: float = 1.0  # features are divided by it
    classes: str = "{}"  # a class's name, by its number

    def read(self, name: str, places: Places) -> FeatureBank:  # noqa: ARG002 - no file is read
        features, labels = getattr(sklearn_datasets, self.function)(**self.arguments)
        parts = in_two(features / self.scale, labels, stratify=True)
        names = map(self.classes.format, np.unique(labels))
        return bank(parts, names, source=f"scikit-learn, {self.about}", split=STRATIFIED)


@dataclasses.dataclass(frozen=True)
class OpenML(Source):
    """A table of numbers with a class a row, by its number on OpenML, which stands for one version of it."""

    place = "OpenML {data_id}"
    data_id: int
    sort_rows: bool = False  # before the split, where another publisher has the rows in another order

    def addresses(self) -> list[str]:
        return [f"https://api.openml.org/api/v1/json/data/{self.data_id}"]

    def read(self, name: str, places: Places) -> FeatureBank:
        absent = f"dataset {name!r}: OpenML's table {self.data_id} is neither in {places.cache} nor to be had from the "
        with (
            restated((OSError, ValueError), f"{absent}network (", ")", kind=DatasetUnavailableError),
            patient_libraries(),
        ):
            bunch = sklearn_datasets.fetch_openml(
                data_id=self.data_id, data_home=places.cache / "openml", as_frame=False, parser="liac-arff"
            )
        features = np.asarray(bunch.data, dtype=np.float64)
        names = np.asarray(bunch.target).astype(str)
        return standardised(features, names, self.where(), sort_rows=self.sort_rows)
