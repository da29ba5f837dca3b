"""What `predict` prints and draws beside its table."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resflax import predict
from resflax.build import open_run
from resflax.errors import ConfigError, InputError
from tests import squares

COUNT = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six images, two of one name, and between them a file that is none."""
    folder = tmp_path_factory.mktemp("predict")
    images, _, _ = squares.draw(COUNT, seed=1)
    (folder / "other").mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / ("other/0, a.png" if index == 5 else f"{index}, a.png"))
    (folder / "2b.png").write_bytes(b"no image")
    return folder


def test_grad_cam_lies_on_the_object(squares_run):
    images, labels, corners = squares.draw(60, seed=1)
    seen, heats = open_run(squares_run).explain(images, labels, None)
    np.testing.assert_allclose(seen, images / 255, atol=1e-6)
    inside = [
        heat[max(row - 4, 0) : row + 12, max(column - 4, 0) : column + 12].sum() / heat.sum()
        for heat, (row, column) in zip(heats, corners, strict=True)
    ]
    assert np.mean(inside) >= 0.8


def test_pictures_and_rows(squares_run, folder, tmp_path, capsys):
    arguments = [f"--workdir={squares_run}", str(folder), "--top=2"]
    assert predict.main([*arguments, "--json", f"--gradcam={tmp_path}"]) == 3
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    pictures = [Path(row["gradcam"]).name for row in rows if "gradcam" in row]
    assert pictures == [
        "00000-0__a.png",
        "00001-1__a.png",
        "00002-2__a.png",
        "00004-3__a.png",
        "00005-4__a.png",
        "00006-0__a.png",
    ]
    assert sorted(pictures) == sorted(path.name for path in tmp_path.iterdir())
    for name in pictures:
        with Image.open(tmp_path / name) as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        half = pixels.shape[1] // 2
        assert np.ptp(pixels[:, half:], axis=-1).max() > 60  # colours on the right, where the network looks

    assert predict.main([*arguments, "--csv"]) == 3
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [*table[0]] == ["path", "error", "gradcam", "class_1", "probability_1", "class_2", "probability_2"]
    for row, line in zip(rows, table, strict=True):
        assert (line["path"], line["error"]) == (row["path"], row.get("error", ""))
        for rank, one in enumerate(row.get("predictions", ()), 1):
            assert line[f"class_{rank}"] == one["class"]
            assert float(line[f"probability_{rank}"]) == one["probability"]
    assert table[3]["class_1"] == ""


@pytest.mark.parametrize(
    ("names", "keep_going", "code"),
    [(["0, a.png"], False, 0), (["0, a.png", "2b.png"], False, 3), (["0, a.png", "2b.png"], True, 0), (["2b.png"], True, 3)],
)
def test_exit_codes(names, keep_going, code, squares_run, folder, capsys):
    flags = ["--keep_going"] if keep_going else []
    assert predict.main([f"--workdir={squares_run}", *(str(folder / name) for name in names), *flags]) == code
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == names.count("0, a.png")
    assert captured.err.count("must be a readable JPEG, PNG or WebP image") == names.count("2b.png")


def stdin(monkeypatch, content):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_paths_from_stdin(squares_run, folder, capsys, monkeypatch):
    stdin(monkeypatch, f"{folder}/1, a.png\r\n\n{folder}/other\n".encode())
    assert predict.main([f"--workdir={squares_run}", str(folder / "0, a.png"), "-", "--json"]) == 0
    paths = [json.loads(line)["path"] for line in capsys.readouterr().out.splitlines()]
    assert paths == [str(folder / name) for name in ("0, a.png", "1, a.png", "other/0, a.png")]
    stdin(monkeypatch, b"\n")
    with pytest.raises(InputError, match="stdin must name an image a line, but it is empty"):
        predict.main([f"--workdir={squares_run}", "-"])


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--stage=stage2"], "--stage needs --gradcam"),
        (["--json", "--csv"], "not allowed with argument --json"),
        (["--gradcam=out", "--stage=stage9"], "the network has no part 'stage9'; did you mean"),
    ],
)
def test_errors_say_what_to_do(flags, says, squares_run, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=says):
        predict.main([f"--workdir={squares_run}", str(folder / "0, a.png"), *flags])
    assert not (tmp_path / "out").exists()
