"""The embedded base with the adapter merged into it, as GGUF: what llama.cpp reads.

The LoRA update is added to the dequantised weights, in the order of rows that llama.cpp's rotary embedding wants.
Matrices are written as F32 or Q8_0, vectors as F32; everything else is copied from the base's file.
"""
import json
import os
import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize, quantize
from safetensors.numpy import load_file

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from checkpoint import LAYER  # noqa: E402

TYPES = {"f32": GGMLQuantizationType.F32, "q8_0": GGMLQuantizationType.Q8_0}


def updates(adapter):
    """scale B A by Hugging Face's name of the module."""
    with open(os.path.join(adapter, "adapter_config.json"), encoding="utf-8") as file:
        config = json.load(file)
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
    tensors = load_file(os.path.join(adapter, "adapter_model.safetensors"))
    for name, A in tensors.items():
        if name.endswith(".lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            yield module.removeprefix("base_model.model."), scale * tensors[f"{module}.lora_B.weight"] @ A


def interleaved(weight, heads):
    """Rows of each head from (0, 1, 2, ...) to (0, n/2, 1, n/2 + 1, ...)."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def copy_metadata(reader, writer):
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, sub_type=inner)


def merged(tensor, changes, heads):
    """The tensor's weight in f32, with its update."""
    weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    weight = weight.reshape([int(size) for size in reversed(tensor.shape)])
    part = tensor.name.removesuffix(".weight").split(".")
    if part[0] != "blk" or part[2] not in LAYER:
        return weight
    change = changes.get(f"model.layers.{part[1]}.{LAYER[part[2]]}")
    if change is None:
        return weight
    return weight + (interleaved(change, heads[part[2]]) if part[2] in heads else change)


def write(base, adapter, path, kind):
    """Writes the merged model to `path`; `kind` is a key of TYPES."""
    reader, changes = GGUFReader(base), dict(updates(adapter))
    value = lambda key: reader.fields[f"llama.attention.{key}"].contents()
    heads = {"attn_q": value("head_count"), "attn_k": value("head_count_kv")}
    writer = GGUFWriter(path, "llama")
    copy_metadata(reader, writer)
    for tensor in reader.tensors:
        weight = np.ascontiguousarray(merged(tensor, changes, heads), dtype=np.float32)
        stored = TYPES[kind] if weight.ndim == 2 else TYPES["f32"]
        writer.add_tensor(tensor.name, quantize(weight, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
