"""Agent: tokens that read the world's features, policy, reward, value and continue heads, events, risk; losses."""

from embody.agent.events import Events, event_loss
from embody.agent.losses import AgentLoss, PmpoLoss, lambda_returns, until_rewarded
from embody.agent.model import Agent, HeadOutputs
from embody.agent.risk import Risk, risk_loss

__all__ = [
    "Agent",
    "AgentLoss",
    "Events",
    "HeadOutputs",
    "PmpoLoss",
    "Risk",
    "event_loss",
    "lambda_returns",
    "risk_loss",
    "until_rewarded",
]
