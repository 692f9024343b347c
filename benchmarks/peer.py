"""The peer's side: the PyPI package `dreamer4` (lucidrains), at its leanest. Runs in the peer's own environment.

All that the package offers beyond what embody does here is off: attention-residual pools, value residuals, gates on
values, "beliefformer" projections, soft-capped logits (which would also cost it the fused attention), mixture tokens,
loss normalisation, flow decoder, perceptual loss. Three choices go further in its favour than its constructors do:

- its tokenizer passes no such settings on to its transformers: they are set here on the class;
- attention inside a frame sees all tokens (`full_spatial_attn`), without the mask that would cost the fused kernel;
- the agent token, which it always has, takes the place of a register: 24 tokens a frame, as embody.

Where it does more than embody in a session, it is its algorithm: `generate` spends K + 1 passes a frame, K to denoise
and one to keep it, and embody K; and it embeds two frames in each pass, the prompt's and the new one, of which its
transformer then sees the new one alone.

Optimiser: `torch.optim.AdamW(fused=True)`, as embody's.
"""

import dataclasses
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.measure import Unit, autocast
from benchmarks.workloads import Precision, Shapes, Workload

__all__ = ["build"]


def _load() -> Any:
    """The package's module, its transformers lean."""
    try:
        import torchvision  # noqa: F401  # built for CUDA, it does not load beside the CPU build of torch
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from dreamer4 import dreamer4

    class Lean(dreamer4.AxialSpaceTimeTransformer):
        def __init__(self, **settings: Any) -> None:
            lean = dict(
                use_attn_pool=False,
                value_residual=False,
                attn_softclamp_value=None,
                full_spatial_attn=True,
                attn_kwargs=dict(gate_values=False, belief_attn=False),
            )
            super().__init__(**{**settings, **lean, "ff_kwargs": self.ff_kwargs})

    dreamer4.AxialSpaceTimeTransformer = Lean
    return dreamer4


def build(workload: Workload, precision: Precision, shapes: Shapes) -> Unit:
    """The workload on the peer's models."""
    package = _load()
    # It rounds `width * expansion_factor * 2 / 3` down.
    factor = (shapes.mlp + 0.5) * 3 / (2 * shapes.width)
    package.AxialSpaceTimeTransformer.ff_kwargs = dict(expansion_factor=factor)
    torch.manual_seed(0)
    side = _Side(package, workload, precision, shapes)
    unit: Unit = getattr(side, workload.kind)()
    # Its causal bias is a tensor subclass, which cannot be made under a dispatch mode; a mask counts the same products.
    as_mask = mock.patch.object(package, "causal_lower_right", _causal_mask)
    return dataclasses.replace(unit, counting=lambda: as_mask)


def _causal_mask(queries: int, keys: int) -> Tensor:
    return torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)


