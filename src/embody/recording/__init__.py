"""Recording demonstrations in the real environment, and importing recordings."""

from embody.recording.collect import Progress, collect, is_collected
from embody.recording.play import play_episodes

__all__ = ["Progress", "collect", "is_collected", "play_episodes"]
