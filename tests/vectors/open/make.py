#!/usr/bin/env python3
"""Writes open.safetensors: a quantized net whose batch, height and width are open, and what onnxruntime makes of it at
several of them.

Made with Python 3.11, numpy 2.4.6, onnx 1.23.2, onnxruntime 1.32.0, safetensors 0.8.0 on x86-64.
Tensors: `model` (the file), and for each shape `<batch>x<height>x<width>/x`, `/map` and `/scores`.

    python3 -m venv v && v/bin/pip install numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 safetensors==0.8.0 sympy
    v/bin/python make.py
"""
import pathlib
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from safetensors.numpy import save_file

SHAPES = [(1, 16, 16), (2, 16, 24), (3, 9, 31), (4, 1, 2), (1, 32, 32)]
rng = np.random.default_rng(11)


def net():
    inits, nodes = [], []

    def const(array):
        inits.append(numpy_helper.from_array(np.asarray(array), f"c{len(inits)}"))
        return inits[-1].name

    def op(kind, *inputs, to=None, **attributes):
        nodes.append(helper.make_node(kind, inputs, [to or f"t{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def conv(x, cin, cout, k, group=1, to=None, **more):
        w = rng.normal(0, (cin // group * k * k) ** -0.5, (cout, cin // group, k, k)).astype(np.float32)
        b = rng.normal(0, .3, cout).astype(np.float32)
        return op("Conv", x, const(w), const(b), kernel_shape=[k, k], group=group, pads=[k // 2] * 4, to=to, **more)

    x = op("Relu", conv("x", 3, 16, 3, strides=[2, 2]))
    x = op("Relu", conv(x, 16, 16, 3, group=16))
    y = op("Add", x, op("Relu", conv(x, 16, 16, 1)))
    conv(y, 16, 5, 1, to="map")
    flat = op("Flatten", op("GlobalAveragePool", y))
    w = rng.normal(0, .25, (16, 7)).astype(np.float32)
    op("Gemm", flat, const(w), const(rng.normal(0, 1, 7).astype(np.float32)), to="scores")
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "open", [value("x", ["n", 3, "h", "w"])],
                              [value("map", ["n", 5, "p", "q"]), value("scores", ["n", 7])], inits)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Reader(CalibrationDataReader):
    def __init__(self):
        self.feeds = iter([{"x": rng.normal(0, 1, (1, 3, 16, 16)).astype(np.float32)} for _ in range(8)])

    def get_next(self):
        return next(self.feeds, None)


def main():
    with tempfile.TemporaryDirectory() as folder:
        source, target = f"{folder}/a.onnx", f"{folder}/b.onnx"
        onnx.save(net(), source)
        quantize_static(source, target, Reader(), quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8,
                        weight_type=QuantType.QInt8)
        model = onnx.load(target)
    file = model.SerializeToString()
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    tensors = {"model": np.frombuffer(file, np.uint8)}
    for n, h, w in SHAPES:
        x = rng.normal(0, 1, (n, 3, h, w)).astype(np.float32)
        made = session.run(["map", "scores"], {"x": x})
        tensors |= {f"{n}x{h}x{w}/{name}": value for name, value in zip(("x", "map", "scores"), (x, *made))}
    save_file(tensors, pathlib.Path(__file__).parent / "open.safetensors")


if __name__ == "__main__":
    main()
