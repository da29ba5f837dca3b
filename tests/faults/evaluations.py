"""python -m tests.faults.evaluations [--coordinator ... --num_processes ... --process_id ...]

Scores splits of 0 to 17 examples in global batches of 2 to 8, and prints one JSON object:
{"examples,batch": [batches, images scored, loss, accuracy, top-5 accuracy, confusion] or the error}.
"""

import argparse
import json

import jax
import numpy as np

from resflax.build import make_evaluate
from resflax.data.arrays import ImageArrays
from resflax.data.pipeline import ResidentPipeline
from resflax.data.preprocess import Preprocessing
from resflax.errors import DataError
from resflax.training.distributed import initialize
from resflax.training.sharding import local_rows, make_mesh
from tests.training.test_evaluation import CLASSES, ReadsLogits, split


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir")
    parser.add_argument("--coordinator")
    parser.add_argument("--num_processes", type=int)
    parser.add_argument("--process_id", type=int)
    job = parser.parse_known_args()[0]
    initialize(job.coordinator, job.num_processes, job.process_id)
    batches = []
    jax.monitoring.register_event_listener(lambda event, **_: batches.append(event) if event == "/resflax/scored" else None)
    found = {}
    for batch in (2, 4, 6, 8):
        for count in range(18):
            batches.clear()
            some = split(max(count, 1), seed=count)
            arrays = ImageArrays(some.images[:count], some.labels[:count], some.class_names)
            preprocessing = Preprocessing((1, 1), np.zeros(1), np.ones(1))
            pipeline = ResidentPipeline(preprocessing, batch, rows=local_rows(batch), arrays=arrays)
            try:
                got = make_evaluate(ReadsLogits(128.0), pipeline, make_mesh(), CLASSES)({})
                scores = [got.images_scored, got.loss, got.accuracy, got.top5_accuracy, got.confusion.tolist()]
                found[f"{count},{batch}"] = [len(batches), *scores]
            except DataError as error:
                found[f"{count},{batch}"] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
