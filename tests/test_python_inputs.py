"""What users have from Python: taken where it is clear, else refused in one line that says what is wanted."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import embody
from embody.config import ActionSpec, Config, StageConfig
from embody.data import DatasetWriter, Episode, Meta, Video, open_dataset
from embody.data.sampling.batch import Batch
from embody.errors import UserError
from embody.games import make_env, preset
from embody.imagination import Dream, DreamEnv, Player
from embody.model import WorldAndAgent, load_tokenizer
from embody.nn.noise import GeneratorNoise
from embody.saving.tensors import save_tensors
from embody.trainer import Trainer
from embody.training.agent import AgentStage
from tests.tiny_models import (
    AGENT,
    CONFIG,
    SAMPLING,
    TASK,
    VOCABULARY,
    make_agent,
    make_batch,
    make_dataset,
    make_dynamics,
    make_tokenizer,
    seeded,
)


def refused(action: Callable[[], object], *wanted: str) -> None:
    """`action` ends with a `UserError` of one line, which contains the patterns `wanted`."""
    with pytest.raises(UserError) as raised:
        action()
    said = str(raised.value)
    assert "\n" not in said
    for pattern in wanted:
        assert re.search(pattern, said), said


# --- the writer -----------------------------------------------------------------------------------------------------

STEPS = 6
META = Meta(("walk",), ActionSpec((7, 3)), 12, 10, 5, ("<pad>", "<unknown>", "get", "the", "key"))


def fields(**changed: Any) -> dict[str, Any]:
    random = np.random.default_rng(0)
    actions = random.integers(0, (7, 3), (STEPS, 2))
    actions[0] = 0
    given = {
        "frames": random.integers(0, 256, (STEPS, 12, 10, 3), np.uint8),
        "actions": actions,
        "rewards": np.arange(STEPS, dtype=np.float32),
        "is_terminal": np.arange(STEPS) == STEPS - 1,
        "task": "walk",
        "label": "get the key",
        "source": "expert",
        "noise": 0.25,
        "seed": 3,
        "success": True,
    }
    return given | changed


@pytest.mark.parametrize(
    "convert",
    [
        lambda array: array.tolist(),
        torch.tensor,
        lambda array: array.astype(np.int64) if array.dtype != np.float32 else array.astype(np.float64),
        lambda array: array.astype(np.int16),
        lambda array: array.astype(">i4"),
        lambda array: list(array),
        lambda array: np.flip(np.flip(array, 0).copy(), 0),
        np.asfortranarray,
    ],
)
def test_an_episode_takes_arrays_of_any_form(convert: Callable[[np.ndarray], Any]) -> None:
    names = ("frames", "actions", "rewards", "is_terminal")
    plain = Episode(**fields())
    found = Episode(**fields(**{name: convert(fields()[name]) for name in names}))
    for name, dtype in zip(names, (np.uint8, np.int64, np.float32, np.bool_), strict=True):
        value = getattr(found, name)
        assert value.dtype == dtype and value.flags.c_contiguous
        np.testing.assert_array_equal(value, getattr(plain, name))


def test_an_episode_takes_scalars_of_other_types() -> None:
    found = Episode(**fields(seed=np.int32(3), noise=np.float32(0.25), success=np.bool_(True), labelled=1))
    for name, kind in (("seed", int), ("noise", float), ("success", bool), ("labelled", bool)):
        assert type(getattr(found, name)) is kind
    one_factor = Episode(**fields(actions=[0, 1, 2, 1, 0, 2]))
    np.testing.assert_array_equal(one_factor.actions, [[0], [1], [2], [1], [0], [2]])


FRAMES = fields()["frames"]


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"frames": FRAMES / 255}, r"frames must be uint8 \[T, H, W, 3\] from 0 to 255, got float64: multiply"),
        ({"frames": FRAMES[0]}, r"got \[12, 10, 3\]: for one frame give frames\[None\]"),
        ({"frames": FRAMES.transpose(0, 3, 1, 2)}, r"got \[6, 3, 12, 10\]: move the channels to the end"),
        ({"frames": np.zeros((6, 12, 10, 4), np.uint8)}, r"leave out the alpha channel"),
        ({"frames": np.zeros((6, 12, 10, 1), np.uint8)}, r"repeat the gray channel"),
        ({"frames": np.zeros((6, 12, 10), np.uint8)}, r"gray frames"),
        ({"frames": FRAMES > 9}, "frames must be uint8.* got bool"),
        ({"frames": FRAMES.astype(int) - 1}, "from 0 to 255, got int64 from -1 to"),
        ({"frames": FRAMES[:0]}, r"with T >= 1, got \[0, 12, 10, 3\]"),
        ({"frames": [[[1, 2], [3]]]}, "frames cannot be read as an array"),
        ({"frames": None}, "frames must be numbers, got None"),
        ({"frames": "walk.mp4"}, "frames must be numbers, got 'walk.mp4'"),
        ({"actions": np.zeros((6, 2))}, "actions must be integers, got float64"),
        ({"actions": np.zeros((6, 2), bool)}, "actions must be integers, got bool"),
        ({"actions": np.zeros((6, 2), str)}, "actions must be numbers"),
        ({"actions": np.zeros((5, 2), int)}, "actions has 5 steps, frames 6"),
        ({"actions": np.zeros((6, 2, 1), int)}, r"actions must be \[6, A\], got \[6, 2, 1\]"),
        ({"actions": np.full((6, 2), 2**63, np.uint64)}, "actions must be below"),
        ({"rewards": [0, np.nan, 0, 0, 0, 0]}, "rewards must be finite, got nan"),
        ({"rewards": [0, 1e300, 0, 0, 0, 0]}, "rewards must be finite"),
        ({"rewards": [0, None, 0, 0, 0, 0]}, "rewards must be numbers"),
        ({"rewards": 0.0}, r"rewards must be \[6\], got \[\]"),
        ({"rewards": np.zeros(6, bool)}, "rewards must be numbers, got bool"),
        ({"is_terminal": [0, 0, 0, 0, 0, 2]}, "is_terminal must be true or false"),
        ({"is_terminal": True}, r"is_terminal must be \[6\]"),
        ({"label": None}, "label must be text, got None"),
        ({"label": 7}, "label must be text, got 7"),
        ({"label": "\ud800"}, "not in Unicode"),
        ({"task": ["walk"]}, "task must be text"),
        ({"seed": 1.5}, "seed must be integers, got float64"),
        ({"seed": 2**64}, "seed must be"),
        ({"seed": None}, "seed must be numbers"),
        ({"noise": float("nan")}, "noise must be finite"),
        ({"noise": "0.25"}, "noise must be numbers"),
        ({"noise": -0.1}, "noise must lie in 0..1"),
        ({"success": None}, "success must be numbers"),
        ({"success": [True]}, "success must be one value"),
        ({"camera": np.zeros((6, 3))}, r"camera must be \[6, 2\]"),
    ],
)
def test_an_episode_refuses_the_rest(changed: dict[str, Any], wanted: str) -> None:
    refused(lambda: Episode(**fields(**changed)), "^episode of .*with seed", wanted)


def test_the_writer_refuses_what_does_not_belong_to_the_dataset(tmp_path: Path) -> None:
    writer, episode = DatasetWriter(str(tmp_path / "walk"), META), Episode(**fields())
    refused(lambda: writer.write_shard("train", 0, []), "at least one episode")
    refused(lambda: writer.write_shard("train", 0, episode), "must be a list of Episode")  # type: ignore[arg-type]
    refused(lambda: writer.write_shard("train", 0, [fields()]), "must be a list of Episode")  # type: ignore[list-item]
    refused(lambda: writer.write_shard("train", 1, [episode]), "shard 1 of train: the next is 0")
    refused(lambda: writer.write_shard("../train", 0, [episode]), "must consist of letters")
    for actions, got in (([[0, 0]] * 5 + [[7, 0]], "got 7"), ([[0, 0]] * 5 + [[0, -1]], "got -1")):
        wrong = Episode(**fields(actions=actions))
        refused(lambda wrong=wrong: writer.write_shard("train", 0, [wrong]), "factors up to 6 and 2", got)
    one_factor = Episode(**fields(actions=[0] * 6))
    refused(lambda: writer.write_shard("train", 0, [one_factor]), r"actions must be int64 \[6, 2\].*got \[6, 1\]")
    small = Episode(**fields(frames=np.zeros((6, 12, 12, 3), np.uint8)))
    refused(lambda: writer.write_shard("train", 0, [small]), "the dataset's frames are 12x10 pixels")
    refused(writer.finish, "holds no episode")
    writer.write_shard("train", np.int64(0), (Episode(**fields(seed=seed)) for seed in range(2)))  # type: ignore[arg-type]
    writer.finish()
    assert len(open_dataset(str(tmp_path / "walk")).episodes()) == 2
    (tmp_path / "file").touch()
    refused(lambda: DatasetWriter(tmp_path / "file", META), "is a file: choose a folder")
    refused(lambda: DatasetWriter(None, META), "must be a path, got None")  # type: ignore[arg-type]
    refused(lambda: DatasetWriter(tmp_path / "x", {"tasks": ["walk"]}), "must be a Meta")  # type: ignore[arg-type]


def test_a_meta_takes_lists_and_is_the_same(tmp_path: Path) -> None:
    listed = Meta(["walk"], ActionSpec([7, np.int64(3)]), np.int64(12), 10, 5, list(META.vocabulary))  # type: ignore[arg-type]
    assert listed == META and hash(listed) == hash(META)
    DatasetWriter(tmp_path / "walk", listed)
    DatasetWriter(tmp_path / "walk", META)  # goes on


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"tasks": "walk"}, "tasks must be a list of texts"),
        ({"tasks": ["walk", "walk"]}, "hold each name once"),
        ({"tasks": []}, "must not be empty"),
        ({"actions": (7, 3)}, "must be an ActionSpec"),
        ({"height": 12.0}, "height must be integers"),
        ({"fps": 0}, "fps must be at least 1, got 0"),
        ({"fps": 29.97}, "fps must be integers"),
        ({"vocabulary": None}, "vocabulary must be a list of texts"),
    ],
)
def test_a_meta_refuses_the_rest(changed: dict[str, Any], wanted: str) -> None:
    refused(lambda: dataclasses.replace(META, **changed), "dataset meta", wanted)
    for sizes in ("73", 7, [7.5], [None]):
        refused(lambda sizes=sizes: ActionSpec(sizes), "give an integer for each factor")


def test_a_dataset_refuses_what_it_does_not_have(tmp_path: Path) -> None:
    refused(lambda: open_dataset(str(tmp_path / "nowhere")), "no dataset in .*nowhere")
    refused(lambda: open_dataset(None), "must be a path")  # type: ignore[arg-type]
    refused(lambda: open_dataset(""), "must be a path")
    refused(lambda: open_dataset(tmp_path, 48), r"size must be \(height, width\)")  # type: ignore[arg-type]
    refused(lambda: open_dataset(tmp_path, (48, -1)), "at least 1, got -1")
    dataset = make_dataset(tmp_path, [3, 4])
    refused(lambda: dataset.episode(2), "has no episode 2: ids are from 0 to 1")
    refused(lambda: dataset.frames(-1, 0, 2), "has no episode -1")
    refused(lambda: dataset.frames(0, 1, 5), "episode 0 has timesteps 0 to 2, not 1:5")
    refused(lambda: Video(tmp_path / "a.mp4", -1, 3), "start must be at least 0")
    assert Video(str(tmp_path / "a.mp4"), 0, 3).path == tmp_path / "a.mp4"  # type: ignore[arg-type]


# --- the player -----------------------------------------------------------------------------------------------------


def make_player() -> Player:
    model = WorldAndAgent(make_dynamics(), make_agent())
    return Player(make_tokenizer(), model, VOCABULARY, context=3, sampling=SAMPLING)


def player_frames(rows: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (rows, 8, 12, 3), np.uint8)


LABELS = ["go to the red", "go to the blue"]


@pytest.mark.parametrize(
    "convert",
    [
        lambda array: array.tolist(),
        torch.from_numpy,
        lambda array: array.astype(np.int32),
        lambda array: np.flip(np.flip(array, 0).copy(), 0),
        lambda array: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape),  # read-only
    ],
)
def test_a_player_takes_arrays_of_any_form(convert: Callable[[np.ndarray], Any]) -> None:
    plain, other = make_player(), make_player()
    frames, actions = player_frames(), np.array([[2, 1], [0, 1]])
    plain.begin(frames, LABELS)
    plain.observe(actions, frames[::-1].copy())
    other.begin(convert(frames), tuple(LABELS))  # type: ignore[arg-type]
    other.observe(convert(actions), convert(frames[::-1].copy()))
    assert plain.features is not None and other.features is not None
    torch.testing.assert_close(other.features, plain.features, atol=0, rtol=0)
    other.keep(np.array([1], np.int16))  # type: ignore[arg-type]
    assert other.act().shape == (1, 2)


@pytest.mark.parametrize(
    ("frames", "wanted"),
    [
        (player_frames() / 255, r"frames must be uint8 \[N, 8, 12, 3\] from 0 to 255, got float64"),
        (player_frames()[0], r"for one frame give frames\[None\]"),
        (player_frames().transpose(0, 3, 1, 2), "move the channels to the end"),
        (np.zeros((2, 8, 12, 4), np.uint8), "leave out the alpha channel"),
        (np.zeros((2, 8, 12, 1), np.uint8), "repeat the gray channel"),
        (np.zeros((2, 12, 8, 3), np.uint8), r"got \[2, 12, 8, 3\]: resize them"),
        (np.zeros((0, 8, 12, 3), np.uint8), "N >= 1"),
        (None, "must be numbers, got None"),
    ],
)
def test_a_player_refuses_other_frames(frames: Any, wanted: str) -> None:
    player = make_player()
    refused(lambda: player.begin(frames, LABELS), wanted)
    refused(player.act, "call begin first")
    player.begin(player_frames(), LABELS)
    before = player.features
    refused(lambda: player.observe(np.zeros((2, 2), int), frames), wanted)
    assert player.features is before and player.act().shape == (2, 2)  # nothing has changed


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        ("go to the red", "labels must be a list of texts"),
        (["go"], "labels must be one for each of 2 episodes, got 1"),
        ([None, "go"], "labels must be text, got None"),
        (None, "labels must be a list of texts, got None"),
        (["go", "go to the very red door"], r"label 'go to the very red door' has 6 words.*at most 4 \(agent.words\)"),
    ],
)
def test_a_player_refuses_other_labels(labels: Any, wanted: str) -> None:
    player = make_player()
    refused(lambda: player.begin(player_frames(), labels), wanted)
    player.begin(player_frames(), LABELS)
    refused(lambda: player.relabel(labels), wanted)


@pytest.mark.parametrize(
    ("actions", "wanted"),
    [
        ([[3, 0], [0, 0]], r"actions must be int64 \[2, 2\] with factors up to 2 and 1, got 3"),
        ([[-1, 0], [0, 0]], "got -1"),
        ([0, 0], r"got \[2\]"),
        ([[0, 0]], r"got \[1, 2\]"),
        (np.zeros((2, 2)), "actions must be integers, got float64"),
        (np.zeros((2, 2), bool), "actions must be integers, got bool"),
        (None, "actions must be numbers"),
    ],
)
def test_a_player_refuses_other_actions(actions: Any, wanted: str) -> None:
    player = make_player()
    player.begin(player_frames(), LABELS)
    refused(lambda: player.observe(actions, player_frames()), wanted)


def test_a_player_refuses_calls_in_the_wrong_order() -> None:
    player = make_player()
    for call in (
        player.act,
        lambda: player.relabel(LABELS),
        lambda: player.keep([0]),
        lambda: player.observe(np.zeros((2, 2), int), player_frames()),
    ):
        refused(call, "call begin first")
    player.begin(player_frames(), LABELS)
    for rows in ([2], [-1], [0.5], [[0]], [True]):
        refused(lambda rows=rows: player.keep(rows), "rows must be")
    player.keep([1])
    refused(lambda: player.observe(np.zeros((2, 2), int), player_frames()), r"actions must be int64 \[1, 2\]")


def test_a_player_is_made_of_what_fits() -> None:
    tokenizer, dynamics = make_tokenizer(), make_dynamics()
    model = WorldAndAgent(dynamics, make_agent())
    refused(lambda: Player(tokenizer, dynamics, VOCABULARY, context=3, sampling=SAMPLING), "needs a WorldAndAgent")  # type: ignore[arg-type]
    refused(lambda: Player(tokenizer, model, "go", context=3, sampling=SAMPLING), "vocabulary must be a list")
    refused(lambda: Player(tokenizer, model, VOCABULARY, context=0, sampling=SAMPLING), "context must be at least 1")
    other = make_tokenizer(dataclasses.replace(CONFIG.tokenizer, channels=5))
    refused(lambda: Player(other, model, VOCABULARY, context=3, sampling=SAMPLING), "latents are 4x5.*16 numbers")


def test_an_agent_is_not_trained_on_labels_that_it_would_cut(tmp_path: Path) -> None:
    dataset, few = make_dataset(tmp_path, [4, 5]), dataclasses.replace(AGENT, words=3)
    config = dataclasses.replace(CONFIG, agent=few)
    refused(
        lambda: AgentStage(config, [dataset], "tiny", make_dynamics()),
        r"dataset .*: label 'go to the red' has 4 words, the agent reads at most 3 \(agent.words\)",
    )


# --- weights --------------------------------------------------------------------------------------------------------


def test_weights_are_loaded_from_any_path_or_the_reason_is_said(tmp_path: Path) -> None:
    tokenizer, path = make_tokenizer(), tmp_path / "tokenizer.safetensors"
    models = {"tokenizer": dataclasses.asdict(tokenizer.config), "frame": list(tokenizer.frame)}
    save_tensors(path, tokenizer.state_dict(), {"models": models})
    assert load_tokenizer(str(path))[0].frame == load_tokenizer(path)[0].frame == (8, 12)
    refused(lambda: load_tokenizer(tmp_path), "is a folder: name a file of weights in it")
    refused(lambda: load_tokenizer(None), "must be a path, got None")  # type: ignore[arg-type]
    refused(lambda: load_tokenizer(str(tmp_path / "no.safetensors")), "no weights at")
    refused(lambda: Player.load(str(tmp_path / "nowhere")), "no weights at .*nowhere")
    refused(lambda: Player.load(None), "must be a path")  # type: ignore[arg-type]
    for device in ("banana", "cuda:77", 3.5):
        refused(lambda device=device: Player.load(tmp_path, device=device), "device .* cannot be used")
    refused(lambda: Player.load(tmp_path, precision="half"), "unknown precision 'half': choose from")  # type: ignore[arg-type]


def test_a_tokenizer_refuses_other_frames_and_latents() -> None:
    tokenizer = make_tokenizer()
    frames = torch.zeros(1, 2, 3, 8, 12, dtype=torch.uint8)
    for given in (frames[0], frames.permute(0, 1, 3, 4, 2), frames[:, :, :1]):
        refused(lambda given=given: tokenizer.encode(given), r"frames must be uint8 \[B, T, 3, 8, 12\]")
    refused(lambda: tokenizer.encode(frames[..., :8]), r"made for \(8, 12\): resize them")
    refused(lambda: tokenizer.encode(torch.rand(frames.shape)), "frames must be uint8 from 0 to 255, got torch.float32")
    for latents in (torch.zeros(1, 2, 4, 5), torch.zeros(2, 4, 4)):
        refused(lambda latents=latents: tokenizer.decode(latents), r"latents must be float \[B, T, 4, 4\]")


# --- dreams ---------------------------------------------------------------------------------------------------------


def make_dream(with_agent: bool = True) -> Dream:
    model = WorldAndAgent(make_dynamics(), make_agent())
    return Dream(model if with_agent else model.dynamics, k_sample=2, noise=GeneratorNoise(seeded(5)))


def test_a_dream_takes_arrays_of_any_form() -> None:
    batch = make_batch(2, 3)
    assert batch.latents is not None
    plain, other = make_dream(), make_dream()
    plain.reset(batch.latents, batch.actions, batch.is_first, batch.task)
    others = batch.latents.numpy(), batch.actions.tolist(), batch.is_first.numpy()
    other.reset(*others, batch.task)  # type: ignore[arg-type]
    actions = [[2, 1], [0, 1]]
    one = plain.step(torch.tensor(actions))
    for given in (actions, np.array(actions, np.int32)):
        two = other.step(given)  # type: ignore[arg-type]
        torch.testing.assert_close(two.latents, one.latents, atol=0, rtol=0)
        one = plain.step(torch.tensor(actions))
    other.imagine(np.zeros((2, 4, 2), np.uint8))  # type: ignore[arg-type]
    other.select([1])  # type: ignore[arg-type]
    assert len(other.step([[0, 0]]).reward) == 1  # type: ignore[arg-type]


def test_a_dream_refuses_the_rest() -> None:
    batch, dream = make_batch(2, 3), make_dream()
    assert batch.latents is not None
    z, actions, first, task = batch.latents, batch.actions, batch.is_first, batch.task
    step = torch.zeros(2, 2, dtype=torch.long)
    for call in (dream.step, dream.advance, lambda a: dream.imagine(a[:, None]), lambda a: dream.observe(z[:, 0], a)):
        refused(lambda call=call: call(step), "call reset first")  # type: ignore[misc]
    refused(lambda: dream.select(torch.tensor([0])), "call reset first")
    refused(lambda: dream.reset(z[:, 0], actions, first, task), r"latents must be float \[B, T, tokens, channels\]")
    refused(lambda: dream.reset(z[..., :3], actions, first, task), "with 16 numbers a frame, got float32")
    refused(lambda: dream.reset(z[:, :0], actions, first, task), "latents must be")
    refused(lambda: dream.reset(z.long(), actions, first, task), "got int64")
    refused(lambda: dream.reset(z, actions[:, :2], first, task), r"actions must be int64 \[2, 3, 2\]")
    refused(lambda: dream.reset(z, actions + 9, first, task), "factors up to 2 and 1")
    refused(lambda: dream.reset(z, actions, first[0], task), r"is_first must be bool \[2, 3\]")
    refused(lambda: dream.reset(z, actions, first), "with an agent needs its task")
    refused(lambda: dream.reset(z, actions, first, task[:1]), "a tensor with 2 rows")
    dream.reset(z, actions, first, task)
    refused(lambda: dream.step(step[:1]), r"actions must be int64 \[2, 2\].*got \[1, 2\]")
    refused(lambda: dream.step(step.float()), "actions must be integers")
    refused(lambda: dream.step(step + 2), "factors up to 2 and 1")
    refused(lambda: dream.imagine(torch.zeros(2, 0, 2, dtype=torch.long)), "with T >= 1")
    refused(lambda: dream.imagine(step), r"\[B, T, A\]|int64 \[2, 2, 2\]")
    refused(lambda: dream.observe(z[:1, 0], step), r"latents must be float \[2, tokens, channels\]")
    refused(lambda: dream.select(torch.tensor([2])), "indices from 0 to 1")
    noise = GeneratorNoise(seeded(0))
    for k in (0, 3, 2.0, "2"):
        refused(lambda k=k: Dream(make_dynamics(), k_sample=k, noise=noise), "k_sample")
    refused(lambda: Dream(make_tokenizer(), k_sample=2, noise=noise), "needs a Dynamics or a WorldAndAgent")  # type: ignore[arg-type]


def test_a_dream_environment_takes_one_action() -> None:
    def contexts(seed: int) -> Batch:
        return make_batch(rows, 3)

    rows = 1
    environment = DreamEnv(make_tokenizer(), make_dream(), contexts, 5)
    refused(lambda: environment.step(np.array([0, 0])), "call reset first")
    environment.reset(seed=0)
    environment.step([2, 1])  # type: ignore[arg-type]
    environment.step(np.array([2, 1], np.int8))
    for action, wanted in (
        ([3, 0], "got 3"),
        ([0], r"got \[1\]"),
        ([0.0, 1.0], "integers"),
        (None, "numbers"),
        (1, ""),
    ):
        refused(lambda action=action: environment.step(action), "action must be", wanted)
    rows = 2
    refused(environment.reset, "batches of one row with latents, got 2 rows")
    refused(lambda: DreamEnv(make_tokenizer(), make_dream(), contexts, 0), "horizon must be at least 1")


# --- runs -----------------------------------------------------------------------------------------------------------


def test_a_trainer_says_what_it_needs(config: Config, tmp_path: Path) -> None:
    refused(lambda: Trainer(config="minigrid"), "config must be a Config")  # type: ignore[arg-type]
    refused(lambda: Trainer(-1.0, config=config), "train_tokenizer.epochs must be a number above 0|above 0, got -1")
    refused(lambda: Trainer("2", config=config), "train_tokenizer.epochs must be a number.*got '2'")  # type: ignore[arg-type]
    wrong = StageConfig(batch=4.0)  # type: ignore[arg-type]
    refused(lambda: dataclasses.replace(config, train_agent=wrong), "train_agent.batch must be an integer at least 1")
    trainer = Trainer(config=config)
    refused(lambda: trainer.train("policy"), "unknown stage 'policy': choose one of tokenizer")
    refused(lambda: trainer.train_tokenizer([]), "data is an empty list")
    refused(lambda: trainer.train_tokenizer([7]), "data holds a int")  # type: ignore[list-item]
    refused(lambda: trainer.train_tokenizer(str(tmp_path / "nowhere")), "no dataset in")
    folder = config.dataset_dir(config.env.tasks[0])
    for data in (str(folder), folder, [folder]):
        assert [dataset.root for dataset in trainer._datasets(data)] == [folder]


def test_games_and_presets_are_named_by_text() -> None:
    refused(lambda: preset(None), "a preset's name must be text")  # type: ignore[arg-type]
    refused(lambda: preset("minigird"), "did you mean minigrid")
    refused(lambda: embody.game(7), "a game's name must be text")
    refused(lambda: make_env(preset("minigrid"), TASK), r"needs the env of a config, such as preset\('minigrid'\).env")  # type: ignore[arg-type]
    refused(lambda: make_env(preset("minigrid").env, None), "unknown task None")  # type: ignore[arg-type]
