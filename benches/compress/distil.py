"""What a student learns from its teacher: distil.py --selvedge PATH [--labels N ...] [--seeds N]

The digits of tests/vectors/compress: the teacher has 99 of 100 right; the student is a template's, from random weights. Few labels are few samples, too:
four fifths of them train, the rest chooses the epoch. onnxruntime counts errors of 370 images that none has seen. Prints a table of means over seeds,
with the least and the most, and JSON lines, `distil/digits/LABELS/SETTING`.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

import numpy as np
import onnxruntime as ort

VECTORS = pathlib.Path(__file__).resolve().parents[2] / "tests/vectors/compress"
SCALE = 1 / 16
HINTS = ["--hint", "conv2.relu=block1", "--hint", "conv3.relu=block2"]
RELATIONS = ["--relation", "distance:1,angle:2"]
SETTINGS = {
    "alone": ["--alpha", "1"],
    "soft": [],
    "hints": HINTS,
    "relations": RELATIONS,
    "relations-alone": ["--alpha", "1", *RELATIONS],
    "all": [*HINTS, *RELATIONS],
}


def errors(path):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    held, port = np.load(VECTORS / "held.npz"), session.get_inputs()[0]
    given = session.run(None, {port.name: held["image"].astype(np.float32).reshape(-1, 1, 8, 8) * np.float32(SCALE)})[0]
    return int((given.argmax(1) != held["labels"]).sum())


def taught(args, setting, labels, seed, scratch):
    train = np.load(VECTORS / "train.npz")
    order = np.random.default_rng(seed).permutation(len(train["labels"]))
    if labels != "all":
        order = order[: round(int(labels) / 0.8)]
    data, out = scratch / "data.npz", scratch / "student.onnx"
    np.savez(data, image=train["image"][order], labels=train["labels"][order])
    line = [args.selvedge, "distil", VECTORS / "digits.onnx", "--student", args.student, "--data", data, "--scale", SCALE, "--split", "80/19"]
    line += ["--seed", seed, "--out", out, "--json", *SETTINGS[setting], *args.more]
    subprocess.run([str(word) for word in line], check=True, stdout=subprocess.DEVNULL)
    return errors(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--selvedge", type=pathlib.Path, required=True)
    parser.add_argument("--student", default="template:image:8:2")
    parser.add_argument("--labels", nargs="+", default=["100", "all"])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("more", nargs="*", help="after --: options of selvedge distil for all")
    args = parser.parse_args()
    figures = []
    print("| labels | learns by | errors of 370, mean | least to most |\n|---|---|---|---|")
    for labels in args.labels:
        for setting in args.settings:
            with tempfile.TemporaryDirectory() as scratch:
                found = [taught(args, setting, labels, seed, pathlib.Path(scratch)) for seed in range(1, args.seeds + 1)]
            print(f"| {labels} | {setting} | {np.mean(found):.1f} | {min(found)} to {max(found)} |", flush=True)
            figures.append({"figure": f"distil/digits/{labels}/{setting}", "value": round(float(np.mean(found)), 1), "unit": "errors"})
    print(f"teacher: {errors(VECTORS / 'digits.onnx')} errors")
    for figure in figures:
        print(json.dumps(figure))


main()
