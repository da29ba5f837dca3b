"""The table of data sets against what tfds says without the network."""

import pytest
import tensorflow_datasets as tfds

from resflax.data.datasets import DATASETS


@pytest.mark.parametrize("name", DATASETS)
def test_rows_are_consistent(name):
    info = DATASETS[name]
    channels = info.image_shape[2]
    assert all(count > 0 for count in info.sizes.values())
    assert len(info.class_names) in (0, info.classes)
    assert (info.mean is None) == (info.std is None)
    for values in (info.mean, info.std):
        assert values is None or (len(values) == channels and all(0 < value < 1 for value in values))


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "digits"])
def test_rows_agree_with_tfds(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tfds.core.DatasetInfo, "initialize_from_bucket", lambda self: None)  # it asks the network
    features = tfds.builder(name, data_dir=tmp_path).info.features
    info = DATASETS[name]
    assert features["image"].shape == info.image_shape
    assert features["label"].num_classes == info.classes
    names = tuple(features["label"].names)
    if names != tuple(map(str, range(info.classes))) and info.class_names:  # some names are known only after the download
        assert names == info.class_names
