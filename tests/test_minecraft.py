"""Minecraft's action spaces and camera bins, against the published numbers."""

import numpy as np
import pytest

from embody.games.minecraft.actions import VPT, ActionSpace, camera_bins, camera_degrees, minerl_space
from embody.games.minecraft.presets import minecraft
from embody.games.minecraft.tasks import MINERL_REWARDS, TASKS

CENTRES = np.array([0, 0.615, 1.609, 3.215, 5.809, 10])
EDGES = np.array([0.271, 1.053, 2.317, 4.358, 7.655])


def test_camera_bins_have_the_published_centres_and_edges() -> None:
    down = camera_degrees(np.arange(5, 11) * 11 + 5)
    np.testing.assert_allclose(down[:, 0], CENTRES, atol=6e-4)
    assert not down[:, 1].any()
    np.testing.assert_allclose(camera_degrees(5 * 11 + np.arange(5, -1, -1))[:, 1], -CENTRES, atol=6e-4)
    for number, edge in enumerate(EDGES):
        below, above = (camera_bins([0.0, -(edge + side)]) for side in (-1e-3, 1e-3))
        assert (int(below), int(above)) == (5 * 11 + 5 - number, 5 * 11 + 4 - number)
    assert camera_bins([[25.0, -180.0], [0.0, 0.0]]).tolist() == [10 * 11, 60]


@pytest.mark.parametrize(
    ("space", "factors"),
    [(VPT, 24), (minerl_space("MineRLTreechop-v0"), 9), (minerl_space("MineRLObtainDiamond-v0"), 14)],
)
def test_actions_make_the_round_trip_over_all_keys(space: ActionSpace, factors: int) -> None:
    sizes = space.spec.sizes
    assert len(sizes) == factors
    for place, size in enumerate(sizes):
        for value in range(size):
            action = space.nothing
            action[place] = value
            given = space.dictionary(action)
            assert set(given) == {*space.keys, *space.words, "camera"}
            np.testing.assert_array_equal(space.factors(given), action)
    stacked = {"camera": np.zeros((3, 2)), "jump": np.array([0, 1, 0])}
    assert space.factors(stacked)[:, space.keys.index("jump")].tolist() == [0, 1, 0]


def test_an_action_of_another_space_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown action 'hotbar.1': minerl044 has attack"):
        minerl_space("MineRLTreechop-v0").factors({"hotbar.1": 1})
    with pytest.raises(ValueError, match="place: unknown value 'bed', choose one of none, dirt"):
        minerl_space("MineRLNavigate-v0").factors({"place": "bed"})
    with pytest.raises(ValueError, match="jump must be 0 or 1, got 2"):
        VPT.factors({"jump": 2})
    with pytest.raises(ValueError, match="camera: all degrees must be finite"):
        VPT.factors({"camera": [0.0, float("nan")]})
    with pytest.raises(ValueError, match="unknown MineRL environment 'MineRLTreechop-v1': choose one of"):
        minerl_space("MineRLTreechop-v1")


def test_tasks_and_sizes_are_the_papers() -> None:
    assert len(TASKS) == len(set(TASKS)) == 20
    assert {task for task, _ in MINERL_REWARDS.values()} < set(TASKS)
    assert VPT.spec == minecraft().env.actions
