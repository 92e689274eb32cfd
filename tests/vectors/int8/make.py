#!/usr/bin/env python3
"""Writes vectors.safetensors: small quantized models and what onnxruntime makes of them.

Made with Python 3.11, numpy 2.4.6, onnx 1.23.2, onnxruntime 1.32.0 on x86-64; another version may round differently.
Each case has the tensors `<case>/model` (the file), `<case>/in/<name>`, `<case>/all/<name>` (all optimizations: int8
kernels where onnxruntime has them) and `<case>/off/<name>` (none: dequantize, compute in float, quantize). The header's
metadata holds for each case, as JSON: `compare` ("all" or "off"), `lsb` (the tolerance in steps of the output's
scale), `why` (what a tolerance above 0 is for), `step` (that scale) and `whole` (nothing may stay in float).

    python3 -m venv v && v/bin/pip install numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 sympy && v/bin/python make.py
"""
import json
import logging
import pathlib
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

logging.disable(logging.WARNING)
ort.set_default_logger_severity(4)
HERE = pathlib.Path(__file__).parent
rng = np.random.default_rng(7)


class Net:
    """A float graph under construction."""

    def __init__(self, opset=17):
        self.nodes, self.inits, self.inputs, self.opset, self.count = [], [], [], opset, 0
        self.own = None  # Where we quantize: a zero point in the activations' type.

    def input(self, name, shape):
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def const(self, array, name=None):
        self.count += 1
        name = name or f"c{self.count}"
        self.inits.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def op(self, kind, *inputs, outputs=1, domain="", **attributes):
        self.count += 1
        names = [f"t{self.count}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=f"n{self.count}", domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def conv(self, x, cin, cout, k=3, group=1, bias=True, **attributes):
        kernel = [k] if isinstance(k, int) and attributes.pop("one", False) else ([k, k] if isinstance(k, int) else k)
        w = rng.normal(0, 1 / np.sqrt(cin // group * np.prod(kernel)), [cout, cin // group, *kernel]).astype(np.float32)
        w *= rng.uniform(0.3, 2, [cout] + [1] * (w.ndim - 1)).astype(np.float32)
        inputs = [x, self.const(w)]
        if bias:
            inputs.append(self.const(rng.normal(0, 0.3, cout).astype(np.float32)))
        return self.op("Conv", *inputs, group=group, kernel_shape=kernel, **attributes)

    def linear(self, x, k, n, bias=True):
        w = self.const(rng.normal(0, 1 / np.sqrt(k), [k, n]).astype(np.float32))
        y = self.op("MatMul", x, w)
        return self.op("Add", y, self.const(rng.normal(0, 0.3, n).astype(np.float32))) if bias else y

    def norm(self, x, n):
        scale, shift = rng.uniform(0.5, 1.5, n).astype(np.float32), rng.normal(0, 0.1, n).astype(np.float32)
        return self.op("LayerNormalization", x, self.const(scale), self.const(shift), axis=-1)

    def silu(self, x):
        return self.op("Mul", x, self.op("Sigmoid", x))

    def model(self, *outputs, domains=(), types=None):
        types = types or [TensorProto.FLOAT] * len(outputs)
        infos = [helper.make_tensor_value_info(o, t, None) for o, t in zip(outputs, types)]
        graph = helper.make_graph(self.nodes, "g", self.inputs, infos, self.inits)
        opsets = [helper.make_opsetid("", self.opset)] + [helper.make_opsetid(d, 1) for d in domains]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def data(model, count=1, extreme=True):
    """Random inputs; some beyond every range, some exact halves."""
    feeds = []
    for _ in range(count):
        feed = {}
        for info in model.graph.input:
            shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
            kind = info.type.tensor_type.elem_type
            if kind == TensorProto.FLOAT:
                x = rng.normal(0, 1, shape).astype(np.float32)
                if extreme:
                    flat = x.reshape(-1)
                    flat[rng.integers(0, flat.size, flat.size // 20)] *= 30
                    flat[rng.integers(0, flat.size, flat.size // 20)] = 0.5
            else:
                dtype = helper.tensor_dtype_to_np_dtype(kind)
                x = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, shape).astype(dtype)
            feed[info.name] = x
        feeds.append(feed)
    return feeds


class Reader(CalibrationDataReader):
    def __init__(self, feeds):
        self.feeds = iter(feeds)

    def get_next(self):
        return next(self.feeds, None)


def static(model, fmt, activation, weight, per_channel=False, **options):
    with tempfile.TemporaryDirectory() as folder:
        source, target = f"{folder}/a.onnx", f"{folder}/b.onnx"
        onnx.save(model, source)
        quantize_static(source, target, Reader(data(model, 8, False)), quant_format=fmt, activation_type=activation,
                        weight_type=weight, per_channel=per_channel, extra_options=options)
        return onnx.load(target)


def dynamic(model, weight, per_channel=False):
    with tempfile.TemporaryDirectory() as folder:
        source, target = f"{folder}/a.onnx", f"{folder}/b.onnx"
        onnx.save(model, source)
        quantize_dynamic(source, target, weight_type=weight, per_channel=per_channel,
                         op_types_to_quantize=["Conv", "MatMul", "Gemm"])
        return onnx.load(target)


tensors, facts = {}, {}


def run(model, feed, level):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return {o.name: v for o, v in zip(session.get_outputs(), session.run(None, feed))}


def output_step(model):
    """The scale by which the first output was quantized; 0 where it was not."""
    name = model.graph.output[0].name
    inits = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    find = lambda name: next((n for n in model.graph.node if name in n.output), None)
    maker = find(name)
    while maker is not None and maker.op_type in ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice"):
        maker = find(maker.input[0])
    if maker is None:
        return 0.0
    return float(inits[maker.input[1]].max()) if maker.op_type == "DequantizeLinear" else 0.0


def case(name, model, compare="all", lsb=0, why="", whole=True, relative=0.0):
    model.graph.doc_string = ""
    del model.graph.value_info[:]
    feed = data(model)[0]
    tensors[f"{name}/model"] = np.frombuffer(model.SerializeToString(), np.uint8)
    for key, value in feed.items():
        tensors[f"{name}/in/{key}"] = value
    every = {"all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL, "off": ort.GraphOptimizationLevel.ORT_DISABLE_ALL}
    made = {}
    for label, level in every.items():
        if compare in ("all", label) or label == "off":
            made[label] = run(model, feed, level)
    made.setdefault("all", made["off"])
    for key, value in made["all"].items():
        tensors[f"{name}/all/{key}"] = value
        if not np.array_equal(value, made["off"][key]):
            tensors[f"{name}/off/{key}"] = made["off"][key]
    facts[name] = {"compare": compare, "lsb": lsb, "why": why, "whole": whole, "step": output_step(model),
                   "relative": relative}


def image(shape=(1, 8, 9, 10), opset=17):
    net = Net(opset)
    return net, net.input("x", list(shape))


def other(net, x, channels):
    """A second operand with a scale of its own: a product, or a table where there is no quantizer for products."""
    if not net.own:
        return net.conv(x, channels, channels, 1)
    scale, zero = .0117, net.own(-37)
    return fq(net, net.op("Tanh", x), scale, zero)


def pooled(net, x):
    y = net.op("GlobalAveragePool", x)
    return fq(net, y, .0043, net.own(11)) if net.own else y


# One operator between quantized tensors.
def operators():
    made = {}

    def of(name, shape, build, opset=17):
        made[name] = build, shape, opset

    of("conv3x3", (2, 8, 9, 10), lambda n, x: n.op("Relu", n.conv(x, 8, 12, pads=[1, 1, 1, 1])))
    of("conv-no-bias", (1, 4, 7, 7), lambda n, x: n.conv(x, 4, 5, bias=False))
    of("conv-stride-pads", (1, 3, 11, 13), lambda n, x: n.conv(x, 3, 7, strides=[2, 3], pads=[0, 1, 2, 1]))
    of("conv-dilation", (1, 5, 12, 11), lambda n, x: n.conv(x, 5, 6, dilations=[2, 3], pads=[2, 3, 2, 3]))
    of("conv-group", (1, 8, 6, 6), lambda n, x: n.conv(x, 8, 12, group=4, pads=[1, 1, 1, 1]))
    of("conv-depthwise", (1, 9, 9, 8), lambda n, x: n.op("Clip", n.conv(x, 9, 9, group=9, pads=[1, 1, 1, 1]),
                                                         n.const(np.float32(0)), n.const(np.float32(1.5))))
    of("conv-1x1", (1, 33, 5, 5), lambda n, x: n.conv(x, 33, 17, 1))
    of("conv-1x5", (1, 4, 5, 9), lambda n, x: n.conv(x, 4, 6, [1, 5], pads=[0, 2, 0, 2]))
    of("conv-1d", (2, 6, 20), lambda n, x: n.conv(x, 6, 8, 5, one=True, strides=[2], pads=[2, 1]))
    of("conv-same", (1, 3, 10, 9), lambda n, x: n.conv(x, 3, 4, auto_pad="SAME_UPPER", strides=[2, 2]))
    of("gemm", (3, 40), lambda n, x: n.op("Gemm", x, n.const(rng.normal(0, .2, (40, 12)).astype(np.float32)),
                                          n.const(rng.normal(0, 1, 12).astype(np.float32))))
    of("gemm-trans-b", (3, 40), lambda n, x: n.op("Gemm", x, n.const(rng.normal(0, .2, (12, 40)).astype(np.float32)),
                                                  n.const(rng.normal(0, 1, 12).astype(np.float32)), transB=1))
    of("matmul", (2, 5, 24), lambda n, x: n.linear(x, 24, 10, bias=False))
    of("matmul-activations", (2, 3, 6, 8), lambda n, x: n.op("MatMul", x, n.op("Transpose", x, perm=[0, 1, 3, 2])))
    of("add", (1, 8, 9, 10), lambda n, x: n.op("Add", other(n, x, 8), x))
    of("add-broadcast", (1, 8, 9, 10), lambda n, x: n.op("Add", x, pooled(n, x)))
    of("sub", (1, 8, 9, 10), lambda n, x: n.op("Sub", other(n, x, 8), x))
    of("mul", (1, 8, 9, 10), lambda n, x: n.op("Mul", other(n, x, 8), x))
    of("concat", (1, 6, 5, 5), lambda n, x: n.op("Concat", other(n, x, 6), x, axis=1))
    of("max-pool", (1, 4, 9, 9), lambda n, x: n.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]))
    of("max-pool-ceil", (1, 4, 8, 8), lambda n, x: n.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1))
    of("average-pool", (1, 4, 9, 9), lambda n, x: n.op("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2],
                                                       pads=[1, 1, 1, 1]))
    of("average-pool-include", (1, 4, 9, 9), lambda n, x: n.op("AveragePool", x, kernel_shape=[2, 3], pads=[1, 1, 0, 1],
                                                               count_include_pad=1))
    of("global-average", (2, 7, 6, 5), lambda n, x: n.op("Flatten", n.op("GlobalAveragePool", x)))
    of("reduce-mean", (2, 7, 6, 5), lambda n, x: n.op("ReduceMean", x, axes=[2, 3], keepdims=0))
    of("resize-nearest", (1, 3, 4, 5), lambda n, x: n.op("Resize", x, "", n.const(np.float32([1, 1, 2, 2])),
                                                         mode="nearest", nearest_mode="floor",
                                                         coordinate_transformation_mode="asymmetric"))
    of("resize-nearest-default", (1, 3, 6, 5), lambda n, x: n.op("Resize", x, "", n.const(np.float32([1, 1, 1.5, .6]))))
    of("resize-linear", (1, 3, 4, 5), lambda n, x: n.op("Resize", x, "", n.const(np.float32([1, 1, 2, 4])), mode="linear"))
    of("resize-linear-odd", (1, 3, 4, 5), lambda n, x: n.op("Resize", x, "", "", n.const(np.int64([1, 3, 7, 6])),
                                                            mode="linear", coordinate_transformation_mode="align_corners"))
    of("pad", (1, 3, 4, 5), lambda n, x: n.op("Pad", x, n.const(np.int64([0, 0, 1, 2, 0, 1, 2, 0]))))
    of("pad-reflect", (1, 3, 4, 5), lambda n, x: n.op("Pad", x, n.const(np.int64([0, 0, 1, 2, 0, 0, 2, 1])),
                                                      mode="reflect"))
    of("transpose", (1, 3, 4, 5), lambda n, x: n.op("Transpose", x, perm=[0, 2, 3, 1]))
    of("reshape", (1, 3, 4, 5), lambda n, x: n.op("Reshape", x, n.const(np.int64([0, -1, 10]))))
    of("slice", (1, 8, 9, 10), lambda n, x: n.op("Slice", x, n.const(np.int64([1, -4])), n.const(np.int64([7, 2**60])),
                                                 n.const(np.int64([1, 3])), n.const(np.int64([2, 1]))))
    of("split", (1, 8, 4, 4), lambda n, x: n.op("Add", *n.op("Split", x, n.const(np.int64([4, 4])), outputs=2, axis=1)))
    of("squeeze", (1, 8, 4, 1), lambda n, x: n.op("Unsqueeze", n.op("Squeeze", x, n.const(np.int64([0, 3]))),
                                                  n.const(np.int64([1]))))
    of("depth-to-space", (1, 8, 3, 4), lambda n, x: n.op("DepthToSpace", x, blocksize=2, mode="CRD"))
    def plain(kind, attributes):
        return lambda n, x: n.op(kind, x, **attributes)

    for kind, attributes in (("Sigmoid", {}), ("Tanh", {}), ("HardSwish", {}), ("HardSigmoid", {}), ("Relu", {}), ("Erf", {}),
                             ("LeakyRelu", {"alpha": 0.1}), ("Elu", {}), ("Softplus", {}), ("Mish", {}), ("Exp", {})):
        of(kind.lower(), (1, 4, 16, 16), plain(kind, attributes), 18 if kind == "Mish" else 17)
    of("gelu", (1, 4, 16, 16), lambda n, x: n.op("Gelu", x), 20)
    of("clip", (1, 4, 16, 16), lambda n, x: n.op("Clip", x, n.const(np.float32(-1)), n.const(np.float32(1.25))))
    of("silu", (1, 4, 16, 16), lambda n, x: n.silu(x))
    of("softmax", (2, 5, 12), lambda n, x: n.op("Softmax", x, axis=-1))
    of("softmax-axis-1", (2, 12, 5), lambda n, x: n.op("Softmax", x, axis=1))
    return made


def nets():
    made = {}
    net, x = image((1, 3, 24, 24))
    x = net.op("Clip", net.conv(x, 3, 8, strides=[2, 2], pads=[1] * 4), net.const(np.float32(0)), net.const(np.float32(6)))
    for cin, cout, stride in ((8, 8, 1), (8, 12, 2), (12, 12, 1)):
        six = (net.const(np.float32(0)), net.const(np.float32(6)))
        y = net.op("Clip", net.conv(x, cin, cin * 3, 1), *six)
        y = net.op("Clip", net.conv(y, cin * 3, cin * 3, group=cin * 3, strides=[stride] * 2, pads=[1] * 4), *six)
        y = net.conv(y, cin * 3, cout, 1)
        x = net.op("Add", x, y) if cin == cout and stride == 1 else y
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    x = net.op("Gemm", x, net.const(rng.normal(0, .3, (12, 10)).astype(np.float32)), net.const(np.zeros(10, np.float32)))
    made["mobilenet"] = net.model(x)

    net, x = image((1, 3, 32, 32))
    x = net.op("Relu", net.conv(x, 3, 8, 7, strides=[2, 2], pads=[3] * 4))
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for cin, cout, stride in ((8, 8, 1), (8, 16, 2)):
        y = net.op("Relu", net.conv(x, cin, cout, strides=[stride] * 2, pads=[1] * 4))
        y = net.conv(y, cout, cout, pads=[1] * 4)
        s = x if cin == cout else net.conv(x, cin, cout, 1, strides=[stride] * 2)
        x = net.op("Relu", net.op("Add", y, s))
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    x = net.op("Gemm", x, net.const(rng.normal(0, .3, (10, 16)).astype(np.float32)), net.const(np.zeros(10, np.float32)),
               transB=1)
    made["resnet"] = net.model(x)

    net, x = image((1, 3, 16, 16))
    x = net.silu(net.conv(x, 3, 8, strides=[2, 2], pads=[1] * 4))
    a, b = net.op("Split", net.silu(net.conv(x, 8, 8, 1)), net.const(np.int64([4, 4])), outputs=2, axis=1)
    c = net.op("Add", b, net.silu(net.conv(net.silu(net.conv(b, 4, 4, pads=[1] * 4)), 4, 4, pads=[1] * 4)))
    x = net.silu(net.conv(net.op("Concat", a, b, c, axis=1), 12, 8, 1))
    d = net.silu(net.conv(x, 8, 8, strides=[2, 2], pads=[1] * 4))
    p = net.op("MaxPool", d, kernel_shape=[5, 5], pads=[2] * 4)
    d = net.silu(net.conv(net.op("Concat", d, p, axis=1), 16, 8, 1))
    u = net.op("Resize", d, "", net.const(np.float32([1, 1, 2, 2])), mode="nearest", nearest_mode="floor",
               coordinate_transformation_mode="asymmetric")
    x = net.silu(net.conv(net.op("Concat", u, x, axis=1), 16, 8, 1))
    x = net.conv(x, 8, 6, 1)
    made["yolo"] = net.model(net.op("Reshape", x, net.const(np.int64([1, 6, -1]))))
    return made


def transformer(opset=17):
    net = Net(opset)
    x = net.input("x", [1, 6, 16])
    y = net.norm(x, 16)
    heads = []
    for _ in range(3):
        h = net.op("Reshape", net.linear(y, 16, 16), net.const(np.int64([1, 6, 2, 8])))
        heads.append(net.op("Transpose", h, perm=[0, 2, 1, 3]))
    q, k, v = heads
    scores = net.op("Mul", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), net.const(np.float32(8 ** -.5)))
    y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.const(np.int64([1, 6, 16])))
    x = net.op("Add", x, net.linear(y, 16, 16))
    y = net.linear(net.norm(x, 16), 16, 32)
    erf = net.op("Erf", net.op("Mul", y, net.const(np.float32(2 ** -.5))))
    y = net.op("Mul", net.op("Mul", y, net.op("Add", erf, net.const(np.float32(1)))), net.const(np.float32(.5)))
    return net.model(net.op("Add", x, net.linear(y, 32, 16)))


def q(net, x, scale, zero, axis=None, domain="", **attributes):
    inputs = [x, net.const(np.float32(scale))] + ([net.const(zero)] if zero is not None else [])
    return net.op("QuantizeLinear", *inputs, domain=domain, **({"axis": axis} if axis is not None else {}), **attributes)


def dq(net, x, scale, zero, axis=None, domain=""):
    inputs = [x, net.const(np.float32(scale))] + ([net.const(zero)] if zero is not None else [])
    return net.op("DequantizeLinear", *inputs, domain=domain, **({"axis": axis} if axis is not None else {}))


def fq(net, x, scale, zero, **more):
    return dq(net, q(net, x, scale, zero, **more), scale, zero, **more)


def forms():
    """What exporters write that quantize_static does not."""
    made = {}
    s8, u8 = np.int8, np.uint8

    # Symmetric s8, weights quantized in the graph and per channel, products leave in float (as for TensorRT).
    net, x = image((1, 4, 8, 8))

    def conv(x, scale, cin, cout, **more):
        w = rng.normal(0, .3, (cout, cin, 3, 3)).astype(np.float32)
        scales = np.abs(w).max(axis=(1, 2, 3)) / 127
        w = fq(net, net.const(w), scales, np.zeros(cout, s8), axis=0)
        return net.op("Conv", fq(net, x, scale, s8(0)), w, net.const(rng.normal(0, .2, cout).astype(np.float32)),
                      pads=[1] * 4)
    y = net.op("Relu", conv(x, .02, 4, 6))
    y = conv(y, .03, 6, 4)
    x = net.op("Relu", net.op("Add", y, fq(net, x, .02, s8(0))))
    x = conv(x, .04, 4, 3)
    made["form-tensorrt-residual"] = net.model(fq(net, x, .09, s8(0))), dict(
        compare="off", lsb=1, why="float sums in another order round to another int8 now and then")

    # Weights as int8 constants per channel, bias in float, Linear with a Transpose (as PyTorch exports).
    net, x = image((1, 4, 8, 8), 13)
    x = fq(net, x, .025, u8(120))
    w = rng.integers(-127, 128, (6, 4, 3, 3)).astype(s8)
    scales = rng.uniform(.002, .01, 6)
    y = net.op("Conv", x, dq(net, net.const(w), scales, np.zeros(6, s8), axis=0),
               net.const(rng.normal(0, .5, 6).astype(np.float32)), strides=[2, 2])
    y = fq(net, net.op("Relu", y), .02, u8(0))
    y = net.op("Flatten", y)
    w = dq(net, net.const(rng.integers(-127, 128, (5, 54)).astype(s8)), .004, s8(0))
    y = net.op("Add", net.op("MatMul", y, net.op("Transpose", w, perm=[1, 0])), net.const(rng.normal(0, 1, 5).astype(np.float32)))
    made["form-pytorch"] = net.model(fq(net, y, .05, u8(128))), dict(
        lsb=1, why="onnxruntime adds a float bias in float; ours is rounded to the products' scale")

    # The type in an attribute, no zero points (operator set 21).
    net, x = image((1, 4, 6, 6), 21)
    x = dq(net, q(net, x, .0213, None, output_dtype=TensorProto.INT8), .0213, None)
    w = dq(net, net.const(rng.integers(-127, 128, (5, 4, 1, 1)).astype(s8)), .01, None)
    y = net.op("Conv", x, w)
    made["form-output-dtype"] = net.model(dq(net, q(net, y, .0531, None, output_dtype=TensorProto.INT8), .0531, None)), {}

    # The default type: UINT8.
    net, x = image((1, 4, 6, 6))
    x = dq(net, q(net, x, .02, None), .02, None)
    y = net.op("MaxPool", x, kernel_shape=[2, 2])
    made["form-no-zero-point"] = net.model(dq(net, q(net, y, .02, None), .02, None)), {}

    # UINT8 weights with a zero point for each channel.
    net, x = image((1, 4, 6, 6))
    x = fq(net, x, .02, s8(-5))
    w = rng.integers(0, 256, (5, 4, 3, 3)).astype(u8)
    w = dq(net, net.const(w), rng.uniform(.002, .01, 5), rng.integers(0, 256, 5).astype(u8), axis=0)
    made["form-weight-zero-points"] = net.model(fq(net, net.op("Conv", x, w), .08, s8(7))), dict(compare="off")

    # UINT8 to INT8 between operators, scales the same and not, domain com.microsoft.
    net, x = image((1, 4, 6, 6))
    ms = dict(domain="com.microsoft")
    x = fq(net, x, .02, u8(128), **ms)
    x = fq(net, x, .02, s8(0), **ms)
    x = fq(net, net.op("Sigmoid", x), 1 / 255, s8(-128), **ms)
    made["form-mixed-signs"] = net.model(fq(net, x, 1 / 200, u8(3), **ms), domains=["com.microsoft"]), dict(compare="off")

    # One tensor for integer and float readers, and a product that the graph also wants in float.
    net, x = image((1, 4, 6, 6))
    x = fq(net, x, .02, u8(128))
    w = dq(net, net.const(rng.integers(-127, 128, (4, 4, 1, 1)).astype(s8)), .01, s8(0))
    y = net.op("Conv", x, w)
    z = fq(net, y, .05, u8(128))
    made["form-shared"] = net.model(net.op("Mul", z, z), net.op("Sin", x), y), dict(compare="off", relative=2e-6, whole=False)

    # 8-bit tensors at both ends.
    net = Net()
    net.inputs.append(helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 3, 6, 6]))
    x = dq(net, "x", .02, u8(100))
    w = dq(net, net.const(rng.integers(-127, 128, (4, 3, 3, 3)).astype(s8)), .01, s8(0))
    y = q(net, net.op("Relu", net.op("Conv", x, w)), .0531, s8(-20))
    made["form-bytes"] = net.model(y, types=[TensorProto.INT8]), {}

    # Activations between float islands: two regions and a way around.
    net, x = image((1, 4, 6, 6))
    a = fq(net, x, .02, u8(128))
    w = dq(net, net.const(rng.integers(-127, 128, (4, 4, 1, 1)).astype(s8)), .01, s8(0))
    b = fq(net, net.op("Conv", a, w), .0431, u8(128))
    c = fq(net, net.op("CumSum", b, net.const(np.int64(3))), .1, u8(128))
    d = fq(net, net.op("Add", b, c), .1, u8(128))
    made["form-islands"] = net.model(fq(net, net.op("Conv", d, w), .2, u8(128))), dict(whole=False)

    # Every operator set.
    for opset in (10, 11, 13, 19, 21, 23):
        net, x = image((1, 3, 8, 8), opset)
        x = fq(net, x, .027, u8(117))
        w = dq(net, net.const(rng.integers(-127, 128, (4, 3, 3, 3)).astype(s8)), .011, s8(0))
        y = fq(net, net.op("Relu", net.op("Conv", x, w, pads=[1] * 4)), .043, u8(0))
        y = net.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
        y = net.op("Flatten", net.op("GlobalAveragePool", fq(net, y, .043, u8(0))))
        y = fq(net, y, .0189, u8(3))
        w = dq(net, net.const(rng.integers(-127, 128, (4, 5)).astype(s8)), .01, s8(0))
        b = dq(net, net.const(rng.integers(-2000, 2000, 5).astype(np.int32)), np.float32(.0189) * np.float32(.01), None)
        made[f"form-opset-{opset}"] = net.model(fq(net, net.op("Gemm", y, w, b), .037, u8(128))), {}

    # A clamp and a mean behind a product without a pair between, a padding, a chain of moves.
    net, x = image((1, 3, 8, 8))
    x = fq(net, x, .027, s8(3))
    x = net.op("Pad", x, net.const(np.int64([0, 0, 1, 1, 0, 0, 1, 1])))
    w = dq(net, net.const(rng.integers(-127, 128, (6, 3, 3, 3)).astype(s8)), rng.uniform(.004, .02, 6), np.zeros(6, s8), axis=0)
    y = net.op("Clip", net.op("Conv", x, w), net.const(np.float32(-.5)), net.const(np.float32(2)))
    y = net.op("MaxPool", net.op("Transpose", y, perm=[0, 1, 3, 2]), kernel_shape=[2, 2], strides=[2, 2])
    y = net.op("Reshape", fq(net, y, .0187, s8(-100)), net.const(np.int64([0, 3, 2, -1])))
    y = fq(net, net.op("ReduceMean", net.op("Relu", y), axes=[-1], keepdims=0), .0123, s8(-128))
    made["form-chain"] = net.model(y), dict(compare="off")

    # LeakyRelu and SiLU behind products, in float, then quantized.
    net, x = image((1, 3, 8, 8))
    x = fq(net, x, .027, s8(3))
    w = dq(net, net.const(rng.integers(-127, 128, (6, 3, 3, 3)).astype(s8)), .01, s8(0))
    y = net.op("LeakyRelu", net.op("Conv", x, w, net.const(rng.normal(0, 1, 6).astype(np.float32))), alpha=.1)
    y = fq(net, y, .043, s8(-80))
    w = dq(net, net.const(rng.integers(-127, 128, (4, 6, 1, 1)).astype(s8)), .01, s8(0))
    y = net.op("Conv", y, w)
    made["form-float-activation"] = net.model(fq(net, net.silu(y), .043, s8(-120))), dict(compare="off")

    # A bias far beyond 32 bits in units of the products.
    net, x = image((1, 2, 4, 4))
    x = fq(net, x, 1e-4, s8(3))
    w = dq(net, net.const(rng.integers(-127, 128, (2, 2, 1, 1)).astype(s8)), 1e-6, s8(0))
    y = net.op("Relu", net.op("Conv", x, w, net.const(np.float32([5, -3]))))
    made["form-large-bias"] = net.model(fq(net, y, .043, s8(-80))), dict(compare="off")

    # 16 bits, and a scale for each channel of the activations: arithmetic in float.
    net, x = image((1, 3, 4, 4), 21)
    y = fq(net, x, .0007, np.int16(0))
    y = fq(net, y, [.02, .03, .04], np.array([3, 120, 255], u8), axis=1)
    made["form-wide"] = net.model(fq(net, net.op("Sigmoid", y), .0041, u8(3))), dict(compare="off", whole=False)

    # Squeeze and excitation: a product by channel, HardSigmoid, HardSwish.
    net, x = image((1, 8, 6, 6))
    x = fq(net, x, .027, u8(110))
    y = fq(net, net.op("GlobalAveragePool", x), .0061, u8(120))
    w = dq(net, net.const(rng.integers(-127, 128, (8, 8, 1, 1)).astype(s8)), .01, s8(0))
    y = fq(net, net.op("Conv", y, w), .023, u8(128))
    y = fq(net, net.op("HardSigmoid", y, alpha=1 / 6, beta=.5), 1 / 255, u8(0))
    y = fq(net, net.op("Mul", x, y), .019, u8(110))
    made["form-squeeze"] = net.model(fq(net, net.op("HardSwish", y), .013, u8(31))), dict(compare="off")

    # Weights alone.
    net = Net()
    x = net.input("x", [3, 16])
    w = dq(net, net.const(rng.integers(-127, 128, (16, 8)).astype(s8)), rng.uniform(.002, .01, 8), np.zeros(8, s8), axis=1)
    made["form-weights-only"] = net.model(net.op("MatMul", x, w)), dict(compare="off", relative=1e-5)
    net = Net()
    x = net.input("x", [2, 3, 200])
    w = dq(net, net.const(rng.integers(0, 256, (200, 40)).astype(u8)), .004, u8(131))
    y = net.op("Add", net.op("MatMul", x, w), net.const(rng.normal(0, 1, 40).astype(np.float32)))
    w = dq(net, net.const(rng.integers(-127, 128, (10, 40)).astype(s8)), rng.uniform(.002, .01, 10), np.zeros(10, s8), axis=0)
    y = net.op("Reshape", net.op("Gelu", y, domain="com.microsoft"), net.const(np.int64([6, 40])))
    y = net.op("Gemm", y, w, net.const(rng.normal(0, 1, 10).astype(np.float32)), transB=1)
    made["form-weights-only-cast"] = by_hand(), dict(compare="off", relative=1e-5)
    made["form-weights-only-deep"] = net.model(y, domains=["com.microsoft"]), dict(compare="off", relative=1e-5)
    return made


