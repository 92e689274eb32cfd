"""Asks a running Selvedge for digits with NVIDIA's client: triton.py ADDRESS MODELS_DIR

Ends with 0 when every answer is what it should be.
"""

import sys
import time

import numpy
import tritonclient.http as triton
from safetensors.numpy import load_file
from tritonclient.utils import InferenceServerException

address, models = sys.argv[1:]
held_out = load_file(f"{models}/digits/heldout.safetensors")
images = held_out["images"].astype(numpy.float32).reshape(-1, 1, 1, 8, 8) / 16
labels = held_out["labels"]

client = triton.InferenceServerClient(address, concurrency=4)
for _ in range(50):
    try:
        client.is_server_live()
        break
    except OSError:
        time.sleep(0.1)


def ask(image, binary_in=True, output=None, model="digits", **more):
    tensor = triton.InferInput("image", list(image.shape), "FP32")
    tensor.set_data_from_numpy(image, binary_data=binary_in)
    return client.infer(model, [tensor], outputs=output, **more)


assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("digits")
assert client.is_model_ready("digits", "1") and not client.is_model_ready("digits", "9")
metadata = client.get_model_metadata("digits")
assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8]}], metadata
assert client.get_server_metadata()["name"] == "selvedge"
assert [m["name"] for m in client.get_model_repository_index()] == ["digits"]

right = 0
for image, label in zip(images, labels):
    right += int(ask(image).as_numpy("logits").argmax() == label)
share = right / len(labels)
assert share > 0.97, f"{share:.3f} of the digits are right"

image, label = images[0], labels[0]
answers = []
for binary_in in (True, False):
    for binary_out in (True, False):
        output = [triton.InferRequestedOutput("logits", binary_data=binary_out)]
        result = ask(image, binary_in, output, request_id="a1", model_version="1")
        assert result.get_response()["id"] == "a1"
        answers.append(result.as_numpy("logits"))
assert all((answer == answers[0]).all() for answer in answers), answers
assert answers[0].argmax() == label

for binary_out in (True, False):
    output = [triton.InferRequestedOutput("logits", binary_data=binary_out, class_count=3)]
    best = ask(image, output=output).as_numpy("logits")
    assert best.shape == (1, 3), best
    first = best.flatten()[0]
    first = first.decode() if isinstance(first, bytes) else first
    assert first.split(":")[1:] == [str(label), str(label)], best

pending = [client.async_infer("digits", [t]) for t in [triton.InferInput("image", [1, 1, 8, 8], "FP32")]
           if t.set_data_from_numpy(image)]
assert all(p.get_result().as_numpy("logits").argmax() == label for p in pending)


def refused(status, words, action):
    try:
        action()
    except InferenceServerException as error:
        assert error.status() == str(status) and words in error.message(), error
    else:
        raise AssertionError(f"{words}: was not refused")


refused(404, "digits", lambda: ask(image, model="cats"))
refused(404, "version 1 is live", lambda: ask(image, model_version="9"))
refused(400, "[1, 1, 8, 8]", lambda: ask(image[:, :, :4]))
refused(415, "compressed", lambda: ask(image, request_compression_algorithm="gzip"))
assert ask(image).as_numpy("logits").argmax() == label
print(f"all right; {right} of {len(labels)} digits")
