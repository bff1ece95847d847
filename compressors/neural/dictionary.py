"""An immutable set of byte strings with codes: what `table` and `phrases` parse with.

    dictionary = Dictionary.from_strings([bytes([b]) for b in range(256)] + [b"def ", b"return "])
    (codes,) = dictionary.encode([b"def f(x):"])        # uint32
    dictionary.decode(codes)                            # b"def f(x):"
    Dictionary.from_bytes(dictionary.to_bytes())        # checked before anything is walked

All 256 one-byte strings have codes, so every document can be parsed. Decoding looks strings up and is total. Two parses: `greedy` takes the
longest string with a code at each place; `fewest` gives the fewest symbols (fewest.py has the rules for ties). Both depend on the strings
and the document alone, not on threads, on batches or on the machine. `is_exact` says whether decoding gives every document back.

Making one needs numpy only; the first document brings numba and the compiled walk. Not covered: which strings are worth a code (build.py,
phrases.py), and dictionaries of more than `MAX_NUM_NODES` nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from typing import Any, Final, Literal, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from compressors.base import DEFAULT_MAX_DECODED_BYTES, Borders, Symbols
from compressors.errors import RequestError
from compressors.neural import dictionary_file as file
from compressors.symbols import check_size, checked

Parse: TypeAlias = Literal["greedy", "fewest"]
Offsets: TypeAlias = npt.NDArray[np.int64]
Bytes: TypeAlias = npt.NDArray[np.uint8]
U32: TypeAlias = npt.NDArray[np.uint32]
Array: TypeAlias = npt.NDArray[Any]
T = TypeVar("T")

NO_CODE: Final = file.NO_CODE
MAX_NUM_NODES: Final = 1 << 22
MAX_STRING_BYTES: Final = 255
MAX_TEXT_BYTES: Final = 1 << 28  # of all strings together: a hostile file must not ask for more

# Documents are joined and parsed in chunks of about this many bytes: scratch memory is four times as much.
_CHUNK_BYTES = 4 << 20


class Dictionary:
    """Byte strings with codes. Immutable; safe to share between threads; pickled as its file."""

    def __init__(self, *, labels: Bytes, parents: U32, codes: U32, decode_nodes: U32) -> None:
        """Nodes of a trie in BFS order, siblings by label; node 0 is the root (label 0, parent 0).

        labels uint8 [num_nodes], parents uint32 [num_nodes], codes uint32 [num_nodes] (`NO_CODE` where a node has none; nodes may share
        one), decode_nodes uint32 [num_codes]: the node whose string a code decodes to. A node whose code decodes to a prefix of its string
        gives the bytes after it back to the greedy parse, which is exact. Raises `RequestError` for anything else."""
        self.labels = _frozen(labels, np.uint8, "labels")
        self.parents = _frozen(parents, np.uint32, "parents")
        self.codes = _frozen(codes, np.uint32, "codes")
        self.decode_nodes = _frozen(decode_nodes, np.uint32, "decode_nodes")
        self.depths = _checked_depths(self.labels, self.parents, self.codes, self.decode_nodes)
        self.depths.flags.writeable = False
        self.num_codes = len(self.decode_nodes)
        self.lengths: Offsets = self.depths[self.decode_nodes].astype(np.int64)
        self.lengths.flags.writeable = False
        self.is_prefix_closed = bool((self.codes[1:] != NO_CODE).all())
        self.gives_back, self.is_exact = _gives_back(self.parents, self.codes, self.decode_nodes, self.depths)
        self.gives_back.flags.writeable = False
        if int(self.lengths.sum()) > MAX_TEXT_BYTES:
            raise RequestError(f"a dictionary's strings have at most {MAX_TEXT_BYTES} bytes together; got {int(self.lengths.sum())}")

    @classmethod
    def from_strings(cls, strings: Sequence[bytes]) -> Self:
        """Code i is strings[i]. Raises `RequestError` for empty, double or too long strings, and where a one-byte string is missing."""
        if len(set(strings)) != len(strings):
            raise RequestError(f"a dictionary's strings are distinct; {len(strings) - len(set(strings))} of {len(strings)} are repeated")
        longest = max(map(len, strings), default=0)
        if longest > MAX_STRING_BYTES or not all(strings):
            raise RequestError(f"a dictionary's strings have 1 to {MAX_STRING_BYTES} bytes; got one of {longest or 0}, or an empty one")
        nodes = sorted({text[:depth] for text in strings for depth in range(1, len(text) + 1)}, key=lambda text: (len(text), text))
        number = {text: node for node, text in enumerate([b"", *nodes])}
        code_of = {text: code for code, text in enumerate(strings)}
        return cls(
            labels=np.array([0, *(text[-1] for text in nodes)], dtype=np.uint8),
            parents=np.array([0, *(number[text[:-1]] for text in nodes)], dtype=np.uint32),
            codes=np.array([NO_CODE, *(code_of.get(text, NO_CODE) for text in nodes)], dtype=np.uint32),
            decode_nodes=np.array([number[text] for text in strings], dtype=np.uint32),
        )

    def strings(self) -> list[bytes]:
        """What each code decodes to."""
        text, ends = self._text.tobytes(), self._starts.tolist()
        return [text[start:end] for start, end in pairwise(ends)]

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote. Raises `RequestError` for another version, a cut, damaged or impossible file."""
        return cls(**file.read(data))

    def to_bytes(self) -> bytes:
        """The dictionary as a file: equal dictionaries give equal bytes."""
        return file.write(labels=self.labels, parents=self.parents, codes=self.codes, decode_nodes=self.decode_nodes)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_bytes, (self.to_bytes(),)

    # ---- documents to codes

    def encode(self, documents: Sequence[bytes], *, parse: Parse = "greedy", num_threads: int = 1) -> list[Symbols]:
        """Codes of each document, uint32. The interpreter lock is free while documents are parsed, in this thread or in `num_threads`."""
        sizes = np.fromiter(map(len, documents), dtype=np.int64, count=len(documents))
        kernel = self._kernel(parse)

        def parsed(first: int, last: int) -> list[Symbols]:
            data = np.frombuffer(b"".join(documents[first:last]), dtype=np.uint8)
            codes, ends = kernel(data, _offsets(sizes[first:last]), np.uint32)
            cuts = ends.tolist()
            return [codes[start:end] for start, end in pairwise(cuts)]

        return [codes for part in _over_chunks(parsed, sizes, num_threads) for codes in part]

    def encode_flat(self, data: Bytes, offsets: Offsets, *, parse: Parse = "greedy", num_threads: int = 1) -> tuple[Array, Offsets]:
        """Codes of documents data[offsets[n]:offsets[n + 1]] side by side, uint16 where num_codes fits it and uint32 otherwise, and their
        offsets. data uint8 [num_bytes], offsets int64 [num_documents + 1] from 0 to num_bytes."""
        _check_flat(data, offsets)
        data = _read_only(data)
        sizes = np.diff(offsets)
        kernel = self._kernel(parse)
        dtype = np.uint16 if self.num_codes <= 1 << 16 else np.uint32

        def parsed(first: int, last: int) -> tuple[Array, Offsets]:
            return kernel(data[offsets[first] : offsets[last]], offsets[first : last + 1] - offsets[first], dtype)

        parts = _over_chunks(parsed, sizes, num_threads)
        counts = [np.diff(ends) for _, ends in parts]
        none = np.zeros(0, dtype=dtype)
        return np.concatenate([none, *(codes for codes, _ in parts)]), _offsets(np.concatenate([np.diff([0]), *counts]))

    def _kernel(self, parse: Parse) -> Callable[[Bytes, Offsets, type], tuple[Array, Offsets]]:
        """A function of one chunk's (data, offsets, dtype) that gives (codes, offsets of codes)."""
        if parse not in ("greedy", "fewest"):
            raise RequestError(f"unknown parse '{parse}'; known: greedy, fewest")
        if parse == "fewest" and self.gives_back.any():
            raise RequestError("parse 'fewest' needs a dictionary whose codes decode to the strings that have them; choose 'greedy'")
        from compressors.neural.walk import Walker  # brings numba: 0.5 s that a command without documents does not pay

        if self._walker is None:
            closed = self.is_prefix_closed and not self.gives_back.any()
            self._walker = Walker(self.labels, self.parents, self.codes, self.depths, self.gives_back, closed=closed)
        kernel: Callable[[Bytes, Offsets, type], tuple[Array, Offsets]]
        kernel = self._walker.greedy if parse == "greedy" else self._walker.fewest
        return kernel

    _walker: Any = None

    # ---- codes to documents

    def decode(self, codes: Symbols, max_bytes: int = DEFAULT_MAX_DECODED_BYTES) -> bytes:
        """The strings of the codes. Raises `DecodeError` for values that are no code and for more than `max_bytes` bytes."""
        codes = checked("dictionary", codes, self.num_codes)
        data, _ = self.decode_flat(codes, np.array([0, len(codes)], dtype=np.int64), max_bytes=max_bytes)
        return data.tobytes()

    def decode_flat(self, codes: Array, offsets: Offsets, *, max_bytes: int, num_threads: int = 1) -> tuple[Bytes, Offsets]:
        """Documents codes[offsets[n]:offsets[n + 1]] decoded side by side, and their offsets. Raises `DecodeError` for values that are no
        code and for more than `max_bytes` bytes in all, before the bytes are made."""
        if codes.dtype not in (np.uint16, np.uint32) or (len(codes) and int(codes.max()) >= self.num_codes):
            codes = checked("dictionary", codes, self.num_codes)
        _check_flat(codes, offsets)
        from compressors.neural.spelling import sizes_of, spell  # numba, as above

        codes = _read_only(codes)
        ends = _offsets(sizes_of(codes, offsets, self._lengths))
        check_size("dictionary", int(ends[-1]), max_bytes)
        data = np.empty(int(ends[-1]), dtype=np.uint8)

        def spelled(first: int, last: int) -> None:
            spell(codes[offsets[first] : offsets[last]], self._starts, self._text, data[ends[first] : ends[last]])

        _over_chunks(spelled, np.diff(ends), num_threads)
        return data, ends

    def borders(self, codes: Symbols) -> Borders:
        """Where each code's string starts in the decoded document, and the end: int64 [num_codes_given + 1]."""
        return _offsets(self.lengths[codes])

    @cached_property
    def _lengths(self) -> Bytes:
        return _read_only(self.lengths.astype(np.uint8))

    @cached_property
    def _starts(self) -> U32:
        return _read_only(_offsets(self.lengths).astype(np.uint32))

    @cached_property
    def _text(self) -> Bytes:
        """All strings by code, one after the other, and 16 bytes to spare."""
        text = np.zeros(int(self._starts[-1]) + 16, dtype=np.uint8)
        nodes, ends = self.decode_nodes.astype(np.int64), self._starts[1:].astype(np.int64)
        while len(nodes):
            ends -= 1
            text[ends] = self.labels[nodes]
            nodes = self.parents[nodes].astype(np.int64)
            left = nodes != 0
            nodes, ends = nodes[left], ends[left]
        return _read_only(text)


