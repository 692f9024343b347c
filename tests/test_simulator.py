"""The client and the real server script, with a fake MineRL that refuses the actions that the real one refuses."""

import ast
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embody.errors import UserError
from embody.games.minecraft.actions import VPT, ActionSpace, camera_bins, minerl_space
from embody.games.minecraft.simulator import MineRLEnv, SimulatorLost, area_average, protocol
from embody.games.minecraft.simulator.client import SimulatorUnreachable
from tests.simulators import SERVER, Server, record_episode, serving

RECORDED = Path(__file__).parents[1] / ".." / "shared" / "data" / "vpt_actions"
DIAMOND, SURVIVAL = "MineRLObtainDiamond-v0", "MineRLHumanSurvival-v0"


def connect(server: Server | str, environment: str = DIAMOND, **options: Any) -> MineRLEnv:
    address = server if isinstance(server, str) else server.address
    settings = {"height": 64, "width": 64, "max_steps": 100, "step_seconds": 5.0, "reconnect_seconds": 20.0} | options
    return MineRLEnv(address, environment, **settings)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("small")
    record_episode(folder / "episode.npz", (64, 64))
    with serving(folder, folder / "episode.npz") as server:
        yield server


# --- playing --------------------------------------------------------------------------------------------------------


def test_a_recorded_episode_arrives_unchanged(tmp_path: Path) -> None:
    episode = record_episode(tmp_path / "episode.npz", (64, 64))
    space, random = minerl_space(DIAMOND), np.random.default_rng(1)
    with serving(tmp_path, tmp_path / "episode.npz") as server:
        env = connect(server)
        assert env.space == space and env.simulator == "minerl 0.0.fake"
        frame, info = env.reset(seed=3)
        np.testing.assert_array_equal(frame, episode["pov"][0])
        assert info == {"inventory": {"dirt": 3}, "gui": None}
        actions = random.integers(0, space.spec.sizes, (8, len(space.spec.sizes)))
        for t, action in enumerate(actions, 1):
            assert env.action_space.contains(action)
            frame, reward, terminated, truncated, info = env.step(action)
            np.testing.assert_array_equal(frame, episode["pov"][t])
            assert env.observation_space.contains(frame)
            assert reward == episode["reward"][t - 1]
            assert (terminated, truncated) == (t == 8, False)
            counts = dict(zip(episode["items"].tolist(), episode["inventory"][t].tolist(), strict=True))
            assert info["inventory"] == {item: count for item, count in counts.items() if count}
        with pytest.raises(ValueError, match="refuses: no episode is under way: send RESET first"):
            env.step(space.nothing)
        first, *played = server.calls
    assert first == {"seed": 3, "limit": 100}  # and not MineRL's own limit of 18,000
    for action, call in zip(actions, played, strict=True):
        np.testing.assert_array_equal(space.factors(call), action)
        assert call["camera"] == space.dictionary(action)["camera"].tolist()  # float32, bit for bit


def test_vpt_frames_and_the_time_limit(tmp_path: Path) -> None:
    episode = record_episode(tmp_path / "episode.npz", (360, 640))
    with serving(tmp_path, tmp_path / "episode.npz") as server:
        env = connect(server, SURVIVAL, height=360, width=640, max_steps=3)
        assert env.space == VPT
        np.testing.assert_array_equal(env.reset(seed=0)[0], episode["pov"][0])
        ends = [env.step(VPT.nothing)[2:4] for _ in range(3)]
        assert ends == [(False, False), (False, False), (False, True)]  # done at the time limit is no terminal
        env.close()
        env = connect(server, SURVIVAL, height=64, width=64, max_steps=3)
        shrunk = env.reset(seed=0)[0]
        assert shrunk.shape == (64, 64, 3) and env.observation_space.contains(shrunk)
        assert [call for call in server.calls if "closed" in call] == []  # the simulator was kept for the second client


