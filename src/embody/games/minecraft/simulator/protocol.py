"""The messages between embody and the simulator's server over a socket; nothing is pickled.

The server imports this file too, where only Python 3.6, numpy and MineRL are installed, so it imports nothing else of
embody.

    message = magic "EMBY", version u16, kind u16, length of the body u32 (all big endian), body
    body    = length of the JSON u32, JSON {"values": {...}, "arrays": [[name, dtype, shape], ...]}, bytes of the arrays

Lengths are in bytes. Frames and camera turns are arrays, uint8 or little-endian float32, in the order of the list; all
other values are JSON. A body has at most 4 MiB; a longer one is refused before it is read.

    embody                                    server
    HELLO {environment, max_steps,      ->    WELCOME {environment, max_steps, simulator, actions, frame}
           step_seconds, reset_seconds}
    RESET {seed}                        ->    OBSERVATION {inventory, gui}, arrays frame
    STEP {keys and words}, camera       ->    OBSERVATION {reward, done, inventory, gui}, arrays frame
    any of these                        ->    REFUSED {reason}: the message was wrong and had no effect
    any of these                        ->    FAILED {reason}: the simulator failed; the server closes the connection

HELLO names the client's timeouts, at least 1 second and at most an hour: `step_seconds` for the answer to STEP,
`reset_seconds` for all others. A name of an environment matches `ENVIRONMENT`. A reason has at most 500 characters.
`gui` says whether a GUI is open; it is null if the simulator does not tell.
"""

import json
import math
import re
import socket
import struct
import time

import numpy as np

MAGIC, VERSION = b"EMBY", 2
LIMIT = 4 * 2**20  # the most bytes of a body; a frame of 640x360 has 0.7 million
HELLO, WELCOME, RESET, STEP, OBSERVATION, REFUSED, FAILED = KINDS = range(1, 8)
DTYPES = {"uint8": "|u1", "float32": "<f4"}
_HEADER, _LENGTH = struct.Struct("!4sHHI"), struct.Struct("!I")
ENVIRONMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")  # no colon: gym imports the module before a colon
REASON = 500  # the most characters of a reason
SHORTEST, LONGEST = 1, 3600  # seconds: the timeouts that a client may name
SECONDS = 60.0  # how long sending or receiving one message may take


class ProtocolError(Exception):
    """The received bytes are not a message of this version of the protocol; the text is one line."""


def encode(kind: int, values: dict, arrays: dict) -> bytes:
    """The bytes of one message; `arrays` are uint8 or float32.

    Raises a `ValueError` if `values` has a NaN or infinity, and a `ProtocolError` if the body is above `LIMIT`.
    """
    listed = [[name, array.dtype.name, list(array.shape)] for name, array in arrays.items()]
    text = json.dumps({"values": values, "arrays": listed}, allow_nan=False).encode()
    raw = [np.ascontiguousarray(array, DTYPES[array.dtype.name]).tobytes() for array in arrays.values()]
    body = b"".join([_LENGTH.pack(len(text)), text] + raw)
    if len(body) > LIMIT:
        raise ProtocolError(f"a message has {len(body)} bytes, the limit is {LIMIT}")
    return _HEADER.pack(MAGIC, VERSION, kind, len(body)) + body


def send(connection: socket.socket, message: bytes, seconds: float = SECONDS) -> None:
    """Send the bytes of one message; a `TimeoutError` if the other side has not taken them after `seconds`."""
    connection.settimeout(seconds)
    try:
        connection.sendall(message)
    except socket.timeout:
        raise TimeoutError(f"the other side has not taken the message within {seconds:g} seconds") from None


def receive(connection: socket.socket, seconds: float) -> tuple:
    """Receive one whole message within `seconds`: (kind, values, arrays).

    Raises a `ProtocolError` if the bytes are not a message, a `TimeoutError` if it is late, and a `ConnectionError` if
    the other side has closed the connection.
    """
    deadline = time.monotonic() + seconds
    magic, version, kind, length = _HEADER.unpack(_read(connection, _HEADER.size, deadline))
    if magic != MAGIC:
        raise ProtocolError(f"this is not embody's protocol: it begins with {magic!r}")
    if version != VERSION:
        raise ProtocolError(f"protocol version {version}, this side has {VERSION}: use the same embody on both sides")
    if kind not in KINDS:
        raise ProtocolError(f"unknown kind of message {kind}")
    if not _LENGTH.size <= length <= LIMIT:
        raise ProtocolError(f"a message has {length} bytes, the limit is {LIMIT}")
    values, arrays = _decode(_read(connection, length, deadline))
    return kind, values, arrays


def drain(connection: socket.socket) -> None:
    """Wait up to a second for the other side to close, reading what it still sends.

    Closing a socket with unread bytes resets the connection, and the other side could lose the last message.
    """
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
            raise ConnectionError("the other side has closed the connection")
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
        raise ProtocolError(f"the message has {len(body) - place} bytes more than its arrays")
    return values, arrays


def _finite(text: str) -> float:
    number = float(text)  # "1e999" is infinite too
    if not math.isfinite(number):
        raise ValueError(f"{text} is not finite")
    return number
