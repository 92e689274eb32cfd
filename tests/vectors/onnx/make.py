"""Makes cases.bin: small models, and the types and shapes that their outputs have when they run.

Made with Python 3.11, onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6:  python make.py
Models come from the node tests of the onnx package (Apache-2.0) and from the builders below. Shapes are those of
the tests' own results, or of onnxruntime's; every case that onnxruntime can run is run, and must agree.

Form: for each case a little-endian u32 and as many bytes of ModelProto. metadata_props: "case" is the name,
"expect <output>" is "<TYPE> <dims>". An initializer "expected <output>" holds the value itself, where all inputs
are constants. Nothing else in the file says what comes out: value_info and output types are taken away.
"""
import itertools
import pathlib
import struct

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh
from onnx.backend.test.case.node import collect_testcases

OPS = set("""QuantizeLinear DequantizeLinear DynamicQuantizeLinear Conv ConvInteger QLinearConv ConvTranspose Gemm MatMul
MatMulInteger QLinearMatMul Add Sub Mul Div Min Max Pow Mod Sum Mean Relu LeakyRelu PRelu Sigmoid Tanh HardSwish HardSigmoid
Clip Elu Selu Erf Gelu Exp Log Sqrt Neg Abs Floor Ceil Reciprocal Softplus Mish MaxPool AveragePool GlobalAveragePool
GlobalMaxPool ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL2 Concat Split Slice Reshape Flatten Squeeze
Unsqueeze Transpose Pad Resize Upsample Gather GatherElements GatherND Softmax LogSoftmax BatchNormalization
LayerNormalization InstanceNormalization Cast Identity Shape Size Expand Tile Where Equal Less Greater Not And Or
ConstantOfShape Range NonZero ArgMax TopK OneHot DepthToSpace SpaceToDepth LSTM GRU RNN Dropout If Constant""".split())
# Inputs that say a shape, an axis or a place.
SHAPING = {"Reshape": [1], "Slice": [1, 2, 3, 4], "Pad": [1, 3], "Squeeze": [1], "Unsqueeze": [1], "Expand": [1], "Tile": [1],
           "Split": [1], "Resize": [1, 2, 3], "TopK": [1], "ConstantOfShape": [0], "Range": [0, 1, 2], "OneHot": [1], "Upsample": [1]}
LARGEST = 2048
cases, skipped, agreed, differ = [], [], [], []


def name_of(array):
    return T.DataType.Name(h.np_dtype_to_tensor_dtype(array.dtype))


def run(model, inputs):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {i.name: inputs[i.name] for i in session.get_inputs()})


def add(name, model, inputs, outputs=None, values=False):
    """Inputs that are tensors of the graph become its input shapes; `values` keeps the results themselves."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for opset in model.opset_import:
        # A few tests state the set in which their operator first stood; it is the same in 7.
        opset.version = max(opset.version, 1 if opset.domain else 7)
    try:
        got = run(model, inputs)
    except Exception as error:  # onnxruntime lacks the operator or the type
        got = None
        if outputs is None:
            raise
    if outputs is None:
        outputs = got
    elif got is None:
        skipped.append(name)
    else:
        for a, b in zip(got, outputs):
            assert a.shape == b.shape and a.dtype == b.dtype, (name, a.shape, b.shape)
    if any(not isinstance(o, np.ndarray) or o.dtype == object for o in outputs):
        return
    del model.graph.value_info[:]
    model.producer_name = model.graph.doc_string = model.doc_string = ""
    del model.metadata_props[:]
    h.set_model_props(model, {"case": name} | {
        f"expect {o.name}": f"{name_of(array)} {','.join(map(str, array.shape))}"
        for o, array in zip(model.graph.output, outputs) if o.name})
    for o in model.graph.output:
        o.ClearField("type")
    compare(name, model, outputs)
    for o, array in zip(model.graph.output, outputs):
        if values and o.name:
            model.graph.initializer.append(nh.from_array(array, f"expected {o.name}"))
    cases.append(model)


def compare(name, model, outputs):
    """Counts where onnx's own inference knows the whole shape, and whether that is the one of the run."""
    for o, array in zip(onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output, outputs):
        dims = [d.dim_value if d.HasField("dim_value") else None for d in o.type.tensor_type.shape.dim]
        if o.type.tensor_type.HasField("shape") and None not in dims:
            (agreed if dims == list(array.shape) else differ).append(name)


