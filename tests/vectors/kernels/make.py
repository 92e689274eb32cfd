#!/usr/bin/env python3
"""Expected values for src/kernels/tests/vectors.rs, computed by onnxruntime's quantized operators.

    pip install onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
    python make.py > onnxruntime.txt        (on x86-64)

A case is a line with the operator's name and lines `key value...`, ended by an empty line. Bytes are hexadecimal, floats
are the shortest decimals that read back exactly. `fnv` is the 64-bit FNV-1a hash of an output too long to list.
Tensors are int8 or uint8 as `type` says.
"""
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

rng = np.random.default_rng(20240601)
MS = "com.microsoft"


def numpy_type(kind):
    return {"s8": np.int8, "u8": np.uint8}[kind]


def values(kind, shape):
    """Random values, a third of them extremes."""
    info = np.iinfo(numpy_type(kind))
    drawn = rng.integers(info.min, info.max, shape, endpoint=True)
    extremes = rng.choice([info.min, info.min + 1, info.max], shape)
    return np.where(rng.random(shape) < 0.33, extremes, drawn).astype(numpy_type(kind))


def run(op, domain, inputs, kind, attributes=None):
    """One operator on (name, array) inputs; None stands for an input left out."""
    names = ["" if array is None else name for name, array in inputs]
    node = helper.make_node(op, names, ["y"], domain=domain, **(attributes or {}))
    graph = helper.make_graph(
        [node],
        "case",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs if a is not None],
        [helper.make_tensor_value_info("y", {"s8": TensorProto.INT8, "u8": TensorProto.UINT8}[kind], None)],
    )
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid(MS, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {n: a for n, a in inputs if a is not None})[0]


def text(value):
    if isinstance(value, np.ndarray) and value.dtype.itemsize == 1:
        return value.tobytes().hex() or "-"
    if isinstance(value, np.ndarray) or isinstance(value, (list, tuple)):
        return " ".join(repr(float(v)) if isinstance(v, np.floating) else str(int(v)) for v in np.asarray(value).ravel())
    return repr(float(value)) if isinstance(value, np.floating) else str(value)


def emit(operator, **fields):
    print(operator)
    for key, value in fields.items():
        print(key, text(value))
    print()


