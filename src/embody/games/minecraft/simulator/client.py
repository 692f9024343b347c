"""MineRL as a gymnasium environment: the simulator runs elsewhere, behind `server.py`.

A action factors, H W pixels.
"""

import math
import reprlib
import select
import socket
import time
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from PIL import Image

from embody.errors import UserError
from embody.games.minecraft.actions import VPT, ActionSpace, minerl_space
from embody.games.minecraft.simulator import protocol

__all__ = ["MineRLEnv", "SimulatorGone", "SimulatorLost", "area_average"]

_CAMERA = {"kind": "box", "low": -180.0, "high": 180.0, "shape": [2], "dtype": "float32"}
_MOST = 2**31  # of an item, and of a reward
_SHORT = reprlib.Repr()  # what a server says may be long, and deep
_SHORT.maxlist, _SHORT.maxstring = 20, 60


class SimulatorLost(ConnectionError):
    """The simulator died, failed or hangs: this episode is over, the next `reset` connects anew."""


class SimulatorFailed(SimulatorLost):
    """So its server says."""


class MineRLEnv(gymnasium.Env[np.ndarray, Any]):
    """One MineRL environment behind the server at `address` (`host:port`).

    Observation: uint8 `[height, width, 3]`. Action: int64 `[A]`, factors of `space`. The info holds `inventory`, counts
    of what the agent carries, and `gui`, whether one is open (None: not known). `terminated` is the simulator's own end
    (death, the goal), `truncated` that of `max_steps`. Every call of an episode may raise `SimulatorLost`. Asking and
    answering are halves of `reset` and `step`, so that several simulators work at once.
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
        patience: float = 900.0,
    ) -> None:
        """Connects. `UserError` if the server has another environment than it should, or speaks another protocol.

        `step_seconds` and `reset_seconds` are how long an answer may take (making a world takes minutes); the server is
        told, and gives up a simulator that hangs after 0.9 of it. `patience` is how long a server may be gone before a
        `SimulatorGone`, a `ConnectionError`, says so; at once of one that never was. It should outlast `reset_seconds`
        and a start: a server may be stuck so long in the world of whoever played before.
        """
        if "VectorObf" in environment:
            raise UserError(
                f"{environment} takes obfuscated actions (VectorObf: a vector of 64 numbers whose meaning MineRL keeps"
                f" secret), which are not supported: use {environment.replace('VectorObf', '')}"
            )
        host, colon, port = address.rpartition(":")
        if not colon or not host or not port.isdecimal() or int(port) > 65535:
            raise UserError(f"--server {address}: expected host:port, such as 127.0.0.1:5555")
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
        if self._connection is not None and select.select([self._connection], [], [], 0)[0]:
            self.close()  # nothing was asked: the server hung up, which before an episode costs nothing
        if self._connection is None:
            self._connect()
        self.steps = 0
        self._say(protocol.RESET, {"seed": seed})

    def answer_reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        """End the reset that `ask_reset` began."""
        values, frame = self._observation(self.reset_seconds)
        return frame, {"inventory": values["inventory"], "gui": values["gui"]}

    def ask_step(self, action: NDArray[np.int64]) -> None:
        """Begin a `step`."""
        values = self.space.dictionary(action)
        self._say(protocol.STEP, values, {"camera": values.pop("camera")})

    def answer_step(self) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """End the step that `ask_step` began."""
        values, frame = self._observation(self.step_seconds)
        reward, done = values.get("reward"), values.get("done")
        if not isinstance(reward, int | float) or not abs(reward) < _MOST or not isinstance(done, bool):
            raise self._lost("the server's answer has no reward or end")
        self.steps += 1
        late = self.steps >= self.max_steps
        return frame, float(reward), done and not late, late, {"inventory": values["inventory"], "gui": values["gui"]}

    def close(self) -> None:
        """Hang up; the server waits for the next client."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # --- the connection ---------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Connect and agree; try again until `patience` is spent, but not where it has never worked."""
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
                hopeless = ConnectionRefusedError | socket.gaierror | SimulatorFailed
                if isinstance(error, hopeless) and not self.simulator:
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
        hello = {"environment": self.environment, "max_steps": self.max_steps}
        self._say(protocol.HELLO, {**hello, "step_seconds": self.step_seconds, "reset_seconds": self.reset_seconds})
        values, _ = self._answer(protocol.WELCOME, self.reset_seconds)
        for name, wanted in hello.items():
            if type(values.get(name)) is not type(wanted) or values[name] != wanted:
                raise UserError(f"the server has {name} {_SHORT.repr(values.get(name))}, asked for was {wanted}")
        simulator, frame = values.get("simulator"), values.get("frame")
        if not isinstance(simulator, str) or not simulator.isprintable() or not 0 < len(simulator) <= 100:
            raise UserError(f"the server's simulator is {_SHORT.repr(simulator)}, expected its name and version")
        if self.simulator and simulator != self.simulator:
            raise UserError(f"the server has another simulator now, {simulator} instead of {self.simulator}")
        if not isinstance(frame, list) or not _is_shape(frame):
            raise UserError(f"the server's frame is {_SHORT.repr(frame)}, expected [height, width, 3]")
        self.space = _space_of(self.environment, values.get("actions"))
        self.simulator, self._frame_shape = simulator, tuple(frame)

    def _say(self, kind: int, values: dict[str, Any], arrays: dict[str, NDArray[Any]] | None = None) -> None:
        if self._connection is None:
            raise self._lost("not connected")
        try:
            protocol.send(self._connection, protocol.encode(kind, values, arrays or {}), self.step_seconds)
        except OSError as error:
            raise self._lost(str(error)) from error

    def _answer(self, kind: int, seconds: float) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        assert self._connection is not None
        try:
            came, values, arrays = protocol.receive(self._connection, seconds)
        except TimeoutError as error:
            busy = ": it may be serving another client" if kind == protocol.WELCOME else ""
            raise self._lost(f"no answer within {seconds:g} seconds{busy}") from error
        except OSError as error:
            raise self._lost(str(error)) from error
        except protocol.ProtocolError as error:
            # Whoever speaks so now will speak so again; in an episode it may be a passing fault.
            lost = self._lost(str(error))
            if kind == protocol.WELCOME:
                raise UserError(f"{self.address[0]}:{self.address[1]}: {error}") from error
            raise lost from error
        if came == protocol.REFUSED:
            self.close()
            raise UserError(f"the simulator's server refuses: {values.get('reason')}")
        if came == protocol.FAILED:
            self.close()
            raise SimulatorFailed(f"the simulator failed: {values.get('reason')}")
        if came != kind:
            raise self._lost(f"an answer of kind {came}, expected {kind}")
        return values, arrays

    def _observation(self, seconds: float) -> tuple[dict[str, Any], NDArray[np.uint8]]:
        if self._connection is None:
            raise self._lost("not connected")
        values, arrays = self._answer(protocol.OBSERVATION, seconds)
        frame, inventory, gui = arrays.get("frame"), values.get("inventory"), values.get("gui")
        if frame is None or frame.dtype != np.uint8 or frame.shape != self._frame_shape:
            raise self._lost(f"the frame is not uint8 of {self._frame_shape}")
        if not isinstance(inventory, dict) or not all(
            type(count) is int and 0 <= count < _MOST for count in inventory.values()
        ):
            raise self._lost("the inventory is not a table of counts")
        if "gui" not in values or not (gui is None or type(gui) is bool):
            raise self._lost("the answer does not say whether a GUI is open")
        return values, area_average(frame, *self.size)

    def _lost(self, reason: str) -> SimulatorLost:
        self.close()
        return SimulatorLost(reason)


