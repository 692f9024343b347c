"""Recording episodes in the real environment."""

from embody.recording.collect import Progress, collect
from embody.recording.play import play_episodes

__all__ = ["Progress", "collect", "play_episodes"]