def constants(model, inputs, which):
    """The named inputs become initializers."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for name in which:
        model.graph.initializer.append(nh.from_array(inputs[name], name))
    kept = [i for i in model.graph.input if i.name not in which]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return model


def node_tests():
    for case in collect_testcases(None):
        nodes = case.model.graph.node
        if "_expanded" in case.name or not all(n.op_type in OPS and n.domain == "" for n in nodes) or not case.data_sets:
            continue
        inputs, outputs = case.data_sets[0]
        if not all(isinstance(a, np.ndarray) for a in list(inputs) + list(outputs)):
            continue
        if any(a.dtype.kind not in "fiub" or a.dtype.name.startswith(("float8", "float4", "int2", "uint2")) for a in list(inputs) + list(outputs)):
            continue
        if sum(a.nbytes for a in list(inputs) + list(outputs)) > LARGEST or len(inputs) != len(case.model.graph.input):
            continue
        inputs = dict(zip((i.name for i in case.model.graph.input), inputs))
        shaping = {n.input[i] for n in nodes for i in SHAPING.get(n.op_type, [1] if n.op_type.startswith("Reduce") else [])
                   if i < len(n.input) and n.input[i] in inputs}
        # Training is left out, and the shape of what is not zero hangs on values.
        if "training_mode" not in case.name and "nonzero" not in case.name:
            add(case.name, constants(case.model, inputs, shaping), inputs, outputs)
        if case.name.split("_")[1] in FOLDED:
            add(case.name + " of constants", constants(case.model, inputs, set(inputs)), inputs, outputs, values=True)


FOLDED = set("""reshape slice gather concat transpose unsqueeze squeeze expand range constantofshape where cast add sub mul div
equal less greater not neg abs floor ceil sqrt reciprocal min max nonzero shape size flatten reduce identity
quantizelinear and or""".split())


def model(nodes, inputs, initializers=(), outputs=("y",), opset=21, ms=True):
    infos = [h.make_tensor_value_info(n, h.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()]
    graph = h.make_graph(nodes, "g", infos, [onnx.ValueInfoProto(name=o) for o in outputs],
                         [nh.from_array(a, n) for n, a in initializers])
    opsets = [h.make_opsetid("", opset)] + ([h.make_opsetid("com.microsoft", 1)] if ms else [])
    return h.make_model(graph, opset_imports=opsets, ir_version=10)


def sweep():
    """Windows in all the ways that attributes allow."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1, 2, 9, 7)).astype(np.float32)
    w = rng.standard_normal((4, 2, 3, 2)).astype(np.float32)
    wt = rng.standard_normal((2, 3, 3, 2)).astype(np.float32)
    for stride, dilation, pads in itertools.product([1, 2, 3], [1, 2], [[0] * 4, [1, 0, 2, 1]]):
        window = dict(strides=[stride, 1], dilations=[dilation, 1], pads=pads)
        tag = f"stride {stride} dilation {dilation} pads {pads}"
        add("sweep Conv " + tag, model([h.make_node("Conv", ["x", "w"], ["y"], **window)], {"x": x}, [("w", w)]), {"x": x})
        add("sweep ConvTranspose " + tag, model([h.make_node("ConvTranspose", ["x", "w"], ["y"], **window)], {"x": x}, [("w", wt)]), {"x": x})
        for op, ceil in itertools.product(["MaxPool", "AveragePool"], [0, 1]):
            node = h.make_node(op, ["x"], ["y"], kernel_shape=[3, 2], ceil_mode=ceil, **window)
            add(f"sweep {op} ceil {ceil} " + tag, model([node], {"x": x}), {"x": x})
    for pad, stride in itertools.product(["SAME_UPPER", "SAME_LOWER", "VALID"], [1, 2, 3]):
        window = dict(strides=[stride, 2], auto_pad=pad)
        add(f"sweep Conv {pad} {stride}", model([h.make_node("Conv", ["x", "w"], ["y"], **window)], {"x": x}, [("w", w)]), {"x": x})
        add(f"sweep ConvTranspose {pad} {stride}", model([h.make_node("ConvTranspose", ["x", "w"], ["y"], **window)], {"x": x}, [("w", wt)]), {"x": x})
        add(f"sweep MaxPool {pad} {stride}", model([h.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 2], **window)], {"x": x}), {"x": x})
    for scales in [[1, 1, 2, 2], [1, 1, 1.5, 0.6], [1, 1, 0.34, 3.3]]:
        node = h.make_node("Resize", ["x", "", "s"], ["y"], mode="nearest")
        add(f"sweep Resize {scales}", model([node], {"x": x}, [("s", np.array(scales, np.float32))]), {"x": x})
    for starts, ends, steps in [([1], [100], [2]), ([-1], [-100], [-1]), ([-3], [-1], [1]), ([5], [2], [1]), ([8], [0], [-3])]:
        parts = [("s", np.array(starts)), ("e", np.array(ends)), ("a", np.array([-2])), ("t", np.array(steps))]
        add(f"sweep Slice {starts} {ends} {steps}", model([h.make_node("Slice", ["x", "s", "e", "a", "t"], ["y"])], {"x": x}, parts), {"x": x})
    for target in [[0, -1], [-1], [1, 0, -1], [0, 0, 63, 1], [126, 1, 1]]:
        add(f"sweep Reshape {target}", model([h.make_node("Reshape", ["x", "s"], ["y"])], {"x": x}, [("s", np.array(target))]), {"x": x})


