"""Checkpoints (and, with several processes, the mesh)."""