def test_frames_shrink_by_area() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    means = frame.reshape(4, 3, 5, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(area_average(frame, 4, 5), means, atol=1)  # rounded once an axis
    assert area_average(frame, 12, 20) is frame


@pytest.mark.skipif(not RECORDED.exists(), reason="no recorded actions in ../shared/data")
def test_all_actions_of_a_person_are_accepted(tmp_path: Path) -> None:
    """Real VPT actions survive the conversion to factors and back; the camera stays in its bin."""
    with np.load(sorted(RECORDED.glob("*.npz"))[0]) as file:
        recorded = {name: file[name] for name in file.files}
    degrees = (recorded.pop("camera").astype(float) - 40) * 0.5
    keys = {name: value for name, value in recorded.items() if name in VPT.keys}
    assert len(keys) >= 20
    factors = VPT.factors({**keys, "camera": degrees})[:300]
    record_episode(tmp_path / "episode.npz", (4, 4), steps=300)
    with serving(tmp_path, tmp_path / "episode.npz") as server:
        env = connect(server, "MineRLHumanSurvival-v0", height=4, width=4, max_steps=300)
        env._frame_shape = (4, 4, 3)  # the size of the recorded episode
        env.reset(seed=0)
        for action in factors:
            env.step(action)
        played = server.calls[1:]
    assert len(played) == 300
    for t, call in enumerate(played):
        assert {key: call[key] for key in keys} == {key: int(value[t]) for key, value in keys.items()}
        assert camera_bins(call["camera"]) == camera_bins(degrees[t])


# --- actions that the simulator does not have -----------------------------------------------------------------------


def _without(values: dict[str, Any], arrays: dict[str, Any]) -> None:
    del values["jump"]


def _camera(value: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda values, arrays: arrays.update(camera=value)


def _key(name: str, value: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda values, arrays: values.update({name: value})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_without, "'jump' is missing"),
        (_key("hotbar.1", 1), "'hotbar.1' is not known"),
        (_key("jump", 2), "action jump: 2 is not in"),
        (_key("jump", 1.0), "action jump: 1.0 is not in"),
        (_key("jump", True), "action jump: True is not in"),
        (_key("place", "bed"), "action place: 'bed' is not in"),
        (_key("place", 3), "action place: 3 is not in"),
        (_key("camera", [0.0, 0.0]), "action camera: "),
        (_camera(np.array([0, 181], np.float32)), r"action camera: float32 \[0.0, 181.0\] is not in"),
        (_camera(np.array([-181, 0], np.float32)), r"action camera: float32 \[-181.0, 0.0\] is not in"),
        (_camera(np.array([0, np.nan], np.float32)), "action camera: float32"),
        (_camera(np.array([0, 1], np.uint8)), r"action camera: uint8 \[0, 1\] is not in"),
        (_camera(np.zeros(3, np.float32)), "action camera: float32"),
    ],
)
def test_a_wrong_action_is_refused(
    small: Server, change: Callable[[dict[str, Any], dict[str, Any]], None], says: str
) -> None:
    """The server checks keys, types and ranges before the simulator gets the action."""
    env = connect(small)
    env.reset(seed=0)
    played = len(small.calls)
    values = env.space.dictionary(env.space.nothing)
    arrays = {"camera": values.pop("camera")}
    change(values, arrays)
    if says == "action camera: ":
        arrays.clear()
    env._send(protocol.STEP, values, arrays)
    with pytest.raises(ValueError, match=says):
        env.step_wait()
    assert len(small.calls) == played


def test_unknown_action_spaces_are_errors(small: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match=r"MineRLOdd-v0 has actions that embody does not know: 'ESC' is missing \(vpt\)"
    ):
        connect(small, "MineRLOdd-v0")
    with pytest.raises(ValueError, match="MineRLUnbounded-v0 has actions that embody does not know"):
        connect(small, "MineRLUnbounded-v0")  # JSON has no infinite ranges
    with pytest.raises(
        ValueError, match=r"takes obfuscated actions \(VectorObf: .* not supported: use MineRLTreechop-v0"
    ):
        connect(small, "MineRLTreechopVectorObf-v0")
    refusal = None
    try:
        connect(small, "MineRLOdd-v0")
    except ValueError as error:
        refusal = error  # the traceback keeps the environment alive; its connection must be closed even so
    connect(small, reconnect_seconds=1.0, reset_seconds=2.0).close()
    assert refusal is not None
    with pytest.raises(ValueError, match="refuses: MineRLNavigate-v0 is no environment of this simulator"):
        connect(small, "MineRLNavigate-v0")
    with pytest.raises(ValueError, match="refuses: HELLO needs an environment and max_steps of 1 or more"):
        connect(small, max_steps=0)
    fewer = ActionSpace(
        "minerl044", minerl_space(DIAMOND).keys, {**minerl_space(DIAMOND).words, "craft": ("none", "bed")}
    )
    monkeypatch.setattr("embody.games.minecraft.simulator.client.minerl_space", lambda _: fewer)
    with pytest.raises(ValueError, match=r"craft is {'kind': 'enum', 'values': \['crafting_table'"):
        connect(small)