def microsoft():
    rng = np.random.default_rng(2)
    byte = lambda *shape: rng.integers(0, 255, shape).astype(np.uint8)
    s, z = np.float32(0.02), np.uint8(128)
    q = [("s", s), ("z", z)]
    ms = lambda op, names, **kw: h.make_node(op, names.split(), ["y"], domain="com.microsoft", **kw)
    a, b, image = byte(2, 3, 4), byte(3, 1), byte(1, 4, 6, 5)
    for op in ["QLinearAdd", "QLinearMul"]:
        add("ms " + op, model([ms(op, "a s z b s z s z")], {"a": a, "b": b}, q), {"a": a, "b": b})
    add("ms QLinearConcat", model([ms("QLinearConcat", "s z a s z c s z", axis=-1)], {"a": a, "c": byte(2, 3, 5)}, q), {"a": a, "c": byte(2, 3, 5)})
    add("ms QLinearSigmoid", model([ms("QLinearSigmoid", "a s z s z")], {"a": a}, q), {"a": a})
    add("ms QLinearLeakyRelu", model([ms("QLinearLeakyRelu", "a s z s z", alpha=0.1)], {"a": a}, q), {"a": a})
    add("ms QLinearSoftmax", model([ms("QLinearSoftmax", "a s z s z", opset=13, axis=-1)], {"a": a}, q), {"a": a})
    for last, ceil in itertools.product([0, 1], [0, 1]):
        node = ms("QLinearAveragePool", "x s z s z", kernel_shape=[3, 2], strides=[2, 2], channels_last=last, ceil_mode=ceil)
        add(f"ms QLinearAveragePool {last} {ceil}", model([node], {"x": image}, q), {"x": image})
    for last in [0, 1]:
        node = ms("QLinearGlobalAveragePool", "x s z s z", channels_last=last)
        add(f"ms QLinearGlobalAveragePool {last}", model([node], {"x": image}, q), {"x": image})
    m, w, c = byte(3, 4), byte(5, 4), rng.integers(-9, 9, 5).astype(np.int32)
    add("ms QGemm", model([ms("QGemm", "m s z w s z c s z", transB=1)], {"m": m}, q + [("w", w), ("c", c)]), {"m": m})
    add("ms QGemm to float", model([ms("QGemm", "m s z w s z c", transB=1)], {"m": m}, q + [("w", w), ("c", c)]), {"m": m})
    f = rng.standard_normal((2, 3, 4)).astype(np.float32)
    add("ms DynamicQuantizeMatMul", model([ms("DynamicQuantizeMatMul", "f w s z")], {"f": f}, q + [("w", byte(4, 6))]), {"f": f})
    for op, kind in [("QuantizeLinear", f), ("DequantizeLinear", a)]:
        add("ms " + op, model([ms(op, "x s z")], {"x": kind}, q, opset=11), {"x": kind})
    add("ms Gelu", model([ms("Gelu", "f")], {"f": f}), {"f": f})


