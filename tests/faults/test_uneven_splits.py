"""Splits that do not fall evenly onto processes: the same batches on all, each example once, the numbers of one process."""

import json

import pytest

from tests.jobs import finish, start
from tests.training.test_evaluation import numpy_loop, split

PROGRAM = ("-m", "tests.faults.evaluations")


@pytest.mark.faults
def test_two_processes_score_any_number_of_examples_as_one_does(tmp_path):
    both = [json.loads(out.splitlines()[-1]) for out, _ in finish(start(tmp_path, 2, 1, 0, program=PROGRAM))]
    (alone,) = (json.loads(out.splitlines()[-1]) for out, _ in finish(start(tmp_path, 1, 2, 0, program=PROGRAM)))
    assert both[0] == both[1] == alone
    assert len(alone) == 18 * 4
    for batch in (2, 4, 6, 8):
        assert "at least one example, but it is empty" in alone[f"0,{batch}"]
        for count in range(1, 18):
            loss, accuracy, top5, confusion = numpy_loop(split(count, seed=count), 128.0)
            assert alone[f"{count},{batch}"] == [-(-count // batch), count, loss, accuracy, top5, confusion.tolist()]
