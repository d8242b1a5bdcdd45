#!/usr/bin/env python3
"""Speed of `rewarden score` beside a PyTorch loop over single items (pytorch_loop.py), on the same items and cores.

    python benches/compare.py BINARY ITEMS.jsonl ADAPTER [--base MODEL.gguf] [--rounds 3] [--threads 2] [--work DIR]

ADAPTER is a PEFT folder with `posterior.safetensors`, for the embedded base. Both programs run by turns, alone on the
machine; medians over the rounds are reported, without the time that loading takes. Needs torch, transformers, peft,
gguf, safetensors, tokenizers and jinja2.
"""
import argparse
import glob
import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass

from transformers import AutoTokenizer

from checkpoint import convert

HERE = os.path.dirname(os.path.abspath(__file__))
EMBEDDED = os.path.join(HERE, "..", "models", "smollm2-135m-instruct", "*.gguf")


@dataclass(frozen=True)
class Paths:
    """Where everything is."""

    binary: str
    base: str
    adapter: str
    items: str
    work: str

    @property
    def checkpoint(self):
        return os.path.join(self.work, "checkpoint")

    @property
    def ids(self):
        return os.path.join(self.work, "ids.jsonl")

    def output(self, program):
        return os.path.join(self.work, f"{program}.jsonl")


def read_lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def token_ids(tokenizer, item):
    if "input_ids" in item:
        return item["input_ids"]
    if "text" in item:
        return tokenizer(item["text"], add_special_tokens=False)["input_ids"]
    messages = item.get("messages")
    if messages is None:
        prompt = item["prompt"]
        before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        messages = before + [{"role": "assistant", "content": item["response"]}]
    return tokenizer.apply_chat_template(messages, return_dict=False)


def prepare(paths):
    """Makes what PyTorch reads: the base as a Hugging Face folder, and the items as token ids."""
    os.makedirs(paths.work, exist_ok=True)
    if not os.path.exists(os.path.join(paths.checkpoint, "model.safetensors")):
        convert(paths.base, paths.checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(paths.checkpoint)
    with open(paths.ids, "w", encoding="utf-8") as file:
        for at, item in enumerate(read_lines(paths.items)):
            line = {"id": item.get("id", str(at)), "input_ids": token_ids(tokenizer, item)}
            file.write(json.dumps(line) + "\n")


def timed(command, threads):
    """Runs a scorer and returns the timing on its last line."""
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed with code {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stderr.strip().splitlines()[-1])


def run(program, paths, threads, flags):
    rewarden = [paths.binary, "score", "--model", paths.base, "--adapter", paths.adapter, "--input", paths.items,
                "--output", paths.output("rewarden"), "--timing"]
    pytorch = [sys.executable, os.path.join(HERE, "pytorch_loop.py"), "--model", paths.checkpoint,
               "--adapter", paths.adapter, "--input", paths.ids, "--output", paths.output("pytorch"),
               "--threads", str(threads)]
    return timed({"rewarden": rewarden, "pytorch": pytorch}[program] + flags, threads)


def differences(paths):
    """Largest difference of the means, relative to max(1, |mean|), and of the variances, relative."""
    got, want = (read_lines(paths.output(program)) for program in ("rewarden", "pytorch"))
    ids = read_lines(paths.ids)
    if not len(got) == len(want) == len(ids):
        raise SystemExit(f"{len(got)} scores against {len(want)} for {len(ids)} items")
    for record, item in zip(got, ids):
        if record["tokens"] != len(item["input_ids"]):
            raise SystemExit(f"item {item['id']}: {record['tokens']} tokens against {len(item['input_ids'])}")
    mean = max(abs(g["mean"] - w["mean"]) / max(1, abs(w["mean"])) for g, w in zip(got, want))
    if want[0]["variance"] is None:
        return mean, None
    return mean, max(abs(g["variance"] - w["variance"]) / w["variance"] for g, w in zip(got, want))


def measure(paths, args, flags):
    """Timings of each program, fastest first, and the differences of what they wrote last."""
    timings = {"rewarden": [], "pytorch": []}
    for _ in range(args.rounds):
        for program, seen in timings.items():
            seen.append(run(program, paths, args.threads, flags))
    for seen in timings.values():
        seen.sort(key=lambda timing: timing["score_seconds"])
    return timings, differences(paths)


def rows(title, timings):
    """Rows of the table for one mode."""
    speeds = {}
    for program, seen in timings.items():
        seconds = statistics.median(timing["score_seconds"] for timing in seen)
        speeds[program] = seen[0]["items"] / seconds
        tokens, spread = seen[0]["tokens"] / seconds, seen[-1]["score_seconds"] / seen[0]["score_seconds"] - 1
        yield f"| {title} | {program} | {speeds[program]:.2f} | {tokens:.0f} | {spread:.0%} |"
    yield f"| {title} | ratio | **{speeds['rewarden'] / speeds['pytorch']:.2f}** | | |"


def note(title, mean, variance):
    variances = "" if variance is None else f", variances by {variance:.1e} of themselves"
    return f"{title}: means differ by at most {mean:.1e}{variances}"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("items")
    parser.add_argument("adapter")
    embedded = glob.glob(EMBEDDED)
    parser.add_argument("--base", default=next(iter(embedded), None), required=not embedded)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", default=os.path.join(HERE, "..", "target", "compare"))
    return parser.parse_args()


def main():
    args = arguments()
    paths = Paths(os.path.abspath(args.binary), args.base, args.adapter, args.items, args.work)
    prepare(paths)
    print(f"{os.cpu_count()} cores ({platform.machine()}), {args.threads} threads each, median of {args.rounds} rounds")
    print()
    print("| | program | items/s | tokens/s | slowest over fastest |\n|---|---|---|---|---|")
    notes = []
    for title, flags in (("mean", ["--no-variance"]), ("mean + variance", [])):
        timings, errors = measure(paths, args, flags)
        print(*rows(title, timings), sep="\n", flush=True)
        notes.append(note(title, *errors))
    print("", *notes, sep="\n")


if __name__ == "__main__":
    main()
