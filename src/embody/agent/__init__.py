"""The agent: tokens that attend to the dynamics, heads that read them, models of events and risk, and the losses."""

from embody.agent.events import EventClassifier, event_loss
from embody.agent.losses import AgentLoss, PmpoLoss, end_at_reward, lambda_returns
from embody.agent.model import Agent, HeadOutputs
from embody.agent.risk import RiskModel, risk_loss

__all__ = [
    "Agent",
    "AgentLoss",
    "EventClassifier",
    "HeadOutputs",
    "PmpoLoss",
    "RiskModel",
    "event_loss",
    "lambda_returns",
    "risk_loss",
    "end_at_reward",
]
