#!/usr/bin/env python3
"""The service under load: throughput at saturation over `rewarden score`, and latency at 80 % of it over an ideal queue.

    python benches/items.py test.jsonl.gz --count 100 --output items.jsonl
    python benches/load.py target/release/rewarden items.jsonl [--seconds 120] [--rounds 3] [--json load.json]

Starts `rewarden serve` on a free port and measures, for means and for means with variances, with one item a request:

1. Saturation. `--concurrency` clients send the items, each its next one as soon as it has its answer; `rewarden score`
   scores the same items in between, by turns, while the service idles. Tokens/s are those of the items in full over the
   time from the first request to the last answer, and over `score_seconds` (which counts reading and tokenising, not
   loading). The medians of the rounds are compared.
2. Open loop. Requests arrive by a Poisson process (`--seed`) at `--load` of the service's median tokens/s, whether or not
   others were answered, for `--seconds`; items are drawn from the file in a random order, again and again. A latency
   counts from the arrival that was drawn, so that a client that is late does not hide waiting.

The ideal queue is a work-conserving FIFO of one server, simulated on the same arrivals: a request begins when it arrives or
when the one before it is finished, whichever is later, and takes its service time without interruption. It is taken with two
service times:

- `alone`: the latency of the item as the only request in the service, measured once for each item before the open loop,
  HTTP included. The ratio of this row is the one to be at most 1.2. Batches are faster than single items, so the service may be below 1.
- `full speed`: the item's tokens over the higher of the two tokens/s of step 1, as if every item, however short, ran at the speed of
  a full batch, and no request ever waited for another that shares its batch: a bound that no batching server reaches.

The client takes a part of the same cores. Standard library only.
"""
import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

MODES = {"mean": ({"penalty": {"kind": "none"}}, ["--no-variance"]), "mean + variance": ({}, [])}
START = 300                  # seconds that the service may take to become ready


@dataclass
class Answer:
    """What came of one request; times in seconds of one clock."""

    item: int
    due: float
    done: float
    tokens: int

    @property
    def latency(self):
        return self.done - self.due


class Service:
    """A `rewarden serve` of its own, on a port that the system chose."""

    def __init__(self, binary, flags):
        self.log = tempfile.NamedTemporaryFile("r", suffix=".log")
        with open(self.log.name, "w") as stderr:
            command = [binary, "serve", "--port", "0", *flags]
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
        self.port = None

    def find_port(self):
        """The port that the log names, once it does."""
        with open(self.log.name) as log:
            found = re.search(r"listening on http://[^ ]*:(\d+)", log.read())
        self.port = int(found.group(1)) if found else None

    async def ready(self):
        until = time.monotonic() + START
        while time.monotonic() < until:
            if self.process.poll() is not None:
                with open(self.log.name) as log:
                    raise SystemExit(f"the service ended: {log.read().strip()[-500:]}")
            self.find_port()
            if self.port and await self.says_ready():
                return
            await asyncio.sleep(0.1)
        raise SystemExit(f"the service was not ready within {START} seconds")

    async def says_ready(self):
        try:
            connection = await Connection.open(self.port)
        except OSError:
            return False
        status, _ = await connection.ask("GET", "/readyz", b"")
        connection.close()
        return status == 200

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


def memory(process):
    """Bytes that a process has in memory."""
    with open(f"/proc/{process.pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+) kB", status.read()).group(1)) << 10


class Connection:
    """An HTTP/1.1 connection that is kept."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port):
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, method, path, body):
        """Status and body of the answer."""
        status, _, answer = await self.exchange(method, path, body)
        return status, answer

    async def exchange(self, method, path, body, more=""):
        """Status, fields and body of the answer; `more` are lines of the request's head."""
        head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{more}"
        self.writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        await self.writer.drain()
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        answer = await self.reader.readexactly(int(fields.get("content-length", 0)))
        return int(lines[0].split()[1]), fields, answer

    def close(self):
        self.writer.close()


class Client:
    """Scores items of a list, by index, over as many connections as are needed at once."""

    def __init__(self, port, items, more):
        self.port, self.idle = port, []
        self.bodies = [json.dumps({"items": [item], **more}).encode() for item in items]

    async def score(self, item, due=None):
        connection = self.idle.pop() if self.idle else await Connection.open(self.port)
        due = time.monotonic() if due is None else due
        status, body = await connection.ask("POST", "/v1/rewards", self.bodies[item])
        done = time.monotonic()
        if status != 200:
            raise SystemExit(f"item {item}: status {status}: {body[:300]!r}")
        self.idle.append(connection)
        return Answer(item, due, done, json.loads(body)["usage"]["tokens"])

    def close(self):
        for connection in self.idle:
            connection.close()


async def saturate(client, concurrency):
    """Tokens/s of all items once."""
    waiting, answers = list(reversed(range(len(client.bodies)))), []

    async def work():
        while waiting:
            answers.append(await client.score(waiting.pop()))

    started = time.monotonic()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    seconds = max(answer.done for answer in answers) - started
    return sum(answer.tokens for answer in answers) / seconds


async def alone(client):
    """Answers to every item as the only request, by item."""
    return [await client.score(item) for item in range(len(client.bodies))]


async def open_loop(client, arrivals):
    """Answers to (seconds, item), each sent at its time."""
    started = time.monotonic() + 0.1

    async def arrive(at, item):
        await asyncio.sleep(max(0.0, started + at - time.monotonic()))
        return await client.score(item, started + at)

    return await asyncio.gather(*(arrive(at, item) for at, item in arrivals))


