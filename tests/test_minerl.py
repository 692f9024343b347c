"""MineRL 0.4.4: its files, and the interface of its package, on real videos."""

import gc
import io
import itertools
import json
import multiprocessing
import threading
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from embody.games.minecraft import minerl
from embody.games.minecraft.actions import camera_bins, minerl_space
from embody.games.minecraft.minerl import find_trajectories, read_trajectory
from embody.games.minecraft.tasks import TASKS
from embody.saving import reading
from tests.recordings import ITEMS, NAVIGATE, OBTAIN, TREECHOP, minerl_arrays, real, write_trajectory


def every_frame(path: Path) -> NDArray[np.uint8]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four trajectories of real videos: 499, 120, 70 and 20 steps."""
    root = tmp_path_factory.mktemp("minerl")
    for seed, (video, steps) in enumerate(zip(real("minerl_navigate", "mp4"), (499, 120, 70, 20), strict=True)):
        arrays = minerl_arrays(NAVIGATE, steps, seed)
        arrays["reward"][-1] = 100
        write_trajectory(root, NAVIGATE, f"player-{seed}_0-{steps}", arrays, video, success=seed != 2)
    (root / "VERSION").write_text("3\n")
    return root


def test_timestep_t_holds_the_action_that_led_to_observation_t(tmp_path: Path) -> None:
    arrays = minerl_arrays(TREECHOP, 3)
    for key in minerl_space(TREECHOP).keys:
        arrays[f"action${key}"] = np.array([0, 0, 0])
    arrays["action$forward"], arrays["action$attack"] = np.array([1, 0, 0]), np.array([0, 0, 1])
    arrays["action$camera"] = np.array([[0, 0], [0, 0], [-4, 4]], np.float32)
    arrays["reward"] = np.array([0, 0, 1], np.float32)
    folder = write_trajectory(tmp_path, TREECHOP, "a", arrays, __file__, frames=10, success=True)  # type: ignore[arg-type]
    trajectory = read_trajectory(folder, TREECHOP)
    timesteps = trajectory.timesteps()
    keys = minerl_space(TREECHOP).keys
    assert trajectory.first_frame == 6  # observations 0 to 3 are the last four of ten frames
    assert [{keys[place] for place in np.flatnonzero(row[:-1])} for row in timesteps["actions"]] == [
        set(),
        {"forward"},
        set(),
        {"attack"},
    ]
    assert timesteps["actions"][:, -1].tolist() == [0, 60, 60, int(camera_bins([-4, 4]))]
    assert timesteps["camera"].tolist() == [[0, 0], [0, 0], [0, 0], [-4, 4]]
    assert timesteps["rewards"].tolist() == [0, 0, 0, 1] and timesteps["is_terminal"].tolist() == [False] * 3 + [True]
    assert timesteps["is_null"].tolist() == [False, False, True, False]
    assert timesteps["success"] and timesteps["events"] is None


def test_all_actions_come_back(tmp_path: Path) -> None:
    arrays = minerl_arrays(OBTAIN, 200)
    folder = write_trajectory(tmp_path, OBTAIN, "a", arrays, Path(__file__))
    timesteps = read_trajectory(folder, OBTAIN).timesteps()
    space = minerl_space(OBTAIN)
    for t in range(200):
        back = space.dictionary(timesteps["actions"][t + 1])
        assert all(back[key] == arrays[f"action${key}"][t] for key in (*space.keys, *space.words))
    np.testing.assert_array_equal(timesteps["actions"][1:, -1], camera_bins(arrays["action$camera"]))
    assert not timesteps["success"] and not timesteps["is_terminal"].any()


def test_inventory_wear_and_reward_tell_the_tasks(tmp_path: Path) -> None:
    arrays = minerl_arrays(OBTAIN, 400)
    for key in ("place", "nearbySmelt"):
        arrays[f"action${key}"][:] = "none"
    seen = {item: arrays[f"observation$inventory${item}"] for item in ITEMS}

    def have(item: str, start: int, count: int) -> None:
        seen[item][start:] = count

    have("log", 10, 1)
    have("log", 12, 0)  # moved about in a GUI ...
    have("log", 14, 1)  # ... and back
    have("crafting_table", 20, 1)
    have("crafting_table", 30, 0)  # placed
    arrays["action$place"][29] = "crafting_table"
    have("crafting_table", 200, 1)  # broken, and picked up: not crafted
    have("wooden_pickaxe", 50, 1)
    have("coal", 60, 1)  # charcoal
    arrays["action$nearbySmelt"][59] = "coal"
    have("coal", 70, 2)
    have("planks", 80, 4)
    have("planks", 90, 2)  # dropped
    kinds, worn = (arrays[f"observation$equipped_items$mainhand${key}"] for key in ("type", "damage"))
    arrays["observation$equipped_items$mainhand$type"] = kinds = kinds.astype("<U20")
    kinds[100:], worn[100:] = "wooden_pickaxe", 3  # another tool in the hand is no use of it
    worn[110:] = 4
    arrays["reward"][399] = 1024
    timesteps = read_trajectory(write_trajectory(tmp_path, OBTAIN, "a", arrays, Path(__file__)), OBTAIN).timesteps()
    assert [(int(t), TASKS[p]) for t, p in zip(*np.nonzero(timesteps["events"]), strict=True)] == [
        (10, "mine_log"),
        (20, "craft_crafting_table"),
        (30, "place_crafting_table"),
        (50, "craft_wooden_pickaxe"),
        (70, "mine_coal"),
        (80, "craft_planks"),
        (110, "use_wooden_pickaxe"),
        (400, "mine_diamond"),
    ]
    assert timesteps["success"]


def broken(arrays: dict[str, NDArray], case: str) -> str:
    """Damages `arrays`; returns what must be said."""
    match case:
        case "missing key":
            del arrays["action$jump"]
            return r"rendered\.npz: action\$jump is missing"
        case "unknown key":
            arrays["action$fly"] = arrays["action$jump"]
            return r"unknown key action\$fly"
        case "missing observation":
            del arrays["observation$compass$angle"]
            return r"rendered\.npz: observation\$compass\$angle is missing"
        case "unknown observation":
            arrays["observation$nonsense"] = arrays["observation$inventory$dirt"]
            return r"unknown key observation\$nonsense"
        case "unknown part":
            arrays["nonsense"] = arrays["reward"]
            return "unknown key nonsense"
        case "nan":
            arrays["action$camera"][7, 1] = np.nan
            return r"action\$camera is not finite at step 7"
        case "nan reward":
            arrays["reward"][3] = np.inf
            return "reward is not finite at step 3"
        case "wrong shape":
            arrays["action$camera"] = arrays["action$camera"][:, :1]
            return r"action\$camera has shape \[20, 1\], expected \[20, 2\]"
        case "one step less":
            arrays["action$jump"] = arrays["action$jump"][:-1]
            return r"action\$jump has shape \[19\], expected \[20\]"
        case "observations like actions":
            arrays["observation$inventory$dirt"] = arrays["observation$inventory$dirt"][:-1]
            return r"dirt has shape \[20\], expected \[21\]"
        case "no step":
            arrays |= {key: array[:0] for key, array in arrays.items()}
            return "it has no step"
        case "a word":
            arrays["action$place"] = np.full(20, "lava")
            return "action place: unknown value 'lava', choose one of none, dirt"
        case "a number":
            arrays["action$jump"] = np.full(20, 2)
            return "action jump must be 0 or 1"
        case "words for numbers":
            arrays["action$jump"] = np.full(20, "1")
            return r"action\$jump has type <U1, expected a number"
        case "a pickle":
            arrays["action$place"] = np.array([{}] * 20, object)
            return r"rendered\.npz: cannot be read"
    raise AssertionError(case)


CASES = ("missing key", "unknown key", "nan", "nan reward", "wrong shape", "one step less", "observations like actions")
CASES += ("missing observation", "unknown observation", "unknown part")
CASES += ("no step", "a word", "a number", "words for numbers", "a pickle")


@pytest.mark.parametrize("case", CASES)
def test_broken_arrays_are_named(tmp_path: Path, case: str) -> None:
    arrays = minerl_arrays(NAVIGATE, 20)
    said = broken(arrays, case)
    folder = write_trajectory(tmp_path, NAVIGATE, "a", arrays, Path(__file__), total_reward=0.0)
    with pytest.raises(ValueError, match=said) as error:
        read_trajectory(folder, NAVIGATE)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def packed_by(archive: bytes, method: int) -> bytes:
    """The zip file with every member said to be packed by another method."""
    changed = bytearray(archive)
    for magic, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        place = archive.find(magic)
        while place >= 0:
            changed[place + at : place + at + 2] = method.to_bytes(2, "little")
            place = archive.find(magic, place + 4)
    return bytes(changed)


def of_shape(shape: str) -> bytes:
    """An archive whose one array says that it has this shape."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("reward.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    return buffer.getvalue()


