#!/usr/bin/env python3
"""Rewarden itself: `score`, `train`, and the first pass of `fit`.

`score --timing` says how long it took. `train` and `fit` show a bar where standard error is a terminal: they are given
one, and the time runs from the line that announces the work to the bar's last token (of the first pass, for `fit`,
which is ended there). With `--factors`, the sums of the first pass are awaited on the disk and their sizes written out.
"""
import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import tempfile
import termios
import time

import numpy as np

from data import pair_tokens
from protocol import Stopwatch, Unavailable, main, read_lines, tokens_of, write_lines

DONE = re.compile(rb"([\d,]+)/([\d,]+) tokens")
WIDE = struct.pack("HHHH", 50, 160, 0, 0)        # rows and columns of the terminal


def environment(args):
    return {**os.environ, "RAYON_NUM_THREADS": str(args.threads), "TERM": "xterm"}


def score(args):
    """Means, and variances unless `--no-variance`."""
    command = [args.binary, "score", "--adapter", args.adapter, "--model", args.base, "--input", args.input,
               "--output", args.output, "--timing"] + ["--no-variance"] * args.no_variance
    done = subprocess.run(command, capture_output=True, text=True, env=environment(args))
    if done.returncode:
        raise SystemExit(f"rewarden score: {done.stderr.strip()}")
    timing, tokens = json.loads(done.stderr.strip().splitlines()[-1]), tokens_of(read_lines(args.input))
    if timing["tokens"] != tokens:
        raise SystemExit(f"rewarden score: counted {timing['tokens']} tokens, not {tokens}")
    return {"items": timing["items"], "tokens": tokens, "seconds": timing["score_seconds"],
            "load_seconds": timing["load_seconds"]}


def shared(args):
    """Means of the candidates of each prompt, the prompt computed once.

    To be filled in with the command that takes candidates of one prompt. The lines of `candidates-16.jsonl` have
    `group`, `input_ids`, and `candidate` with the prompt's messages and the response; what is to be done is to write
    `id` and `mean` to `args.output` and to return what `score` returns.
    """
    raise Unavailable("rewarden has no command for the candidates of one prompt yet")


class Terminal:
    """A process whose standard error is a terminal, with the time of each mark that it writes there."""

    def __init__(self, command, args):
        self.master, end = pty.openpty()
        fcntl.ioctl(end, termios.TIOCSWINSZ, WIDE)
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=end, env=environment(args))
        os.close(end)
        self.seen = b""

    def until(self, found):
        """Reads until `found(text so far)` is true; returns the time."""
        while not found(self.seen):
            try:
                more = os.read(self.master, 65536)
            except OSError:                              # the other end is closed
                more = b""
            if not more:
                text = self.seen.decode(errors="replace")[-500:]
                raise SystemExit(f"rewarden ended with code {self.process.wait()}: {text}")
            self.seen += more
        return time.perf_counter()

    def rest(self):
        """Reads to the end and returns the exit code."""
        try:
            while os.read(self.master, 65536):
                pass
        except OSError:
            pass
        os.close(self.master)
        return self.process.wait()


def tokens_done(text):
    """(done, all) of the bar, as last drawn."""
    drawn = DONE.findall(text)
    return tuple(int(number.replace(b",", b"")) for number in drawn[-1]) if drawn else (0, 1)


def train(args):
    """`--steps` steps, each on all pairs; their losses go to `--output`."""
    folder, pairs = tempfile.mkdtemp(dir=args.work), read_lines(args.input)
    command = [args.binary, "train", "--model", args.base, "--adapter", args.adapter, "--data", args.input,
               "--output", folder, "--batch-size", str(len(pairs)), "--epochs", str(args.steps), "--holdout", "0",
               "--warm-up", "0", "--checkpoint-every", "1000"]
    begin = time.perf_counter()
    terminal = Terminal(command, args)
    try:
        started = terminal.until(lambda text: b"training on" in text)
        done = terminal.until(lambda text: len(set(tokens_done(text))) == 1)
        if terminal.rest():
            raise SystemExit("rewarden train failed")
        losses = read_lines(os.path.join(folder, "losses.jsonl"))
    finally:
        terminal.process.kill()
        shutil.rmtree(folder)
    write_lines(args.output, [{"id": f"step {line['step']}", "mean": line["loss"]} for line in losses])
    return {"items": 2 * len(pairs) * args.steps, "tokens": pair_tokens(args.input) * args.steps,
            "seconds": done - started, "load_seconds": started - begin}


def fit(args):
    """The first pass alone."""
    folder, tokens = tempfile.mkdtemp(dir=args.work), pair_tokens(args.input)
    output = os.path.join(folder, "posterior.safetensors")
    command = [args.binary, "fit", "--model", args.base, "--adapter", args.adapter, "--data", args.input,
               "--output", output]
    begin = time.perf_counter()
    terminal = Terminal(command, args)
    try:
        started = terminal.until(lambda text: b"fitting to" in text)
        done = terminal.until(lambda text: tokens_done(text)[0] >= tokens)
        if args.factors:
            write_lines(args.output, summaries(written(f"{output}.pass1", terminal.process)))
    finally:
        terminal.process.kill()
        terminal.process.wait()
        shutil.rmtree(folder)
    return {"items": 2 * len(read_lines(args.input)), "tokens": tokens, "seconds": done - started,
            "load_seconds": started - begin}


def written(path, process):
    """The checkpoint of the first pass, once it has its name."""
    while not os.path.exists(path):
        if process.poll() is not None:
            raise SystemExit(f"rewarden fit ended with code {process.returncode}, without {path}")
        time.sleep(0.1)
    return path


def summaries(path):
    """Trace and Frobenius norm of every factor, from the packed lower triangles in a fit's checkpoint."""
    from safetensors import safe_open

    lines = []
    with safe_open(path, "np") as file:
        for name in file.keys():
            side, _, block = name.partition(":")
            if side in ("input", "output"):
                packed = file.get_tensor(name)
                size = (int((8 * len(packed) + 1) ** 0.5) - 1) // 2
                diagonal = packed[np.cumsum(np.arange(1, size + 1)) - 1]
                norm = np.sqrt(2 * (packed ** 2).sum() - (diagonal ** 2).sum())
                lines.append({"id": f"{block} {side}", "trace": diagonal.sum(), "norm": norm})
    return lines


WAYS = {"score": score, "shared": shared, "train": train, "fit": fit}


def flags(parser):
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--base", required=True, help="GGUF file of the embedded base")
    parser.add_argument("--no-variance", action="store_true")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--factors", action="store_true")


if __name__ == "__main__":
    main(__doc__, lambda args: WAYS[args.way](args), flags)