def fnv(array):
    hashed = 0xCBF29CE484222325
    for byte in array.tobytes():
        hashed = (hashed ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{hashed:016x}"


def f32(value):
    return np.float32(value)


def convolution(kind, shape, n, kernel, stride, pads, group, zero, weights_kind="s8"):
    _, c, _, _ = shape
    x, w = values(kind, shape), values(weights_kind, (n, c // group, *kernel))
    k = c // group * kernel[0] * kernel[1]
    bias = rng.integers(-3000, 3000, n).astype(np.int32)
    ws = (rng.random(n).astype(np.float32) + f32(0.5)) * f32(0.01)
    xs, ys = f32(0.05), f32(0.01 * 0.05 * 75 * np.sqrt(k))
    t = numpy_type(kind)
    wz = np.zeros(n, numpy_type(weights_kind))
    yz = t(7 if kind == "s8" else 130)
    inputs = [("x", x), ("xs", np.array(xs)), ("xz", np.array(t(zero))), ("w", w), ("ws", ws), ("wz", wz),
              ("ys", np.array(ys)), ("yz", np.array(yz)), ("b", bias)]
    attributes = {"strides": stride, "pads": pads, "group": group, "kernel_shape": kernel}
    y = run("QLinearConv", "", inputs, kind, attributes)
    emit("QLinearConv", type=kind, shape=list(shape), n=n, kernel=kernel, stride=stride, pads=pads, group=group,
         x=x, xs=xs, xz=zero, w=w, ws=ws, ys=ys, yz=int(yz), b=bias, y=y)


def product(kind, m, k, n, zero, per_channel, ties=False):
    x, w = values(kind, (m, k)), values("s8", (k, n))
    xs = f32(0.037)
    ws = (rng.random(n).astype(np.float32) + f32(0.5)) * f32(0.02) if per_channel else np.array([f32(0.017)])
    ys, yz = f32(0.037 * 0.017 * 75 * np.sqrt(k)), (-3 if kind == "s8" else 120)
    t = numpy_type(kind)
    wz = np.zeros(ws.shape, np.int8)
    if ties:
        # Multiples of 128 are frequent among products with −128, and half of them lie between two integers.
        xs, ws, ys = f32(0.5), np.array([f32(1 / 128)]), f32(1)
    elif not per_channel:
        wz[0] = 3
    inputs = [("x", x), ("xs", np.array(xs)), ("xz", np.array(t(zero))), ("w", w),
              ("ws", ws if per_channel else np.array(ws[0])), ("wz", wz if per_channel else np.array(wz[0])),
              ("ys", np.array(ys)), ("yz", np.array(t(yz)))]
    y = run("QLinearMatMul", "", inputs, kind)
    emit("QLinearMatMul", type=kind, m=m, k=k, n=n, x=x, xs=xs, xz=zero, w=w, ws=ws, wz=wz, ys=ys, yz=yz, y=y)


def binary(op, a_scale, a_zero, b_scale, b_zero, y_scale, y_zero):
    """All 65,536 pairs of int8 values."""
    all_values = np.arange(-128, 128, dtype=np.int8)
    a, b = np.repeat(all_values, 256), np.tile(all_values, 256)
    one = lambda v: np.array(np.int8(v))
    s = [f32(a_scale), f32(b_scale), f32(y_scale)]
    inputs = [("a", a), ("as", np.array(s[0])), ("az", one(a_zero)), ("b", b), ("bs", np.array(s[1])), ("bz", one(b_zero)),
              ("ys", np.array(s[2])), ("yz", one(y_zero))]
    y = run(op, MS, inputs, "s8")
    emit(op, scales=np.array(s), zeros=[a_zero, b_zero, y_zero], fnv=fnv(y))


def sigmoid(x_scale, x_zero, y_scale, y_zero):
    x = np.arange(-128, 128, dtype=np.int8)
    inputs = [("x", x), ("xs", np.array(f32(x_scale))), ("xz", np.array(np.int8(x_zero))),
              ("ys", np.array(f32(y_scale))), ("yz", np.array(np.int8(y_zero)))]
    emit("QLinearSigmoid", scales=np.array([f32(x_scale), f32(y_scale)]), zeros=[x_zero, y_zero],
         y=run("QLinearSigmoid", MS, inputs, "s8"))


def global_average(kind, c, h, w, x_scale, x_zero, y_scale, y_zero):
    x = values(kind, (1, h, w, c))
    t = numpy_type(kind)
    inputs = [("x", x), ("xs", np.array(f32(x_scale))), ("xz", np.array(t(x_zero))), ("ys", np.array(f32(y_scale))),
              ("yz", np.array(t(y_zero)))]
    y = run("QLinearGlobalAveragePool", MS, inputs, kind, {"channels_last": 1})
    emit("QLinearGlobalAveragePool", type=kind, c=c, pixels=h * w, scales=np.array([f32(x_scale), f32(y_scale)]),
         zeros=[x_zero, y_zero], x=x, y=y)


def main():
    print(f"# onnxruntime {onnxruntime.__version__}, made by make.py")
    for kind, zero in [("u8", 128), ("u8", 0), ("u8", 255), ("s8", -128), ("s8", 3)]:
        convolution(kind, (1, 11, 5, 6), 18, [3, 3], [1, 1], [1, 1, 1, 1], 1, zero)
        convolution(kind, (1, 16, 5, 5), 40, [1, 1], [1, 1], [0, 0, 0, 0], 1, zero)
        convolution(kind, (1, 18, 7, 6), 18, [3, 3], [2, 2], [0, 1, 1, 1], 18, zero)
        convolution(kind, (1, 9, 6, 6), 9, [5, 5], [1, 1], [2, 2, 2, 2], 9, zero)
    for kind, zero in [("u8", 0), ("u8", 131), ("s8", -128), ("s8", 9)]:
        product(kind, 5, 70, 33, zero, False)
        product(kind, 1, 130, 19, zero, True)
    for op in ["QLinearAdd", "QLinearMul"]:
        binary(op, 0.05, 3, 0.07, -5, 0.1, 1)
        binary(op, 0.5, 0, 0.25, 0, 0.5, 0)
        binary(op, 0.0123, -128, 0.0456, 127, 0.03, -128)
        binary(op, 1.0, 127, 0.001, -128, 0.9, 127)
        binary(op, 0.031, -17, 0.0297, 41, 0.0431, 12)
    for arguments in [(0.05, 3, 1 / 256, -128), (0.11, -128, 0.004, -120), (0.003, 127, 0.0031, 5)]:
        sigmoid(*arguments)
    for kind, zeros in [("u8", (128, 0)), ("u8", (3, 77)), ("s8", (-128, -128)), ("s8", (5, -9))]:
        global_average(kind, 37, 7, 7, 0.04, zeros[0], 0.021, zeros[1])
        global_average(kind, 21, 3, 5, 0.04, zeros[0], 0.04, zeros[1])
    for kind, zero in [("u8", 128), ("s8", 0)]:
        product(kind, 9, 2, 37, zero, False, ties=True)


main()
