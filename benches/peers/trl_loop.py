#!/usr/bin/env python3
"""Training with peft and TRL's RewardTrainer: LoRA and head, AdamW, f32, every step on all pairs of the file.

A step's pairs go through in micro-batches of `--batch-size` pairs, shortest first, chosen and rejected padded together;
gradients accumulate over them. Gradient checkpointing and bf16, which TRL turns on by default, are off: on these cores
they cost time. The options are those of rewarden.py's `train`, so that the losses must agree.
"""
import tempfile

from protocol import Stopwatch, main, read_lines, write_lines


def pairs_by_length(path):
    from datasets import Dataset

    rows = [{side: pair[side] for side in ("chosen_ids", "rejected_ids")} for pair in read_lines(path)]
    rows.sort(key=lambda row: len(row["chosen_ids"]) + len(row["rejected_ids"]))
    return Dataset.from_list(rows)


def config(args, folder, pairs):
    from trl import RewardConfig

    return RewardConfig(
        output_dir=folder, use_cpu=True, bf16=False, gradient_checkpointing=False, max_length=None, report_to="none",
        save_strategy="no", logging_steps=1, disable_tqdm=True, dataloader_num_workers=0, num_train_epochs=args.steps,
        per_device_train_batch_size=args.batch_size, gradient_accumulation_steps=pairs // args.batch_size,
        train_sampling_strategy="sequential", learning_rate=2e-4, lr_scheduler_type="cosine", warmup_steps=0,
        weight_decay=0.0, max_grad_norm=1.0, center_rewards_coefficient=0.01, pad_to_multiple_of=None)


def measure(args):
    from transformers import AutoTokenizer, TrainerCallback
    from trl import RewardTrainer

    from model import load

    args.batch_size = args.batch_size or 4
    watch, pairs = Stopwatch(), pairs_by_length(args.input)
    if len(pairs) % args.batch_size:
        raise SystemExit(f"--batch-size: {args.batch_size} does not divide {len(pairs)} pairs")

    class Timer(TrainerCallback):
        """Leaves the preparations of `Trainer.train` out."""

        def on_train_begin(self, *_, **__):
            watch.__enter__()

        def on_train_end(self, *_, **__):
            watch.__exit__()

    model = load(args, trainable=True)
    tokenizer = AutoTokenizer.from_pretrained(f"{args.work}/checkpoint")
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        trainer = RewardTrainer(model=model, args=config(args, folder, len(pairs)), train_dataset=pairs,
                                processing_class=tokenizer, callbacks=[Timer()])
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    write_lines(args.output, [{"id": f"step {at + 1}", "mean": loss} for at, loss in enumerate(losses)])
    tokens = sum(len(pair["chosen_ids"]) + len(pair["rejected_ids"]) for pair in pairs)
    return watch.result(2 * len(pairs) * args.steps, tokens * args.steps, setting=["--batch-size", args.batch_size])


if __name__ == "__main__":
    main(__doc__, measure, lambda parser: parser.add_argument("--steps", type=int, default=2))
