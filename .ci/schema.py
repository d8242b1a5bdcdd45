#!/usr/bin/env python3
"""The service answers as its own OpenAPI document says, whatever it is asked.

    pip install schemathesis==4.32.5
    python .ci/schema.py BINARY [--max-examples 100 ...]     # more flags are for schemathesis

Starts `rewarden serve` with a tiny model of the tests, which has a posterior, and has schemathesis make requests from
`/openapi.json`, right ones and wrong ones, with a fixed seed. No answer may be a 5xx; statuses, content types, headers and bodies must
be documented; requests that the document forbids must be refused, methods that it does not name too. `schemathesis.toml` says what is
left out, where, and why.
"""
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "benches"))
import load

CASES = os.path.join(HERE, "..", "tests", "fixtures", "cases")


def model(folder):
    """The flags of a tiny model whose tokenizer begins with a token, so that an empty text has one, and which has a template."""
    base = shutil.copytree(os.path.join(CASES, "llama-2", "base"), os.path.join(folder, "base"))
    shutil.copy(os.path.join(CASES, "llama-0", "base", "chat_template.jinja"), base)
    return ["--model", base, "--adapter", "default=" + os.path.join(CASES, "llama-2", "adapter")]


def checked(port, folder, more):
    """The exit code of schemathesis, which says what it found."""
    program = os.path.join(os.path.dirname(sys.executable), "schemathesis")
    command = [program, "--no-color", "--config-file", os.path.join(HERE, "schemathesis.toml"), "run"]
    return subprocess.run([*command, f"http://127.0.0.1:{port}/openapi.json", *more], cwd=folder).returncode


def main():
    if len(sys.argv) < 2:
        raise SystemExit(__doc__.strip())
    with tempfile.TemporaryDirectory() as folder:
        service = load.Service(os.path.abspath(sys.argv[1]), model(folder))
        try:
            asyncio.run(service.ready())
            return checked(service.port, folder, sys.argv[2:])
        finally:
            service.stop()


if __name__ == "__main__":
    sys.exit(main())
