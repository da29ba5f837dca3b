import pytest

from resflax.train import train_and_evaluate
from tests.viz import squares


@pytest.fixture(scope="session")
def squares_run(tmp_path_factory):
    """The workdir of a network that tells the textures of `tests.viz.squares` apart."""
    folder = tmp_path_factory.mktemp("squares")
    assert train_and_evaluate(squares.config(folder), str(folder / "run"))["test_accuracy"] > 0.95
    return str(folder / "run")
