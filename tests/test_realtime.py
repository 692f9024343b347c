"""Steps of one shape: what is cast, compiled or left for later gives what the plain dream gives, at one cost."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch._inductor.config as inductor
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from embody.config import AgentConfig
from embody.data.sampling.batch import Batch
from embody.imagination import Dream, DreamEnv
from embody.model import Precision, WorldAndAgent, for_inference
from embody.nn.cache import RingCache
from embody.nn.compiled import CudaGraphs
from embody.nn.noise import GeneratorNoise
from embody.nn.rope import rotary_angles, rotate
from embody.nn.transformer import Block, Memory
from embody.tokenizer import Tokenizer
from tests.tiny_models import (
    AGENT,
    DYNAMICS,
    TOKENIZER,
    make_agent,
    make_batch,
    make_dynamics,
    make_frames,
    make_tokenizer,
    seeded,
)

CONTEXT = 3
WINDOW = DYNAMICS.context
SHARED = dataclasses.replace(AGENT, own_weights=False)


def make_dream(model: WorldAndAgent, *, with_agent: bool = True, longest: int | None = None) -> Dream:
    return Dream(model if with_agent else model.dynamics, k_sample=2, noise=GeneratorNoise(seeded(5)), longest=longest)


def make_model() -> WorldAndAgent:
    return WorldAndAgent(make_dynamics(), make_agent()).eval()


def begin(dream: Dream, batch: Batch) -> Tensor:
    context = slice(0, CONTEXT)
    assert batch.latents is not None
    return dream.reset(batch.latents[:, context], batch.actions[:, context], batch.is_first[:, context], batch.task)


def dreamt(dream: Dream, batch: Batch) -> list[Tensor]:
    """Features of the context, then latents, features and rewards of the timesteps after it."""
    found = [begin(dream, batch)]
    for actions in batch.actions[:, CONTEXT:].unbind(dim=1):
        step = dream.step(actions)
        found += [step.latents, step.features, step.reward]
    return found


def test_cast_matrices_give_what_autocast_gives() -> None:
    model, batch = make_model(), make_batch(2, CONTEXT + 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = dreamt(make_dream(model), batch)
    cast = for_inference(model)
    found = dreamt(make_dream(cast), batch)
    # Autocast reaches what stands around the layers too: embeddings, heads and the input projection.
    for mine, its in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, its.float(), atol=0.05, rtol=0.05)
    exact = dreamt(make_dream(model), batch)
    assert 1e-4 < (found[-3] - exact[-3]).abs().max() < 0.05
    assert all(block.mlp.out.weight.dtype == torch.bfloat16 for block in cast.modules() if isinstance(block, Block))
    assert all(block.mlp.out.weight.dtype == torch.float32 for block in model.modules() if isinstance(block, Block))
    assert not any(p.requires_grad for p in cast.parameters())


def test_a_trunk_with_cast_matrices_equals_autocast_bit_for_bit() -> None:
    model, x = make_model().dynamics.trunk, torch.randn(2, 5, 6, 16, generator=seeded(0))
    cast = for_inference(model)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected, _ = model(x)
    assert torch.equal(cast(x)[0], expected)


@pytest.mark.parametrize("precision", ["int8", "float8"])
@pytest.mark.parametrize("config", [AGENT, SHARED])
def test_matrices_of_eight_bits_dream_nearly_the_same(precision: Precision, config: AgentConfig) -> None:
    model, batch = WorldAndAgent(make_dynamics(), make_agent(config)).eval(), make_batch(2, CONTEXT + 2)
    rounded = for_inference(model, precision=precision)
    weight = rounded.dynamics.trunk.blocks[0].mlp.out.weight  # type: ignore[union-attr]
    assert type(weight) is not torch.nn.Parameter and weight.dtype == torch.bfloat16
    exact, half, found = (
        dreamt(make_dream(each), batch)[-2] for each in (model, for_inference(model), rounded)
    )  # features of the last timestep
    error, error_half = (found - exact).abs().mean(), (half - exact).abs().mean()
    assert error_half < error < 0.2 * exact.abs().mean()


def test_eight_bits_without_torchao_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ValueError, match=r"precision int8 needs torchao: run `pip install -e \"\.\[quantise\]\"`"):
        for_inference(make_model(), precision="int8")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_rings_are_as_precise_as_the_layers(precision: str) -> None:
    model = make_model() if precision == "float32" else for_inference(make_model())
    dream = make_dream(model)
    begin(dream, make_batch(1, CONTEXT))
    for cache in (dream.world_cache, dream.agent_cache, make_tokenizer().decoder_cache(1)):
        assert cache is not None
    rings = [ring for cache in (dream.world_cache, dream.agent_cache) if cache for ring in (*cache.k, *cache.v)]
    assert len(rings) == 8 and {ring.dtype for ring in rings} == {getattr(torch, precision)}


def test_a_ring_of_the_longest_dream_changes_nothing() -> None:
    model, batch = make_model(), make_batch(2, WINDOW - 1)
    whole, short = make_dream(model), make_dream(model, longest=WINDOW - 1)
    for mine, its in zip(dreamt(short, batch), dreamt(whole, batch), strict=True):
        torch.testing.assert_close(mine, its, atol=1e-5, rtol=1e-5)
    assert whole.world_cache is not None and short.world_cache is not None
    assert (whole.world_cache.context, short.world_cache.context) == (WINDOW, WINDOW - 1)
    with pytest.raises(ValueError, match="a context of 3 frames does not fit the longest dream 2"):
        begin(make_dream(model, longest=2), batch)


@pytest.mark.parametrize("with_agent", [True, False])
def test_a_frame_left_for_later_is_kept_by_whatever_comes_next(with_agent: bool) -> None:
    model, batch = make_model(), make_batch(1, WINDOW + 5)
    actions = batch.actions[:, CONTEXT:].unbind(dim=1)
    plain, lazy = (make_dream(model, with_agent=with_agent) for _ in range(2))
    begin(plain, batch)
    begin(lazy, batch)
    steps = [plain.step(action) for action in actions[:4]]
    latents, before = zip(*(lazy.advance(action) for action in actions[:4]), strict=True)
    features = [*before[1:], lazy.flush()]
    assert before[0].numel() == 0 and lazy.flush().numel() == 0
    for step, mine, seen in zip(steps, latents, features, strict=True):
        torch.testing.assert_close(mine, step.latents, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(seen, step.features, atol=1e-5, rtol=1e-5)
    # A real frame, a step, and fewer rows each settle it first.
    assert batch.latents is not None
    comes_next: list[Callable[[Dream], Tensor]] = [
        lambda dream: dream.observe(batch.latents[:, 0], actions[0]),
        lambda dream: dream.step(actions[5]).latents,
        lambda dream: (dream.select(torch.tensor([0])), dream.step(actions[6]).latents)[1],
    ]
    for after in comes_next:
        expected = plain.step(actions[4]).latents
        torch.testing.assert_close(lazy.advance(actions[4])[0], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(after(lazy), after(plain), atol=1e-5, rtol=1e-5)


def test_a_dream_without_an_agent_is_played_in_k_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, passes = make_model(), []
    batch = make_batch(1, CONTEXT)
    model.dynamics.register_forward_pre_hook(lambda _, arguments: passes.append(arguments[0].shape[1]))
    environment = DreamEnv(make_tokenizer(), make_dream(model, with_agent=False), lambda seed: batch, horizon=3)
    environment.reset(seed=1)
    passes.clear()
    frames = [environment.step(np.array([1, 0])) for _ in range(3)]
    assert passes == [1, 1] + [2, 1] * 2
    assert [step[1:] for step in frames] == [(0.0, False, t == 2, {"continue": 1.0}) for t in range(3)]
    watched = DreamEnv(make_tokenizer(), make_dream(model), lambda seed: batch, horizon=3)
    watched.reset(seed=1)
    for step in frames:
        difference = watched.step(np.array([1, 0]))[0].astype(int) - step[0]
        assert np.abs(difference).max() <= 1  # rounding to a colour


def test_no_frame_of_the_dream_before_is_kept() -> None:
    model, batch = make_model(), make_batch(1, CONTEXT)
    used, fresh = (
        DreamEnv(make_tokenizer(), make_dream(model, with_agent=False), lambda seed: batch, horizon=3) for _ in range(2)
    )
    used.reset(seed=3)
    used.step(np.array([1, 0]))  # is read only with the next action
    for environment in (used, fresh):
        environment.reset(seed=1)
    for action in ([0, 1], [2, 0]):
        assert np.array_equal(used.step(np.array(action))[0], fresh.step(np.array(action))[0])


# --- one cost, however long ------------------------------------------------------------------------------------------


def flops(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return counter.get_total_flops()


def test_work_and_memory_a_frame_do_not_grow() -> None:
    model, batch = make_model(), make_batch(1, 10_000)
    dream = make_dream(model)
    begin(dream, batch)
    cache = dream.world_cache
    assert cache is not None
    addresses = [ring.data_ptr() for ring in (*cache.k, *cache.v)]
    counted = {}
    for t in range(CONTEXT, 10_000):
        if t in (10, 100, 1_000, 9_999):
            counted[t] = flops(lambda action=batch.actions[:, t]: dream.step(action))
        elif t < 12 or t > 9_990:
            dream.step(batch.actions[:, t])
        else:  # as if it had been dreamt
            cache.commit()
            assert dream.agent_cache is not None
            dream.agent_cache.commit()
    assert len(set(counted.values())) == 1 and counted[10] > 0
    assert dream.world_cache is cache and [ring.data_ptr() for ring in (*cache.k, *cache.v)] == addresses
    assert cache.frames == 10_000 and int(cache.position[0]) == 10_000


def test_rotation_depends_on_distance_alone_after_many_frames() -> None:
    q, k = torch.randn(2, 64, generator=seeded(0)).unbind()

    def product(at: int, before: int) -> Tensor:
        turned_q, turned_k = (
            rotate(x[None], rotary_angles(torch.tensor([place]), 64, 1e4)) for x, place in ((q, at), (k, at - before))
        )
        return (turned_q * turned_k).sum()

    for before in (1, 7, 191):
        torch.testing.assert_close(product(1_000_000, before), product(200, before), atol=1e-4, rtol=0)


def test_places_that_are_not_filled_are_not_seen() -> None:
    cache = RingCache(DYNAMICS.trunk, rows=1, tokens=1, context=4)
    k = torch.ones(1, 2, 1, 4)
    cache.fill(0, k, k)
    cache.commit()
    seen = []
    for _ in range(4):
        _, _, bias = cache.extend(0, k, k)
        seen.append(None if bias is None else bias.exp().tolist())
        cache.commit()
    assert seen == [[1, 1, 0, 0], [1, 1, 1, 0], None, None]


# --- compiled --------------------------------------------------------------------------------------------------------


@pytest.fixture
def as_before() -> Iterator[None]:
    """Nothing compiled, and no setting of the compiler, is left to the next test."""
    with inductor.patch(freezing=False):
        yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("as_before")
def test_each_model_is_compiled_apart_and_only_for_calls_with_a_history(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[Any] = []
    called: list[Any] = []

    def compile_nothing(function: Any, **settings: Any) -> Callable[..., Any]:
        handed.append(function)
        return lambda *inputs, **others: (called.append(function.__self__), function(*inputs, **others))[1]

    monkeypatch.setattr(torch, "compile", compile_nothing)
    one, other, tokenizer = (
        for_inference(model, precision="float32", compiled=True)
        for model in (make_model(), make_model(), make_tokenizer())
    )
    parts = [one.dynamics, one.agent, other.dynamics, other.agent, tokenizer.encoder, tokenizer.decoder]
    assert inductor.freezing and [function.__self__ for function in handed] == parts
    codes = [function.__code__ for function in handed] + [type(part).forward.__code__ for part in parts]
    assert len({id(code) for code in codes}) == 6 + 3  # each its own, none its class's
    batch = make_batch(2, CONTEXT + 3)
    found = dreamt(make_dream(other), batch)
    assert called[:2] == [other.dynamics, other.agent] and set(called) == {other.dynamics, other.agent}
    for mine, its in zip(found, dreamt(make_dream(make_model()), batch), strict=True):
        torch.testing.assert_close(mine, its, atol=1e-5, rtol=1e-5)
    called.clear()
    tokenizer.encode(make_frames(1, 2))  # a whole clip has no history
    assert not called


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is traced from now on; nothing is compiled."""
    traced, real = [], torch.compile

    def backend(graph: torch.fx.GraphModule, inputs: Any, **settings: Any) -> Callable[..., Any]:
        traced.append(graph)
        return graph.forward

    def trace_only(function: Any, *, options: dict[str, Any], **settings: Any) -> Callable[..., Any]:
        seen = {"guard_filter_fn": options["guard_filter_fn"]}
        return real(function, backend=backend, options=seen, **settings)

    monkeypatch.setattr(torch, "compile", trace_only)
    return traced


