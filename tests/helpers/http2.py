"""Calls as the frames of HTTP/2 that they consist of, so that a test can stop, cut or spoil them anywhere."""

import socket
import struct
from contextlib import contextmanager, suppress

from attention_patterns_service.server.methods import SERVICE

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9  # kinds of frames
_END_STREAM, _ACKNOWLEDGED, _END_HEADERS = 1, 1, 4  # flags
_INITIAL_WINDOW_SIZE = 4  # of the settings: bytes of answers that may come before the client asks for more


def frame(kind, flags, stream, payload=b""):
    """Returns a frame."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


SETTINGS_KNOWN = frame(SETTINGS, _ACKNOWLEDGED, 0)  # answers the other end's settings
HELLO = PREFACE + frame(SETTINGS, 0, 0)


def window(size):
    """Returns the settings of a client that takes ``size`` bytes of answers."""
    return frame(SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, size))


def head_block(name, more=None):
    """Returns the header fields of a call, in HPACK without indexing."""
    plain = {":method": "POST", ":scheme": "http", ":path": f"/{SERVICE}/{name}", ":authority": "localhost"}
    pairs = (plain | {"te": "trailers", "content-type": "application/grpc"} | (more or {})).items()
    return b"".join(b"\0" + _pack(key) + _pack(value) for key, value in pairs)


def head(stream, name, more=None):
    """Returns the frame that begins a call."""
    return frame(HEADERS, _END_HEADERS, stream, head_block(name, more))


def _pack(text):
    data, size = text.encode(), len(text.encode())
    if size < 127:
        return bytes([size]) + data
    out, size = bytearray([127]), size - 127
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    return bytes([*out, size]) + data


def prefixed(message, *, compressed=0):
    """Returns a message as it stands in a call, after its size."""
    return struct.pack(">BI", compressed, len(message)) + message


def data(payload, *, stream=1, end=False):
    """Returns the frame that holds a piece of a message."""
    return frame(DATA, _END_STREAM if end else 0, stream, payload)


@contextmanager
def connection(port, *words):
    """Yields a connection on which ``words`` were sent."""
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connected:
        connected.sendall(b"".join(words))
        yield connected


@contextmanager
def settled_connection(port, *words):
    """Yields a connection on which both ends know the settings, and ``words`` were sent.

    Before that the server takes no more than 64 KB.
    """
    with connection(port, PREFACE, window(1 << 16)) as connected:
        read_until(connected, SETTINGS_KNOWN)
        connected.sendall(b"".join((SETTINGS_KNOWN, *words)))
        yield connected


def read_until(connected, wanted=None):
    """Reads until ``wanted`` came or, by default, until the server closes the connection."""
    received = b""
    with suppress(ConnectionError):
        while not (wanted and wanted in received):
            piece = connected.recv(1 << 16)
            if not piece:
                break
            received += piece
    assert wanted is None or wanted in received
    return received


def ended_with(code):
    """Returns the bytes of the trailers that end a call with a gRPC code."""
    return b"\x0bgrpc-status" + bytes([len(str(code))]) + str(code).encode()
