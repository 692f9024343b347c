"""Converts recordings to the frame rate of their dataset.

Shapes: F frames of a file, T timesteps of an episode.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from embody.data.episode import Episode
from embody.data.video import Video
from embody.errors import UserError

__all__ = ["at_rate", "frames_at_rate", "mean_rate"]

_SAME_RATE = 0.002  # rates with at most this relative difference count as equal, such as 29.97 and 30 frames a second
_JITTER = 0.45  # a frame may be late by this share of a timestep, or of the mean time between frames if that is shorter


def frames_at_rate(times: NDArray[np.float64], fps: int) -> NDArray[np.int32]:
    """The number of the frame that each timestep shows, at `fps` timesteps a second: int32 `[T]`, from 0.

    `times` `[F + 1]` in seconds: when each frame is shown, from 0, and the end of the last one. A timestep shows the
    last frame that begins before its time, or a little later (`_JITTER`). A steady file of nearly this rate keeps its
    frames.
    """
    frames, starts = len(times) - 1, times[:-1]
    rate = mean_rate(times)
    is_steady = np.abs(starts * rate - np.arange(frames)).max() < 0.5
    if is_steady and abs(rate / fps - 1) <= _SAME_RATE:
        return np.arange(frames, dtype=np.int32)
    steps = max(1, round(times[-1] * fps))
    late = _JITTER * min(1.0, fps / rate)
    shown = np.searchsorted(starts * fps, np.arange(steps) + late, side="right") - 1
    return shown.astype(np.int32)


def mean_rate(times: NDArray[np.float64]) -> float:
    """Frames a second on average; `times` as in `frames_at_rate`."""
    return float((len(times) - 2) / times[-2] if len(times) > 2 else 1 / times[-1])


def at_rate(episode: Episode, rate: int, fps: int) -> Episode:
    """`episode`, recorded at `rate` timesteps a second from consecutive frames of a video file, at `fps`.

    If `fps` is n times `rate`, the action that led to a frame is held for n timesteps, the last of which shows the
    frame. If `rate` is n times `fps`, n equal actions are merged into one. A `UserError` if neither is the case, or if
    actions that would be merged differ.
    """
    assert isinstance(episode.frames, Video) and episode.frames.frame_numbers is None
    where = f"{episode.frames.path}: {rate} frames a second, the dataset {fps}"
    if rate == fps:
        return episode
    if rate and fps % rate == 0:
        return _held(episode, episode.frames, fps // rate, f"{rate} frames a second brought to {fps}")
    if not rate or rate % fps:
        raise UserError(f"{where}; with actions, one must be a multiple of the other; leave it out, or set --fps")
    return _merged(episode, episode.frames, rate // fps, f"{rate} frames a second brought to {fps}", where)


def _held(episode: Episode, video: Video, times: int, change: str) -> Episode:
    """Each timestep except the first becomes `times` timesteps."""
    rows = np.append(0, np.repeat(np.arange(1, episode.length), times))
    is_last = np.diff(rows, append=-1) != 0
    return dataclasses.replace(
        episode,
        frames=_shown(video, np.where(is_last, rows, np.maximum(rows - 1, 0))),
        actions=episode.actions[rows],
        rewards=np.where(is_last, episode.rewards[rows], np.float32(0)),
        is_terminal=episode.is_terminal[rows] & is_last,
        events=None if episode.events is None else episode.events[rows] & is_last[:, None],
        camera=None if episode.camera is None else episode.camera[rows],
        is_null=None if episode.is_null is None else episode.is_null[rows],
        changes=(*episode.changes, f"{change}: each action is held for {times} timesteps"),
    )


def _merged(episode: Episode, video: Video, times: int, change: str, where: str) -> Episode:
    """Timestep 0 stays; then each `times` timesteps become one. An incomplete group at the end is left out."""
    steps = (episode.length - 1) // times
    rows = np.arange(steps + 1) * times  # the last frame of a group shows its result

    def groups(array: NDArray) -> NDArray:
        return array[1 : steps * times + 1].reshape(steps, times, *array.shape[1:])

    differ = (groups(episode.actions) != groups(episode.actions)[:, -1:]).any(axis=(1, 2))
    if differ.any():
        first = int(rows[np.argmax(differ)]) + 1
        raise UserError(
            f"{where}; actions of timesteps {first} to {first + times - 1} differ and cannot be merged; leave it out,"
            " or set --fps"
        )
    return dataclasses.replace(
        episode,
        frames=_shown(video, rows),
        actions=episode.actions[rows],
        rewards=np.append(episode.rewards[:1], groups(episode.rewards).sum(axis=1)),
        is_terminal=np.append(episode.is_terminal[:1], groups(episode.is_terminal).any(axis=1)),
        events=None
        if episode.events is None
        else np.concatenate([episode.events[:1], groups(episode.events).any(axis=1)]),
        camera=None
        if episode.camera is None
        else np.concatenate([episode.camera[:1], groups(episode.camera).mean(axis=1)]),
        is_null=None if episode.is_null is None else episode.is_null[rows],
        changes=(*episode.changes, f"{change}: each {times} equal actions are merged"),
    )


def _shown(video: Video, places: NDArray[np.int64]) -> Video:
    """`video` with the frames of timesteps `places`."""
    cursor = None if video.cursor is None else video.cursor[places]
    return Video(video.path, video.start, len(places), cursor, (video.start + places).astype(np.int32))