def old_forms():
    """Operators as older sets have them."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    x1 = x[:, :1]
    for name, opset, data, node in [
        ("Clip", 7, x, dict(min=-0.5, max=0.5)), ("Slice", 9, x, dict(axes=[1, -1], starts=[1, 0], ends=[3, -1])),
        ("Pad", 9, x, dict(pads=[0, 0, 1, 2, 0, 0, 0, 1], value=1.5)), ("Squeeze", 11, x1, dict(axes=[1])),
        ("Unsqueeze", 11, x, dict(axes=[0, 3])), ("ReduceMean", 13, x, dict(axes=[1, 3], keepdims=0)),
        ("ReduceSum", 11, x, dict(axes=[-1])), ("Split", 11, x, dict(axis=1, split=[3])), ("Split", 11, x, dict(axis=0)),
        ("Upsample", 7, x, dict(scales=[1.0, 1.0, 2.0, 3.0], mode="nearest")), ("Softmax", 11, x, dict(axis=1)),
        ("Softmax", 11, x, dict(axis=3)), ("Softmax", 9, x, {}), ("LogSoftmax", 9, x, dict(axis=2)), ("TopK", 9, x, dict(axis=2, k=2)),
        ("Dropout", 10, x, dict(ratio=0.3)), ("Flatten", 9, x, dict(axis=2)),
    ]:
        outputs = ["y", "i"] if name == "TopK" else ["y"]
        add(f"old {name} {opset} {node}", model([h.make_node(name, ["x"], outputs, **node)], {"x": data}, outputs=outputs, opset=opset, ms=False), {"x": data})
    scales = [("s", np.array([1, 1, 2, 2], np.float32))]
    for op, opset in [("Upsample", 9), ("Resize", 10)]:
        add(f"old {op} {opset}", model([h.make_node(op, ["x", "s"], ["y"], mode="linear")], {"x": x}, scales, opset=opset, ms=False), {"x": x})


def patterns():
    """How exporters compute shapes, and a small quantized network."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    n = h.make_node
    ints = lambda name, *v: (name, np.array(v, np.int64))
    flat = [n("Shape", ["x"], ["s"]), n("Gather", ["s", "i"], ["b"], axis=0), n("Unsqueeze", ["b", "o"], ["u"]),
            n("Concat", ["u", "m"], ["t"], axis=0), n("Reshape", ["x", "t"], ["y"])]
    add("pattern flatten", model(flat, {"x": x}, [("i", np.int64(0)), ints("o", 0), ints("m", -1)]), {"x": x})
    double = [n("Shape", ["x"], ["s"]), n("Slice", ["s", "a", "b"], ["hw"]), n("Cast", ["hw"], ["f"], to=T.FLOAT), n("Mul", ["f", "two"], ["g"]),
              n("Floor", ["g"], ["k"]), n("Cast", ["k"], ["l"], to=T.INT64), n("Slice", ["s", "z", "a"], ["nc"]), n("Concat", ["nc", "l"], ["size"], axis=0),
              n("Resize", ["x", "", "", "size"], ["y"], mode="nearest")]
    add("pattern resize", model(double, {"x": x}, [ints("a", 2), ints("b", 4), ints("z", 0), ("two", np.float32(2))]), {"x": x})
    grow = [n("Shape", ["x"], ["s"]), n("ConstantOfShape", ["s"], ["o"], value=h.make_tensor("v", T.FLOAT, [1], [1.0])), n("Add", ["x", "o"], ["y"])]
    add("pattern ones", model(grow, {"x": x}), {"x": x})
    branch = lambda op: h.make_graph([n(op, ["x"], [op])], op, [], [onnx.ValueInfoProto(name=op)])
    chosen = [n("Shape", ["x"], ["s"]), n("Gather", ["s", "i"], ["b"]), n("Equal", ["b", "i"], ["c"]), n("If", ["c"], ["r"], then_branch=branch("Relu"), else_branch=branch("Flatten")), n("Neg", ["r"], ["y"])]
    add("pattern if", model(chosen, {"x": x}, [("i", np.int64(1))]), {"x": x})
    q = rng.integers(-127, 127, (3, 2, 4, 8)).astype(np.int8)
    turned = [n("DequantizeLinear", ["w", "s", "z"], ["d"], axis=3), n("Transpose", ["d"], ["t"], perm=[3, 2, 0, 1]), n("Conv", ["i", "t"], ["y"], pads=[1, 0, 1, 1])]
    parts = [("w", q), ("s", np.linspace(0.01, 0.2, 8, dtype=np.float32)), ("z", np.zeros(8, np.int8))]
    image = rng.standard_normal((1, 4, 6, 5)).astype(np.float32)
    add("pattern weights turned", model(turned, {"i": image}, parts), {"i": image})
    own = h.make_function("own", "Act", ["a", "b"], ["out"], [n("Mul", ["a", "b"], ["m"]), onnx.helper.make_node("LeakyRelu", ["m"], ["out"])],
                          [h.make_opsetid("", 21)], ["alpha"])
    own.node[1].attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT))
    called = model([n("Act", ["x", "x"], ["t"], domain="own", alpha=0.5), n("Act", ["t", "x"], ["y"], domain="own", alpha=0.1)], {"x": x})
    called.functions.append(own)
    called.opset_import.append(h.make_opsetid("own", 1))
    add("pattern function", called, {"x": x})
    mobile(rng)


