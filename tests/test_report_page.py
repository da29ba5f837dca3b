"""`python -m resflax.report RUN_DIR`: one file that needs nothing else, says what the record says, and harms nobody."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from resflax import report
from resflax.build import page as pages
from resflax.build.outputs import Outputs
from resflax.build.pictures import Pictures
from resflax.config import Config, ModelConfig, to_dict
from resflax.errors import ConfigError, InputError, StorageError
from resflax.viz.page.chart import DRAWN, Line, chart
from resflax.viz.page.confusion import cells, matrix
from resflax.viz.page.html import ElementTree

NAMES = ("<script>document.title = 'taken over'</script>", '"><img src=x onerror=alert(1)>', "cat & dog", "\udcff é")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


class Page(HTMLParser):
    """What a browser makes of it: all tags, and the texts of each table's rows."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.tables, self.text, self.in_cell = [], [], "", False
        self.feed(content.decode())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self.in_cell |= tag in ("td", "th")

    def handle_endtag(self, tag):
        self.in_cell &= tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self.in_cell:
            self.tables[-1][-1][-1] += data

    def table(self, *header):
        (found,) = (rows for rows in self.tables if rows[0] == list(header))
        return found[1:]

    def attributes(self, tag):
        return [found for name, found in self.tags if name == tag]


class Guesses(Pictures):
    """A network of four classes that is right about every other image; images are noise, which no format makes smaller."""

    def __init__(self, count=60, side=8):
        rng = np.random.default_rng(0)
        labels = rng.integers(0, len(NAMES), count).astype(np.int32)
        logits = rng.normal(size=(count, len(NAMES))).astype(np.float32)
        logits[np.arange(count), labels] += 1
        self.outputs = Outputs(np.arange(count, dtype=np.int32), labels, logits, logits)
        self.names, self.stage, self.side, self.rng = NAMES, "stage3", side, rng
        self.trained = type("Trained", (), {"split": "test", "step": 9})

    def images(self, ids):
        return ids, self.rng.random((len(ids), self.side, self.side, 3))

    def heat(self, images, classes):
        return self.rng.random((len(images), self.side, self.side))

    def example_name(self, index):
        return f"photos/<b>{index}.jpg"


@pytest.fixture
def workdir(tmp_path):
    """Of a run of nine steps that left no checkpoint."""
    return write_run(tmp_path / "run", Config(seed=3, model=ModelConfig("cifar_resnet8")))


def write_run(folder, config, **record):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    rows = [{"step": step, "train_loss": 1 / step, "train_accuracy": 0.5, "learning_rate": 0.1} for step in range(1, 10)]
    rows.append({"step": 9, "test_loss": 0.2, "test_accuracy": 0.75})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = {
        "test_accuracy": 0.75, "images_scored": 60, "split": "test", "steps": 9, "seed": config.seed, "git_commit": "abc<i>",
        "versions": {"jax": "0.10.2"}, "config_hash": "0123", "train_seconds": 5.0, "first_losses": [1.0], **record,
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps({**found, "config": to_dict(config)}))
    return folder


@pytest.fixture
def guesses(monkeypatch):
    made = Guesses()
    monkeypatch.setattr(pages, "open_trained", lambda *_: None)
    monkeypatch.setattr(pages, "Pictures", lambda *_: made)
    return made


def test_a_page_loads_nothing_and_runs_only_its_own_script(workdir, guesses):
    content = pages.run_page(str(workdir))
    page = Page(content)
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert re.match(r"data:image/(png|jpeg);base64,|#", attributes.get(name, "#")), attributes
        assert not [name for name in attributes if name.startswith("on")]
    assert not {name for name, _ in page.tags} & {"link", "iframe", "object", "embed", "base", "i", "b.jpg"}
    assert len(page.attributes("script")) == 1
    assert "url(" not in content.decode()
    assert "@import" not in content.decode()
    assert "http:" not in content.decode()
    (policy,) = (one["content"] for one in page.attributes("meta") if "http-equiv" in one)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "script-src 'sha256-" in policy
    identifiers = [one["id"] for _, one in page.tags if "id" in one]
    assert len({*identifiers}) == len(identifiers)
    assert {one["href"] for one in page.attributes("a")} <= {f"#{one}" for one in identifiers}
    assert all(one.get("alt") for one in page.attributes("img"))
    assert all(name in page.text for name in NAMES[:3])


