"""Padded batches: items sorted by length, padded at the right to the longest of the batch.

Under causal attention no token sees what stands to its right, so right padding needs no attention mask, which spares
PyTorch the mask: this is the fastest exact way. The reward is read at the rightmost token that is not padding.
"""
import time

import torch


def by_length(items, size):
    """Chunks of `size` items, shortest first."""
    ordered = sorted(items, key=lambda item: len(item["input_ids"]))
    return [ordered[at:at + size] for at in range(0, len(ordered), size)]


def padded(sequences, pad):
    """(n, T) token ids."""
    longest = max(map(len, sequences))
    return torch.tensor([ids + [pad] * (longest - len(ids)) for ids in sequences])


def pooled(ids, pad):
    """Where the reward of every row is read."""
    return (torch.arange(ids.shape[-1]) * (ids != pad)).argmax(-1)


def sample(items, count):
    """About `count` items, evenly spaced over the lengths."""
    ordered = sorted(items, key=lambda item: len(item["input_ids"]))
    return ordered[::max(1, len(ordered) // count)]


def fastest(choices, items, score):
    """The choice with which `score(items, choice)` takes the least time."""
    seconds = {}
    for choice in choices:
        score(items[:1], choice)                         # first calls are slower
        begin = time.perf_counter()
        score(items, choice)
        seconds[choice] = time.perf_counter() - begin
    return min(seconds, key=seconds.get)


def chosen_size(args, sizes, items, score, count=12):
    """`--batch-size`, or the fastest of `sizes` on a sample; a small call warms up either way."""
    if args.batch_size:
        score(sample(items, 2), args.batch_size)
        return args.batch_size
    return fastest(sizes, sample(items, count), score)
