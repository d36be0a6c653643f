"""Our strategies beside those of scikit-activeml, a library by some of the papers' authors.

The same picks, up to ties, which they break at random and we to the lower position:

- CoreSet, with its default distance.
- MaxHerding: our `form="coverage"` with their `metric_dict={"gamma": 1.0}`. Their default gamma is 1 / d; features are
  normalised in both; the kernel means run over the unlabelled instances in both. Our default form, "rowwise", is what
  the Kassel papers' code computes, and differs.
- ProbCover with a given radius on normalised features. Left to itself theirs takes features as they are, and tries the
  radii 0.2, 0.4, ..., 2.0 on clusters of labelled and unlabelled instances; ours is a quantile of distances, of the
  unlabelled ones alone.
- Falcun, given the same uniform random numbers.

Otherwise different:

- Badge: the same vectors and the same first pick; later ones are drawn in proportion to the squared distance to the
  nearest pick or the origin, whichever is closer. Ash et al. know no such centre at the origin, nor does ours.
- TypiClust: theirs takes 5 neighbours instead of 20, up to all others of the cluster instead of at most half; knows no
  largest number of clusters and no smallest cluster; and draws uniformly from the pool once no uncovered cluster is
  left. With the same clusters and neighbours both pick the same.
- DropQuery: theirs makes 5 passes instead of 3; does not divide what is left by 1 - p, which matters for a head with a
  bias; fills up with the most disagreeing instances instead of lowering the threshold until there are 25 b
  candidates; and clusters features as they are, not normalised. The disagreements are the same for the same masks.
"""

import dataclasses

import numpy as np
import pytest
import torch

pytest.importorskip("skactiveml", reason="scikit-activeml is not installed: a dependency of the tests alone")

from skactiveml import pool as theirs
from sklearn.base import BaseEstimator, ClusterMixin

from benchmarks.activeml import query, with_head
from benchmarks.data import snapshot
from dal_core import strategies
from dal_core.randomness import generator_for
from dal_core.snapshot import Snapshot
from dal_core.strategies.badge import badge_embedding_norm
from dal_core.strategies.dropquery import dropout_disagreements
from dal_core.strategies.shared.clustering import k_means

BATCH_SIZE = 11


@pytest.fixture(scope="module")
def at() -> Snapshot:
    return snapshot(301, 23, num_classes=7, num_features=13, dtype=torch.float64)


def ours(name, at, **options):
    return strategies.get(name, options)(at, BATCH_SIZE, generator_for(0)).tolist()


def drawing_from(state, strategy):
    """A class of theirs whose random state is `state`; by themselves they make a new one from its first number."""
    return type(strategy.__name__, (strategy,), {"random_state_": property(lambda _: state, lambda *_: None)})


class SameDraws:
    """Draws in proportion to weights by inversion of given uniform numbers."""

    def __init__(self, uniforms):
        self.uniforms = iter(uniforms)

    def choice(self, a, size=None, replace=True, p=None):
        cumulated = np.cumsum(p)
        return np.array([np.searchsorted(cumulated, next(self.uniforms) * cumulated[-1], side="right")])


def test_core_set(at):
    assert query(theirs.CoreSet(random_state=0), at, BATCH_SIZE).tolist() == ours("coreset", at)


def test_max_herding(at):
    strategy = theirs.MaxHerding(metric_dict={"gamma": 1.0}, random_state=0)
    expected = query(strategy, at, BATCH_SIZE).tolist()
    assert expected == ours("max_herding", at, form="coverage")
    assert expected != ours("max_herding", at, form="rowwise")


@pytest.mark.parametrize("radius", [0.5, 0.9])
def test_probcover(at, radius):
    """Counts tie often: each of our picks has to be among their best, given the ones before."""
    for position in ours("probcover", at, radius=radius):
        strategy = theirs.ProbCover(deltas=[radius], random_state=0)
        _, utilities = query(strategy, at, 1, normalised=True, return_utilities=True)
        assert utilities[0, position] == np.nanmax(utilities)
        at = bought(at, position)