def by_hand():
    """Weights that are brought to float by Cast, Sub and Mul."""
    net, s8, u8 = Net(), np.int8, np.uint8
    x = net.input("x", [2, 96])

    def weights(k, n, kind, scale, zero=None):
        w = net.op("Cast", net.const(rng.integers(np.iinfo(kind).min, np.iinfo(kind).max + 1, (k, n)).astype(kind)), to=1)
        if zero is not None:
            w = net.op("Sub", w, net.const(np.float32(zero)))
        return net.op("Mul", w, net.const(np.float32(scale)))

    y = net.op("MatMul", x, weights(96, 200, s8, rng.uniform(.001, .01, (1, 200))))
    y = net.op("Relu", net.op("MatMul", y, weights(200, 400, u8, .003, rng.integers(100, 160, (1, 400)))))
    return net.model(net.op("MatMul", y, weights(400, 170, u8, .002, 131)))


def between():
    """What stands in float between two products that are quantized at run time: (build, opset)."""
    def normal(net, x):
        mean = net.op("ReduceMean", x, axes=[-1])
        d = net.op("Sub", x, mean)
        v = net.op("ReduceMean", net.op("Pow", d, net.const(np.float32(2))), axes=[-1])
        r = net.op("Sqrt", net.op("Add", v, net.const(np.float32(1e-5))))
        return net.op("Add", net.op("Mul", net.op("Div", d, r), net.const(rng.normal(1, .1, 24).astype(np.float32))),
                      net.const(rng.normal(0, .1, 24).astype(np.float32)))

    def masked(net, x):
        net.inputs.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 6, 1]))
        return net.op("Softmax", net.op("Add", x, "mask"), axis=-1)

    def parts(net, x):
        a, b, c = net.op("Split", x, net.const(np.int64([8, 4, 12])), outputs=3, axis=-1)
        b = net.op("Pad", b, net.const(np.int64([0, 0, 1, 0, 0, 3])))
        c = net.op("Slice", c, net.const(np.int64([2])), net.const(np.int64([10])), net.const(np.int64([2])))
        return net.op("Concat", c, a, b, axis=2)

    def attention(net, x):
        k = net.op("Transpose", net.op("Reshape", x, net.const(np.int64([2, 1, 6, 24]))), perm=[0, 1, 3, 2])
        q = net.op("Reshape", x, net.const(np.int64([1, 2, 6, 24])))
        s = net.op("Softmax", net.op("Mul", net.op("MatMul", q, k), net.const(np.float32(.2))), axis=-1)
        return net.op("Reshape", net.op("MatMul", s, q), net.const(np.int64([4, 6, 24])))

    return {
        "layer-norm": (lambda net, x: net.norm(x, 24), 17),
        "layer-norm-spelled": (normal, 13),
        "mean": (lambda net, x: net.op("Add", x, net.op("ReduceMean", x, axes=[1, 2])), 13),
        "softmax": (lambda net, x: net.op("Softmax", x, axis=-1), 13),
        "softmax-old": (lambda net, x: net.op("Softmax", x, axis=1), 11),
        "masked": (masked, 13),
        "parts": (parts, 13),
        "attention": (attention, 13),
        "root": (lambda net, x: net.op("Pow", net.op("Abs", x), net.const(np.float32(.5))), 13),
    }


