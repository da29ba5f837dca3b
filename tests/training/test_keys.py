"""The randomness of a step is that of its number, whatever was before it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resflax.prng import stream_key
from resflax.training.losses import cross_entropy
from resflax.training.state import init_state
from resflax.training.steps import make_train_step

BATCH, CLASSES = 8, 5


class Noise(nn.Module):
    """Its logits are what it draws."""

    @nn.compact
    def __call__(self, images, train):
        nothing = jax.lax.stop_gradient(self.param("nothing", nn.initializers.zeros, ()))  # a state needs a parameter
        return jax.random.normal(self.make_rng("dropout"), (len(images), CLASSES)) + nothing


def materialise(batch, resident):
    return {"image": jnp.zeros((len(batch["id"]), 1, 1, 1)), "label": batch["id"] % CLASSES, "mask": batch["mask"]}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_step_s_uses_the_key_of_step_s_from_wherever_the_run_goes_on(accumulate):
    model, optimizer = Noise(), optax.sgd(0.0)
    step = jax.jit(make_train_step(model, optimizer, cross_entropy, materialise, accumulate=accumulate))
    variables = {"params": {"nothing": jnp.zeros(())}}
    batch = {"id": np.arange(BATCH, dtype=np.int32), "mask": np.ones(BATCH, bool)}
    seed = np.uint32(3)

    def expected(number):
        key = jax.random.fold_in(stream_key(seed, "dropout"), number)
        keys = [key] if accumulate == 1 else [jax.random.fold_in(key, index) for index in range(accumulate)]
        images = jnp.zeros((BATCH // accumulate, 1, 1, 1))
        logits = [model.apply(variables, images, train=True, rngs={"dropout": key}) for key in keys]
        return float(jnp.mean(cross_entropy(jnp.concatenate(logits), batch["id"] % CLASSES)))

    found = {}
    for start, stop in ((0, 6), (3, 5), (47, 52)):
        state = init_state(variables, optimizer, ema=False).replace(step=jnp.int32(start))
        for number in range(start, stop):
            state, report = step(state, batch, {"seed": seed})
            assert float(report.loss) == pytest.approx(expected(number), rel=1e-6)
            assert found.setdefault(number, float(report.loss)) == float(report.loss)
    assert len({*found.values()}) == len(found) == 11
