#!/usr/bin/env python3
"""Kronecker factors of the LoRA weights from pairs: what the first pass of `rewarden fit` sums.

`--way package` calls bayesian-lora's `calculate_kronecker_factors`, unpatched. It is made for classifiers: a pair becomes
a batch row with the two rewards as logits, which is Bradley and Terry's likelihood. It takes the *last token* of every
sequence alone (hence left padding here) and samples the labels, so its factors are other ones than Rewarden's, and its
sums are cheaper.

`--way hooks` sums over all tokens what Rewarden sums: inputs and gradients of each reward at every LoRA matrix, times
the pair's p (1 - p), in the package's manner (a forward and a backward hook a matrix), over right-padded batches. The
factors must agree with Rewarden's.
"""
import torch

from batches import chosen_size, padded
from protocol import Stopwatch, main, read_lines, tokens_of, write_lines

SIZES = (1, 2, 4)                                       # pairs in a batch


def batches_of(pairs, size):
    """Chunks of `size` pairs, shortest first; a batch's rows are all chosen, then all rejected."""
    ordered = sorted(pairs, key=lambda pair: len(pair["chosen_ids"]) + len(pair["rejected_ids"]))
    for at in range(0, len(ordered), size):
        batch = ordered[at:at + size]
        yield [pair[side] for side in ("chosen_ids", "rejected_ids") for pair in batch]


def package(model, pairs, size):
    """The factors of bayesian-lora, by module: (input, output)."""
    from bayesian_lora import calculate_kronecker_factors

    def forward(model, sequences):
        longest, pad = max(map(len, sequences)), model.config.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(ids)) + ids for ids in sequences])
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in sequences])
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        rewards = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, 0]
        return rewards.reshape(2, -1).T                  # (pairs, 2)

    return calculate_kronecker_factors(model, forward, list(batches_of(pairs, size)),
                                       target_module_keywords=["lora_"])


class Sums:
    """The factors of one linear layer; the hooks of its forward and backward."""

    def __init__(self, name, layer, context):
        self.input = torch.zeros(layer.in_features, layer.in_features)
        self.output = torch.zeros(layer.out_features, layer.out_features)
        # The first token attends to itself alone, so its query has no gradient; what PyTorch gives it is rounding.
        self.first = int(".q_proj." in name)
        self.context = context
        self.handles = [layer.register_forward_pre_hook(self.forward), layer.register_full_backward_hook(self.backward)]

    def forward(self, _, inputs):
        self.x = inputs[0].detach()

    def backward(self, _, __, gradients):
        g = gradients[0]
        # Rows whose gradient is zero (padding; at the last layer all but the pooled) count on neither side.
        used = g.abs().sum(2) > 0
        used[:, :self.first] = False
        used = used.flatten()
        weight = self.context["weights"][:, None].expand(g.shape[:2]).flatten()[used, None]
        x, g = self.x.flatten(0, 1)[used], g.flatten(0, 1)[used]
        self.input += (weight * x).T @ x
        self.output += (weight * g).T @ g


def hooks(model, pairs, size):
    """Rewarden's factors, by module: (input, output)."""
    context, pad = {}, model.config.pad_token_id
    layers = {name: layer for name, layer in model.named_modules()
              if ".lora_" in name and isinstance(layer, torch.nn.Linear)}
    sums = {name: Sums(name, layer, context) for name, layer in layers.items()}
    for sequences in batches_of(pairs, size):
        model.zero_grad()
        rewards = model(input_ids=padded(sequences, pad)).logits[:, 0]
        chosen, rejected = rewards.detach().chunk(2)
        p = torch.sigmoid(chosen - rejected)
        context["weights"] = (p * (1 - p)).repeat(2)
        rewards.sum().backward()
    for one in sums.values():
        for handle in one.handles:
            handle.remove()
    return {name: (one.input, one.output) for name, one in sums.items()}


WAYS = {"package": package, "hooks": hooks}


def summaries(factors):
    """Trace and Frobenius norm of every factor."""
    for name, (A, G) in factors.items():
        block = name.removesuffix(".default").replace(".lora_A.default", ".lora_A")
        for side, factor in (("input", A), ("output", G)):
            yield {"id": f"{block} {side}", "trace": factor.trace().item(), "norm": factor.double().norm().item()}


def measure(args):
    from model import load

    watch, pairs = Stopwatch(), read_lines(args.input)
    items = [{**pair, "input_ids": pair["chosen_ids"] + pair["rejected_ids"]} for pair in pairs]
    model, way = load(args, trainable=True), WAYS[args.way]
    size = chosen_size(args, SIZES, items, lambda some, size: way(model, some, size), count=4)
    with watch:
        factors = way(model, pairs, size)
    write_lines(args.output, summaries(factors))
    return watch.result(2 * len(pairs), tokens_of(items), setting=["--batch-size", size])


if __name__ == "__main__":
    main(__doc__, measure, lambda parser: parser.add_argument("--way", choices=WAYS, required=True))
