"""A pipeline as RewardBench's `run_rm.py` calls one, whose model is served elsewhere."""
from __future__ import annotations

from typing import Any, Optional, Sequence, Union

from .client import Client, Penalty


class Pipeline:
    """Takes conversations or templated texts, and returns a score of each: a tensor where torch is installed, else a list."""

    def __init__(self, client: Client, *, penalty: Optional[Penalty] = None):
        self.client, self.penalty = client, penalty

    def __call__(self, samples: Sequence[Union[str, Sequence[dict[str, str]]]], **_: Any) -> Any:
        items = [{"text": s} if isinstance(s, str) else {"messages": list(s)} for s in samples]
        rewards = self.client.rewards(items, penalty=self.penalty, truncation="keep-suffix")
        scores = [reward.score for reward in rewards]
        try:
            import torch
        except ImportError:
            return scores
        return torch.tensor(scores)
