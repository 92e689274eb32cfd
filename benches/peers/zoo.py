"""The models of benches/peers: zoo.py DIR

Each becomes DIR/NAME/ with model.onnx and io.json (names, types and shapes). Architectures as published, random weights: time does not
depend on values. Batch norms are folded. Quantized by onnxruntime: QDQ with weights s8 per channel (u8s8 and s8s8 name the
types of activations and weights), QOperator, dynamic (weights s8). What onnxruntime's quantizer leaves in float stays so.
"""

import json
import logging
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "aarch64"))

import numpy as np
import onnx
from models import Graph, Samples, cnn, efficientnet_lite0, mobilenetv2, resnet18, resnet50
from onnx import TensorProto
from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

TYPES = {TensorProto.FLOAT: "FP32", TensorProto.UINT8: "UINT8", TensorProto.INT8: "INT8", TensorProto.INT64: "INT64"}


class Detector(Graph):
    """Blocks of YOLOv8 (Ultralytics 2023), width and depth of its smallest model."""

    def act(self, channels, kernel, stride=1):
        """Convolution and SiLU."""
        self.conv(channels, kernel, stride, clip=False)
        before = self.at
        self.node("Sigmoid", [before])
        self.node("Mul", [before, self.at])

    def c2f(self, channels, count, shortcut=True):
        self.act(channels, 1)
        half, name = channels // 2, f"split{len(self.nodes)}"
        sizes = self.constant(f"{name}sizes", np.array([half, half], np.int64))
        self.nodes.append(onnx.helper.make_node("Split", [self.at, sizes], [f"{name}a", f"{name}b"], name, axis=1))
        parts = [f"{name}a", f"{name}b"]
        for _ in range(count):
            self.at, self.channels = parts[-1], half
            self.act(half, 3)
            self.act(half, 3)
            if shortcut:
                self.node("Add", [parts[-1], self.at])
            parts.append(self.at)
        self.concat(parts, half * (2 + count))
        self.act(channels, 1)

    def concat(self, parts, channels):
        self.node("Concat", parts, axis=1)
        self.channels = channels

    def up(self):
        scales = self.constant(f"scales{len(self.nodes)}", np.array([1, 1, 2, 2], np.float32))
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        self.node("Resize", [self.at, "", scales], **how)

    def mark(self):
        return self.at, self.channels


def yolo_like():
    g = Detector([1, 3, 320, 320], 7)
    g.act(16, 3, 2)
    g.act(32, 3, 2)
    g.c2f(32, 1)
    g.act(64, 3, 2)
    g.c2f(64, 2)
    p3 = g.mark()
    g.act(128, 3, 2)
    g.c2f(128, 2)
    p4 = g.mark()
    g.act(256, 3, 2)
    g.c2f(256, 1)
    g.act(128, 1)
    pools = [g.at]
    for _ in range(3):
        g.node("MaxPool", [g.at], kernel_shape=[5, 5], strides=[1, 1], pads=[2] * 4)
        pools.append(g.at)
    g.concat(pools, 512)
    g.act(256, 1)
    p5 = g.mark()
    for other, channels in [(p4, 128), (p3, 64)]:
        before = g.channels
        g.up()
        g.concat([g.at, other[0]], before + other[1])
        g.c2f(channels, 1, shortcut=False)
        if channels == 128:
            h4 = g.mark()
    heads = [g.mark()]
    for other, channels in [(h4, 128), (p5, 256)]:
        before = g.channels
        g.act(before, 3, 2)
        g.concat([g.at, other[0]], before + other[1])
        g.c2f(channels, 1, shortcut=False)
        heads.append(g.mark())
    outputs = []
    for g.at, g.channels in heads:
        g.act(64, 3)
        g.act(64, 3)
        g.conv(144, 1, clip=False)
        g.node("Reshape", [g.at, g.constant(f"shape{len(g.nodes)}", np.array([1, 144, -1], np.int64))])
        outputs.append(g.at)
    g.node("Concat", outputs, axis=2)
    return g.model()


