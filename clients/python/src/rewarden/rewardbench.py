"""A pipeline as RewardBench calls one, whose model is served elsewhere."""
from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Optional, Sequence, Union

from .client import Client, Penalty


class Pipeline:
    """Takes conversations or templated texts, and returns a score of each: a tensor where torch is installed, else a list.

    RewardBench looks at the `model` and the `tokenizer` of a pipeline, which `config` gives it.
    """

    def __init__(self, client: Client, *, penalty: Optional[Penalty] = None, model: Any = None, tokenizer: Any = None):
        self.client, self.penalty, self.model, self.tokenizer = client, penalty, model, tokenizer

    def __call__(self, samples: Sequence[Union[str, Sequence[dict[str, str]]]], **_: Any) -> Any:
        items = [{"text": s} if isinstance(s, str) else {"messages": list(s)} for s in samples]
        rewards = self.client.rewards(items, penalty=self.penalty, truncation="keep-suffix")
        scores = [reward.score for reward in rewards]
        try:
            import torch
        except ImportError:
            return scores
        return torch.tensor(scores)


def config(client: Client, *, penalty: Optional[Penalty] = None) -> dict[str, Any]:
    """What RewardBench's `REWARD_MODEL_CONFIG` says of a model, for one that is served.

    Its tokenizer (`--tokenizer`) is to have the chat template of the model: RewardBench sends templated texts.
    """

    def model_builder(*_: Any, **__: Any) -> Any:
        return SimpleNamespace(config=SimpleNamespace(pad_token_id=None))  # all that is asked of it, or written to it

    def pipeline_builder(_: str, model: Any, tokenizer: Any) -> Pipeline:
        return Pipeline(client, penalty=penalty, model=model, tokenizer=tokenizer)

    return {"model_builder": model_builder, "pipeline_builder": pipeline_builder, "quantized": False,
            "custom_dialogue": False, "model_type": "Seq. Classifier"}