@pytest.mark.usefixtures("as_before")
def test_a_second_model_of_a_class_is_traced_anew(graphs: list[Any]) -> None:
    trunk = dataclasses.replace(DYNAMICS.trunk, depth=2, pattern="ST")
    dynamics, batch = make_dynamics(dataclasses.replace(DYNAMICS, trunk=trunk, context=4)), make_batch(1, CONTEXT)
    for models in (1, 2):
        dream = Dream(for_inference(dynamics, compiled=True), k_sample=1, noise=GeneratorNoise(seeded(5)))
        begin(dream, batch)
        dream.advance(batch.actions[:, 0])
        assert len(graphs) == 2 * models  # into an empty ring, and after it


@pytest.mark.usefixtures("as_before")
def test_a_history_read_anew_is_not_traced_anew(graphs: list[Any]) -> None:
    """However many frames came before it: asked for something else, a player must not stop to compile."""
    trunk = dataclasses.replace(DYNAMICS.trunk, depth=2, pattern="ST")
    world, batch = dataclasses.replace(DYNAMICS, trunk=trunk, context=4), make_batch(1, CONTEXT)
    model = WorldAndAgent(make_dynamics(world), make_agent(trunk=trunk))
    model, traced = for_inference(model, compiled=True), []
    for frames_before in (0, 1, 7, 30):
        dream = make_dream(model)
        assert batch.latents is not None
        past = batch.latents, batch.actions, batch.is_first
        dream.reset(*past, batch.task, frames_before=frames_before)
        traced.append(len(graphs))
    assert traced == [2, 2, 2, 2]