# --- simulators that break ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("die", "the other side has closed the connection|reset by peer"),
        ("hang", "the simulator failed: it has not answered for 1.8 seconds"),  # the client waits for 2
        ("raise", "the simulator failed: RuntimeError: the JVM is gone"),
        ("break", "the simulator failed: RuntimeError: the JVM is gone"),
        ("nan", "the simulator failed: ValueError: a reward of nan"),
    ],
)
def test_a_lost_simulator_costs_one_episode(tmp_path: Path, fault: str, says: str) -> None:
    episode = record_episode(tmp_path / "episode.npz", (64, 64))
    with serving(tmp_path, tmp_path / "episode.npz", fault=fault, step=2) as server:
        env = connect(server, step_seconds=2.0, reset_seconds=5.0)
        env.reset(seed=0)
        for _ in range(2):
            env.step(env.space.nothing)
        with pytest.raises(SimulatorLost, match=says):
            env.step(env.space.nothing)
        with pytest.raises(SimulatorLost, match="not connected"):
            env.step(env.space.nothing)
        frame, _ = env.reset(seed=1)  # waits until the server is up again
        np.testing.assert_array_equal(frame, episode["pov"][0])
        for _ in range(8):
            *_, terminated, _, _ = env.step(env.space.nothing)
        assert terminated
        survives = fault in ("raise", "break", "nan")
        assert server.starts == (1 if survives else 2)
        assert ({"closed": True} in server.calls) == survives  # then a new one is made
        said = {"hang": "the simulator hangs: it has not answered for 1.8 seconds: the server exits"}
        said["break"] = "the simulator does not close: RuntimeError: nothing left to close"
        assert fault not in said or said[fault] in server.said


def test_an_idle_client_is_disconnected_if_another_one_waits(tmp_path: Path) -> None:
    episode = record_episode(tmp_path / "episode.npz", (64, 64))
    with serving(tmp_path, tmp_path / "episode.npz", "--idle-timeout", "1") as server:
        silent = socket.create_connection(("127.0.0.1", server.port))  # not even HELLO
        env = connect(server)
        env.reset(seed=0)
        time.sleep(1.5)  # no other client waits, so being idle is allowed
        np.testing.assert_array_equal(env.step(env.space.nothing)[0], episode["pov"][1])
        began = time.monotonic()
        other = connect(server)
        assert 0.5 < time.monotonic() - began < 4
        with pytest.raises(SimulatorLost):
            env.step(env.space.nothing)
        other.close()
        env.reset(seed=1)
        assert server.said.count("client disconnected: idle for 1 seconds while another client waits") == 2
        server.kill()  # between two episodes
        while server.starts == 1:
            time.sleep(0.02)
        env.reset(seed=2)  # reconnects, and no episode is lost
        silent.close()
        env.close()


def test_a_simulator_that_cannot_be_made_is_reported_at_once(small: Server) -> None:
    """The client retries only a server that has worked before."""
    began = time.monotonic()
    with answering(message(protocol.FAILED, {"reason": "no Java"})) as address:
        with pytest.raises(SimulatorUnreachable, match=r"no simulator at .* \(the simulator failed: no Java\)"):
            connect(address)
    with pytest.raises(SimulatorUnreachable, match="no simulator at nowhere.invalid:5555"):
        connect("nowhere.invalid:5555")
    assert time.monotonic() - began < 10
    with pytest.raises(ValueError, match="refuses: CartPole-v0 is no environment of MineRL's"):
        connect(small, "CartPole-v0")
    with pytest.raises(ValueError, match="refuses: HELLO needs step_seconds and reset_seconds of 1 to 3600"):
        connect(small, reset_seconds=1e6)
    with pytest.raises(ValueError, match="refuses: HELLO needs step_seconds and reset_seconds of 1 to 3600"):
        connect(small, step_seconds=0.5)
    connect(small).close()  # neither of them ended the server