def test_broken_files_are_named(tmp_path: Path) -> None:
    folder = write_trajectory(tmp_path, NAVIGATE, "a", minerl_arrays(NAVIGATE, 20), Path(__file__), frames=15)
    with pytest.raises(ValueError, match="21 observations, but its video has 15 frames: they may differ by at most 5"):
        read_trajectory(folder, NAVIGATE)
    for text in ("[" * 100_000, "{", "[]", '{"success": true}', '{"success": 1, "true_video_frame_count": 30}'):
        (folder / "metadata.json").write_text(text)
        with pytest.raises(ValueError, match=r"metadata\.json"):
            read_trajectory(folder, NAVIGATE)
    (folder / "metadata.json").write_text('{"success": true, "true_video_frame_count": 30}')
    whole = (folder / "rendered.npz").read_bytes()
    for content in (b"", whole[:-300], whole[:100], packed_by(whole, 99), of_shape("(9" + 30 * "0" + ",)")):
        (folder / "rendered.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"rendered\.npz"):
            read_trajectory(folder, NAVIGATE)
    with pytest.raises(ValueError, match="unknown MineRL environment"):
        read_trajectory(folder, "Chess-v0")
    with pytest.raises(ValueError, match="no MineRL recording in"):
        find_trajectories(tmp_path, TREECHOP)
    (tmp_path / "VERSION").write_text("2")
    with pytest.raises(ValueError, match="version '2'"):
        find_trajectories(tmp_path, NAVIGATE)


# --- the interface of the package -----------------------------------------------------------------------------------


def test_make_finds_what_the_package_finds(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["v3_player-0_0-499", "v3_player-1_0-120", "v3_player-2_0-70", "v3_player-3_0-20"]
    assert minerl.data.make(NAVIGATE, data_dir=str(root), num_workers=4).get_trajectory_names() == names
    monkeypatch.setenv("MINERL_DATA_ROOT", str(root))
    assert minerl.make(NAVIGATE).get_trajectory_names() == names
    monkeypatch.delenv("MINERL_DATA_ROOT")
    with pytest.raises(ValueError, match="MINERL_DATA_ROOT"):
        minerl.make(NAVIGATE)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        minerl.make(NAVIGATE, data_dir=root / "nowhere")
    with pytest.raises(ValueError, match="zenodo"):
        minerl.make(NAVIGATE, data_dir=root, force_download=True)
    with pytest.raises(ValueError, match="unknown MineRL environment"):
        minerl.make("Chess-v0", data_dir=root)


def test_load_data_gives_the_files_steps(root: Path) -> None:
    data = minerl.make(NAVIGATE, data_dir=root)
    name = data.get_trajectory_names()[2]
    frames = every_frame(root / NAVIGATE / name / "recording.mp4")[-71:]
    with np.load(root / NAVIGATE / name / "rendered.npz") as archive:
        arrays = dict(archive)
    steps = list(data.load_data(name, include_metadata=True))
    assert len(steps) == 70
    for t, (obs, action, reward, after, done, meta) in enumerate(steps):
        assert list(obs) == ["compass", "inventory", "pov"] == list(after)
        np.testing.assert_array_equal(obs["pov"], frames[t])
        np.testing.assert_array_equal(after["pov"], frames[min(t + 1, 69)])  # the last is the one before it
        assert obs["compass"]["angle"] == arrays["observation$compass$angle"][t]
        assert after["compass"]["angle"] == arrays["observation$compass$angle"][t + 1]
        assert set(action) == {*minerl_space(NAVIGATE).keys, "place", "camera"}
        assert action["jump"] == arrays["action$jump"][t] and action["place"] == arrays["action$place"][t]
        np.testing.assert_array_equal(action["camera"], arrays["action$camera"][t])
        assert reward == (100 if t == 69 else 0) and done == (t == 69) and reward.dtype == np.float32
        assert meta["stream_name"] == name
    every_third = [item[1]["camera"] for item in data.load_data(name, skip_interval=2)]
    np.testing.assert_array_equal(every_third, arrays["action$camera"][::3])
    assert len(next(data.load_data(name, include_monitor_data=True))) == 6
    with pytest.raises(ValueError, match="no trajectory 'v3_nobody'"):
        next(data.load_data("v3_nobody"))


def test_nested_observations_of_obtain(tmp_path: Path) -> None:
    arrays = minerl_arrays(OBTAIN, 40)
    write_trajectory(tmp_path, OBTAIN, "a_0-1", arrays, real("minerl_navigate", "mp4")[0])
    data = minerl.make(OBTAIN, data_dir=tmp_path)
    obs, action, reward, after, done = next(data.batch_iter(batch_size=2, seq_len=20, num_epochs=1))
    assert obs["pov"].shape == (1, 20, 64, 64, 3) and obs["pov"].dtype == np.uint8
    assert list(obs["inventory"]) == sorted(ITEMS)
    assert list(obs["equipped_items"]["mainhand"]) == ["damage", "maxDamage", "type"]
    assert obs["equipped_items"]["mainhand"]["type"].tolist() == [["none"] * 20]
    assert action["nearbyCraft"].shape == (1, 20) and action["camera"].shape == (1, 20, 2)


def signature(item: Any) -> list[float]:  # noqa: ANN401
    """The compass of every step, which no two steps share."""
    return item[0]["compass"]["angle"].ravel().tolist()


def test_batches_follow_episodes_and_never_leave_them(root: Path) -> None:
    data = minerl.make(NAVIGATE, data_dir=root)
    with pytest.warns(UserWarning, match="v3_player-3_0-20: 20 steps, fewer than 32"):
        batches = list(data.batch_iter(batch_size=2, seq_len=32, num_epochs=1, seed=5))
    steps = {
        name: [float(x[0]["compass"]["angle"]) for x in data.load_data(name)] for name in data.get_trajectory_names()
    }
    place = {angle: (name, t) for name, angles in steps.items() for t, angle in enumerate(angles)}
    seen: set[tuple[str, int]] = set()
    for obs, action, reward, after, done in batches:
        rows = len(reward)
        assert 1 <= rows <= 2
        assert obs["pov"].shape == after["pov"].shape == (rows, 32, 64, 64, 3) and obs["pov"].dtype == np.uint8
        assert action["camera"].shape == (rows, 32, 2) and reward.shape == done.shape == (rows, 32)
        np.testing.assert_array_equal(obs["pov"][:, 1:], after["pov"][:, :-1])
        for row in range(rows):
            places = [place[float(angle)] for angle in obs["compass"]["angle"][row]]
            assert len({name for name, _ in places}) == 1
            assert [t for _, t in places] == list(range(places[0][1], places[0][1] + 32))
            assert not done[row, :-1].any()
            assert done[row, -1] == (places[-1][1] == len(steps[places[-1][0]]) - 1)
            seen |= set(places)
    assert seen == {(name, t) for name, angles in steps.items() for t in range(len(angles)) if len(angles) >= 32}
    assert [len(batch[2]) for batch in batches][0] == 2


def test_nothing_at_a_time_is_refused_at_once(root: Path) -> None:
    data = minerl.data.make(NAVIGATE, data_dir=root, num_workers=1)
    for sizes, said in (((0, 4), "batch_size must be at least 1, got 0"), ((2, -1), "seq_len must be at least 1")):
        with pytest.raises(ValueError, match=said):
            data.batch_iter(*sizes)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        minerl.BufferedBatchIter(data).buffered_batch_iter(0, num_epochs=1)


def test_one_thread_at_a_time_reads_arrays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that parse headers at once can end in a SystemError of Python 3.11's."""
    plain, inside, most = reading._array, [], []

    def watched(*arguments: Any) -> Any:
        inside.append(1)
        time.sleep(0.002)
        most.append(len(inside))
        array = plain(*arguments)
        inside.pop()
        return array

    monkeypatch.setattr(reading, "_array", watched)
    assert list(minerl.make(NAVIGATE, data_dir=root, num_workers=4).batch_iter(2, 20, num_epochs=1, seed=0))
    assert len(most) > 1 and max(most) == 1


def test_the_seed_is_honoured(root: Path) -> None:
    def order(seed: int | None, workers: int = 2, epochs: int = 2) -> list[list[float]]:
        data = minerl.make(NAVIGATE, data_dir=root, num_workers=workers)
        return [signature(batch) for batch in data.batch_iter(2, 20, num_epochs=epochs, seed=seed)]

    both, first = order(3), order(3, epochs=1)
    assert both == order(3, workers=4) and both != order(4)
    assert both[: len(first)] == first
    second = both[len(first) :]
    assert second != first and sorted(itertools.chain(*second)) == sorted(itertools.chain(*first))
    with pytest.raises(ValueError, match="no trajectory has 1000 steps"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        next(minerl.make(NAVIGATE, data_dir=root).batch_iter(2, 1000))


def test_buffered_batches_hold_every_step_once_an_epoch(root: Path) -> None:
    data = minerl.make(NAVIGATE, data_dir=root)
    batches = list(minerl.BufferedBatchIter(data, buffer_target_size=150, seed=1).buffered_batch_iter(64, num_epochs=1))
    every = [float(x[0]["compass"]["angle"]) for name in data.get_trajectory_names() for x in data.load_data(name)]
    drawn = [angle for batch in batches for angle in signature(batch)]
    assert sorted(drawn) == sorted(every) and drawn != every
    assert [len(batch[2]) for batch in batches] == [64] * 11 + [5]
    obs, action, reward, after, done = batches[0]
    assert obs["pov"].shape == after["pov"].shape == (64, 64, 64, 3) and action["camera"].shape == (64, 2)
    again = minerl.BufferedBatchIter(data, buffer_target_size=150, seed=1).buffered_batch_iter(64, num_batches=13)
    assert [signature(batch) for batch in again][:12] == [signature(batch) for batch in batches]
    with pytest.raises(ValueError, match="give either num_epochs or num_batches"):
        next(minerl.BufferedBatchIter(data).buffered_batch_iter(4))


def test_nothing_is_left_running(root: Path) -> None:
    before = threading.active_count()
    batches = minerl.make(NAVIGATE, data_dir=root).batch_iter(2, 20, seed=0)
    next(batches)
    batches.close()
    del batches
    gc.collect()
    assert threading.active_count() == before and not multiprocessing.active_children()


def test_a_video_may_lack_its_last_frames(root: Path, tmp_path: Path) -> None:
    (video, *_) = real("minerl_navigate", "mp4")
    for name, counted in (("all", 500), ("one", 501), ("three", 503)):  # frames that the file lacks
        write_trajectory(tmp_path, NAVIGATE, name, minerl_arrays(NAVIGATE, 60), video, frames=counted, success=True)
    data = minerl.make(NAVIGATE, data_dir=tmp_path)
    assert len(list(data.load_data("v3_all"))) == len(list(data.load_data("v3_one"))) == 60  # see _pov
    with pytest.warns(UserWarning, match="v3_three: cut off at the end: 3 timesteps without a frame"):
        steps = list(data.load_data("v3_three", include_metadata=True))
    assert len(steps) == 58 and steps[-1][4] and not steps[-1][5]["success"]
    assert (
        steps[-1][0]["compass"]["angle"]
        == np.load(tmp_path / NAVIGATE / "v3_three" / "rendered.npz")["observation$compass$angle"][57]
    )


def test_a_broken_recording_is_named_where_it_is_loaded(root: Path, tmp_path: Path) -> None:
    (video, *_) = real("minerl_navigate", "mp4")
    folder = write_trajectory(tmp_path, NAVIGATE, "a", minerl_arrays(NAVIGATE, 400), video)
    (folder / "recording.mp4").write_bytes(video.read_bytes()[:20_000])
    with pytest.raises(ValueError, match=r"recording\.mp4"):
        next(minerl.make(NAVIGATE, data_dir=tmp_path).batch_iter(1, 20))
    assert json.loads((folder / "metadata.json").read_text())["true_video_frame_count"] == 500
