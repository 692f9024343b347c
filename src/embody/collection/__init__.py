"""Recording episodes in the real environment."""

from embody.collection.collect import Progress, collect
from embody.collection.play import play_episodes

__all__ = ["Progress", "collect", "play_episodes"]
