"""The records of a run: the recipes of its weights, its config, its times and its peak memory."""
