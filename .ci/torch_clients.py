#!/usr/bin/env python3
"""Libraries that train and evaluate, against the service: each must read the rewards that `/v1/rewards` gives.

    python .ci/torch_clients.py BINARY CASE

TRL's `GRPOTrainer` trains a tiny random model for two steps, RewardBench evaluates two pairs, and reward-hub's class for vLLM scores
answers. The model that is served is that of the fixture CASE, as is the tokenizer of the others, so that templated texts agree.

torch, transformers, datasets and requests are needed, and without what they depend on trl, rewardbench, reward-hub and fschat.
"""
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import types

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")  # before what reads them is imported
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "clients", "python", "src"))

from rewarden import Client
from rewarden.rewardbench import config
from rewarden.trl import reward_func

from clients import ANSWERS, PROMPT, check, rewards, served

PRM = "Qwen/Qwen2.5-Math-PRM-7B"
PRM_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


def turn(role, content):
    return {"role": role, "content": content}


def conversation(answer, prompt=PROMPT):
    return [turn("user", prompt), turn("assistant", answer)]


def asked(url, conversations, field="score"):
    return [reward[field] for reward in rewards(url, [{"messages": turns} for turns in conversations])]


def rows(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def trl(url, base, work):
    """The rewards that a trainer has logged, of the completions that it has logged."""
    import pandas
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    policy = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2))
    settings = GRPOConfig(
        output_dir=os.path.join(work, "trl"), use_cpu=True, bf16=False, max_steps=2, per_device_train_batch_size=4,
        num_generations=2, max_completion_length=12, logging_steps=1, log_completions=True, report_to=[], save_strategy="no",
        disable_tqdm=True)
    prompts = Dataset.from_list([{"prompt": [turn("user", text)]} for text in (PROMPT, "quick brown fox")])
    trainer = GRPOTrainer(model=policy, args=settings, processing_class=tokenizer, train_dataset=prompts,
                          reward_funcs=reward_func(Client(url)))
    trainer.train()
    folder = os.path.join(work, "trl", "completions")
    logged = pandas.concat(pandas.read_parquet(os.path.join(folder, name)) for name in sorted(os.listdir(folder)))
    conversations = [[*prompt, *completion] for prompt, completion in zip(logged["prompt"], logged["completion"])]
    means = [entry["rewards/rewarden/mean"] for entry in trainer.state.log_history if "rewards/rewarden/mean" in entry]
    want = asked(url, conversations)
    return (logged["rewarden"].tolist(), want), (means, [sum(want[:4]) / 4, sum(want[4:]) / 4])


def modules_of_rewardbench():
    """RewardBench's program, beside which its models and its log in the cloud are empty: the first want an old transformers."""
    models = types.ModuleType("rewardbench.models")
    models.DPO_MODEL_CONFIG, models.REWARD_MODEL_CONFIG = {}, {}
    unused = {name: types.ModuleType(name) for name in ("wandb", "pkg_resources")}
    sys.modules.update({"rewardbench.models": models, **unused})
    from rewardbench import rewardbench
    return rewardbench


def rewardbench(url, base, work):
    """The scores and the accuracy that its program has written."""
    bench = modules_of_rewardbench()
    bench.REWARD_MODEL_CONFIG["served"] = config(Client(url))
    pairs = [[conversation(answer) for answer in pair] for pair in (ANSWERS[:2], ANSWERS[1:])]
    data = os.path.join(work, "pairs.jsonl")
    with open(data, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"chosen": chosen, "rejected": rejected}) + "\n" for chosen, rejected in pairs)
    out = os.path.join(work, "rewardbench", "")
    sys.argv[1:] = ["--dataset", data, "--load_json", "--model", "served", "--tokenizer", base, "--output_dir", out]
    bench.main()
    lines, [summary] = rows(out + "served_outputs.jsonl"), rows(out + "served.json")
    want = [asked(url, pair) for pair in pairs]
    accuracy = sum(chosen > rejected for chosen, rejected in want) / len(want)
    got = [line[side] for line in lines for side in ("scores_chosen", "scores_rejected")]
    return [*got, summary["accuracy"]], [*sum(want, []), accuracy]


def reward_hub(url, base, work):
    """What its class for vLLM reads. It knows one model, and takes its tokenizer from the hub: here from a folder of that name."""
    shutil.copytree(base, os.path.join(work, PRM))
    os.chdir(work)
    from reward_hub import AutoRM
    judge = AutoRM.load(PRM, "openai", port=int(url.rsplit(":", 1)[1]))
    got = judge.score([conversation(answer) for answer in ANSWERS])
    # It splits answers into steps, of which each of these has one, and marks their ends.
    sent = [[turn("system", PRM_SYSTEM), *conversation(answer + "<extra_0>")] for answer in ANSWERS]
    return got, asked(url, sent, "mean")


@contextlib.contextmanager
def quiet():
    """Keeps what the libraries say for when they fail."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield
    except BaseException:
        print(said.getvalue())
        raise


def compared(url, base, work):
    with quiet():
        (trained, logged), hub, bench = trl(url, base, work), reward_hub(url, base, work), rewardbench(url, base, work)
    return all([check("TRL's GRPOTrainer, the rewards of its completions", *trained),
                check("TRL's GRPOTrainer, the mean of each step", *logged),
                check("reward-hub, to vLLM's /pooling", *hub),
                check("RewardBench, scores and accuracy", *bench)])


def main():
    binary, case = sys.argv[1:]
    base, adapter = os.path.abspath(os.path.join(case, "base")), os.path.join(case, "adapter")
    flags = ["--model", base, "--adapter", f"default={adapter}", "--adapter", f"{PRM}={adapter}"]
    with tempfile.TemporaryDirectory() as work, served(binary, *flags) as url:
        os.environ["HF_HOME"] = os.path.join(work, "cache")
        return 0 if compared(url, base, work) else 1


if __name__ == "__main__":
    sys.exit(main())
