"""What is measured: real items and pairs, as token ids for every program, and the model in the peers' formats.

| file of the work folder | what |
|---|---|
| `checkpoint/` | the embedded base as a Hugging Face folder, f32 |
| `ragged.jsonl`, `variance.jsonl` | items of the test split, evenly spaced, chosen and rejected by turns |
| `equal.jsonl`, `equal-variance.jsonl` | the same texts, joined and cut to 256 tokens |
| `candidates-1.jsonl`, `candidates-16.jsonl` | prompts of about 300 tokens with 1 and with 16 answers |
| `train.jsonl`, `fit.jsonl`, `check.jsonl` | pairs of the test split, as text and as ids |

The prompts of the pools are short, so a few turns of other pools stand before each.
"""
import gzip
import json
import os
import sys
from dataclasses import dataclass

from protocol import read_lines, write_lines

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
from checkpoint import convert  # noqa: E402
from items import item, messages, read_pairs  # noqa: E402

EQUAL = 256                  # tokens of an item of equal length
PROMPT = 270                 # tokens that a prompt with candidates has at least: about 300 on average
LONGEST = 1024               # longer items and pairs are left out, as TRL does by default


@dataclass(frozen=True)
class Sizes:
    """How much there is of everything."""

    items: int = 60
    variance_items: int = 24
    equal: int = 16
    equal_variance: int = 8
    prompts: int = 1
    train_pairs: int = 8
    fit_pairs: int = 8
    check_pairs: int = 2

    def quick(self):
        return Sizes(4, 3, 2, 2, 1, 2, 2, 1)


class Data:
    """The files of the work folder; `make` writes them."""

    def __init__(self, work, base, source):
        self.work, self.base, self.source = work, base, source

    def path(self, name):
        return os.path.join(self.work, name if "." in name else f"{name}.jsonl")

    @property
    def checkpoint(self):
        return os.path.join(self.work, "checkpoint")

    def make(self, sizes):
        from transformers import AutoTokenizer

        os.makedirs(self.work, exist_ok=True)
        if not os.path.exists(os.path.join(self.checkpoint, "model.safetensors")):
            convert(self.base, self.checkpoint)
        tokenizer = AutoTokenizer.from_pretrained(self.checkpoint)
        encode = lambda conversation: tokenizer.apply_chat_template(conversation, return_dict=False)
        pairs = [pair for pair in map(lambda pair: encoded(pair, encode), self.pairs()) if fits(pair)]
        pools = self.pools()
        files = {"ragged": ragged(pairs, sizes.items), "variance": ragged(pairs, sizes.variance_items),
                 "equal": equal(pairs, sizes.equal, tokenizer.pad_token_id),
                 "equal-variance": equal(pairs, sizes.equal_variance, tokenizer.pad_token_id),
                 "candidates-1": candidates(pools, encode, 8 * sizes.prompts, 1),
                 "candidates-16": candidates(pools, encode, sizes.prompts, 16),
                 "train": spaced(pairs, sizes.train_pairs), "fit": spaced(pairs, sizes.fit_pairs),
                 "check": spaced(pairs, sizes.check_pairs)}
        for name, lines in files.items():
            write_lines(self.path(name), lines)

    def pairs(self):
        return read_pairs(os.path.join(self.source, "test.jsonl.gz"))

    def pools(self):
        with gzip.open(os.path.join(self.source, "pools.jsonl.gz"), "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]


def encoded(pair, encode):
    """The pair with the token ids of both sides."""
    ids = {f"{side}_ids": encode(item(pair, 0, side)["messages"]) for side in ("chosen", "rejected")}
    return {**{key: pair[key] for key in ("prompt", "chosen", "rejected")}, **ids}


def fits(pair):
    return max(len(pair["chosen_ids"]), len(pair["rejected_ids"])) <= LONGEST


def spaced(everything, count):
    """`count` of them, evenly spaced."""
    return [everything[k * len(everything) // count] for k in range(count)]


def ragged(pairs, count):
    """Items as they are."""
    sides = ("chosen_ids", "rejected_ids")
    return [{"id": str(k), "input_ids": pair[sides[k % 2]]} for k, pair in enumerate(spaced(pairs, count))]


def equal(pairs, count, pad):
    """Items of the same length; none ends in padding, which would move the pooled token."""
    stream = [token for pair in pairs for token in pair["chosen_ids"]]
    items = []
    while len(items) < count:
        ids, stream = stream[:EQUAL], stream[EQUAL:]
        if ids[-1] != pad:
            items.append({"id": str(len(items)), "input_ids": ids})
    return items


def turns(pool):
    return messages(pool["prompt"], "user") + messages(pool["responses"][0], "assistant")


def long_prompt(pools, at, encode):
    """The prompt of pool `at` after as many turns of the pools before it as make it long enough."""
    prompt, before = messages(pools[at]["prompt"], "user"), at
    while len(encode(prompt)) < PROMPT:
        before -= 1
        prompt = turns(pools[before % len(pools)]) + prompt
    return prompt


def candidates(pools, encode, prompts, count):
    """`count` answers to each of `prompts` prompts; `group` says which belong together, `candidate` what they are."""
    lines = []
    for group in range(prompts):
        at = group % len(pools)
        prompt = long_prompt(pools, at, encode)
        first = group // len(pools) * count
        for k, response in enumerate(pools[at]["responses"][first:first + count]):
            ids = encode(prompt + messages(response, "assistant"))
            candidate = {"prompt": prompt, "response": response}
            lines.append({"id": f"{group}-{k}", "group": group, "input_ids": ids, "candidate": candidate})
    return lines


def pair_tokens(path):
    """Tokens of both sides of all pairs, each prompt counted twice."""
    return sum(len(pair["chosen_ids"]) + len(pair["rejected_ids"]) for pair in read_lines(path))
