"""Mistakes of users, a kind of their own: the command line says them in one line; every other exception is ours."""

__all__ = ["UserError", "install_extra"]


class UserError(ValueError):
    """What was wrong, where, and what to do about it, in one line."""


def install_extra(extra: str) -> str:
    """Advice for a missing package: the command that installs `extra`, one of the extras in pyproject.toml."""
    return f'run `pip install -e ".[{extra}]"` in the clone of embody'
