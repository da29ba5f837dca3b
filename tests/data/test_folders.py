"""The rules of `resflax.data.folders`; files are listed and not decoded, so most are empty here."""

import hashlib
import os
import re

import numpy as np
import pytest

from resflax.data.arrays import load_split
from resflax.data.folders import load_folder
from resflax.errors import ConfigError, DataError


def grow(root, *names):
    """Files `names`; a name that ends with a slash is an empty folder."""
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())
    return root


def listed(files):
    return [path.relative_to(files.root).as_posix() for path in files.paths]


def refusal(error, root, split="train"):
    with pytest.raises(error) as caught:
        load_folder(root, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


PETS = ("train/cat/1.jpg", "train/dog/1.jpg", "train/dog/2.jpg", "test/cat/3.jpg", "test/dog/3.jpg")


def test_labels_are_the_folders_in_the_order_of_the_class_names(tmp_path):
    grow(tmp_path, *PETS)
    train, test = load_folder(tmp_path, "train"), load_folder(tmp_path, "test")
    assert train.class_names == test.class_names == ("cat", "dog")
    assert listed(train) == ["cat/1.jpg", "dog/1.jpg", "dog/2.jpg"]
    assert listed(test) == ["cat/3.jpg", "dog/3.jpg"]
    for files in (train, test):
        assert files.labels.dtype == np.int32
        assert [files.class_names[label] for label in files.labels] == [path.parent.name for path in files.paths]


def test_selected_examples_keep_their_labels(tmp_path):
    chosen = load_folder(grow(tmp_path, *PETS), "train").select(np.array([2, 0]))
    assert listed(chosen) == ["dog/2.jpg", "cat/1.jpg"]
    assert chosen.labels.tolist() == [1, 0]
    assert chosen.class_names == ("cat", "dog")


@pytest.mark.parametrize("rubbish", ["train/emu/", "train/emu/notes.txt", "train/emu/.hidden.jpg"])
def test_a_class_without_a_training_image_is_refused(rubbish, tmp_path):
    grow(tmp_path, *PETS, rubbish, "train/fox/")
    message = refusal(DataError, tmp_path)
    assert "'emu' has none (2 in all)" in message


def test_a_class_only_in_another_split_is_refused(tmp_path):
    grow(tmp_path, *PETS, "test/emu/1.jpg", "test/fox/1.jpg")
    assert f"{tmp_path}/test has 'emu'" in refusal(DataError, tmp_path, "test")
    assert len(load_folder(tmp_path, "train")) == 3


@pytest.mark.parametrize("empty", [(), ("test/ant/",)])
def test_a_class_only_in_the_training_split_keeps_its_label_in_the_others(empty, tmp_path):
    grow(tmp_path, *PETS, "train/ant/1.jpg", *empty)  # sorted before the others, so that forgetting it would shift them
    test = load_folder(tmp_path, "test")
    assert test.class_names == ("ant", "cat", "dog")
    assert test.labels.tolist() == [1, 2]


def test_whole_numbers_are_sorted_as_numbers(tmp_path):
    grow(tmp_path, *(f"train/{number}/x.png" for number in range(1, 13)))
    assert load_folder(tmp_path, "train").class_names == tuple(map(str, range(1, 13)))


def test_names_that_are_not_all_numbers_are_sorted_as_text(tmp_path):
    grow(tmp_path, *(f"train/{name}/x.png" for name in ("10", "9", "b", "B2", "-1")))
    assert load_folder(tmp_path, "train").class_names == ("-1", "10", "9", "B2", "b")


@pytest.mark.parametrize("twin", ["Cat", "cat ", " CAT", "cat\t"])
def test_names_that_differ_in_case_or_outer_spaces_are_refused(twin, tmp_path):
    grow(tmp_path, *PETS, f"train/{twin}/1.jpg")
    if len(list((tmp_path / "train").iterdir())) < 3:
        pytest.skip("this file system tells no such names apart")
    message = refusal(DataError, tmp_path)
    assert repr(twin) in message
    assert "'cat'" in message


@pytest.mark.parametrize("name", ["Cat", "cat "])
def test_a_class_that_is_written_differently_in_another_split_is_refused(name, tmp_path):
    grow(tmp_path, "train/cat/1.jpg", f"test/{name}/1.jpg")
    if (tmp_path / "test" / "cat").exists():
        pytest.skip("this file system tells no such names apart")
    assert repr(name) in refusal(DataError, tmp_path, "test")


def test_a_trailing_space_without_a_twin_is_part_of_the_name(tmp_path):
    grow(tmp_path, "train/cat /1.jpg", "test/cat /2.jpg")
    assert load_folder(tmp_path, "test").class_names == ("cat ",)


def test_what_is_hidden_or_no_image_is_passed_over(tmp_path):
    grow(
        tmp_path,
        *PETS,
        *("README.md", "stray.jpg", "train/stray.jpg", "train/labels.csv", "test/stray.jpg"),
        *("train/.git/1.jpg", "train/.ipynb_checkpoints/", "train/cat/.cache/1.jpg", "train/cat/._1.jpg", "test/.x/1.jpg"),
        *("train/cat/Thumbs.db", "train/cat/1.gif", "train/cat/2.bmp", "train/cat/3.jpg.txt", "train/cat/jpg", "train/cat/x/"),
    )
    (tmp_path / "train" / "cat" / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "train" / "cat" / "pipe.jpg")  # opening it would wait for a writer that never comes
    (tmp_path / "train" / "cat" / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "train" / "cat" / "around").symlink_to("..")
    assert load_folder(tmp_path, "train").class_names == ("cat", "dog")
    assert listed(load_folder(tmp_path, "train")) == ["cat/1.jpg", "dog/1.jpg", "dog/2.jpg"]
    assert listed(load_folder(tmp_path, "test")) == ["cat/3.jpg", "dog/3.jpg"]


def test_every_suffix_of_an_image_counts_in_any_case(tmp_path):
    names = ["1.JPG", "2.jpeg", "3.Png", "4.webp", "5.tar.jpg"]
    grow(tmp_path, *(f"train/cat/{name}" for name in names))
    assert listed(load_folder(tmp_path, "train")) == [f"cat/{name}" for name in names]


def test_folders_in_a_class_are_searched_through(tmp_path):
    grow(tmp_path, "train/cat/b/c/1.jpg", "train/cat/a/1.jpg", "train/cat/z.jpg", "train/dog/cat/1.jpg")
    files = load_folder(tmp_path, "train")
    assert listed(files) == ["cat/a/1.jpg", "cat/b/c/1.jpg", "cat/z.jpg", "dog/cat/1.jpg"]
    assert files.labels.tolist() == [0, 0, 0, 1]


def test_names_beyond_ascii(tmp_path):
    names = ("Äpfel", "猫", "кошка", "two words", "🐈")
    grow(tmp_path, *(f"{split}/{name}/ü {name}.jpg" for split in ("train", "test") for name in names))
    train, test = load_folder(tmp_path, "train"), load_folder(tmp_path, "test")
    assert train.class_names == test.class_names == tuple(sorted(names))
    assert test.name(0) == str(tmp_path / "test" / "two words" / "ü two words.jpg")
    assert re.fullmatch("[0-9a-f]{16}", train.fingerprint())


@pytest.mark.parametrize("layout", ["", "train/"])
def test_file_names_that_are_no_text(layout, tmp_path):
    grow(tmp_path, *(f"{layout}cat/{number}.jpg" for number in range(20)))
    try:
        (tmp_path / layout / "cat" / os.fsdecode(b"caf\xe9.jpg")).touch()
    except OSError:
        pytest.skip("this file system takes only text")
    splits = ("train",) if layout else ("train", "test")
    assert sum(len(load_folder(tmp_path, split)) for split in splits) == 21
    assert all(re.fullmatch("[0-9a-f]{16}", load_folder(tmp_path, split).fingerprint()) for split in splits)


def test_without_classes_there_is_nothing_to_learn(tmp_path):
    grow(tmp_path, "1.jpg", ".hidden/1.jpg")
    assert "must hold a folder a class, but it has none" in refusal(DataError, tmp_path)
    grow(tmp_path, "train/1.jpg")
    assert f"{tmp_path}/train must hold a folder a class" in refusal(DataError, tmp_path)


def test_any_folder_beside_train_is_a_split(tmp_path):
    grow(tmp_path, *PETS, "val/dog/9.jpg", ".git/x")
    assert listed(load_folder(tmp_path, "val")) == ["dog/9.jpg"]
    message = refusal(ConfigError, tmp_path, "valid")
    assert "has no split 'valid'; it has test, train, val; set config.data.train_split or config.data.eval_split" in message


UNDIVIDED = tuple(f"{name}/{number}.jpg" for name in ("cat", "dog") for number in range(500))


@pytest.fixture(scope="module")
def undivided(tmp_path_factory):
    return grow(tmp_path_factory.mktemp("undivided"), *UNDIVIDED)


def test_an_undivided_folder_is_divided_into_four_fifths_and_one(undivided):
    train, test = load_folder(undivided, "train"), load_folder(undivided, "test")
    assert sorted(listed(train) + listed(test)) == sorted(UNDIVIDED)  # as lists: disjoint as well
    assert train.class_names == test.class_names == ("cat", "dog")
    for files in (train, test):
        assert [files.class_names[label] for label in files.labels] == [path.parent.name for path in files.paths]
    assert np.all(np.abs(np.bincount(test.labels) - 100) < 4 * np.sqrt(500 * 0.2 * 0.8))


def test_the_division_never_changes(undivided):
    # A network's accuracy would no longer be on images that it has not seen.
    names = "\n".join(listed(load_folder(undivided, "test")))
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == "94782300873ab6f5"


def test_a_file_that_is_added_moves_no_other(tmp_path):
    grow(tmp_path, *UNDIVIDED[:50], *UNDIVIDED[500:550])
    before = [set(listed(load_folder(tmp_path, split))) for split in ("train", "test")]
    grow(tmp_path, "ant/1.jpg", "ant/2.jpg", "ant/3.jpg", "cat/0000.jpg", "dog/deep/1.jpg")
    after = [set(listed(load_folder(tmp_path, split))) for split in ("train", "test")]
    assert all(old <= new for old, new in zip(before, after, strict=True))


def test_the_division_does_not_depend_on_where_the_folder_lies(tmp_path):
    names = UNDIVIDED[:100]
    here, there = (listed(load_folder(grow(tmp_path / place, *names), "test")) for place in ("here", "far/there"))
    assert here == there


def test_an_undivided_folder_has_two_splits(undivided):
    assert "has no folder train/, so its splits are train and test, got 'val'" in refusal(ConfigError, undivided, "val")


def test_parts(undivided):
    whole = listed(load_folder(undivided, "train"))
    first, rest = load_folder(undivided, "train[:10]"), load_folder(undivided, "train[10:]")
    assert len(first) == 10
    assert sorted(listed(first) + listed(rest)) == sorted(whole)
    assert listed(first) == [name for name in whole if name in set(listed(first))]  # in the order of the whole
    assert set(first.labels) == {0, 1}  # drawn from all classes, though files are listed class by class
    assert first.class_names == ("cat", "dog")
    assert [first.class_names[label] for label in first.labels] == [path.parent.name for path in first.paths]


def test_parts_in_percent(undivided):
    whole = load_folder(undivided, "test")
    lower, upper = load_folder(undivided, "test[:50%]"), load_folder(undivided, "test[50%:]")
    assert sorted(listed(lower) + listed(upper)) == sorted(listed(whole))
    assert abs(len(lower) - len(upper)) <= 1
    middle = load_folder(undivided, "test[25%:75%]")
    assert set(listed(middle)) & set(listed(lower))
    assert set(listed(middle)) & set(listed(upper))
    assert listed(load_folder(undivided, "test[:]")) == listed(load_folder(undivided, "test[:100%]")) == listed(whole)


def test_parts_of_a_divided_folder(tmp_path):
    grow(tmp_path, *PETS)
    parts = [listed(load_folder(tmp_path, f"train[{index}:{index + 1}]")) for index in range(3)]
    assert sorted(name for part in parts for name in part) == listed(load_folder(tmp_path, "train"))
    assert len(load_folder(tmp_path, "test[:1]")) == 1
    assert len(load_folder(tmp_path, "train[:99]")) == 3


@pytest.mark.parametrize(
    "split", ["", "train[", "train[1]", "train[:x]", "train[-1:]", "train[%:]", "train[:%]", "[:1]", "train[:1]x"]
)
def test_parts_that_cannot_be_read_are_refused(split, tmp_path):
    assert "must read NAME, NAME[START:STOP]" in refusal(ConfigError, grow(tmp_path, *PETS), split)


@pytest.mark.parametrize("split", ["train[:0]", "train[2:1]", "train[99:]"])
def test_an_empty_part_is_refused(split, tmp_path):
    with pytest.raises(ConfigError, match="must hold at least one example"):
        load_split(str(grow(tmp_path, *PETS)), split)


def change_name(root):
    (root / "train/dog/2.jpg").rename(root / "train/dog/3.jpg")


def change_size(root):
    with (root / "train/dog/2.jpg").open("ab") as file:
        file.write(b"x")


def change_label(root):
    (root / "train/dog/2.jpg").rename(root / "train/cat/2.jpg")


def change_class(root):
    (root / "train/dog").rename(root / "train/elk")


def remove(root):
    (root / "train/dog/2.jpg").unlink()


@pytest.mark.parametrize("change", [change_name, change_size, change_label, change_class, remove])
def test_the_fingerprint_tells_of_changes(change, tmp_path):
    grow(tmp_path, *PETS)
    before = load_folder(tmp_path, "train").fingerprint()
    change(tmp_path)
    assert load_folder(tmp_path, "train").fingerprint() != before


def test_the_fingerprint_tells_of_nothing_else(tmp_path):
    prints = {
        load_folder(grow(tmp_path / place, *PETS, *more), "train").fingerprint()
        for place, more in (("here", ()), ("far/there", ("train/cat/notes.txt", "test/cat/9.jpg")))
    }
    assert len(prints) == 1


def test_the_fingerprint_tells_of_the_order(tmp_path):
    files = load_folder(grow(tmp_path, *PETS), "train")
    assert files.select(np.array([1, 0, 2])).fingerprint() != files.fingerprint()
