"""Each figure shows the numbers it was given, and stays readable with many classes."""

import io

import numpy as np
import pytest
from PIL import Image

from resflax.results.scores import calibration, class_scores
from resflax.viz.attribution import Explained, plot_attributions, plot_overlay
from resflax.viz.class_scores import plot_class_scores
from resflax.viz.confusion import plot_confusion
from resflax.viz.embedding import embed, plot_embedding
from resflax.viz.feature_maps import plot_feature_maps
from resflax.viz.filters import plot_filters
from resflax.viz.gradients import plot_gradients
from resflax.viz.mistakes import Mistake, plot_mistakes
from resflax.viz.reliability import plot_reliability
from resflax.viz.runs import Run, plot_runs
from resflax.viz.style import overlay, save, shorten, shorten_path

RNG = np.random.default_rng(0)


def pixels(figure):
    content = io.BytesIO()
    figure.savefig(content, dpi=50)
    return np.asarray(Image.open(content).convert("L"))


def is_drawn(figure):
    made = pixels(figure)
    return made.std() > 5 and max(made.shape) <= 1000


def names(count):
    return [f"a rather long name of class {index}" for index in range(count)]


def confusion(count):
    matrix = np.diag(RNG.integers(5, 20, count))
    matrix[3, 1] = 100
    return matrix


@pytest.mark.parametrize("count", [10, 100, 1000])
def test_class_scores_show_the_worst(count):
    scores = class_scores(confusion(count))
    figure = plot_class_scores(*scores, names(count), "title")
    axes = figure.axes[0]
    recall = axes.lines[1].get_xdata()
    assert len(recall) == min(count, 30)
    worst = np.argsort(scores.f1, kind="stable")[: len(recall)]
    np.testing.assert_array_equal(recall, scores.recall[worst])
    assert ("30 of" in figure.get_suptitle()) == (count > 30)
    assert is_drawn(figure)


@pytest.mark.parametrize("count", [100, 1000])
def test_of_many_classes_the_most_frequent_confusions_are_named(count):
    figure = plot_confusion(confusion(count), names(count), "title")
    matrix, pairs = figure.axes[0], figure.axes[1]
    assert not any("class" in label.get_text() for label in matrix.get_yticklabels())
    assert [bar.get_width() for bar in pairs.patches][:2] == [100, 0]
    assert pairs.get_yticklabels()[0].get_text() == "a rather long nam… → a rather long nam…"
    assert is_drawn(figure)


def test_the_reliability_diagram_has_the_bars_of_the_bins():
    probabilities, labels = RNG.dirichlet(np.full(3, 0.5), 200), RNG.integers(0, 3, 200)
    found = calibration(probabilities, labels)
    figure = plot_reliability(*found, "title")
    above, below = figure.axes
    filled = found.counts > 0
    assert [bar.get_height() for bar in above.containers[0]] == found.accuracy[filled].tolist()
    assert [bar.get_height() for bar in below.containers[0]] == found.counts[filled].tolist()
    assert f"{100 * found.expected_error:.2f} %" in above.get_title()
    assert is_drawn(figure)


def test_runs_have_a_line_each_and_name_their_last_error():
    rows = [
        {"step": 5, "train_loss": 1.0, "train_accuracy": 0.5},
        {"step": 9, "test_loss": 0.5, "test_accuracy": 0.75},
        {"step": 18, "test_loss": 0.4, "test_accuracy": 0.8},
    ]
    figure = plot_runs({"one": Run(rows, "test"), "two": Run(rows[:2], "test"), "none": Run([], "test")}, "title")
    assert len(figure.axes[1].lines) == 4
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one  20.00 %", "two  25.00 %"]
    assert is_drawn(figure)
    assert is_drawn(plot_runs({str(index): Run(rows, "test") for index in range(14)}, "title"))


def test_mistakes_name_what_was_taken_for_what():
    image, heat = RNG.random((6, 8, 3)), RNG.random((6, 8))
    rows = [Mistake(image, heat, "#7", "cat", "dog", 0.93), Mistake(image[..., :1], heat, "#8", "cat", "cat", 0.4)]
    figure = plot_mistakes(rows * 3, "title")
    captions = [cell.get_suptitle() for cell in figure.subfigs[:2]]
    assert captions == ["cat\ntaken for dog, 93 %", "cat\nknown as cat, 40 %"]
    np.testing.assert_allclose(figure.subfigs[0].axes[0].images[0].get_array(), image)
    np.testing.assert_allclose(figure.subfigs[0].axes[1].images[0].get_array(), overlay(image, heat))
    assert is_drawn(figure)


