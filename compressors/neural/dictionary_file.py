"""The file of a dictionary: flat arrays under a digest. About 330 KB for 65,536 strings whose prefixes all have codes.

    magic (8 bytes), version, num_nodes, num_codes, num_others: u32 each
    children   u16 [num_nodes]       number of children of each node: the tree in BFS order
    labels     u8  [num_nodes - 1]   the root has none
    codes      u16 or u32 [num_nodes - 1]
    others     u32 [num_others, 2]   (code, node) where a code does not decode to the first node that has it
    SHA-256 of all that

Little endian. Reading checks version, sizes and digest; that the arrays are a trie is `Dictionary`'s to check.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from compressors.errors import RequestError

NO_CODE: Final = 2**32 - 1
VERSION: Final = 1
_MAGIC = b"proxydic"
_HEADER = struct.Struct("<8sIIII")
_DIGEST_BYTES = 32
# Codes are 16 bits wide where that leaves room to say "none", or nobody says it.
_NARROW = 1 << 16
_NARROW_NO_CODE = _NARROW - 1

Array = npt.NDArray[Any]
U32 = npt.NDArray[np.uint32]


def write(*, labels: npt.NDArray[np.uint8], parents: U32, codes: U32, decode_nodes: U32) -> bytes:
    """The file's bytes: equal arrays give equal bytes."""
    children = np.bincount(parents[1:], minlength=len(parents)).astype("<u2")
    usual = _first_nodes(codes, len(decode_nodes))
    others = np.flatnonzero(usual != decode_nodes)
    pairs = np.stack([others.astype(np.uint32), decode_nodes[others]], axis=1).astype("<u4")
    narrow = len(decode_nodes) < _NARROW or (len(decode_nodes) == _NARROW and bool((codes[1:] != NO_CODE).all()))
    header = _HEADER.pack(_MAGIC, VERSION, len(labels), len(decode_nodes) | (narrow << 31), len(others))
    # NO_CODE keeps its low 16 bits, which are `_NARROW_NO_CODE`.
    body = b"".join(
        (header, children.tobytes(), labels[1:].tobytes(), codes[1:].astype("<u2" if narrow else "<u4").tobytes(), pairs.tobytes())
    )
    return body + hashlib.sha256(body).digest()


def read(data: bytes) -> dict[str, Array]:
    """The arrays of `Dictionary`'s constructor. Raises `RequestError` for anything but what `write` wrote."""
    if len(data) < _HEADER.size + _DIGEST_BYTES or data[: len(_MAGIC)] != _MAGIC:
        raise RequestError(f"this is not a dictionary: {len(data)} bytes that do not begin with {_MAGIC.decode()}; copy or train it anew")
    _, version, num_nodes, packed, num_others = _HEADER.unpack_from(data)
    if version != VERSION:
        raise RequestError(f"the dictionary is of version {version}, this program reads version {VERSION}; train it anew")
    narrow, num_codes = packed >> 31, packed & 0x7FFFFFFF
    sizes = (2 * num_nodes, num_nodes - 1, (2 if narrow else 4) * (num_nodes - 1), 8 * num_others)
    wanted = _HEADER.size + sum(sizes) + _DIGEST_BYTES
    if num_nodes < 1 or len(data) != wanted:
        raise RequestError(f"the dictionary has {len(data)} bytes where its header asks for {wanted}; copy or train it anew")
    if num_codes >= num_nodes + num_others:
        raise RequestError(f"the dictionary has {num_codes} codes, more than its {num_nodes} nodes can tell; train it anew")
    if hashlib.sha256(memoryview(data)[:-_DIGEST_BYTES]).digest() != data[-_DIGEST_BYTES:]:
        raise RequestError("the dictionary has not the digest at its end, so it is damaged; copy or train it anew")
    places = np.cumsum([_HEADER.size, *sizes]).tolist()
    children, labels, codes, pairs = (
        np.frombuffer(data, dtype=dtype, count=(end - start) // np.dtype(dtype).itemsize, offset=start)
        for dtype, start, end in zip(("<u2", "u1", "<u2" if narrow else "<u4", "<u4"), places, places[1:], strict=False)
    )
    if int(children.sum(dtype=np.int64)) != num_nodes - 1:
        raise RequestError(f"the dictionary's {num_nodes} nodes have {int(children.sum(dtype=np.int64))} children together; train it anew")
    root = np.zeros(1, dtype=np.uint32)
    wide = codes.astype(np.uint32)
    if narrow and num_codes < _NARROW:
        wide[codes == _NARROW_NO_CODE] = NO_CODE
    wide = np.concatenate([root + np.uint32(NO_CODE), wide])
    decode_nodes = _first_nodes(wide, num_codes)
    others, nodes = pairs.reshape(-1, 2).T
    if (others >= num_codes).any():
        raise RequestError(f"the dictionary has codes 0 to {num_codes - 1} and another for a node; train it anew")
    decode_nodes[others] = nodes
    return {
        "labels": np.concatenate([root.astype(np.uint8), labels]),
        "parents": np.concatenate([root, np.repeat(np.arange(num_nodes, dtype=np.uint32), children)]),
        "codes": wide,
        "decode_nodes": decode_nodes,
    }


def _first_nodes(codes: U32, num_codes: int) -> U32:
    """The lowest node with each code, 0 for a code without a node. Codes from num_codes on are left to `Dictionary`'s checks."""
    first = np.zeros(num_codes, dtype=np.uint32)
    nodes = np.flatnonzero(codes < num_codes)[::-1]
    first[codes[nodes]] = nodes  # written from the last to the first, so the first stays
    return first
