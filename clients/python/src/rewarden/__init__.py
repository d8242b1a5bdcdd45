"""Client of the Rewarden reward-scoring service: rewards with their uncertainty."""
from .client import Choice, Client, Comparison, Item, Message, Overloaded, Penalty, Ranked, RewardenError, Reward

__all__ = ["Choice", "Client", "Comparison", "Item", "Message", "Overloaded", "Penalty", "Ranked", "RewardenError", "Reward"]
