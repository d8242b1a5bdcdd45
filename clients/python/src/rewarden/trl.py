"""Rewards for TRL's trainers: `GRPOTrainer(reward_funcs=reward_func(client))`."""
from __future__ import annotations

from typing import Any, Callable, Optional, Sequence

from .client import Answer, Client, Penalty, item


def reward_func(client: Client, *, penalty: Optional[Penalty] = None, truncation: Optional[str] = "keep-suffix",
                name: str = "rewarden") -> Callable[..., list[float]]:
    """A function of `prompts` and `completions`, standard or conversational, that returns conservative scores.

    Without a `penalty` the adapter's stored rule applies, or else one standard deviation. Without a posterior, or with
    `Penalty("none")`, the scores are the means. What is too long is cut within its last message; with
    `truncation=None` it is an error.
    """

    def score(prompts: Sequence[Answer], completions: Sequence[Answer], **_: Any) -> list[float]:
        items = [item(prompt, completion) for prompt, completion in zip(prompts, completions)]
        return [reward.score for reward in client.rewards(items, penalty=penalty, truncation=truncation)]

    score.__name__ = name
    return score
