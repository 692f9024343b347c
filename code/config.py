from embody.config import *  # noqa: F403
