"""Agent: tokens that read the world's features, policy, reward, value and continue heads, events, and their losses."""

from embody.agent.events import Events, event_loss
from embody.agent.losses import AgentLoss, PmpoLoss, lambda_returns, until_rewarded
from embody.agent.model import Agent, HeadOutputs

__all__ = [
    "Agent",
    "AgentLoss",
    "Events",
    "HeadOutputs",
    "PmpoLoss",
    "event_loss",
    "lambda_returns",
    "until_rewarded",
]
