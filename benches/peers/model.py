"""The reward model in PyTorch: transformers' checkpoint with peft's adapter."""
import os

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()


def load(args, trainable=False, merged=False):
    """The model in f32, on as many threads as `--threads` says."""
    torch.set_num_threads(args.threads)
    checkpoint = os.path.join(args.work, "checkpoint")
    base = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=1, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, args.adapter, is_trainable=trainable)
    model = model.merge_and_unload() if merged else model
    model.config.use_cache = False
    return model.eval()
