"""The variance of rewards from their gradients: docs/maths.md, block by block, for many rewards at once."""
import os

import torch
from safetensors.torch import load_file

TENSORS = ("input_basis", "output_basis", "curvature", "prior_precision", "tail")


class Block:
    """The posterior of one trainable matrix; everything that no item changes is computed once."""

    def __init__(self, tensors):
        self.input_basis, self.output_basis = tensors["input_basis"], tensors["output_basis"]
        precision, tail = tensors["prior_precision"], tensors.get("tail", torch.zeros(1))
        self.inverse, self.tail_inverse = 1 / (tensors["curvature"] + precision), 1 / (tail + precision)
        self.input_truncated = self.input_basis.shape[0] > self.input_basis.shape[1]
        self.output_truncated = self.output_basis.shape[0] > self.output_basis.shape[1]

    def variances(self, J):
        """cov_b of each reward with itself; J is (n, d_out, d_in)."""
        Ui, Uo = self.input_basis, self.output_basis
        left = Uo.T @ J
        q = left @ Ui
        variances = (q * q * self.inverse).sum((1, 2))
        if self.input_truncated:
            R = left - q @ Ui.T
            variances += ((R * R).sum(2) * self.tail_inverse).sum(1)
        elif self.output_truncated:
            R = J @ Ui - Uo @ q
            variances += ((R * R).sum(1) * self.tail_inverse).sum(1)
        return variances


def block_name(parameter):
    """PEFT's parameter name -> name of its block in the posterior."""
    return parameter.replace(".default", "").replace(".modules_to_save", "").removesuffix(".weight")


class Posterior:
    """The blocks of all trainable parameters, by PEFT's names."""

    def __init__(self, model, adapter):
        tensors = load_file(os.path.join(adapter, "posterior.safetensors"))
        self.blocks = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                block = block_name(name)
                found = {kind: tensors[f"{block}.{kind}"].float() for kind in TENSORS
                         if f"{block}.{kind}" in tensors}
                self.blocks[name] = Block(found)

    @torch.no_grad()
    def variances(self, gradients):
        """Sums over the blocks; `gradients` maps names to (n, d_out, d_in)."""
        return sum(block.variances(gradients[name]) for name, block in self.blocks.items())