def test_the_numbers_are_those_of_the_record_and_of_scikit_learn(workdir, guesses):
    page = Page(pages.run_page(str(workdir)))
    assert "75.00 % test accuracy" in page.text
    assert "60 images of split test" in page.text
    assert "seed 3" in page.text
    assert dict(page.table("field", "value")) == {
        "test_accuracy": "0.75", "images_scored": "60", "split": "test", "steps": "9", "seed": "3", "git_commit": "abc<i>",
        "versions.jax": "0.10.2", "config_hash": "0123", "train_seconds": "5.0",
    }  # fmt: skip
    changed = [["model.name", "cifar_resnet8", Config().model.name], ["seed", "3", "0"]]
    assert page.table("key", "this run", "default") == changed
    labels, predictions = guesses.outputs.labels, guesses.predictions
    (grid,) = (rows for rows in page.tables if rows[0][:2] == ["", NAMES[0][:17] + "…"])
    shown = [[int(cell or 0) for cell in row[1:]] for row in grid[1:]]
    assert shown == confusion_matrix(labels, predictions).tolist()
    rows = page.table("class", "precision", "recall", "F1", "images")
    expected = np.transpose(precision_recall_fscore_support(labels, predictions))
    found = {name: [float(one) for one in rest] for name, *rest in rows[:-1]}
    for name, row in zip(NAMES[:3], expected, strict=False):
        np.testing.assert_allclose(found[name], row, atol=5e-5)
    right = (labels == predictions).mean()
    assert f"That is {100 * right:.2f} %; the record says 75.00 % after step 9" in page.text


def test_a_cell_leads_to_its_images_the_hardest_first(workdir, guesses):
    page = Page(pages.run_page(str(workdir)))
    row, column = np.argwhere(guesses.confusion)[1]
    assert f"#cell-{row}-{column}" in {one["href"] for one in page.attributes("a")}
    assert f"cell-{row}-{column}" in {one.get("id") for one in page.attributes("section")}
    found = pages.cell_images(guesses)
    assert found.keys() == {*map(tuple, np.argwhere(guesses.confusion))}
    for (label, prediction), (pictures, total) in found.items():
        there = (guesses.outputs.labels == label) & (guesses.predictions == prediction)
        assert total == there.sum()
        hardest = guesses.hardest[there[guesses.hardest]][: pages.IN_CELL]
        assert [one.get("title").partition(",")[0] for one in pictures] == [f"photos/<b>{index}.jpg" for index in hardest]


