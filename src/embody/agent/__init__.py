"""Agent: tokens that read the world's features, policy, reward, value and continue heads, and their losses."""

from embody.agent.losses import AgentLoss, PmpoLoss, first_rewards, lambda_returns, until_rewarded
from embody.agent.model import Agent, HeadOutputs

__all__ = ["Agent", "AgentLoss", "HeadOutputs", "PmpoLoss", "first_rewards", "lambda_returns", "until_rewarded"]