@pytest.mark.parametrize("environment", ["secrets:MineRLObtainDiamond-v0", "", "a/b-v0", "a\nb", "a" * 101, "-v0"])
def test_a_name_of_an_environment_cannot_import_a_module(small: Server, environment: str) -> None:
    with pytest.raises(ValueError, match="is no name of an environment"):
        connect(small, environment)
    host, port = small.address.split(":")
    with socket.create_connection((host, int(port))) as client:
        hello = {"environment": environment, "max_steps": 5, "step_seconds": 5.0, "reset_seconds": 5.0}
        protocol.send(client, protocol.encode(protocol.HELLO, hello, {}))
        kind, values, _ = protocol.receive(client, 5.0)
    assert kind == protocol.REFUSED and "is no name of an environment" in values["reason"]


@pytest.mark.parametrize("kind", [protocol.REFUSED, protocol.FAILED])
def test_a_servers_words_are_one_line_of_bounded_length(kind: int) -> None:
    with answering(message(kind, {"reason": "no\n\x1b[31m\u202e" + "x" * 10_000})) as address:
        with pytest.raises((UserError, SimulatorUnreachable), match=r"no\\n\\x1b\[31m\\u202exxx") as refusal:
            connect(address)
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 800


def test_a_restarted_server_must_have_the_same_simulator() -> None:
    with answering(
        message(protocol.WELCOME, WELCOME), again=message(protocol.WELCOME, WELCOME | {"simulator": "b"})
    ) as a:
        env = connect(a)
        with pytest.raises(SimulatorLost):
            env.step(env.space.nothing)
        with pytest.raises(ValueError, match="the server has another simulator now, b instead of a test"):
            env.reset(seed=0)


def test_a_missing_server_is_reported_at_once_in_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    began = time.monotonic()
    with pytest.raises(SimulatorUnreachable, match=rf"no simulator at {address} \(.*refused\): start its server"):
        connect(address, reconnect_seconds=20.0)
    assert time.monotonic() - began < 5
    with pytest.raises(ValueError, match="--server localhost: expected host:port"):
        connect("localhost")


# --- the protocol ---------------------------------------------------------------------------------------------------


def header(
    length: int, magic: bytes = b"EMBY", version: int = protocol.VERSION, kind: int = protocol.OBSERVATION
) -> bytes:
    return struct.pack("!4sHHI", magic, version, kind, length)


def body(text: str, raw: bytes = b"") -> bytes:
    return struct.pack("!I", len(text)) + text.encode() + raw


def whole(text: str, raw: bytes = b"") -> bytes:
    content = body(text, raw)
    return header(len(content)) + content


MALFORMED = [
    (b"GET / HTTP/1.1\r\n\r\n", "this is not embody's protocol: it begins with b'GET '"),
    (header(10, version=1) + bytes(10), "protocol version 1, this side has 2"),
    (header(10, kind=9), "unknown kind of message 9"),
    (header(4 * 2**20 + 1), "a message has 4194305 bytes, the limit is 4194304"),
    (header(0), "a message has 0 bytes"),
    (header(4) + struct.pack("!I", 9), "the JSON part is longer than its message"),
    (whole("{"), "a damaged message"),
    (whole("[1, 2]"), "a damaged message"),
    (whole('{"values": {"reward": NaN}, "arrays": []}'), "a damaged message"),
    (whole('{"values": {"reward": 1e999}, "arrays": []}'), "a damaged message"),
    (whole('{"values": {}, "arrays": [[["frame"], "uint8", [1]]]}', b"x"), "a damaged message"),
    (whole('{"values": {}, "arrays": [["a", "uint8", [1]], ["a", "uint8", [1]]]}', b"xx"), "a damaged message"),
    (whole('{"values": {}, "arrays": [["frame", "object", [1]]]}', b"x"), "a damaged message"),
    (whole('{"values": {}, "arrays": [["frame", "uint8", [-1]]]}', b"x"), "a damaged message"),
    (whole('{"values": {}, "arrays": [["frame", "uint8", [1000, 1000, 1000]]]}', b"x"), "a damaged message"),
    (whole('{"values": {}, "arrays": [["frame", "uint8", [4194304, 4194304, 4194304]]]}', b"x"), "a damaged message"),
    (
        whole('{"values": {}, "arrays": [["frame", "uint8", [1]]]}', b"xyz"),
        "has 2 bytes more than its arrays",
    ),
    (whole("[" * 100_000), "a damaged message"),
]


