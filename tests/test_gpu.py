"""What only a GPU can show: the kernels that really run, and what bfloat16 training keeps there."""

import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from embody.config import DynamicsConfig, TransformerConfig
from embody.cost.memory import trunk_activations
from embody.cost.parameters import block_matrices
from embody.dynamics import Dynamics, ShortcutLoss
from embody.imagination import Dream
from embody.model import for_inference
from embody.nn.attention import attend
from embody.nn.noise import GeneratorNoise
from tests.test_cost import kept
from tests.tiny_models import ACTIONS, DYNAMICS, FLOW, make_batch, open_layers, seeded

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA: flash and Triton kernels run on GPUs only"),
]

TRUNK = TransformerConfig(width=256, depth=4, heads=4, kv_heads=2, mlp_width=384)
WORLD = dataclasses.replace(DYNAMICS, trunk=TRUNK)
PLAIN = dataclasses.replace(FLOW, bootstrap_fraction=0.0, image_fraction=0.0)


def make_world(config: DynamicsConfig = WORLD) -> Dynamics:
    torch.manual_seed(0)
    dynamics = Dynamics(config, ACTIONS)
    open_layers(dynamics)
    return dynamics.cuda()


def kernels(seen: profile) -> list[str]:
    return [event.name.lower() for event in seen.events() if event.device_type == torch.autograd.DeviceType.CUDA]


def only_flash(names: list[str]) -> None:
    """Neither attention spelt out (a softmax of its own) nor the memory-efficient kernel; cuDNN's is flash too."""
    assert sum("flash" in name for name in names) >= TRUNK.depth, sorted(set(names))
    assert not [name for name in names if "softmax" in name or "fmha_cutlass" in name]


def test_training_runs_flash_attention() -> None:
    dynamics, loss, batch = make_world(), ShortcutLoss(PLAIN).cuda(), make_batch(4, 6).to(torch.device("cuda"))
    generator = torch.Generator("cuda").manual_seed(0)

    def step() -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            total, _ = loss(dynamics, batch, GeneratorNoise(generator), bootstrap=False)
        total.backward()

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        step()
    only_flash(kernels(seen))
    backward = [name for name in kernels(seen) if "flash" in name and ("bwd" in name or "bprop" in name)]
    assert len(backward) >= TRUNK.depth
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        step()  # raises where a call does not suit the kernel


@torch.no_grad()
def test_a_cached_step_runs_flash_attention() -> None:
    dynamics, batch = make_world(), make_batch(2, WORLD.context).to(torch.device("cuda"))
    dream = Dream(dynamics, k_sample=2, noise=GeneratorNoise(torch.Generator("cuda").manual_seed(0)))
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert batch.latents is not None
        dream.reset(batch.latents, batch.actions, batch.is_first)
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            dream.step(batch.actions[:, 0])
        only_flash(kernels(seen))
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            dream.step(batch.actions[:, 0])


@pytest.mark.slow  # compiles
@torch.no_grad()
def test_a_captured_step_equals_a_plain_one() -> None:
    dynamics, batch = make_world().eval(), make_batch(1, WORLD.context + 4).to(torch.device("cuda"))
    captured = for_inference(dynamics, precision="float32", compiled=True)
    assert batch.latents is not None
    for _ in range(2):  # the second dream has a history of its own
        plain, fast = (
            Dream(world, k_sample=2, noise=GeneratorNoise(torch.Generator("cuda").manual_seed(0)))
            for world in (dynamics, captured)
        )
        for dream in (plain, fast):
            dream.reset(batch.latents[:, :3], batch.actions[:, :3], batch.is_first[:, :3])
        for actions in batch.actions[:, 3:].unbind(dim=1):  # past the window: the mask goes
            torch.testing.assert_close(fast.advance(actions)[0], plain.advance(actions)[0], atol=1e-3, rtol=1e-3)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        fast.advance(batch.actions[:, 0])
    assert sum("cudaGraphLaunch" in event.name for event in seen.events()) == 2  # one a pass


def test_training_at_a_cap_runs_compiled_flex_attention() -> None:
    """As the paper's size trains: no matrix of logits is kept, so that it holds hardly more than flash attention does.

    Here one a space layer would be 268 MB, beside the 164 MB that all the rest of a block keeps.
    """
    batch, held = make_batch(2, 4).to(torch.device("cuda")), []

    def forward(dynamics: Dynamics, loss: ShortcutLoss) -> torch.Tensor:
        generator = torch.Generator("cuda").manual_seed(0)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return loss(dynamics, batch, GeneratorNoise(generator), bootstrap=False)[0]

    for soft_cap in (0.0, 50.0):
        trunk = dataclasses.replace(TRUNK, soft_cap=soft_cap)
        dynamics = make_world(dataclasses.replace(WORLD, trunk=trunk, registers=2044))  # 2,048 tokens a frame
        loss = ShortcutLoss(PLAIN).cuda()
        forward(dynamics, loss).backward()  # compiles
        before = torch.cuda.memory_allocated()
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            total = forward(dynamics, loss)
            held.append(torch.cuda.memory_allocated() - before)
            total.backward()
    names = kernels(seen)
    # Attention alone is compiled, and Triton templates are made of it alone: forward and backward of each layer.
    assert sum("triton_tem" in name for name in names) >= 2 * TRUNK.depth, sorted(set(names))
    assert not [name for name in names if "softmax" in name or "fmha" in name or "flash" in name]
    assert held[1] < 1.25 * held[0]


@pytest.mark.parametrize("causal", [False, True])
def test_the_compiled_soft_cap_equals_the_explicit_one(causal: bool) -> None:
    for length in (40, 72, 136):  # the second one compiles for every length
        q = 3 * torch.randn(2, 4, length, 32, generator=seeded(0))
        k, v = (torch.randn(2, 2, length, 32, generator=seeded(seed)) for seed in (1, 2))
        here = [x.clone().requires_grad_() for x in (q, k, v)]
        there = [x.cuda().requires_grad_() for x in (q, k, v)]
        expected = attend(*here, causal=causal, soft_cap=1.5)
        found = attend(*there, causal=causal, soft_cap=1.5)
        torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=1e-3)
        expected.square().sum().backward()
        found.square().sum().backward()
        for mine, other in zip(there, here, strict=True):
            assert mine.grad is not None
            torch.testing.assert_close(mine.grad.cpu(), other.grad, atol=1e-2, rtol=1e-2)


def test_activations_in_bfloat16_as_autograd_keeps_them() -> None:
    dynamics, batch = make_world(), make_batch(16, 8).to(torch.device("cuda"))
    assert batch.latents is not None
    z, shape = dynamics.pack(batch.latents), (16, 8)
    tau, d = torch.zeros(shape, device="cuda"), torch.full(shape, 0.25, device="cuda")

    def world_pass() -> torch.Tensor:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return dynamics(z, tau, d, batch.actions, batch.is_first).clean

    expected = trunk_activations(TRUNK, 16 * 8 * dynamics.tokens, p=2) + 2 * TRUNK.depth * block_matrices(TRUNK)
    assert kept(world_pass, dynamics) == pytest.approx(expected, rel=0.15)
