"""The host path makes the batches that the resident path makes, whatever the number of its workers."""

import dataclasses
import threading

import jax
import numpy as np
import pytest
from PIL import Image

from resflax.build import build
from resflax.data.arrays import load_split
from resflax.data.folders import load_folder
from resflax.data.order import training_batch
from resflax.data.pipeline import HostPipeline, ResidentPipeline
from resflax.data.preprocess import Preprocessing, fit_preprocessing
from resflax.data.reading import Gather, array_reader, centered_reader, decode_all, find_unreadable, random_crop_reader
from resflax.errors import InputError
from tests import micro

WORKERS = [0, 1, 2, 4]
PLAIN = Preprocessing((4, 4), np.zeros(3), np.ones(3))


def assert_equal(batch, expected):
    assert batch.keys() == expected.keys()
    for name, value in expected.items():
        assert batch[name].dtype == value.dtype, name
        np.testing.assert_array_equal(batch[name], value, err_msg=name)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Twenty patches of two photographs, of twenty sizes."""
    from sklearn.datasets import load_sample_images

    root = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        (root / "train" / name).mkdir(parents=True)
        for number in range(10):
            top, left, height, width = rng.integers(0, 200), rng.integers(0, 400), 30 + 7 * number, 90 - 5 * number
            patch = Image.fromarray(pixels[top : top + height, left : left + width])
            patch.save(root / "train" / name / f"{number}.jpg", quality=95)
    return load_folder(root, "train")


def photograph_pipeline(photographs, workers, rows=None):
    read = random_crop_reader(photographs, 12, seed=5)
    preprocessing = Preprocessing((12, 12), np.zeros(3), np.ones(3))
    return HostPipeline(preprocessing, 6, 5, rows=rows, read=read, labels=photographs.labels, workers=workers)


STEPS = 11  # 66 images: three epochs of 20 and the beginning of a fourth


@pytest.fixture(scope="module")
def expected(photographs):
    """Batches made one image after the other."""
    read = random_crop_reader(photographs, 12, seed=5)
    batches = []
    for step in range(STEPS):
        batch = training_batch(5, step, 6, 20)
        pairs = list(zip(batch["epoch"].tolist(), batch["id"].tolist(), strict=True))
        images = np.stack([read(epoch, index) for epoch, index in pairs])
        batches.append({**batch, "image": images, "label": photographs.labels[batch["id"]]})
    return batches


@pytest.mark.parametrize("workers", WORKERS)
def test_batches_do_not_depend_on_the_workers(workers, photographs, expected):
    batch_at = photograph_pipeline(photographs, workers).training_batches()
    for step in range(STEPS):
        assert_equal(batch_at(step), expected[step])


@pytest.mark.parametrize("workers", WORKERS)
def test_a_jump_to_another_step_gives_that_step(workers, photographs, expected):
    batch_at = photograph_pipeline(photographs, workers).training_batches()
    for step in (4, 5, 10, 9, 9, 0, 2, 1, 3):
        assert_equal(batch_at(step), expected[step])


def test_random_parts_differ_between_epochs_and_seeds(photographs):
    def images(epoch, seed):
        read = random_crop_reader(photographs, 12, seed)
        return np.stack([read(epoch, index) for index in range(20)])

    for other in (images(1, 5), images(0, 6)):
        assert (images(0, 5) != other).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("workers", WORKERS)
def test_evaluation_sees_the_middle_of_each_image_once(workers, photographs):
    arrays = decode_all(photographs, 12, 0.875)
    read = centered_reader(photographs, 12, 0.875)
    pipeline = HostPipeline(PLAIN, 6, read=read, labels=photographs.labels, workers=workers)
    for _ in range(2):
        batches = list(pipeline.evaluation_batches())
        assert [batch["mask"].sum() for batch in batches] == [6, 6, 6, 2]
        kept = {name: np.concatenate([batch[name][batch["mask"]] for batch in batches]) for name in ("id", "image", "label")}
        assert_equal(kept, {"id": np.arange(20, dtype=np.int32), "image": arrays.images, "label": photographs.labels})
        assert not batches[-1]["image"][2:].any()  # under the mask nothing is decoded


def test_decode_all_keeps_labels_with_their_images(photographs):
    whole, part = decode_all(photographs, 12, 1.0), decode_all(photographs, 12, 1.0, np.array([13, 2]), workers=3)
    np.testing.assert_array_equal(part.images, whole.images[[13, 2]])
    assert part.labels.tolist() == photographs.labels[[13, 2]].tolist() == [1, 0]


@pytest.fixture(scope="module")
def both():
    """The same digits for both forms."""
    arrays = load_split("digits", "train[:60]")
    shared = (fit_preprocessing("per_channel", arrays, 10), 16, 3, ("pad_crop:2", "flip"))
    host = HostPipeline(*shared, read=array_reader(arrays), labels=arrays.labels, workers=2)
    return host, ResidentPipeline(*shared, arrays=arrays)


def materialised(pipeline, batches):
    step = jax.jit(pipeline.materialise)
    return [jax.device_get(step(batch, pipeline.resident)) for batch in batches]


def test_both_forms_make_bit_equal_training_batches(both):
    host, resident = (materialised(one, map(one.training_batches(), range(12))) for one in both)
    for ours, theirs in zip(host, resident, strict=True):
        assert_equal(ours, theirs)


def test_both_forms_make_bit_equal_evaluation_batches(both):
    host, resident = (materialised(one, one.evaluation_batches()) for one in both)
    for ours, theirs in zip(host, resident, strict=True):
        np.testing.assert_array_equal(ours["mask"], theirs["mask"])
        keep = ours["mask"]  # what lies under the mask is nobody's business
        assert_equal({name: ours[name][keep] for name in ours}, {name: theirs[name][keep] for name in theirs})


@pytest.mark.parametrize("workers", [0, 2])
def test_arrays_are_gathered_a_batch_at_a_time(workers, monkeypatch):
    arrays = load_split("digits", "train[:10]")
    asked = []
    monkeypatch.setattr(Gather, "__call__", lambda self, ids: asked.append(len(ids)) or self.images[ids])
    pipeline = HostPipeline(PLAIN, 4, read=array_reader(arrays), labels=arrays.labels, workers=workers)
    batches = list(pipeline.evaluation_batches())
    assert asked == [4, 4, 4]
    np.testing.assert_array_equal(np.concatenate([batch["image"] for batch in batches])[:10], arrays.images)
    assert not batches[-1]["image"][2:].any()  # under the mask
    assert arrays.images[0].any()  # which is where those rows would come from
    assert batches[-1]["label"].tolist() == [*arrays.labels[8:], 0, 0]


@pytest.mark.long
def test_both_forms_train_and_evaluate_alike(tmp_path):
    path = micro.write_npz(tmp_path)
    losses, evaluations = [], []
    for where in ("host", "resident"):
        config = micro.config(path)
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, input=where, workers=2))
        run = build(config, jax.devices()[:1])
        assert isinstance(run.train, HostPipeline if where == "host" else ResidentPipeline)
        state = run.initial_state()
        state, reports = run.compile_chunk(state)(state, 0, 6)
        losses.append(np.asarray(reports.loss))
        evaluations.append(run.make_evaluate()(state.variables()))
    assert len(set(losses[0].tolist())) == 6
    np.testing.assert_array_equal(*losses)
    assert evaluations[0].images_scored == evaluations[1].images_scored == 21
    assert evaluations[0].loss == evaluations[1].loss
    np.testing.assert_array_equal(evaluations[0].confusion, evaluations[1].confusion)


@pytest.fixture
def damaged(photographs, tmp_path):
    """Good images, and one that is none."""
    for index, path in enumerate(photographs.paths[:5]):
        target = tmp_path / "train" / "x" / f"{index}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes()[: -200 if index == 3 else None])
    return load_folder(tmp_path, "train")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_file_is_named(workers, damaged):
    read = centered_reader(damaged, 12, 1.0)
    pipeline = HostPipeline(PLAIN, 5, read=read, labels=damaged.labels, workers=workers)
    for _ in range(2):
        with pytest.raises(InputError, match=r"/3\.jpg must be a readable"):
            list(pipeline.evaluation_batches())
        with pytest.raises(InputError, match=r"/3\.jpg must be a readable"):
            pipeline.training_batches()(0)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_file_stops_only_the_batch_it_is_in(workers, damaged):
    pipeline = HostPipeline(PLAIN, 1, read=centered_reader(damaged, 12, 1.0), labels=damaged.labels, workers=workers)
    batch_at = pipeline.training_batches()
    for step in range(5):
        if training_batch(0, step, 1, 5)["id"][0] == 3:
            with pytest.raises(InputError, match=r"/3\.jpg"):
                batch_at(step)
        else:
            assert batch_at(step)["image"].any()


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_files_are_found_and_left_out(workers, damaged):
    found = find_unreadable(damaged, workers)
    assert list(found) == [3]
    assert found[3].startswith(f"{damaged.paths[3]} must be a readable")
    kept = damaged.select(np.array([0, 1, 2, 4]))
    assert not find_unreadable(kept, workers)


def test_hosts_make_contiguous_parts_of_the_global_batch(photographs, expected):
    hosts = [photograph_pipeline(photographs, 2, rows) for rows in ((0, 3), (3, 6))]
    parts = [one.training_batches() for one in hosts]
    for step in range(4):
        first, second = (batch_at(step) for batch_at in parts)
        assert len(first["id"]) == len(second["id"]) == 3
        assert_equal({name: np.concatenate([first[name], second[name]]) for name in first}, expected[step])
    whole = photograph_pipeline(photographs, 0).evaluation_batches()
    for first, second, both in zip(*(one.evaluation_batches() for one in hosts), whole, strict=True):
        assert_equal({name: np.concatenate([first[name], second[name]]) for name in first}, both)


def test_a_host_whose_rows_are_all_under_the_mask_still_gives_its_part(photographs):
    # 20 images in batches of 6: of the last batch the second host has none.
    images = [batch["image"] for batch in photograph_pipeline(photographs, 0, (3, 6)).evaluation_batches()]
    assert images[-1].shape == (3, 12, 12, 3)
    assert not images[-1].any()


def pixels_of(epoch, index):
    """An image that tells its own epoch and id."""
    return np.frombuffer(np.array([epoch, index] * 6, "<i4").tobytes(), np.uint8).reshape(4, 4, 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_late_step_is_reached_without_the_earlier_ones(workers):
    count, batch_size, step = 1_281_167, 32, 100_000
    seen, lock = [], threading.Lock()

    def read(epoch, index):
        with lock:
            seen.append((epoch, index))
        return pixels_of(epoch, index)

    labels = (np.arange(count) % 1000).astype(np.int32)
    pipeline = HostPipeline(PLAIN, batch_size, 7, read=read, labels=labels, workers=workers)
    batch_at = pipeline.training_batches()
    batch = batch_at(step)
    expected = training_batch(7, step, batch_size, count)
    images = np.stack([pixels_of(*pair) for pair in zip(expected["epoch"], expected["id"], strict=True)])
    assert_equal(batch, {**expected, "image": images, "label": labels[expected["id"]]})
    assert expected["epoch"].tolist() == [step * batch_size // count] * batch_size
    ahead = 2 if workers else 0
    allowed = {
        pair
        for one in range(step, step + ahead + 1)
        for pair in zip(*(training_batch(7, one, batch_size, count)[name].tolist() for name in ("epoch", "id")), strict=True)
    }
    made = list(seen)  # the workers may still be at it
    assert len(set(made)) == len(made) >= batch_size
    assert set(made) <= allowed


@pytest.mark.parametrize("workers", [1, 4])
def test_the_next_batches_are_made_ahead_and_each_image_once(workers):
    seen, lock = [], threading.Lock()
    ready = threading.Event()

    def read(epoch, index):
        with lock:
            seen.append((epoch, index))
            if len(seen) == 12:
                ready.set()
        return pixels_of(epoch, index)

    pipeline = HostPipeline(PLAIN, 4, read=read, labels=np.zeros(40, np.int32), workers=workers)
    batch_at = pipeline.training_batches()
    batch_at(0)
    assert ready.wait(60)  # steps 1 and 2 are made though nobody asked for them
    for step in range(1, 8):
        batch_at(step)
    made = list(seen)  # the workers may still be at it
    assert len(set(made)) == len(made)
    assert 4 * 8 <= len(made) <= 4 * 10


def test_without_workers_everything_happens_in_the_calling_thread():
    threads = []

    def read(epoch, index):
        threads.append(threading.current_thread())
        return pixels_of(epoch, index)

    pipeline = HostPipeline(PLAIN, 4, read=read, labels=np.zeros(10, np.int32), workers=0)
    pipeline.training_batches()(1)
    assert len(threads) == 4
    list(pipeline.evaluation_batches())
    assert len(threads) == 14
    assert set(threads) == {threading.current_thread()}


def test_an_evaluation_that_is_given_up_leaves_no_thread(photographs):
    before = set(threading.enumerate())
    pipeline = HostPipeline(PLAIN, 2, read=centered_reader(photographs, 12, 1.0), labels=photographs.labels, workers=3)
    batches = pipeline.evaluation_batches()
    next(batches)
    new = set(threading.enumerate()) - before
    assert 1 <= len(new) <= 3  # a thread that is idle already is not joined by another
    batches.close()
    assert not any(thread.is_alive() for thread in new)
