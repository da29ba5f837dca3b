"""Training as Flax's examples write it: tf.data, `flax.linen`, `TrainState`, `jit`. A peer of `resflax.benchmark start`.

python -m resflax.bench.flax_example DATA.npz DEPTH BATCH_SIZE STEPS
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any


def main(argv: Sequence[str]) -> None:
    """Trains `cifar_resnet<DEPTH>` for a few steps; says `/resflax/<moment>` to `jax.monitoring` as a run of ours does."""
    path, depth, batch_size, steps = argv[0], *map(int, argv[1:])
    import importlib

    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from resflax.bench import linen_peer
    from resflax.bench.workload import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY

    tf = importlib.import_module("tensorflow")
    importlib.import_module("tensorflow_datasets")  # the examples read their data with it

    def reached(moment: str) -> None:
        jax.monitoring.record_event(f"/resflax/{moment}")

    reached("imported")
    tf.config.set_visible_devices([], "GPU")  # all of its memory is for JAX
    with np.load(path, allow_pickle=False) as file:
        images, labels = file["train_images"], file["train_labels"]
    batches = input_pipeline(tf, images, labels, batch_size)
    reached("read")
    model = linen_peer.ResNet(depth, 10, jnp.float32)
    variables = jax.jit(lambda key, image: model.init(key, image, train=False))(
        jax.random.key(0), jnp.ones((1, *images.shape[1:]))
    )
    state = linen_peer.TrainState.create(
        apply_fn=model.apply,
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        tx=optax.chain(optax.add_decayed_weights(WEIGHT_DECAY), optax.sgd(LEARNING_RATE, MOMENTUM)),
    )
    reached("built")
    for _ in range(steps):
        state, loss = linen_peer.train_step(state, *next(batches))
        jax.block_until_ready((state, loss))
        reached("chunk")


def input_pipeline(tf: Any, images: Any, labels: Any, batch_size: int) -> Iterator[Any]:
    """Endless batches float32[B, H, W, C] and int32[B], with a random crop after padding by 4 and a random flip."""
    mean, deviation = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
    height, width, channels = images.shape[1:]

    def augment(image: Any, label: Any) -> Any:
        image = tf.image.resize_with_crop_or_pad(image, height + 8, width + 8)
        image = tf.image.random_flip_left_right(tf.image.random_crop(image, (height, width, channels)))
        return (tf.cast(image, tf.float32) / 255 - mean) / deviation, label

    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).repeat().shuffle(16 * batch_size, seed=0)
    dataset = dataset.map(augment, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size, drop_remainder=True)
    return dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


if __name__ == "__main__":
    main(sys.argv[1:])
