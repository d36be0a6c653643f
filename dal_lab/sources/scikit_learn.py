"""Data through scikit-learn: what comes with it, which are digits and points in the plane, and tables of OpenML."""

import dataclasses

import numpy as np
from sklearn import datasets as sklearn_datasets

from dal_core.data import FeatureBank
from dal_lab.sources.bank import STRATIFIED, bank, in_two, standardised
from dal_lab.sources.raw import DatasetUnavailableError, Places, Source, restated

TOY_POINTS = 1000
CENTRES = [[-1.5, -1.0], [1.5, -1.0], [0.0, 1.5], [0.0, 0.0]]


@dataclasses.dataclass(frozen=True)
class Bundled(Source):
    """Data that a function of this module makes, which `MAKERS` has under the data set's name."""

    place = "scikit-learn"

    def read(self, name: str, places: Places) -> FeatureBank:  # noqa: ARG002 - no file is read
        return MAKERS[name]()


def digits() -> FeatureBank:
    """Return grey values of 8x8 pixels, scaled from 0..16 to [0, 2]."""
    bunch = sklearn_datasets.load_digits()
    parts = in_two(bunch.data / 8.0, bunch.target, stratify=True)
    return bank(parts, bunch.target_names, source="scikit-learn, load_digits", split=STRATIFIED)


def moons() -> FeatureBank:
    """Return two interleaved half circles."""
    points, labels = sklearn_datasets.make_moons(TOY_POINTS, noise=0.15, random_state=0)
    return _toy(points, labels, "make_moons, noise 0.15")


def blobs() -> FeatureBank:
    """Return four Gaussian clusters."""
    points, labels = sklearn_datasets.make_blobs(TOY_POINTS, centers=CENTRES, cluster_std=0.45, random_state=0)
    return _toy(points, labels, "make_blobs, 4 centres")


def _toy(points: np.ndarray, labels: np.ndarray, source: str) -> FeatureBank:
    class_names = [f"class {label}" for label in np.unique(labels)]
    parts = in_two(points, labels, stratify=True)
    return bank(parts, class_names, source=f"scikit-learn, {source}", split=STRATIFIED)


MAKERS = {"digits": digits, "moons": moons, "blobs": blobs}


@dataclasses.dataclass(frozen=True)
class OpenML(Source):
    """A table of numbers with a class a row, by its number on OpenML, which stands for one version of it."""

    place = "OpenML {data_id}"
    data_id: int

    def read(self, name: str, places: Places) -> FeatureBank:
        absent = f"dataset {name!r}: OpenML's table {self.data_id} is neither in {places.cache} nor to be had from the "
        with restated((OSError, ValueError), f"{absent}network (", ")", kind=DatasetUnavailableError):
            bunch = sklearn_datasets.fetch_openml(
                data_id=self.data_id, data_home=places.cache / "openml", as_frame=False, parser="liac-arff"
            )
        features = np.asarray(bunch.data, dtype=np.float64)
        return standardised(features, np.asarray(bunch.target).astype(str), self.where())
