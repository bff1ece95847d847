"""Stop sequences in bytes, found while bytes arrive, in time linear in the bytes whatever the number of sequences.

    matcher = StopMatcher([b"\ndef ", b"\nclass "])
    hit = matcher.feed(b"return x\ncl")          # None; matcher.num_held == 3: b"\ncl" may yet become a stop
    hit = matcher.feed(b"ass Y:")               # Hit(stop=b"\nclass ", end=15): the bytes after it are not looked at

An Aho-Corasick automaton (Aho and Corasick, "Efficient string matching", 1975). The sequence that is complete first wins; of several that
are complete at the same byte, the longest. Not promised: the result of `bytes.find` with the earliest begin, which a later byte can change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from proxy_lm.errors import RequestError

_ESCAPE: Final = re.compile(rb"\\(x[0-9a-fA-F]{2}|[^x]|x|$)", re.DOTALL)
_ESCAPED: Final = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"0": b"\0", b"\\": b"\\", b"s": b" "}


@dataclass(frozen=True)
class Hit:
    """A stop sequence that ends after `end` bytes of all that was fed."""

    stop: bytes
    end: int

    @property
    def begin(self) -> int:
        """Bytes before the stop sequence."""
        return self.end - len(self.stop)


class StopMatcher:
    """Looks for stop sequences in one stream of bytes. Ends with the first hit; made anew for the next stream."""

    def __init__(self, stops: Iterable[bytes]) -> None:
        """Raises `RequestError` for an empty stop sequence, which would stop before the first byte."""
        self.num_bytes = 0
        """Bytes fed so far."""
        self._children: list[dict[int, int]] = [{}]
        self._stop: list[bytes | None] = [None]  # the longest stop that ends in the node
        self._depth = [0]
        self._shorter = [0]  # the node of the longest proper suffix that begins a stop
        for stop in stops:
            if not stop:
                raise RequestError("a stop sequence of no bytes would stop before the first; leave it out, or give at least one byte")
            self._add(stop)
        self._link()
        self._node = 0

    @property
    def num_held(self) -> int:
        """Bytes at the end of what was fed that may be the begin of a stop sequence."""
        return self._depth[self._node]

    def feed(self, data: bytes) -> Hit | None:
        """Read on. The first hit, if there is one; what stands behind it is not read."""
        if not self._children[0]:
            self.num_bytes += len(data)
            return None
        children, shorter, node = self._children, self._shorter, self._node
        for index, byte in enumerate(data):
            while node and byte not in children[node]:
                node = shorter[node]
            node = children[node].get(byte, 0)
            stop = self._stop[node]
            if stop is not None:
                self._node = node
                self.num_bytes += index + 1
                return Hit(stop, self.num_bytes)
        self._node = node
        self.num_bytes += len(data)
        return None

    def _add(self, stop: bytes) -> None:
        node = 0
        for byte in stop:
            if byte not in self._children[node]:
                self._children[node][byte] = len(self._children)
                self._children.append({})
                self._stop.append(None)
                self._depth.append(self._depth[node] + 1)
                self._shorter.append(0)
            node = self._children[node][byte]
        self._stop[node] = stop

    def _link(self) -> None:
        """Suffix links, nodes by depth. A node without a stop of its own takes that of its longest suffix: the longest that ends there."""
        level = list(self._children[0].values())
        while level:
            following = []
            for node in level:
                for byte, child in self._children[node].items():
                    at = self._shorter[node]
                    while at and byte not in self._children[at]:
                        at = self._shorter[at]
                    self._shorter[child] = self._children[at].get(byte, 0)
                    self._stop[child] = self._stop[child] or self._stop[self._shorter[child]]
                    following.append(child)
            level = following


def unescape(text: str) -> bytes:
    r"""Bytes of a stop sequence as it is typed: \n, \t, \r, \0, \s (space), \\ and \xHH; everything else stands for its UTF-8.

    Raises `RequestError` for any other escape."""

    def value(match: re.Match[bytes]) -> bytes:
        name = match[1]
        if len(name) == 3:
            return bytes([int(name[1:], 16)])
        if name not in _ESCAPED:
            shown = match[0].decode("utf-8", "replace")
            raise RequestError(rf"'{shown}' in the stop sequence {text!r} is no escape; known: \n \t \r \0 \s \\ \xHH")
        return _ESCAPED[name]

    return _ESCAPE.sub(value, text.encode("utf-8", "surrogateescape"))
