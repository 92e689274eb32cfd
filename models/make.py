"""Makes version 1 of the example model: trains in numpy, exports ONNX, quantizes, writes a model directory.

Invariant: a held-out image is never trained on, calibrated on or used to choose a setting; the split depends on
SPLIT_SEED alone, so that both versions share it. The same machine and the pinned packages give the same bytes.
Not here: version 2 (adapt.py), checking what was made (check.py).
"""

import os

for _pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_pool] = "1"  # before numpy loads: sums must not depend on how many cores there are

import argparse
import hashlib
import json
import logging
import math
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from safetensors.numpy import save
from sklearn.datasets import load_digits

SPLIT_SEED = 20
HELD_OUT_PER_CLASS = 37
GOLDEN = 16
GOLDEN_LSB = 3  # the tolerance of golden answers, in steps of the output's scale
# name, input channels, output channels, stride; every convolution is 3x3, padded by 1, followed by ReLU
CONVS = [("conv1", 1, 16, 1), ("conv2", 16, 32, 2), ("conv3", 32, 32, 1)]
FEATURES = 32 * 4 * 4
CLASSES = 10

MANIFEST = """\
format = 1
name = "digits"
version = {version}
description = "{description}"
runtime = "0.1.0"

[[inputs]]
name = "image"
datatype = "FP32"
shape = [1, 1, 8, 8]

[[outputs]]
name = "logits"
datatype = "FP32"
shape = [1, 10]
labels = "labels.txt"

[golden]
atol = {atol}
min-agreement = 1.0

[budget]
memory-mib = 64
latency-ms = 100

[probation]
requests = 50
max-errors = 0
"""


# Data


def split():
    """(train images, train labels, held-out images, held-out labels); images are U8 [n,8,8], values 0..16.

    A training image that equals a held-out one pixel for pixel is dropped.
    """
    digits = load_digits()
    images, labels = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    rng = np.random.default_rng(SPLIT_SEED)
    order = rng.permutation(len(labels))
    held = np.concatenate([order[labels[order] == digit][:HELD_OUT_PER_CLASS] for digit in range(CLASSES)])
    held = rng.permutation(held)
    seen = {images[i].tobytes() for i in held}
    train = np.array([i for i in order if images[i].tobytes() not in seen])
    return images[train], labels[train], images[held], labels[held]


def to_input(images):
    """U8 [n,8,8] in 0..16 -> FP32 [n,1,8,8] in 0..1; exact, since 16 is a power of two."""
    return (images.astype(np.float32) / np.float32(16))[:, None]


def bump(x):
    """The bumped camera: 90 degrees clockwise, then inverted. out[r][c] = 1 - in[7-c][r]; exact for sixteenths."""
    return np.ascontiguousarray(1 - np.rot90(x, k=-1, axes=(-2, -1)))


# Network: NCHW, FP32


def init(rng):
    """He-initialised weights: convolutions OIHW, the dense layer [class, feature]."""
    params = {}
    for name, inputs, outputs, _ in CONVS:
        params[name + ".weight"] = rng.normal(0, math.sqrt(2 / (inputs * 9)), (outputs, inputs, 3, 3))
        params[name + ".bias"] = np.zeros(outputs)
    params["dense.weight"] = rng.normal(0, math.sqrt(1 / FEATURES), (CLASSES, FEATURES))
    params["dense.bias"] = np.zeros(CLASSES)
    return {name: value.astype(np.float32) for name, value in params.items()}


def im2col(x, stride):
    """[n,c,h,w] -> the 3x3 patches of x padded by 1: [n, h/stride, w/stride, c*9]."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    patches = sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::stride, ::stride].transpose(0, 2, 3, 1, 4, 5)
    return patches.reshape(*patches.shape[:3], -1)


def col2im(columns, shape, stride):
    """The adjoint of im2col: adds each patch's gradient back where the patch was read. shape: that of x."""
    n, channels, height, width = shape
    rows, cols = columns.shape[1:3]
    patches = columns.reshape(n, rows, cols, channels, 3, 3).transpose(0, 3, 1, 2, 4, 5)
    padded = np.zeros((n, channels, height + 2, width + 2), columns.dtype)
    for i in range(3):
        for j in range(3):
            padded[:, :, i : i + stride * rows : stride, j : j + stride * cols : stride] += patches[..., i, j]
    return padded[:, :, 1:-1, 1:-1]


