"""The check of gradients passes where they are right and fails where they are not."""

import json

import jax
import jax.numpy as jnp
import pytest

from resflax import benchmark
from resflax.bench import correctness
from resflax.errors import DataError


@pytest.mark.long
def test_a_device_agrees_with_itself(capsys, tmp_path):
    assert benchmark.main(["gradients", f"--output={tmp_path / 'found.json'}"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "found.json").read_text())
    assert {one["what"] for one in found["gradients"]} == correctness.cases().keys()
    assert all(one["agrees"] and one["error"] <= 1e-4 for one in found["gradients"])


@jax.custom_jvp
def wrong_on_the_accelerator(x):
    return x


@wrong_on_the_accelerator.defjvp
def _(primals, tangents):
    return primals[0], tangents[0] * wrong_on_the_accelerator.scale


@pytest.mark.parametrize(("scale", "precisions"), [(1 + 1e-3, ["highest"]), (1.1, ["highest", "default"])])
def test_a_wrong_gradient_is_named(scale, precisions, monkeypatch):
    seen = []
    plain = correctness._gradient

    def gradient(*arguments):
        wrong_on_the_accelerator.scale = scale if seen else 1.0
        seen.append(1)
        jax.clear_caches()
        return plain(*arguments)

    function = {"identity": (lambda a, x: jnp.sum(wrong_on_the_accelerator(a * x)), (jnp.float32(2), jnp.ones(3)))}
    monkeypatch.setattr(correctness, "cases", lambda: function)
    monkeypatch.setattr(correctness, "_gradient", gradient)
    with pytest.raises(DataError, match="gradients must agree") as caught:
        benchmark.main(["gradients"])
    assert str(caught.value).count("identity (") == len(precisions)


def test_the_network_is_in_training_mode():
    """Its first normalisation then takes out the scale of the images."""
    function, (params, images) = correctness.cases()["cifar_resnet8"]
    assert float(function(params, 3 * images)) == pytest.approx(float(function(params, images)), rel=1e-3)
