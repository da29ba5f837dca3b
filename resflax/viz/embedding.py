"""The features of many examples as points in the plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from resflax.viz.style import entitle, shorten

COLORED = 10  # classes that colours can tell apart


class Embedding(NamedTuple):
    """N points in two forms."""

    principal: np.ndarray  # float[N, 2]: the projection onto the two directions of greatest variance
    variance: np.ndarray  # float[2]: the share of the variance along each
    neighbours: np.ndarray  # float[N, 2]: t-SNE (van der Maaten and Hinton 2008), which keeps neighbours together


def embed(features: np.ndarray, seed: int = 0) -> Embedding:
    """Features float[N, C], N >= 3, in the plane; t-SNE starts from the principal components, at most 50 of them."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # scikit-learn asks for it

    count = min(50, *features.shape)
    components = PCA(count, svd_solver="randomized" if features.shape[1] > 500 else "full", random_state=seed)
    points = components.fit_transform(features)
    tsne = TSNE(2, perplexity=min(30, (len(features) - 1) / 3), init="pca", random_state=seed)
    # In one thread: the sums of several differ in their last bits, and they wait for each other by spinning.
    with threadpool_limits(1):
        return Embedding(points[:, :2], components.explained_variance_ratio_[:2], tsne.fit_transform(points))


def plot_embedding(
    embedding: Embedding, labels: np.ndarray, predictions: np.ndarray, class_names: Sequence[str], title: str
) -> Figure:
    """Principal components and t-SNE beside each other; crosses are mistakes.

    Up to ten classes have a colour each. Of more, the ten with most mistakes have one and the others are grey.

    Args:
      embedding: of N examples.
      labels, predictions: int[N].
      class_names: of all classes.
      title: of the figure.
    """
    wrong = labels != predictions
    mistakes = np.bincount(labels[wrong], minlength=len(class_names))
    chosen = np.sort(np.argsort(-mistakes, kind="stable")[:COLORED])
    palette = ["black" if index == 7 else colormaps["tab10"](index) for index in range(COLORED)]  # grey is for the others
    colors = dict(zip(chosen.tolist(), palette, strict=False))
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    which = f"; coloured: the {COLORED} of {len(class_names)} classes with most mistakes" if len(class_names) > COLORED else ""
    entitle(figure, f"{title}{which}")
    left, right = figure.subplots(1, 2)
    others = ~np.isin(labels, chosen)
    for axes, points in ((left, embedding.principal), (right, embedding.neighbours)):
        axes.scatter(*points[others & ~wrong].T, s=7, color="0.8", linewidths=0)
        for label, color in colors.items():
            mine = labels == label
            axes.scatter(*points[mine & ~wrong].T, s=13, color=color, alpha=0.75, linewidths=0)
            axes.scatter(*points[mine & wrong].T, s=46, color=color, marker="x", linewidths=1.8, zorder=3)
        axes.scatter(*points[others & wrong].T, s=22, color="0.55", marker="x", linewidths=1)
        axes.set(xticks=[], yticks=[])
    first, second = 100 * embedding.variance
    left.set(xlabel=f"first principal component ({first:.0f} % of the variance)", title="PCA")
    left.set(ylabel=f"second principal component ({second:.0f} %)")
    right.set(xlabel="first axis (arbitrary units)", ylabel="second axis (arbitrary units)", title="t-SNE")
    handles = [
        Line2D([], [], color=color, marker="o", linestyle="", label=shorten(class_names[label]))
        for label, color in colors.items()
    ]
    handles.append(Line2D([], [], color="0.3", marker="x", linestyle="", label="a mistake, in its true class's colour"))
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    return figure