def poisson(rate, seconds, count, seed):
    """Arrivals (seconds, item) at `rate` a second; every item comes once before any comes again."""
    rng, at, deck, arrivals = random.Random(seed), 0.0, [], []
    while (at := at + rng.expovariate(rate)) < seconds:
        if not deck:
            deck = rng.sample(range(count), count)
        arrivals.append((at, deck.pop()))
    return arrivals


def fifo(arrivals, service):
    """Latencies of the ideal queue, in the order of the arrivals."""
    free, latencies = 0.0, []
    for at, item in arrivals:
        free = max(free, at) + service[item]
        latencies.append(free - at)
    return latencies


def quantile(values, q):
    """By linear interpolation between neighbours."""
    values = sorted(values)
    place = q * (len(values) - 1)
    below = int(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (place - below) * (values[above] - values[below])


def quantiles(latencies):
    return {"p50": quantile(latencies, 0.5), "p99": quantile(latencies, 0.99)}


def offline(args, flags):
    """Tokens/s of `rewarden score` on the same items."""
    command = [args.binary, "score", "--input", args.items, "--output", os.devnull, "--timing", *args.flags, *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"`score` failed with code {done.returncode}: {done.stderr.strip()}")
    timing = json.loads(done.stderr.strip().splitlines()[-1])
    return timing["tokens"] / timing["score_seconds"]


async def throughput(args, client, flags):
    """Median tokens/s of the service and of the offline program, by turns."""
    served, scored = [], []
    for number in range(args.rounds):
        progress(f"  round {number + 1}: saturation, then offline")
        served.append(await saturate(client, args.concurrency))
        scored.append(await asyncio.to_thread(offline, args, flags))
    rates = {"service": statistics.median(served), "offline": statistics.median(scored)}
    return {**rates, "ratio": rates["service"] / rates["offline"], "rounds": {"service": served, "offline": scored}}


async def latency(args, client, rates):
    """Latencies at a share of the service's capacity, beside those of the ideal queue."""
    progress("  every item alone")
    single = await alone(client)
    mean = sum(answer.tokens for answer in single) / len(single)
    rate = args.load * rates["service"] / mean
    arrivals = poisson(rate, args.seconds, len(single), args.seed)
    if not arrivals:
        raise SystemExit(f"no arrival in {args.seconds} s at {rate:.2f} requests/s (hint: a larger --seconds)")
    progress(f"  {len(arrivals)} requests in {args.seconds:.0f} s, {rate:.2f} a second")
    answers = await open_loop(client, arrivals)
    best = max(rates["service"], rates["offline"])
    services = {
        "alone": [answer.latency for answer in single],
        "full speed": [answer.tokens / best for answer in single],
    }
    measured = quantiles([answer.latency for answer in answers])
    result = {"requests": len(arrivals), "requests_per_second": rate, "service": measured, "ideal": {}}
    for name, service in services.items():
        ideal = quantiles(fifo(arrivals, service))
        ratios = {f"{q}_ratio": measured[q] / ideal[q] for q in ideal}
        busy = sum(service[item] for _, item in arrivals) / args.seconds
        result["ideal"][name] = {**ideal, **ratios, "utilisation": busy}
    return result


async def measure(args):
    with open(args.items, encoding="utf-8") as file:
        items = [json.loads(line) for line in file if line.strip()]
    service, results = Service(args.binary, args.flags + args.serve_flags), {}
    try:
        await service.ready()
        for mode in args.modes:
            progress(mode)
            more, flags = MODES[mode]
            client = Client(service.port, items, more)
            await alone(Client(service.port, items[:3], more))
            rates = await throughput(args, client, flags)
            results[mode] = {"tokens_per_second": rates, "latency_seconds": await latency(args, client, rates)}
            client.close()
    finally:
        service.stop()
    return results


def tables(results, args):
    yield "| | service, tokens/s | offline, tokens/s | ratio |\n|---|---|---|---|"
    for mode, result in results.items():
        rates = result["tokens_per_second"]
        yield f"| {mode} | {rates['service']:.0f} | {rates['offline']:.0f} | **{rates['ratio']:.2f}** |"
    yield f"\nOpen loop at {args.load:.0%} of the service's tokens/s; latencies in seconds\n"
    yield "| | requests | p50 | p99 | ideal queue | busy | its p50 | its p99 | p50 ratio | p99 ratio |\n" + "|---" * 10 + "|"
    for mode, result in results.items():
        measured = result["latency_seconds"]
        p50, p99 = measured["service"]["p50"], measured["service"]["p99"]
        for name, ideal in measured["ideal"].items():
            yield (f"| {mode} | {measured['requests']} | {p50:.3f} | {p99:.3f} | {name} | {ideal['utilisation']:.0%} | {ideal['p50']:.3f} "
                   f"| {ideal['p99']:.3f} | {ideal['p50_ratio']:.2f} | **{ideal['p99_ratio']:.2f}** |")


def progress(text):
    print(text, file=sys.stderr, flush=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("items")
    parser.add_argument("--modes", default="mean,mean + variance", type=lambda text: text.split(","))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=120, help="of the open loop, for each mode")
    parser.add_argument("--load", type=float, default=0.8, help="share of the service's tokens/s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="a file for everything that was measured")
    parser.add_argument("--flags", default=[], type=str.split, help="for both programs, as one word: '--adapter DIR'")
    parser.add_argument("--serve-flags", default=[], type=str.split, help="for the service alone")
    args = parser.parse_args()
    if unknown := [mode for mode in args.modes if mode not in MODES]:
        parser.error(f"--modes: {unknown[0]} is not one of {', '.join(MODES)}")
    return args


def main():
    args = arguments()
    results = asyncio.run(measure(args))
    print(*tables(results, args), sep="\n")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"settings": vars(args), "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