def forward(params, x):
    """Logits [n,10], and what backward needs: for each convolution (columns, input shape, output)."""
    tape = []
    for name, _, outputs, stride in CONVS:
        columns = im2col(x, stride)
        y = columns @ params[name + ".weight"].reshape(outputs, -1).T + params[name + ".bias"]
        y = np.maximum(y, 0).transpose(0, 3, 1, 2)
        tape.append((columns, x.shape, y))
        x = y
    return x.reshape(len(x), -1) @ params["dense.weight"].T + params["dense.bias"], tape


def backward(params, tape, d_logits):
    """The gradient of every parameter, from that of the logits."""
    last = tape[-1][2]
    grads = {"dense.weight": d_logits.T @ last.reshape(len(last), -1), "dense.bias": d_logits.sum(0)}
    d = (d_logits @ params["dense.weight"]).reshape(last.shape)
    for (name, _, outputs, stride), (columns, shape, y) in zip(reversed(CONVS), reversed(tape)):
        d = (d * (y > 0)).transpose(0, 2, 3, 1)
        weight = params[name + ".weight"]
        flat = d.reshape(-1, outputs)
        grads[name + ".weight"] = (flat.T @ columns.reshape(len(flat), -1)).reshape(weight.shape)
        grads[name + ".bias"] = flat.sum(0)
        d = col2im(d @ weight.reshape(outputs, -1), shape, stride)
    return grads


def softmax_gradient(logits, labels):
    """The gradient of the mean cross-entropy in the logits."""
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(labels)), labels] -= 1
    return p / np.float32(len(labels))


def train(params, x, labels, rng, epochs, rate):
    """Adam (Kingma and Ba, 2015) with decoupled weight decay and a cosine schedule; batches of 64."""
    params = {name: value.copy() for name, value in params.items()}
    mean = {name: np.zeros_like(value) for name, value in params.items()}
    square = {name: np.zeros_like(value) for name, value in params.items()}
    batches = math.ceil(len(x) / 64)
    for step in range(epochs * batches):
        if step % batches == 0:
            order = rng.permutation(len(x))
        pick = order[step % batches * 64 :][:64]
        logits, tape = forward(params, x[pick])
        grads = backward(params, tape, softmax_gradient(logits, labels[pick]))
        now = rate * 0.5 * (1 + math.cos(math.pi * step / (epochs * batches)))
        for name, g in grads.items():
            mean[name] = 0.9 * mean[name] + 0.1 * g
            square[name] = 0.999 * square[name] + 0.001 * g * g
            m, v = mean[name] / (1 - 0.9 ** (step + 1)), square[name] / (1 - 0.999 ** (step + 1))
            params[name] -= now * (m / (np.sqrt(v) + 1e-8) + 1e-3 * params[name])
    return params


# ONNX


def export(params, path):
    """Writes the float model: opset 17, image [batch,1,8,8] -> logits [batch,10]."""
    nodes, value = [], "image"
    for name, _, _, stride in CONVS:
        inputs = [value, name + ".weight", name + ".bias"]
        geometry = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [stride, stride]}
        nodes.append(helper.make_node("Conv", inputs, [name + ".out"], name, **geometry))
        nodes.append(helper.make_node("Relu", [name + ".out"], [name + ".relu"], name + ".relu"))
        value = name + ".relu"
    nodes.append(helper.make_node("Flatten", [value], ["features"], "flatten", axis=1))
    nodes.append(helper.make_node("Gemm", ["features", "dense.weight", "dense.bias"], ["logits"], "dense", transB=1))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in params.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="selvedge models/make.py")
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


class Calibration(CalibrationDataReader):
    """Feeds training images in batches of 64."""

    def __init__(self, x):
        self.batches = iter([{"image": x[i : i + 64]} for i in range(0, len(x), 64)])

    def get_next(self):
        return next(self.batches, None)


def quantize(float_path, int8_path, x):
    """Static quantization, QDQ: u8 asymmetric activations (min-max over x), s8 symmetric weights per channel."""
    quantize_static(
        float_path,
        int8_path,
        Calibration(x),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
    )


