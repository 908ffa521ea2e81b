"""Calls servers at the least cost: ready bytes out, the answer back, its status and length checked.

On two cores the server lacks whatever a caller spends. grpcio's own stub, given ready bytes, spends 0.4 ms of
CPU on a call of one image, more than some servers, and a caller over a bare socket 0.06 ms; so HTTP/1.1, and HTTP/2 in
which gRPC travels, are both spoken here over bare sockets.
"""

import socket
from typing import Protocol, Self

_TIMEOUT = 60.0  # seconds
_READ = 1 << 18


class CallError(ConnectionError):
    """The server closed the connection or did not answer with success."""


class Caller(Protocol):
    """A connection over which one prepared request is sent again and again."""

    def __call__(self) -> bytes:
        """Sends the request, and returns the answer."""

    def __enter__(self) -> Self:
        """Returns the caller itself."""

    def __exit__(self, *exception: object) -> None:
        """Closes the connection."""


class _Connection:
    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _receive(self) -> bytes:
        data = self._socket.recv(_READ)
        if not data:
            raise CallError("the server closed the connection")
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()


class HttpCaller(_Connection):
    """A caller that POSTs one body over a kept-alive connection."""

    def __init__(self, port: int, path: str, body: bytes) -> None:
        """Connects."""
        super().__init__(port)
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/octet-stream\r\n"
        self._request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def __call__(self) -> bytes:
        """Sends the request, and returns the body of the answer."""
        self._socket.sendall(self._request)
        data = self._receive()
        while b"\r\n\r\n" not in data:
            data += self._receive()
        head, _, body = data.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if not head.startswith(b"HTTP/1.1 200 ") or not length:
            raise CallError(f"the server answered {data[:300]!r}")
        while len(body) < int(length):
            body += self._receive()
        return body


# Frames and flags of HTTP/2, RFC 9113.
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_HEADER_TABLE_SIZE, _INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 1, 4, 5
_LARGEST_WINDOW = 2**31 - 1  # never used up by the answers of one measurement, so never widened
_SUCCESS = b"grpc-status\x010"


class GrpcCaller(_Connection):
    """A caller that makes one unary gRPC call over and over, with a message that is ready."""

    def __init__(self, port: int, path: str, message: bytes) -> None:
        """Connects, and waits for the server's settings."""
        super().__init__(port)
        self._message = memoryview(b"\0" + len(message).to_bytes(4, "big") + message)
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": f"127.0.0.1:{port}",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        self._fields = b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())
        self._stream = -1
        self._window = self._initial_window = self._stream_window = 65_535
        self._max_frame: int | None = None
        self._unread = b""
        settings = {_HEADER_TABLE_SIZE: 0, _INITIAL_WINDOW_SIZE: _LARGEST_WINDOW}
        widening = (_LARGEST_WINDOW - self._window).to_bytes(4, "big")
        self._socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_SETTINGS, b"".join(key.to_bytes(2, "big") + n.to_bytes(4, "big") for key, n in settings.items()))
            + _frame(_WINDOW_UPDATE, widening)
        )
        while self._max_frame is None:
            self._read()

    def __call__(self) -> bytes:
        """Makes the call, and returns the message of the answer."""
        self._stream += 2
        self._stream_window = self._initial_window
        self._answer, self._trailers = b"", b""
        self._send()
        while not self._trailers:
            self._read()
        if _SUCCESS not in self._trailers:
            raise CallError(f"the server answered {self._trailers!r}")
        return self._answer[5:]

    def _send(self) -> None:
        head, begin = _frame(_HEADERS, self._fields, _END_HEADERS, self._stream), 0
        while begin < len(self._message):
            end = min(len(self._message), begin + min(self._max_frame or 0, self._window, self._stream_window))
            if end == begin:
                self._read()
                continue
            last = _END_STREAM if end == len(self._message) else 0
            head += _head(end - begin, _DATA, last, self._stream)
            self._socket.sendall(head, socket.MSG_MORE)  # goes with what follows, which is not copied
            self._socket.sendall(self._message[begin:end])
            self._window -= end - begin
            self._stream_window -= end - begin
            head, begin = b"", end

    def _read(self) -> None:
        """Takes all frames that have come whole."""
        data, begin = self._unread + self._receive(), 0
        while len(data) >= begin + 9:
            end = begin + 9 + int.from_bytes(data[begin : begin + 3], "big")
            if len(data) < end:
                break
            stream = int.from_bytes(data[begin + 5 : begin + 9], "big")
            self._take(data[begin + 3], data[begin + 4], stream, data[begin + 9 : end])
            begin = end
        self._unread = data[begin:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self._answer += payload
        elif kind == _HEADERS and flags & _END_STREAM:
            self._trailers = payload
        elif kind == _WINDOW_UPDATE:
            if stream == 0:
                self._window += int.from_bytes(payload, "big")
            elif stream == self._stream:
                self._stream_window += int.from_bytes(payload, "big")
        elif kind == _SETTINGS and not flags & _ACK:
            self._set(payload)
            self._socket.sendall(_frame(_SETTINGS, b"", _ACK))
        elif kind == _PING and not flags & _ACK:
            self._socket.sendall(_frame(_PING, payload, _ACK))
        elif kind in {_RST_STREAM, _GOAWAY}:
            raise CallError(f"the server broke off: frame {kind}, {payload!r}")

    def _set(self, payload: bytes) -> None:
        settings = {
            int.from_bytes(payload[i : i + 2], "big"): int.from_bytes(payload[i + 2 : i + 6], "big")
            for i in range(0, len(payload), 6)
        }
        self._max_frame = settings.get(_MAX_FRAME_SIZE, self._max_frame or 16_384)
        window = settings.get(_INITIAL_WINDOW_SIZE, self._initial_window)
        self._stream_window += window - self._initial_window
        self._initial_window = window


def _head(size: int, kind: int, flags: int = 0, stream: int = 0) -> bytes:
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")


def _frame(kind: int, payload: bytes, flags: int = 0, stream: int = 0) -> bytes:
    return _head(len(payload), kind, flags, stream) + payload


def _text(text: str) -> bytes:
    """Returns a string of HPACK, shorter than 127 bytes and not Huffman-coded."""
    return bytes((len(text),)) + text.encode()
