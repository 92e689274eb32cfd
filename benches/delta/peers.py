"""Deltas between versions beside zstd --patch-from, bsdiff, xdelta3 and plain chunks: benches/delta/run

Each delta is applied, and what comes out compared. Bytes do not depend on the machine; times do (CPU, the best of three), and
are those of whole processes, as is the memory: the most that was resident. Ours checks the result's SHA-256 on the way, zstd a
checksum of 32 bits, bsdiff none.
"""

import argparse
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

CASES = {
    "head": "head fine-tuned",
    "int8-finetuned": "all layers, int8, moved by 2 %",
    "int8-finetuned-1": "by 1 %",
    "int8-finetuned-5": "by 5 %",
    "adapted": "all layers, int8, really trained",
    "float-finetuned": "all layers, float, moved by 2 %",
    "layer-added": "one layer added",
    "re-exported": "exported anew, other names",
}
RUNS = 3


def process(command):
    """Seconds of CPU, KiB and what it says."""
    with tempfile.NamedTemporaryFile("r") as most:
        # A program of its own starts it: memory before the exec would be Python's.
        command = ["time", "-q", "-f", "%M", "-o", most.name, *command]
        child = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        out = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))} ends with {child.returncode}")
        return usage.ru_utime + usage.ru_stime, int(most.read()), out.decode()


def peers(ours, old, new, scratch):
    """Name: how to make a delta, and how to apply it."""
    delta, out = scratch / "delta", scratch / "out"
    digest = hashlib.sha256(new.read_bytes()).hexdigest()
    return {
        "ours": ([ours, "make", old, new, delta], [ours, "apply", old, delta, digest, new.stat().st_size, out]),
        "zstd": (
            ["zstd", "-qf", "-22", "--ultra", "--long=31", f"--patch-from={old}", new, "-o", delta],
            ["zstd", "-dqf", "--long=31", f"--patch-from={old}", delta, "-o", out],
        ),
        "bsdiff": (["bsdiff", old, new, delta], ["bspatch", old, out, delta]),
        "xdelta3": (["xdelta3", "-9", "-S", "lzma", "-B", 1 << 28, "-f", "-e", "-s", old, new, delta],
                    ["xdelta3", "-f", "-d", "-B", 1 << 28, "-s", old, delta, out]),
    }


def measure(ours, directory, scratch):
    old, new = directory / "old.onnx", directory / "new.onnx"
    rows = {}
    for name, (make, apply) in peers(ours, old, new, scratch).items():
        process(make)
        size = (scratch / "delta").stat().st_size
        runs = [process(apply) for _ in range(RUNS)]
        if (scratch / "out").read_bytes() != new.read_bytes():
            sys.exit(f"{directory.name}: {name} makes another file")
        rows[name] = {"bytes": size, "ms": 1000 * min(run[0] for run in runs), "mib": max(run[1] for run in runs) / 1024}
    chunks = json.loads(process([ours, "chunks", old, new])[2])
    rows["chunks"] = {"bytes": chunks["bytes"]}
    return rows, chunks["whole"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--ours", type=pathlib.Path, required=True)
    parser.add_argument("--case", choices=CASES, action="append", help="this one alone; may be given more than once")
    parser.add_argument("--json", type=pathlib.Path, help="also write the figures there")
    arguments = parser.parse_args()
    here = pathlib.Path(__file__).resolve().parent
    cases = arguments.directory / "cases"
    if not (cases / "adapted").is_dir():
        print("making the models", file=sys.stderr)
        subprocess.run([sys.executable, here / "cases.py", cases], check=True)
    figures = []
    print("| case | whole | ours | zstd --patch-from | bsdiff | xdelta3 | chunks | best peer | ours/best | apply, ms: ours, zstd, bsdiff, xdelta3 | memory, MiB |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for case in arguments.case or CASES:
        rows, whole = measure(arguments.ours, cases / case, arguments.directory)
        others = {name: row["bytes"] for name, row in rows.items() if name != "ours"}
        best, ours = min(others, key=others.get), rows["ours"]["bytes"]
        for name, size in [*others.items(), ("best-peer", others[best])]:
            # Where a peer needs nothing, one byte stands for it.
            figures.append({"name": f"delta/{case}/{name}", "value": round(ours / max(size, 1), 4), "unit": "ratio"})
        timed = ["ours", "zstd", "bsdiff", "xdelta3"]
        sizes = " | ".join(f"{rows[name]['bytes']:,}" for name in [*timed, "chunks"])
        times = ", ".join(f"{rows[name]['ms']:.0f}" for name in timed)
        memory = ", ".join(f"{rows[name]['mib']:.0f}" for name in timed)
        print(f"| {CASES[case]} | {whole:,} | {sizes} | {best} | {ours / max(others[best], 1):.2f} | {times} | {memory} |", flush=True)
    print()
    lines = "".join(json.dumps(figure) + "\n" for figure in figures)
    print(lines, end="")
    if arguments.json:
        arguments.json.write_text(lines)


if __name__ == "__main__":
    main()
