"""Training: train.py --selvedge PATH [--only steps|qat] [--seeds N]

Steps: the time of one step of `selvedge finetune` beside torch's on the same network, batch of 32, AdamW, one thread, in turn; ours from the
difference between many epochs and few, so that reading and judging are not in it. Prints ours over torch's.
QAT: wrong answers of 370 unseen images after quantization alone and with the rounding in the loop (10 epochs), for fewer and fewer bits, by
onnxruntime, mean over seeds; each seed trains a network of its own by torch.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

import prune

SCHEMES = {"W8A8": (8, 8), "W4A8": (4, 8), "W3A8": (3, 8), "W2A8": (2, 8), "W4A4": (4, 4), "W2A4": (2, 4)}
SPLIT = "80/19"
FEW, MANY = 1, 7


def selvedge(program, *line):
    env = os.environ | {"RAYON_NUM_THREADS": "1"}
    words = [str(word) for word in (program, *line)]
    ran = subprocess.run(words, env=env, capture_output=True, text=True)
    if ran.returncode not in (0, 3):
        raise RuntimeError(f"{' '.join(words)}: {ran.stderr}")


def our_step(program, dir, batches):
    def took(epochs):
        out = dir / "step.onnx"
        began = time.monotonic()
        selvedge(program, "finetune", dir / "net.onnx", "--data", dir / "train.npz", "--split", "98/1", "--epochs", epochs, "--out", out)
        return time.monotonic() - began

    return (took(MANY) - took(FEW)) / ((MANY - FEW) * batches)


def torch_step(model, x, labels, batches):
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=1e-4)
    model.train()

    def epoch():
        for batch in torch.randperm(len(x)).split(prune.BATCH)[:batches]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), labels[batch]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5)
            optimizer.step()

    epoch()
    began = time.monotonic()
    for _ in range(MANY - FEW):
        epoch()
    return (time.monotonic() - began) / ((MANY - FEW) * batches)


def steps(args, data, figures):
    x, labels = data
    print("| network | ours, ms a step | torch | ratio |\n|---|---|---|---|")
    for name in args.models:
        torch.manual_seed(1)
        model = prune.net(name)
        with tempfile.TemporaryDirectory() as scratch:
            scratch = pathlib.Path(scratch)
            np.savez(scratch / "train.npz", x=x.numpy(), labels=labels.numpy())
            prune.export(model, scratch / "net.onnx")
            batches = len(x) * 98 // 100 // prune.BATCH
            pairs = [(our_step(args.selvedge, scratch, batches), torch_step(model, x, labels, batches)) for _ in range(args.rounds)]
        ours, theirs = (statistics.median(side) for side in zip(*pairs))
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"| {name} | {ours * 1e3:.2f} | {theirs * 1e3:.2f} | {ratio:.2f} |", flush=True)
        figures.append({"figure": f"train/step/torch/{name}", "value": round(ratio, 2), "unit": "time ratio"})


def wrong(path, test):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x, labels = test
    answers = [session.run(None, {"image": sample[None].numpy()})[0].argmax() for sample in x]
    return int((np.array(answers) != labels.numpy()).sum())


def qat(args, data, test, figures):
    x, labels = data
    cut = len(x) * 8 // 10
    parts = (x[:cut], labels[:cut]), (x[cut:], labels[cut:])
    results = {}
    for name in args.models:
        for seed in range(1, args.seeds + 1):
            torch.manual_seed(seed)
            model = prune.train(prune.net(name), parts, seed, 30, 2e-3)
            with tempfile.TemporaryDirectory() as scratch:
                scratch = pathlib.Path(scratch)
                np.savez(scratch / "train.npz", x=x.numpy(), labels=labels.numpy())
                prune.export(model, scratch / "net.onnx")
                results.setdefault((name, "float", ""), []).append(wrong(scratch / "net.onnx", test))
                line = ["quantize", scratch / "net.onnx", "--data", scratch / "train.npz", "--split", SPLIT, "--seed", seed]
                for scheme, (weights, activations) in SCHEMES.items():
                    bits = ["--bits", weights, "--activation-bits", activations]
                    forms = {"ptq": [], "qat": ["--qat"], "qat, learnt scales": ["--qat", "--scales", "learned"]}
                    for form, more in forms.items():
                        out = scratch / "out.onnx"
                        selvedge(args.selvedge, *line, *bits, *more, "--out", out)
                        results.setdefault((name, scheme, form), []).append(wrong(out, test))
            print(f"{name}, seed {seed} done", flush=True)
    print("| network | bits | after training | with training | with learnt scales |\n|---|---|---|---|---|")
    shown = lambda key: f"{np.mean(results[key]):.1f} ({min(results[key])} to {max(results[key])})"  # noqa: E731
    for name in args.models:
        print(f"| {name} | float | {shown((name, 'float', ''))} | | |")
        for scheme in SCHEMES:
            print(f"| {name} | {scheme} | {' | '.join(shown((name, scheme, form)) for form in ('ptq', 'qat', 'qat, learnt scales'))} |")
            for form, short in (("ptq", "ptq"), ("qat", "qat"), ("qat, learnt scales", "qat-learned")):
                value = round(float(np.mean(results[name, scheme, form])), 2)
                figures.append({"figure": f"qat/{name}-{scheme}-{short}", "value": value, "unit": "errors"})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--selvedge", type=pathlib.Path, required=True)
    parser.add_argument("--only", choices=["steps", "qat"])
    parser.add_argument("--models", nargs="+", default=["cnn", "mobilenet", "resnet"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    load = lambda name: (lambda file: (torch.tensor(file["image"][:, None] / np.float32(16)), torch.tensor(file["labels"]).long()))(np.load(prune.VECTORS / name))  # noqa: E731
    data, test, figures = load("train.npz"), load("held.npz"), []
    if args.only != "qat":
        steps(args, data, figures)
    if args.only != "steps":
        qat(args, data, test, figures)
    for figure in figures:
        print(json.dumps(figure))


main()
