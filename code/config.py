from embody.config import *  # noqa: F403
from embody.presets import *  # noqa: F403
