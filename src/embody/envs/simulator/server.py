"""The server beside the simulator: lets embody play MineRL over a socket (docs/simulator.md).

    python server.py --port 5555

It is run where MineRL is installed, on Python 3.6 or later, with `protocol.py` beside it and nothing else of embody.
One client at a time; a client that is gone leaves the simulator to the next one. A simulator that does not answer for
`--patience` seconds ends the server: let something start it again (`docker run --restart always`).
"""

import argparse
import os
import socket
import sys
import threading
from typing import Any, Callable

import gym
import minerl
import numpy as np
import protocol


class Refused(Exception):
    """What was asked for is wrong; nothing was done."""


# --- the simulator --------------------------------------------------------------------------------------------------


class Simulator:
    """At most one MineRL environment, kept from client to client."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.key: Any = None
        self.env: Any = None
        self.actions: dict = {}
        self.playing = False

    def open(self, environment: str, max_steps: int) -> dict:
        """Make the environment with a limit of `max_steps`; returns what the client must know of it."""
        self.playing = False
        if self.key != (environment, max_steps):
            self.close()
            self.env = self._patiently(make, environment, max_steps)
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
        first = observed(self._patiently(self.env.reset))
        self.playing = True
        return first

    def step(self, action: dict) -> tuple:
        if not self.playing:
            raise Refused("no episode is under way: say RESET first")
        observation, reward, done, _ = self._patiently(self.env.step, action)
        self.playing = not done
        values, arrays = observed(observation)
        return dict(values, reward=float(reward), done=bool(done)), arrays

    def close(self) -> None:
        env, self.env, self.key, self.playing = self.env, None, None, False
        if env is not None:
            self._patiently(env.close)

    def _patiently(self, function: Callable[..., Any], *arguments: object) -> Any:
        watchdog = threading.Timer(self.patience, _give_up, [self.patience])
        watchdog.daemon = True
        watchdog.start()
        try:
            return function(*arguments)
        finally:
            watchdog.cancel()


def _give_up(patience: float) -> None:
    print(f"the simulator has not answered for {patience:g} seconds: giving up", flush=True)
    os._exit(70)  # the main thread is stuck in it


def make(environment: str, max_steps: int) -> Any:
    """The registered environment, but with a time limit of `max_steps`: MineRL's ObtainDiamond has 15 minutes."""
    try:
        registered = gym.spec(environment)
    except Exception as error:
        raise Refused(f"{environment} is no environment of this simulator ({type(error).__name__})") from None
    spec = (getattr(registered, "_kwargs", None) or registered.kwargs)["env_spec"]
    spec.max_episode_steps = max_steps
    spec.reset()  # makes its handlers anew, and the time limit is one of them
    return spec.make()


def version() -> str:
    """MineRL's own; 0.4.4 does not know it, but its installation does."""
    try:
        import pkg_resources  # older Pythons have no importlib.metadata

        return str(pkg_resources.get_distribution("minerl").version)
    except Exception:
        return str(getattr(minerl, "__version__", "of unknown version"))


def describe(space: Any) -> dict:
    """One action's space, as JSON."""
    if hasattr(space, "values"):  # MineRL's Enum has n too
        return {"kind": "enum", "values": [str(value) for value in space.values]}
    if hasattr(space, "n"):
        return {"kind": "discrete", "n": int(space.n)}
    low, high = float(np.min(space.low)), float(np.max(space.high))
    dtype = np.dtype(space.dtype).name
    return {"kind": "box", "low": low, "high": high, "shape": [int(side) for side in space.shape], "dtype": dtype}


def observed(observation: dict) -> tuple:
    """(values, arrays) of an observation: what is in the inventory, and the frame."""
    frame = np.asarray(observation["pov"])
    if frame.dtype != np.uint8 or frame.ndim != 3:
        raise ValueError(f"pov is {frame.dtype} {frame.shape}, not uint8 [H, W, 3]")
    counts = {str(item): int(count) for item, count in observation.get("inventory", {}).items()}
    return {"inventory": {item: count for item, count in counts.items() if count}}, {"frame": frame}


def checked(actions: dict, values: dict, arrays: dict) -> dict:
    """The action as the simulator takes it; `Refused` where keys, types or ranges are not those of its space."""
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
                isinstance(value, np.ndarray)
                and (value.dtype.name, list(value.shape)) == (space["dtype"], space["shape"])
                and bool(((value >= space["low"]) & (value <= space["high"])).all())  # NaN is in no range
            )
        if not right:
            shown = f"{value.dtype} {value.tolist()}" if isinstance(value, np.ndarray) else repr(value)
            raise Refused(f"action {name}: {shown[:100]} is not in {space}")
    return given


# --- clients --------------------------------------------------------------------------------------------------------


def converse(connection: socket.socket, simulator: Simulator) -> None:
    """Answer one client until it hangs up, says nonsense, or the simulator breaks."""
    began = False
    while True:
        try:
            kind, values, arrays = protocol.receive(connection, None)
        except protocol.ProtocolError as error:
            protocol.send(connection, protocol.REFUSED, {"reason": str(error)}, {})
            protocol.drain(connection)
            raise
        try:
            if kind != protocol.HELLO and not began:
                raise Refused("say HELLO first")
            answer = reply(kind, values, arrays, simulator)
            began = True
        except Refused as refusal:
            answer = (protocol.REFUSED, {"reason": str(refusal)}, {})
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            protocol.send(connection, protocol.FAILED, {"reason": " ".join(reason.split())[:1000]}, {})
            simulator.close()
            raise ConnectionError("the simulator failed, " + reason) from error
        protocol.send(connection, *answer)


def reply(kind: int, values: dict, arrays: dict, simulator: Simulator) -> tuple:
    """The answer to one message."""
    if kind == protocol.HELLO:
        environment, max_steps = values.get("environment"), values.get("max_steps")
        if type(environment) is not str or type(max_steps) is not int or max_steps < 1:
            raise Refused("HELLO names an environment and max_steps of 1 or more")
        return protocol.WELCOME, simulator.open(environment, max_steps), {}
    if kind == protocol.RESET:
        if type(values.get("seed")) is not int:
            raise Refused("RESET names a seed")
        return (protocol.OBSERVATION,) + simulator.reset(values["seed"])
    if kind == protocol.STEP:
        return (protocol.OBSERVATION,) + simulator.step(checked(simulator.actions, values, arrays))
    raise Refused(f"a message of kind {kind} is none of a client's")


def main() -> None:
    parser = argparse.ArgumentParser(description="Let embody play MineRL over a socket.")
    parser.add_argument("--host", default="127.0.0.1", help="who may connect: this machine; 0.0.0.0 in a container")
    parser.add_argument("--port", type=int, default=5555, help="0 takes any that is free")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds that the simulator may take for a call")
    options = parser.parse_args()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((options.host, options.port))
    listener.listen(1)
    host, port = listener.getsockname()
    print(f"listening on {host}:{port}", flush=True)
    simulator = Simulator(options.patience)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            converse(connection, simulator)
        except (OSError, protocol.ProtocolError) as error:
            print(f"client gone: {error}", file=sys.stderr, flush=True)
        finally:
            connection.close()


if __name__ == "__main__":
    main()
