"""A peer that answers line by line: server.py ort|openvino THREADS

    load DIRECTORY    -> seconds that loading took
    run N             -> N latencies in nanoseconds
    output            -> the first output's values, after a run
    memory            -> resident memory in KiB
Input is the same for everyone: the directory's input0.bin and so on, or `values`.
"""

import json
import pathlib
import sys
import time

import numpy as np

kind, threads = sys.argv[1], int(sys.argv[2])


TYPES = {"FP32": np.float32, "INT32": np.int32, "INT64": np.int64}


def values(directory, place, spec):
    file = directory / f"input{place}.bin"
    if file.exists():
        return np.fromfile(file, TYPES[spec["datatype"]]).reshape(spec["shape"])
    count = int(np.prod(spec["shape"]))
    return (((np.arange(count) * 7919) % 1000) / 250 - 2).astype(np.float32).reshape(spec["shape"])


class Ort:
    def __init__(self):
        import onnxruntime

        onnxruntime.disable_telemetry_events()
        self.library = onnxruntime

    def load(self, directory, io):
        options = self.library.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        session = self.library.InferenceSession(directory / "model.onnx", options, providers=["CPUExecutionProvider"])
        names = [spec["name"] for spec in io["outputs"]]
        return lambda inputs: session.run(names, inputs)[0]


class OpenVino:
    def __init__(self):
        import openvino

        self.library = openvino

    def load(self, directory, io):
        how = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        request = self.library.Core().compile_model(directory / "model.onnx", "CPU", how).create_infer_request()

        def run(inputs):
            request.infer(inputs, share_inputs=True)
            return request.get_output_tensor(0).data

        return run


peer = {"ort": Ort, "openvino": OpenVino}[kind]()
run = inputs = answer = None
for line in sys.stdin:
    command, _, argument = line.strip().partition(" ")
    if command == "load":
        directory = pathlib.Path(argument)
        io = json.loads((directory / "io.json").read_text())
        start = time.perf_counter()
        run = peer.load(directory, io)
        said = time.perf_counter() - start
        inputs = {spec["name"]: values(directory, place, spec) for place, spec in enumerate(io["inputs"])}
    elif command == "run":
        said = []
        for _ in range(int(argument)):
            start = time.perf_counter_ns()
            answer = run(inputs)
            said.append(time.perf_counter_ns() - start)
    elif command == "output":
        said = [float(value) for value in np.asarray(answer).ravel()]
    elif command == "memory":
        status = pathlib.Path("/proc/self/status").read_text().splitlines()
        said = int(next(line.split()[1] for line in status if line.startswith("VmRSS")))
    print(json.dumps(said), flush=True)