def shown(tokenizer: Tokenizer, frames: Tensor) -> list[Tensor]:
    """Latents and pixels, frame by frame."""
    encoder, decoder, found = tokenizer.encoder_cache(1), tokenizer.decoder_cache(1), []
    with torch.no_grad():
        for frame in frames.split(1, dim=1):
            latents = tokenizer.encode(frame, cache=encoder)
            found += [latents, tokenizer.decode(latents, cache=decoder)]
    return found


@pytest.mark.usefixtures("as_before")
@pytest.mark.slow  # minutes of compiling
def test_a_compiled_dream_equals_a_plain_one() -> None:
    trunk = dataclasses.replace(DYNAMICS.trunk, depth=2)
    models = [make_dynamics(dataclasses.replace(DYNAMICS, trunk=trunk, context=6)).eval() for _ in range(2)]
    with torch.no_grad():
        for parameter in models[1].parameters():
            parameter.copy_(parameter.flip(0))  # other weights of the same size
    compiled = [for_inference(model, precision="float32", compiled=True) for model in models]
    batch, ends = make_batch(2, CONTEXT + 6), []  # past the window: the mask goes
    for model, fast_model in zip(models, compiled, strict=True):
        for dream_length in (6, 2):  # the second dream has the steps of the first
            plain, fast = (Dream(world, k_sample=2, noise=GeneratorNoise(seeded(5))) for world in (model, fast_model))
            begin(plain, batch)
            begin(fast, batch)
            for actions in batch.actions[:, CONTEXT : CONTEXT + dream_length].unbind(dim=1):
                expected = plain.advance(actions)[0]
                torch.testing.assert_close(fast.advance(actions)[0], expected, atol=1e-5, rtol=1e-4)
        ends.append(expected)
    assert (ends[0] - ends[1]).abs().max() > 0.1
    # The two halves of a tokenizer are of one class and, with as many latents as patches, of one shape.
    tokenizer, frames = make_tokenizer(dataclasses.replace(TOKENIZER, latents=6)), make_frames(1, 4)
    found = shown(for_inference(tokenizer, precision="float32", compiled=True), frames)
    for mine, its in zip(found, shown(tokenizer, frames), strict=True):
        torch.testing.assert_close(mine, its, atol=1e-5, rtol=1e-4)