class SimulatorGone(ConnectionError):
    """No server answers for as long as one may be gone."""


def _space_of(environment: str, announced: Any) -> ActionSpace:
    """The action space, of those that embody knows, that the server says the simulator has; else a `UserError`."""
    if not isinstance(announced, Mapping):
        raise UserError(f"the server's actions are {_SHORT.repr(announced)}, expected a table of them")
    known = [VPT]
    try:
        known.append(minerl_space(environment))
    except ValueError:  # MineRL 1.0's: all have one space
        pass
    differences = [_difference(space, announced) for space in known]
    for space, difference in zip(known, differences, strict=True):
        if difference is None:
            return space
    raise UserError(
        f"{environment} has actions that embody does not know: "
        + "; ".join(f"{difference} ({space.name})" for space, difference in zip(known, differences, strict=True))
    )


def _difference(space: ActionSpace, announced: Mapping[str, Any]) -> str | None:
    """What the announced actions lack of `space`, or have more; None if nothing."""
    names = {*space.keys, *space.words, "camera"}
    if different := sorted(names ^ set(announced)):
        return f"{_SHORT.repr(different[0])} is {'missing' if different[0] in names else 'unknown'}"
    wanted = {**{key: {"kind": "discrete", "n": 2} for key in space.keys}, "camera": _CAMERA}
    for word, choices in space.words.items():
        wanted[word] = {"kind": "enum", "values": sorted(choices)}
    for name, description in wanted.items():
        if _in_order(announced[name]) != description:
            return f"{name} is {_SHORT.repr(announced[name])}"
    return None


def _in_order(description: Any) -> Any:
    """The same, with an enum's words sorted: their order is the simulator's own affair."""
    values = description.get("values") if isinstance(description, Mapping) else None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        return description
    return {**description, "values": sorted(values)}


def _is_shape(frame: list[Any]) -> bool:
    whole = len(frame) == 3 and all(type(side) is int and side > 0 for side in frame)
    return whole and frame[2] == 3 and math.prod(frame) <= protocol.LIMIT


def area_average(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """`[H, W, 3]` as `[height, width, 3]`: each pixel is the mean of those that it covers, by area."""
    if frame.shape[:2] == (height, width):
        return frame
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BOX)).copy()
