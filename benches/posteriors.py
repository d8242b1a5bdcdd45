#!/usr/bin/env python3
"""Posteriors of one adapter side by side: calibration, detection, best-of-n, time and bytes (docs/posteriors.md).

    python benches/posteriors.py BINARY DATA --output STUDY [--pairs 150] [--test 160] [--items 20] [--answers 16]

STUDY is the folder of benches/study.py, which must have gone as far as its fits: the adapter is `proxy-1`, the pairs those it was
trained on, the ensemble all of its proxies. Every step leaves a file and is not repeated where that exists; the table is printed
row by row.
"""
import itertools
import json
import os
import sys

from study import Study, arguments, lines

FILES = ("adapter_config.json", "adapter_model.safetensors", "training.json")
KINDS = {
    "joint sketch, 2048 features": ["--curvature", "sketch"],
    "EKFAC, top 16 with tails": ["--curvature", "ekfac", "--rank", "16"],
    "head alone": None,
    "KFAC, top 10 with tails": ["--curvature", "kfac", "--rank", "10"],
    "EKFAC, full": ["--curvature", "ekfac", "--rank", "full"],
    "joint sketch, 512 features": ["--curvature", "sketch", "--features", "512"],
}


class Table(Study):
    """A folder for each posterior, with links to the adapter."""

    def folder(self, kind):
        return "posterior-" + "".join(c if c.isalnum() else "-" for c in kind.lower())

    def prepare(self, kind, flags):
        name = self.folder(kind)
        os.makedirs(self.at(name), exist_ok=True)
        for file in FILES:
            if not os.path.lexists(self.at(name, file)):
                os.symlink(os.path.join("..", "proxy-1", file), self.at(name, file))
        self.fit(name, self.at("proxy-1.jsonl"), "--max-length", "384", "--max-pairs", str(self.args.pairs), *flags)
        return ["--adapter", self.at(name)]

    def report(self, name, *command):
        if not os.path.exists(self.at(name + ".json")):
            self.run(name, *command)
        with open(self.at(name + ".json"), encoding="utf-8") as file:
            return json.load(file)

    def row(self, kind, adapters, proxies, *ensemble):
        name = self.folder(kind)
        test = ["--data", self.some_held_out(), "--max-length", "384"]
        pairs = self.report(name + "-pairs", "evaluate", "pairs", *adapters, *ensemble, *test)
        ood = self.report(name + "-ood", "evaluate", "ood", *adapters, *ensemble, *test, "--max-items", str(self.args.items))
        chosen = self.report(name + "-best-of-n", "evaluate", "best-of-n", "--data", self.at("pools.jsonl"), "--answers",
                             str(self.args.answers), *proxies, "--cache", self.at("cache-posteriors"))
        return kind, pairs["predictive"]["all"], ood["overall"], chosen

    def cpu_seconds(self, name):
        return sum(step["cpu_seconds"] for step in lines(self.at("times.jsonl")) if step["step"] == f"fit-{name}")


def interval(value, ends, places):
    return f"{value:.{places}f} ({ends[0]:.{places}f} to {ends[1]:.{places}f})"


def detection(auroc):
    """Mean AUROC over the groups out of the distribution that have one."""
    return interval(auroc["area"], auroc["interval"], 2) if auroc else ""


def row_line(table, kind, pairs, overall, chosen, family, bytes_):
    judged = next(judged for judged in chosen["judged"] if judged["family"] == family)
    above = judged["above_mean"]
    cells = [kind, interval(pairs["nll"], pairs["intervals"]["nll"], 3),
             interval(pairs["ece"], pairs["intervals"]["ece"], 3), detection(overall["single"]), detection(overall["difference"]),
             interval(above["value"][-1], above["interval"][-1], 2),
             f"{table.cpu_seconds(table.folder(kind))}" if bytes_ else "", f"{bytes_ / 1e6:.1f}" if bytes_ else ""]
    return "| " + " | ".join(cells) + " |"


def kinds(table):
    """Rows of the posteriors of one adapter; the head's alone under the prior precision that the first found for it."""
    for kind, flags in KINDS.items():
        adapters = table.prepare(kind, flags or head_alone(table))
        size = os.path.getsize(table.at(table.folder(kind), "posterior.safetensors"))
        yield (*table.row(kind, adapters, adapters), "relative_std", size)


def head_alone(table):
    with open(table.at(f"fit-{table.folder(next(iter(KINDS)))}.json"), encoding="utf-8") as file:
        head = json.load(file)["prior_precision"]["head"]
    return ["--features", "2", "--groups", "1", "--prior-precision", f"A=1e9,B=1e9,head={head}"]


def ensembles(table):
    """Rows of all proxies together, whose posteriors are those of the study."""
    names = [f"proxy-{seed}" for seed in table.args.seeds]
    first, *others = [table.at(name) for name in names]
    members = [flag for other in others for flag in ("--member", other)]
    proxies = [flag for name in names for flag in ("--adapter", table.at(name))]
    for kind, alone, family in [("ensemble, members' disagreement", ["--disagreement-alone"], "uwo"),
                                ("ensemble, with their posteriors", [], "relative_total_std")]:
        yield (*table.row(kind, ["--adapter", first], proxies, *members, *alone), family, 0)


def main():
    parser = arguments(__doc__)
    parser.add_argument("--pairs", type=int, default=150, help="pairs that every posterior is fitted to")
    parser.add_argument("--test", type=int, default=160, help="held-out pairs")
    parser.add_argument("--items", type=int, default=20, help="items of each group out of the distribution")
    parser.add_argument("--answers", type=int, default=16, help="answers of each pool")
    table = Table(parser.parse_args())
    print("| posterior | NLL | ECE | AUROC, single | AUROC, difference | best of n over the mean | CPU seconds | MB |")
    print("|---|---|---|---|---|---|---|---|")
    for row in itertools.chain(kinds(table), ensembles(table) if len(table.args.seeds) > 1 else []):
        print(row_line(table, *row), flush=True)


if __name__ == "__main__":
    sys.exit(main())
