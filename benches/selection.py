#!/usr/bin/env python3
"""Prints the tables of docs/selection.md from a report of `rewarden evaluate selection`.

    rewarden evaluate selection --data test.jsonl.gz --inject ... > selection.json
    python benches/selection.py selection.json
"""

import json
import sys


def named(rule):
    """A rule in words, such as `contraction, k = 8, above 0.9`."""
    parts = [rule["kind"] if rule["kind"] != "none" else "mean"]
    parts += [f"{name} = {rule[name]:g}" for name in ("k", "beta", "baseline") if name in rule]
    parts += [f"above {rule['above']:g}"] if "above" in rule else []
    return ("relative " if rule.get("relative") else "") + ", ".join(parts)


def share(picks):
    return "" if picks is None else f"{picks['share']:.2f} ({picks['interval'][0]:.2f} to {picks['interval'][1]:.2f})"


def change(difference):
    return f"{difference['mean']:+.3f} ({difference['interval'][0]:+.3f} to {difference['interval'][1]:+.3f})"


def area(auroc):
    return "" if auroc is None else f"{auroc['area']:.2f} ({auroc['interval'][0]:.2f} to {auroc['interval'][1]:.2f})"


def picked(rules, pairs):
    """How often each rule picks the good answer, and its accuracy on pairs."""
    print("| rule | choice half, trained kinds | judged half, all | without refusals | trained kinds | other kinds |"
          " accuracy on pairs, judged half | over the mean's, all pairs |")
    print("|---|---|---|---|---|---|---|---|")
    for rule, of in zip(rules, pairs):
        picks, judged = rule["choice"]["picks"], rule["judged"]["picks"]
        cells = [named(rule["rule"]), share(picks["trained"])]
        cells += [share(judged[name]) for name in ("all", "without_refusals", "trained", "untrained")]
        cells += ["", ""] if not of or not of["judged"] else [
            f"{of['judged']['accuracy']:.3f}", change(of["all"]["over_mean"])]
        print("| " + " | ".join(cells) + " |")


def main():
    report = json.load(open(sys.argv[1]))
    if "considered" in report:  # of `calibrate` or `fit`
        report = report["considered"] | {"recommended": report["held_out"]["penalty"]}
    rules, pairs = report["selection"]["rules"], report["pairs"] or [None] * len(report["selection"]["rules"])
    print("prompts by half:", report["selection"]["prompts"], "recommended:", report["recommended"], "\n")
    if report["pairs"] or rules[0]["all"]["picks"]["all"]:
        picked(rules, pairs)
    if any(rule["all"]["gold"] for rule in rules):
        print("\n| rule | gold over a random answer | gold over the mean's choice |\n|---|---|---|")
        for rule in rules:
            gold = rule["all"]["gold"]
            print(f"| {named(rule['rule'])} | {change(gold['over_random'])} | {change(gold['over_mean'])} |")
    measures = report["selection"]["uncertainties"]
    if measures and measures[0]["all"]["kinds"]:
        print("\n| kind | " + " | ".join(of["uncertainty"] for of in measures) + " |\n|---|" + "---|" * len(measures))
        for at, kind in enumerate(measures[0]["all"]["kinds"]):
            print(f"| {kind['kind']} | " + " | ".join(area(of["all"]["kinds"][at]["auroc"]) for of in measures) + " |")
        print("| mean | " + " | ".join(area(of["all"]["mean"]) for of in measures) + " |")


if __name__ == "__main__":
    main()
