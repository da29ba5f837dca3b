"""What is logged is the same however often the process that logs it is killed."""

import numpy as np
import pytest

from resflax.files import Workdir, read_lines, truncate_lines
from resflax.training.logs import MetricsWriter
from tests.events import read_events

STEPS = 60


def scalars(step):
    found = {}
    if step % 5 == 0:
        found |= {"train_loss": 1 / step, "learning_rate": 0.1 * 0.99**step}
    if step % 8 == 0 or step == STEPS:
        found |= {"test_loss": 2 / step, "test_accuracy": step / 64}
    return found


@pytest.fixture
def session(monkeypatch):
    """`session(workdir, start, stop)` logs the steps after `start` up to `stop`; the writer is left as a kill leaves it."""
    clock = [1_700_000_000]  # event files are named by the second they are opened in
    monkeypatch.setattr("time.time", lambda: clock[0])

    def run(workdir, start, stop):
        clock[0] += 1
        writer = MetricsWriter(workdir, start)
        for step in range(start + 1, stop + 1):
            if found := scalars(step):
                writer.write(step, step / 7, found)
        return writer

    return run


def tear(workdir):
    """A line and an event that were being written."""
    with open(workdir.metrics, "a") as file:
        file.write('{"step": 99, "train_lo')
    with open(max(workdir.root.glob("events.out.tfevents.*")), "ab") as file:
        file.write((64).to_bytes(8, "little") + bytes(20))


def check_lines_and_events(workdir):
    """Steps strictly increase, and TensorBoard shows each scalar once, with the value of its line."""
    rows = read_lines(workdir.metrics)
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps))
    lines = {(row["step"], name): value for row in rows for name, value in row.items() if name not in ("step", "epoch")}
    events = read_events(workdir.root)
    assert events.keys() == lines.keys()
    for key, values in events.items():
        assert values == [np.float32(lines[key])], key
    return rows


def test_lines_and_events_after_kills_are_those_of_the_unbroken_run(session, tmp_path):
    unbroken, killed = Workdir(tmp_path / "unbroken"), Workdir(tmp_path / "killed")
    session(unbroken, 0, STEPS).close()
    expected = check_lines_and_events(unbroken)
    assert [row["step"] for row in expected] == [step for step in range(1, STEPS + 1) if scalars(step)]
    # Killed before there was a checkpoint, then twice after the one of step 16, and right at one.
    for start, stop in ((0, 7), (0, 19), (16, 23), (16, 40), (40, 59)):
        session(killed, start, stop)
        tear(killed)
    session(killed, 40, STEPS).close()
    assert check_lines_and_events(killed) == expected
    assert (tmp_path / "killed" / "metrics.jsonl").read_bytes() == (tmp_path / "unbroken" / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_line_that_was_cut_off_anywhere_is_dropped(cut, tmp_path):
    workdir = Workdir(tmp_path)
    lines = [f'{{"step": {step}, "epoch": 0.5, "train_loss": 1.25}}\n' for step in (1, 2, 3)]
    assert len(lines[-1]) > 40
    (tmp_path / "metrics.jsonl").write_text("".join(lines)[:-cut])
    assert [row["step"] for row in read_lines(workdir.metrics)] == [1, 2]
    truncate_lines(workdir.metrics, 2)
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(lines[:2])
