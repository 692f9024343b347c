"""Building blocks against float64 references, closed forms and numbers worked out by hand."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import flex_attention as flex

from embody.config import ActionSpec, TransformerConfig
from embody.games.minecraft.presets import minecraft
from embody.games.minigrid.presets import minigrid
from embody.nn import attention, custom_backward
from embody.nn.attention import Attention, attend, attend_capped
from embody.nn.cache import RingCache
from embody.nn.distributions import FactoredCategorical, TwoHot, symexp, symlog
from embody.nn.noise import GeneratorNoise
from embody.nn.norm import RMSNorm
from embody.nn.rope import rotary_angles, rotate
from embody.nn.running_rms import RunningRms
from embody.nn.transformer import Block, Transformer, run_second_stream
from embody.training.muon import Muon, orthogonalise
from tests.tiny_models import ACTIONS, ONE_TIME_LAYER, TRUNK, make_actions, make_dynamics, open_layers, seeded

CAUSAL_5 = torch.ones(5, 5, dtype=torch.bool).tril()


def make_transformer(config: TransformerConfig = TRUNK) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(config)
    open_layers(model)
    return model


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


# --- rotary positions -----------------------------------------------------------------------------------------------


def test_rope_turns_by_position_times_frequency() -> None:
    cos, sin = rotary_angles(torch.tensor([0, 3]), 4, base=100.0)
    torch.testing.assert_close(cos, torch.tensor([[1.0, 1.0], [math.cos(3), math.cos(0.3)]]))
    turned = rotate(torch.tensor([[1.0, 0.0, 0.0, 2.0]] * 2), (cos, sin))
    torch.testing.assert_close(turned[0], torch.tensor([1.0, 0.0, 0.0, 2.0]))
    expected = torch.tensor([math.cos(3), -2 * math.sin(0.3), math.sin(3), 2 * math.cos(0.3)])
    torch.testing.assert_close(turned[1], expected)


def test_rope_in_time_has_its_own_frequencies(monkeypatch: pytest.MonkeyPatch) -> None:
    cos, _ = rotary_angles(torch.tensor([2]), 4, base=4.0, fastest=3.0)
    torch.testing.assert_close(cos, torch.tensor([[math.cos(6), math.cos(3)]]))
    asked: list[tuple[float, float]] = []
    monkeypatch.setattr(
        "embody.nn.transformer.rotary_angles",
        lambda at, dim, base, fastest=1.0: asked.append((fastest, base)) or rotary_angles(at, dim, base, fastest),
    )
    Transformer(dataclasses.replace(TRUNK, time_rope=(3.0, 4.0)))(normal(1, 2, 3, 16))
    assert asked == [(1.0, TRUNK.rope_base), (3.0, 4.0)]


def test_query_gain_is_that_of_time_layers() -> None:
    model = Transformer(dataclasses.replace(TRUNK, pattern="ST", time_query_gain=2.0))
    gains = [float(weight.detach().mean()) for name, weight in model.named_parameters() if "q_norm" in name]
    assert gains == [1.0, 2.0, 1.0, 2.0]


def test_rope_products_depend_on_distance_only() -> None:
    q, k = normal(8), normal(8, seed=1)

    def product(at_q: int, at_k: int) -> float:
        positions = torch.tensor([at_q, at_k])
        turned = rotate(torch.stack((q, k)), rotary_angles(positions, 8, base=100.0))
        return float(turned[0] @ turned[1])

    assert product(5, 2) == pytest.approx(product(40, 37), abs=1e-4)
    assert product(2, 5) == pytest.approx(product(17, 20), abs=1e-4)
    products = [product(5, 2), product(2, 5), product(5, 1), product(5, 5)]
    assert min(abs(a - b) for i, a in enumerate(products) for b in products[:i]) > 1e-2


# --- attention ------------------------------------------------------------------------------------------------------


def reference(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None, soft_cap: float = 0.0) -> Tensor:
    """Softmax attention in float64, query head n reading key head `n // (N / G)`; `allowed` `[X, Y]`."""
    q, k, v = q.double(), k.double(), v.double()
    heads = []
    for n in range(q.shape[1]):
        g = n // (q.shape[1] // k.shape[1])
        logits = torch.einsum("bxk,byk->bxy", q[:, n], k[:, g]) / math.sqrt(q.shape[-1])
        if soft_cap:
            logits = soft_cap * torch.tanh(logits / soft_cap)
        weights = logits.exp() if allowed is None else logits.exp() * allowed
        heads.append(torch.einsum("bxy,byk->bxk", weights / weights.sum(dim=-1, keepdim=True), v[:, g]))
    return torch.stack(heads, dim=1)


@pytest.mark.parametrize("soft_cap", [0.0, 1.5])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_softmax_with_grouped_heads(causal: bool, soft_cap: float) -> None:
    q, k, v = 3 * normal(3, 4, 5, 8), normal(3, 2, 5, 8, seed=1), normal(3, 2, 5, 8, seed=2)
    expected = reference(q, k, v, CAUSAL_5 if causal else None, soft_cap)
    found = attend(q, k, v, causal=causal, soft_cap=soft_cap)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize("causal", [False, True])
def test_flex_attention_caps_as_the_explicit_path(causal: bool, heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Uncompiled, which is all that a CPU needs to check what it is asked to compute.
    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    q, k, v = 3 * normal(3, heads, 5, 16), normal(3, 2, 5, 16, seed=1), normal(3, 2, 5, 16, seed=2)
    found = attend_capped(q, k, v, causal=causal, soft_cap=1.5)
    torch.testing.assert_close(found, attend(q, k, v, causal=causal, soft_cap=1.5), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("soft_cap", [0.0, 1.5])
def test_attention_over_the_batch_limit_goes_in_parts(soft_cap: float, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = normal(7, 4, 5, 8), normal(7, 2, 5, 8, seed=1), normal(7, 2, 5, 8, seed=2)
    whole = attend(q, k, v, causal=True, soft_cap=soft_cap)
    rows = []
    sdpa, tanh = F.scaled_dot_product_attention, torch.tanh
    monkeypatch.setattr(attention, "_MAX_BATCH", 3)
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, *a, **kw: rows.append(len(q)) or sdpa(q, *a, **kw))
    monkeypatch.setattr(torch, "tanh", lambda x: rows.append(len(x)) or tanh(x))
    torch.testing.assert_close(attend(q, k, v, causal=True, soft_cap=soft_cap), whole)
    assert rows == [3, 3, 1]


@torch.no_grad()
def test_a_cached_step_over_the_batch_limit_goes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Attention(TRUNK)
    heads = (TRUNK.heads, TRUNK.kv_heads, TRUNK.kv_heads)
    q, k, v = (normal(7, n, 1 if n == TRUNK.heads else 5, step.head_dim, seed=n) for n in heads)
    bias = torch.tensor([0.0, 0, 0, 0, float("-inf")])
    whole = step.attend_cached(q, k, v, bias)
    monkeypatch.setattr(attention, "_MAX_BATCH", 3)
    torch.testing.assert_close(step.attend_cached(q, k, v, bias), whole)


def test_attention_in_a_bf16_step_on_the_cpu_is_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = []
    sdpa = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **kw: inside.append(sdpa(*a, **kw)) or inside[-1])
    q, k, v = normal(3, 4, 5, 8), normal(3, 2, 5, 8, seed=1), normal(3, 2, 5, 8, seed=2).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attend(q, k, v, causal=True)
    assert inside[0].dtype == torch.float32 and found.dtype == torch.bfloat16
    torch.testing.assert_close(inside[0].double(), reference(q, k, v, CAUSAL_5), atol=1e-5, rtol=1e-5)


def test_queries_and_keys_are_normalised_and_values_are_not() -> None:
    layer = Attention(TRUNK)
    angles = rotary_angles(torch.arange(5), 4, TRUNK.rope_base)
    x = normal(2, 5, 16)
    q, k, v = layer.project(x, angles)
    assert q.shape == (2, 4, 5, 4) and k.shape == v.shape == (2, 2, 5, 4)
    q_large, k_large, v_large = layer.project(10 * x, angles)
    torch.testing.assert_close((q_large, k_large, v_large), (q, k, 10 * v), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(k.square().mean(dim=-1), torch.ones(2, 2, 5), atol=1e-3, rtol=0)


# --- layers, whole ---------------------------------------------------------------------------------------------------


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    return gain.double() * x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()


def turn(x_BNXK: Tensor, base: float, fastest: float = 1.0) -> Tensor:
    """RoPE as a product of complex numbers, in float64."""
    half = x_BNXK.shape[-1] // 2
    frequency = fastest * base ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(x_BNXK.shape[-2], dtype=torch.float64)[:, None] * frequency
    turned = torch.complex(x_BNXK[..., :half], x_BNXK[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((turned.real, turned.imag), dim=-1)


@pytest.mark.parametrize("soft_cap", [0.0, 1.5])
def test_a_transformer_by_hand(soft_cap: float) -> None:
    """Layer by layer in float64, from the weights alone: nothing of the module runs twice."""
    config = dataclasses.replace(
        TRUNK, pattern="SSST", soft_cap=soft_cap, rope_base=50.0, time_rope=(2.5, 20.0), time_query_gain=2.0
    )
    model, B, T, S, D = make_transformer(config), 2, 5, 3, 16
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:  # gains that differ, so that each must be used where it belongs
                parameter.mul_(1 + 0.3 * torch.randn(parameter.shape, generator=seeded(len(name))))
    weights = {name: tensor.double() for name, tensor in model.state_dict().items()}
    x = normal(B, T, S, D)
    h = x.double()
    assert config.layers == "SSST"
    for i, kind in enumerate(config.layers):
        w = {name.removeprefix(f"blocks.{i}."): t for name, t in weights.items() if name.startswith(f"blocks.{i}.")}
        into = rms_norm(h, w["attention_norm.weight"])
        sequences = into.reshape(B * T, S, D) if kind == "S" else into.transpose(1, 2).reshape(B * S, T, D)
        projected = torch.einsum("bxd,ed->bxe", sequences, w["attention.qkv.weight"])
        q, k, v = projected.unflatten(-1, (4 + 2 + 2, 4)).transpose(1, 2).split((4, 2, 2), dim=1)
        of_kind = (config.rope_base, 1.0) if kind == "S" else (20.0, 2.5)
        q = turn(rms_norm(q, w["attention.q_norm.weight"]), *of_kind)
        k = turn(rms_norm(k, w["attention.k_norm.weight"]), *of_kind)
        o = reference(q, k, v, None if kind == "S" else CAUSAL_5, soft_cap).transpose(1, 2).flatten(2)
        o = o @ w["attention.out.weight"].T
        h = h + (o.view(B, T, S, D) if kind == "S" else o.view(B, S, T, D).transpose(1, 2))
        gate, up = (rms_norm(h, w["mlp_norm.weight"]) @ w["mlp.gate_up.weight"].T).chunk(2, dim=-1)
        h = h + (gate / (1 + torch.exp(-gate)) * up) @ w["mlp.out.weight"].T
    with torch.no_grad():
        found, _ = model(x)
    torch.testing.assert_close(found.double(), rms_norm(h, weights["norm.weight"]), atol=1e-5, rtol=1e-5)


# --- two streams ----------------------------------------------------------------------------------------------------


def masked_space_layer(block: Block, x_FSD: Tensor, allowed: Tensor) -> Tensor:
    """A space layer with a mask `[S, S]`, attention in float64."""
    angles = rotary_angles(torch.arange(x_FSD.shape[1]), 4, TRUNK.rope_base)
    o = reference(*block.attention.project(block.attention_norm(x_FSD), angles), allowed).float()
    x_FSD = x_FSD + block.attention.out(o.transpose(1, 2).flatten(2))
    return x_FSD + block.mlp(block.mlp_norm(x_FSD))


def test_a_space_layer_of_two_streams_is_a_masked_one() -> None:
    torch.manual_seed(0)
    block, x = Block(TRUNK), normal(2, 3, 5, 16)
    allowed = torch.ones(5, 5, dtype=torch.bool)
    allowed[:3, 3:] = False  # the first three tokens do not see the others
    angles = rotary_angles(torch.arange(5), 4, TRUNK.rope_base)
    found = block.space(x, angles, 3)
    expected = masked_space_layer(block, x.flatten(0, 1), allowed).view_as(x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    # The same with the second stream in a call of its own.
    alone = block.read(x[:, :, 3:], x[:, :, :3], angles)
    torch.testing.assert_close(alone, expected[:, :, 3:], atol=1e-5, rtol=1e-5)


def test_a_space_layer_keeps_frames_apart() -> None:
    torch.manual_seed(0)
    block, x = Block(TRUNK), normal(2, 3, 5, 16).requires_grad_()
    out = block.space(x, rotary_angles(torch.arange(5), 4, TRUNK.rope_base), 5)
    (gradient,) = torch.autograd.grad(out[0, 1].square().sum(), x)
    assert gradient[0, 1].abs().sum(dim=-1).min() > 0
    gradient[0, 1] = 0
    assert not gradient.any()


@pytest.mark.parametrize("pattern", ["STST", "SSST"])
def test_the_second_stream_in_its_own_call_equals_both_in_one(pattern: str) -> None:
    config = dataclasses.replace(TRUNK, pattern=pattern)
    model = make_transformer(config)
    world, agent = normal(2, 4, 3, 16).requires_grad_(), normal(2, 4, 2, 16, seed=1).requires_grad_()
    both, _ = model(torch.cat((world, agent), dim=2), first=3)
    alone, memory = model(world)
    second = model.norm(run_second_stream(list(model.blocks), config, agent, memory))
    torch.testing.assert_close(both[:, :, :3], alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both[:, :, 3:], second, atol=1e-5, rtol=1e-5)
    (back,) = torch.autograd.grad(both[:, :, :3].square().sum(), agent, retain_graph=True)
    assert not back.any()  # nothing attends back
    (read,) = torch.autograd.grad(second.square().sum(), world)
    assert read.abs().sum(dim=-1).min() > 0


def test_time_layers_are_causal() -> None:
    model, x = make_transformer(), normal(2, 5, 3, 16).requires_grad_()
    out, _ = model(x)
    (gradient,) = torch.autograd.grad(out[0, 2].square().sum(), x)
    assert gradient[0, :3].abs().sum(dim=(1, 2)).min() > 0
    assert not gradient[0, 3:].any() and not gradient[1].any()


@torch.no_grad()
def test_images_first_starts_with_time_layers_as_the_identity() -> None:
    torch.manual_seed(0)
    model, x = Transformer(TRUNK, images_first=True), normal(2, 5, 3, 16)
    alone, _ = model(x.flatten(0, 1)[:, None])  # each frame a video of its own
    torch.testing.assert_close(model(x)[0].flatten(0, 1), alone[:, 0], atol=1e-5, rtol=1e-5)
    assert (make_transformer()(x)[0].flatten(0, 1) - alone[:, 0]).abs().max() > 0.1


# --- initialisation -------------------------------------------------------------------------------------------------


def test_what_writes_to_the_residual_stream_starts_smaller_the_deeper() -> None:
    torch.manual_seed(0)
    for depth in (2, 8):
        model = Transformer(TransformerConfig(width=128, depth=depth, heads=4, kv_heads=4, mlp_width=256, pattern="ST"))
        for block in model.blocks:
            assert isinstance(block, Block)
            layer, mlp = block.attention, block.mlp
            for weight, fan_in in ((layer.qkv.weight, 128), (mlp.gate_up.weight, 128)):
                assert float(weight.detach().std()) == pytest.approx(fan_in**-0.5, rel=0.03)
            for weight, fan_in in ((layer.out.weight, 128), (mlp.out.weight, 256)):
                assert float(weight.detach().std()) == pytest.approx((fan_in * 2 * depth) ** -0.5, rel=0.03)


@torch.no_grad()
def test_tokens_come_in_at_unit_size() -> None:
    dynamics, seen = make_dynamics(), []
    dynamics.trunk.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    for size in (1.0, 100.0):
        first = torch.zeros(2, 3, dtype=torch.bool)
        dynamics(size * normal(2, 3, 2, 8), torch.zeros(2, 3), torch.ones(2, 3), make_actions(2, 3), first)
    for tokens in seen:
        torch.testing.assert_close(tokens.square().mean(dim=-1), torch.ones(2, 3, 6), atol=1e-3, rtol=0)


# --- cache ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def frame_by_frame(model: Transformer, x: Tensor, cache: RingCache, at_once: int = 1) -> Tensor:
    """All of `x` `[B, T, S, D]` through the cache, the first `at_once` frames in one call."""
    parts = x.split([at_once] + [1] * (x.shape[1] - at_once), dim=1)
    outputs = []
    for part in parts:
        outputs.append(model(part, cache=cache)[0])
        cache.commit(part.shape[1])
    return torch.cat(outputs, dim=1)


def make_cached(config: TransformerConfig, context: int) -> tuple[Transformer, RingCache]:
    return make_transformer(config), RingCache(config, rows=2, tokens=3, context=context)


@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize("soft_cap", [0.0, 1.5])
def test_cached_equals_uncached_inside_the_window(at_once: int, soft_cap: float) -> None:
    model, cache = make_cached(dataclasses.replace(TRUNK, soft_cap=soft_cap), context=6)
    x = normal(2, 6, 3, 16)
    with torch.no_grad():
        expected, _ = model(x)
    torch.testing.assert_close(frame_by_frame(model, x, cache, at_once), expected, atol=1e-5, rtol=1e-5)


def test_a_full_ring_holds_the_last_frames() -> None:
    model, cache = make_cached(ONE_TIME_LAYER, context=3)
    x = normal(2, 8, 3, 16)
    found = frame_by_frame(model, x, cache, at_once=2)
    for t in range(8):
        with torch.no_grad():
            window, _ = model(x[:, max(0, t - 2) : t + 1])
        torch.testing.assert_close(found[:, t], window[:, -1], atol=1e-5, rtol=1e-5)
    assert [ring.shape for ring in (*cache.k, *cache.v)] == 2 * [
        (2 * 3, 2, 3, 4)
    ]  # rows x tokens, key heads, context, head


@pytest.mark.parametrize("before", [2, 7])  # a ring half empty, and one that drops frames
def test_frames_in_progress_overwrite_one_another_until_one_is_kept(before: int) -> None:
    model, cache = make_cached(ONE_TIME_LAYER, context=3)
    _, untouched = make_cached(ONE_TIME_LAYER, context=3)
    x = normal(2, before + 3, 3, 16)
    frame_by_frame(model, x[:, :before], cache)
    frame_by_frame(model, x[:, :before], untouched)
    with torch.no_grad():
        for seed in (1, 2, 3):
            model(normal(2, 1, 3, 16, seed=seed), cache=cache)
    assert cache.frames == before
    expected = frame_by_frame(model, x[:, before:], untouched)
    torch.testing.assert_close(frame_by_frame(model, x[:, before:], cache), expected, atol=0, rtol=0)


def test_a_context_must_fit_its_cache() -> None:
    model, cache = make_cached(TRUNK, context=3)
    with pytest.raises(AssertionError, match="empty cache"):
        model(normal(2, 4, 3, 16), cache=cache)


@torch.no_grad()
def test_frames_of_one_pass_equal_those_of_several() -> None:
    x = normal(2, 9, 3, 16)
    model, cache = make_cached(TRUNK, context=4)
    expected = frame_by_frame(model, x, cache)
    model, cache = make_cached(TRUNK, context=4)
    parts = []
    for start, stop in ((0, 1), (1, 3), (3, 5), (5, 7), (7, 9)):  # from the third part on, each frame drops another
        parts.append(model(x[:, start:stop], cache=cache)[0])
        cache.commit(stop - start)
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, atol=1e-5, rtol=1e-5)


def test_selected_rows_go_on_with_their_own_history() -> None:
    model, cache = make_cached(TRUNK, context=6)
    x, more = normal(2, 3, 3, 16), normal(3, 2, 3, 16, seed=1)
    rows = torch.tensor([1, 0, 1])
    frame_by_frame(model, x, cache)
    found = frame_by_frame(model, more, cache.select(rows))
    with torch.no_grad():
        expected, _ = model(torch.cat((x[rows], more), dim=1))
    torch.testing.assert_close(found, expected[:, 3:], atol=1e-5, rtol=1e-5)
    # The chosen rows are copies: the others go on undisturbed.
    with torch.no_grad():
        expected, _ = model(torch.cat((x, more[:2]), dim=1))
    torch.testing.assert_close(frame_by_frame(model, more[:2], cache), expected[:, 3:], atol=1e-5, rtol=1e-5)


# --- distributions --------------------------------------------------------------------------------------------------


def test_symlog_by_hand() -> None:
    x = torch.tensor([-1e6, -1.0, 0.0, 1e-6, math.e - 1, 1e6])
    torch.testing.assert_close(symlog(x), torch.tensor([-13.815512, -math.log(2), 0.0, 1e-6, 1.0, 13.815512]))
    torch.testing.assert_close(symexp(symlog(x)), x, rtol=1e-5, atol=1e-12)


def test_two_hot_by_hand() -> None:
    # Bins at 0, 1 and 3, evenly spaced in symlog; the mean of the weights is the number.
    two_hot = TwoHot(0.0, 3.0, 3)
    torch.testing.assert_close(symexp(two_hot.bins), torch.tensor([0.0, 1.0, 3.0]))
    expected = torch.tensor([[1.0, 0, 0], [0.75, 0.25, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]])
    found = two_hot.encode(torch.tensor([0.0, 0.25, 1.0, 2.0, 3.0]))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    outside = two_hot.encode(torch.tensor([-5.0, 9.0]))
    torch.testing.assert_close(outside, torch.tensor([[1.0, 0, 0], [0, 0, 1]]))


OF_PRESETS = {
    (*span, agent.bins)
    for agent in (minigrid().agent, minecraft().agent)
    for span in (agent.reward_range, agent.value_range)
}


@pytest.mark.parametrize(("low", "high", "bins"), [*sorted(OF_PRESETS), (-2.0, 2.0, 11), (-1e6, 1e6, 255)])
def test_two_hot_gives_back_every_number_of_its_range(low: float, high: float, bins: int) -> None:
    two_hot = TwoHot(low, high, bins)
    sizes = torch.logspace(-6, 6, 121)
    x = torch.cat((-sizes.flip(0), torch.zeros(1), sizes))
    x = x[(x >= low) & (x <= high)]
    weights = two_hot.encode(x)
    assert ((weights > 0).sum(dim=-1) <= 2).all() and (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(len(x)))
    for decode in (two_hot.decode, two_hot.decode_peak):
        torch.testing.assert_close(decode(weights.log()), x, rtol=1e-4, atol=1e-6)


def test_a_little_mass_on_a_far_bin_moves_the_mean_but_not_the_peak() -> None:
    two_hot = TwoHot(-1e6, 1e6, 255)
    weights = 0.99 * two_hot.encode(torch.tensor([0.25, 100.0, 1e6])) + 0.01 / 255
    peak = two_hot.decode_peak(weights.log())
    torch.testing.assert_close(peak, torch.tensor([0.25, 100.0, 1e6]), rtol=2e-3, atol=2e-3)
    skewed = weights.clone()
    skewed[:, -1] += 0.01
    assert (two_hot.decode(skewed.log())[:2] > 9_000).all()
    torch.testing.assert_close(two_hot.decode_peak(skewed.log())[:2], peak[:2], rtol=1e-5, atol=1e-5)
    few = TwoHot(0.0, 15.0, 5)  # bins at 0, 1, 3, 7 and 15
    near = few.decode_peak(torch.tensor([[0.1, 0.1, 0.1, 0.5, 0.2], [0.6, 0.1, 0.2, 0.05, 0.05]]).log())
    torch.testing.assert_close(near, torch.tensor([(0.3 + 3.5 + 3) / 0.8, 0.1 / 0.7]))  # the peak and its neighbours


def test_two_hot_loss_is_cross_entropy() -> None:
    two_hot, x = TwoHot(-2.0, 2.0, 11), normal(4, 3)
    logits = normal(4, 3, 11, seed=1).requires_grad_()
    loss = two_hot.loss(logits, x)
    expected = F.cross_entropy(logits.flatten(0, 1), two_hot.encode(x).flatten(0, 1), reduction="none")
    torch.testing.assert_close(loss, expected.view(4, 3))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(gradient, logits.softmax(dim=-1) - two_hot.encode(x))


def test_a_two_hot_range_that_cannot_work_is_refused() -> None:
    for arguments in ((1.0, 1.0, 5), (0.0, 1.0, 1)):
        with pytest.raises(AssertionError, match="two-hot range"):
            TwoHot(*arguments)


@pytest.mark.parametrize("spec", [ACTIONS, minecraft().env.actions], ids=["two factors", "23 keys and a camera"])
def test_factored_categorical_equals_independent_categoricals(spec: ActionSpec) -> None:
    assert spec.sizes in ((3, 2), (2,) * 23 + (121,))
    logits, other = 2 * normal(6, 4, sum(spec.sizes)), normal(6, 4, sum(spec.sizes), seed=1)
    actions = torch.stack([torch.randint(0, n, (6, 4), generator=seeded(n + i)) for i, n in enumerate(spec.sizes)], -1)
    ours, theirs = FactoredCategorical(logits, spec), FactoredCategorical(other, spec)
    p = [torch.distributions.Categorical(logits=part) for part in logits.split(spec.sizes, dim=-1)]
    q = [torch.distributions.Categorical(logits=part) for part in other.split(spec.sizes, dim=-1)]
    log_prob = sum(part.log_prob(actions[..., a]) for a, part in enumerate(p))
    torch.testing.assert_close(ours.log_prob(actions), log_prob)
    torch.testing.assert_close(ours.entropy(), sum(part.entropy() for part in p))
    kl = sum(torch.distributions.kl_divergence(*parts) for parts in zip(p, q, strict=True))
    torch.testing.assert_close(ours.kl(theirs), kl)
    torch.testing.assert_close(ours.kl(ours), torch.zeros(6, 4))


def test_actions_are_sampled_as_often_as_they_are_likely() -> None:
    n = 20_000
    logits = torch.tensor([1.0, 0.0, -2.0, 0.5, -0.5]).expand(n, -1)
    policy = FactoredCategorical(logits, ACTIONS)
    actions = policy.sample(GeneratorNoise(seeded(0)))
    assert actions.shape == (n, 2) and actions.dtype == torch.int64
    first, second = (log_p[0].exp() for log_p in policy.log_probs)
    expected = first[:, None] * second  # factors are independent
    counts = torch.zeros(3, 2).index_put(tuple(actions.unbind(-1)), torch.ones(n), accumulate=True)
    deviation = (expected * (1 - expected) / n).sqrt()
    assert ((counts / n - expected).abs() < 4.5 * deviation).all()
    assert torch.equal(actions, policy.sample(GeneratorNoise(seeded(0)))) and not torch.equal(
        actions, policy.sample(GeneratorNoise(seeded(1)))
    )


def test_logits_that_do_not_fit_the_actions_are_refused() -> None:
    with pytest.raises(AssertionError, match="4 logits"):
        FactoredCategorical(torch.zeros(2, 4), ActionSpec((3, 2)))


# --- loss scale and optimiser ---------------------------------------------------------------------------------------


def test_running_rms_by_hand() -> None:
    rms, loss = RunningRms(decay=0.75), torch.tensor(2.0, requires_grad=True)
    scaled = rms(loss)
    scaled.backward()
    assert float(scaled.detach()) == pytest.approx(1.0) and loss.grad is not None
    assert float(loss.grad) == pytest.approx(0.5)  # the divisor carries no gradient
    mean_square = (0.75 * 0.25 * 4 + 0.25 * 16) / (1 - 0.75**2)
    assert float(rms(torch.tensor(4.0))) == pytest.approx(4 / math.sqrt(mean_square))
    rms.eval()
    assert float(rms(torch.tensor(6.0))) == float(rms(torch.tensor(6.0))) == pytest.approx(6 / math.sqrt(mean_square))
    rms = RunningRms()  # of decay 0.99
    rms(torch.tensor(2.0))
    assert float(rms(torch.tensor(4.0))) == pytest.approx(4 / math.sqrt((0.99 * 4 + 16) / 1.99))


@pytest.mark.parametrize("shape", [(24, 10), (10, 24), (16, 16)])
def test_orthogonalise_keeps_directions_and_levels_singular_values(shape: tuple[int, int]) -> None:
    u, _, vh = torch.linalg.svd(normal(*shape), full_matrices=False)
    sizes = torch.linspace(0.05, 3.0, min(shape))
    result, nothing = orthogonalise(torch.stack((u * sizes @ vh, torch.zeros(shape))))
    core = u.T @ result @ vh.T
    assert (core.diagonal() > 0.65).all() and (core.diagonal() < 1.25).all()
    torch.testing.assert_close(core, torch.diag(core.diagonal()), atol=1e-4, rtol=0)
    assert not nothing.any()


def test_muon_steps_by_hand() -> None:
    weight, idle = normal(6, 4).requires_grad_(), normal(3, 3).requires_grad_()
    start = weight.detach().clone()
    before = idle.detach().clone()
    optimizer = Muon([weight, idle], lr=0.5, momentum=0.9)
    assert Muon([weight], lr=0.5).defaults["momentum"] == 0.95
    first, second = normal(6, 4, seed=1), normal(6, 4, seed=2)
    for gradient in (first, second):
        weight.grad = gradient.clone()
        optimizer.step()
    size = 0.5 * 0.2 * math.sqrt(6)
    momentum = [0.1 * first, 0.09 * first + 0.1 * second]
    updates = orthogonalise(torch.stack([0.1 * g + 0.9 * m for g, m in zip((first, second), momentum, strict=True)]))
    torch.testing.assert_close(weight.detach(), start - size * (updates[0] + updates[1]), atol=1e-5, rtol=1e-5)
    assert torch.equal(idle.detach(), before)  # no gradient, no step
    rms = updates[0].square().mean().sqrt() * size / 0.5
    assert float(rms) == pytest.approx(0.2, rel=0.2)


def test_norms_stay_in_float32() -> None:
    norm, x = RMSNorm(4), torch.tensor([[3.0, 4.0, 0.0, 0.0]])
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = norm(x.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([[3 / 2.5, 2 * 4 / 2.5, 0.0, 0.0]]))


# --- gradients by hand ------------------------------------------------------------------------------------------------


def doubles(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64, requires_grad=True)


def test_gradients_by_hand_are_those_of_the_functions() -> None:
    cos, sin = (part.double() for part in rotary_angles(torch.arange(5), 4, base=100.0))
    x, weight = doubles(3, 5, 2, 4), doubles(4, seed=1)
    assert torch.autograd.gradcheck(lambda x, w: custom_backward.rms_norm(x, w, 0.1), (x, weight))
    assert torch.autograd.gradcheck(lambda x, w: custom_backward.rms_norm_and_rotate(x, w, 0.1, cos, sin), (x, weight))
    qkv = doubles(3, 5, 5, 4)  # some heads of a fused projection: not contiguous
    assert torch.autograd.gradcheck(
        lambda x, w: custom_backward.rms_norm_and_rotate(x.split((2, 3), dim=2)[1], w, 0.1, cos, sin), (qkv, weight)
    )
    assert torch.autograd.gradcheck(custom_backward.swiglu, (doubles(3, 5, 8),))


def test_functions_by_hand_are_the_plain_ones() -> None:
    cos, sin = (part.double() for part in rotary_angles(torch.arange(5), 4, base=100.0))
    x, weight = doubles(3, 5, 2, 4), doubles(4, seed=1)
    plain = F.rms_norm(x, (4,), weight, 0.1)
    torch.testing.assert_close(custom_backward.rms_norm(x, weight, 0.1), plain)
    turned = rotate(plain.transpose(1, 2), (cos, sin)).transpose(1, 2)
    torch.testing.assert_close(custom_backward.rms_norm_and_rotate(x, weight, 0.1, cos, sin), turned)
    gate, up = x.chunk(2, dim=-1)
    torch.testing.assert_close(custom_backward.swiglu(x), F.silu(gate) * up)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_trained_transformer_computes_what_a_used_one_does(precision: torch.dtype) -> None:
    model, x = make_transformer(), normal(2, 3, 5, 16)
    positions = torch.arange(5.0)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        trained, _ = model(x, first=2, positions=positions)
        with torch.no_grad():
            used, _ = model(x, first=2, positions=positions)
    assert trained.requires_grad and not used.requires_grad
    tolerance = 1e-5 if precision == torch.float32 else 0.05
    torch.testing.assert_close(trained.detach(), used, atol=tolerance, rtol=tolerance)


# --- blocks as they are trained ---------------------------------------------------------------------------------------


def gradients(model: Transformer, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    out, memory = model(x, first=2)
    second = run_second_stream(model.blocks, model.config, x[:, :, :1], memory)
    (out.square().sum() + second.square().sum()).backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def test_recomputed_blocks_have_the_same_gradients_and_keep_less() -> None:
    model, x = make_transformer(), normal(2, 3, 5, 16)
    expected, kept = gradients(model, x), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        model(x)
        before = sum(kept)
        kept.clear()
        for block in model.blocks:
            block.recompute = True
        model(x)
    assert sum(kept) < before / 4
    found = gradients(model, x)
    assert len(found) == len(expected) and all(map(torch.equal, found, expected))


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_blocks_have_the_same_gradients(recompute: bool) -> None:
    model = make_transformer()
    for frames in (3, 6):  # lengths alternate
        x = normal(2, frames, 5, 16)
        for block in model.blocks:
            block.compiled = block.recompute = False
        expected = gradients(model, x)
        for block in model.blocks:
            block.compiled, block.recompute = True, recompute
        for a, b in zip(gradients(model, x), expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
