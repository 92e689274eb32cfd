"""A float model and data for the tests of compression: make.py [--out DIR]

The network and training of models/make.py, before it is quantized, and the same with channels of very different ranges (each convolution's
output channels times 1/16 to 16, undone in the next: the same function, that per-tensor quantization breaks).
Python with models/requirements.txt. On the same kind of CPU it writes the same bytes.
"""

import argparse
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "models"))
import make as models  # noqa: E402


def skew(params, rng):
    params = {name: value.copy() for name, value in params.items()}
    names = [name for name, *_ in models.CONVS]
    for name, following in zip(names, names[1:]):
        factors = np.exp2(rng.uniform(-4, 4, len(params[name + ".bias"]))).astype(np.float32)
        params[name + ".weight"] *= factors[:, None, None, None]
        params[name + ".bias"] *= factors
        params[following + ".weight"] /= factors[None, :, None, None]
    return params


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=HERE)
    out = parser.parse_args().out
    images, labels, held_images, held_labels = models.split()
    rng = np.random.default_rng(1)
    params = models.train(models.init(rng), models.to_input(images), labels, rng, epochs=30, rate=2e-3)
    models.export(params, out / "digits.onnx")
    models.export(skew(params, np.random.default_rng(2)), out / "digits-skewed.onnx")
    np.savez_compressed(out / "train.npz", image=images, labels=labels)
    np.savez_compressed(out / "held.npz", image=held_images, labels=held_labels)


main()
