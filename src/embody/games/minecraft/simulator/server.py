"""The server beside the simulator: lets embody play MineRL over a socket (docs/simulator.md).

    python server.py --port 5555

It is run where MineRL is installed, on Python 3.6 or later, with `protocol.py` beside it and nothing else of embody.
One client at a time; a client that is gone leaves the simulator to the next one, and one that has been silent for
`--silence` seconds gives way to one that waits. A simulator that hangs ends the server, a little before the client is
tired of waiting: let something start it again (`docker run --restart always`).
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

# Of what the client waits for an answer: it hears that the simulator hangs while it still listens.
PATIENCE = 0.9
LONGEST = 3600  # seconds that a client may ask to wait
GREETING = 10.0  # seconds until a new client says something, if another one waits


class Refused(Exception):
    """What was asked for is wrong; nothing was done."""


# --- the simulator --------------------------------------------------------------------------------------------------


class Simulator:
    """At most one MineRL environment, kept from client to client."""

    def __init__(self) -> None:
        self.key: Any = None
        self.env: Any = None
        self.actions: dict = {}
        self.playing = False

    def open(self, environment: str, max_steps: int) -> dict:
        """Make the environment with a limit of `max_steps`; returns what the client must know of it."""
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
        first = observed(self.env.reset())
        self.playing = True
        return first

    def step(self, action: dict) -> tuple:
        if not self.playing:
            raise Refused("no episode is under way: say RESET first")
        observation, reward, done, _ = self.env.step(action)
        if not math.isfinite(reward):
            raise ValueError(f"a reward of {reward}")
        self.playing = not done
        values, arrays = observed(observation)
        return dict(values, reward=float(reward), done=bool(done)), arrays

    def close(self) -> None:
        env, self.env, self.key, self.playing = self.env, None, None, False
        if env is not None:
            try:
                env.close()
            except Exception as error:  # it is given up all the same
                print(f"the simulator does not close: {type(error).__name__}: {error}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def watched(connection: socket.socket, seconds: float) -> Iterator[None]:
    """End the server if what is done in here takes longer."""
    watchdog = threading.Timer(seconds, give_up, [connection, seconds])
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


def give_up(connection: socket.socket, seconds: float) -> None:
    """The main thread is stuck in the simulator: tell the client, and be started again."""
    reason = f"it has not answered for {seconds:g} seconds"
    print(f"the simulator hangs: {reason}: giving up", flush=True)
    try:
        protocol.send(connection, protocol.encode(protocol.FAILED, {"reason": reason}, {}), 1.0)
        protocol.drain(connection)
    finally:
        os._exit(70)


def make(environment: str, max_steps: int) -> Any:
    """The registered environment, but with a time limit of `max_steps`: MineRL's ObtainDiamond has 15 minutes."""
    try:
        registered = gym.spec(environment)
    except Exception as error:
        raise Refused(f"{environment} is no environment of this simulator ({type(error).__name__})") from None
    spec = (getattr(registered, "_kwargs", None) or registered.kwargs).get("env_spec")
    if spec is None:
        raise Refused(f"{environment} is no environment of MineRL's")
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
    low, high = np.unique(getattr(space, "low", ())), np.unique(getattr(space, "high", ()))
    if not (len(low) == len(high) == 1 and np.isfinite([low[0], high[0]]).all()):
        return {"kind": "unknown", "space": str(space)[:100]}
    shape, dtype = [int(side) for side in space.shape], np.dtype(space.dtype).name
    return {"kind": "box", "low": float(low[0]), "high": float(high[0]), "shape": shape, "dtype": dtype}


def observed(observation: dict) -> tuple:
    """(values, arrays) of an observation: what is in the inventory, whether a GUI is open, and the frame."""
    frame = np.asarray(observation["pov"])
    if frame.dtype != np.uint8 or frame.ndim != 3:
        raise ValueError(f"pov is {frame.dtype} {frame.shape}, not uint8 [H, W, 3]")
    counts = {str(item): int(count) for item, count in observation.get("inventory", {}).items()}
    gui = bool(observation["isGuiOpen"]) if "isGuiOpen" in observation else None  # MineRL 1.0's name; 0.4.4 has none
    return {"inventory": {item: count for item, count in counts.items() if count}, "gui": gui}, {"frame": frame}


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


def converse(connection: socket.socket, listener: socket.socket, simulator: Simulator, silence: float) -> None:
    """Answer one client until it hangs up or says nonsense, is silent while another waits, or the simulator breaks."""
    patience: dict = {}  # of each kind of message, once HELLO has told
    while True:
        await_message(connection, listener, silence if patience else min(GREETING, silence))
        try:
            kind, values, arrays = protocol.receive(connection, protocol.SECONDS)
        except protocol.ProtocolError as error:
            protocol.send(connection, protocol.encode(protocol.REFUSED, {"reason": str(error)}, {}))
            protocol.drain(connection)
            raise
        asked = patience
        try:
            if kind == protocol.HELLO:
                asked = patience_of(values)
            elif not patience:
                raise Refused("say HELLO first")
            with watched(connection, asked.get(kind, LONGEST)):
                answer = protocol.encode(*reply(kind, values, arrays, simulator))
            patience = asked
        except Refused as refusal:
            answer = protocol.encode(protocol.REFUSED, {"reason": str(refusal)}, {})
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:1000]
            try:
                protocol.send(connection, protocol.encode(protocol.FAILED, {"reason": reason}, {}))
            finally:
                with watched(connection, asked.get(protocol.RESET, LONGEST)):
                    simulator.close()
            raise ConnectionError("the simulator failed, " + reason) from error
        protocol.send(connection, answer)


def await_message(connection: socket.socket, listener: socket.socket, silence: float) -> None:
    """Return when the client says something; `TimeoutError` once it has been silent so long and another one waits."""
    deadline = time.monotonic() + silence
    while True:
        left = deadline - time.monotonic()
        heard = select.select([connection] if left > 0 else [connection, listener], [], [], max(0, left) or None)[0]
        if connection in heard:
            return
        if heard:
            raise TimeoutError(f"silent for {silence:g} seconds, and another client waits")


def patience_of(hello: dict) -> dict:
    """How long the simulator may take for each kind of message, from what the client says that it waits."""
    waits: list = [hello.get(name) for name in ("step_seconds", "reset_seconds")]
    if not all(type(wait) in (int, float) and 0 < wait <= LONGEST for wait in waits):
        raise Refused(f"HELLO names step_seconds and reset_seconds, above 0 and up to {LONGEST}")
    step, reset = [PATIENCE * wait for wait in waits]
    return {protocol.HELLO: reset, protocol.RESET: reset, protocol.STEP: step}


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
    parser.add_argument("--silence", type=float, default=300.0, help="seconds; who waits gets a simulator left so long")
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
            converse(connection, listener, simulator, options.silence)
        except (OSError, protocol.ProtocolError) as error:
            print(f"client gone: {error}", file=sys.stderr, flush=True)
        finally:
            connection.close()


if __name__ == "__main__":
    main()
