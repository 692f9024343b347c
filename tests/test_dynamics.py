"""Dynamics: what each frame may see, and shortcut forcing against its equations."""

import dataclasses
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from embody.config import DynamicsObjective
from embody.data.sampling.batch import Batch
from embody.dynamics import Dynamics, Prediction, ShortcutLoss
from embody.dynamics.shortcut import Levels, alternate_contexts, bootstrap_velocity, draw_levels, noise_to, ramp_weight
from embody.nn.noise import GeneratorNoise
from tests.tiny_models import ACTIONS, DYNAMICS, FLOW, make_actions, make_batch, make_dynamics, seeded

K_MAX = DYNAMICS.k_max


@dataclass(frozen=True)
class Call:
    """One pass that a dynamics was asked for, and its answer."""

    noised: Tensor
    tau: Tensor
    d: Tensor
    actions: Tensor
    is_first: Tensor
    labelled: Tensor
    clean: Tensor


def record(dynamics: Dynamics, monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """The passes that `dynamics` is asked for from now on."""
    calls: list[Call] = []
    forward = dynamics.forward

    def recorded(*arguments: Any) -> Prediction:
        prediction = forward(*arguments)
        calls.append(Call(*arguments, clean=prediction.clean))
        return prediction

    monkeypatch.setattr(dynamics, "forward", recorded)
    return calls


def variant(**changes: Any) -> DynamicsObjective:
    """All rows plain video with labels, but for `changes`."""
    plain: dict[str, Any] = {"bootstrap_fraction": 0.0, "image_fraction": 0.0, "unlabelled_fraction": 0.0}
    return dataclasses.replace(FLOW, **(plain | changes))


def unscaled(objective: DynamicsObjective) -> ShortcutLoss:
    """The loss with its running root mean square at 1."""
    losses = ShortcutLoss(objective).eval()
    losses.flow_rms.mean_square.fill_(1.0)
    losses.flow_rms.weight.fill_(1.0)
    return losses


def a_pass(rows: int = 2, length: int = 4) -> dict[str, Tensor]:
    """Arguments of one pass over latents of random signal levels at d_min."""
    tau = torch.randint(0, K_MAX, (rows, length), generator=seeded(3)) / K_MAX
    return {
        "noised": torch.randn(rows, length, 2, 8, generator=seeded(0)),
        "tau": tau,
        "d": torch.full((rows, length), 1 / K_MAX),
        "actions": make_actions(rows, length),
        "is_first": torch.zeros(rows, length, dtype=torch.bool),
    }


# --- the model ------------------------------------------------------------------------------------------------------


def test_no_frame_depends_on_a_later_one() -> None:
    dynamics, arguments = make_dynamics(), a_pass()
    arguments["noised"].requires_grad_()
    embedded: list[Tensor] = []
    dynamics.action.register_forward_hook(lambda _, __, output: embedded.append(output))
    clean = dynamics(**arguments).clean
    gradients = torch.autograd.grad(clean[0, 2].square().sum(), (arguments["noised"], embedded[0]))
    for gradient in gradients:
        assert gradient[0, :3].flatten(1).abs().sum(dim=1).min() > 0
        assert not gradient[0, 3:].any() and not gradient[1].any()


@torch.no_grad()
def test_prediction_depends_on_action_signal_level_and_step() -> None:
    dynamics, arguments = make_dynamics(), a_pass()
    clean = dynamics(**arguments).clean
    for name, value in (
        ("actions", (arguments["actions"] + 1) % torch.tensor(ACTIONS.sizes)),
        ("tau", (arguments["tau"] + 1 / K_MAX) % 1),
        ("d", 2 * arguments["d"]),
        ("is_first", ~arguments["is_first"]),
    ):
        assert ((dynamics(**{**arguments, name: value}).clean - clean).abs().amax(dim=(2, 3)) > 1e-4).all(), name


def test_levels_are_looked_up_on_the_grid() -> None:
    dynamics, arguments = make_dynamics(), a_pass(1, 4)
    looked_up: dict[str, Tensor] = {}
    dynamics.tau.register_forward_hook(lambda _, inputs, __: looked_up.update(tau=inputs[0]))
    dynamics.step.register_forward_hook(lambda _, inputs, __: looked_up.update(d=inputs[0]))
    arguments["tau"] = torch.tensor([[0.0, 0.5, 0.875, 1.0]])
    arguments["d"] = torch.tensor([[1.0, 0.5, 0.25, 0.125]])
    dynamics(**arguments)
    assert looked_up["tau"].tolist() == [[0, 4, 7, 8]] and looked_up["d"].tolist() == [[0, 1, 2, 3]]
    assert len(dynamics.tau.weight) == K_MAX + 1 and len(dynamics.step.weight) == 4


@torch.no_grad()
def test_an_action_is_the_sum_of_its_factors_and_a_learned_embedding() -> None:
    embedding = make_dynamics().action
    table, always = embedding.table.weight, embedding.always_D
    actions = torch.tensor([[[2, 1], [0, 0], [1, 0]], [[2, 1], [0, 0], [1, 0]]])
    is_first = torch.tensor([[False, False, True]] * 2)
    found = embedding(actions, is_first, torch.tensor([True, False]))
    labelled = torch.stack((always + table[2] + table[4], always + table[0] + table[3], always + table[5]))
    torch.testing.assert_close(found, torch.stack((labelled, always.expand(3, -1))))
    # "No action", "unlabelled" and every action are told apart.
    some_action = [always + table[a] + table[3 + b] for a in range(3) for b in range(2)]
    kinds = torch.stack([found[1, 0], found[0, 2], *some_action])
    assert (torch.cdist(kinds, kinds) + torch.eye(8)).min() > 0.1


@torch.no_grad()
def test_first_timesteps_and_unlabelled_rows_do_not_read_the_action() -> None:
    dynamics, arguments = make_dynamics(), a_pass()
    arguments["is_first"][0, :] = True
    labelled = torch.tensor([True, False])
    clean = dynamics(**arguments, labelled=labelled).clean
    others = {**arguments, "actions": make_actions(2, 4, seed=1)}
    assert not torch.equal(others["actions"], arguments["actions"])
    assert torch.equal(dynamics(**others, labelled=labelled).clean, clean)
    first = {**arguments, "is_first": torch.ones(2, 4, dtype=torch.bool)}
    difference = dynamics(**first).clean[1] - clean[1]  # "no action" against "unlabelled", all else equal
    assert (difference.abs().amax(dim=(1, 2)) > 1e-4).all()


def test_context_level_lies_on_the_finest_grid() -> None:
    def level(**changes: Any) -> float:
        return Dynamics(dataclasses.replace(DYNAMICS, **changes), ACTIONS).context_level

    assert level(k_max=64) == 58 / 64  # 0.9 * 64 = 57.6
    assert level(k_max=8) == 7 / 8
    assert level(k_max=64, context_tau=0.5) == 0.5


@torch.no_grad()
def test_a_predicted_velocity_by_hand() -> None:
    """`z^ = z~ + (1 - tau) v`: the same network, read as a velocity."""
    arguments = a_pass()
    arguments["tau"][0, :2] = torch.tensor([0.0, 1.0])
    out = make_dynamics()(**arguments).clean.double()  # what the network puts out
    z, tau = arguments["noised"].double(), arguments["tau"].double()[..., None, None]
    clean = make_dynamics(dataclasses.replace(DYNAMICS, predict="v"))(**arguments).clean
    assert out[0, 1].abs().min() > 1e-4
    assert torch.equal(clean[0, 1], arguments["noised"][0, 1])  # nothing is left to go at tau = 1
    torch.testing.assert_close(clean.double(), z + (1 - tau) * out, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_flow_head_is_in_float32_in_a_bf16_step() -> None:
    dynamics, arguments = make_dynamics(), a_pass()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        clean = dynamics(**arguments).clean
    assert clean.dtype == torch.float32
    torch.testing.assert_close(clean, dynamics(**arguments).clean, atol=0.1, rtol=0.1)
    assert not torch.equal(clean.bfloat16().float(), clean)


@torch.no_grad()
def test_cached_equals_uncached() -> None:
    dynamics, arguments = make_dynamics(), a_pass(length=5)
    arguments["is_first"][:, 0] = True
    whole = dynamics(**arguments)
    cache = dynamics.new_cache(2)
    for t in range(5):
        part = dynamics(**{name: value[:, t : t + 1] for name, value in arguments.items()}, cache=cache)
        cache.commit()
        torch.testing.assert_close(part.clean[:, 0], whole.clean[:, t], atol=1e-5, rtol=1e-5)
        for x, all_x in zip(part.memory.inputs, whole.memory.inputs, strict=True):
            torch.testing.assert_close(x[:, 0], all_x[:, t], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("pattern", ["STST", "SSST", "STSS", "TS"])
def test_what_only_leads_to_a_prediction_is_left_out(pattern: str) -> None:
    trunk = dataclasses.replace(DYNAMICS.trunk, pattern=pattern)
    dynamics, arguments = make_dynamics(dataclasses.replace(DYNAMICS, trunk=trunk)), a_pass(length=5)
    arguments["is_first"][:, 0] = True
    whole = dynamics(**arguments)
    ran: list[nn.Module] = []
    for block in dynamics.trunk.blocks:
        block.mlp.register_forward_hook(lambda module, *_: ran.append(module))
    remembered = dynamics(**arguments, memory_only=True)
    assert [block.mlp for block in dynamics.trunk.blocks][: trunk.layers.rindex("S")] == ran
    assert remembered.clean.numel() == 0
    caches = dynamics.new_cache(2), dynamics.new_cache(2)
    for t in range(5):
        timestep = {name: value[:, t : t + 1] for name, value in arguments.items()}
        parts = [
            dynamics(**timestep, cache=cache, memory_only=only)
            for cache, only in zip(caches, (False, True), strict=True)
        ]
        for cache in caches:
            cache.commit()
        for x, all_x in zip(parts[1].memory.inputs, parts[0].memory.inputs, strict=True):
            assert torch.equal(x, all_x)
    for x, all_x in zip(remembered.memory.inputs, whole.memory.inputs, strict=True):
        assert torch.equal(x, all_x)


# --- levels and noise -----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_noise_to_goes_from_noise_to_the_clean_latent() -> None:
    z, noise = torch.randn(1, 3, 2, 8, generator=seeded(0)), torch.randn(1, 3, 2, 8, generator=seeded(1))
    noised = noise_to(torch.tensor([[0.0, 0.25, 1.0]]), z, noise)
    torch.testing.assert_close(noised, torch.stack((noise[0, 0], 0.75 * noise[0, 1] + 0.25 * z[0, 1], z[0, 2]))[None])


def test_ramp_weight_by_hand() -> None:
    torch.testing.assert_close(ramp_weight(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([0.1, 0.55, 1.0]))


def test_fine_levels_lie_on_the_finest_grid() -> None:
    levels = draw_levels(2000, 4, 64, False, GeneratorNoise(seeded(0)))
    assert (levels.d == 1 / 64).all()
    counts = (levels.tau * 64).long().flatten().bincount(minlength=64)
    assert torch.equal(levels.tau, (levels.tau * 64).round() / 64)
    assert len(counts) == 64 and (counts / 8000 - 1 / 64).abs().max() < 5 * (1 / 64 / 8000) ** 0.5


def test_coarse_levels_lie_on_the_grid_of_their_step() -> None:
    levels = draw_levels(2000, 4, 64, True, GeneratorNoise(seeded(0)))
    steps, counts = levels.d.unique(return_counts=True)
    assert steps.tolist() == [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]
    assert (counts / 8000 - 1 / 6).abs().max() < 5 * (1 / 6 / 8000) ** 0.5
    assert torch.equal(levels.tau, (levels.tau / levels.d).round() * levels.d)
    assert (levels.tau <= 1 - levels.d).all() and (levels.tau >= 0).all()
    for d in steps:
        tau, counts = levels.tau[levels.d == d].unique(return_counts=True)
        assert torch.equal(tau, torch.arange(0, 1, float(d)))
        assert counts.min() > 0.4 * counts.sum() / len(counts)
    assert (levels.d[0] != levels.d[0, 0]).any() or (levels.d[1] != levels.d[1, 0]).any()  # drawn per frame


def test_uniform_steps_are_equally_frequent() -> None:
    levels = draw_levels(3000, 4, 64, True, GeneratorNoise(seeded(0)), finest=True)
    steps, counts = levels.d.unique(return_counts=True)
    assert steps.tolist() == [1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]
    assert (counts / 12000 - 1 / 7).abs().max() < 5 * (1 / 7 / 12000) ** 0.5
    for d in steps:
        tau, counts = levels.tau[levels.d == d].unique(return_counts=True)
        assert torch.equal(tau, torch.arange(0, 1, float(d)))
        assert (counts / counts.sum() - d).abs().max() < 5 * float(d / counts.sum()) ** 0.5
    assert ((levels.d != levels.d[:, :1]).any(dim=1)).float().mean() > 0.9  # drawn per frame


@pytest.mark.parametrize("step_draw", ["partial", "uniform"])
@pytest.mark.parametrize("bootstrap", [False, True])
def test_a_grid_of_one_step_can_be_trained(bootstrap: bool, step_draw: str) -> None:
    dynamics = make_dynamics(dataclasses.replace(DYNAMICS, k_max=1))
    objective = variant(bootstrap_fraction=0.5, step_draw=step_draw)
    _, metrics = ShortcutLoss(objective)(dynamics, make_batch(2, 3), GeneratorNoise(seeded(0)), bootstrap=bootstrap)
    assert metrics["flow"] > 0 and "bootstrap" not in metrics


# --- bootstrap ------------------------------------------------------------------------------------------------------


def test_bootstrap_target_by_separate_passes() -> None:
    dynamics, arguments = make_dynamics(), a_pass()
    tau = torch.tensor([[0.0, 0.25, 0.5, 0.75], [0.75, 0.5, 0.0, 0.25]])
    d = torch.full((2, 4), 2 / K_MAX)
    z, rest = arguments["noised"], (arguments["actions"], arguments["is_first"], torch.tensor([True, False]))

    def clean(z: Tensor, tau: Tensor) -> Tensor:
        with torch.no_grad():
            return dynamics(z.float(), tau, torch.full((2, 4), 1 / K_MAX), *rest).clean.double()

    start, level = z.double(), tau.double()[..., None, None]
    first = (clean(start, tau) - start) / (1 - level)
    between = start + first / K_MAX
    second = (clean(between, tau + 1 / K_MAX) - between) / (1 - level - 1 / K_MAX)
    target = bootstrap_velocity(dynamics, z, Levels(tau, d), *rest)
    assert not target.requires_grad
    torch.testing.assert_close(target.double(), (first + second) / 2, atol=2e-5, rtol=1e-4)


def test_bootstrap_averages_velocities_not_predictions() -> None:
    class World:
        config = dataclasses.replace(DYNAMICS, k_max=8)

        def __call__(self, z: Tensor, tau: Tensor, d: Tensor, *_: Tensor) -> SimpleNamespace:
            assert (d == 0.5).all()
            return SimpleNamespace(clean=torch.where((tau == 0)[..., None, None], 3.0, 7.0).expand_as(z))

    z = torch.full((1, 1, 2, 8), 2.0)
    levels = Levels(torch.zeros(1, 1), torch.ones(1, 1))
    none = torch.zeros(1, 1)
    # b' = 3 - 2 = 1; z' = 2.5; b'' = (7 - 2.5) / 0.5 = 9; their mean is 5. Averaged predictions would give 5 - 2 = 3.
    target = bootstrap_velocity(World(), z, levels, none, none, none)  # type: ignore[arg-type]
    torch.testing.assert_close(target, torch.full((1, 1, 2, 8), 5.0))


def test_contexts_held_for_a_rollout() -> None:
    drawn = draw_levels(40, 5, 8, True, GeneratorNoise(seeded(0)))
    held = alternate_contexts(drawn, 0.875, 1 / 8)
    assert (held.tau[:, ::2] == 0.875).all() and (held.d[:, ::2] == 1 / 8).all()
    assert torch.equal(held.tau[:, 1::2], drawn.tau[:, 1::2]) and torch.equal(held.d[:, 1::2], drawn.d[:, 1::2])


def test_bootstrap_beside_held_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held frames keep their level and content in both half steps, and count as flow, not as bootstrap."""
    objective = variant(bootstrap_fraction=1.0, contexts="alternate", ramp=False)
    dynamics, batch = make_dynamics(), make_batch(3, 4)
    calls = record(dynamics, monkeypatch)
    _, metrics = unscaled(objective)(dynamics, batch, GeneratorNoise(seeded(0)), bootstrap=True)
    main, first, second = calls
    held = main.d == 1 / K_MAX
    assert held.sum() == 6 and (main.tau[held] == dynamics.context_level).all()
    for half in (first, second):
        assert torch.equal(half.noised[held], main.noised[held]) and torch.equal(half.tau[held], main.tau[held])
        assert (half.d[held] == 1 / K_MAX).all() and (half.d[~held] == main.d[~held] / 2).all()
    flow = (main.clean - dynamics.pack(batch.latents)).square().mean(dim=(2, 3))
    torch.testing.assert_close(metrics["flow"], flow[held & batch.mask].mean().detach())

    def velocity(call: Call) -> Tensor:
        return (call.clean.detach() - call.noised) / (1 - call.tau)[..., None, None]

    error = (velocity(main) - (velocity(first) + velocity(second)) / 2).square().mean(dim=(2, 3))
    stepped = ~held & batch.mask
    expected = ((1 - main.tau).square() * error)[stepped].mean()
    torch.testing.assert_close(metrics["bootstrap"], expected, atol=1e-6, rtol=1e-4)


def test_contexts_are_held_in_videos_but_not_in_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are first frames: those at the context level alone would never be learnt from noise."""
    dynamics, objective = make_dynamics(), variant(image_fraction=0.5, bootstrap_fraction=0.0, contexts="alternate")
    calls = record(dynamics, monkeypatch)
    unscaled(objective)(dynamics, make_batch(4, 6), GeneratorNoise(seeded(0)), bootstrap=False)
    images, videos = calls
    assert images.tau.shape == (12, 1) and videos.tau.shape == (2, 6)
    assert (videos.tau[:, ::2] == dynamics.context_level).all()
    assert len(images.tau.view(2, 6)[:, ::2].unique()) > 1


def test_a_tau_power_draws_low_levels_more_often() -> None:
    tau = draw_levels(4000, 4, 64, False, GeneratorNoise(seeded(0)), power=2.0).tau
    assert torch.equal(tau, (tau * 64).floor() / 64)
    assert (tau < 0.25).float().mean() == pytest.approx(0.5, abs=0.02)  # u^2 < 1/4


@pytest.mark.parametrize(("draw", "share"), [("partial", 0.0), ("partial", 1.0), ("uniform", 0.0)])
def test_the_loss_draws_its_levels_by_the_tau_power(draw: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    dynamics = make_dynamics()
    objective = variant(step_draw=draw, bootstrap_fraction=share, tau_power=1e9)  # u^p is 0
    calls = record(dynamics, monkeypatch)
    ShortcutLoss(objective)(
        dynamics, make_batch(4, 4), GeneratorNoise(seeded(0)), bootstrap=draw == "uniform" or share > 0
    )
    assert (calls[0].tau == 0).all()


def test_bootstrap_rows_of_the_loss_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    dynamics, batch = make_dynamics(), make_batch(3, 4)
    batch.mask[1, 2:] = False
    calls = record(dynamics, monkeypatch)
    loss, metrics = unscaled(variant(bootstrap_fraction=1.0))(
        dynamics, batch, GeneratorNoise(seeded(0)), bootstrap=True
    )
    main, first, second = calls
    assert main.clean.requires_grad and not first.clean.requires_grad and not second.clean.requires_grad
    assert (main.d >= 2 / K_MAX).all() and len(main.d.unique()) > 1
    torch.testing.assert_close((first.noised, first.tau, first.d), (main.noised, main.tau, main.d / 2))
    torch.testing.assert_close((second.tau, second.d), (main.tau + main.d / 2, main.d / 2))

    def velocity(call: Call) -> Tensor:
        return (call.clean.detach().double() - call.noised.double()) / (1 - call.tau.double())[..., None, None]

    step = first.noised.double() + velocity(first) * main.d[..., None, None] / 2
    torch.testing.assert_close(second.noised.double(), step, atol=1e-5, rtol=1e-5)
    error = (velocity(main) - (velocity(first) + velocity(second)) / 2).square().mean(dim=(2, 3))
    tau = main.tau.double()
    frames = (0.9 * tau + 0.1) * (1 - tau).square() * error
    expected = float(frames[batch.mask].mean())
    assert float(metrics["bootstrap"]) == pytest.approx(expected, rel=1e-4)
    assert float(metrics["flow"]) == 0.0 and loss.item() == pytest.approx(expected, rel=1e-4)


def test_bootstrap_takes_the_rows_that_images_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    dynamics, objective = make_dynamics(), variant(image_fraction=0.75, bootstrap_fraction=0.5)
    calls = record(dynamics, monkeypatch)
    ShortcutLoss(objective)(dynamics, make_batch(4, 3), GeneratorNoise(seeded(0)), bootstrap=True)
    assert [len(call.noised) for call in calls] == [9, 1, 1, 1]  # images apart, the video, its two half steps


def test_images_come_first_then_bootstrap_rows_with_their_own_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = variant(image_fraction=0.5, bootstrap_fraction=0.25, unlabelled_fraction=0.5)
    dynamics, batch = make_dynamics(), make_batch(4, 3)
    batch.is_first[2, 0] = True
    calls = record(dynamics, monkeypatch)
    unscaled(objective)(dynamics, batch, GeneratorNoise(seeded(1)), bootstrap=True)
    single, video, *teacher = calls
    assert len(single.noised) == 6 and len(video.noised) == 2
    assert (video.d[0] > 1 / K_MAX).all() and (video.d[1] == 1 / K_MAX).all()
    for call in (video, *teacher):
        assert torch.equal(call.actions[:1], batch.actions[2:3]) and torch.equal(call.is_first[:1], batch.is_first[2:3])
        assert torch.equal(call.labelled[:1], video.labelled[:1])
    assert torch.equal(teacher[0].noised, video.noised[:1])
    assert single.labelled[0] != video.labelled[0]  # this draw tells rows 0 and 2 apart


def test_both_terms_weigh_as_many_rows_as_they_have() -> None:
    dynamics, batch, objective = make_dynamics(), make_batch(4, 3), variant(bootstrap_fraction=0.25)
    loss, metrics = unscaled(objective)(dynamics, batch, GeneratorNoise(seeded(0)), bootstrap=True)
    assert loss.item() == pytest.approx(0.75 * float(metrics["flow"]) + 0.25 * float(metrics["bootstrap"]))
    _, without = unscaled(objective)(dynamics, batch, GeneratorNoise(seeded(0)), bootstrap=False)
    assert "bootstrap" not in without


def test_uniform_draw_of_the_loss_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row has steps of its own, images too; each frame weighs the same, whichever term it has."""
    objective = variant(step_draw="uniform", image_fraction=0.25)
    dynamics, batch = make_dynamics(), make_batch(8, 6)
    batch.mask[1, 2:] = False
    batch.mask[5, 3:] = False
    calls = record(dynamics, monkeypatch)
    loss, metrics = unscaled(objective)(dynamics, batch, GeneratorNoise(seeded(0)), bootstrap=True)
    # Images, video; then the teacher's two half steps of the images, and those of the video.
    single, video, *halves = calls
    assert len(halves) == 4 and single.noised.shape[:2] == (12, 1) and video.noised.shape[:2] == (6, 6)
    assert batch.latents is not None
    z = batch.latents.reshape(8, 6, 2, 8).double()
    errors, weights, stepped = [], [], []
    for main, first, second, clean, mask in (
        (single, halves[0], halves[1], z[:2].reshape(12, 1, 2, 8), batch.mask[:2].reshape(12, 1)),
        (video, halves[2], halves[3], z[2:], batch.mask[2:]),
    ):
        assert torch.equal(first.is_first, main.is_first) and torch.equal(first.actions, main.actions)
        coarse = main.d > 1 / K_MAX
        assert 0 < coarse.sum() < coarse.numel() and len(main.d.unique()) == 4
        tau, d = main.tau.double(), main.d.double()
        assert torch.equal(first.noised, main.noised) and torch.equal(first.d[coarse], main.d[coarse] / 2)

        def velocity(call: Call) -> Tensor:
            return (call.clean.detach().double() - call.noised.double()) / (1 - call.tau.double())[..., None, None]

        step = main.noised.double() + velocity(first) * d[..., None, None] / 2
        torch.testing.assert_close(second.noised.double()[coarse], step[coarse], atol=1e-5, rtol=1e-5)
        target = (velocity(first) + velocity(second)) / 2
        bootstrap = (1 - tau).square() * (velocity(main) - target).square().mean(dim=(2, 3))
        flow = (main.clean.detach().double() - clean).square().mean(dim=(2, 3))
        errors.append(torch.where(coarse, bootstrap, flow)[mask])
        weights.append((0.9 * tau + 0.1)[mask])
        stepped.append(coarse[mask])
    error, weight, coarse = torch.cat(errors), torch.cat(weights), torch.cat(stepped)
    assert float(metrics["flow"]) == pytest.approx(float((weight * error)[~coarse].mean()), rel=1e-4)
    assert float(metrics["bootstrap"]) == pytest.approx(float((weight * error)[coarse].mean()), rel=1e-4)
    assert loss.item() == pytest.approx(float((weight * error).mean()), rel=1e-4)


def test_uniform_draw_waits_for_the_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    dynamics = make_dynamics()
    calls = record(dynamics, monkeypatch)
    ShortcutLoss(variant(step_draw="uniform"))(dynamics, make_batch(3, 4), GeneratorNoise(seeded(0)), bootstrap=False)
    (call,) = calls
    assert (call.d == 1 / K_MAX).all()


# --- the whole loss -------------------------------------------------------------------------------------------------


def test_flow_loss_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    dynamics, batch = make_dynamics(), make_batch(3, 4)
    batch.mask[1, 2:] = False
    calls = record(dynamics, monkeypatch)
    loss, metrics = unscaled(variant(bootstrap_fraction=1.0))(
        dynamics, batch, GeneratorNoise(seeded(0)), bootstrap=False
    )
    (call,) = calls
    assert (call.d == 1 / K_MAX).all() and call.labelled.all()
    assert torch.equal(call.actions, batch.actions) and torch.equal(call.is_first, batch.is_first)
    assert batch.latents is not None
    z, tau = batch.latents.reshape(3, 4, 2, 8).double(), call.tau.double()
    error = (call.clean.detach().double() - z).square().mean(dim=(2, 3))
    expected = float(((0.9 * tau + 0.1) * error)[batch.mask].mean())
    assert float(metrics["flow"]) == pytest.approx(expected, rel=1e-5)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    noise = (call.noised.double() - tau[..., None, None] * z) / (1 - tau)[..., None, None]
    assert abs(float(noise.mean())) < 0.25 and float(noise.std()) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("predict", ["x", "v"])
def test_losses_in_v_space_by_hand(predict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both terms are squared errors of velocities, in float64; an x-prediction at tau -> 1 then weighs most."""
    objective = variant(loss_space="v", ramp=False, bootstrap_fraction=0.5)
    dynamics, batch = make_dynamics(dataclasses.replace(DYNAMICS, predict=predict)), make_batch(4, 4)
    calls = record(dynamics, monkeypatch)
    draws: list[Tensor] = []
    randn = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *a, **k: draws.append(randn(*a, **k)) or draws[-1])
    _, metrics = unscaled(objective)(dynamics, batch, GeneratorNoise(seeded(0)), bootstrap=True)
    main, first, second = calls
    (noise,) = draws
    assert batch.latents is not None
    z, tau = batch.latents.reshape(4, 4, 2, 8).double(), main.tau.double()[..., None, None]

    def velocity(call: Call) -> Tensor:
        return (call.clean.detach().double() - call.noised.double()) / (1 - call.tau.double())[..., None, None]

    torch.testing.assert_close(main.noised.double(), (1 - tau) * noise.double() + tau * z, atol=1e-6, rtol=1e-6)
    flow = (velocity(main) - (z - noise.double())).square().mean(dim=(2, 3))[2:]
    assert float(metrics["flow"]) == pytest.approx(float(flow.mean()), rel=1e-4)
    target = (velocity(first) + velocity(second)) / 2
    bootstrap = (velocity(main)[:2] - target).square().mean()
    assert float(metrics["bootstrap"]) == pytest.approx(float(bootstrap), rel=1e-4)


def test_both_terms_are_divided_by_the_running_root_mean_square_of_the_flow_term() -> None:
    dynamics, batch = make_dynamics(), make_batch(4, 3)
    losses = ShortcutLoss(variant(bootstrap_fraction=0.5))
    loss, metrics = losses(dynamics, batch, GeneratorNoise(seeded(0)), bootstrap=True)
    assert loss.item() == pytest.approx(0.5 + 0.5 * float(metrics["bootstrap"] / metrics["flow"]), rel=1e-5)
    losses.flow_rms.mean_square.fill_(4.0)
    losses.flow_rms.weight.fill_(1.0)
    loss, metrics = losses.eval()(dynamics, batch, GeneratorNoise(seeded(0)), bootstrap=True)
    assert loss.item() == pytest.approx(float(metrics["flow"]) / 4 + float(metrics["bootstrap"]) / 4)


def test_batches_without_a_flow_term_leave_its_size_alone() -> None:
    """All rows bootstrap: a flow term of 0 is none, and must not become what the other term is divided by."""
    dynamics, batch, losses = make_dynamics(), make_batch(4, 3), ShortcutLoss(variant(bootstrap_fraction=1.0))
    for seed in range(3):  # from the first step on
        loss, metrics = losses(dynamics, batch, GeneratorNoise(seeded(seed)), bootstrap=True)
        assert float(metrics["flow"]) == 0 and loss.item() == pytest.approx(float(metrics["bootstrap"]), rel=1e-6)
    flows = [losses(dynamics, batch, GeneratorNoise(seeded(seed)), bootstrap=False)[1]["flow"] for seed in range(2)]
    size = float((0.99 * flows[0].square() + flows[1].square()).div(1.99).sqrt())
    for seed in range(3):  # and after steps that had one
        loss, metrics = losses(dynamics, batch, GeneratorNoise(seeded(seed)), bootstrap=True)
        assert loss.item() == pytest.approx(float(metrics["bootstrap"]) / size, rel=1e-5)
    # Padding is no flow either.
    losses.objective = variant(bootstrap_fraction=1.0, contexts="alternate")
    batch.mask[:, ::2] = False
    loss, metrics = losses(dynamics, batch, GeneratorNoise(seeded(0)), bootstrap=True)
    assert float(metrics["flow"]) == 0 and loss.item() == pytest.approx(float(metrics["bootstrap"]) / size, rel=1e-5)


@pytest.mark.parametrize("bootstrap", [False, True])
def test_padding_contributes_no_gradient(bootstrap: bool) -> None:
    dynamics, objective = make_dynamics(), variant(bootstrap_fraction=0.5, image_fraction=0.25)
    batch = make_batch(4, 4)
    assert batch.latents is not None
    batch.latents.requires_grad_()
    batch.mask[:, 2:] = False
    loss, metrics = unscaled(objective)(dynamics, batch, GeneratorNoise(seeded(0)), bootstrap=bootstrap)
    (gradient,) = torch.autograd.grad(loss, batch.latents)
    assert not gradient[:, 2:].any()
    assert gradient[:, :2].flatten(1).any(dim=0).all()
    others = dataclasses.replace(batch, latents=batch.latents.detach().clone(), actions=batch.actions.clone())
    assert others.latents is not None
    others.latents[:, 2:] += 1
    others.actions[:, 2:] = 0
    _, same = unscaled(objective)(dynamics, others, GeneratorNoise(seeded(0)), bootstrap=bootstrap)
    torch.testing.assert_close(same, metrics, atol=0, rtol=0)


def only_one_frame_counts(batch: Batch, row: int, timestep: int) -> Batch:
    mask = torch.zeros_like(batch.mask)
    mask[row, timestep] = True
    return dataclasses.replace(batch, mask=mask)


@pytest.mark.parametrize("images", [True, False])
def test_separate_images_see_no_other_frame_and_no_action(images: bool) -> None:
    dynamics = make_dynamics()
    batch = only_one_frame_counts(make_batch(3, 4), row=1, timestep=2)
    assert batch.latents is not None
    batch.latents.requires_grad_()
    loss, _ = unscaled(variant(image_fraction=float(images)))(
        dynamics, batch, GeneratorNoise(seeded(0)), bootstrap=True
    )
    of_latents, of_actions = torch.autograd.grad(loss, (batch.latents, dynamics.action.table.weight))
    others = of_latents.flatten(2).abs().sum(dim=-1)
    own = float(others[1, 2])
    others[1, 2] = 0
    assert own > 0 and bool(others.any()) != images
    taken = of_actions.abs().sum(dim=-1) > 0
    assert taken.tolist() == [False] * 5 + [True] if images else taken[:5].any() and not taken[5]


@pytest.mark.parametrize("labelled", [True, False])
def test_unlabelled_rows_give_the_actions_no_gradient(labelled: bool) -> None:
    dynamics = make_dynamics()
    objective = variant(unlabelled_fraction=float(not labelled), bootstrap_fraction=0.5)
    loss, _ = ShortcutLoss(objective)(dynamics, make_batch(4, 4), GeneratorNoise(seeded(0)), bootstrap=True)
    loss.backward()
    assert dynamics.action.table.weight.grad is not None and dynamics.action.always_D.grad is not None
    assert bool(dynamics.action.table.weight.grad.any()) == labelled
    assert dynamics.action.always_D.grad.any()


def test_shares_of_rows_are_right_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = variant(image_fraction=0.3, bootstrap_fraction=0.25, unlabelled_fraction=0.2)
    dynamics, batch = make_dynamics(), make_batch(5, 2)
    calls = record(dynamics, monkeypatch)
    images, coarse, unlabelled, draws = 0, 0, 0, 60
    for seed in range(draws):
        calls.clear()
        ShortcutLoss(objective)(dynamics, batch, GeneratorNoise(seeded(seed)), bootstrap=True)
        single, video = calls[:2]
        assert single.noised.shape[1] == 1 and (single.d == 1 / K_MAX).all() and single.is_first.all()
        assert torch.equal(single.labelled[0::2], single.labelled[1::2])
        images += len(single.noised) // 2
        coarse += int((video.d > 1 / K_MAX).all(dim=1).sum())
        unlabelled += int((~single.labelled).sum()) // 2 + int((~video.labelled).sum())
        assert len(single.noised) // 2 + len(video.noised) == 5
    assert images / draws == pytest.approx(1.5, abs=0.25)
    assert coarse / draws == pytest.approx(1.25, abs=0.25)
    assert unlabelled / draws == pytest.approx(1.0, abs=0.4)
