#!/usr/bin/env python3
"""Checks that Python PEFT gives the same rewards as the program, with an adapter that the program has trained.

    python .ci/peft_roundtrip.py BINARY WORKDIR

Makes a tiny model under WORKDIR, trains an adapter on its pairs with BINARY, scores its items with BINARY and with
PEFT, and prints the largest error; the exit code is 1 when that is past 1e-4 of max(1, |reward|).
"""
import json
import os
import shutil
import subprocess
import sys

FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "fixtures")
sys.path.insert(0, FIXTURES)

import torch
from peft import PeftModel

from case import LINEARS, Case, build, load_base
from reference import make_items, make_pairs, write_lines

TOLERANCE = 1e-4
TRAIN = ["--rank", "4", "--epochs", "1", "--batch-size", "4", "--learning-rate", "1e-3", "--seed", "1"]


def run(*command):
    """Runs the program; its last words become the error if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[1]} failed with code {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def trained(binary, workdir):
    """Makes the model and trains the adapter; returns the model and its items."""
    shutil.rmtree(workdir, ignore_errors=True)
    built = build(Case("llama", 11, head="causal", targets=LINEARS), workdir)
    items, _ = make_items(built)
    write_lines(os.path.join(workdir, "inputs.jsonl"), items)
    write_lines(os.path.join(workdir, "pairs.jsonl"), make_pairs(built))
    run(binary, "train", "--model", os.path.join(workdir, "base"), "--data", os.path.join(workdir, "pairs.jsonl"),
        "--output", os.path.join(workdir, "trained"), *TRAIN)
    return built, items


def rewards_of_binary(binary, workdir):
    base, adapter = os.path.join(workdir, "base"), os.path.join(workdir, "trained")
    lines = run(binary, "score", "--model", base, "--adapter", adapter,
                "--input", os.path.join(workdir, "inputs.jsonl"), "--output", "-")
    return {record["id"]: record["mean"] for record in map(json.loads, lines.splitlines())}


@torch.no_grad()
def rewards_of_peft(built, items, workdir):
    base = load_base(os.path.join(workdir, "base"))
    model = PeftModel.from_pretrained(base, os.path.join(workdir, "trained")).eval()
    return {item["id"]: model(input_ids=torch.tensor([built.encode(item)])).logits[0, 0].item() for item in items}


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__.strip())
    binary, workdir = sys.argv[1:]
    built, items = trained(binary, workdir)
    got, want = rewards_of_binary(binary, workdir), rewards_of_peft(built, items, workdir)
    if set(got) != set(want):
        raise SystemExit(f"items differ: {sorted(set(got) ^ set(want))}")
    if max(want.values()) - min(want.values()) < 1e-3:
        raise SystemExit("the trained adapter gives every item the same reward: nothing was compared")
    error = max(abs(got[i] - w) / max(1, abs(w)) for i, w in want.items())
    print(f"{len(want)} rewards, largest error {error:.1e}")
    raise SystemExit(not error <= TOLERANCE)


if __name__ == "__main__":
    main()
