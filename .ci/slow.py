#!/usr/bin/env python3
"""Clients that send or read slowly, or not at all, hurt nobody else, and do not keep their places for ever.

    python .ci/slow.py BINARY

Starts `rewarden serve` with a few seconds for headers and for requests. Checked:

- a client that says nothing, one whose headers come a byte at a time, and one whose body does, are answered with an error or hung up
  on once their time is over;
- of streams that nobody reads, or that are read a byte at a time, no more is computed than fits between: that ends by itself, before
  three quarters of their items are done;
- while they last, a request takes at most twice what the slower of before and after takes in the median (others share the machine), and
  memory is at most 32 MiB, and what they have sent, above that before;
- a stream that is read as it comes is whole, though it takes longer than a connection may rest;
- who does not read is hung up on after that rest, give or take, and with such clients the service ends at SIGTERM, with code 0,
  within its own limits.

It takes some three minutes, since a connection may rest for 75 s. Standard library only.
"""
import asyncio
import json
import os
import re
import signal
import socket
import statistics
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "benches"))
import load

HEADERS, TIMEOUT, REST, LAST_WORDS = 2, 20, 75, 5  # the service's limits in seconds, of which the last two are fixed
MARGIN = 5                                         # seconds that hanging up may be late on a shared machine
STREAMED, READERS = 900, 2                         # items of a slow stream; slow streams of each kind
STILL = 10                                         # seconds, longer than a batch takes
LONG = REST + 30                                   # seconds that the long stream is to take
GROWTH = 32 << 20
ITEM = {"input_ids": [100, 200]}
WIDE = {**ITEM, "id": "x" * 8000}                  # comes back with the reward: the system buffers up to 4 MB of answers
MORE = {"penalty": {"kind": "none"}}
FIELDS = "host: localhost\r\ncontent-type: application/json\r\n"


def request(path, items, item=ITEM):
    body = json.dumps({"items": [item] * items, **MORE}).encode()
    return f"POST {path} HTTP/1.1\r\n{FIELDS}content-length: {len(body)}\r\n\r\n".encode() + body


def sockets(process):
    """How many sockets a process has open."""
    folder, count = f"/proc/{process.pid}/fd", 0
    for name in os.listdir(folder):
        try:
            count += os.readlink(os.path.join(folder, name)).startswith("socket:")
        except FileNotFoundError:
            pass  # closed since it was listed
    return count


async def scored(service):
    """Items that were scored, and items that wait."""
    connection = await load.Connection.open(service.port)
    _, body = await connection.ask("GET", "/metrics", b"")
    connection.close()
    return [int(re.search(rf"^rewarden_{name} (\d+)", body.decode(), re.M).group(1)) for name in ("scored_items_total", "queue_items")]


async def latency(service):
    """The median of single requests, one after the other."""
    client, seconds = load.Client(service.port, [ITEM], MORE), []
    for _ in range(30):
        seconds.append((await client.score(0)).latency)
    client.close()
    return statistics.median(seconds)


async def ended_by_server(service, start, drops):
    """Seconds until the server answers with an error, or hangs up, while drops are sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    begin = time.monotonic()
    writer.write(start)

    async def drip():
        for drop in drops:
            writer.write(drop)
            await asyncio.sleep(0.2)

    dripping = asyncio.create_task(drip())
    try:
        answer = await asyncio.wait_for(reader.read(12), 60)
    except OSError:
        answer = b""
    dripping.cancel()
    writer.close()
    return time.monotonic() - begin, answer


async def senders(service):
    """What is wrong with how slow senders are met."""
    endless = (b"x" for _ in range(1000))
    whole = request("/v1/rewards", 1000)
    head = whole.index(b"\r\n\r\n") + 4
    cases = [("silence", b"", [], HEADERS), ("slow headers", b"GET /livez HTTP/1.1\r\nx-slow: ", endless, HEADERS),
             ("a slow body", whole[:head], (whole[i:i + 1] for i in range(head, len(whole))), TIMEOUT)]
    wrong = []
    for name, start, drops, limit in cases:
        seconds, answer = await ended_by_server(service, start, drops)
        print(f"{name}: over after {seconds:.1f} s of {limit}: {answer!r}", flush=True)
        if seconds > limit + MARGIN or answer.startswith(b"HTTP/1.1 2"):
            wrong.append(f"{name}: {answer!r} after {seconds:.1f} s, where {limit} s are allowed")
    return wrong


def slow_stream(service):
    """A stream that nobody reads, with a small buffer of the client's own."""
    stream = socket.socket()
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stream.connect(("127.0.0.1", service.port))
    stream.sendall(request("/v1/rewards/stream", STREAMED, WIDE))
    stream.setblocking(False)
    return stream


async def byte_by_byte(stream):
    """Reads until there is no more."""
    try:
        while await asyncio.get_running_loop().sock_recv(stream, 1):
            await asyncio.sleep(0.1)
    except OSError:
        pass


