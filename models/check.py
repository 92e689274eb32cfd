"""Checks the committed models against onnxruntime; exits 0 if all holds, 1 with what differs.

Golden answers are asked twice: in int8 (onnxruntime's default) and with optimisation off, where the graph runs in
float with the casts on top; so that an int8 kernel that is wrong on this machine cannot vouch for itself.
Not here: making anything (make.py); training is not repeated.
"""

import hashlib
import json
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime as ort
from safetensors.numpy import load_file

import make

HERE = Path(__file__).parent
MODELS = ["digits", "digits-adapted"]
LEVELS = {"int8": ort.GraphOptimizationLevel.ORT_ENABLE_ALL, "float": ort.GraphOptimizationLevel.ORT_DISABLE_ALL}


def check_files(summary):
    """Every file is the one whose SHA-256 is in accuracy.json."""
    for path, expected in summary["sha256"].items():
        actual = hashlib.sha256((HERE / path).read_bytes()).hexdigest()
        yield actual == expected, f"{path}: SHA-256 {actual[:16]}, expected {expected[:16]}"


def check_held_out(summary, held):
    """The held-out images are those of the split, and none is among the training images."""
    train_images, _, images, labels = make.split()
    same = np.array_equal(held["images"], images) and np.array_equal(held["labels"], labels)
    yield same, f"heldout.safetensors: {len(held['labels'])} images, as split() draws them"
    trained = {image.tobytes() for image in train_images}
    shared = sum(image.tobytes() in trained for image in held["images"])
    yield shared == 0, f"heldout.safetensors: {shared} images are also among the {len(trained)} to train on"
    counts = np.bincount(held["labels"], minlength=make.CLASSES)
    yield counts.min() >= 36, f"heldout.safetensors: {counts.min()} to {counts.max()} images a digit"
    yield summary["held-out"] == len(labels), f"accuracy.json: counts are of {summary['held-out']} images"


def check_golden(model, held):
    """The golden images are held-out ones (plain or bumped), and onnxruntime answers them within the tolerance."""
    folder = HERE / model
    golden = load_file(folder / "golden.safetensors")
    x = np.concatenate([golden[f"{i}.in.image"] for i in range(make.GOLDEN)])
    logits = np.concatenate([golden[f"{i}.out.logits"] for i in range(make.GOLDEN)])
    plain = make.to_input(held["images"])
    known = {image.tobytes() for image in np.concatenate([plain, make.bump(plain)])}
    yield all(image.tobytes() in known for image in x), f"{model}: golden images are held-out images"
    rules = tomllib.loads((folder / "manifest.toml").read_text())["golden"]
    step = make.output_scale(folder / "model.onnx")
    for kind, level in LEVELS.items():
        off = np.abs(make.answer(make.session(folder / "model.onnx", level), x) - logits).max(axis=1)
        share = (off <= rules["atol"]).mean()
        what = f"{model}: golden in {kind}: {share:.0%} within {rules['atol']}, furthest {off.max() / step:.2f} LSB"
        yield share >= rules["min-agreement"], what


def check_accuracy(model, expected, held):
    """The int8 model names as many held-out images rightly as accuracy.json says, on both cameras."""
    plain = make.to_input(held["images"])
    for camera, x in {"plain": plain, "bumped": make.bump(plain)}.items():
        right = make.correct(HERE / model / "model.onnx", x, held["labels"])
        what = f"{model}: {camera}: {right} of {len(x)} right, expected {expected[camera]}"
        yield right == expected[camera], what


def checks():
    """Yields (holds, what was seen) for each check."""
    summary = json.loads((HERE / "accuracy.json").read_text())
    held = load_file(HERE / "digits" / "heldout.safetensors")
    yield from check_files(summary)
    yield from check_held_out(summary, held)
    for model in MODELS:
        yield from check_golden(model, held)
        yield from check_accuracy(model, summary["right"][model]["int8"], held)


def main():
    failed = 0
    try:
        for holds, what in checks():
            print("ok  " if holds else "FAIL", what)
            failed += not holds
    except FileNotFoundError as missing:
        print(f"FAIL {missing.filename}: not found; make.py writes it")
        return 1
    print(f"{failed} checks failed" if failed else "all checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