@pytest.mark.parametrize(("sent", "says"), MALFORMED)
def test_malformed_messages_are_refused_and_the_next_client_is_served(small: Server, sent: bytes, says: str) -> None:
    with socket.create_connection(("127.0.0.1", small.port)) as connection:
        connection.sendall(sent)
        kind, values, _ = protocol.receive(connection, 5.0)
        assert kind == protocol.REFUSED and says in values["reason"]
        assert connection.recv(1) == b""  # the server has closed the connection
    assert connect(small).reset(seed=0)[0].shape == (64, 64, 3)


def test_a_client_must_send_hello_first(small: Server) -> None:
    with socket.create_connection(("127.0.0.1", small.port)) as connection:
        for kind in (protocol.RESET, protocol.STEP, protocol.OBSERVATION):
            protocol.send(connection, protocol.encode(kind, {"seed": 0}, {}))
            assert protocol.receive(connection, 5.0)[:2] == (protocol.REFUSED, {"reason": "send HELLO first"})


WELCOME = {
    "environment": DIAMOND,
    "max_steps": 100,
    "simulator": "a test",
    "actions": {
        **{key: {"kind": "discrete", "n": 2} for key in minerl_space(DIAMOND).keys},
        **{word: {"kind": "enum", "values": list(values)} for word, values in minerl_space(DIAMOND).words.items()},
        "camera": {"kind": "box", "low": -180.0, "high": 180.0, "shape": [2], "dtype": "float32"},
    },
    "frame": [64, 64, 3],
}


@contextmanager
def answering(*answers: bytes, again: bytes = b"") -> Iterator[str]:
    """The address of a server that sends these `answers` to any messages, and `again` to a second client."""

    def serve() -> None:
        for each in (answers, (again,)) if again else (answers,):
            connection, _ = listener.accept()
            with connection:
                for answer in each:
                    protocol.receive(connection, 5.0)
                    connection.sendall(answer)
                protocol.drain(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def message(kind: int, values: dict[str, Any], **arrays: np.ndarray) -> bytes:
    return protocol.encode(kind, values, arrays)


@pytest.mark.parametrize(("sent", "says"), MALFORMED)
def test_malformed_answers_of_a_server_are_errors(sent: bytes, says: str) -> None:
    with answering(sent) as address, pytest.raises(ValueError, match="127.0.0.1:.*") as refusal:
        connect(address)
    assert says in str(refusal.value)
    with answering(message(protocol.WELCOME, WELCOME), sent) as address:
        env = connect(address)
        with pytest.raises(SimulatorLost) as lost:  # during an episode, only this episode is lost
            env.reset(seed=0)
        assert says in str(lost.value)


FRAME = np.zeros((64, 64, 3), np.uint8)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (message(protocol.OBSERVATION, {"inventory": {}}), "the frame is not uint8 of"),
        (message(protocol.OBSERVATION, {"inventory": {}}, frame=FRAME[:32]), "the frame is not uint8 of"),
        (message(protocol.OBSERVATION, {"inventory": {}}, frame=FRAME.astype(np.float32)), "the frame is not uint8"),
        (
            message(protocol.OBSERVATION, {"inventory": {"log": 0.5}}, frame=FRAME),
            "does not map items to counts",
        ),
        (
            message(protocol.OBSERVATION, {"inventory": {"log": -1}}, frame=FRAME),
            "does not map items to counts",
        ),
        (
            message(protocol.OBSERVATION, {"inventory": {"log": 2**64}}, frame=FRAME),
            "does not map items to counts",
        ),
        (message(protocol.OBSERVATION, {"inventory": {}}, frame=FRAME), "does not say whether a GUI is open"),
        (message(protocol.OBSERVATION, {"inventory": {}, "gui": 0}, frame=FRAME), "does not say whether a GUI is open"),
        (message(protocol.OBSERVATION, {}, frame=FRAME), "does not map items to counts"),
        (message(protocol.WELCOME, WELCOME), "answered with a message of kind 2, expected 5"),
    ],
)
def test_wrong_observations_lose_the_episode(answer: bytes, says: str) -> None:
    with answering(message(protocol.WELCOME, WELCOME), answer) as address:
        env = connect(address)
        with pytest.raises(SimulatorLost, match=says):
            env.reset(seed=0)


