#!/usr/bin/env python3
"""Scores items one at a time with PyTorch, transformers and PEFT: the loop that one would write by hand.

    python benches/pytorch_loop.py --model FOLDER --adapter DIR --input IDS.jsonl --output OUT.jsonl [--no-variance]

Items are lines of `id` and `input_ids`. The variance is that of `posterior.safetensors` in the adapter's folder: one
backward pass an item, then the formula of docs/maths.md block by block. The last line on stderr is a JSON object:
load_seconds, score_seconds, items, tokens.
"""
import argparse
import json
import os
import sys
import time

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()


class Block:
    """One trainable matrix with its posterior; everything that no item changes is computed once."""

    def __init__(self, parameter, posterior):
        self.parameter = parameter
        self.input_basis, self.output_basis = posterior["input_basis"], posterior["output_basis"]
        precision = posterior["prior_precision"]
        tail = posterior.get("tail", torch.zeros(1))
        self.inverse, self.tail_inverse = 1 / (posterior["curvature"] + precision), 1 / (tail + precision)
        self.input_truncated = self.input_basis.shape[0] > self.input_basis.shape[1]
        self.output_truncated = self.output_basis.shape[0] > self.output_basis.shape[1]

    def variance(self):
        """cov_b of the reward with itself, from the gradient that the backward pass left."""
        J, Ui, Uo = self.parameter.grad, self.input_basis, self.output_basis
        left = Uo.T @ J
        q = left @ Ui
        variance = (q * q * self.inverse).sum()
        if self.input_truncated:
            residual = left - q @ Ui.T
            variance += ((residual * residual).sum(1) * self.tail_inverse).sum()
        elif self.output_truncated:
            residual = J @ Ui - Uo @ q
            variance += ((residual * residual).sum(0) * self.tail_inverse).sum()
        return variance


def block_name(parameter):
    """PEFT's parameter name -> name of its block in the posterior."""
    return parameter.replace(".default", "").replace(".modules_to_save", "").removesuffix(".weight")


def load_blocks(model, path):
    """Pairs every trainable parameter with its posterior."""
    tensors, blocks = load_file(path), []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            b = block_name(name)
            kinds = ("input_basis", "output_basis", "curvature", "prior_precision", "tail")
            posterior = {kind: tensors[f"{b}.{kind}"].float() for kind in kinds if f"{b}.{kind}" in tensors}
            blocks.append(Block(parameter, posterior))
    return blocks


def load_model(folder, adapter):
    base = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
    return PeftModel.from_pretrained(base, adapter, is_trainable=True).eval()


def score(model, blocks, ids):
    """Mean, and variance where there are blocks, of one item."""
    if blocks is None:
        with torch.inference_mode():
            return model(input_ids=torch.tensor([ids])).logits[0, 0].item(), None
    model.zero_grad()
    reward = model(input_ids=torch.tensor([ids])).logits[0, 0]
    reward.backward()
    with torch.no_grad():
        return reward.item(), sum(block.variance() for block in blocks).item()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--no-variance", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    begin = time.perf_counter()
    model = load_model(args.model, args.adapter)
    blocks = None if args.no_variance else load_blocks(model, os.path.join(args.adapter, "posterior.safetensors"))
    with open(args.input, encoding="utf-8") as file:
        items = [json.loads(line) for line in file]
    score(model, blocks, items[0]["input_ids"])        # first calls are slower; they count as loading
    loaded = time.perf_counter()
    scores = [score(model, blocks, item["input_ids"]) for item in items]
    done = time.perf_counter()
    with open(args.output, "w", encoding="utf-8") as file:
        for item, (mean, variance) in zip(items, scores):
            file.write(json.dumps({"id": item["id"], "mean": mean, "variance": variance}) + "\n")
    tokens = sum(len(item["input_ids"]) for item in items)
    print(json.dumps({"load_seconds": loaded - begin, "score_seconds": done - loaded, "items": len(items),
                      "tokens": tokens}), file=sys.stderr)


if __name__ == "__main__":
    main()
