"""Post-training quantization beside other tools: peers.py DIR [--models ...] [--peers ...]

The same float model and calibration data for all, each by its defaults; all results are judged by onnxruntime on data that none has seen: right answers
where there are labels and the labels are sure, else agreement with the float model. Prints a table and JSON lines, `ptq/MODEL/SCHEME/PEER`: ours
minus theirs, in points.
"""

import argparse
import collections
import json
import logging
import os
import pathlib
import subprocess
import tempfile
import time

os.environ.setdefault("ORT_LOGGING_LEVEL", "3")
import models  # noqa: E402
import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

NAMES = ["digits", "digits-skewed", "ppocr-cls", "efficientnet-lite0"]
LABELLED = {"digits", "digits-skewed"}
SCHEMES = ["w8a8-tensor", "w8a8-channel", "w4a8-channel"]
OURS = {
    "w8a8-tensor": ["--per-tensor"],
    "w8a8-channel": [],
    "w4a8-channel": ["--bits", "4", "--rounding", "adaround"],
}
# What stays behind where a product was fused whole.
PRODUCTS = {"Conv", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul"}


class Samples(CalibrationDataReader):
    def __init__(self, x, name):
        self.samples = iter([{name: sample[None]} for sample in x])

    def get_next(self):
        return next(self.samples, None)


def session(path, optimized=None):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if optimized:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def answers(runner, x):
    name = runner.get_inputs()[0].name
    return np.concatenate([runner.run(None, {name: sample[None]})[0].reshape(1, -1) for sample in x])


def ours(selvedge, scheme, model, data, out):
    line = [selvedge, "quantize", model, "--data", data, "--split", "98/1", "--out", out, "--json", *OURS[scheme]]
    subprocess.run([str(word) for word in line], check=True, capture_output=True)


def by_ort(scheme, model, x, out):
    with tempfile.TemporaryDirectory() as scratch:
        ready = pathlib.Path(scratch) / "ready.onnx"
        quant_pre_process(str(model), str(ready), skip_symbolic_shape=True)
        kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "calibrate_method": CalibrationMethod.MinMax}
        samples = Samples(x, onnx.load(model).graph.input[0].name)
        quantize_static(str(ready), str(out), samples, QuantFormat.QDQ, per_channel=scheme == "w8a8-channel", **kinds)


def by_nncf(scheme, model, x, out):
    import nncf

    nncf.set_log_level(logging.ERROR)
    proto = onnx.load(model)
    data = nncf.Dataset(list(x), lambda sample: {proto.graph.input[0].name: sample[None]})
    onnx.save(nncf.quantize(proto, data, subset_size=len(x)), out)


def by_aimet(scheme, model, x, out):
    from aimet_onnx.quantsim import QuantizationSimModel

    proto = onnx.load(model)
    weights = "int4" if scheme.startswith("w4") else "int8"
    sim = QuantizationSimModel(proto, param_type=weights, providers=["CPUExecutionProvider"])
    name = proto.graph.input[0].name
    sim.compute_encodings([{name: sample[None]} for sample in x])
    onnx.save(sim.to_onnx_qdq(), out)


# Which schemes a tool has; NNCF decides on channels by itself.
PEERS = {
    "ort": (by_ort, {"w8a8-tensor", "w8a8-channel"}),
    "nncf": (by_nncf, {"w8a8-channel"}),
    "aimet": (by_aimet, {"w8a8-channel", "w4a8-channel"}),
}


def left_in_float(path):
    """Products that onnxruntime does not fuse into integers."""
    with tempfile.TemporaryDirectory() as scratch:
        optimized = pathlib.Path(scratch) / "optimized.onnx"
        session(path, optimized)
        found = collections.Counter(node.op_type for node in onnx.load(optimized).graph.node)
    return sum(found[op] for op in PRODUCTS)


def judged(runner, x, expected):
    return float((answers(runner, x).argmax(1) == expected).mean() * 100)


def case(args, name, scheme):
    """Rows of one model and scheme: tool, score, seconds, products left in float."""
    folder = args.dir / name
    model, train, test = folder / "model.onnx", np.load(folder / "train.npz")["x"], np.load(folder / "test.npz")
    x = test["x"]
    float_answers = answers(session(model), x).argmax(1)
    expected = test["labels"] if name in LABELLED else float_answers
    rows = [("float", float((float_answers == expected).mean() * 100), 0, None)]
    tools = {"selvedge": lambda out: ours(args.selvedge, scheme, model, folder / "train.npz", out)}
    for peer, (run, schemes) in PEERS.items():
        if peer in args.peers and scheme in schemes:
            tools[peer] = lambda out, run=run: run(scheme, model, train, out)
    for tool, run in tools.items():
        with tempfile.TemporaryDirectory() as scratch:
            out, began = pathlib.Path(scratch) / "out.onnx", time.time()
            try:
                run(out)
            except Exception as error:  # Another's fault is a row of the table, not the end of it.
                print(f"{name} {scheme} {tool}: {type(error).__name__}: {str(error)[:200]}", flush=True)
                continue
            took = time.time() - began
            rows.append((tool, judged(session(out), x, expected), took, left_in_float(out)))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("--selvedge", type=pathlib.Path, required=True)
    parser.add_argument("--models", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=SCHEMES)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    models.make(args.dir)
    print("| model | scheme | tool | score, % | seconds | products left in float |\n|---|---|---|---|---|---|")
    figures = []
    for name in args.models:
        for scheme in args.schemes:
            rows = case(args, name, scheme)
            own = next((score for tool, score, *_ in rows if tool == "selvedge"), None)
            for tool, score, took, left in rows:
                print(f"| {name} | {scheme} | {tool} | {score:.2f} | {took:.1f} | {'' if left is None else left} |", flush=True)
                if tool not in ("float", "selvedge") and own is not None:
                    figures.append({"figure": f"ptq/{name}/{scheme}/{tool}", "value": round(own - score, 2), "unit": "points"})
    for figure in figures:
        print(json.dumps(figure))


main()