def bought(at, position):
    """The snapshot after one more label; the instance stays in the pool, too, so that positions do not shift."""
    return dataclasses.replace(
        at,
        labelled_features=torch.cat((at.labelled_features, at.features[position : position + 1])),
        labelled_logits=torch.cat((at.labelled_logits, at.logits[position : position + 1])),
        labels=torch.cat((at.labels, at.labels[:1])),
        labelled=torch.cat((at.labelled, at.instances[position : position + 1])),
    )


def test_badge(at):
    """The first pick and what the second is drawn from; theirs counts the origin as a centre."""
    picked, utilities = query(theirs.Badge(random_state=0), at, 2, return_utilities=True, **with_head(at))
    squares = badge_embedding_norm(at.features, at.logits).square()
    assert picked[0] == ours("badge", at)[0]
    np.testing.assert_allclose(utilities[0, : len(squares)], squares / squares.sum(), rtol=1e-12)

    errors = torch.nn.functional.one_hot(at.logits.argmax(dim=1), at.num_classes) - at.probabilities
    vectors = (errors.unsqueeze(2) * at.features.unsqueeze(1)).flatten(1)
    distances = torch.minimum((vectors - vectors[picked[0]]).square().sum(dim=1), squares)
    distances[picked[0]] = np.nan
    np.testing.assert_allclose(utilities[1, : len(squares)], distances / distances.nansum(), rtol=1e-9)


@pytest.mark.parametrize("gamma", [1.0, 10.0])
def test_falcun_with_the_same_draws(at, gamma):
    uniforms = torch.rand(BATCH_SIZE, generator=generator_for(0), dtype=torch.float64).tolist()
    expected = query(drawing_from(SameDraws(uniforms), theirs.Falcun)(gamma=gamma), at, BATCH_SIZE, **with_head(at))
    assert expected.tolist() == ours("falcun", at, gamma=gamma)


class OurClusters(ClusterMixin, BaseEstimator):
    """Our k-means as a clustering algorithm of scikit-learn."""

    def __init__(self, n_clusters=1):
        self.n_clusters = n_clusters

    def fit_predict(self, X, y=None):
        return k_means(torch.from_numpy(X), self.n_clusters, generator_for(0)).numpy()


def test_typiclust_with_the_same_clusters(at):
    few_labels = dataclasses.replace(
        at, labelled_features=at.labelled_features[:1], labelled_logits=at.labelled_logits[:1], labels=at.labels[:1],
        labelled=at.labelled[:1],
    )  # fmt: skip
    expected = query(theirs.TypiClust(cluster_algo=OurClusters, k=3, random_state=0), few_labels, BATCH_SIZE)
    assert expected.tolist() == ours("typiclust", few_labels, num_neighbours=3)


class SameMasks(np.random.RandomState):
    """Masks from a torch generator."""

    def __init__(self, generator):
        super().__init__(0)
        self.generator = generator

    def choice(self, a, size=None, replace=True, p=None):
        return torch.rand(size, generator=self.generator).numpy() < p[0]


def test_dropquery_candidates_with_the_same_masks(at):
    """Without a bias. Their candidates are what has a finite utility; there are enough of them not to be filled up."""
    passes, dropout = 3, 0.75
    bias = torch.zeros_like(at.bias)
    at = dataclasses.replace(
        at, logits=at.features @ at.weight.mT, labelled_logits=at.labelled_features @ at.weight.mT, bias=bias
    )
    disagreements = dropout_disagreements(
        at.features, at.logits, at.weight, bias, generator_for(0), num_passes=passes, dropout=dropout
    )
    candidates = (disagreements > passes // 2).nonzero().squeeze(1)
    assert BATCH_SIZE < len(candidates) < len(at.features)
    strategy = drawing_from(SameMasks(generator_for(0)), theirs.DropQuery)(dropout, passes)
    _, utilities = query(strategy, at, BATCH_SIZE, return_utilities=True, **with_head(at))
    assert np.isfinite(utilities[0]).nonzero()[0].tolist() == candidates.tolist()