class _Side:
    def __init__(self, package: Any, workload: Workload, precision: Precision, shapes: Shapes) -> None:
        self.package, self.workload, self.precision, self.shapes = package, workload, precision, shapes

    # --- models -------------------------------------------------------------------------------------------------------

    def new_tokenizer(self) -> Any:
        s = self.shapes
        return self.package.VideoTokenizer(
            dim=s.width,
            dim_latent=s.channels,
            patch_size=s.patch,
            image_size=s.side,
            num_latent_tokens=s.latents,
            encoder_depth=s.tokenizer_depth,
            decoder_depth=s.tokenizer_depth,
            time_block_every=4,
            attn_heads=s.width // s.head,
            attn_dim_head=s.head,
            lpips_loss_weight=0.0,
            decoder_flow_steps=0,
            use_loss_normalization=False,
        )

    def new_world(self) -> Any:
        s = self.shapes
        return self.package.DynamicsWorldModel(
            dim=s.width,
            dim_latent=s.channels,
            num_latent_tokens=s.latents,
            num_spatial_tokens=s.latents,
            num_register_tokens=s.registers - 1,  # the agent token is one more
            depth=s.depth,
            time_block_every=4,
            attn_heads=s.width // s.head,
            attn_dim_head=s.head,
            num_discrete_actions=s.actions,
            max_steps=64,
            prob_shortcut_train=0.0 if self.workload.bootstrap == "none" else 1.0,
            multi_token_pred_len=1,
            # The value's MLP is embody's; the policy's has one layer of `4 width` more, the next less would be linear.
            policy_head_mlp_depth=1,
            value_head_mlp_depth=1,
            predict_terminals=False,  # one head less, and no dream ends early
        )

    # --- training -----------------------------------------------------------------------------------------------------

    def tokenizer(self) -> Unit:
        """Its own `forward` drops patches and returns the mean squared error."""
        s = self.shapes
        model = self.new_tokenizer()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        video = torch.rand(s.rows, 3, self.workload.length, s.side, s.side)

        def run() -> Tensor:
            optimizer.zero_grad()
            with autocast(self.precision):
                loss = model(video)
            loss.backward()
            optimizer.step()
            return loss.detach()

        return Unit(run, (model,))

    def dynamics(self) -> Unit:
        """Its own `forward` draws levels and returns the flow loss, and the shortcut loss on all rows or none."""
        s = self.shapes
        world = self.new_world()
        optimizer = torch.optim.AdamW(world.parameters(), lr=1e-4, fused=True)
        latents = torch.rand(s.rows, self.workload.length, s.latents, s.channels) * 2 - 1
        actions = torch.randint(s.actions, (s.rows, self.workload.length, 1))

        def run() -> Tensor:
            optimizer.zero_grad()
            with autocast(self.precision):
                loss = world(
                    latents=latents,
                    discrete_actions=actions,
                    shift_action_tokens=False,  # each action stands at the frame that it led to, as embody's
                    add_autoregressive_action_loss=False,
                )
            loss.backward()
            optimizer.step()
            return loss.detach()

        return Unit(run, (world,))

    # --- generation ---------------------------------------------------------------------------------------------------

    def context(self, world: Any, rows: int) -> tuple[Tensor, Any]:
        """The last frame of a context, and the time cache of all of it, by one pass.

        Given the whole context instead, `generate` would run it anew in each pass of the first frame.
        """
        s, T = self.shapes, self.workload.length
        latents = torch.rand(rows, T, s.latents, s.channels) * 2 - 1
        with torch.no_grad(), autocast(self.precision):
            _, (_, cache) = world(
                latents=latents,
                signal_levels=world.max_steps - 1,
                step_sizes=world.max_steps // s.passes,
                discrete_actions=torch.randint(s.actions, (rows, T, 1)),
                shift_action_tokens=False,
                latent_is_noised=True,
                return_pred_only=True,
                return_intermediates=True,
            )
        return latents[:, -1:], cache

    def interactive(self) -> Unit:
        """`generate` one frame at a time, with its time cache, then `decode`.

        Only the last frame goes in as the prompt: the cache holds the others, and positions follow its count, so the
        result is that of the whole prompt without embedding it anew in each pass. The decoder has no cache: it is
        given the one new frame, the least that it can decode.
        """
        s = self.shapes
        tokenizer, world = self.new_tokenizer().eval(), self.new_world().eval()
        actions = torch.randint(s.actions, (s.frames, 1, 1, 1))
        start: list[Any] = []

        def prepare() -> None:
            start[:] = self.context(world, rows=1)

        # One autocast around all frames: it keeps the bfloat16 copies of the weights.
        def run() -> Tensor:
            latents, cache = start
            frames = []
            with torch.no_grad(), autocast(self.precision):
                for action in actions:
                    latents, cache = world.generate(
                        2,
                        num_steps=s.passes,
                        prompt_latents=latents[:, -1:],
                        prompt_discrete_actions=action,
                        time_cache=cache,
                        return_time_cache=True,
                        return_decoded_video=False,
                        store_agent_embed=False,
                    )
                    frames.append(tokenizer.decode(latents[:, -1:]))
            return torch.cat(frames, dim=2)

        return Unit(run, (tokenizer, world), prepare=prepare)

    def imagination(self) -> Unit:
        """`generate` as its `DreamTrainer` calls it, from a context, then `learn_from_experience`: PMPO, heads only."""
        s = self.shapes
        world = self.new_world().train()
        policy = torch.optim.AdamW(world.policy_head_parameters(), lr=1e-4, fused=True)
        value = torch.optim.AdamW(world.value_head_parameters(), lr=1e-4, fused=True)

        def run() -> Tensor:
            latents, cache = self.context(world, rows=s.dreams)
            with autocast(self.precision):
                dreams = world.generate(
                    1 + s.horizon,
                    num_steps=s.passes,
                    batch_size=s.dreams,
                    prompt_latents=latents,
                    prompt_discrete_actions=torch.randint(s.actions, (s.dreams, 1, 1)),
                    time_cache=cache,
                    return_for_policy_optimization=True,
                    return_decoded_video=False,
                )
                losses = world.learn_from_experience(
                    _without_context(dreams), policy, value, objective="pmpo", use_delight_gating=False
                )
            return torch.stack(losses).detach()

        return Unit(run, (world,))


def _without_context(dreams: Any) -> Any:
    """`generate` gives latents, rewards and actions of the prompt's frame too, values and embeddings do not have it."""
    return dataclasses.replace(
        dreams,
        latents=dreams.latents[:, 1:],
        rewards=dreams.rewards[:, 1:],
        actions=type(dreams.actions)(dreams.actions.discrete[:, 1:], None),
        lens=dreams.lens - 1,
    )
