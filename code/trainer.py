from embody.trainer import *  # noqa: F403
