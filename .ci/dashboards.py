#!/usr/bin/env python3
"""Every query of the dashboard and of the rules finds data in a real Prometheus: `dashboards.py BINARY`.

Checks the rules and their tests by promtool, starts the service and a Prometheus that scrapes it, sends load of every kind, and
asks Prometheus every query. Needs `prometheus` and `promtool` (Debian: `apt install prometheus`); without them it says so and
does nothing.
"""
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
DEPLOY = os.path.join(HERE, "..", "deploy")
CASE = os.path.join(HERE, "..", "tests", "fixtures", "cases", "llama-0")
RULES = os.path.join(DEPLOY, "prometheus", "rules.yml")
DASHBOARD = os.path.join(DEPLOY, "grafana", "rewarden.json")
# What Grafana puts into queries.
VARIABLES = {"$__rate_interval": "1m", "$job": ".*", "$model": ".*"}
# An alarm is without data until it fires; annotations mark alarms.
ALARMS = "ALERTS{"
# Seconds from the first request until every query must have data.
PATIENCE = 120
# Drift is computed from 256 rewards on.
ITEMS = 320


def promtool(*arguments):
    subprocess.run(["promtool", *arguments], check=True, cwd=os.path.dirname(RULES), stdout=subprocess.DEVNULL)


def ask(url, body=None):
    """The reply as JSON; an error's too."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        return json.load(error)


def until(what, seconds, works):
    """Waits until `works` returns something true, and returns it."""
    end = time.monotonic() + seconds
    while True:
        try:
            if result := works():
                return result
        except OSError:
            pass  # not listening yet
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not within {seconds} s")
        time.sleep(0.5)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextlib.contextmanager
def started(log, *command):
    with open(log, "w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def service(binary, work):
    """Serves a tiny model, whose fit has held pairs out: drift and novelty are told against them."""
    base, pairs, adapter = os.path.join(CASE, "base"), os.path.join(CASE, "pairs.jsonl"), os.path.join(work, "adapter")
    shutil.copytree(os.path.join(CASE, "adapter"), adapter, ignore=shutil.ignore_patterns("posterior.*"))
    model = ["--model", base, "--adapter", adapter]
    subprocess.run([binary, "fit", *model, "--data", pairs, "--held-out", pairs], check=True, capture_output=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with started(os.path.join(work, "service.log"), binary, "serve", *model, "--port", str(port)):
        until("the service", 120, lambda: "status" in ask(f"{url}/readyz"))
        yield url


@contextlib.contextmanager
def prometheus(work, target):
    port, path = free_port(), os.path.join(work, "prometheus.yml")
    url = f"http://127.0.0.1:{port}"
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [os.path.abspath(RULES)],
        "scrape_configs": [{"job_name": "rewarden", "static_configs": [{"targets": [target.removeprefix("http://")]}]}],
    }
    with open(path, "w") as file:
        json.dump(config, file)  # JSON is YAML
    with started(os.path.join(work, "prometheus.log"), "prometheus", f"--config.file={path}",
                 f"--storage.tsdb.path={work}/data", f"--web.listen-address=127.0.0.1:{port}"):
        until("Prometheus", 60, lambda: samples(url, "up == 1"))
        yield url


def samples(url, query):
    """What a query finds now; ends the run if it is no query."""
    reply = ask(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}")
    if reply["status"] != "success":
        raise SystemExit(f"{query}\n  {reply['error']}")
    return [sample for sample in reply["data"]["result"] if sample["value"][1] != "NaN"]


@contextlib.contextmanager
def load(url):
    """Short items of several lengths, and requests that fail, for as long as it is left open."""
    stop = threading.Event()
    thread = threading.Thread(target=send, args=(f"{url}/v1/rewards", stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def send(url, stop):
    sent = 0
    while not stop.is_set():
        items = [{"input_ids": list(range(10, 12 + (sent + i) % 7))} for i in range(16)]
        sent += len(ask(url, {"items": items}).get("data", []))
        ask(url, {"items": []})
        ask(url, {"model": "none", "items": items})
        if sent > ITEMS:
            stop.wait(1)


def filled(query):
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


def of_dashboard():
    """Every query of the dashboard, with the panel's title."""
    with open(DASHBOARD, encoding="utf-8") as file:
        board = json.load(file)
    targets = [(panel["title"], target) for panel in board["panels"] for target in panel.get("targets", [])]
    queries = [(title, filled(target["expr"])) for title, target in targets]
    queries += [(note["name"], filled(note["expr"])) for note in board["annotations"]["list"]]
    listed = [variable for variable in board["templating"]["list"] if variable["type"] == "query"]
    for variable in listed:
        # label_values(SELECTOR, LABEL): the values of a label of what the selector finds.
        selector, label = variable["definition"].removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
        queries.append((f"variable {variable['name']}", f"count by ({label}) ({filled(selector)})"))
    return queries


def of_rules(url):
    """Every query of the rules, with the rule's name and whether it records."""
    groups = ask(f"{url}/api/v1/rules")["data"]["groups"]
    return [(rule["name"], rule["query"], rule["type"] == "recording") for group in groups for rule in group["rules"]]


def broken(url):
    """The rules that Prometheus could not evaluate."""
    groups = ask(f"{url}/api/v1/rules")["data"]["groups"]
    return [f"{rule['name']}: {rule['lastError']}" for group in groups for rule in group["rules"] if rule.get("lastError")]


def check(url):
    queries = [(name, query, not query.startswith(ALARMS)) for name, query in of_dashboard()] + of_rules(url)
    if len(queries) < 40:
        raise SystemExit(f"only {len(queries)} queries were found")
    until("16 rewards", PATIENCE, lambda: samples(url, "rewarden_scored_items_total > 16"))
    for name, query, has_data in queries:
        if has_data:
            until(f"data of `{name}`: {query}", PATIENCE, lambda: samples(url, query))
        else:
            samples(url, query)
    if errors := broken(url):
        raise SystemExit("\n".join(errors))
    return len(queries), sum(has_data for *_, has_data in queries)


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__.strip())
    if missing := [name for name in ("prometheus", "promtool") if shutil.which(name) is None]:
        print(f"skipped: no {' and no '.join(missing)} (hint: apt install prometheus)")
        return
    promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", "rules.yml")
    promtool("test", "rules", "rules.test.yml")
    # Left in the opposite order: the load ends first, then Prometheus, then the service.
    with tempfile.TemporaryDirectory() as work, contextlib.ExitStack() as running:
        target = running.enter_context(service(sys.argv[1], work))
        url = running.enter_context(prometheus(work, target))
        running.enter_context(load(target))
        queries, with_data = check(url)
    print(f"{queries} queries, {with_data} of them with data")


if __name__ == "__main__":
    main()