def transformer_block(tokens=128, width=256, heads=4):
    """An encoder block (Vaswani et al. 2017), normalised before its parts, GELU by the error function."""
    g = Graph([1, tokens, width], 8)

    def linear(x, k, n, name):
        weights = g.constant(f"{name}w", g.rng.normal(0, k**-0.5, (k, n)).astype(np.float32))
        g.node("MatMul", [x, weights])
        g.node("Add", [g.at, g.constant(f"{name}b", g.rng.normal(0, 0.1, n).astype(np.float32))])
        return g.at

    def normalised(x, name):
        scale, bias = g.constant(f"{name}s", np.ones(width, np.float32)), g.constant(f"{name}b", np.zeros(width, np.float32))
        g.node("LayerNormalization", [x, scale, bias], axis=-1)
        return g.at

    def parted(x, order, name):
        g.node("Reshape", [x, g.constant(f"{name}shape", np.array([1, tokens, heads, width // heads], np.int64))])
        g.node("Transpose", [g.at], perm=order)
        return g.at

    x = g.at
    h = normalised(x, "n1")
    q = parted(linear(h, width, width, "q"), [0, 2, 1, 3], "q")
    k = parted(linear(h, width, width, "k"), [0, 2, 3, 1], "k")
    v = parted(linear(h, width, width, "v"), [0, 2, 1, 3], "v")
    g.node("MatMul", [q, k])
    g.node("Mul", [g.at, g.constant("scale", np.float32((width // heads) ** -0.5))])
    g.node("Softmax", [g.at], axis=-1)
    g.node("MatMul", [g.at, v])
    g.node("Transpose", [g.at], perm=[0, 2, 1, 3])
    g.node("Reshape", [g.at, g.constant("joined", np.array([1, tokens, width], np.int64))])
    g.node("Add", [x, linear(g.at, width, width, "o")])
    y = g.at
    f = linear(normalised(y, "n2"), width, 4 * width, "f1")
    g.node("Div", [f, g.constant("root2", np.float32(2**0.5))])
    g.node("Erf", [g.at])
    g.node("Add", [g.at, g.constant("one", np.float32(1))])
    g.node("Mul", [f, g.at])
    g.node("Mul", [g.at, g.constant("half", np.float32(0.5))])
    g.node("Add", [y, linear(g.at, 4 * width, width, "f2")])
    return g.model()


def mlp():
    g = Graph([1, 256], 10)
    for i, (k, n) in enumerate([(256, 256), (256, 128), (128, 10)]):
        weights = g.constant(f"w{i}", g.rng.normal(0, k**-0.5, (k, n)).astype(np.float32))
        g.node("Gemm", [g.at, weights, g.constant(f"b{i}", g.rng.normal(0, 0.1, n).astype(np.float32))])
        if i < 2:
            g.node("Relu", [g.at])
    return g.model()


FLOATS = {
    "mobilenetv2": mobilenetv2,
    "efficientnet-lite0": efficientnet_lite0,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "yolo-like": yolo_like,
    "transformer-block": transformer_block,
    "mlp": mlp,
    "cnn": cnn,
}
# By form: which models are measured in it.
FORMS = {
    "u8s8": list(FLOATS),
    "s8s8": ["mobilenetv2", "resnet18"],
    "qoperator": ["mobilenetv2"],
    "dynamic": ["cnn", "mlp", "transformer-block", "mobilenetv2"],
    "float": ["mobilenetv2", "resnet18", "transformer-block"],
}


def quantized(source, target, form, shape):
    if form == "float":
        target.write_bytes(source.read_bytes())
    elif form == "dynamic":
        quantize_dynamic(source, target, weight_type=QuantType.QInt8, op_types_to_quantize=["Conv", "MatMul", "Gemm"])
    else:
        quantize_static(
            source,
            target,
            Samples(shape),
            quant_format=QuantFormat.QOperator if form == "qoperator" else QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8 if form == "s8s8" else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def sides(directory):
    graph = onnx.shape_inference.infer_shapes(onnx.load(directory / "model.onnx")).graph

    def spec(value):
        tensor = value.type.tensor_type
        shape = [dim.dim_value or 1 for dim in tensor.shape.dim]
        return {"name": value.name, "datatype": TYPES[tensor.elem_type], "shape": shape}

    io = {"inputs": [spec(v) for v in graph.input], "outputs": [spec(v) for v in graph.output]}
    (directory / "io.json").write_text(json.dumps(io))


def main():
    # The quantizer advises a preprocessing that these graphs do not need.
    logging.disable(logging.WARNING)
    out = pathlib.Path(sys.argv[1])
    for name, make in FLOATS.items():
        print(f"  making {name}", file=sys.stderr, flush=True)
        model = make()
        shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
        source = out / f"{name}.onnx"
        out.mkdir(parents=True, exist_ok=True)
        onnx.save(model, source)
        for form in (form for form, names in FORMS.items() if name in names):
            directory = out / (name if form == "u8s8" else f"{name}-{form}")
            directory.mkdir(exist_ok=True)
            quantized(source, directory / "model.onnx", form, shape)
            sides(directory)
        source.unlink()


if __name__ == "__main__":
    main()
