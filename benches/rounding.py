#!/usr/bin/env python3
"""What `--compute int8` gains and costs: speed, errors of the mean, and changes of rank, on preference pairs.

    python benches/rounding.py BINARY PAIRS.jsonl.gz [--count 120] [--adapter DIR]

Both answers of evenly spaced pairs are scored in f32 and in int8, by turns, `--rounds` times; loading is not counted.
"""
import argparse
import json
import os
import statistics
import subprocess
import tempfile

from items import item, read_pairs


def score(binary, flags, items, output):
    """Seconds, tokens, and means by id."""
    command = [binary, "score", "--input", items, "--output", output, "--no-variance", "--timing", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    timing = json.loads(done.stderr.strip().splitlines()[-1])
    with open(output, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    return timing["score_seconds"], timing["tokens"], {line["id"]: line["mean"] for line in lines}


def ranks(values):
    order = sorted(range(len(values)), key=values.__getitem__)
    return [rank for _, rank in sorted(zip(order, range(len(values))))]


def table(exact, rounded, places):
    ids = sorted(exact)
    f32, int8 = [exact[i] for i in ids], [rounded[i] for i in ids]
    errors = [b - a for a, b in zip(f32, int8)]
    better = {side: [means[f"{at}-chosen"] > means[f"{at}-rejected"] for at in places]
              for side, means in (("f32", exact), ("int8", rounded))}
    yield "standard deviation of the f32 means", statistics.pstdev(f32)
    yield "error of the mean, root mean square", statistics.fmean(e * e for e in errors) ** 0.5
    yield "error of the mean, largest", max(map(abs, errors))
    yield "error of the mean, average", statistics.fmean(errors)
    yield "Spearman correlation", statistics.correlation(ranks(f32), ranks(int8))
    yield "pairs", len(places)
    yield "pairs whose order changes", sum(a != b for a, b in zip(better["f32"], better["int8"]))
    yield "pairs in the right order, f32", sum(better["f32"])
    yield "pairs in the right order, int8", sum(better["int8"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("pairs")
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--adapter", help="the embedded default if it is not given")
    args = parser.parse_args()
    pairs = read_pairs(args.pairs)
    if not 0 < args.count <= len(pairs):
        raise SystemExit(f"--count {args.count}: the file has {len(pairs)} pairs")
    places = [k * len(pairs) // args.count for k in range(args.count)]
    flags = ["--adapter", args.adapter] if args.adapter else []
    with tempfile.TemporaryDirectory() as folder:
        items, output = os.path.join(folder, "items.jsonl"), os.path.join(folder, "output.jsonl")
        with open(items, "w", encoding="utf-8") as file:
            for at in places:
                for side in ("chosen", "rejected"):
                    file.write(json.dumps(item(pairs[at], at, side)) + "\n")
        rounds = [(score(args.binary, flags, items, output),
                   score(args.binary, [*flags, "--compute", "int8"], items, output)) for _ in range(args.rounds)]
    print("| | |\n|---|---|")
    (_, tokens, exact), (_, _, rounded) = rounds[0]
    print(f"| tokens/s, f32 | {tokens / statistics.median(f32[0] for f32, _ in rounds):.0f} |")
    print(f"| int8 over f32, median of {args.rounds} | {statistics.median(a[0] / b[0] for a, b in rounds):.2f} |")
    for name, value in table(exact, rounded, places):
        print(f"| {name} | {value:.3f} |" if isinstance(value, float) else f"| {name} | {value} |")


if __name__ == "__main__":
    main()
