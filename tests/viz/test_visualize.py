"""`python -m resflax.visualize`, on a run that knows its three textures."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resflax import visualize
from resflax.build.pictures import Pictures
from resflax.errors import ConfigError
from resflax.evaluate import evaluate_workdir

QUICK = ("confusion", "classes", "reliability", "mistakes", "filters", "features", "embedding")


def written(capsys, *arguments):
    assert visualize.main(arguments) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def is_picture(path):
    with Image.open(path) as image:
        return image.format == "PNG" and np.asarray(image.convert("L")).std() > 5


def test_every_figure_can_be_drawn_by_its_name():
    assert {f"draw_{name}" for name in visualize.FIGURES} - {"draw_curves"} == {
        name for name in dir(Pictures) if name.startswith("draw_")
    }


def test_figures_and_the_numbers_behind_them(squares_run, capsys, tmp_path):
    made = written(capsys, f"--workdir={squares_run}", f"--output={tmp_path}", f"--only={','.join(QUICK)}")
    assert [Path(path).name for path in made["written"]] == [*(f"{name}.png" for name in QUICK), "scores.json"]
    assert all(is_picture(tmp_path / f"{name}.png") for name in QUICK)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["accuracy"] == pytest.approx(evaluate_workdir(squares_run)["accuracy"])
    assert scores["images_scored"] == sum(one["support"] for one in scores["classes"]) == 60
    assert [one["class"] for one in scores["classes"]] == ["rows", "columns", "checks"]
    wrong = round((1 - scores["accuracy"]) * 60)
    assert len(scores["worst_mistakes"]) == wrong
    assert all(one["class"] != one["prediction"] for one in scores["worst_mistakes"])


@pytest.mark.long
def test_by_default_all_that_can_be_drawn(squares_run, capsys):
    made = written(capsys, f"--workdir={squares_run}", "--stage=stage2", "--split=train")
    folder = Path(squares_run) / "figures"
    assert {Path(path) for path in made["written"]} == {folder / f"{name}.png" for name in visualize.FIGURES} | {
        folder / "scores.json"
    }
    assert (made["split"], made["images_scored"]) == ("train", 480)
    assert all(is_picture(folder / f"{name}.png") for name in visualize.FIGURES)


def test_curves_of_several_runs_need_no_checkpoint(squares_run, capsys, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "metrics.jsonl"):
        (other / name).write_bytes((Path(squares_run) / name).read_bytes())
    arguments = (f"--workdir={squares_run}", f"--workdir={other}", f"--output={tmp_path}", "--only=curves")
    assert written(capsys, *arguments) == {"written": [str(tmp_path / "curves.png")]}
    assert is_picture(tmp_path / "curves.png")


def test_what_cannot_be_drawn_is_an_error_only_where_it_was_asked_for(squares_run, capsys, tmp_path, monkeypatch):
    def fail(self):
        raise ConfigError("filters.png needs something; leave it out")

    monkeypatch.setattr(Pictures, "draw_filters", fail)
    monkeypatch.setattr(visualize, "FIGURES", {"filters": "", "confusion": ""})
    with pytest.raises(ConfigError, match="needs something"):
        visualize.visualize([squares_run], ["filters"], output=str(tmp_path))
    made = visualize.visualize([squares_run], output=str(tmp_path))
    assert [Path(path).name for path in made["written"]] == ["confusion.png", "scores.json"]
    assert "resflax: filters.png needs something; leave it out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("--only=confusoin", "--only must name figures, got 'confusoin'; did you mean confusion"),
        ("--split=validation", "has no split 'validation'"),
        ("--stage=stage7", "no part 'stage7'; did you mean"),
        ("--stage=head", "needs a part whose output has height and width, got head"),
    ],
)
def test_errors_say_what_to_do(argument, says, squares_run, tmp_path):
    only = () if argument.startswith("--only") else ("--only=mistakes",)
    with pytest.raises(ConfigError, match=says):
        visualize.main([f"--workdir={squares_run}", f"--output={tmp_path}", argument, *only])
