#!/usr/bin/env python3
"""Makes a file of items to score from preference pairs: evenly spaced, chosen and rejected answers by turns.

    python benches/items.py PAIRS.jsonl.gz --count 200 --output items.jsonl
"""
import argparse
import gzip
import json


def read_pairs(path):
    opened = gzip.open(path, "rt", encoding="utf-8") if path.endswith(".gz") else open(path, encoding="utf-8")
    with opened as file:
        return [json.loads(line) for line in file if line.strip()]


def messages(said, role):
    """A string becomes one message; a conversation, or its part, stays as it is."""
    return [{"role": role, "content": said}] if isinstance(said, str) else said


def item(pair, at, side):
    conversation = messages(pair.get("prompt", []), "user") + messages(pair[side], "assistant")
    return {"id": f"{at}-{side}", "messages": conversation}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--output", required=True)
    args = parser.parse_args()
    pairs = read_pairs(args.pairs)
    if not 0 < args.count <= len(pairs):
        raise SystemExit(f"--count {args.count}: the file has {len(pairs)} pairs")
    with open(args.output, "w", encoding="utf-8") as file:
        for k in range(args.count):
            at = k * len(pairs) // args.count
            line = item(pairs[at], at, "rejected" if k % 2 else "chosen")
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
