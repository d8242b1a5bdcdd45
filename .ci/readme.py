#!/usr/bin/env python3
"""The README's replies are those that the default model gives.

    python .ci/readme.py BINARY [--write]

Starts `rewarden serve` with the default model, runs every `curl` of the README that a JSON block follows, and compares. Numbers may
differ by one part in a thousand, as machines round differently. `--write` puts the replies into the README instead. Needs curl and jq.
"""
import asyncio
import json
import math
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "benches"))
import load

README = os.path.join(HERE, "..", "README.md")
HOST = "http://127.0.0.1:8080"
# An indented command, perhaps the word "replies", and a block of JSON.
SHOWN = re.compile(r"^(    curl -s " + re.escape(HOST) + r"(?:.*\n)+?)\n(?:replies\n\n)?```json\n((?:.*\n)+?)```\n", re.MULTILINE)
TOLERANCE = 1e-3


def replied(command, port):
    """Standard output of a command of the README, sent to this port."""
    command = "set -o pipefail; " + command.replace(HOST, f"http://127.0.0.1:{port}")
    return subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True).stdout


def values(text):
    """The JSON values of a text, one after the other."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        value, at = decoder.raw_decode(text, at)
        found.append(value)
    return found


def differences(shown, given, where="reply"):
    """Where two JSON values differ, in words."""
    if isinstance(shown, dict) and isinstance(given, dict) and shown.keys() == given.keys():
        return [line for key in shown for line in differences(shown[key], given[key], f"{where}.{key}")]
    if isinstance(shown, list) and isinstance(given, list) and len(shown) == len(given):
        return [line for at, both in enumerate(zip(shown, given)) for line in differences(*both, f"{where}[{at}]")]
    number = all(isinstance(value, float) for value in (shown, given))
    same = math.isclose(shown, given, rel_tol=TOLERANCE, abs_tol=TOLERANCE) if number else shown == given
    return [] if same else [f"{where}: the README has {shown}, the program {given}"]


def pretty(text):
    """One value over many lines; several a line each."""
    found = values(text)
    return json.dumps(found[0], indent=2, ensure_ascii=False) + "\n" if len(found) == 1 else text


def main():
    binary, *flags = sys.argv[1:]
    with open(README, encoding="utf-8") as file:
        readme = file.read()
    shown = list(SHOWN.finditer(readme))
    service = load.Service(binary, [])
    try:
        asyncio.run(service.ready())
        given = [replied(match[1], service.port) for match in shown]
    finally:
        service.stop()
    if "--write" in flags:
        for match, text in reversed(list(zip(shown, given))):
            readme = readme[:match.start(2)] + pretty(text) + readme[match.end(2):]
        with open(README, "w", encoding="utf-8") as file:
            file.write(readme)
        return
    wrong = [line for match, text in zip(shown, given) for line in differences(values(match[2]), values(text))]
    if not shown or wrong:
        raise SystemExit("\n".join(wrong) or "README.md: no reply was found (hint: the pattern in .ci/readme.py)")
    print(f"{len(shown)} replies of the README are the program's")


if __name__ == "__main__":
    main()