def float_nets():
    """Nets in float, or of which the weights alone are int8: (build, shape, opset)."""
    def f(*values):
        return np.float32(values if len(values) > 1 else values[0])

    def channels(low, high, n, rank=3):
        return rng.uniform(low, high, (n,) + (1,) * (rank - 1)).astype(np.float32)

    def norm(net, x, n):
        parts = [rng.uniform(.5, 1.5, n), rng.normal(0, .1, n), rng.normal(0, .3, n), rng.uniform(.5, 2, n)]
        return net.op("BatchNormalization", x, *(net.const(part.astype(np.float32)) for part in parts), epsilon=1e-3)

    def swish(net, x, sixth):
        gate = net.op("Clip", net.op("Add", x, net.const(f(3.))), net.const(f(0.)), net.const(f(6.)))
        if sixth == "behind":
            return net.op("Div", net.op("Mul", x, gate), net.const(f(6.)))
        if sixth == "product":
            return net.op("Mul", net.op("Mul", gate, x), net.const(f(1 / 6)))
        return net.op("Mul", x, net.op("Div", gate, net.const(f(6.))))

    def inside(build, k=3, c=8, m=16):
        """Between two convolutions."""
        def net(net, x):
            y = build(net, net.conv(x, c, m, k, pads=[k // 2] * 4))
            return net.conv(y, m, 5, 1)
        return net, (2, c, 9, 10), 17

    def excited(net, x):
        y = net.op("Relu", net.conv(net.op("GlobalAveragePool", x), 16, 4, 1))
        return net.op("Mul", x, net.op("HardSigmoid", net.conv(y, 4, 16, 1), alpha=.2, beta=.5))

    def residual(net, x):
        y = net.op("Relu", net.conv(x, 16, 16, pads=[1, 1, 1, 1], bias=False))
        y = net.op("Add", net.conv(y, 16, 16, 1), x)
        return net.op("Relu", net.op("Add", net.conv(y, 16, 16, 1), net.conv(x, 16, 16, 1)))

    def affine(net, x):
        y = net.op("Mul", net.conv(x, 16, 16, 1), net.const(channels(.5, 2, 16)))
        y = net.op("Sub", net.op("Add", y, net.const(f(.3))), net.const(channels(-1, 1, 16, 3)))
        return net.op("Sub", net.const(channels(-1, 1, 16)), net.op("Relu", y))

    def head(net, x):
        y = net.op("Flatten", net.op("GlobalAveragePool", net.conv(x, 8, 24, 1)))
        w = net.const(rng.normal(0, .2, (10, 24)).astype(np.float32))
        return net.op("Softmax", net.op("Gemm", y, w, net.const(rng.normal(0, .3, 10).astype(np.float32)), transB=1))

    def text(net, x):
        y = net.op("Reshape", net.conv(x, 8, 24, 1), net.const(np.int64([2, 24, 90])))
        y = net.norm(net.linear(net.op("Transpose", y, perm=[0, 2, 1]), 24, 16), 16)
        return net.op("Softmax", net.op("MatMul", y, net.const(rng.normal(0, .3, (16, 7)).astype(np.float32))), axis=-1)

    def rows(net, x):
        y = net.op("Relu", net.conv(x, 6, 8, 5, one=True, strides=[2], pads=[2, 1]))
        y = net.op("Add", net.conv(y, 8, 8, 7, group=8, one=True, pads=[3, 3]), y)
        y = net.op("MaxPool", net.op("HardSwish", y), kernel_shape=[3], strides=[2])
        return net.conv(y, 8, 4, 1, one=True)

    def resized(net, x):
        scales = net.const(f(1., 1., 2., 2.))
        return net.op("Resize", x, "", scales, nearest_mode="floor", coordinate_transformation_mode="asymmetric")

    def by_bytes(kind, spelled=False, group=1, k=3, zero=0):
        """Weights of int8, brought to float by a DequantizeLinear or by hand."""
        def net(net, x):
            shape = (8 if group > 1 else 12, 8 // group, k, k)
            info = np.iinfo(kind)
            w = net.const(rng.integers(info.min, info.max + 1, shape).astype(kind))
            scale, zeros = rng.uniform(.002, .01, shape[0]).astype(np.float32), np.full(shape[0], zero, kind)
            if spelled:
                w = net.op("Sub", net.op("Cast", w, to=1), net.const(np.float32(zero)))
                w = net.op("Mul", w, net.const(scale.reshape(-1, 1, 1, 1)))
            elif zero == 131:
                w = dq(net, w, .004, kind(zero))
            else:
                w = dq(net, w, scale, zeros, axis=0)
            bias = net.const(rng.normal(0, .3, shape[0]).astype(np.float32))
            y = net.op("Conv", x, w, bias, group=group, pads=[k // 2] * 4)
            return net.op("Mul", net.op("Relu", y), net.const(channels(.5, 2, shape[0])))
        return net, (2, 8, 9, 10), 17

    made = {name: of for name, of in operators().items() if name.startswith("conv")}
    made |= {
        "multiplier": (lambda n, x: n.conv(x, 5, 15, group=5, pads=[1, 1, 1, 1]), (1, 5, 7, 8), 17),
        "depthwise-5x5": (lambda n, x: n.op("HardSwish", n.conv(x, 40, 40, 5, group=40, strides=[2, 1], pads=[2] * 4)),
                          (1, 40, 3, 20), 17),
        "first": (lambda n, x: n.op("Relu", n.conv(x, 3, 20, 7, strides=[2, 2], pads=[3, 3, 2, 2])), (2, 3, 20, 23), 17),
        "deep": (lambda n, x: n.conv(x, 200, 9, pads=[1, 1, 1, 1]), (1, 200, 3, 4), 17),
        "relu": inside(lambda n, x: n.op("Relu", x)),
        "clip": inside(lambda n, x: n.op("Clip", x, n.const(f(-.5)), n.const(f(1.5)))),
        "hard-swish": inside(lambda n, x: n.op("HardSwish", x)),
        "hard-swish-behind": inside(lambda n, x: swish(n, x, "behind")),
        "hard-swish-product": inside(lambda n, x: swish(n, x, "product")),
        "hard-swish-before": inside(lambda n, x: swish(n, x, "before")),
        "leaky-relu": inside(lambda n, x: n.op("LeakyRelu", x, alpha=.1)),
        "silu": inside(lambda n, x: n.silu(x)),
        "squeeze": inside(excited),
        "residual": inside(residual),
        "affine": inside(affine),
        "norm": inside(lambda n, x: norm(n, n.op("Relu", norm(n, x, 16)), 16)),
        "max-pool": inside(lambda n, x: n.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, ceil_mode=1)),
        "average-pool": inside(lambda n, x: n.op("AveragePool", x, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1])),
        "average-pool-pads": inside(lambda n, x: n.op("AveragePool", x, kernel_shape=[3, 2], pads=[1, 1, 0, 0],
                                                      count_include_pad=1)),
        "mean": inside(lambda n, x: n.op("Add", x, n.op("ReduceMean", x, axes=[2, 3], keepdims=1))),
        "concat": (lambda n, x: n.conv(n.op("Concat", n.conv(x, 8, 9, 1), n.op("Relu", n.conv(x, 8, 8, 1)), axis=1), 17, 5, 1),
                   (2, 8, 9, 10), 17),
        "resize": inside(resized),
        "pad": inside(lambda n, x: n.op("Pad", x, n.const(np.int64([0, 0, 1, 2, 0, 0, 0, 1])))),
        "head": (head, (2, 8, 9, 10), 17),
        "text": (text, (2, 8, 9, 10), 17),
        "rows": (rows, (2, 6, 40), 17),
        "bytes-s8": by_bytes(np.int8),
        "bytes-s8-zero": by_bytes(np.int8, zero=-5),
        "bytes-u8": by_bytes(np.uint8, zero=131),
        "bytes-u8-channel": by_bytes(np.uint8, zero=120),
        "bytes-hand": by_bytes(np.uint8, spelled=True, zero=117),
        "bytes-1x1": by_bytes(np.int8, k=1),
        "bytes-depthwise": by_bytes(np.int8, group=8, zero=3),
        "bytes-group": by_bytes(np.int8, group=4),
    }
    return made


def sandwich(build, opset):
    net = Net(opset)
    x = net.linear(net.input("x", [2, 6, 16]), 16, 24)
    return net.model(net.linear(build(net, x), 24, 8))


# Operators that onnxruntime's quantizer quantizes where they stand alone.
BY_TOOL = ("conv", "gemm", "matmul", "add", "mul", "concat", "sigmoid", "leakyrelu", "split", "silu", "softmax",
           "global-average")


def built(build, shape, opset):
    net, x = image(shape, opset)
    return net.model(build(net, x))


def wrapped(build, shape, opset, kind):
    """The operator between Q/DQ pairs of our own: the range of the output is that of a float run."""
    global rng
    state = rng.bit_generator.state
    float_model = built(build, shape, opset)
    y = run(float_model, data(float_model, 1, False)[0], ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    y = next(iter(y.values()))
    rng.bit_generator.state = state
    net, x = image(shape, opset)
    low, high = min(float(y.min()), 0.0), max(float(y.max()), 0.0)
    scale = np.float32((high - low) / 250)
    zero = round(-low / scale)
    first, last = (np.uint8(128), np.uint8(zero)) if kind == "u8s8" else (np.int8(0), np.int8(zero - 128))
    moves = any(n.op_type in MOVING for n in float_model.graph.node) and len(float_model.graph.node) < 3
    # Interpolation to the same scale makes exact halves, which float sums break one way or the other.
    same = moves and not any(a.s == b"linear" for n in float_model.graph.node for a in n.attribute)
    net.own = (lambda z: np.uint8(z + 128)) if kind == "u8s8" else np.int8
    y = build(net, fq(net, x, .025, first))
    return net.model(fq(net, y, .025, first) if same else fq(net, y, scale, last))


def shuffled(net, x, shape, groups):
    """ShuffleNet's channel shuffle of `[n, c, h, w]`."""
    n, c, h, w = shape
    x = net.op("Reshape", x, net.const(np.int64([n, groups, c // groups, h, w])))
    x = net.op("Transpose", x, perm=[0, 2, 1, 3, 4])
    return net.op("Reshape", x, net.const(np.int64([n, c, h, w])))


def shuffle_unit(net, x, shape, stride):
    """A unit of ShuffleNetV2: two branches, of which the first does nothing where nothing shrinks."""
    n, c, h, w = shape
    if stride == 1:
        a, x = net.op("Split", x, net.const(np.int64([c // 2, c // 2])), outputs=2, axis=1)
        c //= 2
    else:
        a = net.conv(x, c, c, group=c, strides=[2, 2], pads=[1] * 4)
        a = net.op("Relu", net.conv(a, c, c, 1))
    b = net.op("Relu", net.conv(x, c, c, 1))
    b = net.conv(b, c, c, group=c, strides=[stride] * 2, pads=[1] * 4)
    b = net.op("Relu", net.conv(b, c, c, 1))
    shape = (n, 2 * c, -(-h // stride), -(-w // stride))
    return shuffled(net, net.op("Concat", a, b, axis=1), shape, 2), shape


def shuffles():
    made = {}
    net, x = image((1, 3, 18, 22))
    x, shape = net.op("Relu", net.conv(x, 3, 12, strides=[2, 2], pads=[1] * 4)), (1, 12, 9, 11)
    for stride in (2, 1, 1, 1, 2, 1):
        x, shape = shuffle_unit(net, x, shape, stride)
    x = net.op("Relu", net.conv(x, shape[1], 20, 1))
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    made["units"] = net.model(net.linear(x, 20, 7))

    # What is read twice, and before the shuffle too: the order goes on, through windows of one channel, to products.
    net, x = image((2, 6, 7, 5))
    x = net.op("Relu", net.conv(x, 6, 12, pads=[1] * 4))
    y = shuffled(net, x, (2, 12, 7, 5), 3)
    a = net.op("Relu", net.conv(net.conv(y, 12, 12, group=12, pads=[1] * 4), 12, 10, 1))
    b = net.conv(net.op("MaxPool", y, kernel_shape=[3, 3], pads=[1] * 4), 12, 10, pads=[1] * 4)
    made["into-readers"] = net.model(net.op("Concat", a, b, net.conv(x, 12, 10, 1), axis=1))

    # What goes out in the new order: the convolution that makes it brings it about.
    net, x = image((2, 6, 7, 5))
    x = net.op("Relu", net.conv(net.conv(x, 6, 12, pads=[1] * 4), 12, 12, group=12, pads=[1] * 4))
    made["into-maker"] = net.model(shuffled(net, x, (2, 12, 7, 5), 4))

    net, x = image((1, 8, 6, 6))
    x = net.op("Gather", net.op("Relu", net.conv(x, 8, 8, 1)), net.const(np.int64([7, 6, 5, 4, 0, 0, 2, 1])), axis=1)
    x = net.conv(x, 8, 8, group=8, pads=[1] * 4)
    made["gather"] = net.model(net.conv(x, 8, 9, 1))

    # Products of groups, as in the first ShuffleNet: the move stays.
    net, x = image((1, 12, 6, 7))
    x = net.op("Relu", net.conv(x, 12, 12, 1, group=3))
    x = net.conv(shuffled(net, x, (1, 12, 6, 7), 3), 12, 12, group=12, pads=[1] * 4)
    made["groups"] = net.model(net.op("Relu", net.conv(x, 12, 12, 1, group=3)))
    return made


def four_bits():
    """Weights of 4 bits as INT4 and UINT4, which others write: by channel and by tensor, with and without zero points."""
    made = {}

    def packed(kind, shape, low, high):
        values = rng.integers(low, high + 1, shape)
        net.count += 1
        net.inits.append(helper.make_tensor(f"c{net.count}", kind, shape, values.reshape(-1).tolist()))
        return f"c{net.count}"

    def weights(kind, shape, scale, zero=None, axis=None):
        low, high = (-8, 7) if kind == TensorProto.INT4 else (0, 15)
        inputs = [packed(kind, shape, low, high), net.const(np.float32(scale))]
        if zero is not None:
            inputs.append(packed(kind, list(np.shape(scale)), *zero))
        return net.op("DequantizeLinear", *inputs, **({} if axis is None else {"axis": axis}))

    for name, kind, zero in (("int4", TensorProto.INT4, (-3, 3)), ("uint4", TensorProto.UINT4, (6, 9))):
        # Odd numbers of weights, so that the last byte is half full; windows of all channels and of one.
        net, x = image((1, 5, 9, 7), 21)
        x = fq(net, x, .02, np.uint8(128))
        w = weights(kind, [7, 5, 3, 3], rng.uniform(.01, .03, 7), zero, 0)
        x = fq(net, net.op("Relu", net.op("Conv", x, w, pads=[1] * 4)), .03, np.uint8(0))
        w = weights(kind, [7, 1, 3, 3], .05, (0, 0) if kind == TensorProto.INT4 else (8, 8))
        made[f"{name}-conv"] = net.model(fq(net, net.op("Conv", x, w, pads=[1] * 4, group=7), .06, np.uint8(99)))
        net = Net(21)
        x = fq(net, net.input("x", [3, 21]), .03, np.uint8(120))
        x = net.op("Gemm", x, weights(kind, [11, 21], rng.uniform(.01, .03, 11), zero, 0), transB=1)
        x = fq(net, x, .05, np.uint8(110))
        x = net.op("MatMul", x, weights(kind, [11, 9], rng.uniform(.01, .03, 9), None, 1))
        made[f"{name}-linear"] = net.model(fq(net, x, .06, np.uint8(120)))
        # Scales by blocks: products of floats.
        net = Net(21)
        x = fq(net, net.input("x", [3, 32]), .03, np.uint8(120))
        low, high = (-8, 7) if kind == TensorProto.INT4 else (0, 15)
        w = [packed(kind, [32, 9], low, high), net.const(rng.uniform(.01, .03, (2, 9)).astype(np.float32)), packed(kind, [2, 9], *zero)]
        x = net.op("MatMul", x, net.op("DequantizeLinear", *w, axis=0, block_size=16))
        made[f"{name}-blocks"] = net.model(fq(net, x, .06, np.uint8(120)))
    return made


MOVING = ("MaxPool", "Reshape", "Transpose", "Slice", "Squeeze", "Pad", "DepthToSpace", "Resize")

# Where a case differs from onnxruntime, and why: (part of the name, compare, steps, reason).
DIFFERENCES = [
    ("softmax", "off", 0, "onnxruntime's int8 Softmax rounds otherwise than the float one does"),
    ("resize-linear-odd", "off", 1, "weights of an interpolation have 11 bits"),
    ("resize-linear", "off", 0, ""),
    ("transformer", "off", 1, "LayerNormalization in float sums in another order"),
]


def add(name, model, **options):
    for part, compare, lsb, why in DIFFERENCES:
        if part in name and "lsb" not in options:
            options = dict(compare=compare, lsb=lsb, why=why) | options
            break
    try:
        case(name, model, **options)
    except Exception as error:
        print(f"{name}: {str(error)[:200]}")


def main():
    types = {"u8s8": (QuantType.QUInt8, QuantType.QInt8), "s8s8": (QuantType.QInt8, QuantType.QInt8),
             "u8u8": (QuantType.QUInt8, QuantType.QUInt8)}
    linear = ("conv", "gemm", "matmul")
    for name, (build, shape, opset) in operators().items():
        model = built(build, shape, opset)
        for kind in ["u8s8", "s8s8"] + ["u8u8"] * name.startswith(linear):
            if name.startswith(BY_TOOL):
                add(f"qdq-{kind}-{name}", static(model, QuantFormat.QDQ, *types[kind]))
            if not name.startswith(linear):
                add(f"own-{kind}-{name}", wrapped(build, shape, opset, kind))
        if name.startswith(BY_TOOL) and name not in ("add-broadcast", "global-average", "matmul-activations"):
            add(f"qop-u8s8-{name}", static(model, QuantFormat.QOperator, *types["u8s8"]))
        if name.startswith(linear) and name != "matmul-activations":
            add(f"qdq-channel-{name}", static(model, QuantFormat.QDQ, *types["u8s8"], per_channel=True))
            add(f"dynamic-s8-{name}", dynamic(model, QuantType.QInt8), whole=False, relative=1e-5)
            add(f"dynamic-u8-{name}", dynamic(model, QuantType.QUInt8), whole=False, relative=1e-5)
    for name, model in nets().items():
        for kind in ("u8s8", "s8s8"):
            add(f"net-qdq-{kind}-{name}", static(model, QuantFormat.QDQ, *types[kind], per_channel=kind == "s8s8"))
        add(f"net-qop-u8s8-{name}", static(model, QuantFormat.QOperator, *types["u8s8"]))
        add(f"net-dynamic-{name}", dynamic(model, QuantType.QUInt8), whole=False, relative=1e-4)
    add("net-qdq-u8s8-transformer", static(transformer(), QuantFormat.QDQ, *types["u8s8"]), whole=False)
    add("net-qdq-s8s8-transformer", static(transformer(), QuantFormat.QDQ, *types["s8s8"]), whole=False)
    add("net-qop-u8s8-transformer", static(transformer(), QuantFormat.QOperator, *types["u8s8"]), whole=False)
    add("net-dynamic-transformer", dynamic(transformer(), QuantType.QInt8), whole=False, relative=1e-4)
    for name, (model, options) in forms().items():
        add(name, model, **options)
    for name, (build, opset) in between().items():
        add(f"between-{name}", dynamic(sandwich(build, opset), QuantType.QInt8), relative=1e-4, lsb=0, compare="off")
    for name, (build, shape, opset) in float_nets().items():
        add(f"float-{name}", built(build, shape, opset), relative=1e-5, lsb=0, compare="off")
    for name, model in shuffles().items():
        for kind in ("u8s8", "s8s8"):
            add(f"shuffle-qdq-{kind}-{name}", static(model, QuantFormat.QDQ, *types[kind], per_channel=kind == "s8s8"))
        add(f"shuffle-qop-u8s8-{name}", static(model, QuantFormat.QOperator, *types["u8s8"]))
    for name, model in four_bits().items():
        add(name, model, lsb=1, why="onnxruntime multiplies 4 bits in float, and rounds halves by that")
    write(HERE / "vectors.safetensors")


def write(path):
    names = {np.dtype(k): v for k, v in (("float32", "F32"), ("uint8", "U8"), ("int8", "I8"), ("int64", "I64"))}
    header, offset, parts = {"__metadata__": {k: json.dumps(v) for k, v in facts.items()}}, 0, []
    for key, value in tensors.items():
        raw = np.ascontiguousarray(value).tobytes()
        header[key] = {"dtype": names[value.dtype], "shape": list(value.shape), "data_offsets": [offset, offset + len(raw)]}
        offset += len(raw)
        parts.append(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))
    print(f"{len(facts)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
