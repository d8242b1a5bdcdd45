#!/usr/bin/env python3
"""Imported posteriors give the variances of dense inverses: `import_posterior.py BINARY CASE WORK`."""
import json
import os
import shutil
import subprocess
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

binary, case, work = sys.argv[1:]
here = os.path.dirname(os.path.abspath(__file__))
script = os.path.join(here, "..", "examples", "import_posterior.py")
adapter = os.path.join(work, "adapter")
os.makedirs(work, exist_ok=True)
shutil.copytree(os.path.join(case, "adapter"), adapter, dirs_exist_ok=True)
base = AutoModelForSequenceClassification.from_pretrained(os.path.join(case, "base"), dtype=torch.float32, num_labels=1)
model = PeftModel.from_pretrained(base, adapter, is_trainable=True).double().eval()
parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
generator = torch.Generator().manual_seed(0)
draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
with open(os.path.join(case, "expected.json")) as file:
    ids = {name: item["input_ids"] for name, item in json.load(file)["items"].items()}


def variances(precisions):
    """J (G x A + lambda)^-1 J^T, by parameter, from dense matrices."""
    result = {}
    for name, tokens in ids.items():
        model.zero_grad()
        model(input_ids=torch.tensor([tokens])).logits[0, 0].backward()
        result[name] = sum((p.grad.flatten() @ torch.linalg.solve(precisions[key], p.grad.flatten())).item()
                           for key, p in parameters.items())
    return result


def check(kind, stored, precisions, *flags):
    path = os.path.join(work, "stored.pt")
    torch.save(stored, path)
    subprocess.run([sys.executable, script, kind, path, adapter, *flags], check=True, stdout=subprocess.DEVNULL)
    scored = subprocess.run([binary, "score", "--model", os.path.join(case, "base"), "--adapter", adapter, "--input",
                             os.path.join(case, "inputs.jsonl")], check=True, capture_output=True, text=True).stdout
    got = {line["id"]: line["variance"] for line in map(json.loads, scored.splitlines())}
    want = variances(precisions)
    worst = max(abs(got[name] - v) / v for name, v in want.items())
    print(f"{kind}: {worst:.1e}")
    assert worst < 1e-3, kind


eye = lambda p, precision: precision * torch.eye(p.numel(), dtype=torch.float64)
factors, precisions = {}, {}
for name, p in parameters.items():
    (rows, columns), few = p.shape, lambda n: min(n, 6) if n > 16 else n
    a, g = draw(columns, few(columns)), draw(rows, few(rows) if columns <= 16 else rows)
    if p.shape[0] > 16 and p.shape[1] > 16:
        raise SystemExit(f"{name}: both sides are long")
    factors[name.removesuffix(".weight")] = (a, g)
    precisions[name] = torch.kron(g @ g.T, a @ a.T) * 4 ** 2 / 100 + eye(p, 5.0)
check("bayesian-lora", {"factors": factors}, precisions, "--prior-variance", "0.2", "--pairs", "100", "--batch-size", "4")

pairs, precisions = [], {}
for index, (name, p) in enumerate(parameters.items()):
    (rows, columns), root = p.shape, lambda n: draw(n, n)
    g, a = (matrix @ matrix.T for matrix in (root(rows), root(columns)))
    pairs.append([g, a])
    precisions[name] = torch.kron(g, a) + eye(p, 1.0 + index)
with open(os.path.join(work, "names.json"), "w") as file:
    json.dump(list(parameters), file)
state = {"H": pairs, "prior_precision": torch.tensor([1.0 + i for i in range(len(pairs))])}
check("laplace", state, precisions, "--names", os.path.join(work, "names.json"))
