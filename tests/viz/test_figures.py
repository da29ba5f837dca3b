import io

import numpy as np
from PIL import Image

from resflax.viz.confusion import plot_confusion
from resflax.viz.curves import plot_curves

ROWS = [
    {"step": 5, "train_loss": 2.0, "train_accuracy": 0.3},
    {"step": 10, "train_loss": 1.0, "train_accuracy": 0.6, "test_loss": 1.5, "test_accuracy": 0.5},
    {"step": 20, "train_loss": 0.5, "train_accuracy": 0.8, "test_loss": 0.7, "test_accuracy": 0.75},
]


def is_drawn(figure):
    content = io.BytesIO()
    figure.savefig(content)
    pixels = np.asarray(Image.open(content).convert("L"))
    return pixels.std() > 5


def test_curves_show_the_rows():
    figure = plot_curves(ROWS, "test", "a run")
    left, right = figure.axes
    assert [line.get_xydata().tolist() for line in left.lines] == [[[5, 2.0], [10, 1.0], [20, 0.5]], [[10, 1.5], [20, 0.7]]]
    np.testing.assert_allclose(right.lines[1].get_xydata(), [[10, 50], [20, 25]])
    assert [text.get_text() for text in right.get_legend().get_texts()] == [
        "training (running mean)",
        "test, at the end 25.00 %",
    ]
    assert "nats" in left.get_ylabel()
    assert "%" in right.get_ylabel()
    assert is_drawn(figure)


def test_steps_are_whole():
    figure = plot_curves(ROWS, "test", "a run")
    assert all(tick == int(tick) for axes in figure.axes for tick in axes.get_xticks())


def test_curves_of_a_run_without_evaluations_or_rows():
    assert is_drawn(plot_curves(ROWS[:1], "test", "short"))
    assert is_drawn(plot_curves([], "test", "empty"))


def test_confusion_shows_counts_and_shares():
    confusion = np.array([[8, 2], [0, 0]])
    figure = plot_confusion(confusion, ("cat", "dog"), "title")
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.8, 0.2], [0, 0]])
    assert [text.get_text() for text in axes.texts] == ["8", "2"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]
    assert is_drawn(figure)


def test_many_classes():
    figure = plot_confusion(np.eye(100, dtype=int), [str(index) for index in range(100)], "title")
    assert not figure.axes[0].texts
    assert is_drawn(figure)
