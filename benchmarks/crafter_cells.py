"""What a tokenizer keeps of Crafter: of each kind of cell, the share that its reconstruction still shows.

    python -m benchmarks.crafter_cells models/crafter_small/tokenizer.safetensors --out cells.md

The expert plays worlds that no dataset has. In daylight a cell is one of a few hundred exact pictures; which one is
nearest tells what a cell of the reconstruction shows, and the game what it is.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from embody.data import write_text
from embody.games import DemonstratorLost, environment_seeds, make_env
from embody.games.crafter.demonstrator import CrafterExpert
from embody.games.crafter.environment import CrafterPixels
from embody.games.crafter.presets import crafter_small
from embody.model import load_tokenizer
from embody.tokenizer import Tokenizer

FIRST = 600_000  # training episode: no preset records so many
NOISES = (0.0, 0.1, 0.3)  # those of a default dataset
EVERY = 5  # steps
DAYLIGHT = 0.97
TILE, ROWS, COLUMNS = 7, 7, 9
Frames = NDArray[np.uint8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    tokenizer, _ = load_tokenizer(arguments.tokenizer)
    pairs, kinds, names = play(arguments.episodes)
    shown = nearest(reconstructed(tokenizer, pairs), pairs[:, 1], kinds)
    text = table(shown, kinds, names)
    print(text)
    if arguments.out:
        write_text(arguments.out, text)


def play(episodes: int) -> tuple[Frames, NDArray[np.int64], dict[int, str]]:
    """Frames `[N, 2, H, W, 3]`, each with the one before; the kinds of their cells `[N, ROWS, COLUMNS]`; names."""
    config, random = crafter_small(), np.random.default_rng(0)
    env, expert = make_env(config.env, "crafter"), CrafterExpert()
    assert isinstance(env, CrafterPixels)
    seeds = environment_seeds(config.collect.seed, "crafter", "train")
    pairs: list[Frames] = []
    kinds: list[NDArray[np.int64]] = []
    things: dict[str, int] = {}
    for episode in range(episodes):
        last, _ = env.reset(seed=seeds[FIRST + episode])
        expert.reset(env)
        action, over, step = None, False, 0
        while not over:
            try:
                suggested = expert.action(action)
            except DemonstratorLost:
                break
            replaced = random.random() < NOISES[episode % len(NOISES)]
            action = int(random.integers(env.actions)) if replaced else suggested
            frame, _, terminated, truncated, _ = env.step(action)
            over, step = terminated or truncated, step + 1
            if step % EVERY == 0 and env.game._world.daylight > DAYLIGHT and not env.game._player.sleeping:
                pairs.append(np.stack([last, frame]))
                kinds.append(cells_of(env.game, things))
            last = frame
    grounds = {number: name or "outside" for number, name in env.game._world._mat_names.items()}
    return np.stack(pairs), np.stack(kinds), grounds | {number: name for name, number in things.items()}


def cells_of(game: object, things: dict[str, int]) -> NDArray[np.int64]:
    """The kind of each cell in view, `[ROWS, COLUMNS]`: its ground, or what stands on it (numbered in `things`)."""
    world, player = game._world, game._player  # type: ignore[attr-defined]
    left, top = np.array(player.pos) - np.array([COLUMNS, ROWS]) // 2 + COLUMNS
    view = np.s_[left : left + COLUMNS, top : top + ROWS]
    kinds = np.pad(world._mat_map, COLUMNS)[view].astype(np.int64)
    objects = np.pad(world._obj_map, COLUMNS)[view]
    for place in zip(*np.nonzero(objects), strict=True):
        name = type(world._objects[objects[place]]).__name__.lower()
        kinds[place] = things.setdefault(name, 100 + len(things))
    return kinds.T


@torch.no_grad()
def reconstructed(tokenizer: Tokenizer, pairs: Frames) -> Frames:
    """The second frame of each pair, `[N, H, W, 3]`."""
    parts = []
    for part in np.array_split(pairs, max(1, len(pairs) // 64)):
        decoded = tokenizer.decode_video(tokenizer.encode_video(torch.from_numpy(part).permute(0, 1, 4, 2, 3)))
        parts.append((decoded[:, 1].clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts)


def nearest(decoded: Frames, real: Frames, kinds: NDArray[np.int64]) -> NDArray[np.int64]:
    """What each cell of `decoded` shows: the kind of the nearest picture that a cell of `real` has."""
    flat, templates, labels = tiles(real), [], []
    for kind in np.unique(kinds):
        pictures = np.unique(flat[kinds == kind], axis=0)[:: 1 + np.count_nonzero(kinds == kind) // 4000]
        templates.append(pictures)
        labels += [kind] * len(pictures)
    known = torch.from_numpy(np.concatenate(templates)).float()
    pixels = torch.from_numpy(tiles(decoded)).float().flatten(0, 2)
    found = torch.cat([torch.cdist(part, known).argmin(dim=1) for part in pixels.split(8192)])
    return np.array(labels)[found.numpy()].reshape(kinds.shape)


def tiles(frames: Frames) -> Frames:
    """`[N, H, W, 3]` -> `[N, ROWS, COLUMNS, TILE * TILE * 3]`."""
    view = frames[:, : ROWS * TILE, : COLUMNS * TILE].reshape(len(frames), ROWS, TILE, COLUMNS, TILE, 3)
    return view.swapaxes(2, 3).reshape(len(frames), ROWS, COLUMNS, -1)


def table(shown: NDArray[np.int64], kinds: NDArray[np.int64], names: dict[int, str]) -> str:
    """Markdown: the kinds from the commonest to the rarest."""
    right = shown == kinds
    lines = [
        "# What the tokenizer keeps of Crafter's cells",
        "",
        f"`python -m benchmarks.crafter_cells {shlex.join(sys.argv[1:])}`, {time.strftime('%Y-%m-%d')}:"
        f" {len(kinds)} frames in daylight, of held-out worlds; {right.mean():.2%} of all cells are right.",
        "",
        "| cell | seen | right | of those read as it |",
        "| --- | --- | --- | --- |",
    ]
    number, count = np.unique(kinds, return_counts=True)
    for kind in number[np.argsort(-count)]:
        there, read = kinds == kind, shown == kind
        precision = f"{right[read].mean():.0%}" if read.any() else "-"
        lines.append(f"| {names[int(kind)]} | {there.sum():,} | {right[there].mean():.0%} | {precision} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
