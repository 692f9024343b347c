from embody.logger_manager import *  # noqa: F403
