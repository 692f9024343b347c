"""The exception for a user's mistake, which the command line prints as one line. Any other exception is a bug."""

__all__ = ["UserError", "install_extra"]


class UserError(ValueError):
    """A user's mistake. The message says in one line what is wrong, where, and what to do."""


def install_extra(extra: str) -> str:
    """Advice for a missing package: the command that installs `extra`, one of the extras in pyproject.toml."""
    return f'run `pip install -e ".[{extra}]"` in the clone of embody'
