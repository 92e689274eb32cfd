"""onnxruntime's side, in the guest: ort.py MODEL_DIRECTORY RUNS LIBMARK

Loads, warms up, runs RUNS inferences between the marks, and prints the output. Inputs and outputs are
bound beforehand, so that little of Python is in the region. One thread.
"""
import ctypes
import json
import pathlib
import sys

import numpy as np
import onnxruntime as ort

WARM_UP = 2

directory, runs, mark = pathlib.Path(sys.argv[1]), int(sys.argv[2]), ctypes.CDLL(sys.argv[3])
io = json.loads((directory / "io.json").read_text())
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
session = ort.InferenceSession(directory / "model.onnx", options, providers=["CPUExecutionProvider"])
(entry,), (exit_,) = io["inputs"], io["outputs"]
values = np.fromfile(directory / "input.bin", "<f4").reshape(entry["shape"])
given = ort.OrtValue.ortvalue_from_numpy(values)
answer = ort.OrtValue.ortvalue_from_numpy(np.zeros(exit_["shape"], np.float32))
binding = session.io_binding()
binding.bind_ortvalue_input(entry["name"], given)
binding.bind_ortvalue_output(exit_["name"], answer)
for _ in range(WARM_UP):
    session.run_with_iobinding(binding)
mark.mark_start()
for _ in range(runs):
    session.run_with_iobinding(binding)
mark.mark_stop()
print(json.dumps([float(v) for v in answer.numpy().ravel()]))
