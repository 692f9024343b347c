from embody.model import *  # noqa: F403
