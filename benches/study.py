#!/usr/bin/env python3
"""The over-optimisation study of docs/study.md: does a conservative score choose better answers than the mean?

    python benches/study.py BINARY DATA --output DIR [--seeds 1 2 3 4] [--pairs 1000]

DATA is a folder with train.jsonl.gz, test.jsonl.gz and pools.jsonl.gz. Every step leaves a file in DIR and is not repeated
where that exists; an interrupted training or fit goes on from its checkpoint. What was found is in `best-of-n.json`, `shift.json`
and `gold-test.json`, plots beside them, and how long every step took in `times.jsonl`.

The gold reward is synthetic: a reward model of higher rank, trained on all the data (Coste et al., 2023, section 4). Proxies
are smaller adapters, trained on a part of the pairs, whose labels the gold gives and of which a quarter is flipped. Proxies
under a shift have seen conversations about harmful requests alone; the pools are instructions and questions.
"""
import argparse
import gzip
import json
import os
import random
import resource
import subprocess
import sys
import time

LEFT_OUT = "finegrained-rlhf/qa_feedback/dev"  # its passages are missing, and its labels unlearnable without them
REFUSALS = "hh-rlhf/harmless-base/test"
GOLD = ["--exclude-source", LEFT_OUT, "--max-length", "384", "--rank", "16", "--alpha", "32", "--constructed", "0.35",
        "--constructed-exclude-source", REFUSALS, "--learning-rate", "4e-4", "--batch-size", "16", "--epochs", "2",
        "--max-tokens", "1000000", "--holdout", "0.03", "--seed", "1"]
PROXY = ["--rank", "8", "--alpha", "16", "--learning-rate", "4e-4", "--batch-size", "16", "--holdout", "0"]


