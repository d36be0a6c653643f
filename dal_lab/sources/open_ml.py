"""Tables of OpenML, through scikit-learn."""

import dataclasses

import numpy as np
from sklearn import datasets as sklearn_datasets

from dal_core.data import FeatureBank
from dal_lab.sources.raw import DatasetUnavailableError, Places, Source, restated
from dal_lab.sources.tables import standardised


@dataclasses.dataclass(frozen=True)
class OpenML(Source):
    """A table of numbers with a class a row, by its number on OpenML, which stands for one version of it."""

    data_id: int

    def where(self) -> str:
        return f"OpenML {self.data_id}"

    def read(self, name: str, places: Places) -> FeatureBank:
        absent = f"dataset {name!r}: OpenML's table {self.data_id} is neither in {places.cache} nor to be had from the "
        with restated((OSError, ValueError), f"{absent}network (", ")", kind=DatasetUnavailableError):
            bunch = sklearn_datasets.fetch_openml(
                data_id=self.data_id, data_home=places.cache / "openml", as_frame=False, parser="liac-arff"
            )
        features = np.asarray(bunch.data, dtype=np.float64)
        return standardised(features, np.asarray(bunch.target).astype(str), self.where())
