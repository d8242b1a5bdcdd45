#!/usr/bin/env python3
"""The service past its capacity: what it answers and refuses, how long that takes, and what memory it costs.

    python .ci/overload.py BINARY [--seconds 15] [--mode mean] [--json overload.json]

Starts `rewarden serve` with a queue of three seconds and two keys, and sends short items at 1, 2 and 5 times its capacity, by a
Poisson process that does not wait for answers; then 5 times the capacity by one of the keys alone, which is more than that may have
under way. The capacity is measured by a closed loop, of a service of its own to know what a queue of three seconds is, then before
and after each phase, for the machine may be shared; a phase's rate follows the one before it. Checked of each phase:

- every answer is 200, or 503 or 429 with a `Retry-After` of at least one second, and what should be refused is;
- above 1x, goodput holds: the tokens of answers with 200 are at least 80 % of the lower of the two capacities beside the phase, both
  for each second of CPU time that the service took, so that what other jobs take of the machine does not count; and the model
  computes for at least 80 % of the time from the first arrival to the last answer;
- of the requests with 200 the 99th percentile of the latency, from the arrival that was drawn, is at most twice the time that what
  the queue and two batches hold takes at the phase's own tokens/s. Twice, because the speed of a shared machine varies within a
  phase; a queue without bounds would hold `--seconds` at 2x already, and four times that at 5x;
- refusals come at once: their 99th percentile is below a second, the least that `Retry-After` asks for;
- the service's memory is at most 32 MiB above its highest of the first phase: less than a buffer of 64 KiB for each of its 512
  connections.

After each phase the queue is empty, and after all of them a request has the answer that it had before. Standard library only.
"""
import argparse
import asyncio
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "benches"))
import load

BATCH = 256                  # tokens; small, so that answers come evenly also where the machine is slow
QUEUE_SECONDS, LEAST_QUEUE = 3, 4 * BATCH
LENGTHS = range(24, 49)      # tokens of an item
ITEMS = 256
CLIENTS, CLOSED = 24, 4      # of the closed loop: enough for two batches and more, and its seconds
KEYS = {name: f"{name}-{random.randbytes(16).hex()}" for name in ("a", "b")}
SHARE = 0.75                 # of the queue that the requests of one key may fill: two overfill it, one alone cannot
# Name, arrivals over capacity, whose they are, and how some of them must be refused.
PHASES = [("1x", 1, "ab", None), ("2x", 2, "ab", 503), ("5x", 5, "ab", 503), ("5x, one key", 5, "a", 429)]
GOODPUT, BUSY, MARGIN, AT_ONCE, GROWTH = 0.8, 0.8, 2.0, 1.0, 32 << 20
SCORED = r'rewarden_stage_seconds_sum{stage="score"}'
PATIENCE = 10                # seconds until the queue is empty


@dataclass
class Outcome:
    """What came of one request; `status` is 0 where there was no answer."""

    due: float
    done: float
    status: int
    retry: str
    tokens: int

    @property
    def latency(self):
        return self.done - self.due

    @property
    def is_refusal(self):
        return self.status in (429, 503) and self.retry.isdigit() and int(self.retry) >= 1


class Client(load.Client):
    """Takes every answer as it comes; the keys take turns."""

    def __init__(self, port, items, more, keys):
        super().__init__(port, items, more)
        self.keys, self.sent = [credentials(name) for name in keys], 0

    async def score(self, item, due=None):
        key, due = self.keys[self.sent % len(self.keys)], due or time.monotonic()
        self.sent += 1
        try:
            connection = self.idle.pop() if self.idle else await load.Connection.open(self.port)
            status, fields, body = await connection.exchange("POST", "/v1/rewards", self.bodies[item], key)
        except (OSError, EOFError):
            return Outcome(due, time.monotonic(), 0, "", 0)
        done = time.monotonic()
        self.idle.append(connection)
        tokens = json.loads(body)["usage"]["tokens"] if status == 200 else 0
        return Outcome(due, done, status, fields.get("retry-after", ""), tokens)


@dataclass
class Rate:
    """Tokens of answers with 200: a second, and a second of the service's CPU time; and how much of the time the model computed."""

    wall: float
    cpu: float
    busy: float


@dataclass
class Phase:
    """What was measured of a phase; times in seconds, memory in bytes."""

    name: str
    requests: int
    statuses: dict
    odd: int
    offered: float
    capacity: Rate
    goodput: Rate
    p50: float
    p99: float
    bound: float
    refused_p99: float
    memory: int


