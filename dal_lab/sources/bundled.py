"""What comes with scikit-learn: digits, and points in the plane."""

import dataclasses
from collections.abc import Callable

import numpy as np
from sklearn import datasets as sklearn_datasets

from dal_core.data import FeatureBank
from dal_lab.sources.raw import Origin, Places
from dal_lab.sources.tables import bank, in_two

NUM_TOY_POINTS = 1000
SPLIT = "stratified 75/25, seed 0"


@dataclasses.dataclass(frozen=True)
class Bundled(Origin):
    """Data that a function makes."""

    make: Callable[[], FeatureBank]

    def where(self) -> str:
        return "scikit-learn"

    def identity(self, name: str, places: Places) -> str:  # noqa: ARG002 - the interface of an origin
        return name

    def read(self, name: str, places: Places) -> FeatureBank:  # noqa: ARG002
        return self.make()


def digits() -> FeatureBank:
    """Grey values of 8x8 pixels, scaled from 0..16 to [0, 2]."""
    bunch = sklearn_datasets.load_digits()
    parts = in_two(bunch.data / 8.0, bunch.target, stratify=True)
    return bank(*parts, bunch.target_names, source="scikit-learn, load_digits", split=SPLIT)


def _toy(points: np.ndarray, labels: np.ndarray, source: str) -> FeatureBank:
    class_names = [f"class {label}" for label in np.unique(labels)]
    return bank(*in_two(points, labels, stratify=True), class_names, source=source, split=SPLIT)


def moons() -> FeatureBank:
    """Two interleaved half circles."""
    points, labels = sklearn_datasets.make_moons(NUM_TOY_POINTS, noise=0.15, random_state=0)
    return _toy(points, labels, "scikit-learn, make_moons, noise 0.15")


def blobs() -> FeatureBank:
    """Four Gaussian clusters."""
    centers = [[-1.5, -1.0], [1.5, -1.0], [0.0, 1.5], [0.0, 0.0]]
    points, labels = sklearn_datasets.make_blobs(NUM_TOY_POINTS, centers=centers, cluster_std=0.45, random_state=0)
    return _toy(points, labels, "scikit-learn, make_blobs, 4 centres")
