"""Writes the onnx package's own backend tests of single operators and small models to a file: cases.py FILE

For tests/it/backend.rs, with the packages of tests/clients/requirements.txt. For each case a little-endian u32, as many bytes of JSON
(name, operator, tolerances, inputs and outputs with the length of each), the model, the model once more with all inputs but the
first as constants, the tensors' bytes; a case
whose ends are no plain tensors has "skip" instead, the reason.
"""

import json
import pathlib
import struct
import sys

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

NAMES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip


def tensors(values, array):
    """What the header says of each, and its bytes; None where one is no tensor of a type that a model may serve."""
    told, data = [], []
    for value, content in zip(values, array, strict=False):
        # A single value may come as a number.
        content = np.asarray(content) if isinstance(content, np.generic) else content
        kind = NAMES.get(str(content.dtype)) if isinstance(content, np.ndarray) else None
        if kind is None or not value.type.HasField("tensor_type"):
            return None
        raw = np.ascontiguousarray(content).astype(content.dtype.newbyteorder("<")).tobytes()
        told.append({"name": value.name, "datatype": kind, "shape": list(content.shape), "bytes": len(raw)})
        data.append(raw)
    return told, data


def constant(model, inputs):
    """The same with all inputs but the first as constants: sizes, axes, scales, as they are in a model that was exported."""
    fixed = onnx.ModelProto.FromString(model.SerializeToString())
    given = list(zip(list(fixed.graph.input), inputs, strict=False))[1:]
    for value, content in given:
        fixed.graph.initializer.append(numpy_helper.from_array(np.asarray(content), value.name))
        fixed.graph.input.remove(value)
    return fixed.SerializeToString() if given else b""


def write(file, name, model, inputs, outputs, rtol, atol):
    nodes = model.graph.node
    head = {"name": name, "operator": nodes[0].op_type if len(nodes) == 1 else name.removeprefix("test_").split("_")[0]}
    ends = [tensors(model.graph.input, inputs), tensors(model.graph.output, outputs)]
    body = b""
    if any(end is None for end in ends):
        head["skip"] = "an input or output is no tensor of numbers"
    else:
        encoded, fixed = model.SerializeToString(), constant(model, inputs)
        head |= {"rtol": rtol, "atol": atol, "models": [len(encoded), len(fixed)], "inputs": ends[0][0], "outputs": ends[1][0]}
        body = encoded + fixed + b"".join(ends[0][1] + ends[1][1])
    text = json.dumps(head).encode()
    file.write(struct.pack("<I", len(text)) + text + body)


def stored(directory):
    """A test of which the package has the files."""
    model = onnx.load(directory / "model.onnx")
    data = sorted(directory.glob("test_data_set_*"))[0]
    load = lambda kind: [
        numpy_helper.to_array(onnx.TensorProto.FromString((data / f"{kind}_{i}.pb").read_bytes()))
        for i in range(len(list(data.glob(f"{kind}_*.pb"))))
    ]
    return model, load("input"), load("output")


def main():
    data = pathlib.Path(onnx.__file__).parent / "backend/test/data"
    with open(sys.argv[1], "wb") as file:
        for case in sorted(collect_testcases(None), key=lambda case: case.name):
            inputs, outputs = case.data_sets[0]
            write(file, case.name, case.model, inputs, outputs, case.rtol, case.atol)
        for kind in ["pytorch-converted", "pytorch-operator", "simple"]:
            for directory in sorted((data / kind).iterdir()):
                try:
                    ends = stored(directory)
                except (TypeError, ValueError, onnx.onnx_cpp2py_export.checker.ValidationError, Exception) as error:
                    text = json.dumps({"name": directory.name, "operator": directory.name.split("_")[1],
                                       "skip": f"the package's own reader refuses it: {type(error).__name__}"}).encode()
                    file.write(struct.pack("<I", len(text)) + text)
                    continue
                write(file, directory.name, *ends, 1e-3, 1e-7)


main()