def lines(path):
    with (gzip.open if path.endswith(".gz") else open)(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def write(path, rows):
    with open(path + ".part", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    os.replace(path + ".part", path)


def cpu_seconds():
    """Of all cores, by the commands that have ended: other work on the machine hardly changes them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Study:
    def __init__(self, args):
        self.args = args
        os.makedirs(args.output, exist_ok=True)

    def at(self, *parts):
        return os.path.join(self.args.output, *parts)

    def data(self, name):
        return os.path.join(self.args.data, name)

    def run(self, name, *command):
        """Runs a command of the program: output in NAME.json, progress in NAME.log, seconds and CPU seconds in times.jsonl."""
        started, before = time.time(), cpu_seconds()
        print(name, file=sys.stderr, flush=True)
        with open(self.at(name + ".log"), "a", encoding="utf-8") as log:
            done = subprocess.run([self.args.binary, *command], stdout=subprocess.PIPE, stderr=log, text=True)
        if done.returncode:
            raise SystemExit(f"{name}: see {self.at(name + '.log')}")
        with open(self.at(name + ".json"), "w", encoding="utf-8") as file:
            file.write(done.stdout)
        with open(self.at("times.jsonl"), "a", encoding="utf-8") as file:
            took = {"seconds": round(time.time() - started), "cpu_seconds": round(cpu_seconds() - before)}
            file.write(json.dumps({"step": name, **took}) + "\n")

    def train(self, name, data, flags):
        if not os.path.exists(self.at(name, "adapter_model.safetensors")):
            resume = ["--resume"] if os.path.exists(self.at(name)) else []
            self.run(f"train-{name}", "train", "--data", data, "--output", self.at(name), *flags, *resume)

    def fit(self, name, data, *flags):
        posterior = self.at(name, "posterior.safetensors")
        if not os.path.exists(posterior):
            resume = ["--resume"] if any(f.startswith("posterior") for f in os.listdir(self.at(name))) else []
            self.run(f"fit-{name}", "fit", "--adapter", self.at(name), "--data", data, *flags, *resume)

    def scores(self, name, items):
        """Gold rewards of items, by id."""
        scored = self.at(name + "-scored.jsonl")
        if not os.path.exists(scored):
            write(self.at(name + "-items.jsonl"), items)
            self.run(name, "score", "--no-variance", "--adapter", self.at("gold"), "--input",
                     self.at(name + "-items.jsonl"), "--output", scored + ".part")
            os.replace(scored + ".part", scored)
        return {line["id"]: line["mean"] for line in lines(scored)}

    def labelled(self, name, data, count):
        """Short pairs of a file with the gold's rewards of both sides."""
        size = lambda pair: sum(len(m["content"]) for side in ("prompt", "chosen", "rejected") for m in pair[side])
        pairs = [p for p in lines(self.data(data)) if p["source"] != LEFT_OUT and size(p) < self.args.characters]
        random.Random(0).shuffle(pairs)
        pairs = pairs[:count]
        sides = [(k, side) for k in range(len(pairs)) for side in ("chosen", "rejected")]
        items = [{"id": f"{k}-{side}", "messages": pairs[k]["prompt"] + pairs[k][side]} for k, side in sides]
        gold = self.scores(name, items)
        return [(p, gold[f"{k}-chosen"], gold[f"{k}-rejected"]) for k, p in enumerate(pairs)]

    def flipped(self, draw, pair, chosen, rejected):
        """A pair as the gold prefers it, with the answers exchanged in a share `--flips` of the draws."""
        swap = (chosen < rejected) != (draw.random() < self.args.flips)
        sides = (pair["rejected"], pair["chosen"]) if swap else (pair["chosen"], pair["rejected"])
        return {"source": pair["source"], "prompt": pair["prompt"], "chosen": sides[0], "rejected": sides[1]}

    def relabelled(self, seed, pairs, sources):
        draw = random.Random(seed)
        kept = [p for p in pairs if not sources or p[0]["source"] in sources]
        count = self.args.shift_pairs if sources else self.args.pairs
        return [self.flipped(draw, *p) for p in draw.sample(kept, min(count, len(kept)))]

    def held_out(self):
        """Short test pairs under the same labels, for the posteriors of benches/posteriors.py: `held-out.jsonl`."""
        if not os.path.exists(self.at("held-out.jsonl")):
            draw = random.Random(0)
            labelled = self.labelled("held-out", "test.jsonl.gz", None)
            write(self.at("held-out.jsonl"), [self.flipped(draw, *p) for p in labelled])
        return self.at("held-out.jsonl")

    def some_held_out(self):
        """The first `args.test` of the held-out pairs, which are in a random order."""
        path = self.at(f"held-out-{self.args.test}.jsonl")
        if not os.path.exists(path):
            write(path, lines(self.held_out())[:self.args.test])
        return path

    def pools(self):
        pools = lines(self.data("pools.jsonl.gz"))
        prompt = lambda p: [{"role": "user", "content": p}] if isinstance(p, str) else p
        items = [{"id": f"{k}-{i}", "prompt": prompt(pool["prompt"]), "response": answer}
                 for k, pool in enumerate(pools) for i, answer in enumerate(pool["responses"])]
        gold = self.scores("pools-gold", items)
        for k, pool in enumerate(pools):
            pool["gold"] = [gold[f"{k}-{i}"] for i in range(len(pool["responses"]))]
        write(self.at("pools.jsonl"), pools)

    def proxies(self, kind, sources, seeds):
        names, labelled = [], None
        for seed in seeds:
            name = f"{kind}-{seed}"
            data = self.at(name + ".jsonl")
            if not os.path.exists(data):
                labelled = labelled or self.labelled("label", "train.jsonl.gz", self.args.labelled)
                write(data, self.relabelled(seed, labelled, sources))
            self.train(name, data, [*PROXY, "--seed", str(seed), "--max-length", "384"])
            names.append(name)
        return names

    def best_of_n(self, name, proxies, *flags):
        if not os.path.exists(self.at(name + ".json")):
            adapters = [flag for proxy in proxies for flag in ("--adapter", self.at(proxy))]
            self.run(name, "evaluate", "best-of-n", "--data", self.at("pools.jsonl"), *adapters, *flags,
                     "--cache", self.at("cache"), "--plots", self.at(f"{name}-plots"))
        with open(self.at(name + ".json"), encoding="utf-8") as file:
            table(json.load(file))


def interval(curve):
    """Value and 95 % interval at the largest n."""
    low, high = curve["interval"][-1]
    return f"{curve['value'][-1]:.2f} ({low:.2f} to {high:.2f})"


def table(report):
    """What was chosen at the largest n, by rule."""
    print(f"{report['prompts']} prompts, {report['proxies']} proxies, n = {report['n'][-1]}, KL = {report['kl'][-1]:.2f} nats")
    measures = {"proxy mean, gold": report["agreement"], "less the std, gold": report["certainty"][0],
                "less the relative std, gold": report["certainty"][1], "std, error": report["error_found"][0],
                "relative std, error": report["error_found"][1]}
    print("| rank correlation within a pool | |\n|---|---|")
    for name, measure in measures.items():
        print(f"| {name} | {measure['value']:.2f} ({measure['interval'][0]:.2f} to {measure['interval'][1]:.2f}) |")
    print("| rule | k, by either half | proxy | gold | gold over the mean's choice |\n|---|---|---|---|---|")
    for judged in report["judged"]:
        k = " and ".join(f"{k:g}" for k in judged["k"]) if any(judged["k"]) else ""
        name = judged["family"].replace("_", " ")
        print(f"| {name} | {k} | {interval(judged['proxy'])} | {interval(judged['gold'])} | {interval(judged['above_mean'])} |")
    for run in report["runs"]:
        if run["k"] == 1 and run["family"] in ("std", "relative_std", "relative_total_std"):
            name = run["family"].replace("_", " ")
            print(f"| {name}, whatever the prompts | 1 | {interval(run['proxy'])} | {interval(run['gold'])} | |")


def arguments(description):
    """What both scripts of the study take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("data")
    parser.add_argument("--output", required=True, help="folder of the study")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--characters", type=int, default=1000, help="longest pair, prompt and both answers")
    parser.add_argument("--flips", type=float, default=0.25, help="share of the labels that are flipped")
    return parser


def main():
    parser = arguments(__doc__)
    parser.add_argument("--shift-seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--shift-pairs", type=int, default=1000, help="their training pairs")
    parser.add_argument("--shift-answers", type=int, default=128, help="answers of each pool that they choose from")
    parser.add_argument("--pairs", type=int, default=1000, help="training pairs of a proxy")
    parser.add_argument("--labelled", type=int, default=1600, help="pairs that the gold labels")
    parser.add_argument("--until", choices=["proxies", "fits", "best-of-n", "end"], default="end")
    study = Study(parser.parse_args())
    study.train("gold", study.data("train.jsonl.gz"), GOLD)
    proxies = study.proxies("proxy", None, study.args.seeds)
    study.pools()
    if study.args.until == "proxies":
        return
    for name in proxies:
        study.fit(name, study.at(name + ".jsonl"), "--max-length", "384")
    if study.args.until == "fits":
        return
    study.best_of_n("best-of-n", proxies)
    if study.args.until == "best-of-n":
        return
    if not os.path.exists(study.at("gold-test.json")):
        study.run("gold-test", "evaluate", "pairs", "--adapter", study.at("gold"), "--data", study.data("test.jsonl.gz"))
    shifted = study.proxies("shift", [REFUSALS], study.args.shift_seeds)
    for name in shifted:
        study.fit(name, study.at(name + ".jsonl"), "--max-length", "384")
    study.best_of_n("shift", shifted, "--answers", str(study.args.shift_answers))


if __name__ == "__main__":
    main()
