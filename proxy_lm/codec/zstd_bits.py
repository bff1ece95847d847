"""Bits of a Zstandard frame: its bytes without what fills up the last byte of each stream of bits in it.

    information_bits(frame)

Read as RFC 8878 has it, without decoding anything. Streams of bits are those of Huffman coded literals (one or four), of the weights of
their tree, and of the sequences. Each is read backwards from its last byte, whose highest set bit marks the begin: the zeros above the mark
fill the byte up and are not counted. All else has whole bytes in the format: headers, tables, literals and blocks that are stored.

Frames are those of our own encoder: no magic number, no content size, no dictionary, no checksum; others are not read.
"""

from __future__ import annotations

from typing import Final

_FRAME_HEADER_BYTES: Final = 2  # descriptor and window
_BLOCK_HEADER_BYTES: Final = 3
_RAW, _RLE, _CODED, _CODED_AS_BEFORE = 0, 1, 2, 3  # of a block the first three, of literals all
_JUMP_TABLE_BYTES: Final = 6


def information_bits(frame: bytes) -> int:
    """Of a frame as described. Raises `AssertionError` for another."""
    assert frame[0] == 0, "a zstd frame with more in its header than a window"
    at, filling, last = _FRAME_HEADER_BYTES, 0, False
    while not last:
        header = int.from_bytes(frame[at : at + _BLOCK_HEADER_BYTES], "little")
        last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        at += _BLOCK_HEADER_BYTES
        if kind == _CODED:
            filling += _block_filling(frame[at : at + size])
        at += 1 if kind == _RLE else size
    assert at == len(frame), f"a zstd frame of {len(frame)} bytes whose blocks end at {at}"
    return 8 * len(frame) - filling


def _block_filling(block: bytes) -> int:
    """Bits that fill up the streams of a coded block."""
    literals_end, filling = _literals(block)
    if block[literals_end] == 0:  # no sequences
        return filling
    return filling + _unused(block[-1])


def _literals(block: bytes) -> tuple[int, int]:
    """Where the literals of a block end, and the bits that fill up their streams."""
    kind, size_format = block[0] & 3, block[0] >> 2 & 3
    if kind in (_RAW, _RLE):
        header_bytes, shift = {0: (1, 3), 2: (1, 3), 1: (2, 4), 3: (3, 4)}[size_format]
        size = int.from_bytes(block[:header_bytes], "little") >> shift
        return header_bytes + (1 if kind == _RLE else size), 0
    header_bytes, size_bits = ((3, 10), (3, 10), (4, 14), (5, 18))[size_format]
    size = int.from_bytes(block[:header_bytes], "little") >> 4 + size_bits & (1 << size_bits) - 1
    begin, end, filling = header_bytes, header_bytes + size, 0
    if kind == _CODED:
        described = block[begin]
        if described < 128:  # so many bytes of coded weights; else so many weights of half a byte
            filling += _unused(block[begin + described])
        begin += 1 + (described if described < 128 else (described - 127 + 1) // 2)
    if size_format:  # four streams, the sizes of three before them
        sizes = [int.from_bytes(block[begin + place : begin + place + 2], "little") for place in (0, 2, 4)]
        begin += _JUMP_TABLE_BYTES
        for size in sizes:
            begin += size
            filling += _unused(block[begin - 1])
    assert begin < end
    return end, filling + _unused(block[end - 1])


def _unused(byte: int) -> int:
    """Zeros above the mark in the last byte of a stream."""
    assert byte, "a stream of bits without its mark"
    return 8 - byte.bit_length()