@pytest.mark.parametrize("reward", ["1", None, True, 10**400, []])
def test_wrong_rewards_lose_the_episode(reward: Any) -> None:
    step = {"inventory": {}, "gui": False, "reward": reward, "done": False}
    first = message(protocol.OBSERVATION, {"inventory": {}, "gui": True}, frame=FRAME)
    with answering(
        message(protocol.WELCOME, WELCOME), first, message(protocol.OBSERVATION, step, frame=FRAME)
    ) as address:
        env = connect(address)
        assert env.reset(seed=0)[1] == {"inventory": {}, "gui": True}
        with pytest.raises(SimulatorLost, match="the server's answer has no reward or end"):
            env.step(env.space.nothing)


def test_a_server_of_another_environment() -> None:
    with answering(message(protocol.WELCOME, WELCOME | {"max_steps": 9})) as address:
        with pytest.raises(ValueError, match="the server has max_steps 9, expected 100"):
            connect(address)


def variants(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """(path, changed copy): each leaf and container is replaced by odd values in turn, and each member removed."""
    for odd in (5, -1, 2.5, 10**30, True, "x", "a\nb", [], [1], [[1]], {}, {"place": 5}, {"values": [[1]]}, None):
        yield path, odd
    members = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, member in members:
        for where, changed in [*variants(member, (*path, key)), ((*path, key), KeyError)]:
            copy = value.copy()
            copy[key] = changed
            if changed is KeyError:
                del copy[key]
            yield where, copy


def test_every_malformed_welcome_is_one_line_that_names_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = [WELCOME]

    def receive(*_: Any) -> Any:
        return protocol.WELCOME, *protocol._decode(protocol.encode(protocol.WELCOME, sent[0], {})[12:])

    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: socket.socket())
    monkeypatch.setattr(protocol, "send", lambda *_: None)
    monkeypatch.setattr(protocol, "receive", receive)
    connect("127.0.0.1:1").close()
    refused, taken = 0, []
    for where, sent[0] in variants(WELCOME):
        try:
            connect("127.0.0.1:1").close()
            taken.append(where)
        except ValueError as error:
            assert type(error) is UserError and len(str(error)) < 500 and "\n" not in str(error)
            names = (
                where[1] if where[:1] == ("actions",) and len(where) > 1 else where[0] if where else "damaged message"
            )
            assert names in str(error) or where == ()
            refused += 1
    assert refused > 1000 and taken == [("simulator",), ("frame", 0), ("frame", 1)]  # only these changes are valid


def test_a_slow_sender_cannot_extend_the_timeout() -> None:
    """Single bytes do not restart the timeout."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stop = threading.Event()

        def drip() -> None:
            theirs.sendall(header(1000))
            while not stop.wait(0.05):
                theirs.sendall(b"x")

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            protocol.receive(ours, 0.3)
        assert time.monotonic() - began < 1
        stop.set()
        thread.join()


def test_messages_survive_a_round_trip() -> None:
    ours, theirs = socket.socketpair()
    arrays = {"frame": np.arange(24, dtype=np.uint8).reshape(2, 4, 3)[:, ::-1], "camera": np.float32([0.1, -180])}
    with ours, theirs:
        protocol.send(ours, protocol.encode(protocol.STEP, {"place": "none", "jump": 1}, arrays))
        kind, values, came = protocol.receive(theirs, 1.0)
        assert (kind, values) == (protocol.STEP, {"place": "none", "jump": 1})
        for name, array in arrays.items():
            np.testing.assert_array_equal(came[name], array)
            assert came[name].dtype == array.dtype and came[name].flags.writeable
        with pytest.raises(protocol.ProtocolError, match="the limit is"):
            protocol.encode(protocol.OBSERVATION, {}, {"frame": np.zeros((1200, 1200, 3), np.uint8)})
        with pytest.raises(ValueError):
            protocol.encode(protocol.OBSERVATION, {"reward": float("nan")}, {})


@pytest.mark.parametrize("name", ["server.py", "protocol.py"])
def test_the_server_runs_on_old_pythons(name: str) -> None:
    """It uses Python 3.6's grammar and imports only the standard library, numpy, gym, minerl and `protocol`."""
    tree = ast.parse((SERVER.parent / name).read_text(), feature_version=(3, 6))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(f"{'.' * node.level}{node.module}")
    library = {
        "argparse",
        "contextlib",
        "json",
        "math",
        "os",
        "select",
        "socket",
        "struct",
        "sys",
        "threading",
        "time",
        "typing",
        "pkg_resources",
        "re",
    }
    assert imported <= library | {"numpy", "gym", "minerl", "protocol"}
    assert "pickle" not in (SERVER.parent / name).read_text().replace("nothing is pickled", "")