# --- captured, on a GPU that is not there ----------------------------------------------------------------------------


class FakeGraph:
    """Does again, on the tensors of then, what was done while it was recorded."""

    recording: ClassVar[list["FakeGraph"]] = []

    def __init__(self) -> None:
        self.work: list[Callable[[], object]] = []

    def replay(self) -> None:
        for work in self.work:
            work()


@contextlib.contextmanager
def fake_recording(graph: FakeGraph) -> Iterator[None]:
    FakeGraph.recording.append(graph)
    yield
    FakeGraph.recording.clear()


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", fake_recording)


@pytest.mark.usefixtures("no_gpu")
def test_a_captured_step_computes_from_what_it_is_given() -> None:
    ran: list[tuple[int, ...]] = []

    def step(x: Tensor, memory: Memory, *, cache: RingCache, more: Tensor) -> Tensor:
        out = torch.empty_like(x)

        def work() -> None:
            out.copy_(x + 10 * memory.inputs[0] + 100 * more + 1000 * cache.position[0])

        work()
        ran.append(tuple(x.shape))
        for graph in FakeGraph.recording:
            graph.work.append(work)
        return out

    captured = CudaGraphs(step)
    caches = [RingCache(DYNAMICS.trunk, rows=1, tokens=1, context=6) for _ in range(2)]
    outs = []
    for turn, (cache, rows) in enumerate([(0, 2), (0, 2), (0, 1), (0, 2), (0, 2), (1, 2)]):
        if turn == 4:
            caches[0].commit()  # full now: what is recorded has a mask
        x, other, more = torch.randn(3, rows, generator=seeded(turn)).unbind()
        out = captured(x, Memory((other,)), cache=caches[cache], more=more)
        torch.testing.assert_close(out, x + 10 * other + 100 * more + 1000 * caches[cache].position[0])
        caches[cache].commit()
        outs.append(out)
    # Recorded: for two rows, for one, for a full ring, for another history.
    assert ran == [(2,)] * 4 + [(1,)] * 4 + [(2,)] * 8
    assert outs[0] is outs[1] is outs[3] is not outs[4]


def test_features_outlive_an_agent_that_writes_each_result_to_one_place() -> None:
    """As a captured one does."""
    batch, places = make_batch(2, CONTEXT + 4), dict[torch.Size, Tensor]()
    model, captured = make_model(), make_model()
    forward = captured.agent.forward

    def to_one_place(*inputs: Any, **others: Any) -> Tensor:
        features = forward(*inputs, **others)
        return places.setdefault(features.shape, torch.empty_like(features)).copy_(features)

    captured.agent.forward = to_one_place  # type: ignore[method-assign]
    plain, dream = make_dream(model), make_dream(captured)
    torch.testing.assert_close(begin(dream, batch), begin(plain, batch))
    actions = batch.actions[:, CONTEXT:]
    torch.testing.assert_close(dream.imagine(actions).features, plain.imagine(actions).features)
    assert len(places) == 2