async def settled(service, seconds):
    """Whether the server comes to compute nothing for ten seconds, within some; and what it has scored then."""
    until, last, since = time.monotonic() + seconds, None, 0.0
    while time.monotonic() < until:
        now = await scored(service)
        if now != last or now[1]:
            last, since = now, time.monotonic()
        if time.monotonic() > since + STILL:
            return True, now[0]
        await asyncio.sleep(1)
    return False, last[0]


async def readers(service):
    """What is wrong with how slow readers are met."""
    wrong, before = [], await latency(service)
    at_first, memory_before, sockets_before = (await scored(service))[0], load.memory(service.process), sockets(service.process)
    unread = [await asyncio.to_thread(slow_stream, service) for _ in range(READERS)]
    begin = time.monotonic()
    dripping = [await asyncio.to_thread(slow_stream, service) for _ in range(READERS)]
    drips = [asyncio.create_task(byte_by_byte(stream)) for stream in dripping]
    still, computed = await settled(service, REST - MARGIN)
    computed -= at_first
    print(f"slow readers: {computed} of {2 * READERS * STREAMED} items computed after {time.monotonic() - begin:.0f} s", flush=True)
    begun = [stream.recv(12, socket.MSG_PEEK) for stream in unread] if still else []
    if any(head != b"HTTP/1.1 200" for head in begun):
        wrong.append(f"the streams that nobody reads did not begin, so that nothing was shown: {begun}")
    if not still or computed > 0.75 * 2 * READERS * STREAMED:
        wrong.append(f"{computed} items of streams that are not read were computed, {'and then no more' if still else 'and it goes on'}")
    during, grown = await latency(service), load.memory(service.process) - memory_before
    while (left := sockets(service.process) - sockets_before) > READERS and time.monotonic() < begin + 2 * REST:
        await asyncio.sleep(1)
    print(f"slow readers: {max(left, 0)} of {2 * READERS} connections are left after {time.monotonic() - begin:.0f} s", flush=True)
    if left > READERS:
        wrong.append(f"{left} connections of slow readers are left")
    grown = max(grown, load.memory(service.process) - memory_before)
    for drip, stream in zip(drips, dripping):
        drip.cancel()
        stream.close()
    for stream in unread:
        stream.close()
    await settled(service, 40)
    after = await latency(service)
    print(f"slow readers: a request takes {1e3 * before:.0f} ms before, {1e3 * during:.0f} ms beside them, {1e3 * after:.0f} ms after; "
          f"memory grew by {grown >> 20} MiB", flush=True)
    if during > 2 * max(before, after):
        wrong.append(f"a request takes {during:.3f} s beside slow readers, {before:.3f} s before and {after:.3f} s after")
    if grown > GROWTH + 2 * READERS * len(request("/v1/rewards/stream", STREAMED, WIDE)):
        wrong.append(f"memory grew by {grown >> 20} MiB with slow readers")
    return wrong


async def streamed(service, items):
    """Seconds that a stream takes which is read as it comes, its lines, and whether the last one came."""
    begin, answer = time.monotonic(), b""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(request("/v1/rewards/stream", items))
    try:
        while not answer.endswith(b"\r\n0\r\n\r\n") and (part := await reader.read(1 << 16)):
            answer += part
    except OSError:
        pass
    writer.close()
    return time.monotonic() - begin, answer.count(b'"index"'), b'"object":"end"' in answer


async def long_stream(service):
    """What is wrong with a stream that takes longer than a connection may rest."""
    seconds, lines, _ = await streamed(service, 640)
    items = min(60_000, int(lines / seconds * LONG))
    seconds, lines, whole = await streamed(service, items)
    print(f"a long stream: {lines} of {items} items in {seconds:.0f} s, {'whole' if whole else 'cut off'}", flush=True)
    if whole and seconds <= REST:
        return [f"the long stream took {seconds:.0f} s only, so that nothing was shown"]
    return [] if whole and lines == items else [f"a stream that is read was cut off after {seconds:.0f} s, with {lines} of {items} items"]


async def kill(service):
    """What is wrong with the end, where clients do not read."""
    unread = [await asyncio.to_thread(slow_stream, service) for _ in range(READERS)]
    await settled(service, 60)
    begin, limit = time.monotonic(), TIMEOUT + LAST_WORDS + MARGIN
    service.process.send_signal(signal.SIGTERM)
    while service.process.poll() is None and time.monotonic() < begin + limit:
        await asyncio.sleep(0.1)
    for stream in unread:
        stream.close()
    print(f"SIGTERM: code {service.process.returncode} after {time.monotonic() - begin:.1f} s", flush=True)
    return [] if service.process.returncode == 0 else [f"{limit} s after SIGTERM the service's code is {service.process.returncode}"]


async def measure(service):
    await service.ready()
    await latency(service)  # what is allocated once
    return [*await senders(service), *await readers(service), *await long_stream(service), *await kill(service)]


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__.strip())
    service = load.Service(sys.argv[1], ["--header-timeout", str(HEADERS), "--timeout", str(TIMEOUT)])
    try:
        wrong = asyncio.run(measure(service))
    finally:
        service.process.kill()
        service.stop()
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
