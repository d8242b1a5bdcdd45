#!/usr/bin/env python3
"""Rules on pools with a synthetic gold: which conservative score chooses what the gold prefers (docs/selection.md).

    python benches/pools.py BINARY DATA --output STUDY [--seeds 1] [--pairs 150] [--labelled 500] [--test 100] [--answers 8]

DATA is a folder as for benches/study.py, and STUDY/gold the adapter that is the gold, such as a link to models/default. For each seed a
proxy learns from pairs of all sources that the gold labelled, and another from conversations about harmful requests alone: for it,
the pools are a shift. Each proxy is calibrated on test pairs under the same labels, and `evaluate selection` compares every rule
on the pools. Every step leaves a file and is not repeated where that exists.
"""
import os
import subprocess
import sys

from study import REFUSALS, Study, arguments

HERE = os.path.dirname(os.path.abspath(__file__))


class Pools(Study):
    def judge(self, name):
        """Fits a proxy's posterior, calibrates it, and has its rules choose from the pools."""
        self.fit(name, self.at(name + ".jsonl"), "--max-length", "384", "--held-out", self.some_held_out(), "--rule-prompts", "0")
        report = name + "-selection"
        if not os.path.exists(self.at(report + ".json")):
            self.run(report, "evaluate", "selection", "--data", self.at("pools.jsonl"), "--adapter", self.at(name),
                     "--answers", str(self.args.answers))
        print(f"{name}:", flush=True)
        subprocess.run([sys.executable, os.path.join(HERE, "selection.py"), self.at(report + ".json")], check=True)


def main():
    parser = arguments(__doc__)
    parser.add_argument("--pairs", type=int, default=150, help="training pairs of a proxy")
    parser.add_argument("--labelled", type=int, default=500, help="pairs that the gold labels")
    parser.add_argument("--test", type=int, default=100, help="held-out pairs of the posteriors")
    parser.add_argument("--answers", type=int, default=8, help="answers of each pool")
    parser.set_defaults(seeds=[1])
    study = Pools(parser.parse_args())
    study.args.shift_pairs = study.args.pairs
    if not os.path.exists(study.at("pools.jsonl")):
        study.pools()
    for kind, sources in [("proxy", None), ("shift", [REFUSALS])]:
        for name in study.proxies(kind, sources, study.args.seeds):
            study.judge(name)


if __name__ == "__main__":
    main()
