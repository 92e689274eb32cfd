"""Structured pruning beside Torch-Pruning: prune.py --selvedge PATH [--models ...] [--seeds N]

Three small networks are trained on the handwritten digits of tests/vectors/compress, by torch; both tools start from the same weights, remove the same
share of each layer until 2x and 4x fewer multiplications are left, at once, and fine-tune alike: AdamW, 5 epochs, batches of 32, rate 1e-3 falling as
a cosine, the best epoch by the validation part. All are judged on images that none has seen: ours by onnxruntime, theirs by torch. Prints a table of
mean right answers over the seeds and JSON lines, `prune/MODEL/MEASURE/2x`.
"""

import argparse
import copy
import json
import math
import operator
import pathlib
import subprocess
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
import torch
import torch_pruning as tp
from onnx import TensorProto, helper, numpy_helper
from torch import nn

ROOT = pathlib.Path(__file__).resolve().parents[2]
VECTORS = ROOT / "tests/vectors/compress"
OURS = ["random", "l1", "l2", "bn-scale", "activation-mean", "activation-variance", "activation-zeros", "taylor", "fisher"]
THEIRS = {
    "random": lambda: tp.importance.RandomImportance(),
    "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
    "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "bn-scale": lambda: tp.importance.BNScaleImportance(),
    "taylor": lambda: tp.importance.GroupTaylorImportance(),
}
EPOCHS, BATCH, RATE = 5, 32, 1e-3


def conv(read, made, size=3, stride=1, group=1, act=nn.ReLU):
    layers = [nn.Conv2d(read, made, size, stride, size // 2, groups=group, bias=False), nn.BatchNorm2d(made)]
    return nn.Sequential(*layers, act()) if act else nn.Sequential(*layers)


class Residual(nn.Module):
    def __init__(self, read, made, stride):
        super().__init__()
        self.a, self.b = conv(read, made, 3, stride), conv(made, made, act=None)
        self.short = conv(read, made, 1, stride, act=None) if read != made or stride > 1 else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.b(self.a(x)) + self.short(x))


class Inverted(nn.Module):
    def __init__(self, read, made, stride, wide=4):
        super().__init__()
        self.a = conv(read, read * wide, 1, act=nn.ReLU6)
        self.b = conv(read * wide, read * wide, 3, stride, read * wide, nn.ReLU6)
        self.c = conv(read * wide, made, 1, act=None)
        self.adds = read == made and stride == 1

    def forward(self, x):
        y = self.c(self.b(self.a(x)))
        return x + y if self.adds else y


def net(name):
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if name == "cnn":
        layers = [nn.Conv2d(1, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 10))
    if name == "resnet":
        blocks = [Residual(16, 16, 1), Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 32, 1), Residual(32, 64, 2), Residual(64, 64, 1)]
        return nn.Sequential(conv(1, 16), *blocks, *pool, nn.Linear(64, 10))
    blocks = [Inverted(16, 16, 1), Inverted(16, 24, 2), Inverted(24, 24, 1), Inverted(24, 40, 2), Inverted(40, 40, 1)]
    return nn.Sequential(conv(1, 16, act=nn.ReLU6), *blocks, conv(40, 96, 1, act=nn.ReLU6), *pool, nn.Linear(96, 10))


def export(model, path):
    """As ONNX, normalisations still there."""
    traced = torch.fx.symbolic_trace(model.eval())
    modules, nodes, tensors = dict(traced.named_modules()), [], []

    def constant(name, value):
        tensors.append(numpy_helper.from_array(value.detach().numpy() if torch.is_tensor(value) else np.float32(value), name))
        return name

    for node in traced.graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        read, made = [arg.name for arg in node.args], node.name
        if node.op == "call_function":
            assert node.target is operator.add
            nodes.append(helper.make_node("Add", read, [made], made))
            continue
        module, name = modules[node.target], node.target
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            read += [constant(f"{name}.{part}", value) for part in ("weight", "bias") if (value := getattr(module, part)) is not None]
        match module:
            case nn.Conv2d():
                attributes = {"kernel_shape": module.kernel_size, "strides": module.stride, "pads": module.padding * 2, "group": module.groups}
                nodes.append(helper.make_node("Conv", read, [made], name, **attributes))
            case nn.Linear():
                nodes.append(helper.make_node("Gemm", read, [made], name, transB=1))
            case nn.BatchNorm2d():
                parts = {"weight": module.weight, "bias": module.bias, "mean": module.running_mean, "var": module.running_var}
                read += [constant(f"{name}.{part}", value) for part, value in parts.items()]
                nodes.append(helper.make_node("BatchNormalization", read, [made], name, epsilon=module.eps))
            case nn.ReLU6():
                nodes.append(helper.make_node("Clip", [*read, constant(f"{made}.0", 0), constant(f"{made}.6", 6)], [made], name))
            case _:
                op = {nn.ReLU: "Relu", nn.Identity: "Identity", nn.Flatten: "Flatten", nn.AdaptiveAvgPool2d: "GlobalAveragePool"}[type(module)]
                nodes.append(helper.make_node(op, read, [made], name))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("image", [1, 1, 8, 8]), (nodes[-1].output[0], [1, 10]))]
    source = next(iter(traced.graph.nodes)).name
    for node in nodes:
        node.input[:] = ["image" if name == source else name for name in node.input]
    model = helper.make_model(helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def macs(model):
    """Of convolutions and matrix products."""
    count = 0

    def see(module, _, output):
        nonlocal count
        count += output.numel() * math.prod(module.weight.shape[1:])

    hooks = [module.register_forward_hook(see) for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        model.eval()(torch.zeros(1, 1, 8, 8))
    for hook in hooks:
        hook.remove()
    return count


def right(model, x, labels):
    with torch.no_grad():
        return float((model.eval()(x).argmax(1) == labels).float().mean() * 100)


def train(model, data, seed, epochs, rate=RATE):
    """The best epoch by the loss on the validation part, what came in included."""
    (x, labels), (held, expected) = data
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=1e-4)
    steps = epochs * math.ceil(len(x) / BATCH)
    warm = max(1, round(steps * 0.05))
    scale = lambda step: (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)

    def loss():
        with torch.no_grad():
            return float(nn.functional.cross_entropy(model.eval()(held), expected))

    best, state = loss(), copy.deepcopy(model.state_dict())
    for _ in range(epochs):
        model.train()
        for batch in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), labels[batch]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5)
            optimizer.step()
            schedule.step()
        if (now := loss()) <= best:
            best, state = now, copy.deepcopy(model.state_dict())
    model.load_state_dict(state)
    return model