def test_images_share_the_room_of_a_page(workdir, guesses, monkeypatch):
    monkeypatch.setattr(pages, "BUDGET", pages.BUDGET // 20)  # the rule is that of the whole; drawing 3.5 MB takes seconds
    guesses.__init__(2000, 32)
    found = pages.cell_images(guesses)
    assert len(pages.in_turn(guesses.hardest, [(0, 0)] * 2000, {(0, 0)})) == pages.IN_CELL
    counts = [len(pictures) for pictures, _ in found.values()]
    assert len(found) == 16
    assert max(counts) - min(counts) <= 1
    assert min(counts) >= 1
    size = sum(len(picture.get("src")) for pictures, _ in found.values() for picture in pictures)
    assert 0.9 * pages.BUDGET < size <= pages.BUDGET


def test_a_network_without_mistakes_has_a_page(workdir, guesses):
    guesses.outputs.logits[np.arange(60), guesses.outputs.labels] += 100
    text = Page(pages.run_page(str(workdir))).text
    assert "60 rightly" in text
    assert "Worst mistakesThere is none." in text


def test_of_many_classes_the_most_frequent_confusions_are_listed():
    confusion = np.diag(np.full(1000, 50))
    confusion[7, 3], confusion[3, 9] = 20, 4
    assert cells(confusion) == [(7, 3), (3, 9)]
    text = ElementTree.tostring(matrix(confusion, [f"class {index}" for index in range(1000)]), encoding="unicode")
    assert '<th scope="row">class 7</th><td>class 3</td>' in text
    assert len(text) < 2000


def test_an_unfinished_run_shows_what_there_is(workdir):
    (workdir / "result.json").unlink()
    page = Page(pages.run_page(str(workdir)))
    assert "This run is not finished" in page.text
    assert "that of step 9" in page.text
    assert "no scores of classes here" in page.text
    assert "with a checkpoint" in page.text
    assert len(page.attributes("polyline")) == 5
    (workdir / "metrics.jsonl").unlink()
    assert "Nothing was logged yet." in Page(pages.run_page(str(workdir))).text


def test_a_damaged_checkpoint_is_named(workdir, guesses, monkeypatch):
    monkeypatch.setattr(pages, "open_trained", lambda *others: others[-1]("checkpoint 9 is not used"))
    page = Page(pages.run_page(str(workdir)))
    assert "checkpoint 9 is not used" in page.text
    assert page.table("class", "precision", "recall", "F1", "images")

    def gone(*others):
        others[-1]("checkpoint 9 is not used")
        raise StorageError("there is none")

    monkeypatch.setattr(pages, "open_trained", gone)
    assert "here: checkpoint 9 is not used; there is none" in Page(pages.run_page(str(workdir))).text


def test_several_runs_are_compared_by_what_differs(tmp_path):
    one = write_run(tmp_path / "one", Config(seed=1))
    two = write_run(tmp_path / "two", Config(seed=2, model=ModelConfig("cifar_resnet8")), test_accuracy=0.5)
    (write_run(tmp_path / "three", Config(seed=1)) / "result.json").unlink()
    page = Page(pages.comparison_page([str(one), str(two), str(tmp_path / "three")]))
    header = ("run", "test accuracy", "images scored", "steps", "training, seconds", "model.name", "seed")
    default = Config().model.name
    assert page.table(*header) == [
        ["one", "75.00 %", "60", "9", "5", default, "1"],
        ["two", "50.00 %", "60", "9", "5", "cifar_resnet8", "2"],
        ["three", "not finished", "not finished", "not finished", "not finished", default, "1"],
    ]
    assert len(page.attributes("polyline")) == 3 * 5


def test_the_command_decides_by_what_a_folder_holds(workdir, tmp_path, capsys):
    assert report.main([str(workdir)]) == 0
    assert json.loads(capsys.readouterr().out) == {"written": [str(workdir / "report.html")]}
    other = write_run(tmp_path / "other", Config())
    assert report.main([str(workdir), str(other), str(other)]) == 0
    assert len(Page((tmp_path / "report.html").read_bytes()).tables[0]) == 3
    assert report.main([str(workdir), f"--output={tmp_path / 'new' / 'a.html'}"]) == 0
    for path in (workdir / "report.html", tmp_path / "report.html", tmp_path / "new" / "a.html"):
        assert path.read_bytes().startswith(b"<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (["nowhere"], InputError, "must hold records"),
        (["run", "nowhere"], InputError, "nowhere must be the workdir of a run, but has no config.json"),
        (["nowhere", "--output=x.html"], InputError, "nowhere must be the workdir of a run"),
        (["run"], StorageError, "result.json must be the record of a run"),
        (["strange"], ConfigError, "did you mean"),
    ],
)
def test_errors_say_what_to_do(arguments, error, says, workdir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (workdir / "result.json").write_text("[]")
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "config.json").write_text('{"sede": 1}')
    with pytest.raises(error, match=says):
        report.main(arguments)


def test_axes_say_what_they_are_and_have_numbers_even_over_less_than_a_decade():
    drawn = chart("Loss", [Line("training", [1, 60], [2.24, 1.8], 0)], logarithmic=True)
    texts = [text.text for text in drawn.iter("text")]
    assert texts[:4] == ["1.8", "2", "2.2", "2.4"]
    assert texts[-1] == "step"


@pytest.mark.parametrize(
    ("values", "logarithmic"),
    [
        ([1e-3, 1e3], True),
        ([2.0], True),
        ([0.0, float("nan"), 3.0], True),
        ([0.0, 0.0], False),
        ([99.9, 0.1], False),
        ([2.1, 2.2], True),
    ],
)
def test_a_chart_stays_inside_its_frame(values, logarithmic):
    drawn = chart("Loss", [Line("training", range(1, len(values) + 1), values, 0)], logarithmic)
    for text in [one.get("points") for one in drawn.iter("polyline")]:
        places = np.array([pair.split(",") for pair in text.split()], float)
        assert (places >= (40, 5)).all()
        assert (places <= (480, 235)).all()
    assert len([one for one in drawn.iter("line") if one.get("class") == "grid"]) >= 2


