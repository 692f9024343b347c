"""Messages between embody and the server beside the simulator, over a socket; nothing is pickled.

The server runs this very file where MineRL is installed, and nothing else of embody: it must work on Python 3.6 with
numpy alone, and imports no neighbour.

    message = magic "EMBY", version u16, kind u16, bytes of the body u32 (big endian), body
    body    = bytes of the JSON u32, JSON {"values": {...}, "arrays": [[name, dtype, shape], ...]}, the arrays' bytes

Small values are JSON; frames and camera turns are arrays, uint8 or float32 (little endian), one after the other. A body
is at most 4 MiB, which is checked before it is read.

    embody                                    server
    HELLO {environment, max_steps,      ->    WELCOME {environment, max_steps, simulator, actions, frame}
           step_seconds, reset_seconds}
    RESET {seed}                        ->    OBSERVATION {inventory, gui}, arrays frame
    STEP {keys and words}, camera       ->    OBSERVATION {reward, done, inventory, gui}, arrays frame
    any of them                         ->    REFUSED {reason}: it was wrong; nothing happened
    any of them                         ->    FAILED {reason}: the simulator broke; the server hangs up

HELLO says how long the client waits for a STEP, and for anything else. `gui` is whether a GUI is open, null where the
simulator does not say.
"""

import json
import math
import socket
import struct
import time

import numpy as np

MAGIC, VERSION = b"EMBY", 2
LIMIT = 4 * 2**20  # bytes of a body; a frame of 640x360 has 0.7 million
HELLO, WELCOME, RESET, STEP, OBSERVATION, REFUSED, FAILED = KINDS = range(1, 8)
DTYPES = {"uint8": "|u1", "float32": "<f4"}
_HEADER, _LENGTH = struct.Struct("!4sHHI"), struct.Struct("!I")
SECONDS = 60.0  # for a message that has begun


class ProtocolError(Exception):
    """What came is no message of this version of the protocol; one line says why."""


def encode(kind: int, values: dict, arrays: dict) -> bytes:
    """One message; `arrays` are uint8 or float32. A `ValueError` for NaN, a `ProtocolError` for too much."""
    listed = [[name, array.dtype.name, list(array.shape)] for name, array in arrays.items()]
    text = json.dumps({"values": values, "arrays": listed}, allow_nan=False).encode()
    raw = [np.ascontiguousarray(array, DTYPES[array.dtype.name]).tobytes() for array in arrays.values()]
    body = b"".join([_LENGTH.pack(len(text)), text] + raw)
    if len(body) > LIMIT:
        raise ProtocolError(f"a message of {len(body)} bytes, the limit is {LIMIT}")
    return _HEADER.pack(MAGIC, VERSION, kind, len(body)) + body


def send(connection: socket.socket, message: bytes, seconds: float = SECONDS) -> None:
    """Send what `encode` made. A `TimeoutError` if the other side does not take it in time."""
    connection.settimeout(seconds)
    try:
        connection.sendall(message)
    except socket.timeout:
        raise TimeoutError(f"the other side takes no message within {seconds:g} seconds") from None


def receive(connection: socket.socket, seconds: float) -> tuple:
    """The next message's (kind, values, arrays), waiting `seconds` for all of it.

    `ProtocolError`, `TimeoutError`, or a `ConnectionError` if the other side has hung up.
    """
    deadline = time.monotonic() + seconds
    magic, version, kind, length = _HEADER.unpack(_read(connection, _HEADER.size, deadline))
    if magic != MAGIC:
        raise ProtocolError(f"this is not embody's protocol: it begins with {magic!r}")
    if version != VERSION:
        raise ProtocolError(f"protocol version {version}, this side speaks {VERSION}: use the same embody's")
    if kind not in KINDS:
        raise ProtocolError(f"unknown kind of message {kind}")
    if not _LENGTH.size <= length <= LIMIT:
        raise ProtocolError(f"a message of {length} bytes, the limit is {LIMIT}")
    values, arrays = _decode(_read(connection, length, deadline))
    return kind, values, arrays


def drain(connection: socket.socket) -> None:
    """Wait a moment for the other side to hang up: were unread bytes left, it would lose what was said to it last."""
    deadline = time.monotonic() + 1
    try:
        connection.shutdown(socket.SHUT_WR)
        while True:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            if not connection.recv(2**20) or time.monotonic() > deadline:
                return
    except OSError:
        pass


def _read(connection: socket.socket, count: int, deadline: float) -> bytes:
    data = bytearray()
    while len(data) < count:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no answer in time")
        connection.settimeout(left)
        try:
            part = connection.recv(min(count - len(data), 2**20))
        except socket.timeout:
            raise TimeoutError("no answer in time") from None
        if not part:
            raise ConnectionError("the other side has hung up")
        data += part
    return bytes(data)


def _decode(body: bytes) -> tuple:
    (length,) = _LENGTH.unpack_from(body)
    place = _LENGTH.size + length
    if place > len(body):
        raise ProtocolError("the JSON part is longer than its message")
    try:
        head = json.loads(body[_LENGTH.size : place].decode("utf-8"), parse_float=_finite, parse_constant=_finite)
        values, listed = head["values"], head["arrays"]
        if not isinstance(values, dict):
            raise TypeError("values")
        arrays = {}
        for name, dtype, shape in listed:
            if type(name) is not str or name in arrays or type(shape) is not list:
                raise ValueError("arrays")
            if not all(type(side) is int and 0 <= side <= LIMIT for side in shape) or len(shape) > 3:
                raise ValueError("shape")
            count = 1
            for side in shape:
                count *= side
            kind = np.dtype(DTYPES[dtype])
            if place + count * kind.itemsize > len(body):
                raise ValueError("array")
            arrays[name] = np.frombuffer(body, kind, count, place).reshape(shape).copy()
            place += count * kind.itemsize
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProtocolError(f"a damaged message ({type(error).__name__})") from None
    if place != len(body):
        raise ProtocolError(f"{len(body) - place} bytes more than the message's arrays have")
    return values, arrays


def _finite(text: str) -> float:
    number = float(text)  # 1e999 is infinite, too
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number")
    return number
