#!/usr/bin/env python3
"""Scores of a reward model by transformers, for `rewarden verify --reference FILE`.

    python examples/reference.py MODEL ITEMS.jsonl > reference.jsonl      # MODEL: a folder or a name on the hub
    rewarden verify --model MODEL --reference reference.jsonl

Items are `{"id"?, "messages": [...]}` or `{"id"?, "prompt", "response"}`; `--adapter DIR` puts a PEFT adapter on MODEL.
"""
import argparse
import json
import sys

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("items")
parser.add_argument("--adapter")
args = parser.parse_args()
tokenizer = AutoTokenizer.from_pretrained(args.model)
model = AutoModelForSequenceClassification.from_pretrained(args.model, dtype=torch.float32, num_labels=1)
if args.adapter:
    from peft import PeftModel
    model = PeftModel.from_pretrained(model, args.adapter)
model.eval()
for line in open(args.items, encoding="utf-8"):
    item = json.loads(line)
    messages = item.get("messages") or [{"role": "user", "content": item["prompt"]},
                                        {"role": "assistant", "content": item["response"]}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        item["mean"] = model(input_ids=ids).logits[0, 0].item()
    json.dump(item, sys.stdout)
    print()
