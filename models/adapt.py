"""Makes version 2 of the example model as an operator would: `selvedge finetune` on images of the bumped camera.

Invariant: a held-out image is never trained on; scales and zero points are those of version 1.
Not here: version 1 and the split (make.py), checking what was made (check.py).
"""

import argparse
import json
import math
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

import make

HERE = Path(__file__).parent
ABOUT = "Handwritten digits, 8x8; adapted to the bumped camera, still good on the plain one"
OPTIONS = "--scale 0.0625 --split 80/19 --seed 1 --epochs 40 --rate 0.003 --max-forget 2".split()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--selvedge", required=True, help="the program, built with the feature compress")
    selvedge = parser.parse_args().selvedge
    images, labels, held_images, held_labels = make.split()
    bumped = np.ascontiguousarray(16 - np.rot90(images, k=-1, axes=(-2, -1)))
    folder = HERE / "digits-adapted"
    with tempfile.TemporaryDirectory() as scratch:
        plain_path, new_path, out = (Path(scratch) / name for name in ("plain.npz", "bumped.npz", "next"))
        np.savez(plain_path, image=images, labels=labels)
        np.savez(new_path, image=bumped, labels=labels)
        data = ["--data", new_path, "--keep-data", plain_path, "--out", out]
        subprocess.run([selvedge, "finetune", HERE / "digits", *data, *OPTIONS], check=True)
        shutil.copy(out / "model.onnx", folder / "model.onnx")
    held = make.to_input(held_images)
    golden = held[: make.GOLDEN]
    make.write_golden(folder, np.stack([make.bump(x) if i % 2 else x for i, x in enumerate(golden)]))
    atol = math.ceil(make.GOLDEN_LSB * make.output_scale(folder / "model.onnx") * 100) / 100
    (folder / "manifest.toml").write_text(make.MANIFEST.format(version=2, description=ABOUT, atol=atol))
    summary = json.loads((HERE / "accuracy.json").read_text())
    cameras = {"plain": held, "bumped": make.bump(held)}
    right = {camera: make.correct(folder / "model.onnx", x, held_labels) for camera, x in cameras.items()}
    accuracy = {"digits": summary["right"]["digits"], "digits-adapted": {"int8": right}}
    make.write_summary(HERE, accuracy, len(held_labels), len(labels))


if __name__ == "__main__":
    main()
