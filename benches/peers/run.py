#!/usr/bin/env python3
"""Rewarden beside the best that there is in Python, in one run on the same cores; prints one table, writes JSON.

    pip install -r benches/peers/requirements.txt
    python benches/peers/run.py --data ../shared/data [--rows mean,fit] [--rounds 3] [--items 100] [--quick]

f32, the embedded SmolLM2-135M with its default adapter, real items of the test split. Programs of a row (rows.py) run
by turns, each a process of its own, alone on the machine; tokens are those of the items, without padding and with every
prompt counted in full, whatever a program makes of them, and seconds do not count loading. A program's outputs are
compared with Rewarden's in its first round (for `fit` on a few pairs): larger differences than 1e-3 are marked.
"""
import argparse
import glob
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
from dataclasses import replace

from data import Data, Sizes
from protocol import read_lines
from rows import ROWS
from table import HEAD, Measured, error, lines

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
PACKAGES = ("torch", "transformers", "peft", "trl", "llama-cpp-python", "bayesian-lora", "laplace-torch")
LIMIT = 1200                 # seconds that one process may take


def run(program, args, data, more=()):
    """One process; its result, and its output by id."""
    output = os.path.join(args.work, "output.jsonl")
    command = [sys.executable, os.path.join(HERE, program.script), *program.flags, *more, "--work", args.work,
               "--adapter", args.adapter, "--input", data, "--output", output, "--threads", str(args.threads)]
    for name in program.needs:
        command += [f"--{name}", getattr(args, name)]
    code, printed, errors = finished(command, {**os.environ, "OMP_NUM_THREADS": str(args.threads)})
    if code:
        last = (errors.strip().splitlines() or ["no message"])[-1]
        return {"unavailable": f"exit code {code}: {last}"[:300]}, {}
    result = json.loads(printed.strip().splitlines()[-1])
    return result, {} if "unavailable" in result else {line["id"]: line for line in read_lines(output)}


def finished(command, environment):
    """Exit code and output of a process, which is ended with all that it started when its time is over."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
                               start_new_session=True)
    try:
        printed, errors = process.communicate(timeout=LIMIT)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            return "none", "", f"took more than {LIMIT} s"
        raise
    return process.returncode, printed, errors


def compare(row, measured, outputs):
    """Fills in the differences of every peer from Rewarden, or from the first program that ran."""
    want = next((output for output in outputs if output), {})
    for one, output in zip(measured, outputs):
        if output and output is not want:
            one.errors = {name: error(name, output, want) for name in row.compare}


def check(row, args, data):
    """The outputs that are compared, where they come from a run of their own."""
    path, one = data.path(row.check_data), ("--batch-size", "1")
    ours = run(row.ours, args, path, row.check_flags)[1]
    return [ours] + [{} if program.differs else run(program, args, path, one)[1] for program in row.peers]


def measure(row, args, data):
    """All rounds of a row."""
    programs = [row.ours, *row.peers]
    measured = [Measured(program.name, differs=program.differs) for program in programs]
    settings, outputs = {}, [{} for _ in programs]
    first = ("--batch-size", "2") if args.quick else ()
    for number in range(args.rounds):
        for at, program in enumerate(programs):
            if measured[at].unavailable:
                continue
            progress(f"{row.key}, round {number + 1}: {program.name}")
            result, output = run(program, args, data.path(row.data), settings.get(at, first))
            if "unavailable" in result:
                measured[at].unavailable = result["unavailable"]
                continue
            measured[at].rounds.append(result)
            outputs[at] = outputs[at] or output
            settings[at] = [str(flag) for flag in result.get("setting", [])]
    compare(row, measured, check(row, args, data) if row.check_data else outputs)
    return measured


def progress(text):
    print(text, file=sys.stderr, flush=True)


def machine(args):
    """What the figures were taken on and with."""
    def version(name):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "?")
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        wide = "avx512f" in file.read()
    rewarden = subprocess.run([args.binary, "--version"], capture_output=True, text=True).stdout.strip()
    return {"cores": os.cpu_count(), "threads": args.threads, "cpu": model, "avx512": wide,
            "machine": platform.machine(), "python": platform.python_version(), "rewarden": rewarden,
            "packages": {name: version(name) for name in PACKAGES}}


def description(about, rounds):
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items() if version)
    wide = " with AVX-512" if about["avx512"] else ""
    return (f"{about['cpu']} ({about['machine']}{wide}), {about['cores']} cores, {about['threads']} threads each; "
            f"{about['rewarden']}; Python {about['python']}, {packages}; medians of {rounds} rounds, f32.")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.path.join(ROOT, "..", "shared", "data"),
                        help="folder with test.jsonl.gz and pools.jsonl.gz")
    parser.add_argument("--binary", default=os.path.join(ROOT, "target", "release", "rewarden"))
    parser.add_argument("--base", default=glob.glob(os.path.join(ROOT, "models", "smollm2-*", "*.gguf"))[0])
    parser.add_argument("--adapter", default=os.path.join(ROOT, "models", "default"))
    parser.add_argument("--work", default=os.path.join(ROOT, "target", "peers"))
    parser.add_argument("--rows", default=",".join(row.key for row in ROWS), help="keys, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--items", type=int, help="ragged items for the mean; half as many for the variance")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a few items, one round: whether everything runs")
    parser.add_argument("--json", help="where to write the figures [default: WORK/peers.json]")
    return parser.parse_args()


def sizes(args):
    if args.quick:
        args.rounds = 1
        return Sizes().quick()
    return replace(Sizes(), items=args.items, variance_items=args.items // 2) if args.items else Sizes()


def chosen_rows(keys):
    known = {row.key: row for row in ROWS}
    for key in keys.split(","):
        if key not in known:
            raise SystemExit(f"--rows: no row is called {key} (there are {', '.join(known)})")
        yield known[key]


def main():
    args = arguments()
    rows = list(chosen_rows(args.rows))
    for name in ("binary", "base", "adapter", "work"):
        setattr(args, name, os.path.abspath(getattr(args, name)))
    data = Data(args.work, args.base, args.data)
    data.make(sizes(args))
    about, everything = machine(args), {}
    print(description(about, args.rounds), "", *HEAD, sep="\n", flush=True)
    for row in rows:
        measured = measure(row, args, data)
        everything[row.key] = [one.json() for one in measured]
        print(*lines(row.title, measured), sep="\n", flush=True)
        with open(args.json or os.path.join(args.work, "peers.json"), "w", encoding="utf-8") as file:
            json.dump({"machine": about, "rounds": args.rounds, "rows": everything}, file, indent=1)


if __name__ == "__main__":
    main()