def mobile(rng):
    """Blocks of MobileNetV2, 16 pixels wide, quantized with pairs of QuantizeLinear and DequantizeLinear."""
    nodes, weights, count = [], [("z", np.uint8(128)), ("z8", np.int8(0)), ("s", np.float32(0.05))], itertools.count()
    def pair(x):
        i = next(count)
        nodes.extend([h.make_node("QuantizeLinear", [x, "s", "z"], [f"q{i}"]), h.make_node("DequantizeLinear", [f"q{i}", "s", "z"], [f"d{i}"])])
        return f"d{i}"
    def conv(x, c_in, c_out, kernel, stride, group, clip):
        i = next(count)
        weights.extend([(f"w{i}", rng.integers(-127, 127, (c_out, c_in // group, kernel, kernel)).astype(np.int8)), (f"ws{i}", np.full(c_out, 0.01, np.float32)),
                        (f"wz{i}", np.zeros(c_out, np.int8)), (f"b{i}", rng.standard_normal(c_out).astype(np.float32))])
        nodes.append(h.make_node("DequantizeLinear", [f"w{i}", f"ws{i}", f"wz{i}"], [f"wd{i}"], axis=0))
        nodes.append(h.make_node("Conv", [x, f"wd{i}", f"b{i}"], [f"c{i}"], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4, group=group))
        if clip:
            nodes.append(h.make_node("Clip", [f"c{i}", "low", "high"], [f"r{i}"]))
        return pair(f"r{i}" if clip else f"c{i}")
    weights.extend([("low", np.float32(0)), ("high", np.float32(6)), ("m", np.array([0, -1], np.int64))])
    y = conv(pair("x"), 3, 8, 3, 2, 1, True)
    for c_in, c_out, stride in [(8, 8, 1), (8, 12, 2), (12, 12, 1)]:
        e = conv(y, c_in, c_in * 2, 1, 1, 1, True)
        e = conv(e, c_in * 2, c_in * 2, 3, stride, c_in * 2, True)
        e = conv(e, c_in * 2, c_out, 1, 1, 1, False)
        if c_in == c_out and stride == 1:
            i = next(count)
            nodes.append(h.make_node("Add", [y, e], [f"a{i}"]))
            e = pair(f"a{i}")
        y = e
    nodes.append(h.make_node("GlobalAveragePool", [y], ["pool"]))
    nodes.append(h.make_node("Reshape", [pair("pool"), "m"], ["flat"]))
    weights.append(("fc", rng.standard_normal((10, 12)).astype(np.float32)))
    nodes.append(h.make_node("Gemm", ["flat", "fc"], ["y"], transB=1))
    x = rng.standard_normal((1, 3, 32, 32)).astype(np.float32)
    outputs = [o for node in nodes for o in node.output]
    add("mobile", model(nodes, {"x": x}, weights, outputs=outputs, opset=13), {"x": x})


if __name__ == "__main__":
    node_tests()
    sweep()
    microsoft()
    old_forms()
    patterns()
    with open(pathlib.Path(__file__).parent / "cases.bin", "wb") as out:
        for case in cases:
            data = case.SerializeToString(deterministic=True)
            out.write(struct.pack("<I", len(data)) + data)
    print(len(cases), "cases;", len(agreed), "outputs are as onnx infers them, and not those of", sorted(set(differ)), ";", len(skipped), "that onnxruntime could not run:", *skipped)
