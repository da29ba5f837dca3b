"""Whatever the names of models, folders and classes are, no text of a figure is cut off or written over another."""

import dataclasses
import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from resflax.results.scores import calibration, class_scores
from resflax.viz.attribution import Explained, plot_attributions, plot_overlay
from resflax.viz.class_scores import plot_class_scores
from resflax.viz.confusion import plot_confusion
from resflax.viz.curves import plot_curves
from resflax.viz.embedding import embed, plot_embedding
from resflax.viz.feature_maps import plot_feature_maps
from resflax.viz.filters import plot_filters
from resflax.viz.gradients import plot_gradients
from resflax.viz.mistakes import Mistake, plot_mistakes
from resflax.viz.paper import Curve, plot_error_by_depth, plot_error_by_step, plot_gradient_by_layer
from resflax.viz.reliability import plot_reliability
from resflax.viz.runs import Run, plot_runs

RNG = np.random.default_rng(0)
TITLE = "resnetv2_152x4_bit on /home/somebody/Pictures/of many years/holidays by the sea, seed 4294967295: 10,000 test images"
NAME = "wide_resnet101_2, step 1,000,000, 100,000 validation images"  # what figures of fixed width have above them
CLASSES = [f"a rather long name of class {index}" for index in range(3)]
ROWS = [
    {"step": 5000, "train_loss": 1.9, "train_accuracy": 0.5},
    {"step": 9000, "train_loss": 1.1, "train_accuracy": 0.6, "test_loss": 1.4, "test_accuracy": 0.55},
]
CONFUSION = np.array([[70, 10, 20], [0, 90, 10], [5, 5, 90]])
LABELS = np.arange(12) % 3
IMAGE, HEAT = RNG.random((6, 8, 3)), RNG.random((6, 8))

CURVE = Curve("plain", 8, [1, 5, 9], [90.0, 50.0, 20.0], [9], [30.0])
FIGURES = {
    "curves": lambda: plot_curves(ROWS, "test", TITLE),
    "runs": lambda: plot_runs({f"{TITLE[:40]} {index}": Run(ROWS, "test") for index in range(5)}, TITLE),
    "confusion": lambda: plot_confusion(CONFUSION, CLASSES, TITLE),
    "classes": lambda: plot_class_scores(*class_scores(CONFUSION), CLASSES, TITLE),
    "reliability": lambda: plot_reliability(*calibration(RNG.dirichlet(np.ones(3), 50), RNG.integers(0, 3, 50)), NAME),
    "mistakes": lambda: plot_mistakes([Mistake(IMAGE, HEAT, "a/b/c" * 9, *CLASSES[:2], 0.5)] * 3, TITLE),
    "one attribution": lambda: plot_attributions([Explained(IMAGE, HEAT, HEAT - 0.5, "a class, 90 %", 0.01)], TITLE),
    "overlay": lambda: plot_overlay(IMAGE, HEAT, f"{TITLE}, 100.0 %"),
    "features": lambda: plot_feature_maps(IMAGE, {"stage1": RNG.random((4, 4, 12)), "stage2": np.ones((2, 2, 3))}, TITLE),
    "grey filters": lambda: plot_filters(RNG.normal(size=(3, 3, 1, 16)), TITLE),
    "colour filters": lambda: plot_filters(RNG.normal(size=(7, 7, 3, 4)), TITLE),
    "gradients": lambda: plot_gradients({"0": [1.9, 1.2], "1000": [1.1, 1.3]}, NAME),
    "paper's curves": lambda: plot_error_by_step([dataclasses.replace(CURVE, depth=depth) for depth in (8, 110)], NAME[:40]),
    "paper's depths": lambda: plot_error_by_depth({("plain", depth): [5.0, 60.0] for depth in (8, 20, 56, 110)}, NAME[:40]),
    "paper's gradients": lambda: plot_gradient_by_layer({"step 0": {"plain-8": [1e-4, 1e3]}, "step 9": {}}, NAME[:60]),
    "embedding": lambda: plot_embedding(embed(RNG.normal(size=(12, 5))), LABELS, LABELS[::-1], CLASSES, TITLE),
}


@pytest.fixture
def drawn(monkeypatch):
    """Draws a figure; returns the texts that it shows: `[(text, box, whether it is level or upright), ...]`."""

    def draw(figure):
        figure.dpi = 100
        canvas, found = FigureCanvasAgg(figure), {}
        original = Text.draw

        def note(text, renderer, *others, **settings):
            if text.get_visible() and text.get_text().strip():
                found[text] = text.get_window_extent(renderer).padded(-1)
            return original(text, renderer, *others, **settings)

        with monkeypatch.context() as patch:
            patch.setattr(Text, "draw", note)
            canvas.draw()
        return [(text.get_text(), box, text.get_rotation() % 90 == 0) for text, box in found.items()]

    return draw


@pytest.mark.parametrize("name", FIGURES)
def test_texts_are_whole_and_apart(name, drawn):
    figure = FIGURES[name]()
    texts = drawn(figure)
    page = figure.bbox.padded(2)
    assert texts
    for text, box, _ in texts:
        inside = page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
        assert inside, f"{text!r} is cut off"
    for (text, box, _), (other, second, _) in itertools.combinations([one for one in texts if one[-1]], 2):
        assert not box.overlaps(second), f"{text!r} and {other!r} are written over one another"


def test_logarithmic_axes_have_plain_numbers():
    left = plot_curves(ROWS, "test", "a run").axes[0]
    FigureCanvasAgg(left.figure).draw()
    shown = [one.get_text() for one in (*left.get_yticklabels(), *left.get_yticklabels(minor=True)) if one.get_text()]
    assert shown
    assert all("$" not in one and float(one) > 0 for one in shown)


def test_numbers_that_were_put_along_a_logarithmic_axis_stay():
    axes = plot_error_by_depth({("plain", depth): [5.0] for depth in (8, 20, 56)}, "depth").axes[0]
    FigureCanvasAgg(axes.figure).draw()
    assert [one.get_text() for one in axes.get_xticklabels()] == ["8", "20", "56"]


def test_a_curve_of_one_point_is_seen():
    bold = plot_error_by_step([CURVE], "one evaluation").axes[0].lines[1]
    assert (len(bold.get_xdata()), bold.get_marker()) == (1, "o")
