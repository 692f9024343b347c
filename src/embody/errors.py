"""Mistakes of users, a kind of their own: the command line says them in one line; every other exception is ours."""

__all__ = ["UserError"]


class UserError(ValueError):
    """What was wrong, where, and what to do about it, in one line."""
