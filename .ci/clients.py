#!/usr/bin/env python3
"""Other servers' own clients against the service: each must read the rewards that `/v1/rewards` gives.

    python .ci/clients.py BINARY [FOLDER]
    python .ci/clients.py --install FOLDER

The clients come from PyPI into an environment of their own, in FOLDER if that was done before. Of verl and OpenRLHF, which want a
GPU to be installed, the wheels are unpacked and the very functions taken that send requests; of KServe, whose package is a server
and a client of Kubernetes too, the modules of its inference client.
"""
import asyncio
import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import types
import urllib.request
import venv
import zipfile

CLIENTS = ["cohere", "infinity_client", "huggingface_hub", "aiohttp"]
KSERVE = ["cloudevents<2", "fastapi", "grpcio", "httpx", "orjson", "pandas<3", "protobuf<7", "psutil", "pyyaml"]
WHEELS = ["verl==0.9.1", "openrlhf==0.11.2", "kserve==0.21.0"]
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


def rewards(url, items):
    """What the service itself says of items."""
    body = json.dumps({"items": items}).encode()
    request = urllib.request.Request(f"{url}/v1/rewards", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)["data"]


def check(name, got, want):
    """Whether rewards, or what else there are numbers of, are those that they must be; says so."""
    near = len(got) == len(want) and all(abs(a - b) < 1e-3 for a, b in zip(got, want))
    print("ok  " if near else "FAIL", name, "" if near else f"{got} is not {want}", flush=True)
    return near


class Clients:
    def __init__(self, url, wheels):
        self.url, self.wheels = url, wheels
        items = [{"prompt": PROMPT, "response": answer} for answer in ANSWERS]
        self.want = [reward["mean"] for reward in rewards(url, items)]

    def check(self, name, got):
        return check(name, got, self.want)

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

    def kserve_modules(self):
        """Without the package's own `__init__`, which imports everything that it has."""
        package = types.ModuleType("kserve")
        package.__path__ = [os.path.join(self.wheels, "kserve")]
        sys.modules["kserve"] = package
        from kserve import inference_client
        from kserve.protocol import infer_type
        return inference_client, infer_type

    def kserve(self):
        rest, tensors = self.kserve_modules()
        column = lambda name, texts: tensors.InferInput(name, [len(texts)], "BYTES", texts)
        ask = tensors.InferRequest("default", [column("prompt", [PROMPT] * len(ANSWERS)), column("response", ANSWERS)],
                                  request_outputs=[tensors.RequestedOutput("mean"), tensors.RequestedOutput("std")])
        texts = [templated(answer) for answer in ANSWERS]

        async def asked():
            async with rest.InferenceRESTClient(rest.RESTConfig(protocol="v2")) as client:
                known = [await client.is_server_live(self.url), await client.is_server_ready(self.url),
                         await client.is_model_ready(self.url, "default"), await client.is_model_ready(self.url, "no")]
                columns = await client.infer(self.url, ask, "default")
                text = await client.infer(self.url, tensors.InferRequest("default", [column("text", texts)]), "default")
            async with rest.InferenceRESTClient(rest.RESTConfig(protocol="v1")) as client:
                known.append(await client.is_model_ready(self.url, "default"))
                old = await client.infer(self.url, {"instances": texts}, "default")
            return known, mean(columns), mean(text), old["predictions"]

        mean = lambda reply: reply.get_output_by_name("mean").as_numpy().tolist()
        return asyncio.run(asked())

    def huggingface(self):
        """It reads the labels of one text out of a list of lists."""
        from huggingface_hub import InferenceClient
        client = InferenceClient(model=f"{self.url}/predict")
        ask = lambda answer: client.text_classification(templated(answer), function_to_apply="none")
        return [ask(answer)[0].score for answer in ANSWERS]

    def in_order(self, results):
        scores = [0.0] * len(ANSWERS)
        for result in results:
            scores[result.index] = result.relevance_score
        return scores

    def run(self):
        known, columns, text, predictions = self.kserve()
        return all([self.check("verl, to vLLM's /classify", self.verl()),
                    self.check("OpenRLHF, /get_reward", self.openrlhf()),
                    self.check("cohere.Client, /v1/rerank", self.cohere("Client")),
                    self.check("cohere.ClientV2, /v2/rerank", self.cohere("ClientV2")),
                    self.check("infinity_client, /rerank", self.infinity()),
                    self.check("huggingface_hub, text_classification", self.huggingface()),
                    check("kserve, what is ready", known, [True, True, True, False, True]),
                    self.check("kserve, infer of prompts and responses", columns),
                    self.check("kserve, infer of templated texts", text),
                    self.check("kserve, :predict of the first version", predictions)])


def install(folder):
    """An environment with the clients, and the wheels that are taken apart."""
    python, wheels = places(folder)
    venv.create(os.path.join(folder, "venv"), with_pip=True)
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-compile", *CLIENTS, *KSERVE], check=True)
    subprocess.run([*pip, "download", "--no-deps", "--dest", folder, *WHEELS], check=True)
    for name in os.listdir(folder):
        if name.endswith(".whl"):
            with zipfile.ZipFile(os.path.join(folder, name)) as archive:
                archive.extractall(wheels)


def places(folder):
    """Python, and the unpacked wheels."""
    return os.path.join(folder, "venv", "bin", "python"), os.path.join(folder, "wheels")


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


@contextlib.contextmanager
def served(binary, *flags):
    """The address of a service that stops afterwards."""
    with tempfile.NamedTemporaryFile("w", suffix=".log") as log:
        server = subprocess.Popen([binary, "serve", "--port", "0", *flags], stderr=log)
        try:
            yield address(log.name)
        finally:
            server.terminate()
            server.wait()


def driven(binary, folder):
    """Runs the clients in their environment."""
    python, wheels = places(folder)
    with served(binary) as url:
        return subprocess.run([python, __file__, wheels], env={**os.environ, "REWARDEN_URL": url}).returncode


def main():
    first, *rest = sys.argv[1:]
    if os.environ.get("REWARDEN_URL"):
        return 0 if Clients(os.environ["REWARDEN_URL"], first).run() else 1
    if first == "--install":
        return install(rest[0])
    if rest:
        return driven(first, rest[0])
    with tempfile.TemporaryDirectory() as folder:
        install(folder)
        return driven(first, folder)


if __name__ == "__main__":
    sys.exit(main())
