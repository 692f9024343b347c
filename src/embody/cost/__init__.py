"""The costs of a config, computed from its numbers alone: parameters, FLOPs, memory, and a table of them."""

from embody.cost.plan import plan

__all__ = ["plan"]
