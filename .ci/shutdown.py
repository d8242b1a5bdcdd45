#!/usr/bin/env python3
"""A polite kill under load loses nothing that was accepted.

    python .ci/shutdown.py BINARY [--rounds 3]

In each round a service of its own is asked by clients of three kinds, over connections that have been answered on before:

- many that ask again as soon as they are answered: some are being scored and others wait, which the metrics must confirm;
- some whose requests are written right before the signal, in the same turn of the client's loop;
- one that reads a stream of several windows.

Then comes SIGTERM. Whatever was wholly sent by then must be answered with 200 and the mean that its item had alone, the stream to its
last line. What is sent later may be answered, refused with 503, or find the connection closed or refused before a byte of an answer.
The service must end with code 0 within `--patience` seconds. Standard library only.
"""
import argparse
import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "benches"))
import load

ITEMS, BUSY, LAST, STREAMED = 48, 24, 16, 150
LENGTHS = range(24, 49)      # tokens of an item
MORE = {"penalty": {"kind": "none"}}
NEAR = 1e-3                  # what a batch may change of a mean


@dataclass
class Round:
    """A service, and what came of the requests to it."""

    service: load.Service
    bodies: list
    means: list = field(default_factory=list)
    killed: bool = False
    kept: int = 0
    later: int = 0
    lost: list = field(default_factory=list)

    async def alone(self):
        """Every item's mean as the only request."""
        connection = await load.Connection.open(self.service.port)
        for item in range(len(self.bodies)):
            self.means.append(mean(await connection.ask("POST", "/v1/rewards", self.bodies[item])))
        connection.close()

    async def ask(self, connection, item, kind):
        """Whether there was an answer; it is judged by whether the request was sent before the signal."""
        before = not self.killed  # the request is written in this turn of the loop, and the signal sent in another
        try:
            status, body = await connection.ask("POST", "/v1/rewards", self.bodies[item])
        except (OSError, EOFError) as error:
            partial = getattr(error, "partial", b"")
            self.judge(before, not before and not partial, f"{kind}: {error!r}")
            return False
        good = status == 200 and abs(mean((status, body)) - self.means[item]) < NEAR
        self.judge(before, good or not before and status == 503, f"{kind}: {status} {body[:200]!r}")
        return True

    def judge(self, before, good, told):
        self.kept += before and good
        self.later += not before and good
        if not good:
            self.lost.append(("sent before the signal, " if before else "sent after the signal, ") + told)

    async def busy(self, rng):
        """Asks until the connection is closed."""
        connection = await load.Connection.open(self.service.port)
        while await self.ask(connection, rng.randrange(len(self.bodies)), "under load"):
            pass

    async def newcomer(self):
        """Opens connections until they are refused."""
        try:
            while await self.ask(await load.Connection.open(self.service.port), 0, "new connection"):
                await asyncio.sleep(0.02)
        except OSError:
            pass

    async def stream(self):
        """Reads a stream, which must have its last line."""
        items = [json.loads(body)["items"][0] for body in self.bodies]
        body = json.dumps({"items": [items[index % ITEMS] for index in range(STREAMED)], **MORE}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.service.port)
        head = f"POST /v1/rewards/stream HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        try:
            answer = await reader.readuntil(b"\r\n0\r\n\r\n")
        except (OSError, EOFError) as error:
            answer = getattr(error, "partial", b"")
        means = [float(text) for text in re.findall(rb'"mean":([^,]+)', answer)]
        near = len(means) == STREAMED and all(abs(got - self.means[i % ITEMS]) < NEAR for i, got in enumerate(means))
        self.judge(True, near and b'"object":"end"' in answer, f"stream: {len(means)} of {STREAMED} rewards, {answer[-100:]!r}")

    async def under_way(self):
        """Waits until something is being scored and more waits."""
        connection = await load.Connection.open(self.service.port)
        for _ in range(1000):
            _, body = await connection.ask("GET", "/metrics", b"")
            waiting = re.search(rb"^rewarden_queue_items (\d+)", body, re.M)
            if waiting and int(waiting.group(1)) > BUSY // 4:
                return connection.close()
            await asyncio.sleep(0.02)
        raise SystemExit("the queue does not fill")

    def kill(self):
        self.service.process.send_signal(signal.SIGTERM)
        self.killed = True


def mean(answer):
    status, body = answer
    return json.loads(body)["data"][0]["mean"] if status == 200 else float("nan")


def bodies(seed):
    rng = random.Random(seed)
    items = [{"input_ids": rng.choices(range(100, 40_000), k=rng.choice(LENGTHS))} for _ in range(ITEMS)]
    return [json.dumps({"items": [item], **MORE}).encode() for item in items]


async def accepted(service):
    """A connection that was answered on."""
    connection = await load.Connection.open(service.port)
    await connection.ask("GET", "/livez", b"")
    return connection


async def play(service, seed):
    """One round."""
    rng, this = random.Random(seed), Round(service, bodies(seed))
    await service.ready()
    await this.alone()
    idle = [await accepted(service) for _ in range(LAST)]
    tasks = [asyncio.create_task(this.busy(random.Random(number))) for number in range(BUSY)]
    tasks.append(asyncio.create_task(this.stream()))
    await this.under_way()
    await asyncio.sleep(rng.uniform(0.2, 1.0))
    tasks += [asyncio.create_task(this.ask(connection, index, "right before")) for index, connection in enumerate(idle)]
    await asyncio.sleep(0)  # one turn of the loop, in which they are written
    this.kill()
    tasks.append(asyncio.create_task(this.newcomer()))
    await asyncio.gather(*tasks)
    return this


def ended(service, patience):
    """How long it took to end, and what is wrong with that."""
    begin = time.monotonic()
    try:
        code = service.process.wait(patience)
    except subprocess.TimeoutExpired:
        return patience, [f"the service does not end within {patience} s of the last answer"]
    return time.monotonic() - begin, [f"the service ended with code {code}"] if code else []


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patience", type=float, default=10)
    return parser.parse_args()


def main():
    args, wrong = arguments(), []
    for seed in range(args.rounds):
        service = load.Service(args.binary, [])
        try:
            this = asyncio.run(asyncio.wait_for(play(service, seed), 300))
            seconds, faults = ended(service, args.patience)
        finally:
            service.process.kill()
            service.stop()
        print(f"round {seed + 1}: {this.kept} answered that were sent before the signal, {this.later} later ones in order, "
              f"{len(this.lost)} lost; ended {seconds:.1f} s after the last answer", flush=True)
        wrong += [f"round {seed + 1}: {fault}" for fault in this.lost + faults]
    print(*wrong[:20], sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
