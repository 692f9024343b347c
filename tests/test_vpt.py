"""VPT's contractor recordings: every quirk of the format, by hand and against real actions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embody.games.minecraft.actions import VPT, camera_bins
from embody.games.minecraft.tasks import TASKS
from embody.games.minecraft.vpt import find_segments, read_segment
from tests.recordings import contractor_actions, contractor_lines, real, vpt_line, write_lines


def read(tmp_path: Path, lines: list[dict[str, Any]], name: str = "7.0/somebody"):  # noqa: ANN201
    return read_segment(write_lines(tmp_path / "a.jsonl", lines), name)


def pressed(segment: Any) -> list[set[str]]:  # noqa: ANN401
    return [{VPT.keys[place] for place in np.flatnonzero(row[:-1])} for row in segment.actions]


def achieved(segment: Any) -> list[tuple[int, str]]:  # noqa: ANN401
    return [(int(t), TASKS[p]) for t, p in zip(*np.nonzero(segment.events), strict=True)]


def test_timestep_t_holds_the_action_of_line_t_minus_1(tmp_path: Path) -> None:
    lines = [vpt_line(("forward",), dx=20), vpt_line(("jump",)), vpt_line(("attack",))]
    lines[1]["stats"] = lines[2]["stats"] = {"minecraft.mine_block:minecraft.oak_log": 1, "minecraft.custom:jump": 4}
    segment = read(tmp_path, lines)
    assert pressed(segment) == [set(), {"forward"}, {"jump"}]  # the attack led to a frame that was not recorded
    np.testing.assert_allclose(segment.camera, [[0, 0], [0, 3], [0, 0]])
    assert segment.actions[:, -1].tolist() == [0, int(camera_bins([0, 3])), 60]
    assert achieved(segment) == [(1, "mine_log")]  # the counter stands beside the frame that shows it


def test_real_actions_come_back_exactly(tmp_path: Path) -> None:
    for path in real("vpt_actions", "npz"):
        keys, degrees = contractor_actions(path)
        segment = read(tmp_path, contractor_lines(path))
        np.testing.assert_array_equal(segment.actions[1:, :-1], keys[:-1])
        np.testing.assert_array_equal(segment.actions[1:, -1], camera_bins(degrees[:-1]))
        np.testing.assert_allclose(segment.camera[1:], degrees[:-1], atol=1e-5)
        null = (keys[:-1] == 0).all(axis=1) & (degrees[:-1] == 0).all(axis=1)
        np.testing.assert_array_equal(segment.is_null[1:], null)
        assert not segment.actions[0].any() and len(segment.actions) == 1200 and 0 < null.sum() < 1199


def test_small_turns_are_kept(tmp_path: Path) -> None:
    segment = read(tmp_path, [vpt_line(dx=6, dy=-1), vpt_line(dx=2), vpt_line()])
    np.testing.assert_allclose(segment.camera[1:], [[-0.15, 0.9], [0, 0.3]], rtol=1e-6)
    assert segment.actions[1:, -1].tolist() == [5 * 11 + 6, 5 * 11 + 6]  # 0.15 is within the middle bin, 0.3 is not
    assert not segment.is_null.any()


def test_attack_stuck_at_the_start_is_left_out_until_pressed(tmp_path: Path) -> None:
    lines = [vpt_line(("attack", "use")) for _ in range(5)]
    lines[0]["mouse"]["newButtons"] = [0]
    lines[3]["mouse"]["newButtons"] = [0]
    assert pressed(read(tmp_path, lines))[1:] == [{"use"}, {"use"}, {"use"}, {"attack", "use"}]
    lines[0]["mouse"]["newButtons"] = []
    assert pressed(read(tmp_path, lines))[1] == {"attack", "use"}


def test_the_wheel_is_a_hotbar_key(tmp_path: Path) -> None:
    lines = [vpt_line(hotbar=place) for place in (4, 4, 6, 6, 0, 0)]
    segment = read(tmp_path, lines)
    assert pressed(segment) == [set(), set(), set(), {"hotbar.7"}, set(), {"hotbar.1"}]
    assert segment.is_null.tolist() == [False, True, True, False, True, False]


def test_the_pointer_is_drawn_in_guis_alone(tmp_path: Path) -> None:
    lines = [vpt_line(), vpt_line(isGuiOpen=True), vpt_line(isGuiOpen=True), vpt_line()]
    lines[1]["mouse"] |= {"x": 101.0, "y": 719.0}
    assert read(tmp_path, lines).cursor(360).tolist() == [[-1, -1], [50, 359], [320, 180], [-1, -1]]


@pytest.mark.parametrize("version, scale", [("5.7", 0.5), ("6.7", 2.0), ("6.10", 1.0), ("7.0", 1.0)])
def test_recorders_of_some_versions_scale_the_mouse_in_guis(tmp_path: Path, version: str, scale: float) -> None:
    lines = [vpt_line(dx=10), vpt_line(dx=10, isGuiOpen=True), vpt_line()]
    segment = read(tmp_path, lines, f"data/{version}/cheeky-cornflower-setter-02e496ce4abb-20220421-092639")
    np.testing.assert_allclose(segment.camera[1:, 1], [1.5, 1.5 * scale])


@pytest.mark.parametrize("place", ["6.9", "6.9/deeper", "5.7/6.9", "elsewhere/../6.9"])
def test_the_recorders_version_may_be_a_folder_above_all_recordings(tmp_path: Path, place: str) -> None:
    lines = [vpt_line(dx=10, isGuiOpen=True), vpt_line()]
    (tmp_path / "elsewhere").mkdir()
    path = write_lines(tmp_path / place / "a.jsonl", lines)
    assert read_segment(path, "a").camera[1, 1] == pytest.approx(3.0)
    assert read_segment(path, "5.8/a").camera[1, 1] == pytest.approx(0.75)  # what an index says comes first


def test_the_version_of_a_linked_or_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines(tmp_path / "6.9" / "a.jsonl", [vpt_line(dx=10, isGuiOpen=True), vpt_line()])
    (tmp_path / "link").symlink_to(tmp_path / "6.9")
    ((name, stem),) = find_segments(tmp_path / "link")
    assert read_segment(stem.with_suffix(".jsonl"), name).camera[1, 1] == pytest.approx(3.0)
    monkeypatch.chdir(tmp_path / "6.9")
    ((name, stem),) = find_segments(Path())
    assert read_segment(stem.with_suffix(".jsonl"), name).camera[1, 1] == pytest.approx(3.0)


def test_other_keys_do_nothing_and_fields_may_lack(tmp_path: Path) -> None:
    line = vpt_line(("forward",))
    line["keyboard"]["keys"] += ["key.keyboard.f3", "key.keyboard.t"]
    line["mouse"]["buttons"] += [4]
    basalt = {"mouse": {"dx": 1, "dy": 0, "buttons": []}, "keyboard": {"keys": ["key.keyboard.w"]}}
    assert pressed(read(tmp_path, [line, basalt, vpt_line()])) == [set(), {"forward"}, {"forward"}]


STATS = {
    **{
        "mine_log": "mine_block:birch_log",
        "mine_cobblestone": "mine_block:stone",
        "mine_iron_ore": "mine_block:iron_ore",
    },
    **{"mine_coal": "mine_block:coal_ore", "mine_diamond": "mine_block:diamond_ore"},
    **{"craft_planks": "craft_item:dark_oak_planks", "craft_stick": "craft_item:stick"},
    **{f"craft_{item}": f"craft_item:{item}" for item in ("crafting_table", "furnace", "iron_ingot")},
    **{f"craft_{kind}_pickaxe": f"craft_item:{kind}_pickaxe" for kind in ("wooden", "stone", "iron")},
    **{f"open_{item}": f"custom:interact_with_{item}" for item in ("crafting_table", "furnace")},
    **{f"place_{item}": f"use_item:{item}" for item in ("crafting_table", "furnace")},
    **{f"use_{kind}_pickaxe": f"use_item:{kind}_pickaxe" for kind in ("wooden", "stone", "iron")},
}


@pytest.mark.parametrize("task", TASKS)
def test_counters_tell_all_20_tasks(tmp_path: Path, task: str) -> None:
    kind, item = STATS[task].split(":")
    counter = f"minecraft.{kind}:minecraft.{item}"
    values = [7, 7, 8, 8, 3, 4, 9]  # it goes on from before the segment; a new world, and its own count
    lines = [vpt_line(stats={counter: value, "minecraft.custom:minecraft.jump": value}) for value in values]
    assert achieved(read(tmp_path, lines)) == [(2, task), (5, task), (6, task)]
    late = [vpt_line(stats=stats) for stats in ({}, {"minecraft.custom:minecraft.jump": 1}, {counter: 2}, {counter: 2})]
    assert achieved(read(tmp_path, late)) == [(2, task)]
    other = [vpt_line(stats={f"minecraft.drop:minecraft.{item}": value}) for value in (1, 2)]
    assert not achieved(read(tmp_path, other))


def test_inventories_tell_where_there_are_no_counters(tmp_path: Path) -> None:
    def line(gui: bool, *keys: str, **items: int) -> dict[str, Any]:
        stacks = [{"type": kind, "quantity": count} for kind, count in items.items()]
        line = vpt_line(keys, isGuiOpen=gui, inventory=stacks)
        del line["stats"]
        return line

    lines = [
        line(False),
        line(False, oak_log=2),  # mined
        line(True, oak_log=1),  # moved about ...
        line(True, oak_log=2),  # ... and back
        line(True, oak_log=1, oak_planks=4),  # crafted
        line(True, oak_log=1, crafting_table=1),
        line(False, "use", oak_log=1, crafting_table=1),
        line(False, oak_log=1),  # placed
        line(False, "drop", oak_log=1),
        line(False),
    ]
    assert achieved(read(tmp_path, lines)) == [
        (1, "mine_log"),
        (4, "craft_planks"),
        (5, "craft_crafting_table"),
        (7, "place_crafting_table"),
    ]


@pytest.mark.parametrize("quantity", [2**31, 2**63 - 1, -1])
def test_a_count_too_large_is_named(tmp_path: Path, quantity: int) -> None:
    stack = {"type": "oak_log", "quantity": quantity}
    with pytest.raises(ValueError, match=r"jsonl: stats or inventory is not in VPT's format"):
        read(tmp_path, [vpt_line(stats={}, inventory=[stack])])


def test_segments_of_a_folder_and_of_an_index(tmp_path: Path) -> None:
    for name in ("6.7/b.mp4", "6.7/b.jsonl", "6.7/a.mp4", "6.7/c.jsonl", "flat.mp4", "flat.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [name for name, _ in find_segments(tmp_path)] == ["6.7/a", "6.7/b", "6.7/c", "flat"]
    index = tmp_path / "index.json"
    paths = ["6.7/b.mp4", "8.0/flat.mp4", "../x.mp4", "/etc/passwd", "6.7/../../y", "6.7/none"]
    index.write_text(json.dumps({"basedir": "https://example.org/data/", "relpaths": paths}))
    found = dict(find_segments(index))
    assert found == {
        "6.7/b": tmp_path / "6.7/b",
        "8.0/flat": tmp_path / "flat",
        "6.7/none": tmp_path / "6.7/none",
        **dict.fromkeys(("../x", "/etc/passwd", "6.7/../../y")),
    }
    inside = tmp_path / "inside" / "index.json"
    inside.parent.mkdir()
    inside.write_text(json.dumps({"basedir": "../6.7", "relpaths": ["b.mp4", "../flat.mp4"]}))
    # The basedir is its author's own; what it lists must be in there.
    assert dict(find_segments(inside)) == {"b": tmp_path / "inside/../6.7/b", "../flat": None}
    for text in ("{}", "[]", '{"relpaths": []}', "{", DEEP):
        index.write_text(text)
        with pytest.raises(ValueError, match=r"index\.json"):
            find_segments(index)


DEEP = "[" * 100_000

BROKEN = {
    "no line": ([], "the file is empty"),
    "bad json": (['{"mouse": '], "line 2: bad JSON"),
    "a list": (["[]"], "line 2: bad JSON"),
    "nan": ([json.dumps(vpt_line(dx=float("nan")))], "line 2: bad JSON .NaN is not a number"),
    "infinite": (
        [json.dumps(vpt_line()).replace('"dx": 0.0', '"dx": 1e999')],
        "line 2: bad JSON .1e999 is not a number",
    ),
    "unknown key": ([json.dumps(vpt_line() | {"keyboard": {"keys": ["w"]}})], "line 2: unknown key 'w'"),
    "no mouse": (['{"keyboard": {"keys": []}}'], "line 2: 'mouse' is missing"),
    "wrong hotbar": ([json.dumps(vpt_line(hotbar=40))], "line 2: hotbar must be 0 to 8, got 40"),
    "odd stats": ([json.dumps(vpt_line(stats={"minecraft.mine_block:minecraft.oak_log": "x"}))], "stats or inventory"),
    "odd text": (["\x00"], "line 2: bad JSON"),
    "deep": ([DEEP], "line 2: bad JSON"),
    "a large turn": ([json.dumps(vpt_line(dx=10**400))], "line 2: bad JSON .1000.* has more than 64 bits"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_lines_are_named(tmp_path: Path, case: str) -> None:
    lines, said = BROKEN[case]
    first = [json.dumps(vpt_line(stats={"minecraft.mine_block:minecraft.oak_log": 1}))] if lines else []
    path = tmp_path / "a.jsonl"
    last = [json.dumps(vpt_line())] if lines else []  # the last line is read up to, see below
    path.write_text("\n".join([*first, *lines, *last]))
    with pytest.raises(ValueError, match=rf"a\.jsonl.*{said}") as error:
        read_segment(path, "a")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rest", [b'{"mouse": {"dx"', b'{"mouse": "\xc3', b'{"mo\0\0\0\0', b'{"mouse": {\n\n'])
def test_a_last_line_that_was_not_written_to_its_end_is_left_out(tmp_path: Path, rest: bytes) -> None:
    lines = [vpt_line(("forward",), dx=20), vpt_line(("jump",))]
    path = write_lines(tmp_path / "a.jsonl", lines)
    whole = read_segment(path, "a")
    assert whole.changes == ()
    path.write_bytes(path.read_bytes().rstrip() + b"\n" + rest)
    segment = read_segment(path, "a")
    np.testing.assert_array_equal(segment.actions, whole.actions)
    assert segment.changes == ("line 3 of a.jsonl is incomplete and left out",)
    path.write_bytes(rest)
    with pytest.raises(ValueError, match=r"a\.jsonl, line 1: bad JSON"):
        read_segment(path, "a")


def test_what_stands_behind_the_last_line_is_no_line(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [vpt_line(), vpt_line()])
    path.write_bytes(path.read_bytes() + b"\r\n\n" + bytes(100))
    segment = read_segment(path, "a", frames=2)
    assert len(segment.actions) == 2 and segment.changes == ()


@pytest.mark.parametrize("frames", range(1, 13))
def test_a_segment_has_the_timesteps_of_its_video_and_its_lines(tmp_path: Path, frames: int) -> None:
    lines = [vpt_line(("forward",) if i % 2 else (), dx=i) for i in range(7)]
    path = write_lines(tmp_path / "a.jsonl", lines)
    whole = read_segment(path, "a")
    if abs(frames - 7) > 5:
        with pytest.raises(ValueError, match=rf"a.mp4: {frames} frames, but a.jsonl has 7 lines: .* at most 5"):
            read_segment(path, "a", frames)
        return
    segment = read_segment(path, "a", frames)
    kept = min(frames, 7)
    for name in ("actions", "camera", "is_null", "events", "pointer"):
        np.testing.assert_array_equal(getattr(segment, name), getattr(whole, name)[:kept], name)
    said = "cut off at the end: 1 timestep without a frame" if frames == 6 else f"end: {abs(frames - 7)} timestep"
    assert len(segment.changes) == (frames != 7) and all(said in change for change in segment.changes)
