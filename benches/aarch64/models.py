"""The models that are counted: models.py DIR PULSEVAD_WHEEL

Each becomes DIR/NAME/ with model.onnx, input.bin (FP32) and io.json: names, shapes, multiplications.

digits is the one of this repository, pulsevad comes from PyPI, the others are made here with random
weights: instructions do not depend on the values. Quantized by onnxruntime: QDQ, weights s8 per
channel; u8s8 and s8s8 name the types of activations and weights, float those that are as they were.
Rejected: models in the repository (MobileNetV2 has 3.5 MB), and trained ones (no package ships them in
int8).
"""

import hashlib
import json
import logging
import math
import pathlib
import struct
import sys
import zipfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

HERE = pathlib.Path(__file__).resolve().parent
PULSEVAD = ("pulsevad/data/pulsevad_2.1k_int8.onnx", "416061347a1e723ed15163acd51006bf3c513b27bb9f57d85e2c694cc44b8389")


class Graph:
    """A float graph in NCHW that grows at its end; `at` names the tensor there, `channels` its channels."""

    def __init__(self, shape, seed):
        self.shape, self.at, self.channels = shape, "input", shape[1]
        self.rng, self.nodes, self.weights = np.random.default_rng(seed), [], []
        self.low, self.high = self.constant("low", np.float32(0)), self.constant("high", np.float32(6))

    def constant(self, name, value):
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op, inputs, **attributes):
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        self.at = name

    def conv(self, channels, kernel, stride=1, groups=1, clip=True):
        fan_in = self.channels // groups * kernel * kernel
        weights = self.rng.normal(0, (2 / fan_in) ** 0.5, (channels, self.channels // groups, kernel, kernel))
        n = len(self.nodes)
        w = self.constant(f"w{n}", weights.astype(np.float32))
        b = self.constant(f"b{n}", self.rng.normal(0, 0.1, channels).astype(np.float32))
        self.node(
            "Conv",
            [self.at, w, b],
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[kernel // 2] * 4,
            group=groups,
        )
        if clip:
            self.node("Clip", [self.at, self.low, self.high])
        self.channels = channels

    def classify(self, classes):
        """Global average pool and a fully connected layer."""
        self.node("GlobalAveragePool", [self.at])
        self.node("Flatten", [self.at])
        weights = self.rng.normal(0, (1 / self.channels) ** 0.5, (self.channels, classes)).astype(np.float32)
        self.node("Gemm", [self.at, self.constant("w", weights), self.constant("b", np.zeros(classes, np.float32))])

    def model(self):
        self.nodes[-1].output[0] = "output"
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in (("input", self.shape), ("output", None))
        ]
        graph = helper.make_graph(self.nodes, "bench", ends[:1], ends[1:], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        model = onnx.shape_inference.infer_shapes(model)
        onnx.checker.check_model(model)
        return model


def inverted(g, stages):
    """Inverted residual blocks (expansion, channels, repeats, first stride, kernel), and what classifies."""
    for expansion, channels, repeats, first, kernel in stages:
        for i in range(repeats):
            stride, before, start = first if i == 0 else 1, g.channels, g.at
            if expansion > 1:
                g.conv(before * expansion, 1)
            g.conv(g.channels, kernel, stride, groups=g.channels)
            g.conv(channels, 1, clip=False)
            if stride == 1 and before == channels:
                g.node("Add", [start, g.at])
    g.conv(1280, 1)
    g.classify(1000)
    return g.model()


def mobilenetv2(seed=2):
    """MobileNetV2 1.0 at 224x224 (Sandler et al. 2018, table 2), batch norms folded: 300 million MAC."""
    g = Graph([1, 3, 224, 224], seed)
    g.conv(32, 3, stride=2)
    blocks = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    return inverted(g, [(*block, 3) for block in blocks])


def cnn(seed=3):
    """A small convolutional network on 96x96, the size of what sorts pictures on a board."""
    g = Graph([1, 3, 96, 96], seed)
    for channels, stride in [(16, 2), (32, 2), (32, 1), (64, 2), (64, 1)]:
        g.conv(channels, 3, stride)
    g.classify(10)
    return g.model()


def conv1x1(seed=4):
    """One pointwise convolution, 64 to 128 channels on 28x28: what most of MobileNet's MACs are. 6.4 million MAC."""
    g = Graph([1, 64, 28, 28], seed)
    g.conv(128, 1)
    return g.model()


def residual(g, blocks, widths, bottleneck):
    """The stages of a ResNet (He et al. 2015, table 1)."""
    g.conv(64, 7, 2)
    g.node("MaxPool", [g.at], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for stage, (count, width) in enumerate(zip(blocks, widths)):
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            start, before = g.at, g.channels
            out = width * 4 if bottleneck else width
            if bottleneck:
                g.conv(width, 1)
                g.conv(width, 3, stride)
                g.conv(out, 1, clip=False)
            else:
                g.conv(width, 3, stride)
                g.conv(width, 3, clip=False)
            main = g.at
            if stride != 1 or before != out:
                g.at, g.channels = start, before
                g.conv(out, 1, stride, clip=False)
                start = g.at
            g.node("Add", [start, main])
            g.node("Relu", [g.at])
            g.channels = out
    g.classify(1000)
    return g.model()


def resnet18():
    return residual(Graph([1, 3, 224, 224], 5), [2, 2, 2, 2], [64, 128, 256, 512], bottleneck=False)


def resnet50():
    return residual(Graph([1, 3, 224, 224], 6), [3, 4, 6, 3], [64, 128, 256, 512], bottleneck=True)


def efficientnet_lite0():
    """EfficientNet-Lite0 at 224x224 (Tan and Le 2019, without squeeze and excitation, ReLU6): 400 million MAC."""
    g = Graph([1, 3, 224, 224], 9)
    g.conv(32, 3, 2)
    stages = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5)]
    return inverted(g, [*stages, (6, 320, 1, 1, 3)])


class Samples(CalibrationDataReader):
    def __init__(self, shape, count=3):
        rng = np.random.default_rng(1)
        self.samples = iter([{"input": rng.normal(0, 1, shape).astype(np.float32)} for _ in range(count)])

    def get_next(self):
        return next(self.samples, None)


def floating(directory, make):
    """As it stands, without quantization."""
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save(make(), directory / "model.onnx")


def quantized(directory, make, activations):
    directory.mkdir(parents=True, exist_ok=True)
    model, path = make(), directory / "float.onnx"
    onnx.save(model, path)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    quantize_static(
        path,
        directory / "model.onnx",
        Samples(shape),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=activations,
        weight_type=QuantType.QInt8,
    )
    path.unlink()


def sizes(value):
    """A dimension that the file leaves open is 1."""
    return [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]


def multiplications(graph):
    """Multiply-accumulates of an inference, as the graph means them."""
    shapes = {v.name: sizes(v) for v in [*graph.value_info, *graph.input, *graph.output]}
    shapes |= {w.name: list(w.dims) for w in graph.initializer}
    total = 0
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            a, w = (shapes[name] for name in node.input[:2])
            total += math.prod(shapes[node.output[0]]) * (math.prod(w[1:]) if node.op_type == "Conv" else a[-1])
    return total


def sides(directory, values):
    """Writes io.json and input.bin."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(directory / "model.onnx")).graph
    spec = lambda v: {"name": v.name, "datatype": "FP32", "shape": sizes(v)}
    io = {
        "inputs": [spec(v) for v in graph.input],
        "outputs": [spec(v) for v in graph.output],
        "macs": multiplications(graph),
    }
    shape = io["inputs"][0]["shape"]
    values = np.random.default_rng(7).normal(0, 1, shape) if values is None else values
    (directory / "input.bin").write_bytes(np.asarray(values, "<f4").tobytes())
    (directory / "io.json").write_text(json.dumps(io))


def digits(directory):
    """The model of this repository with the first of its golden samples."""
    directory.mkdir(parents=True, exist_ok=True)
    source = HERE.parents[1] / "models/digits"
    (directory / "model.onnx").write_bytes((source / "model.onnx").read_bytes())
    bytes_ = (source / "golden.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", bytes_[:8])
    begin, end = json.loads(bytes_[8 : 8 + length])["0.in.image"]["data_offsets"]
    sides(directory, np.frombuffer(bytes_[8 + length :][begin:end], "<f4"))


def pulsevad(directory, wheel):
    directory.mkdir(parents=True, exist_ok=True)
    name, wanted = PULSEVAD
    content = zipfile.ZipFile(wheel).read(name)
    if hashlib.sha256(content).hexdigest() != wanted:
        sys.exit(f"{name} in {wheel} is not the file that was pinned")
    (directory / "model.onnx").write_bytes(content)
    sides(directory, None)


def main():
    # The quantizer advises a preprocessing that these graphs do not need.
    logging.disable(logging.WARNING)
    out, wheel = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    digits(out / "digits")
    pulsevad(out / "pulsevad", wheel)
    types = {"u8s8": QuantType.QUInt8, "s8s8": QuantType.QInt8}
    both, one = list(types), ["u8s8"]
    for name, make, forms in [
        ("conv1x1", conv1x1, both),
        ("cnn", cnn, both),
        ("mobilenetv2", mobilenetv2, both),
        ("efficientnet-lite0", efficientnet_lite0, one),
        ("resnet18", resnet18, one),
    ]:
        for form in forms:
            directory = out / f"{name}-{form}"
            quantized(directory, make, types[form])
            sides(directory, None)
    for name, make in [("cnn", cnn), ("mobilenetv2", mobilenetv2), ("resnet18", resnet18)]:
        floating(out / f"{name}-float", make)
        sides(out / f"{name}-float", None)


if __name__ == "__main__":
    main()
