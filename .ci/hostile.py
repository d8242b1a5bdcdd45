#!/usr/bin/env python3
"""One key attacks the service all the time; what another key's requests take meanwhile, and what memory that costs.

    python .ci/hostile.py BINARY [--seconds 20] [--json hostile.json]

Starts `rewarden serve` with two keys. One key sends one short item after the other, first alone, then while the other key has several
connections that send nothing but these, in turn:

- a query of 200,000 characters with 60,000 empty documents, to `/rerank`;
- a prompt of 290,000 characters with 256 answers and a deadline of one second, to `/v1/best-of-n`;
- a text of 7 MB that is cut, to `/v1/rewards`;
- a text of 1 MB, to `/tokenize`.

Checked: every answer to the first key is 200, and the 99th percentile of its latency is at most twice what it was alone and one full batch
more, where a full batch is a sequence of `--max-length` tokens; attacks are answered with 200, 413, 422, 429, 503 or 504; `/livez` answers
within a second; the memory is at most 1 GiB above what it was before. Standard library only.
"""
import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "benches"))
import load

LENGTH = 256                 # tokens of the longest sequence, and of a batch
LEAST = 20                   # requests of the first key, alone and under attack
SHORT = 32                   # tokens of an item of the first key
ATTACKERS = 4
FACTOR, GROWTH, ALIVE = 2.0, 1 << 30, 1.0
EXPECTED = {200, 413, 422, 429, 503, 504}
KEYS = {name: f"{name}-{random.randbytes(16).hex()}" for name in ("victim", "attacker")}

ATTACKS = [
    ("/rerank", {"query": "x" * 200_000, "documents": [""] * 60_000}, ""),
    ("/v1/best-of-n", {"prompt": "so it goes " * 26_000, "responses": [f"a{i}" for i in range(256)],
                       "truncation": "left"}, "x-request-timeout-ms: 1000\r\n"),
    ("/v1/rewards", {"items": [{"text": "so it goes " * 640_000}], "truncation": "right", "variance": False}, ""),
    ("/tokenize", {"inputs": "so it goes " * 90_000}, ""),
]


def credentials(name):
    return f"x-api-key: {KEYS[name]}\r\n"


def item(length, seed):
    rng = random.Random(seed)
    ids = rng.choices(range(100, 40_000), k=length)
    return json.dumps({"items": [{"input_ids": ids}], "variance": False}).encode()


async def asked(port, path, body, more):
    """Status and seconds; 0 where there was no answer."""
    started = time.monotonic()
    try:
        connection = await load.Connection.open(port)
        status, _, _ = await connection.exchange("POST", path, body, more)
        connection.close()
    except (OSError, EOFError):
        status = 0
    return status, time.monotonic() - started


async def latencies(port, seconds, least):
    """What each of one short item after the other took."""
    taken, until, statuses = [], time.monotonic() + seconds, set()
    while time.monotonic() < until or len(taken) < least:
        status, latency = await asked(port, "/v1/rewards", item(SHORT, len(taken)), credentials("victim"))
        taken.append(latency)
        statuses.add(status)
    return taken, statuses


async def attack(port, seed, statuses):
    bodies = [(path, json.dumps(body).encode(), more) for path, body, more in ATTACKS]
    for turn in range(seed, sys.maxsize):
        path, body, more = bodies[turn % len(bodies)]
        status, _ = await asked(port, path, body, credentials("attacker") + more)
        statuses.setdefault(path, {}).setdefault(status, 0)
        statuses[path][status] += 1


async def alive(port, slowest):
    while True:
        started = time.monotonic()
        connection = await load.Connection.open(port)
        await connection.exchange("GET", "/livez", b"")
        connection.close()
        slowest[0] = max(slowest[0], time.monotonic() - started)
        await asyncio.sleep(0.1)


async def highest(process, most):
    while True:
        most[0] = max(most[0], load.memory(process))
        await asyncio.sleep(0.05)


async def measure(service, seconds):
    port = service.port
    await latencies(port, 2, 5)
    batch = [(await asked(port, "/v1/rewards", item(LENGTH, seed), credentials("victim")))[1] for seed in range(5)]
    alone, answered = await latencies(port, seconds, LEAST)
    before, memory, slowest, statuses = load.memory(service.process), [0], [0.0], {}
    others = [attack(port, seed, statuses) for seed in range(ATTACKERS)]
    tasks = [asyncio.create_task(task) for task in
             [*others, alive(port, slowest), highest(service.process, memory)]]
    attacked, also = await latencies(port, seconds, LEAST)
    for task in tasks:
        task.cancel()
    failed = [task.exception() for task in tasks if task.done() and not task.cancelled()]
    return {
        "alone_p99": load.quantile(alone, 0.99), "attacked_p99": load.quantile(attacked, 0.99),
        "batch": sorted(batch)[2], "requests": [len(alone), len(attacked)], "statuses": sorted(answered | also),
        "attacks": statuses, "livez": slowest[0], "memory": memory[0] - before, "failed": [repr(e) for e in failed if e],
    }


def problems(found):
    bound = FACTOR * found["alone_p99"] + found["batch"]
    if found["statuses"] != [200]:
        yield f"answers to the first key: {found['statuses']}"
    if found["attacked_p99"] > bound:
        yield f"p99 under attack is {found['attacked_p99']:.3f} s, more than {bound:.3f} s"
    for path, statuses in found["attacks"].items():
        if not set(statuses) <= EXPECTED:
            yield f"{path}: {statuses}"
    if len(found["attacks"]) < len(ATTACKS):
        yield f"only {list(found['attacks'])} were answered"
    if found["livez"] > ALIVE:
        yield f"/livez took {found['livez']:.2f} s"
    if found["memory"] > GROWTH:
        yield f"memory grew by {found['memory'] >> 20} MiB"
    yield from found["failed"]


async def run(args):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as keys:
        for name, key in KEYS.items():
            print(json.dumps({"name": name, "key": key, "roles": ["score"]}), file=keys)
        keys.flush()
        flags = ["--keys", keys.name, "--max-length", str(LENGTH), "--batch-tokens", str(LENGTH)]
        service = load.Service(args.binary, flags)
        try:
            await service.ready()
            return await measure(service, args.seconds)
        finally:
            service.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--seconds", type=float, default=20, help="of each of the two phases, at the least")
    parser.add_argument("--json", help="writes what was measured here")
    args = parser.parse_args()
    found = asyncio.run(run(args))
    print(json.dumps(found, indent=1))
    if args.json:
        with open(args.json, "w") as file:
            json.dump(found, file, indent=1)
    wrong = list(problems(found))
    for problem in wrong:
        print(f"error: {problem}", file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
