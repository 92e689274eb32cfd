"""Small networks and what they answer with some channels at zero: make.py [--out DIR]

Which weights go together is written here by hand; onnxruntime computes the answers with these at zero. Removal has to find the same weights and give
the same answers. Random weights; Python with onnx and onnxruntime.
"""

import argparse
import json
import pathlib

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper


class Net:
    """A graph under construction: `net.conv("a", x, 3, 8)` returns the name of its output."""

    def __init__(self, name, shape, symbolic=False):
        self.name, self.shape, self.symbolic = name, shape, symbolic
        self.rng = np.random.default_rng(sum(map(ord, name)))
        self.nodes, self.tensors, self.cases = [], {}, []

    def const(self, name, value):
        self.tensors[name] = value
        return name

    def weights(self, name, *shape):
        fan = max(int(np.prod(shape[1:])), 1)
        return self.const(name, self.rng.normal(0, 1.2 / np.sqrt(fan), shape).astype(np.float32))

    def ints(self, name, *values):
        return self.const(name, np.array(values, np.int64))

    def node(self, op, name, *inputs, outputs=None, **attributes):
        outputs = outputs or [name + ".y"]
        self.nodes.append(helper.make_node(op, list(inputs), outputs, name, **attributes))
        return outputs[0] if len(outputs) == 1 else outputs

    def conv(self, name, x, read, made, size=3, group=1, **attributes):
        w, b = self.weights(name + ".w", made, read // group, size, size), self.weights(name + ".b", made)
        return self.node("Conv", name, x, w, b, group=group, pads=[size // 2] * 4, **attributes)

    def norm(self, name, x, channels):
        parts = [self.weights(f"{name}.{part}", channels) for part in ("scale", "bias", "mean")]
        var = self.const(name + ".var", self.rng.uniform(0.5, 2, channels).astype(np.float32))
        return self.node("BatchNormalization", name, x, *parts, var)

    def gemm(self, name, x, read, made):
        return self.node("Gemm", name, x, self.weights(name + ".w", made, read), self.weights(name + ".b", made), transB=1)

    def linear(self, name, x, read, made):
        w = self.const(name + ".w", self.rng.normal(0, 1 / np.sqrt(read), (read, made)).astype(np.float32))
        return self.node("Add", name + ".add", self.node("MatMul", name, x, w), self.weights(name + ".b", made))

    def layer_norm(self, name, x, size):
        scale = self.const(name + ".scale", self.rng.uniform(0.5, 1.5, size).astype(np.float32))
        return self.node("LayerNormalization", name, x, scale, self.weights(name + ".bias", size), axis=-1)

    def case(self, zeroed, shapes):
        """zeroed: {tensor: (axis, positions)}, all that makes, scales or shifts the channels; shapes: of tensors once they are gone."""
        self.cases.append({"zeroed": {name: list(where) for name, where in zeroed.items()}, "shapes": shapes})

    def model(self, output, zeroed=None):
        tensors = {name: value.copy() for name, value in self.tensors.items()}
        for name, (axis, positions) in (zeroed or {}).items():
            tensors[name][(slice(None),) * axis + (positions,)] = 0
        shape = ["n", *self.shape[1:]] if self.symbolic else self.shape
        ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape), helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, self.name, ends[:1], ends[1:], [numpy_helper.from_array(v, n) for n, v in tensors.items()])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        model = onnx.shape_inference.infer_shapes(model)
        del model.graph.value_info[:]
        onnx.checker.check_model(model, full_check=True)
        return model


def filters(names, positions):
    """Of convolutions with a bias."""
    return {f"{name}.{part}": (0, positions) for name in names for part in "wb"}


def norms(names, positions):
    return {f"{name}.{part}": (0, positions) for name in names for part in ("scale", "bias")}


def residual():
    net = Net("residual", [1, 3, 6, 6])
    x = net.node("Relu", "r1", net.norm("n1", net.conv("c1", "x", 3, 8), 8))
    y = net.norm("n2", net.conv("c2", x, 8, 6), 6)
    x = net.node("Relu", "r2", net.node("Add", "add", y, net.conv("c3", x, 8, 6, 1)))
    x = net.node("Flatten", "flat", net.node("GlobalAveragePool", "gap", net.conv("c4", x, 6, 5)))
    net.case(filters(["c1"], [1, 6]) | norms(["n1"], [1, 6]), {"c1.w": [6, 3, 3, 3], "n1.var": [6], "c2.w": [6, 6, 3, 3], "c3.w": [6, 6, 1, 1]})
    net.case(filters(["c2", "c3"], [0, 4]) | norms(["n2"], [0, 4]), {"c2.w": [4, 8, 3, 3], "n2.mean": [4], "c4.w": [5, 4, 3, 3]})
    return net, net.gemm("fc", x, 5, 4)


def concat():
    net = Net("concat", [1, 3, 5, 5])
    a, b = net.conv("a", "x", 3, 5), net.conv("b", "x", 3, 4)
    x = net.node("Relu", "r", net.norm("n", net.node("Concat", "join", a, "x", b, axis=1), 12))
    x = net.node("MaxPool", "pool", net.conv("c", x, 12, 6), kernel_shape=[5, 5])
    net.case(filters(["b"], [0, 3]) | norms(["n"], [8, 11]), {"b.w": [2, 3, 3, 3], "n.var": [10], "c.w": [6, 10, 3, 3]})
    net.case(filters(["a"], [2]) | norms(["n"], [2]), {"a.w": [4, 3, 3, 3], "c.w": [6, 11, 3, 3]})
    return net, net.gemm("fc", net.node("Flatten", "flat", x), 6, 3)


def split():
    net = Net("split", [1, 3, 4, 4])
    net.ints("sizes", 3, 5)
    a, b = net.node("Split", "cut", net.conv("c", "x", 3, 8), "sizes", outputs=["left", "right"], axis=1)
    left, right = net.node("Relu", "r", a), net.conv("d", b, 5, 4)
    x = net.node("Concat", "join", left, right, axis=1)
    for name, value in (("from", 1), ("to", 6), ("along", 1)):
        net.ints(name, value)
    x = net.node("Slice", "slice", x, "from", "to", "along")
    net.case(filters(["c"], [2, 6]), {"c.w": [6, 3, 3, 3], "sizes": None, "d.w": [4, 4, 3, 3], "e.w": [3, 4, 1, 1]})
    net.case(filters(["c"], [0]), {"c.w": [7, 3, 3, 3], "e.w": [3, 5, 1, 1]})
    net.case(filters(["d"], [3]), {"d.w": [3, 5, 3, 3], "e.w": [3, 5, 1, 1]})
    return net, net.conv("e", x, 5, 3, 1)


def depthwise():
    net = Net("depthwise", [1, 3, 6, 6])
    net.const("zero", np.float32(0)), net.const("six", np.float32(6))
    x = net.node("Clip", "r1", net.norm("n1", net.conv("c1", "x", 3, 8, 1), 8), "zero", "six")
    x = net.node("Clip", "r2", net.norm("n2", net.conv("dw", x, 8, 8, group=8, strides=[2, 2]), 8), "zero", "six")
    y = net.conv("double", x, 8, 16, group=8)
    x = net.conv("c2", y, 16, 5, 1)
    net.case(
        filters(["c1", "dw"], [2, 7]) | norms(["n1", "n2"], [2, 7]) | filters(["double"], [4, 5, 14, 15]),
        {"dw.w": [6, 1, 3, 3], "double.w": [12, 1, 3, 3], "c2.w": [5, 12, 1, 1]},
    )
    return net, net.gemm("fc", net.node("Flatten", "flat", net.node("GlobalAveragePool", "gap", x)), 5, 4)


def grouped():
    net = Net("grouped", [1, 2, 4, 4])
    x = net.node("Relu", "r1", net.conv("c1", "x", 2, 12))
    x = net.node("Relu", "r2", net.conv("paired", x, 12, 8, group=2))
    x = net.node("Relu", "r3", net.conv("whole", x, 8, 12, group=4))
    net.case(filters(["c1"], [1, 7]), {"c1.w": [10, 2, 3, 3], "paired.w": [8, 5, 3, 3]})
    # Channel 0 of each of two groups is in the first and the third of the four groups, which go whole.
    net.case(
        filters(["paired"], [0, 1, 4, 5]) | filters(["whole"], [0, 1, 2, 6, 7, 8]),
        {"paired.w": [4, 6, 3, 3], "whole.w": [6, 2, 3, 3], "c2.w": [3, 6, 3, 3]},
    )
    return net, net.conv("c2", x, 12, 3)


def flatten():
    net = Net("flatten", [1, 2, 8, 8], symbolic=True)
    x = net.node("MaxPool", "pool", net.node("Relu", "r", net.conv("c", "x", 2, 6)), kernel_shape=[2, 2], strides=[2, 2])
    # As exporters write x.view(x.size(0), -1).
    net.const("0", np.int64(0)), net.ints("axes", 0), net.ints("rest", -1)
    batch = net.node("Gather", "batch", net.node("Shape", "shape", x), "0", axis=0)
    target = net.node("Concat", "target", net.node("Unsqueeze", "un", batch, "axes"), "rest", axis=0)
    x = net.node("Reshape", "view", x, target)
    x = net.node("Relu", "r2", net.gemm("g1", x, 96, 10))
    net.case(filters(["c"], [0, 3]), {"c.w": [4, 2, 3, 3], "g1.w": [10, 64]})
    net.case(filters(["g1"], [5, 9]), {"g1.w": [8, 96], "g2.w": [3, 8]})
    return net, net.gemm("g2", x, 10, 3)


def attention(net, name, x, heads, size, fused):
    width = heads * size
    length = net.shape[1]
    net.ints("merge", 0, length, width), net.const("root", np.float32(1 / np.sqrt(size)))
    if fused:
        net.ints("cut", 0, length, 3, heads, size)
        y = net.node("Transpose", name + ".t", net.node("Reshape", name + ".cut", net.linear("qkv", x, width, 3 * width), "cut"), perm=[2, 0, 3, 1, 4])
        q, k, v = (net.node("Gather", f"{name}.{at}", y, net.const(f"at{at}", np.int64(at)), axis=0) for at in range(3))
    else:
        net.ints("cut", 0, length, heads, size)
        cut = (net.node("Reshape", f"{part}.cut", net.linear(part, x, width, width), "cut") for part in "qkv")
        q, k, v = (net.node("Transpose", f"{name}.t{at}", part, perm=[0, 2, 1, 3]) for at, part in enumerate(cut))
    k = net.node("Transpose", name + ".kt", k, perm=[0, 1, 3, 2])
    shares = net.node("Softmax", name + ".soft", net.node("Mul", name + ".scaled", net.node("MatMul", name + ".qk", q, k), "root"), axis=-1)
    y = net.node("Transpose", name + ".back", net.node("MatMul", name + ".sum", shares, v), perm=[0, 2, 1, 3])
    return net.linear("out", net.node("Reshape", name + ".merge", y, "merge"), width, width)


def columns(names, positions):
    """Of matrix products with a bias behind them."""
    return {f"{name}.w": (1, positions) for name in names} | {f"{name}.b": (0, positions) for name in names}


def transformer(fused):
    net = Net("transformer-fused" if fused else "transformer", [1, 5, 12])
    x = net.node("Add", "res1", "x", attention(net, "att", net.layer_norm("ln1", "x", 12), 3, 4, fused))
    y = net.node("Gelu", "gelu", net.linear("up", net.layer_norm("ln2", x, 12), 12, 24))
    x = net.node("Add", "res2", x, net.linear("down", y, 24, 12))
    head = [4, 5, 6, 7]
    if fused:
        rows = head + [12 + at for at in head] + [24 + at for at in head]
        net.case(columns(["qkv"], rows), {"qkv.w": [12, 24], "qkv.b": [24], "out.w": [8, 12]})
    else:
        net.case(columns(["q", "k", "v"], head), {"q.w": [12, 8], "v.b": [8], "out.w": [8, 12]})
    net.case(columns(["up"], [0, 11, 23]), {"up.w": [12, 21], "down.w": [21, 12]})
    return net, x


def squeeze():
    net = Net("squeeze", [1, 3, 5, 5])
    x = net.node("HardSwish", "h", net.norm("n", net.conv("c", "x", 3, 8), 8))
    s = net.node("Relu", "r", net.conv("down", net.node("GlobalAveragePool", "gap", x), 8, 4, 1))
    x = net.node("Mul", "scale", x, net.node("Sigmoid", "sig", net.conv("up", s, 4, 8, 1)))
    net.case(filters(["c", "up"], [1, 5]) | norms(["n"], [1, 5]), {"c.w": [6, 3, 3, 3], "down.w": [4, 6, 1, 1], "up.w": [6, 4, 1, 1], "last.w": [3, 6, 3, 3]})
    net.case(filters(["down"], [2]), {"down.w": [3, 8, 1, 1], "up.w": [8, 3, 1, 1]})
    return net, net.conv("last", x, 8, 3)


def shuffle():
    net = Net("shuffle", [1, 3, 4, 4])
    net.ints("halves", 4, 4), net.ints("cut", 0, 2, 4, 4, 4), net.ints("join", 0, 8, 4, 4)
    x = net.node("Relu", "r0", net.conv("stem", "x", 3, 8))
    for block in "ab":
        left, right = net.node("Split", block + ".split", x, "halves", outputs=[block + ".l", block + ".r"], axis=1)
        y = net.node("Relu", block + ".r1", net.conv(block + ".1", right, 4, 6, 1))
        y = net.node("Relu", block + ".r3", net.conv(block + ".3", net.conv(block + ".2", y, 6, 6, group=6), 6, 4, 1))
        y = net.node("Reshape", block + ".cut", net.node("Concat", block + ".join", left, y, axis=1), "cut")
        x = net.node("Reshape", block + ".shuffled", net.node("Transpose", block + ".swap", y, perm=[0, 2, 1, 3, 4]), "join")
    net.case(filters(["a.1", "a.2"], [3, 5]), {"a.1.w": [4, 4, 1, 1], "a.2.w": [4, 1, 3, 3], "a.3.w": [4, 4, 1, 1]})
    # Left 2 pairs with made 2; shuffled they are channels 4 and 5 of the next block, its right 0 and 1. Left 3 and made 3 follow at 6 and 7. In the
    # second block left 0 and 1 (stem 0, made 0) pair with made 0 and 1, left 2 and 3 (stem 1, made 1) with made 2 and 3.
    net.case(filters(["stem", "a.3"], [2]), {"stem.w": [7, 3, 3, 3], "a.3.w": [3, 6, 1, 1], "b.1.w": [6, 2, 1, 1]})
    net.case(filters(["stem", "a.3"], [0]) | filters(["b.3"], [0, 1]), {"stem.w": [7, 3, 3, 3], "a.3.w": [3, 6, 1, 1], "b.3.w": [2, 6, 1, 1], "last.w": [3, 4, 1, 1]})
    return net, net.conv("last", x, 8, 3, 1)


def decoder():
    net = Net("decoder", [1, 3, 4, 4])
    slope = net.const("slope", np.random.default_rng(1).uniform(0.1, 0.4, (6, 1, 1)).astype(np.float32))
    skip = net.node("PRelu", "prelu", net.conv("c1", "x", 3, 6), slope)
    x = net.node("Relu", "r", net.conv("c2", skip, 6, 5, strides=[2, 2]))
    w, b = net.weights("up.w", 5, 6, 2, 2), net.weights("up.b", 6)
    x = net.node("ConvTranspose", "up", x, w, b, strides=[2, 2])
    x = net.node("Add", "add", x, skip)
    net.ints("sizes", 1, 6, 8, 8)
    x = net.node("Resize", "resize", x, "", "", "sizes", mode="nearest")
    net.case(filters(["c1"], [0, 5]) | {"up.w": (1, [0, 5]), "up.b": (0, [0, 5])}, {"slope": [4, 1, 1], "up.w": [5, 4, 2, 2], "last.w": [2, 4, 3, 3]})
    net.case(filters(["c2"], [3]), {"c2.w": [4, 6, 3, 3], "up.w": [4, 6, 2, 2]})
    return net, net.conv("last", x, 6, 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent)
    out = parser.parse_args().out
    arrays, cases = {}, {}
    made = [residual(), concat(), split(), depthwise(), grouped(), flatten(), transformer(False), transformer(True), squeeze(), shuffle(), decoder()]
    for net, output in made:
        x = net.rng.normal(0, 1, net.shape).astype(np.float32)
        onnx.save(net.model(output), out / f"{net.name}.onnx")
        arrays[f"{net.name}.x"] = x
        for at, case in enumerate([{"zeroed": {}}, *net.cases]):
            session = ort.InferenceSession(net.model(output, case["zeroed"]).SerializeToString(), providers=["CPUExecutionProvider"])
            # Of the network as it is, then of each case.
            arrays[f"{net.name}.{at}"] = session.run(None, {"x": x})[0]
        cases[net.name] = net.cases
    np.savez(out / "answers.npz", **arrays)
    (out / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")


main()
