"""Tokenizer, dynamics and agent together: loading their weights, and copies for inference."""

import copy
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from embody.agent import Agent, EventClassifier, RiskModel
from embody.config import (
    ActionSpec,
    AgentConfig,
    Config,
    DynamicsConfig,
    TokenizerConfig,
    check_architecture,
    from_dict,
)
from embody.data.arrays import as_path
from embody.data.sampling.batch import Batch
from embody.dynamics import Dynamics
from embody.dynamics.shortcut import Levels, noise_to
from embody.errors import UserError, install_extra
from embody.nn.compiled import compile_steps
from embody.nn.noise import Noise
from embody.nn.precision import Precision, check_precision
from embody.nn.transformer import Block, Transformer
from embody.saving.tensors import load_metadata, load_tensors, tensor_names
from embody.tokenizer import Lpips, Tokenizer
from embody.tokenizer.lpips import LpipsNet

__all__ = [
    "Agent",
    "Dynamics",
    "Precision",
    "Tokenizer",
    "WorldAndAgent",
    "check_tokenizer",
    "fetched_lpips",
    "for_inference",
    "load_dynamics",
    "load_lpips",
    "load_tokenizer",
    "load_world_and_agent",
]


class WorldAndAgent(nn.Module):
    """The dynamics and the agent, which phases 2 and 3 train and save together."""

    def __init__(self, dynamics: Dynamics, agent: Agent) -> None:
        super().__init__()
        self.dynamics, self.agent = dynamics, agent
        self.goal = agent.goal
        self.events: EventClassifier | None = None
        self.risk: RiskModel | None = None
        if self.goal.predicts_outcomes:
            self.events = EventClassifier(dynamics.config.tokens, dynamics.config.channels, agent.config)
            self.risk = RiskModel(dynamics.config.tokens, dynamics.config.channels, agent.config, dynamics.actions)

    def features(self, batch: Batch, levels: Levels, noise: Noise) -> Tensor:
        """Features `[B, T, H]`, which the heads read, of the `batch`'s frames noised to `levels`.

        Their gradient reaches the dynamics only if the agent shares its layers.
        """
        assert batch.latents is not None
        z = self.dynamics.pack(batch.latents)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.agent.config.own_weights):
            noised = noise_to(levels.tau, z, noise.normal(*z.shape))
            seen = noised, levels.tau, levels.d, batch.actions, batch.is_first, batch.labelled
            memory = self.dynamics(*seen, memory_only=True).memory
        return self.agent(batch.task, memory, batch.length, blocks=self.dynamics.trunk.blocks)

    @property
    def outcome_models(self) -> list[nn.Module]:
        """The models that predict a dreamt step's outcome in multi-achievement mode; empty otherwise."""
        return [part for part in (self.events, self.risk) if part is not None]

    def head_outcome(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Reward and continue probability, `[...]` each, that the heads predict at features `[..., H]`."""
        out = self.agent.heads(features)
        # In bfloat16 a continue probability above 99.8% would round to 1.
        return self.agent.heads.expected_reward(out.reward[..., 0, :]), out.continues.float().sigmoid()

    def event_logits(self, before: Tensor, after: Tensor) -> Tensor:
        """Logits `[..., P]` of the tasks achieved between two successive frames' latents `[..., L, Z]` (see `pack`)."""
        assert self.events is not None
        logits: Tensor = self.events(before, after)
        return logits

    def expected_risk(self, before: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Expected cost and continue probability, `[...]` each, of `actions` `[..., A]` at latents `[..., L, Z]`."""
        assert self.risk is not None
        return self.risk.expected(before, actions)

    def context_levels(self, batch: Batch) -> Levels:
        """(context level, d_min) for every frame of the `batch`."""
        level = torch.full(batch.mask.shape, self.dynamics.context_level, device=batch.mask.device)
        return Levels(level, torch.full_like(level, 1 / self.dynamics.config.k_max))


def check_tokenizer(tokenizer: Tokenizer, dynamics: Dynamics) -> None:
    """A `UserError` if `dynamics` was not made for the latents of `tokenizer`, or is on another device."""
    t, d = tokenizer.config, dynamics.config
    if t.latents * t.channels != d.tokens * d.channels:
        raise UserError(
            f"the tokenizer's latents are {t.latents}x{t.channels}, the dynamics was made for"
            f" {d.tokens * d.channels} numbers a frame: load both from one folder"
        )
    devices = [next(model.parameters()).device for model in (tokenizer, dynamics)]
    if devices[0] != devices[1]:
        raise UserError(f"the tokenizer is on {devices[0]}, the dynamics on {devices[1]}: move both to one device")


M = TypeVar("M", bound=nn.Module)


def for_inference(model: M, *, precision: Precision = "bfloat16", compiled: bool = False) -> M:
    """A frozen copy of a tokenizer, dynamics or agent, or of a module that holds them, for inference.

    In `bfloat16` and `float16` the matrices of the layers are cast once, instead of by autocast at every call. In
    `int8` and `float8` torchao also rounds them to 8 bits with a scale for each row; products stay in bfloat16. If
    `compiled`, calls with a cache are compiled, which takes about half a minute for each new input shape. A `UserError`
    if the model is on a GPU that would emulate bfloat16 (see `check_precision`).
    """
    check_precision(precision, next(model.parameters()).device)
    model = copy.deepcopy(model).requires_grad_(False).eval()
    if precision != "float32":
        for block in [module for module in model.modules() if isinstance(module, Block)]:
            for matrix in block.modules():
                if isinstance(matrix, nn.Linear):
                    matrix.to(torch.float16 if precision == "float16" else torch.bfloat16)
            if precision in ("int8", "float8"):
                _quantise(block, precision)
    if compiled:
        for part in _cached(model):
            compile_steps(part)
    return model


def _quantise(block: Block, precision: Literal["int8", "float8"]) -> None:
    try:
        from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise UserError(f"precision {precision} needs torchao: {install_extra('quantise')}") from error
    quantize_(block, Int8WeightOnlyConfig() if precision == "int8" else Float8WeightOnlyConfig())


def _cached(model: nn.Module) -> list[nn.Module]:
    """The outermost modules in `model` whose calls take a cache."""
    if isinstance(model, Dynamics | Agent | Transformer):
        return [model]
    return [part for child in model.children() for part in _cached(child)]


_MOST_PIXELS = 4096  # of the height and of the width of a frame


def load_tokenizer(path: Path | str) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer in a weights file, for use, and what the file says of itself; a `UserError` if it has none."""
    file = as_path(path, "the file of a tokenizer's weights")

    def build(recipe: dict[str, Any], names: Collection[str]) -> Tokenizer:
        config = _config(TokenizerConfig, recipe, "tokenizer", file)
        frame = _config(tuple[int, int], recipe, "frame", file)
        if not all(1 <= side <= _MOST_PIXELS for side in frame):
            raise UserError(f"{file}: frame {frame} must have from 1 to {_MOST_PIXELS} pixels a side: train it again")
        return Tokenizer(config, frame)

    return _load(file, build)


def load_lpips(config: Config) -> Lpips | None:
    """The network of the tokenizer's perceptual loss, if it has one; a `UserError` if its weights are missing."""
    net = config.tokenizer_objective.lpips
    if net == "none":
        return None
    found = fetched_lpips(config, net)
    if found is None:
        raise UserError(
            f"tokenizer_objective.lpips {net}: no weights at {config.lpips_weights(net)}:"
            f" run `embody weights lpips --cache-dir {config.cache_dir}`"
        )
    return found


def fetched_lpips(config: Config, net: LpipsNet) -> Lpips | None:
    """An LPIPS network; None if its weights are not where `config` looks for them."""
    path = config.lpips_weights(net)
    return Lpips(net, load_tensors(path)[0]) if path.exists() else None


def load_dynamics(path: Path | str) -> tuple[Dynamics, dict[str, Any]]:
    """The dynamics in a weights file of phase 1; as `load_tokenizer`."""
    file = as_path(path, "the file of a dynamics' weights")
    return _load(file, lambda recipe, names: _dynamics(recipe, file))


def load_world_and_agent(path: Path | str) -> tuple[WorldAndAgent, dict[str, Any]]:
    """The dynamics and the agent in a weights file of phase 2 or 3; as `load_tokenizer`."""
    file = as_path(path, "the file of an agent's weights")

    def build(recipe: dict[str, Any], names: Collection[str]) -> WorldAndAgent:
        dynamics, config = _dynamics(recipe, file), _config(AgentConfig, recipe, "agent", file)
        model = WorldAndAgent(dynamics, Agent(config, dynamics.config.trunk, dynamics.actions))
        if any(name.startswith("agent.heads.cloned.") for name in names):
            model.agent.heads.keep_cloned_policy()
        return model

    return _load(file, build)


def _load(path: Path, build: Callable[[dict[str, Any], Collection[str]], M]) -> tuple[M, dict[str, Any]]:
    """The model that `build` makes from a weights file's metadata and the names of its tensors, with these tensors.

    Before the model takes memory, its shapes, those of a model on the meta device, are compared with the file's.
    """
    recipe, names = load_metadata(path), tensor_names(path)
    with torch.device("meta"):
        expected = build(recipe, names).state_dict()
    tensors, _ = load_tensors(path, expected)
    model = build(recipe, names)
    model.load_state_dict(tensors)
    return model.eval(), recipe


def _dynamics(recipe: dict[str, Any], path: Path) -> Dynamics:
    return Dynamics(_config(DynamicsConfig, recipe, "dynamics", path), _config(ActionSpec, recipe, "actions", path))


def _config(cls: Any, recipe: dict[str, Any], name: str, path: Path) -> Any:
    try:
        config = from_dict(cls, recipe["models"][name])
        if not isinstance(config, tuple):
            check_architecture(config)
        return config
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} holds no {name} that this version can read ({error}): train it again") from error
