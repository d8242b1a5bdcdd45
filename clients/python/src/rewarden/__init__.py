"""Client of the Rewarden reward-scoring service: rewards with their uncertainty."""
from .client import Client, Item, Message, Overloaded, Penalty, RewardenError, Reward

__all__ = ["Client", "Item", "Message", "Overloaded", "Penalty", "RewardenError", "Reward"]
