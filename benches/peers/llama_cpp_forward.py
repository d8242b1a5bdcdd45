#!/usr/bin/env python3
"""Means with llama-cpp-python: the base with the adapter merged (gguf_merged.py), embeddings pooled at the last token.

llama.cpp returns the last token's hidden state (pooling LAST); the head is a dot product with it. `--kind` is the type
of the matrices, f32 or Q8_0. llama.cpp packs sequences without padding; `--batch-size` is how many there are in a call.
Keys and values are kept in the type of the run: f32, or llama.cpp's default f16 with Q8_0.
"""
import os

import numpy as np

from batches import by_length, chosen_size
from protocol import Stopwatch, main, read_lines, tokens_of, write_lines

SIZES = (1, 2, 4)
LONGEST = 1024


def model_file(args):
    """The merged model of this kind, written when it is first needed."""
    from gguf_merged import write

    path = os.path.join(args.work, f"merged-{args.kind}.gguf")
    if not os.path.exists(path):
        write(args.base, args.adapter, f"{path}.part", args.kind)
        os.replace(f"{path}.part", path)
    return path


def load(args):
    import llama_cpp

    room = max(SIZES) * LONGEST
    cache = llama_cpp.GGML_TYPE_F32 if args.kind == "f32" else llama_cpp.GGML_TYPE_F16
    return llama_cpp.Llama(model_file(args), embedding=True, pooling_type=llama_cpp.LLAMA_POOLING_TYPE_LAST,
                           n_ctx=room, n_batch=room, n_ubatch=room, n_threads=args.threads,
                           n_threads_batch=args.threads, type_k=cache, type_v=cache, verbose=False)


def score(model, head, items, size):
    """Means by id. `Llama.embed` takes text only, so its calls are made here, for token ids."""
    import llama_cpp

    means = {}
    for batch in by_length(items, size):
        model._ctx.kv_cache_clear()
        model._batch.reset()
        for at, item in enumerate(batch):
            model._batch.add_sequence(item["input_ids"], at, True)
        model._ctx.decode(model._batch)
        for at, item in enumerate(batch):
            hidden = llama_cpp.llama_get_embeddings_seq(model._ctx.ctx, at)
            means[item["id"]] = float(np.ctypeslib.as_array(hidden, (len(head),)) @ head)
    return means


def measure(args):
    from safetensors.numpy import load_file

    watch, items = Stopwatch(), read_lines(args.input)
    adapter = load_file(os.path.join(args.adapter, "adapter_model.safetensors"))
    head, model = adapter["base_model.model.score.weight"][0], load(args)
    size = chosen_size(args, SIZES, items, lambda some, size: score(model, head, some, size))
    with watch:
        means = score(model, head, items, size)
    write_lines(args.output, [{"id": key, "mean": mean} for key, mean in means.items()])
    return watch.result(len(items), tokens_of(items), setting=["--batch-size", size])


def flags(parser):
    parser.add_argument("--kind", choices=("f32", "q8_0"), required=True)
    parser.add_argument("--base", required=True, help="GGUF file of the embedded base")


if __name__ == "__main__":
    main(__doc__, measure, flags)
