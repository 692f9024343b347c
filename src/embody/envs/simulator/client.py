"""MineRL as a gymnasium environment: the simulator runs elsewhere, behind `server.py`.

A action factors, H W pixels.
"""

import socket
import time
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from PIL import Image

from embody.envs.simulator import protocol
from embody.minecraft import VPT, ActionSpace, minerl_space

__all__ = ["MineRLEnv", "SimulatorLost", "area_average"]

_TURN = 180.0  # degrees, the camera's range


class SimulatorLost(ConnectionError):
    """The simulator died, failed or hangs: this episode is over, the next `reset` connects anew."""


class MineRLEnv(gymnasium.Env[np.ndarray, Any]):
    """One MineRL environment behind the server at `address` (`host:port`).

    Observation: uint8 `[height, width, 3]`. Action: int64 `[A]`, factors of `space`. The info holds `inventory`, counts
    of what the agent carries. `terminated` is the simulator's own end (death, the goal), `truncated` that of
    `max_steps`. Every call of an episode may raise `SimulatorLost`. Asking and answering are halves of `reset` and
    `step`, so that several simulators work at once.
    """

    def __init__(
        self,
        address: str,
        environment: str,
        *,
        height: int,
        width: int,
        max_steps: int,
        step_seconds: float = 60.0,
        reset_seconds: float = 600.0,
        patience: float = 600.0,
    ) -> None:
        """Connects. `ValueError` if the server has another environment than it should, or speaks another protocol.

        `step_seconds` and `reset_seconds` are how long an answer may take (making a world takes minutes), `patience`
        how long a server may be gone before a `SimulatorGone`, an `OSError`, says so; at once of one that never was.
        """
        host, colon, port = address.rpartition(":")
        if not colon or not host or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"--server {address}: expected host:port, such as 127.0.0.1:5555")
        self.address, self.environment, self.max_steps = (host, int(port)), environment, max_steps
        self.step_seconds, self.reset_seconds, self.patience = step_seconds, reset_seconds, patience
        self.size = height, width
        self.steps = 0
        self.simulator = ""  # what the server calls it, once met
        self._connection: socket.socket | None = None
        self._connect()
        self.observation_space = spaces.Box(0, 255, (height, width, 3), np.uint8)
        self.action_space = spaces.MultiDiscrete(list(self.space.spec.sizes))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The first frame of the world that `seed` gives (of a drawn one without)."""
        super().reset(seed=seed)
        self.ask_reset(int(self.np_random.integers(2**31)) if seed is None else seed)
        return self.answer_reset()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Frame, reward, terminated, truncated, info after one action."""
        self.ask_step(np.asarray(action))
        return self.answer_step()

    def ask_reset(self, seed: int) -> None:
        """Begin a `reset` to the world that `seed` gives."""
        if self._connection is None:
            self._connect()
        self.steps = 0
        self._say(protocol.RESET, {"seed": seed})

    def answer_reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        """End the reset that `ask_reset` began."""
        values, frame = self._observation(self.reset_seconds)
        return frame, {"inventory": values["inventory"]}

    def ask_step(self, action: NDArray[np.int64]) -> None:
        """Begin a `step`."""
        values = self.space.dictionary(action)
        self._say(protocol.STEP, values, {"camera": values.pop("camera")})

    def answer_step(self) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """End the step that `ask_step` began."""
        values, frame = self._observation(self.step_seconds)
        reward, done = values.get("reward"), values.get("done")
        if not isinstance(reward, int | float) or not isinstance(done, bool):
            raise self._lost("the server's answer has no reward or end")
        self.steps += 1
        late = self.steps >= self.max_steps
        return frame, float(reward), done and not late, late, {"inventory": values["inventory"]}

    def close(self) -> None:
        """Hang up; the server waits for the next client."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # --- the connection ---------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Connect and agree; try again until `patience` is spent, but not where no server ever listened."""
        deadline, reason = time.monotonic() + self.patience, "no answer"
        while True:
            try:
                self._connection = socket.create_connection(self.address, timeout=max(0.1, self.step_seconds))
                self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._agree()
                return
            except OSError as error:
                self.close()
                reason = str(error)
                if isinstance(error, ConnectionRefusedError) and not self.simulator:
                    break
            except ValueError:
                self.close()  # the server has others to serve
                raise
            if time.monotonic() >= deadline:
                break
            time.sleep(min(1.0, self.patience / 10))
        host, port = self.address
        raise SimulatorGone(
            f"no simulator at {host}:{port} ({reason}): start its server (docs/simulator.md), or name another with"
            " --server"
        )

    def _agree(self) -> None:
        self._say(protocol.HELLO, {"environment": self.environment, "max_steps": self.max_steps})
        values, _ = self._answer(protocol.WELCOME, self.reset_seconds)
        wanted = self.environment, self.max_steps
        if (values.get("environment"), values.get("max_steps")) != wanted:
            self.close()
            raise ValueError(
                f"the server has {values.get('environment')} of {values.get('max_steps')} steps, not {wanted}"
            )
        self.simulator = str(values.get("simulator"))
        self.space = _space_of(self.environment, values.get("actions"))
        self._frame_shape = tuple(values.get("frame") or ())

    def _say(self, kind: int, values: dict[str, Any], arrays: dict[str, NDArray[Any]] | None = None) -> None:
        if self._connection is None:
            raise self._lost("not connected")
        try:
            protocol.send(self._connection, kind, values, arrays or {}, self.step_seconds)
        except OSError as error:
            raise self._lost(str(error)) from error

    def _answer(self, kind: int, seconds: float) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        assert self._connection is not None
        try:
            came, values, arrays = protocol.receive(self._connection, seconds)
        except TimeoutError as error:
            raise self._lost(f"no answer within {seconds:g} seconds") from error
        except OSError as error:
            raise self._lost(str(error)) from error
        except protocol.ProtocolError as error:
            # Whoever speaks so now will speak so again; in an episode it may be a passing fault.
            lost = self._lost(str(error))
            if kind == protocol.WELCOME:
                raise ValueError(f"{self.address[0]}:{self.address[1]}: {error}") from error
            raise lost from error
        if came == protocol.REFUSED:
            self.close()
            raise ValueError(f"the simulator's server refuses: {values.get('reason')}")
        if came == protocol.FAILED:
            raise self._lost(f"the simulator failed: {values.get('reason')}")
        if came != kind:
            raise self._lost(f"an answer of kind {came}, expected {kind}")
        return values, arrays

    def _observation(self, seconds: float) -> tuple[dict[str, Any], NDArray[np.uint8]]:
        if self._connection is None:
            raise self._lost("not connected")
        values, arrays = self._answer(protocol.OBSERVATION, seconds)
        frame, inventory = arrays.get("frame"), values.get("inventory")
        if frame is None or frame.dtype != np.uint8 or frame.shape != self._frame_shape:
            raise self._lost(f"the frame is not uint8 of {self._frame_shape}")
        if not isinstance(inventory, dict) or not all(type(count) is int for count in inventory.values()):
            raise self._lost("the inventory is not a table of counts")
        return values, area_average(frame, *self.size)

    def _lost(self, reason: str) -> SimulatorLost:
        self.close()
        return SimulatorLost(reason)


