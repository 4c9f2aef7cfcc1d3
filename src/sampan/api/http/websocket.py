"""The server's side of the WebSocket protocol (RFC 6455) without I/O: handshake and frames.

Messages are passed on as their bytes come, so that nothing is held whatever length a frame claims.
What a client may not do, an unmasked frame, a reserved bit, a control frame in pieces, a
continuation of nothing, text that is not UTF-8, ends the connection with a code (section 7.4).
Extensions are not negotiated, subprotocols neither.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import hashlib
import struct
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["BINARY", "CLOSE", "PING", "PONG", "TEXT", "Reader", "ViolationError", "accept", "frame"]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

NORMAL, PROTOCOL_ERROR, NOT_UTF8 = 1000, 1002, 1007

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTROL_LIMIT = 125


class ViolationError(Exception):
    """What the other side sent is no WebSocket; ``code`` is for the close frame."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def accept(headers: Mapping[str, str]) -> dict[str, str]:
    """The fields of a 101 for a request that asks for a WebSocket. Raises InvalidArgument."""
    if headers.get("sec-websocket-version", "").strip() != "13":
        raise InvalidArgument("websocket: Sec-WebSocket-Version must be 13")
    key = headers.get("sec-websocket-key", "").strip()
    try:
        nonce = base64.b64decode(key, validate=True)
    except binascii.Error:
        nonce = b""
    if len(nonce) != 16:
        raise InvalidArgument("websocket: Sec-WebSocket-Key must be 16 bytes in base64")
    digest = hashlib.sha1((key + _GUID).encode("ascii"), usedforsecurity=False).digest()
    return {"Sec-WebSocket-Accept": base64.b64encode(digest).decode("ascii")}


def frame(opcode: int, payload: bytes = b"") -> bytes:
    """One whole message, as a server sends it: not masked."""
    size = len(payload)
    if size < 126:
        head = struct.pack(">BB", 0x80 | opcode, size)
    elif size < 1 << 16:
        head = struct.pack(">BBH", 0x80 | opcode, 126, size)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, 127, size)
    return head + payload


def close(code: int = NORMAL) -> bytes:
    """A close frame."""
    return frame(CLOSE, struct.pack(">H", code))


class Reader:
    """Bytes in, pieces of messages and control frames out."""

    __slots__ = ("_buffer", "_decoder", "_final", "_left", "_mask", "_message", "_opcode")

    def __init__(self) -> None:
        self._buffer = b""
        self._opcode = -1  # of the frame whose payload is coming
        self._message = -1  # of the message that is to be continued
        self._final = False
        self._left = 0
        self._mask = b""
        self._decoder: codecs.IncrementalDecoder | None = None

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """(opcode, payload) of each piece: TEXT and BINARY as far as they are there, CLOSE, PING
        and PONG whole. Raises ViolationError."""
        self._buffer += data
        while True:
            if self._opcode < 0 and not self._head():
                return
            control = self._opcode >= CLOSE
            if len(self._buffer) < self._left and (control or not self._buffer):
                return
            piece = self._take()
            opcode = self._opcode if control else self._message
            done = not self._left
            if not control and opcode == TEXT:
                self._check_text(piece, done and self._final)
            if done:
                self._opcode = -1
                if not control and self._final:
                    self._message = -1
            if piece or control:
                yield opcode, piece

    def _head(self) -> bool:
        """Take a frame's head from the buffer, if it is there."""
        buffer = self._buffer
        if len(buffer) < 2:
            return False
        first, second = buffer[0], buffer[1]
        size, length = 2, second & 0x7F
        if not second & 0x80:
            raise ViolationError(PROTOCOL_ERROR, "a client's frame must be masked")
        if length == 126:
            size, length = 4, int.from_bytes(buffer[2:4], "big")
        elif length == 127:
            size, length = 10, int.from_bytes(buffer[2:10], "big")
        self._check_head(first, second & 0x7F)
        if len(buffer) < size + 4:
            return False
        opcode = first & 0x0F
        self._opcode, self._left = opcode, length
        self._mask = buffer[size : size + 4]
        self._buffer = buffer[size + 4 :]
        if opcode < CLOSE:
            self._final = bool(first & 0x80)
            if opcode != CONTINUATION:
                self._message = opcode
                self._decoder = codecs.getincrementaldecoder("utf-8")()
        return True

    def _check_head(self, first: int, length: int) -> None:
        opcode = first & 0x0F
        if first & 0x70:
            raise ViolationError(PROTOCOL_ERROR, "a reserved bit is set")
        if opcode in (CLOSE, PING, PONG):
            if not first & 0x80 or length > _CONTROL_LIMIT:
                raise ViolationError(PROTOCOL_ERROR, "a control frame is in pieces, or too long")
        elif opcode == CONTINUATION:
            if self._message < 0:
                raise ViolationError(PROTOCOL_ERROR, "nothing is to be continued")
        elif opcode not in (TEXT, BINARY):
            raise ViolationError(PROTOCOL_ERROR, f"opcode {opcode} is not known")
        elif self._message >= 0:
            raise ViolationError(PROTOCOL_ERROR, "a message begins before the last one ended")

    def _take(self) -> bytes:
        """The payload that is there, unmasked."""
        piece = self._buffer[: self._left]
        self._buffer = self._buffer[len(piece) :]
        self._left -= len(piece)
        size = len(piece)
        if not size:
            return b""
        mask = (self._mask * (size // 4 + 1))[:size]
        turn = size % 4
        self._mask = self._mask[turn:] + self._mask[:turn]
        value = int.from_bytes(piece, "little") ^ int.from_bytes(mask, "little")
        return value.to_bytes(size, "little")

    def _check_text(self, piece: bytes, final: bool) -> None:
        assert self._decoder is not None
        try:
            self._decoder.decode(piece, final)
        except UnicodeDecodeError as error:
            raise ViolationError(NOT_UTF8, "a text is not UTF-8") from error
