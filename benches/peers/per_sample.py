#!/usr/bin/env python3
"""Means and variances from the gradient of every single reward, in PyTorch.

`--way loop` calls one forward and one backward an item; `--way vmap` takes torch.func's vmap(grad) over padded batches.
Both contract the gradients with the posterior, block by block. vmap has no rule for PyTorch's fused attention and falls
back to a loop there, so `eager` attention is tried too.
"""
import torch
from torch.func import functional_call, grad_and_value, vmap

from batches import by_length, fastest, padded, pooled, sample
from protocol import Stopwatch, main, read_lines, tokens_of, write_lines

CHOICES = tuple((size, attention) for attention in ("sdpa", "eager") for size in (2, 4, 8))


def loop(model, posterior, items):
    """(mean, variance) by id, one item at a time."""
    scores = {}
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    for item in items:
        model.zero_grad()
        reward = model(input_ids=torch.tensor([item["input_ids"]])).logits[0, 0]
        reward.backward()
        variance = posterior.variances({name: value.grad[None] for name, value in parameters.items()})
        scores[item["id"]] = reward.item(), variance.item()
    return scores


def batched(model, posterior, items, size):
    """(mean, variance) by id, vmap(grad) over padded batches."""
    split = {True: {}, False: dict(model.named_buffers())}
    for name, value in model.named_parameters():
        split[value.requires_grad][name] = value.detach()
    trainable, frozen = split[True], split[False]
    backbone, pad = model.base_model.model, model.config.pad_token_id

    def reward(parameters, ids, at):
        """The reward of one sequence, (T)."""
        everything = {**frozen, **parameters}
        inner = {name.removeprefix("base_model.model."): value for name, value in everything.items()}
        logits = functional_call(backbone, inner, kwargs={"input_ids": ids[None], "pooled": at})
        return logits

    gradients = vmap(grad_and_value(reward), in_dims=(None, 0, 0))
    scores = {}
    for batch in by_length(items, size):
        ids = padded([item["input_ids"] for item in batch], pad)
        J, means = gradients(trainable, ids, pooled(ids, pad))
        variances = posterior.variances(J)
        scores.update(zip([item["id"] for item in batch], zip(means.tolist(), variances.tolist())))
    return scores


def pool_inside(model):
    """Gives the classifier a forward that pools at a given token: transformers' own looks at the values of ids."""
    classifier = model.base_model.model

    def forward(input_ids, pooled):
        hidden = classifier.model(input_ids=input_ids, use_cache=False).last_hidden_state[0]
        return classifier.score(hidden.index_select(0, pooled[None]))[0, 0]

    classifier.forward = forward


def one_by_one(_, model, posterior, items):
    """The loop, warmed up, and its setting: none."""
    loop(model, posterior, items[:2])
    return lambda some: loop(model, posterior, some), []


def in_batches(args, model, posterior, items):
    """vmap with its setting: the flags', or the fastest."""
    pool_inside(model)

    def score(some, choice):
        size, attention = choice
        model.base_model.model.set_attn_implementation(attention)
        return batched(model, posterior, some, size)

    choice = args.batch_size, args.attention
    if args.batch_size:
        score(items[:2], choice)
    else:
        choice = fastest(CHOICES, sample(items, 8), score)
    return lambda some: score(some, choice), ["--batch-size", choice[0], "--attention", choice[1]]


def measure(args):
    from model import load
    from posterior import Posterior

    watch, items = Stopwatch(), read_lines(args.input)
    model = load(args, trainable=True)
    posterior = Posterior(model, args.adapter)
    way, setting = (one_by_one if args.way == "loop" else in_batches)(args, model, posterior, items)
    with watch:
        scores = way(items)
    write_lines(args.output, [{"id": key, "mean": mean, "variance": variance}
                              for key, (mean, variance) in scores.items()])
    return watch.result(len(items), tokens_of(items), setting=setting)


def flags(parser):
    parser.add_argument("--way", choices=("loop", "vmap"), required=True)
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa")


if __name__ == "__main__":
    main(__doc__, measure, flags)
