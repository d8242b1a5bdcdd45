"""What every peer has in common: its flags, its lines, and the one line of JSON that it prints last.

A peer is a process of its own. It reads the lines of `--input`, does its work once, and prints

    {"items", "tokens", "seconds", "load_seconds", "setting"}    or    {"unavailable": "the reason"}

`seconds` are those of the work alone: loading and a first, slower call come before. `setting` are the flags of what the
peer found to be fastest, such as its batch size, for the next rounds. What it computed goes to `--output`, a line an
item, for run.py to compare.
"""
import argparse
import contextlib
import json
import os
import sys
import time


class Unavailable(Exception):
    """The peer cannot do this here; the table says why."""


def read_lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def write_lines(path, lines):
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def arguments(doc, extra):
    """The common flags, and those that `extra` adds to the parser."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, help="folder that data.py has filled")
    parser.add_argument("--adapter", required=True, help="PEFT folder with posterior.safetensors")
    parser.add_argument("--input", required=True, help="lines of data.py")
    parser.add_argument("--output", required=True, help="what was computed, a line an item")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=0, help="0: the fastest of a few, found before the work")
    extra(parser)
    return parser.parse_args()


def main(doc, measure, extra=lambda parser: None):
    """Runs `measure(args)` and prints the result, which is the last line of standard output."""
    args = arguments(doc, extra)
    os.environ.update(OMP_NUM_THREADS=str(args.threads), HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            result = measure(args)
    except (ImportError, Unavailable) as error:
        result = {"unavailable": str(error)}
    print(json.dumps(result))


class Stopwatch:
    """Seconds of loading, until `work` is entered, and of the work inside it."""

    def __init__(self):
        self.begin = time.perf_counter()

    def __enter__(self):
        self.started = time.perf_counter()
        return self

    def __exit__(self, *_):
        self.done = time.perf_counter()

    def result(self, items, tokens, **more):
        return {"items": items, "tokens": tokens, "seconds": self.done - self.started,
                "load_seconds": self.started - self.begin, **more}


def tokens_of(items):
    return sum(len(item["input_ids"]) for item in items)
