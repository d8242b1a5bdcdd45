#!/usr/bin/env python3
"""The factors of laplace-torch: `KronLaplace` with the likelihood `reward_modeling`, over LoRA weights and head.

Its backend's `kron` is called batch by batch as `fit` does, without the eigendecompositions at the end of `fit`.
The backend is the default, curvlinops; with asdl a second call fails on peft's `ModulesToSaveWrapper`.
"""
import torch

from batches import chosen_size, padded
from protocol import Stopwatch, Unavailable, main, read_lines, tokens_of, write_lines

SIZES = (1, 2)                                          # pairs in a batch


class Rewards(torch.nn.Module):
    """(B, 2, T) ids -> (B, 2) rewards for pairs, and (B, T) -> (B, 1) for single ones, as laplace-torch wants them."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, data):
        ids = data["input_ids"]
        rewards = self.model(input_ids=ids.flatten(0, -2)).logits[:, 0]
        return rewards.reshape(ids.shape[0], -1)


def loader(pairs, pad, size):
    """Batches of pairs with the label 0: the first is the better one."""
    from torch.utils.data import DataLoader

    rows = [{"input_ids": [pair["chosen_ids"], pair["rejected_ids"]]} for pair in pairs]
    rows.sort(key=lambda row: max(map(len, row["input_ids"])))

    def collate(batch):
        ids = padded([ids for row in batch for ids in row["input_ids"]], pad)
        return {"input_ids": ids.reshape(len(batch), 2, -1), "labels": torch.zeros(len(batch), dtype=torch.long)}

    return DataLoader(rows, batch_size=size, collate_fn=collate)


def factors(model, pairs, size):
    """The Kronecker factors, summed over batches, by laplace-torch's backend."""
    from laplace import Laplace
    from laplace.curvature import CurvlinopsGGN

    posterior = Laplace(Rewards(model), "reward_modeling", subset_of_weights="all", hessian_structure="kron",
                        backend=CurvlinopsGGN)
    total = None
    for data in loader(pairs, model.config.pad_token_id, size):
        _, kron = posterior.backend.kron(data, data["labels"], N=len(pairs))
        total = kron if total is None else total + kron
    return total


def measure(args):
    import laplace  # noqa: F401

    from model import load

    watch, pairs = Stopwatch(), read_lines(args.input)
    items = [{**pair, "input_ids": pair["chosen_ids"] + pair["rejected_ids"]} for pair in pairs]
    model = load(args, trainable=True)
    try:
        size = chosen_size(args, SIZES, items, lambda some, size: factors(model, some, size), count=2)
    except Exception as error:                           # whatever the library raises is the answer
        raise Unavailable(f"{type(error).__name__}: {error}"[:200]) from error
    with watch:
        factors(model, pairs, size)
    write_lines(args.output, [])
    return watch.result(2 * len(pairs), tokens_of(items), setting=["--batch-size", size])


if __name__ == "__main__":
    main(__doc__, measure)