def session(path, level=ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
    """onnxruntime on the CPU; ORT_ENABLE_ALL is its default optimisation."""
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def answer(model, x):
    """Logits [n,10] of x [n,1,8,8], one image at a time, as a device asks."""
    return np.concatenate([model.run(["logits"], {"image": x[i : i + 1]})[0] for i in range(len(x))])


def output_scale(path):
    """One step (LSB) of the logits: the scale of the DequantizeLinear that makes them."""
    graph = onnx.load(path).graph
    last = next(node for node in graph.node if "logits" in node.output)
    return float(next(numpy_helper.to_array(t) for t in graph.initializer if t.name == last.input[1]))


# Model directories


def correct(path, x, labels):
    """How many of x [n,1,8,8] the model at path names rightly."""
    return int((answer(session(path), x).argmax(1) == labels).sum())


def write_golden(folder, x):
    """Writes the GOLDEN samples x and the int8 model's answers to them."""
    logits = answer(session(folder / "model.onnx"), x)
    tensors = {f"{i}.in.image": x[i : i + 1] for i in range(GOLDEN)}
    tensors |= {f"{i}.out.logits": logits[i : i + 1] for i in range(GOLDEN)}
    (folder / "golden.safetensors").write_bytes(save(tensors))


def write_model(folder, version, description, params, calibration, golden, held):
    """Writes one model directory and returns its accuracy on the held-out images: counts of right answers."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = held
    with tempfile.TemporaryDirectory() as scratch:
        float_path = Path(scratch) / "float.onnx"
        export(params, float_path)
        quantize(float_path, folder / "model.onnx", calibration)
        paths = {"float": float_path, "int8": folder / "model.onnx"}
        cameras = {"plain": images, "bumped": bump(images)}
        right = {kind: {c: correct(p, x, labels) for c, x in cameras.items()} for kind, p in paths.items()}
    write_golden(folder, golden)
    (folder / "labels.txt").write_text("".join(f"{digit}\n" for digit in range(CLASSES)))
    atol = math.ceil(GOLDEN_LSB * output_scale(folder / "model.onnx") * 100) / 100
    (folder / "manifest.toml").write_text(MANIFEST.format(version=version, description=description, atol=atol))
    return right


def wilson(right, n, z=1.959964):
    """The 95 % confidence interval of a share (Wilson, 1927), in per cent."""
    p, spread = right / n, z * math.sqrt(right / n * (1 - right / n) / n + z * z / (4 * n * n))
    return [100 * (p + z * z / (2 * n) + sign * spread) / (1 + z * z / n) for sign in (-1, 1)]


def write_summary(out, accuracy, n, trained):
    """Writes accuracy.json (counts, and the SHA-256 of every file) and prints it as README.md shows it."""
    files = sorted(p for model in accuracy for p in (out / model).iterdir())
    sums = {p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    summary = {"held-out": n, "trained-on": trained, "right": accuracy, "sha256": sums}
    (out / "accuracy.json").write_text(json.dumps(summary, indent=2) + "\n")
    for model, kinds in accuracy.items():
        for kind, cameras in kinds.items():
            cells = []
            for right in cameras.values():
                low, high = wilson(right, n)
                cells.append(f"{100 * right / n:.1f} % ({low:.1f} to {high:.1f}), {right}")
            print(f"| {model} | {kind} | {' | '.join(cells)} |")
    for path, digest in sums.items():
        print(f"| `{path}` | {(out / path).stat().st_size} | `{digest}` |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write into")
    parser.add_argument("--seed", type=int, default=1, help="of the weights and the training order (not the split)")
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # onnxruntime advises a preprocessing pass; export() has inferred the shapes
    images, labels, held_images, held_labels = split()
    plain, held = to_input(images), (to_input(held_images), held_labels)
    rng = np.random.default_rng(args.seed)
    first = train(init(rng), plain, labels, rng, epochs=30, rate=2e-3)
    golden = held[0][:GOLDEN]
    about = "Handwritten digits, 8x8; trained on the plain camera"
    accuracy = {"digits": write_model(args.out / "digits", 1, about, first, plain, golden, held)}
    held_out = save({"images": held_images, "labels": held_labels})
    (args.out / "digits" / "heldout.safetensors").write_bytes(held_out)
    write_summary(args.out, accuracy, len(held_labels), len(labels))


if __name__ == "__main__":
    main()