class SimulatorGone(OSError):
    """No server answers for as long as one may be gone."""


def _space_of(environment: str, announced: Any) -> ActionSpace:
    """The action space, of those that embody knows, that the server says the simulator has; else a `ValueError`."""
    known = [VPT]
    try:
        known.append(minerl_space(environment))
    except ValueError:  # MineRL 1.0's: all have one space
        pass
    differences = [_difference(space, announced) for space in known]
    for space, difference in zip(known, differences, strict=True):
        if difference is None:
            return space
    raise ValueError(
        f"{environment} has actions that embody does not know: "
        + "; ".join(f"{difference} ({space.name})" for space, difference in zip(known, differences, strict=True))
    )


def _difference(space: ActionSpace, announced: Any) -> str | None:
    """What the announced actions lack of `space`, or have more; None if nothing."""
    if not isinstance(announced, Mapping):
        return "none are announced"
    names = {*space.keys, *space.words, "camera"}
    if different := sorted(names ^ set(announced)):
        return f"{different[0]} is {'missing' if different[0] in names else 'unknown'}"
    for key in space.keys:
        if announced[key] != {"kind": "discrete", "n": 2}:
            return f"{key} is {announced[key]}"
    for word, choices in space.words.items():
        values = announced[word].get("values", ())
        if set(choices) != set(values):
            return f"{word} is one of {', '.join(values)}"
    if announced["camera"] != {"kind": "box", "low": -_TURN, "high": _TURN, "shape": [2], "dtype": "float32"}:
        return f"camera is {announced['camera']}"
    return None


def area_average(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """`[H, W, 3]` as `[height, width, 3]`: each pixel is the mean of those that it covers, by area."""
    if frame.shape[:2] == (height, width):
        return frame
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BOX)).copy()
