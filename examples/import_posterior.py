#!/usr/bin/env python3
"""A posterior of bayesian-lora or of laplace-torch as `posterior.safetensors`.

    python examples/import_posterior.py bayesian-lora FACTORS.pt ADAPTER --prior-variance 0.1 [--pairs N --batch-size B]
    python examples/import_posterior.py laplace STATE.pt ADAPTER --names NAMES.json

ADAPTER is the PEFT folder that the factors belong to, and where the file goes; FACTORS.pt is what `torch.save` made of the
result of `calculate_kronecker_factors`, STATE.pt of `la.state_dict()` with Kronecker structure (`KronLaplace`), and NAMES.json
a list of the names of the parameters that were trained, in the order of `model.named_parameters()`.

About scales. A Kronecker factor stands for a sum over pairs: H = sum_n (a_n a_n^T) x (g_n g_n^T) is nearly
(sum a a^T) x (sum g g^T) / N. bayesian-lora keeps both sums and does not divide, and its gradients are those of a batch's mean
loss, 1 / B of a pair's: its product is N / B^2 of the curvature. With `--pairs` and `--batch-size` this is corrected; without, the
file holds what that library itself computes with. It reads the last token alone, and labels drawn from the model; that cannot be
corrected afterwards. Directions beyond its `n_kfac` have no curvature there, and none here. laplace-torch's factors are scaled
to the sum over the data already.
"""
import argparse
import json
import os
import sys

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def block(name):
    """The name of a module or a parameter as that of its block."""
    for part in (".default", ".modules_to_save"):
        name = name.replace(part, "")
    return name.removesuffix(".weight")


def shapes(adapter):
    with safe_open(os.path.join(adapter, "adapter_model.safetensors"), framework="pt") as file:
        return {block(name): tuple(file.get_slice(name).get_shape()) for name in file.keys()}


def entry(out_basis, gamma, in_basis, alpha, precision):
    """The tensors of a block with the curvature gamma_i alpha_j."""
    return {"input_basis": in_basis, "output_basis": out_basis, "curvature": torch.outer(gamma, alpha),
            "prior_precision": torch.tensor([float(precision)])}


def of_root(root):
    """Basis and eigenvalues of L L^T."""
    basis, values, _ = torch.linalg.svd(root.double(), full_matrices=False)
    return basis, values.square()


def of_matrix(matrix):
    values, basis = torch.linalg.eigh(matrix.double())
    return basis, values.clamp(min=0)


def bayesian_lora(args):
    stored = torch.load(args.file, map_location="cpu", weights_only=True)
    scale = 1.0
    if args.pairs:
        scale = args.batch_size ** 2 / args.pairs
    for name, (activations, gradients) in stored.get("factors", stored).items():
        (in_basis, alpha), (out_basis, gamma) = of_root(activations), of_root(gradients)
        yield block(name), entry(out_basis, gamma * scale, in_basis, alpha, 1 / args.prior_variance)


def laplace(args):
    state = torch.load(args.file, map_location="cpu", weights_only=True)
    with open(args.names, encoding="utf-8") as file:
        names = json.load(file)
    factors = state["H"]
    if len(names) != len(factors):
        sys.exit(f"{args.names}: {len(names)} names for {len(factors)} parameters")
    precision = torch.as_tensor(state["prior_precision"]).flatten()
    if len(precision) not in (1, len(names)):
        sys.exit(f"{args.file}: prior_precision has {len(precision)} numbers for {len(names)} parameters")
    for index, (name, pair) in enumerate(zip(names, factors)):
        if len(pair) != 2:
            sys.exit(f"{args.file}: {name} has no two factors: only matrices have a posterior")
        (out_basis, gamma), (in_basis, alpha) = of_matrix(pair[0]), of_matrix(pair[1])
        yield block(name), entry(out_basis, gamma, in_basis, alpha, precision[index % len(precision)])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["bayesian-lora", "laplace"])
    parser.add_argument("file")
    parser.add_argument("adapter")
    parser.add_argument("--prior-variance", type=float, default=0.1)
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--names")
    args = parser.parse_args()
    if args.kind == "laplace" and not args.names:
        parser.error("--names: needed for laplace")
    wanted, tensors = shapes(args.adapter), {}
    for name, parts in (laplace if args.kind == "laplace" else bayesian_lora)(args):
        shape = (parts["output_basis"].shape[0], parts["input_basis"].shape[0])
        if wanted.get(name) != shape:
            sys.exit(f"{args.file}: {name} is {shape}, the adapter's is {wanted.get(name)}")
        tensors.update({f"{name}.{part}": tensor.float().contiguous() for part, tensor in parts.items()})
    missing = [name for name in wanted if f"{name}.curvature" not in tensors]
    if missing:
        sys.exit(f"{args.file}: nothing of {', '.join(missing)} (hint: the reward head needs a factor too)")
    path = os.path.join(args.adapter, "posterior.safetensors")
    save_file(tensors, path, metadata={"format": "laplace-lora", "version": "1"})
    print(path)


if __name__ == "__main__":
    main()
