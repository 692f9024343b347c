"""MineRL as a gymnasium environment that connects to `server.py`, which runs the simulator elsewhere.

Shapes: A action factors, H W pixels.
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

from embody.errors import UserError, one_line
from embody.games.minecraft.actions import VPT, ActionSpace, minerl_space
from embody.games.minecraft.simulator import protocol

__all__ = ["MineRLEnv", "SimulatorUnreachable", "SimulatorLost", "area_average"]

_CAMERA = {"kind": "box", "low": -180.0, "high": 180.0, "shape": [2], "dtype": "float32"}
_MAX_COUNT = 2**31  # counts of items and absolute rewards must be below this
_REPR = reprlib.Repr()  # shortens values of the server's messages, which may be long or deeply nested
_REPR.maxlist, _REPR.maxstring = 20, 60


class SimulatorLost(ConnectionError):
    """The connection is lost, or the simulator failed or hangs. The episode is over; the next `reset` reconnects."""


class SimulatorFailed(SimulatorLost):
    """The server reported that the simulator failed."""


class MineRLEnv(gymnasium.Env[np.ndarray, Any]):
    """One MineRL environment behind the server at `address` (`host:port`).

    Observation: uint8 `[height, width, 3]`. Action: int64 `[A]`, the factors of `space`. `info` has "inventory", the
    count of each item that the agent carries, and "gui", whether a GUI is open (None: unknown). An episode is
    terminated when the simulator ends it (death, or the goal is reached), and truncated after `max_steps`.

    `reset_async` and `reset_wait` are the two halves of `reset`, `step_async` and `step_wait` those of `step`; with
    them several simulators can work at the same time. All of these methods may raise `SimulatorLost`.
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
        reconnect_seconds: float = 900.0,
    ) -> None:
        """Connect to the server.

        `step_seconds` and `reset_seconds` limit the time of an answer to a step, and of any other answer (generating a
        world takes minutes). The server is told both limits, and it ends a simulator that has not answered after 90% of
        its limit. `reconnect_seconds` is how long to try to reconnect to a server that has worked before; choose more
        than `reset_seconds` plus a start of the server, which may still be busy with the world of an earlier client.

        Raises a `SimulatorUnreachable` if no server answers: after `reconnect_seconds`, or at once if none ever did
        and the address is unknown or refuses connections. Raises a `UserError` if the server has another environment,
        unknown actions or another version of the protocol, or if `address` is not `host:port`.
        """
        if not protocol.ENVIRONMENT.fullmatch(environment):
            raise UserError(
                f"{one_line(environment, 100)} is no name of an environment: it may have letters, digits, '_', '.' and"
                " '-', such as MineRLObtainDiamond-v0"
            )
        if "VectorObf" in environment:
            raise UserError(
                f"{environment} takes obfuscated actions (VectorObf: a vector of 64 numbers of unknown meaning),"
                f" which are not supported: use {environment.replace('VectorObf', '')}"
            )
        host, colon, port = address.rpartition(":")
        if not colon or not host or not port.isdecimal() or int(port) > 65535:
            raise UserError(f"--server {address}: expected host:port, such as 127.0.0.1:5555")
        self.address, self.environment, self.max_steps = (host, int(port)), environment, max_steps
        self.step_seconds, self.reset_seconds, self.reconnect_seconds = step_seconds, reset_seconds, reconnect_seconds
        self.size = height, width
        self.steps = 0
        self.simulator = ""  # its name and version, as the server reports them; empty before the first connection
        self._connection: socket.socket | None = None
        self._connect()
        self.observation_space = spaces.Box(0, 255, (height, width, 3), np.uint8)
        self.action_space = spaces.MultiDiscrete(list(self.space.spec.sizes))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The first frame and `info` in the world of `seed`; without a seed, one is drawn."""
        super().reset(seed=seed)
        self.reset_async(int(self.np_random.integers(2**31)) if seed is None else seed)
        return self.reset_wait()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Frame, reward, terminated, truncated, info after one action."""
        self.step_async(np.asarray(action))
        return self.step_wait()

    def reset_async(self, seed: int) -> None:
        """Request a reset to the world of `seed`; `reset_wait` returns its result."""
        if self._connection is not None and select.select([self._connection], [], [], 0)[0]:
            self.close()  # readable without a request: the server has hung up. No episode is under way, so reconnect.
        if self._connection is None:
            self._connect()
        self.steps = 0
        self._send(protocol.RESET, {"seed": seed})

    def reset_wait(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Wait for the reset that `reset_async` requested; returns the first frame and `info`."""
        values, frame = self._receive_observation(self.reset_seconds)
        return frame, {"inventory": values["inventory"], "gui": values["gui"]}

    def step_async(self, action: NDArray[np.int64]) -> None:
        """Request a step with `action`, int64 `[A]`; `step_wait` returns its result."""
        values = self.space.dictionary(action)
        self._send(protocol.STEP, values, {"camera": values.pop("camera")})

    def step_wait(self) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Wait for the step that `step_async` requested: frame, reward, terminated, truncated, info."""
        values, frame = self._receive_observation(self.step_seconds)
        reward, done = values.get("reward"), values.get("done")
        if not isinstance(reward, int | float) or isinstance(reward, bool) or not abs(reward) < _MAX_COUNT:
            raise self._lost("the server's answer has no reward or end")
        if not isinstance(done, bool):
            raise self._lost("the server's answer has no reward or end")
        self.steps += 1
        truncated = self.steps >= self.max_steps
        return (
            frame,
            float(reward),
            done and not truncated,
            truncated,
            {"inventory": values["inventory"], "gui": values["gui"]},
        )

    def close(self) -> None:
        """Close the connection; the server then serves the next client."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # --- the connection ---------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Connect and shake hands; retry for `reconnect_seconds`, but fail at once if this can never have worked."""
        deadline, reason = time.monotonic() + self.reconnect_seconds, "no answer"
        while True:
            try:
                self._connection = socket.create_connection(self.address, timeout=max(0.1, self.step_seconds))
                self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._handshake()
                return
            except OSError as error:
                self.close()
                reason = str(error)
                permanent = ConnectionRefusedError | socket.gaierror | SimulatorFailed
                if isinstance(error, permanent) and not self.simulator:
                    break
            except ValueError:
                self.close()  # so that the server can serve other clients
                raise
            if time.monotonic() >= deadline:
                break
            time.sleep(min(1.0, self.reconnect_seconds / 10))
        host, port = self.address
        raise SimulatorUnreachable(
            f"no simulator at {host}:{port} ({reason}): start its server (docs/simulator.md), or name another with"
            " --server"
        )

    def _handshake(self) -> None:
        hello = {"environment": self.environment, "max_steps": self.max_steps}
        self._send(protocol.HELLO, {**hello, "step_seconds": self.step_seconds, "reset_seconds": self.reset_seconds})
        values, _ = self._receive(protocol.WELCOME, self.reset_seconds)
        for name, wanted in hello.items():
            if type(values.get(name)) is not type(wanted) or values[name] != wanted:
                raise UserError(f"the server has {name} {_REPR.repr(values.get(name))}, expected {wanted}")
        simulator, frame = values.get("simulator"), values.get("frame")
        if not isinstance(simulator, str) or not simulator.isprintable() or not 0 < len(simulator) <= 100:
            raise UserError(f"the server's simulator is {_REPR.repr(simulator)}, expected its name and version")
        if self.simulator and simulator != self.simulator:
            raise UserError(f"the server has another simulator now, {simulator} instead of {self.simulator}")
        if not isinstance(frame, list) or not _is_shape(frame):
            raise UserError(f"the server's frame is {_REPR.repr(frame)}, expected [height, width, 3]")
        self.space = _match_space(self.environment, values.get("actions"))
        self.simulator, self._frame_shape = simulator, tuple(frame)

    def _send(self, kind: int, values: dict[str, Any], arrays: dict[str, NDArray[Any]] | None = None) -> None:
        if self._connection is None:
            raise self._lost("not connected")
        try:
            protocol.send(self._connection, protocol.encode(kind, values, arrays or {}), self.step_seconds)
        except OSError as error:
            raise self._lost(str(error)) from error

    def _receive(self, kind: int, seconds: float) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        assert self._connection is not None
        try:
            received, values, arrays = protocol.receive(self._connection, seconds)
        except TimeoutError as error:
            busy = ": it may be serving another client" if kind == protocol.WELCOME else ""
            raise self._lost(f"no answer within {seconds:g} seconds{busy}") from error
        except OSError as error:
            raise self._lost(str(error)) from error
        except protocol.ProtocolError as error:
            # In the handshake this means another program or version, so retrying is useless; later it may be passing.
            lost = self._lost(str(error))
            if kind == protocol.WELCOME:
                raise UserError(f"{self.address[0]}:{self.address[1]}: {error}") from error
            raise lost from error
        if received in (protocol.REFUSED, protocol.FAILED):
            self.close()
            said = values.get("reason")
            reason = one_line(said if isinstance(said, str) else _REPR.repr(said), protocol.REASON)
            if received == protocol.REFUSED:
                raise UserError(f"the simulator's server refuses: {reason}")
            raise SimulatorFailed(f"the simulator failed: {reason}")
        if received != kind:
            raise self._lost(f"the server answered with a message of kind {received}, expected {kind}")
        return values, arrays

    def _receive_observation(self, seconds: float) -> tuple[dict[str, Any], NDArray[np.uint8]]:
        if self._connection is None:
            raise self._lost("not connected")
        values, arrays = self._receive(protocol.OBSERVATION, seconds)
        frame, inventory, gui = arrays.get("frame"), values.get("inventory"), values.get("gui")
        if frame is None or frame.dtype != np.uint8 or frame.shape != self._frame_shape:
            raise self._lost(f"the frame is not uint8 of {self._frame_shape}")
        if not isinstance(inventory, dict) or not all(
            type(count) is int and 0 <= count < _MAX_COUNT for count in inventory.values()
        ):
            raise self._lost("the inventory does not map items to counts")
        if "gui" not in values or not (gui is None or type(gui) is bool):
            raise self._lost("the answer does not say whether a GUI is open")
        return values, area_average(frame, *self.size)

    def _lost(self, reason: str) -> SimulatorLost:
        self.close()
        return SimulatorLost(reason)


class SimulatorUnreachable(ConnectionError):
    """No server could be reached in the time allowed."""


def _match_space(environment: str, offered: Any) -> ActionSpace:
    """The known action space that equals the actions `offered` by the server; a `UserError` if none does."""
    if not isinstance(offered, Mapping):
        raise UserError(f"the server's actions are {_REPR.repr(offered)}, expected a mapping of names to spaces")
    known = [VPT]
    try:
        known.append(minerl_space(environment))
    except ValueError:  # MineRL 1.0's: all have one space
        pass
    differences = [_difference(space, offered) for space in known]
    for space, difference in zip(known, differences, strict=True):
        if difference is None:
            return space
    raise UserError(
        f"{environment} has actions that embody does not know: "
        + "; ".join(f"{difference} ({space.name})" for space, difference in zip(known, differences, strict=True))
    )


def _difference(space: ActionSpace, offered: Mapping[str, Any]) -> str | None:
    """The first difference between `space` and the actions `offered` by the server, in words; None if equal."""
    names = {*space.keys, *space.words, "camera"}
    if different := sorted(names ^ set(offered)):
        return f"{_REPR.repr(different[0])} is {'missing' if different[0] in names else 'unknown'}"
    wanted = {**{key: {"kind": "discrete", "n": 2} for key in space.keys}, "camera": _CAMERA}
    for word, choices in space.words.items():
        wanted[word] = {"kind": "enum", "values": sorted(choices)}
    for name, description in wanted.items():
        if _with_sorted_values(offered[name]) != description:
            return f"{name} is {_REPR.repr(offered[name])}"
    return None


def _with_sorted_values(description: Any) -> Any:
    """A copy of the description of an action in which an enum's values are sorted, so that their order is ignored."""
    values = description.get("values") if isinstance(description, Mapping) else None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        return description
    return {**description, "values": sorted(values)}


def _is_shape(frame: list[Any]) -> bool:
    whole = len(frame) == 3 and all(type(side) is int and side > 0 for side in frame)
    return whole and frame[2] == 3 and math.prod(frame) <= protocol.LIMIT


def area_average(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize a frame `[H, W, 3]` to `[height, width, 3]`: each pixel is the mean of the area that it covers."""
    if frame.shape[:2] == (height, width):
        return frame
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BOX)).copy()
