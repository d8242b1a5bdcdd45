#!/usr/bin/env python3
"""Divides preference pairs into the halves of `rewarden evaluate selection`, by the SHA-256 of the prompt's text.

    python benches/halves.py test.jsonl.gz choice.jsonl judged.jsonl

The first byte of the hash of the prompt's messages, a line feed between them, is even for the choice half. A posterior that is
calibrated on the choice half alone has not seen the half that its rule is judged on.
"""

import gzip
import hashlib
import json
import sys


def text(prompt):
    messages = [{"content": prompt}] if isinstance(prompt, str) else prompt
    return "\n".join(message["content"] for message in messages)


def main():
    data, *halves = sys.argv[1:]
    opened = gzip.open(data, "rt") if data.endswith(".gz") else open(data)
    with opened as lines, open(halves[0], "w") as choice, open(halves[1], "w") as judged:
        for line in lines:
            first = hashlib.sha256(text(json.loads(line)["prompt"]).encode()).digest()[0]
            (judged if first % 2 else choice).write(line)


if __name__ == "__main__":
    main()
