#!/usr/bin/env python3
"""Means with transformers: batches sorted by length and padded, the adapter merged into the weights or beside them.

With `--shared-prompt`, items of one `group` are candidates of one prompt, whose keys and values are computed once.
"""
from functools import partial

import torch

from batches import by_length, chosen_size, padded
from protocol import Stopwatch, main, read_lines, tokens_of, write_lines

SIZES = (1, 4, 8, 16)


@torch.inference_mode()
def score(model, items, size):
    """Means by id."""
    means = {}
    for batch in by_length(items, size):
        ids = padded([item["input_ids"] for item in batch], model.config.pad_token_id)
        rewards = model(input_ids=ids).logits[:, 0].tolist()
        means.update(zip([item["id"] for item in batch], rewards))
    return means


def common_prefix(sequences):
    """How many tokens all sequences begin with, less than the shortest has."""
    first, last = min(sequences), max(sequences)
    same = next((at for at, (a, b) in enumerate(zip(first, last)) if a != b), len(first))
    return min(same, min(map(len, sequences)) - 1)


@torch.inference_mode()
def score_shared(model, items):
    """Means by id; the common tokens of a group go through the model once."""
    groups, means = {}, {}
    for item in items:
        groups.setdefault(item["group"], []).append(item)
    for group in groups.values():
        sequences = [item["input_ids"] for item in group]
        prefix = common_prefix(sequences)
        cache = model.model(input_ids=torch.tensor([sequences[0][:prefix]]), use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(group))
        ids = padded([sequence[prefix:] for sequence in sequences], model.config.pad_token_id)
        rewards = model(input_ids=ids, past_key_values=cache, use_cache=True).logits[:, 0].tolist()
        means.update(zip([item["id"] for item in group], rewards))
    return means


def measure(args):
    from model import load

    watch, items = Stopwatch(), read_lines(args.input)
    model = load(args, merged=not args.unmerged)
    if args.shared_prompt:
        score_shared(model, items[:2])                   # the first call is slower
        way, setting = score_shared, []
    else:
        size = chosen_size(args, SIZES, items, lambda some, size: score(model, some, size))
        way, setting = partial(score, size=size), ["--batch-size", size]
    with watch:
        means = way(model, items)
    write_lines(args.output, [{"id": key, "mean": mean} for key, mean in means.items()])
    return watch.result(len(items), tokens_of(items), setting=setting)


def flags(parser):
    parser.add_argument("--unmerged", action="store_true", help="the adapter beside the weights, as peft computes it")
    parser.add_argument("--shared-prompt", action="store_true")


if __name__ == "__main__":
    main(__doc__, measure, flags)
