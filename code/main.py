from embody.main import *  # noqa: F403
