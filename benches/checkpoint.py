#!/usr/bin/env python3
"""Turns a GGUF file of the llama architecture into a Hugging Face folder that says the same, in f32.

    python benches/checkpoint.py MODEL.gguf FOLDER

Weights are dequantised. llama.cpp stores the rows of q and k with the two halves of every head interleaved, as its
rotary embedding wants them; here they go back to Hugging Face's order.
"""
import os
import sys

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
         "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
CONTROL = 3                      # `tokenizer.ggml.token_type` of tokens that are matched whole


def metadata(reader):
    values = {key: field.contents() for key, field in reader.fields.items()}
    for key, known in (("general.architecture", "llama"), ("tokenizer.ggml.pre", "smollm")):
        if values.get(key) != known:
            raise SystemExit(f"{key}: {values.get(key)} is not supported, only {known} is")
    return values


def deinterleaved(weight, heads):
    """Rows of each head from (0, n/2, 1, n/2 + 1, ...) to (0, 1, 2, ...)."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def weights(reader, values):
    tensors = {}
    heads = {"attn_q": values["llama.attention.head_count"], "attn_k": values["llama.attention.head_count_kv"]}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        weight = weight.reshape([int(size) for size in reversed(tensor.shape)])
        name = tensor.name.removesuffix(".weight")
        if name in WHOLE:
            module = WHOLE[name]
        else:
            _, layer, part = name.split(".")
            module = f"model.layers.{layer}.{LAYER[part]}"
            weight = deinterleaved(weight, heads[part]) if part in heads else weight
        tensors[f"{module}.weight"] = np.ascontiguousarray(weight)
    return tensors


def config(values, tied):
    return LlamaConfig(
        architectures=["LlamaForCausalLM"], vocab_size=len(values["tokenizer.ggml.tokens"]),
        hidden_size=values["llama.embedding_length"], intermediate_size=values["llama.feed_forward_length"],
        num_hidden_layers=values["llama.block_count"], num_attention_heads=values["llama.attention.head_count"],
        num_key_value_heads=values["llama.attention.head_count_kv"],
        max_position_embeddings=values["llama.context_length"],
        rms_norm_eps=values["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": values["llama.rope.freq_base"]},
        bos_token_id=values["tokenizer.ggml.bos_token_id"], eos_token_id=values["tokenizer.ggml.eos_token_id"],
        pad_token_id=values["tokenizer.ggml.padding_token_id"], tie_word_embeddings=tied, dtype="float32")


def tokenizer(values):
    tokens = values["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in values["tokenizer.ggml.merges"]]
    bpe = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(token, normalized=False, special=True)
                            for token, kind in zip(tokens, values["tokenizer.ggml.token_type"]) if kind == CONTROL])
    named = {name: tokens[values[f"tokenizer.ggml.{key}_token_id"]]
             for name, key in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"))}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, chat_template=values["tokenizer.chat_template"], **named)


def convert(gguf, folder):
    """Writes config, weights, tokenizer and chat template of `gguf` into `folder`."""
    reader = GGUFReader(gguf)
    values = metadata(reader)
    os.makedirs(folder, exist_ok=True)
    tensors = weights(reader, values)
    config(values, tied="lm_head.weight" not in tensors).save_pretrained(folder)
    tokenizer(values).save_pretrained(folder)
    save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__.strip())
    convert(*sys.argv[1:])
