"""The server that lets embody play MineRL over a socket (docs/simulator.md).

    python server.py --port 5555

Run it where MineRL is installed, on Python 3.6 or later. It needs `protocol.py` in the same folder and nothing else of
embody. It serves one client at a time. The simulator is kept for the next client when one disconnects; a client that
has sent nothing for `--idle-timeout` seconds is disconnected if another one is waiting. If the simulator hangs, the
server tells the client shortly before the client's own timeout and exits, so run it under something that restarts it,
such as `docker run --restart always`.
"""

import argparse
import contextlib
import math
import os
import select
import socket
import sys
import threading
import time
from typing import Any, Iterator

import gym
import minerl
import numpy as np
import protocol

LIMIT_SHARE = 0.9  # of the client's timeout: the server gives up earlier, so that its message still reaches the client
HELLO_SECONDS = 10.0  # how long a new client may send nothing while another one is waiting


class Refused(Exception):
    """The client's request is wrong; nothing was done."""


# --- the simulator --------------------------------------------------------------------------------------------------


class Simulator:
    """At most one MineRL environment, which is kept when clients come and go."""

    def __init__(self) -> None:
        self.key: Any = None
        self.env: Any = None
        self.actions: dict = {}
        self.playing = False

    def open(self, environment: str, max_steps: int) -> dict:
        """Make the environment with a limit of `max_steps` unless it is open; returns the values of WELCOME."""
        self.playing = False
        if self.key != (environment, max_steps):
            self.close()
            self.env = make(environment, max_steps)
            self.key = (environment, max_steps)
        self.actions = {name: describe(space) for name, space in self.env.action_space.spaces.items()}
        return {
            "environment": environment,
            "max_steps": max_steps,
            "simulator": f"minerl {version()}",
            "actions": self.actions,
            "frame": [int(side) for side in self.env.observation_space.spaces["pov"].shape],
        }

    def reset(self, seed: int) -> tuple:
        self.env.seed(seed)
        first = split_observation(self.env.reset())
        self.playing = True
        return first

    def step(self, action: dict) -> tuple:
        if not self.playing:
            raise Refused("no episode is under way: send RESET first")
        observation, reward, done, _ = self.env.step(action)
        if not math.isfinite(reward):
            raise ValueError(f"a reward of {reward}")
        self.playing = not done
        values, arrays = split_observation(observation)
        return dict(values, reward=float(reward), done=bool(done)), arrays

    def close(self) -> None:
        env, self.env, self.key, self.playing = self.env, None, None, False
        if env is not None:
            try:
                env.close()
            except Exception as error:  # the environment is dropped in any case
                print(f"the simulator does not close: {type(error).__name__}: {error}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def exit_after(connection: socket.socket, seconds: float) -> Iterator[None]:
    """Exit the server if the body takes longer than `seconds`."""
    watchdog = threading.Timer(seconds, exit_hung, [connection, seconds])
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


def exit_hung(connection: socket.socket, seconds: float) -> None:
    """Tell the client that the simulator hangs, then exit; the main thread is stuck, so only a restart helps."""
    reason = f"it has not answered for {seconds:g} seconds"
    print(f"the simulator hangs: {reason}: the server exits", flush=True)
    try:
        protocol.send(connection, protocol.encode(protocol.FAILED, {"reason": reason}, {}), 1.0)
        protocol.drain(connection)
    finally:
        os._exit(70)


def make(environment: str, max_steps: int) -> Any:
    """The registered environment with a limit of `max_steps` instead of MineRL's own, 15 minutes for ObtainDiamond."""
    if not protocol.ENVIRONMENT.fullmatch(environment):
        raise Refused(f"{environment[:100]!a} is no name of an environment: letters, digits, '_', '.' and '-' only")
    try:
        registered = gym.spec(environment)
    except Exception as error:
        raise Refused(f"{environment} is no environment of this simulator ({type(error).__name__})") from None
    spec = (getattr(registered, "_kwargs", None) or registered.kwargs).get("env_spec")
    if spec is None:
        raise Refused(f"{environment} is no environment of MineRL's")
    spec.max_episode_steps = max_steps
    spec.reset()  # creates its handlers again; the time limit is one of them
    return spec.make()


def version() -> str:
    """The version of the installed package; MineRL 0.4.4 has no `__version__`."""
    try:
        import pkg_resources  # older Pythons have no importlib.metadata

        return str(pkg_resources.get_distribution("minerl").version)
    except Exception:
        return str(getattr(minerl, "__version__", "of unknown version"))


def describe(space: Any) -> dict:
    """The space of one action as a JSON value."""
    if hasattr(space, "values"):  # before "n", which MineRL's Enum also has
        return {"kind": "enum", "values": [str(value) for value in space.values]}
    if hasattr(space, "n"):
        return {"kind": "discrete", "n": int(space.n)}
    low, high = np.unique(getattr(space, "low", ())), np.unique(getattr(space, "high", ()))
    if not (len(low) == len(high) == 1 and np.isfinite([low[0], high[0]]).all()):
        return {"kind": "unknown", "space": str(space)[:100]}
    shape, dtype = [int(side) for side in space.shape], np.dtype(space.dtype).name
    return {"kind": "box", "low": float(low[0]), "high": float(high[0]), "shape": shape, "dtype": dtype}


def split_observation(observation: dict) -> tuple:
    """The (values, arrays) of OBSERVATION: inventory and GUI flag, and the frame."""
    frame = np.asarray(observation["pov"])
    if frame.dtype != np.uint8 or frame.ndim != 3:
        raise ValueError(f"pov is {frame.dtype} {frame.shape}, not uint8 [H, W, 3]")
    counts = {str(item): int(count) for item, count in observation.get("inventory", {}).items()}
    gui = bool(observation["isGuiOpen"]) if "isGuiOpen" in observation else None  # MineRL 1.0's name; 0.4.4 has none
    return {"inventory": {item: count for item, count in counts.items() if count}, "gui": gui}, {"frame": frame}


def checked_action(actions: dict, values: dict, arrays: dict) -> dict:
    """The action for the simulator; raises `Refused` if its keys, types or ranges differ from those of `actions`."""
    given = dict(values, **arrays)
    different = sorted(set(actions) ^ set(given))
    if different:
        raise Refused(f"action: {different[0]!r} is {'missing' if different[0] in actions else 'not known'}")
    for name, space in actions.items():
        value = given[name]
        if space["kind"] == "enum":
            right = type(value) is str and value in space["values"]
        elif space["kind"] == "discrete":
            right = type(value) is int and 0 <= value < space["n"]
        else:
            right = (
                space["kind"] == "box"
                and isinstance(value, np.ndarray)
                and (value.dtype.name, list(value.shape)) == (space["dtype"], space["shape"])
                and bool(((value >= space["low"]) & (value <= space["high"])).all())  # NaN is in no range
            )
        if not right:
            shown = f"{value.dtype} {value.tolist()}" if isinstance(value, np.ndarray) else repr(value)
            raise Refused(f"action {name}: {shown[:100]} is not in {space}")
    return given


# --- clients --------------------------------------------------------------------------------------------------------


def serve(connection: socket.socket, listener: socket.socket, simulator: Simulator, idle_timeout: float) -> None:
    """Answer one client until it disconnects, breaks the protocol, is idle while another waits, or the simulator fails.

    Each of these ends raises a `ConnectionError`, `TimeoutError` or `ProtocolError`.
    """
    limits: dict = {}  # seconds for each kind of message; empty before HELLO
    while True:
        await_message(connection, listener, idle_timeout if limits else min(HELLO_SECONDS, idle_timeout))
        try:
            kind, values, arrays = protocol.receive(connection, protocol.SECONDS)
        except protocol.ProtocolError as error:
            protocol.send(connection, protocol.encode(protocol.REFUSED, {"reason": str(error)}, {}))
            protocol.drain(connection)
            raise
        current = limits
        try:
            if kind == protocol.HELLO:
                current = time_limits(values)
            elif not limits:
                raise Refused("send HELLO first")
            with exit_after(connection, current.get(kind, protocol.LONGEST)):
                answer = protocol.encode(*answer_to(kind, values, arrays, simulator))
            limits = current
        except Refused as refusal:
            answer = protocol.encode(protocol.REFUSED, {"reason": str(refusal)[: protocol.REASON]}, {})
        except Exception as error:
            reason = ascii(f"{type(error).__name__}: {error}")[1:-1][: protocol.REASON]
            try:
                protocol.send(connection, protocol.encode(protocol.FAILED, {"reason": reason}, {}))
            finally:
                with exit_after(connection, current.get(protocol.RESET, protocol.LONGEST)):
                    simulator.close()
            raise ConnectionError("the simulator failed, " + reason) from error
        protocol.send(connection, answer)


def await_message(connection: socket.socket, listener: socket.socket, idle_timeout: float) -> None:
    """Wait for the client's next message; a `TimeoutError` after `idle_timeout` seconds if another client waits."""
    deadline = time.monotonic() + idle_timeout
    while True:
        remaining = deadline - time.monotonic()
        readable = select.select(
            [connection] if remaining > 0 else [connection, listener], [], [], max(0, remaining) or None
        )[0]
        if connection in readable:
            return
        if readable:
            raise TimeoutError(f"idle for {idle_timeout:g} seconds while another client waits")


def time_limits(hello: dict) -> dict:
    """How many seconds the simulator may take for each kind of message: 90% of the client's timeouts in HELLO."""
    waits: list = [hello.get(name) for name in ("step_seconds", "reset_seconds")]
    if not all(type(wait) in (int, float) and protocol.SHORTEST <= wait <= protocol.LONGEST for wait in waits):
        raise Refused(f"HELLO needs step_seconds and reset_seconds of {protocol.SHORTEST} to {protocol.LONGEST}")
    step, reset = [LIMIT_SHARE * wait for wait in waits]
    return {protocol.HELLO: reset, protocol.RESET: reset, protocol.STEP: step}


def answer_to(kind: int, values: dict, arrays: dict, simulator: Simulator) -> tuple:
    """The answer to one message."""
    if kind == protocol.HELLO:
        environment, max_steps = values.get("environment"), values.get("max_steps")
        if type(environment) is not str or type(max_steps) is not int or max_steps < 1:
            raise Refused("HELLO needs an environment and max_steps of 1 or more")
        return protocol.WELCOME, simulator.open(environment, max_steps), {}
    if kind == protocol.RESET:
        if type(values.get("seed")) is not int:
            raise Refused("RESET needs a seed")
        return (protocol.OBSERVATION,) + simulator.reset(values["seed"])
    if kind == protocol.STEP:
        return (protocol.OBSERVATION,) + simulator.step(checked_action(simulator.actions, values, arrays))
    raise Refused(f"clients do not send messages of kind {kind}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Let embody play MineRL over a socket.")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on; use 0.0.0.0 in a container")
    parser.add_argument("--port", type=int, default=5555, help="the port to listen on; 0 takes a free one")
    idle = "after how many seconds without a message a client is disconnected if another one waits"
    parser.add_argument("--idle-timeout", type=float, default=300.0, help=idle)
    options = parser.parse_args()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((options.host, options.port))
    listener.listen(1)
    host, port = listener.getsockname()
    print(f"listening on {host}:{port}", flush=True)
    simulator = Simulator()
    while True:
        connection, _ = listener.accept()
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            serve(connection, listener, simulator, options.idle_timeout)
        except (OSError, protocol.ProtocolError) as error:
            print(f"client disconnected: {error}", file=sys.stderr, flush=True)
        finally:
            connection.close()


if __name__ == "__main__":
    main()