def _gives_back(parents: U32, codes: U32, decode_nodes: U32, depths: Bytes) -> tuple[Bytes, bool]:
    """Bytes between each node and the node its code decodes to, where that is above it, else 0: uint8 [num_nodes]. And whether every code
    decodes to its node or to one above it."""
    nodes = np.flatnonzero(codes != NO_CODE)
    wanted = decode_nodes[codes[nodes]].astype(np.int64)
    above = nodes.copy()
    while len(deeper := np.flatnonzero(depths[above] > depths[wanted])):
        above[deeper] = parents[above[deeper]]
    back = np.zeros(len(codes), dtype=np.uint8)
    back[nodes] = np.where(above == wanted, depths[nodes] - depths[above], 0)
    return back, bool((above == wanted).all())


def _frozen(array: Array, dtype: type, name: str) -> Array:
    if array.ndim != 1 or array.dtype != dtype:
        raise RequestError(f"a dictionary's {name} are a flat array of {np.dtype(dtype)}; got {array.dtype} of shape {array.shape}")
    array = np.ascontiguousarray(array)
    if array.flags.writeable:
        array = array.copy()
        array.flags.writeable = False
    return array


def _checked_depths(labels: Bytes, parents: U32, codes: U32, decode_nodes: U32) -> Bytes:
    """Depth of every node, uint8. Raises `RequestError` where the arrays are not a trie with codes."""
    num_nodes, num_codes = len(labels), len(decode_nodes)
    if not 257 <= num_nodes <= MAX_NUM_NODES or not len(parents) == len(codes) == num_nodes:
        sizes = f"{num_nodes} labels, {len(parents)} parents and {len(codes)} codes"
        raise RequestError(f"a dictionary has 257 to {MAX_NUM_NODES} nodes with a label, a parent and a code each; got {sizes}")
    if not 256 <= num_codes <= MAX_NUM_NODES:
        raise RequestError(f"a dictionary has 256 to {MAX_NUM_NODES} codes; got {num_codes}")
    if parents[0] != 0 or labels[0] != 0 or codes[0] != NO_CODE:
        raise RequestError("a dictionary's first node is its root: label 0, parent 0, no code")
    if (parents[1:] >= np.arange(1, num_nodes)).any() or (parents[2:] < parents[1:-1]).any():
        raise RequestError("a dictionary's nodes are in breadth-first order, parents before children; these are not")
    if (labels[2:] <= labels[1:-1])[parents[2:] == parents[1:-1]].any():
        raise RequestError("the labels of a dictionary's siblings increase; these do not")
    if parents[256] != 0 or (codes[1:257] == NO_CODE).any():
        raise RequestError("every one-byte string has a code of its own in a dictionary; one is missing")
    if ((codes != NO_CODE) & (codes >= num_codes)).any() or (decode_nodes == 0).any() or (decode_nodes >= num_nodes).any():
        raise RequestError(f"a dictionary's codes are below {num_codes} and decode to nodes 1 to {num_nodes - 1}; these do not")
    depths = np.zeros(num_nodes, dtype=np.uint8)
    start, end = 1, 257
    for depth in range(1, MAX_STRING_BYTES + 1):
        depths[start:end] = depth
        if end == num_nodes:
            return depths
        start, end = end, int(np.searchsorted(parents, np.uint32(end)))  # the children of the level before
    raise RequestError(f"a dictionary's strings have at most {MAX_STRING_BYTES} bytes; these are longer")


