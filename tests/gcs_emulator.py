"""python -m tests.gcs_emulator PORT: Google Cloud Storage in memory, with an empty `gs://bucket`.

The package's own answers to downloads lack the object's generation, by which TensorStore tells versions apart.
"""

import sys
import threading

from gcp_storage_emulator.handlers import objects

plain_download = objects.download


def download(request, response, storage, *args, **kwargs):
    plain_download(request, response, storage, *args, **kwargs)
    if response.status < 300:
        about = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
        response["x-goog-generation"] = about["generation"]


objects.download = download

if __name__ == "__main__":
    from gcp_storage_emulator.server import create_server  # takes up the handlers

    create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket="bucket").start()
    threading.Event().wait()