def theirs(model, measure, target, data, test, seed):
    (x, labels), _ = data
    example = torch.zeros(1, 1, 8, 8)

    def pruned(ratio):
        torch.manual_seed(seed)
        own = copy.deepcopy(model).eval()
        last = [module for module in own.modules() if isinstance(module, nn.Linear)][-1]
        pruner = tp.pruner.BasePruner(own, example, importance=THEIRS[measure](), pruning_ratio=ratio, ignored_layers=[last])
        if measure == "taylor":
            nn.functional.cross_entropy(own(x[:256]), labels[:256]).backward()
        pruner.step()
        own.zero_grad()
        return own

    low, high = 0.0, 0.95
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (low, middle) if macs(pruned(middle)) <= target else (middle, high)
    return right(train(pruned(high), data, seed, EPOCHS), *test)


def ours(selvedge, path, measure, target, split, seed, test, dir):
    out = dir / "out.onnx"
    line = [selvedge, "prune", path, "--data", dir / "train.npz", "--split", split, "--seed", seed, "--measure", measure, "--target-macs", target]
    run = subprocess.run([str(word) for word in [*line, "--epochs", EPOCHS, "--rate", RATE, "--json", "--out", out]], capture_output=True, text=True)
    out_of = run.stderr.strip().splitlines()
    if run.returncode:
        raise RuntimeError(out_of[0] if out_of else "failed")
    told = json.loads(run.stdout)
    session = ort.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    x, labels = test
    answers = [session.run(None, {"image": sample[None].numpy()})[0].argmax() for sample in x]
    latency = told["latency-ms"]
    return float((np.array(answers) == labels.numpy()).mean() * 100), latency["before"] / latency["after"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--selvedge", type=pathlib.Path, required=True)
    parser.add_argument("--models", nargs="+", default=["cnn", "resnet", "mobilenet"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ours", nargs="*", default=OURS)
    parser.add_argument("--theirs", nargs="*", default=list(THEIRS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    load = lambda name: (lambda file: (torch.tensor(file["image"][:, None] / np.float32(16)), torch.tensor(file["labels"]).long()))(np.load(VECTORS / name))  # noqa: E731
    x, labels = load("train.npz")
    test = load("held.npz")
    cut = len(x) * 8 // 10
    data = (x[:cut], labels[:cut]), (x[cut:], labels[cut:])
    results, floats, speeds = {}, {}, {}
    for name in args.models:
        for seed in range(1, args.seeds + 1):
            torch.manual_seed(seed)
            model = train(net(name), data, seed, 30, 2e-3)
            floats.setdefault(name, []).append(right(model, *test))
            with tempfile.TemporaryDirectory() as scratch:
                scratch = pathlib.Path(scratch)
                np.savez(scratch / "train.npz", x=x.numpy(), labels=labels.numpy())
                export(model, scratch / "net.onnx")
                for factor in (2, 4):
                    target = macs(model) // factor
                    for measure in args.ours:
                        key = name, f"selvedge {measure}", factor
                        try:
                            score, speed = ours(args.selvedge, scratch / "net.onnx", measure, target, "80/19", seed, test, scratch)
                        except RuntimeError as error:
                            print(f"{key}: {error}", flush=True)
                            continue
                        results.setdefault(key, []).append(score)
                        speeds.setdefault(key, []).append(speed)
                    for measure in args.theirs:
                        if measure == "bn-scale" and name == "cnn":
                            continue
                        results.setdefault((name, f"torch-pruning {measure}", factor), []).append(theirs(model, measure, target, data, test, seed))
            print(f"{name}, seed {seed} done", flush=True)
    print("| network | tool and measure | 2x fewer | 4x fewer | times faster here, 2x and 4x |\n|---|---|---|---|---|")
    figures = []
    for name in args.models:
        print(f"| {name} | as trained | {np.mean(floats[name]):.1f} | | |")
        for tool in dict.fromkeys(tool for model, tool, _ in results if model == name):
            shown = []
            for factor in (2, 4):
                scores = results.get((name, tool, factor))
                shown.append("" if scores is None else f"{np.mean(scores):.1f} ({min(scores):.1f} to {max(scores):.1f})")
                if scores is not None:
                    figures.append({"figure": f"prune/{name}/{tool.removeprefix('selvedge ').replace(' ', '-')}/{factor}x", "value": round(float(np.mean(scores)), 2), "unit": "%"})
            speed = [f"{np.mean(speeds[name, tool, factor]):.2f}" for factor in (2, 4) if (name, tool, factor) in speeds]
            print(f"| {name} | {tool} | {shown[0]} | {shown[1]} | {', '.join(speed)} |")
    for figure in figures:
        print(json.dumps(figure))


if __name__ == "__main__":
    main()
