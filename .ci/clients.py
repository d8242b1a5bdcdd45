#!/usr/bin/env python3
"""Other servers' own clients against the service: each must read the rewards that `/v1/rewards` gives.

    python .ci/clients.py BINARY

The clients come from PyPI into an environment of their own. Of verl and OpenRLHF, which want a GPU to be installed, the wheels
are unpacked and the very functions taken that send requests.
"""
import asyncio
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
import zipfile

CLIENTS = ["cohere", "infinity_client", "aiohttp"]
WHEELS = ["verl==0.9.1", "openrlhf==0.11.2"]
PROMPT = "How do I boil an egg?"
ANSWERS = ["Put it in boiling water for eight minutes.", "egg wuth nad plo fthm", "I am not sure."]
BOS = "<|im_start|>"


def templated(answer):
    """As a trainer sends it: rendered by the model's own template."""
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    turns = [("system", system), ("user", PROMPT), ("assistant", answer)]
    return "".join(f"{BOS}{role}\n{text}<|im_end|>\n" for role, text in turns)


def source(wheels, ending):
    """The text of a file of an unpacked wheel."""
    folders = ((folder, name) for folder, _, names in os.walk(wheels) for name in names)
    path = next(os.path.join(*found) for found in folders if os.path.join(*found).endswith(ending))
    with open(path, encoding="utf-8") as file:
        return file.read()


def method(text, name):
    """One method of a class, as text."""
    return re.search(rf"    (?:async )?def {name}\(.*?(?=\n    (?:async )?def |\nclass |\Z)", text, re.S).group(0)


class Clients:
    def __init__(self, url, wheels):
        self.url, self.wheels = url, wheels
        items = [{"prompt": PROMPT, "response": answer} for answer in ANSWERS]
        body = json.dumps({"items": items}).encode()
        request = urllib.request.Request(f"{url}/v1/rewards", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request) as reply:
            self.want = [line["mean"] for line in json.load(reply)["data"]]

    def check(self, name, got):
        near = len(got) == len(self.want) and all(abs(a - b) < 1e-3 for a, b in zip(got, self.want))
        print("ok  " if near else "FAIL", name, "" if near else f"{got} is not {self.want}", flush=True)
        return near

    def verl(self):
        """Its reward loop strips the BOS token, and posts to vLLM."""
        code = method(source(self.wheels, "verl/experimental/reward_loop/reward_loop.py"), "_post_request")
        space = {}
        exec("import aiohttp, asyncio, logging\nlogger = logging.getLogger('verl')\nclass Loop:\n" + code, space)
        loop = space["Loop"]()
        loop.reward_router_address = self.url.split("//")[1]
        ask = lambda answer: loop._post_request(
            {"model": "default", "input": templated(answer)[len(BOS):], "use_activation": False}, "classify")
        return [asyncio.run(ask(answer))["data"][-1]["probs"][-1] for answer in ANSWERS]

    def openrlhf(self):
        code = method(source(self.wheels, "openrlhf/utils/agent.py"), "_fetch_rewards_via_http")
        space = {}
        exec("import aiohttp, asyncio, logging\nfrom itertools import cycle\nfrom typing import *\n"
             "logger = logging.getLogger('openrlhf')\nclass Agent:\n" + code, space)
        agent = space["Agent"]()
        agent.reward_endpoints = [f"{self.url}/get_reward"]
        agent._reward_endpoint_cycle = itertools.cycle(agent.reward_endpoints)
        replies = agent._fetch_rewards_via_http([templated(answer) for answer in ANSWERS], [PROMPT] * 3, [None] * 3)
        replies = asyncio.run(replies) if asyncio.iscoroutine(replies) else replies
        return [reward for reply in replies for reward in reply["rewards"]]

    def cohere(self, client):
        import cohere
        ranked = getattr(cohere, client)(api_key="none", base_url=self.url).rerank(
            model="default", query=PROMPT, documents=ANSWERS)
        return self.in_order(ranked.results)

    def infinity(self):
        from infinity_client import Client, models
        from infinity_client.api.default import rerank
        body = models.RerankInput(query=PROMPT, documents=ANSWERS, raw_scores=True, model="default")
        return self.in_order(rerank.sync(client=Client(base_url=self.url), body=body).results)

    def in_order(self, results):
        scores = [0.0] * len(ANSWERS)
        for result in results:
            scores[result.index] = result.relevance_score
        return scores

    def run(self):
        return all([self.check("verl, to vLLM's /classify", self.verl()),
                    self.check("OpenRLHF, /get_reward", self.openrlhf()),
                    self.check("cohere.Client, /v1/rerank", self.cohere("Client")),
                    self.check("cohere.ClientV2, /v2/rerank", self.cohere("ClientV2")),
                    self.check("infinity_client, /rerank", self.infinity())])


def installed(folder):
    """An environment with the clients, and the wheels that are taken apart."""
    python = os.path.join(folder, "venv", "bin", "python")
    venv.create(os.path.join(folder, "venv"), with_pip=True)
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", *CLIENTS], check=True)
    for wheel in WHEELS:
        subprocess.run([*pip, "download", "--no-deps", "--dest", folder, wheel], check=True)
    for name in os.listdir(folder):
        if name.endswith(".whl"):
            with zipfile.ZipFile(os.path.join(folder, name)) as archive:
                archive.extractall(os.path.join(folder, "wheels"))
    return python, os.path.join(folder, "wheels")


def address(log):
    """Where the service listens, once it is ready."""
    for _ in range(240):
        time.sleep(0.5)
        with open(log, encoding="utf-8") as file:
            found = re.search(r"listening on (http:\S+)", file.read())
        try:
            if found and urllib.request.urlopen(found.group(1) + "/readyz").status == 200:
                return found.group(1)
        except OSError:
            pass
    raise SystemExit("the service did not become ready")


def main():
    if os.environ.get("REWARDEN_URL"):
        return 0 if Clients(os.environ["REWARDEN_URL"], sys.argv[1]).run() else 1
    with tempfile.TemporaryDirectory() as folder:
        python, wheels = installed(folder)
        log = os.path.join(folder, "serve.log")
        with open(log, "w", encoding="utf-8") as file:
            server = subprocess.Popen([sys.argv[1], "serve", "--port", "0"], stderr=file)
        try:
            environment = {**os.environ, "REWARDEN_URL": address(log)}
            return subprocess.run([python, __file__, wheels], env=environment).returncode
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    sys.exit(main())
