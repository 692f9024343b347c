"""A fake MineRL: it replays a recorded episode for any actions, but refuses the actions that the real one refuses.

Its spaces follow MineRL's documentation and are not taken from embody. It runs on Python 3.6. Environment variables:

- FAKE_EPISODE: an .npz with `pov` [T, H, W, 3], `reward` [T - 1], `items`, `inventory` [T, items] and (MineRL 1.0)
  `gui` [T].
- FAKE_LOG: a file to which every seed and action is appended.
- FAKE_FAULT: "die", "hang", "raise", "break" (it then fails to close too) or "nan" (as the reward).
- FAKE_STEP: the step of the first episode at which the fault happens.
- FAKE_FAULT_DONE: a file that is created when the fault has happened, so that it happens once.
"""

import json
import os
import time

import gym
import numpy as np

__version__ = "0.0.fake"


class Discrete:
    def __init__(self, n: int) -> None:
        self.n = n

    def contains(self, x: object) -> bool:
        return type(x) is int and 0 <= x < self.n


class Enum(Discrete):
    def __init__(self, *values: str) -> None:
        super().__init__(len(values))
        self.values = np.array(sorted(values))

    def contains(self, x: object) -> bool:
        return type(x) is str and x in self.values


class Box:
    def __init__(self, low: float, high: float, shape: tuple, dtype: object) -> None:
        self.low, self.high = np.full(shape, low, dtype), np.full(shape, high, dtype)
        self.shape, self.dtype = shape, np.dtype(dtype)

    def contains(self, x: object) -> bool:
        right = isinstance(x, np.ndarray) and x.shape == self.shape and x.dtype == self.dtype
        return bool(right and (x >= self.low).all() and (x <= self.high).all())


class Dict:
    def __init__(self, spaces: dict) -> None:
        self.spaces = spaces

    def contains(self, x: dict) -> bool:
        return set(x) == set(self.spaces) and all(space.contains(x[key]) for key, space in self.spaces.items())


CAMERA = {"camera": Box(-180, 180, (2,), np.float32)}
MOVES = ("attack", "back", "forward", "jump", "left", "right", "sneak", "sprint")
HUMAN = (
    "ESC attack back drop forward hotbar.1 hotbar.2 hotbar.3 hotbar.4 hotbar.5 hotbar.6 hotbar.7 hotbar.8 hotbar.9"
    " inventory jump left pickItem right sneak sprint swapHands use"
).split()
TOOLS = ("wooden_axe", "wooden_pickaxe", "stone_axe", "stone_pickaxe", "iron_axe", "iron_pickaxe")
OBTAIN = {
    "place": Enum("none", "dirt", "stone", "cobblestone", "crafting_table", "furnace", "torch"),
    "equip": Enum("none", "air", *TOOLS),
    "craft": Enum("none", "torch", "stick", "planks", "crafting_table"),
    "nearbyCraft": Enum("none", "furnace", *TOOLS),
    "nearbySmelt": Enum("none", "iron_ingot", "coal"),
}


def keys(*names: str) -> dict:
    return {name: Discrete(2) for name in names}


class Spec:
    """MineRL's EnvSpec: its handlers, and with them the time limit, are made in `reset`."""

    def __init__(self, actions: dict, size: tuple, max_episode_steps: int) -> None:
        self.actions, self.size, self.max_episode_steps = actions, size, max_episode_steps
        self.reset()

    def reset(self) -> None:
        self.limit = self.max_episode_steps

    def make(self) -> "Env":
        return Env(self)


class Env:
    def __init__(self, spec: Spec) -> None:
        self.action_space = Dict(spec.actions)
        self.observation_space = Dict({"pov": Box(0, 255, spec.size + (3,), np.uint8)})
        self.limit, self.broken = spec.limit, False
        with np.load(os.environ["FAKE_EPISODE"]) as file:
            self.episode = dict(file)

    def seed(self, seed: int) -> None:
        log({"seed": seed, "limit": self.limit})

    def reset(self) -> dict:
        self.step_number = 0
        return self.observation()

    def step(self, action: dict) -> tuple:
        assert self.action_space.contains(action), f"the simulator does not take this action: {action!r}"
        log({key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in action.items()})
        fault = fault_once() if os.environ.get("FAKE_STEP") == str(self.step_number) else ""
        self.broken = fault == "break"
        if fault in ("raise", "break"):
            raise RuntimeError("the JVM is gone")
        self.step_number += 1
        done = self.step_number >= min(self.limit, len(self.episode["reward"]))
        reward = float("nan") if fault == "nan" else self.episode["reward"][self.step_number - 1]
        return self.observation(), reward, done, {}

    def observation(self) -> dict:
        counts = self.episode["inventory"][self.step_number]
        inventory = {str(item): np.array(counts[n]) for n, item in enumerate(self.episode["items"])}
        observation = {"pov": self.episode["pov"][self.step_number], "inventory": inventory}
        if "gui" in self.episode:
            observation["isGuiOpen"] = self.episode["gui"][self.step_number]
        return observation

    def close(self) -> None:
        log({"closed": True})
        if self.broken:
            raise RuntimeError("nothing left to close")


def fault_once() -> str:
    if os.path.exists(os.environ["FAKE_FAULT_DONE"]):
        return ""
    open(os.environ["FAKE_FAULT_DONE"], "w").close()
    fault = os.environ["FAKE_FAULT"]
    if fault == "die":
        os._exit(9)
    if fault == "hang":
        time.sleep(3600)
    return fault


def log(line: dict) -> None:
    with open(os.environ["FAKE_LOG"], "a") as file:
        file.write(json.dumps(line) + "\n")


for name, actions, size, steps in (
    ("MineRLObtainDiamond-v0", {**keys(*MOVES), **CAMERA, **OBTAIN}, (64, 64), 18000),
    ("MineRLTreechop-v0", {**keys(*MOVES), **CAMERA}, (64, 64), 8000),
    ("MineRLHumanSurvival-v0", {**keys(*HUMAN), **CAMERA}, (360, 640), 18000),
    ("MineRLOdd-v0", {**keys(*MOVES), **CAMERA, "fly": Discrete(3)}, (64, 64), 8000),
    ("MineRLUnbounded-v0", {"camera": Box(-np.inf, np.inf, (2,), np.float32)}, (64, 64), 8000),
):
    gym.registry[name] = gym.Registered(Spec(actions, size, steps))
gym.registry["CartPole-v0"] = gym.Registered(None)