def _read_only(array: Array) -> Array:
    """A view that compiled loops always see under one type."""
    array = array.view()
    array.flags.writeable = False
    return array


def _check_flat(array: Array, offsets: Offsets) -> None:
    """Our own callers' arrays: what compiled loops will trust."""
    assert array.ndim == offsets.ndim == 1
    assert offsets.dtype == np.int64
    assert len(offsets) > 0
    assert offsets[0] == 0
    assert offsets[-1] == len(array)
    assert bool((offsets[1:] >= offsets[:-1]).all())


def _offsets(sizes: Array) -> Offsets:
    offsets = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return offsets


def _over_chunks(work: Callable[[int, int], T], sizes: Array, num_threads: int) -> list[T]:
    """`work` over runs of documents of about equal size, in order, in `num_threads` threads."""
    ends = _offsets(sizes)
    total = int(ends[-1])
    num_chunks = max(-(-total // _CHUNK_BYTES), min(num_threads, len(sizes)), 1)
    cuts = np.unique(np.searchsorted(ends, np.arange(1, num_chunks) * total // num_chunks)).tolist() if total else []
    cuts = [0, *(cut for cut in cuts if 0 < cut < len(sizes)), len(sizes)]
    chunks = list(pairwise(cuts)) if len(sizes) else []
    if num_threads <= 1 or len(chunks) <= 1:
        return [work(first, last) for first, last in chunks]
    with ThreadPoolExecutor(num_threads) as pool:
        return list(pool.map(lambda chunk: work(*chunk), chunks))
