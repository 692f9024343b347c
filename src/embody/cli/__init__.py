"""The command line of `embody`."""

from embody.cli.main import main

__all__ = ["main"]
