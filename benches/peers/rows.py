"""The rows of the table: what Rewarden does and which peers do the same, on which data.

Programs of a row run by turns, Rewarden first. `compare` names the fields of the output that must agree with
Rewarden's; a program whose `differs` is set computes something else, and the table repeats why.
"""
from dataclasses import dataclass


@dataclass(frozen=True)
class Program:
    """A script of this folder with its flags."""

    name: str
    script: str
    flags: tuple = ()
    differs: str = ""
    rounds: int = 1000               # at most: what is very slow runs once

    @property
    def needs(self):
        """Paths that the script wants besides the common ones."""
        return {"rewarden.py": ("binary", "base"), "llama_cpp_forward.py": ("base",)}.get(self.script, ())


@dataclass(frozen=True)
class Row:
    """One line of figures for each program."""

    key: str
    title: str
    data: str
    ours: Program
    peers: tuple
    compare: tuple = ("mean",)
    # Where outputs are compared on other data, with more flags for Rewarden, once before the rounds.
    check_data: str = ""
    check_flags: tuple = ()


def ours(*flags, name="rewarden"):
    return Program(name, "rewarden.py", flags)


MERGED = Program("transformers, merged, padded", "transformers_forward.py")
UNMERGED = Program("transformers + peft, unmerged, padded", "transformers_forward.py", ("--unmerged",))
SHARED = Program("transformers, merged, prompt's keys and values shared", "transformers_forward.py",
                 ("--shared-prompt",))
LLAMA = Program("llama-cpp-python, F32", "llama_cpp_forward.py", ("--kind", "f32"))
LLAMA_Q8 = Program("llama-cpp-python, Q8_0", "llama_cpp_forward.py", ("--kind", "q8_0"), "weights of 8 bits")
LOOP = Program("PyTorch, loop over items", "per_sample.py", ("--way", "loop"))
VMAP = Program("torch.func, vmap(grad), padded", "per_sample.py", ("--way", "vmap"))
TRL = Program("TRL RewardTrainer + peft", "trl_loop.py")
HOOKS = Program("PyTorch hooks, all tokens", "kfac.py", ("--way", "hooks"))
PACKAGE = Program("bayesian-lora, last tokens", "kfac.py", ("--way", "package"),
                  "factors of the last token alone, with sampled labels")
LAPLACE = Program("laplace-torch, KronLaplace", "laplace_torch.py", (), "KFAC of its own; one round", 1)

MEAN, VARIANCE = ours("score", "--no-variance"), ours("score")

ROWS = (
    Row("mean", "mean, ragged", "ragged", MEAN, (MERGED, UNMERGED, LLAMA, LLAMA_Q8)),
    Row("mean-equal", "mean, 256 tokens each", "equal", MEAN, (MERGED, LLAMA, LLAMA_Q8)),
    Row("variance", "mean + variance, ragged", "variance", VARIANCE, (LOOP, VMAP), ("mean", "variance")),
    Row("variance-equal", "mean + variance, 256 tokens each", "equal-variance", VARIANCE, (LOOP, VMAP),
        ("mean", "variance")),
    Row("candidates-1", "mean, 1 candidate of a ~300-token prompt", "candidates-1", MEAN, (MERGED, LLAMA)),
    Row("candidates-16", "mean, 16 candidates of a ~300-token prompt", "candidates-16",
        ours("score", "--no-variance", "--batch-tokens", "16384", name="rewarden, shared prompt"),
        (ours("score", "--no-variance", "--alone", name="rewarden, items alone"), MERGED, SHARED, LLAMA)),
    Row("train", "training", "train", ours("train"), (TRL,)),
    Row("fit", "fit, first pass (factors)", "fit", ours("fit"), (HOOKS, PACKAGE, LAPLACE), ("trace", "norm"),
        check_data="check", check_flags=("--factors",)),
)
