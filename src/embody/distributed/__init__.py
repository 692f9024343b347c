"""Checkpoints, and weights as files."""
