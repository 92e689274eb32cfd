"""Times Selvedge and other runtimes in turn, on the same models and the same input: called by `run`.

A round is some 20 ms of ours, then some 20 ms of the other's; a figure is the median over rounds of ours divided by theirs (each the
median of its round). So what else the machine does falls on both. Who is not at work is stopped. Below 1 is better than the other.
"""

import argparse
import hashlib
import json
import pathlib
import signal
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "aarch64"))

import report
import real
from zoo import FORMS

PEERS = ["ort", "tract", "openvino"]
ROUND = 20e6  # nanoseconds


def arguments():
    parser = argparse.ArgumentParser(prog="benches/peers/run", description=__doc__)
    names = lambda text: text.split(",")
    parser.add_argument("dir", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--models", type=names, help="by comma, of those that --list prints; real: the trained ones; else those with random weights")
    parser.add_argument("--peers", type=names, default=PEERS, help=f"of {', '.join(PEERS)}; else all")
    parser.add_argument("--threads", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--starts", type=int, default=5, help="processes for each load time and memory; 0: leave out")
    parser.add_argument("--list", action="store_true", help="print the models' names and end")
    parser.add_argument("--json", action="store_true", help="the JSON lines alone")
    return parser.parse_args()


def say(text):
    print(text, file=sys.stderr, flush=True)


def zoo():
    return [name if form == "u8s8" else f"{name}-{form}" for form, list_ in FORMS.items() for name in list_]


def names():
    return zoo() + real.names()


def made(dir, script, *more):
    """The directory of a script's models, made anew when it has changed."""
    scripts = [HERE / f"{script}.py", HERE / "requirements.txt", *more]
    wanted = hashlib.sha256(b"".join(script.read_bytes() for script in scripts)).hexdigest()
    stamp = dir / script / "stamp"
    if not stamp.exists() or stamp.read_text() != wanted:
        say("making the models")
        quiet = subprocess.DEVNULL
        subprocess.run([sys.executable, HERE / f"{script}.py", dir / script], check=True, stdout=quiet)
        stamp.write_text(wanted)
    return dir / script


def found(dir, wanted):
    """By name: the directory of each model."""
    places = {}
    if any(name in zoo() for name in wanted):
        places |= dict.fromkeys(zoo(), made(dir, "zoo", HERE.parent / "aarch64/models.py"))
    if any(name in real.names() for name in wanted):
        places |= dict.fromkeys(real.names(), made(dir, "real"))
    return {name: place / name for name, place in places.items()}


def built():
    command = ["cargo", "build", "--release", "--locked", "--bench", "peers", "--message-format=json-render-diagnostics"]
    lines = subprocess.run(command, cwd=HERE.parents[1], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    messages = [json.loads(line) for line in lines if line.startswith("{")]
    return next(m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "peers")


class Side:
    def __init__(self, kind, threads, executable):
        ours = {"selvedge": "int8", "tract": "float"}
        words = [executable, ours[kind], threads] if kind in ours else [sys.executable, HERE / "server.py", kind, threads]
        pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
        environment = {"ORT_DISABLE_TELEMETRY": "1", "PATH": "/usr/bin:/bin"}
        words = [str(word) for word in words]
        self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=quiet, text=True, env=environment)

    def ask(self, *words):
        print(*words, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"ended at: {' '.join(map(str, words))}")
        return json.loads(line)

    def time(self, runs):
        return statistics.median(self.ask("run", runs))

    def stop(self, stops=True):
        """Threads that wait for work by spinning would take the other side's cores."""
        self.process.send_signal(signal.SIGSTOP if stops else signal.SIGCONT)

    def alone(self, runs):
        self.stop(False)
        took = self.time(runs)
        self.stop()
        return took

    def end(self):
        self.process.stdin.close()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


def compared(asked, executable, directory, peer, threads):
    """Ratio of times, both in microseconds, and how far outputs are apart in parts of their range."""
    with Side("selvedge", threads, executable) as ours, Side(peer, threads, executable) as theirs:
        sides = (ours, theirs)
        for side in sides:
            side.ask("load", directory)
            side.time(3)
        counts = [max(1, min(2000, int(ROUND / side.time(3)))) for side in sides]
        for side in sides:
            side.stop()
        rounds = [[side.alone(count) for side, count in zip(sides, counts)] for _ in range(asked.rounds)]
        for side in sides:
            side.stop(False)
        a, b = (side.ask("output") for side in sides)
    # One value has no range: then its size.
    spread = max(max(b) - min(b) if len(b) > 1 else abs(b[0]), 1e-30)
    apart = max(abs(x - y) for x, y in zip(a, b, strict=True)) / spread
    ratio = statistics.median(x / y for x, y in rounds)
    return ratio, [statistics.median(column) / 1e3 for column in zip(*rounds)], apart


def started(asked, executable, directory):
    """Load time and resident memory, ours over onnxruntime's, of fresh processes."""
    loads, memories = [], []
    for _ in range(asked.starts):
        pair = []
        for kind in ("selvedge", "ort"):
            with Side(kind, 1, executable) as side:
                pair.append((side.ask("load", directory), side.time(10) and side.ask("memory")))
        loads.append(pair[0][0] / pair[1][0])
        memories.append(pair[0][1] / pair[1][1])
    return statistics.median(loads), statistics.median(memories)


def main():
    asked = arguments()
    if asked.list:
        print("\n".join(names()))
        return
    wanted = real.names() if asked.models == ["real"] else asked.models or zoo()
    unknown = [name for name in wanted if name not in names()] + [peer for peer in asked.peers if peer not in PEERS]
    if unknown:
        sys.exit(f"benches/peers/run: unknown: {', '.join(unknown)}; models: {', '.join(names())}; peers: {', '.join(PEERS)}")
    models, executable = found(asked.dir, wanted), built()
    rows, figures = [], []
    for model in wanted:
        for threads in asked.threads:
            for peer in asked.peers:
                # In float both sides of tract are the same program, and one thread says what there is to say.
                if model.endswith("-float") and (peer == "tract" or threads > 1):
                    continue
                say(f"  {model}, {peer}, {threads} threads" if threads > 1 else f"  {model}, {peer}, 1 thread")
                try:
                    ratio, times, apart = compared(asked, executable, models[model], peer, threads)
                except RuntimeError as error:
                    say(f"    not measured: {error}")
                    continue
                rows.append((model, peer, threads, *times, ratio, apart))
                in_float = model.endswith("-float") or model in real.IN_FLOAT
                kind, name = ("float" if in_float else "int8"), model.removesuffix("-float")
                figures.append((f"{kind}/{name}/{peer}/{threads}t", ratio, "time ratio"))
        if asked.starts and "ort" in asked.peers and not model.endswith("-float"):
            say(f"  {model}, load and memory")
            load, memory = started(asked, executable, models[model])
            figures += [(f"load/{model}/ort", load, "time ratio"), (f"rss/{model}/ort", memory, "memory ratio")]
    if not asked.json:
        cell = lambda i: lambda row: row[i]
        columns = [("model", 26, "", 0), ("peer", 10, "", 1), ("threads", 8, "d", 2), ("ours µs", 12, ",.1f", 3)]
        columns += [("theirs µs", 12, ",.1f", 4), ("ratio", 8, ".2f", 5), ("apart", 9, ".1%", 6)]
        report.table([(name, width, form, cell(i)) for name, width, form, i in columns], rows)
        print()
    for figure in figures:
        report.figure(*figure)


if __name__ == "__main__":
    main()
