"""The pairs of versions of benches/delta: cases.py DIR

Each becomes DIR/CASE/old.onnx and new.onnx. MobileNetV2 as benches/aarch64 makes it (random weights of a trained network's
distribution: what a delta costs depends on how they move), in float and quantized by onnxruntime. Moves are simulated: to each
weight a normal number is added, with a share of its tensor's standard deviation; an int8 model is then quantized anew, each
channel with its new scale. Real training: `adapted`, the two models of this repository, of which `selvedge finetune` made
the second.
"""

import logging
import pathlib
import shutil
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benches/aarch64"), str(ROOT / "benches/peers")]


def arrays(model):
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def put(model, changed):
    for tensor in model.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(numpy_helper.from_array(changed[tensor.name], tensor.name))


def moved(weights, share, names, seed=5):
    """Weights of the named tensors, moved by a share of their standard deviation."""
    rng = np.random.default_rng(seed)
    return {n: (weights[n] + rng.normal(0, share, weights[n].shape) * weights[n].std()).astype(np.float32) for n in names}


def quantized(model, weights):
    """The int8 model with these float weights: levels and scales of each channel."""
    now, changed = arrays(model), {}
    for name, values in weights.items():
        scale = now.get(f"{name}_scale")
        if scale is None or f"{name}_quantized" not in now:
            continue
        # A product's outputs are its columns.
        axis = 0 if values.shape[0] == scale.size else 1
        channels = np.moveaxis(values, axis, 0)
        new = np.abs(channels).reshape(scale.size, -1).max(axis=1).astype(np.float32) / np.float32(127)
        new = np.maximum(new, np.float32(1e-9))
        levels = np.clip(np.round(channels / new.reshape(-1, *[1] * (values.ndim - 1))), -127, 127)
        changed[f"{name}_quantized"] = np.moveaxis(levels, 0, axis).astype(np.int8)
        changed[f"{name}_scale"] = new.reshape(scale.shape)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    put(result, changed)
    return result


def added(model):
    """One more 3x3 convolution before the end, in int8 where the model is: new tensors and nodes, the rest as it was."""
    new = onnx.ModelProto()
    new.CopyFrom(model)
    rng, graph = np.random.default_rng(6), new.graph
    shapes = onnx.shape_inference.infer_shapes(model).graph.value_info
    channels = {v.name: v.type.tensor_type.shape.dim[1].dim_value for v in shapes if len(v.type.tensor_type.shape.dim) == 4}
    at = max(i for i, node in enumerate(graph.node) if node.op_type == "Conv" and node.output[0] in channels)
    output = graph.node[at].output[0]
    n = channels[output]
    # Depthwise: as large as a layer that one adds for an afternoon's experiment.
    levels = np.clip(np.round(rng.normal(0, 30, (n, 1, 3, 3))), -127, 127).astype(np.int8)
    graph.initializer.extend([
        numpy_helper.from_array(levels, "added_quantized"),
        numpy_helper.from_array(rng.uniform(0.001, 0.002, n).astype(np.float32), "added_scale"),
        numpy_helper.from_array(np.zeros(n, np.int8), "added_zero"),
    ])
    for node in graph.node[at + 1:]:
        for i, name in enumerate(node.input):
            if name == output:
                node.input[i] = "added_output"
    nodes = [
        helper.make_node("DequantizeLinear", ["added_quantized", "added_scale", "added_zero"], ["added_weights"], "added_dq", axis=0),
        helper.make_node("Conv", [output, "added_weights"], ["added_output"], "added", group=n, pads=[1] * 4, kernel_shape=[3, 3]),
    ]
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend(rest[: at + 1] + nodes + rest[at + 1:])
    return new


def renamed(model):
    """As another exporter writes it: other names of nodes and tensors, tensors in another order."""
    new = onnx.ModelProto()
    new.CopyFrom(model)
    graph, names = new.graph, {}
    outside = {v.name for v in [*graph.input, *graph.output]}
    new.producer_name, new.producer_version = "pytorch", "2.9.1"

    def other(name, kind):
        return name if name in outside or not name else names.setdefault(name, f"/features/{kind}.{len(names)}/output_0")

    for tensor in graph.initializer:
        tensor.name = other(tensor.name, "onnx::weight")
    for i, node in enumerate(graph.node):
        node.name = f"/features/features.{i}/{node.op_type}"
        node.input[:] = [other(name, node.op_type) for name in node.input]
        node.output[:] = [other(name, node.op_type) for name in node.output]
    del graph.value_info[:]
    tensors = sorted(graph.initializer, key=lambda t: t.name)
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    return new


def save(directory, case, old, new):
    (directory / case).mkdir(parents=True, exist_ok=True)
    onnx.save(old, directory / case / "old.onnx")
    onnx.save(new, directory / case / "new.onnx")


def main():
    logging.disable(logging.WARNING)
    from models import mobilenetv2
    from zoo import quantized as by_onnxruntime

    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    source = mobilenetv2()
    onnx.save(source, out / "float.onnx")
    by_onnxruntime(out / "float.onnx", out / "int8.onnx", "u8s8", [1, 3, 224, 224])
    model = onnx.load(out / "int8.onnx")
    weights = arrays(source)
    layers = [name for name, values in weights.items() if values.ndim > 1]
    old = quantized(model, weights := {name: weights[name] for name in layers})
    save(out, "head", old, quantized(model, {**weights, **moved(weights, 0.05, layers[-1:])}))
    for share, case in [(0.01, "int8-finetuned-1"), (0.02, "int8-finetuned"), (0.05, "int8-finetuned-5")]:
        save(out, case, old, quantized(model, moved(weights, share, layers)))
    new = onnx.ModelProto()
    new.CopyFrom(source)
    put(new, moved(weights, 0.02, layers))
    save(out, "float-finetuned", source, new)
    save(out, "layer-added", old, added(old))
    save(out, "re-exported", old, renamed(old))
    (out / "adapted").mkdir(exist_ok=True)
    shutil.copy(ROOT / "models/digits/model.onnx", out / "adapted/old.onnx")
    shutil.copy(ROOT / "models/digits-adapted/model.onnx", out / "adapted/new.onnx")


if __name__ == "__main__":
    main()