def credentials(name):
    return f"x-api-key: {KEYS[name]}\r\n"


def short_items(seed):
    rng = random.Random(seed)
    return [{"input_ids": rng.choices(range(100, 40_000), k=rng.choice(LENGTHS))} for _ in range(ITEMS)]


async def highest_memory(process):
    """Looks until it is cancelled."""
    highest = 0
    try:
        while True:
            highest = max(highest, load.memory(process))
            await asyncio.sleep(0.1)
    except asyncio.CancelledError:
        return highest


def cpu(process):
    """Seconds of CPU time that a process has taken."""
    with open(f"/proc/{process.pid}/stat") as stat:
        user, system = stat.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


async def metrics(service, name):
    """Values of the metrics whose names and labels are matched."""
    connection = await load.Connection.open(service.port)
    _, _, body = await connection.exchange("GET", "/metrics", b"", credentials("a"))
    connection.close()
    return [float(value) for value in re.findall(rf"^{name} (\S+)", body.decode(), re.M)]


async def rated(service, work):
    """What came of some work on the service, and its rate."""
    scored, taken, begin = await metrics(service, SCORED), cpu(service.process), time.monotonic()
    outcomes = await work
    seconds, taken = max(outcome.done for outcome in outcomes) - begin, cpu(service.process) - taken
    scored = sum(await metrics(service, SCORED)) - sum(scored)
    tokens = sum(outcome.tokens for outcome in outcomes)
    return outcomes, Rate(tokens / seconds, tokens / taken, scored / seconds)


async def closed_loop(client):
    """Outcomes of as many clients as keep batches full, each of which asks again once it is answered."""
    until, outcomes = time.monotonic() + CLOSED, []

    async def work(rng):
        while time.monotonic() < until:
            outcomes.append(await client.score(rng.randrange(ITEMS)))

    await asyncio.gather(*(work(random.Random(seed)) for seed in range(CLIENTS)))
    return outcomes


async def capacity(service, items, more):
    client = Client(service.port, items, more, "ab")
    _, rate = await rated(service, closed_loop(client))
    client.close()
    return rate


async def emptied(service):
    """Whether the queue is empty within a few seconds."""
    until = time.monotonic() + PATIENCE
    while (left := await metrics(service, "rewarden_queue_(?:tokens|items)")) != [0, 0] and time.monotonic() < until:
        await asyncio.sleep(0.1)
    return left == [0, 0]


async def offer(service, items, more, rate, keys, seconds, seed):
    """Outcomes of requests that arrive at `rate` tokens/s, their goodput, and the highest memory meanwhile."""
    client = Client(service.port, items, more, keys)
    mean = sum(len(item["input_ids"]) for item in items) / len(items)
    looking = asyncio.create_task(highest_memory(service.process))
    arrivals = load.poisson(rate / mean, seconds, len(items), seed)
    outcomes, goodput = await rated(service, load.open_loop(client, arrivals))
    looking.cancel()
    client.close()
    return outcomes, goodput, await looking


def measured(name, outcomes, held, offered, capacity, goodput, memory):
    good = [outcome for outcome in outcomes if outcome.status == 200]
    if not good:
        raise SystemExit(f"{name}: no request was answered with 200")
    latencies = load.quantiles([outcome.latency for outcome in good])
    refusals = [outcome.latency for outcome in outcomes if outcome.is_refusal]
    statuses = {}
    for outcome in outcomes:
        statuses[outcome.status] = statuses.get(outcome.status, 0) + 1
    return Phase(name, len(outcomes), statuses, len(outcomes) - len(good) - len(refusals), offered, capacity, goodput,
                 **latencies, bound=MARGIN * held / goodput.wall,
                 refused_p99=load.quantile(refusals, 0.99) if refusals else 0.0, memory=memory)


def faults(phase, refusal, first):
    """What is wrong with a phase, in words."""
    if phase.odd:
        yield f"{phase.odd} answers are neither 200 nor a refusal with Retry-After: {phase.statuses}"
    if refusal and not phase.statuses.get(refusal):
        yield f"nothing was refused with {refusal}: {phase.statuses}"
    if refusal and phase.goodput.cpu < GOODPUT * phase.capacity.cpu:
        yield f"goodput is {phase.goodput.cpu:.0f} tokens for a second of CPU time, the capacity {phase.capacity.cpu:.0f}"
    if refusal and phase.goodput.busy < BUSY:
        yield f"the model computes for {phase.goodput.busy:.0%} of the time"
    if phase.p99 > phase.bound:
        yield f"the 99th percentile of the latency is {phase.p99:.2f} s, above {phase.bound:.2f} s"
    if phase.refused_p99 > AT_ONCE:
        yield f"the 99th percentile of the refusals' latency is {phase.refused_p99:.2f} s, above {AT_ONCE} s"
    if phase.memory > first.memory + GROWTH:
        yield f"memory is {phase.memory >> 20} MiB, after {first.memory >> 20} MiB in the first phase"


