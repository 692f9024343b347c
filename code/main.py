from embody.cli.main import *  # noqa: F403
