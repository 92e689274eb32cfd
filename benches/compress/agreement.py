"""Agreement with the float model on many samples that decided nothing: agreement.py DIR --selvedge PROGRAM

EfficientNet-Lite0 on 600 parts of 20 photos, PP-OCR's direction classifier on 1750 drawn lines: 200 (250) of them, by the seed, calibrate and decide, half
and half, and onnxruntime judges on the rest. By photo: those of 10 photos calibrate and decide, and the other 10 judge. Prints a row for each model and way
of quantizing: percent, mean of the seeds (least to most), and what went back to float.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
import time

import models
import numpy as np
import onnxruntime as ort

WAYS = {
    "nearest": ["--rounding", "nearest"],
    "adaround": ["--rounding", "adaround"],
    "max-drop 2": ["--max-drop", "2"],
    "max-drop 1": ["--max-drop", "1"],
}
PARTS = 30


def photos(dir):
    files = models.fetched(dir)
    names = sorted(name for name in files if name.startswith("foolbox/data/imagenet_") and name.endswith((".png", ".jpg")))
    crops = (crop for number, name in enumerate(names) for crop in models.crops_of(files[name].read(name), 5000 + number, PARTS))
    return np.stack(list(crops)).astype(np.float32)


def lines():
    rng = np.random.default_rng(77)
    return np.stack([models.line(rng, at % 2) for at in range(1750)]).astype(np.float32)


def split(name, count, by_photo, seed):
    """Numbers of the samples that decide, and of those that judge."""
    rng = np.random.default_rng(seed)
    if not by_photo or not name.startswith("efficientnet"):
        order = rng.permutation(count)
        decide = 200 if name.startswith("efficientnet") else 250
        return order[:decide], order[decide:]
    chosen = rng.permutation(count // PARTS)
    parts = [np.concatenate([np.arange(photo * PARTS, (photo + 1) * PARTS) for photo in half]) for half in np.array_split(chosen, 2)]
    return rng.permutation(parts[0])[:200], parts[1]


def answers(path, x):
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    runner = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = runner.get_inputs()[0].name
    return np.array([runner.run(None, {name: sample[None]})[0].argmax() for sample in x])


def products(path):
    """Multiplications of each convolution and matrix product, by node."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    sizes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in [*graph.value_info, *graph.output]}
    weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    weights |= {node.output[0]: list(node.attribute[0].t.dims) for node in graph.node if node.op_type == "Constant"}
    found = {}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in weights:
            w = weights[node.input[1]]
            each = np.prod(w[1:]) if node.op_type == "Conv" else np.prod(w) / sizes[node.output[0]][-1]
            found[node.name or node.output[0]] = float(np.prod(sizes[node.output[0]]) * each)
    return found


def made(selvedge, model, x, way, seed, scratch):
    np.savez(scratch / "data.npz", x=x)
    line = [selvedge, "quantize", model, "--data", scratch / "data.npz", "--split", "50/49", "--seed", seed, "--out", scratch / "out.onnx", "--json"]
    done = subprocess.run([str(word) for word in [*line, *WAYS[way]]], capture_output=True, text=True)
    if done.returncode not in (0, 3):
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("--selvedge", type=pathlib.Path, required=True)
    parser.add_argument("--models", nargs="+", default=["ppocr-cls", "efficientnet-lite0"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--by-photo", action="store_true")
    args = parser.parse_args()
    models.make(args.dir)
    for name in args.models:
        model = args.dir / name / "model.onnx"
        x = photos(args.dir) if name.startswith("efficientnet") else lines()
        expected, costs = answers(model, x), products(model)
        for way in args.ways:
            rows = []
            for seed in args.seeds:
                decide, judge = split(name, len(x), args.by_photo, seed)
                with tempfile.TemporaryDirectory() as scratch:
                    scratch, began = pathlib.Path(scratch), time.time()
                    told = made(args.selvedge, model, x[decide], way, seed, scratch)
                    took = time.time() - began
                    agreement = 100 * (answers(scratch / "out.onnx", x[judge]) == expected[judge]).mean()
                float_layers = [layer["name"] for layer in told["report"]["layers"] if layer["bits"] == 32]
                share = 100 * sum(costs.get(layer, 0) for layer in float_layers) / sum(costs.values())
                rows.append((agreement, len(float_layers), share, (told["expected"] or {}).get("disagreement", float("nan")), took))
                print(f"  {name} {way} seed {seed}: {agreement:.2f} % of {len(judge)}, {len(float_layers)} in float, {share:.1f} % of multiplications, "
                      f"{rows[-1][3]:.2f} % expected to differ, {took:.0f} s", flush=True)
            scores = [row[0] for row in rows]
            mean = np.mean(rows, axis=0)
            print(f"| {name} | {way} | {mean[0]:.1f} ({min(scores):.1f} to {max(scores):.1f}) | {mean[1]:.0f} | {mean[2]:.0f} | {100 - mean[3]:.1f} |", flush=True)


main()