async def probe(service, items, more):
    """The first item's answer, alone."""
    connection = await load.Connection.open(service.port)
    body = json.dumps({"items": items[:1], **more}).encode()
    status, _, answer = await connection.exchange("POST", "/v1/rewards", body, credentials("a"))
    connection.close()
    return status, json.loads(answer)


async def rough(service, items, more):
    """The capacity for a start."""
    await service.ready()
    await capacity(service, items, more)  # whatever is allocated once
    return await capacity(service, items, more)


async def measure(args, service, queue, items, more):
    """Phases, and what is wrong."""
    await service.ready()
    want, phases, wrong = await probe(service, items, more), [], []
    before = await rough(service, items, more)
    for name, times, keys, refusal in PHASES:
        offered = times * before.wall
        outcomes, goodput, highest = await offer(service, items, more, offered, keys, args.seconds, args.seed)
        if not await emptied(service):
            wrong.append(f"{name}: the queue is not empty {PATIENCE} s after the last answer")
        after = await capacity(service, items, more)
        beside = Rate(min(before.wall, after.wall), min(before.cpu, after.cpu), min(before.busy, after.busy))
        phases.append(measured(name, outcomes, queue + 2 * BATCH, offered, beside, goodput, highest))
        wrong += [f"{name}: {fault}" for fault in faults(phases[-1], refusal, phases[0])]
        before = after
    if (got := await probe(service, items, more)) != want or want[0] != 200:
        wrong.append(f"after the load a request is answered by {got}, before it by {want}")
    return phases, wrong


COLUMNS = ["", "requests", "200", "503", "429", "goodput", "for CPU time", "busy", "p50", "p99", "full queue", "refusals' p99", "memory"]


def table(phases):
    """Goodput is over the capacity beside it; the full queue's time is half of what the 99th percentile may be."""
    yield "| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|"
    for phase in phases:
        goodput, capacity = phase.goodput, phase.capacity
        cells = [phase.name, phase.requests, *(f"{phase.statuses.get(status, 0) / phase.requests:.0%}" for status in (200, 503, 429)),
                 f"{goodput.wall / capacity.wall:.2f}", f"{goodput.cpu / capacity.cpu:.2f}", f"{goodput.busy:.0%}",
                 f"{phase.p50:.2f} s", f"{phase.p99:.2f} s", f"{phase.bound / MARGIN:.2f} s", f"{phase.refused_p99:.3f} s",
                 f"{phase.memory >> 20} MiB"]
        yield "| " + " | ".join(map(str, cells)) + " |"


def keys(folder):
    """A file of keys that may score and read metrics."""
    path = os.path.join(folder, "keys.jsonl")
    with open(path, "w") as file:
        for name, key in KEYS.items():
            print(json.dumps({"name": name, "key": key, "roles": ["score", "metrics"]}), file=file)
    return path


def served(binary, flags, asks):
    """What a service with these flags lets be measured."""
    service = load.Service(binary, ["--batch-tokens", str(BATCH), *map(str, flags)])
    try:
        return asyncio.run(asks(service))
    finally:
        service.stop()


def run(args, folder):
    items, (more, _) = short_items(args.seed), load.MODES[args.mode]
    flags = ["--keys", keys(folder)]
    rate = served(args.binary, flags, lambda service: rough(service, items, more))
    queue = max(LEAST_QUEUE, round(QUEUE_SECONDS * rate.wall))
    concurrency = max(1, round(SHARE * queue / statistics.mean(LENGTHS)))
    flags += ["--queue-tokens", queue, "--key-concurrency", concurrency]
    return served(args.binary, flags, lambda service: measure(args, service, queue, items, more))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--seconds", type=float, default=15, help="of each phase")
    parser.add_argument("--mode", default="mean", choices=load.MODES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="a file for everything that was measured")
    return parser.parse_args()


def main():
    args = arguments()
    with tempfile.TemporaryDirectory() as folder:
        phases, wrong = run(args, folder)
    print(*table(phases), *wrong, sep="\n")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"settings": vars(args), "phases": [asdict(phase) for phase in phases], "wrong": wrong}, file, indent=1)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