def test_a_chart_of_nothing_is_none_and_a_long_one_keeps_its_end():
    assert chart("Loss", [Line("training", [1], [0.0], 0)], logarithmic=True) is None
    (line,) = chart("Loss", [Line("training", range(64_000), np.linspace(3, 1, 64_000), 0)]).iter("polyline")
    steps = line.get("data-steps").split()
    assert len(steps) <= DRAWN
    assert steps[-1] == "63999"


def chromium(path, fragment=""):
    """The document after its scripts have run, and what the browser complained of."""
    switches = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--enable-logging=stderr")
    done = subprocess.run(
        [CHROMIUM, *switches, f"--user-data-dir={path.parent / 'profile'}", "--dump-dom", f"{path.as_uri()}{fragment}"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@browser
@pytest.mark.long
def test_in_a_browser_nothing_is_wrong_and_a_class_named_as_a_script_is_harmless(workdir, guesses):
    path = workdir / "report.html"
    path.write_bytes(pages.run_page(str(workdir)))
    document, complaints = chromium(path)
    assert complaints == []
    assert "<title>cifar_resnet8 on digits</title>" in document
    path.write_bytes(path.read_bytes().replace(b"</main>", b"<script>document.title = 'taken over'</script></main>"))
    document, complaints = chromium(path)  # had it been put in unescaped, the page's policy would have stopped it
    assert "<title>cifar_resnet8 on digits</title>" in document
    assert "Content Security Policy" in complaints[0]


@browser
@pytest.mark.long
def test_in_a_browser_cells_open_and_the_cursor_reads_values(workdir, guesses):
    row, column = np.argwhere(guesses.confusion)[1]
    probe = f"""<script>
      const shown = () => [...document.querySelectorAll(".cell")].filter((one) => one.offsetHeight).map((one) => one.id).join();
      const before = shown();
      document.querySelector('.matrix a[href="#cell-{row}-{column}"]').click();
      const chart = document.querySelector(".chart"), svg = chart.querySelector("svg");
      const values = () => [...chart.querySelectorAll("output")].map((one) => one.textContent).join();
      const read = [values()];
      chart.dispatchEvent(new KeyboardEvent("keydown", {{ key: "Home" }}));
      read.push(values());
      const box = svg.getBoundingClientRect();
      svg.dispatchEvent(new PointerEvent("pointermove", {{ clientX: box.right, clientY: box.top + 9 }}));
      chart.dispatchEvent(new KeyboardEvent("keydown", {{ key: "ArrowLeft" }}));
      read.push(values());
      setTimeout(() => document.body.setAttribute("data-found", JSON.stringify([before, shown(), ...read])), 200);
    </script></body>"""
    content = pages.run_page(str(workdir)).decode().replace("</body>", probe)
    path = workdir / "probed.html"
    path.write_text(re.sub("script-src 'sha256-[^']*'", "script-src 'unsafe-inline'", content))
    document, complaints = chromium(path)
    assert complaints == []
    (found,) = (one["data-found"] for one in Page(document.encode()).attributes("body"))
    assert json.loads(found) == ["", f"cell-{row}-{column}", "9,0.1111,0.2", "1,1,-", "8,0.125,-"]


@pytest.mark.long
def test_the_page_of_a_real_run(squares_run, tmp_path):
    written = report.report_runs([squares_run], str(tmp_path / "squares.html"))
    content = (tmp_path / "squares.html").read_bytes()
    assert written == str(tmp_path / "squares.html")
    assert len(content) < 5_000_000
    page = Page(content)
    record = json.loads(Path(squares_run, "result.json").read_text())
    assert f"{100 * record['test_accuracy']:.2f} % test accuracy" in page.text
    assert "the record says" not in page.text
    assert {name for name, *_ in page.table("class", "precision", "recall", "F1", "images")[:-1]} == {
        "rows",
        "columns",
        "checks",
    }
    assert dict(page.table("field", "value"))["dataset_fingerprint"] == record["dataset_fingerprint"]