def test_an_overlay_is_grey_where_there_is_nothing_and_colourful_where_there_is_most():
    image = np.full((2, 2, 3), (0.2, 0.4, 0.6))
    made = overlay(image, np.array([[0.0, 1.0], [2.0, 4.0]]))
    np.testing.assert_allclose(made[0, 0], 0.4)
    colour = np.ptp(made, axis=-1)
    assert colour[0, 0] < 1e-9 < colour[0, 1]
    np.testing.assert_allclose(overlay(image, np.zeros((2, 2))), 0.4)
    assert ((made >= 0) & (made <= 1)).all()


@pytest.mark.parametrize(("channels", "count"), [(1, 16), (3, 64), (3, 100), (4, 5)])
def test_filters_are_ordered_by_their_norm(channels, count):
    kernel = RNG.normal(size=(3, 3, channels, count))
    figure = plot_filters(kernel, "title")
    shown = [axes.images[0].get_array() for axes in figure.axes if axes.images and axes.get_label() != "<colorbar>"]
    assert len(shown) == min(count, 64)
    largest = np.argmax((kernel**2).sum(axis=(0, 1, 2)))
    expected = kernel[..., largest].sum(axis=-1) if channels != 3 else 0.5 + kernel[..., largest] / (2 * np.abs(kernel).max())
    np.testing.assert_allclose(shown[0], expected)
    assert is_drawn(figure)


def test_feature_maps_show_the_most_active_channels():
    strong = (9 + RNG.random((4, 4, 12))) * np.arange(12)
    figure = plot_feature_maps(RNG.random((8, 8, 1)), {"stage1": strong, "stage2": np.zeros((2, 2, 3))}, "title")
    assert [axes.get_title() for axes in figure.axes[1:4]] == ["channel 11", "channel 10", "channel 9"]
    assert figure.axes[1].get_ylabel() == "stage1\n4 x 4 x 12"
    assert is_drawn(figure)


def test_gradients_have_a_line_a_step():
    figure = plot_gradients({"0": [1.0, 0.5, 0.2], "1200": [0.1, 0.1, 0.1]}, "title")
    assert [line.get_label() for line in figure.axes[0].lines] == ["step 0", "step 1,200"]
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xydata(), [[1, 1.0], [2, 0.5], [3, 0.2]])
    assert is_drawn(figure)


@pytest.mark.parametrize("count", [3, 100])
def test_an_embedding_keeps_classes_together_and_is_the_same_again(count):
    labels = np.arange(120) % count
    features = RNG.normal(size=(120, 6)) + 20 * np.eye(6)[labels % 6]
    found, again = embed(features), embed(features)
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one, other)
    centred = features - features.mean(axis=0)
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(found.principal), np.abs(centred @ directions[:2].T), atol=1e-8)
    np.testing.assert_allclose(found.variance, (lengths**2 / (lengths**2).sum())[:2])
    predictions = np.where(labels == 1, 0, labels)
    figure = plot_embedding(found, labels, predictions, names(count), "title")
    assert len(figure.legends[0].get_texts()) == min(count, 10) + 1
    assert ("10 of 100 classes" in figure.get_suptitle()) == (count == 100)
    assert is_drawn(figure)


def test_attributions_and_overlays_are_drawn():
    one = Explained(RNG.random((8, 8, 3)), RNG.random((8, 8)), RNG.normal(size=(8, 8)), "cat, 90 %", 0.004)
    figure = plot_attributions([one, one._replace(pixels=np.zeros((8, 8)))], "title")
    assert figure.axes[4].get_xlabel() == "sum off by 0.4 %"
    assert is_drawn(figure)
    assert is_drawn(plot_overlay(one.image, one.heat, "a caption that goes on and on, " * 5))


def test_the_same_figure_is_the_same_file(tmp_path):
    for name in ("a.png", "b.png"):
        save(plot_gradients({"0": [1.0, 0.5]}, "title"), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_names_are_shortened_to_fit():
    assert shorten("tabby cat") == "tabby cat"
    assert shorten("Welsh springer spaniel", 10) == "Welsh spr…"
    assert shorten_path("#17") == "#17"
    assert shorten_path("/data/photos/test/cat/001.jpg") == "cat/001.jpg"
    assert shorten_path("/data/cat/IMG_20240817_1230001.jpg", 12) == "…1230001.jpg"
