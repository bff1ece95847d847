"""Attention inside documents: causal, and only between positions of the same segment of the same row.

One function, `document_attention`, with paths of equal meaning:

* `reference`: scores, mask, softmax, written out. Slow and readable; the others are tested against it.
* `blocked` (the CPU path): torch's fused attention on blocks of 64 queries. A block sees only the keys from the first that one of its
  documents owns up to its own end, under an additive mask built once per forward. Half of a row's square, or less, is ever computed.
* `varlen` or `flex` (CUDA): kernels that skip what the mask forbids. Chosen by what this torch and this device offer.

Which positions a path multiplies in vain never shows in its meaning; it may show in the last bit of a float32.
Padding (segment -1) attends to padding only, so no row of the softmax is empty; nothing else ever attends to it.
"""

# B rows, T positions, H query heads, K key heads, E width of a head

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from proxy_lm.errors import RequestError

Path = Literal["auto", "reference", "blocked", "varlen", "flex"]

# Measured on one core with rows of 512 and 1024: 32 and 64 are level, 128 is slower by a tenth, no blocks by a factor of 2 (README.md).
QUERIES_PER_BLOCK = 64
# Of flex attention's mask: its kernels' own size.
FLEX_BLOCK = 128


class Block(NamedTuple):
    """Queries start..stop of every row read keys first_key..stop under the bias."""

    start: int
    stop: int
    first_key: int
    bias_B1QS: Tensor  # 0 or -inf in the dtype of the queries, [B, 1, stop - start, stop - first_key]


class Layout(NamedTuple):
    """What every block of one forward needs to know about the segments, computed once. A tuple: ZeRO 3's hooks see through it."""

    path: str
    allowed_BTT: Tensor | None = None  # bool (reference)
    blocks: tuple[Block, ...] = ()  # (blocked)
    borders: Tensor | None = None  # int32 [num_segments + 1] over the flattened rows (varlen)
    longest: int = 0  # positions of the longest segment (varlen)
    block_mask: Any = None  # (flex)


def layout_of(segments_BT: Tensor, dtype: torch.dtype, path: Path = "auto", device: torch.device | None = None) -> Layout:
    """The layout for rows with these segment numbers (int [B, T], -1 = padding) on `device` (left out: that of the numbers).

    Numbers that still lie on the host spare `varlen` its only wait for the device. Raises `RequestError` for an unknown path."""
    device = device or segments_BT.device
    chosen = fastest_path(device, dtype) if path == "auto" else path
    if chosen == "varlen":
        borders = segment_borders(segments_BT)
        longest = int((borders[1:] - borders[:-1]).max())
        return Layout(chosen, borders=_move(borders, device), longest=longest)
    segments_BT = _move(segments_BT, device)
    if chosen == "reference":
        return Layout(chosen, allowed_BTT=allowed_pairs(segments_BT))
    if chosen == "blocked":
        return Layout(chosen, blocks=_query_blocks(segments_BT, dtype))
    if chosen == "flex":
        return Layout(chosen, block_mask=flex_mask(segments_BT))
    raise RequestError(f"unknown attention path '{path}'; known: auto, reference, blocked, varlen, flex")


def fastest_path(device: torch.device, dtype: torch.dtype) -> Path:
    """The fastest path this device and torch offer: varlen needs CUDA with flash attention and a 16-bit dtype, flex needs CUDA."""
    if device.type != "cuda":
        return "blocked"
    if dtype in (torch.bfloat16, torch.float16) and torch.cuda.get_device_capability(device) >= (8, 0) and _varlen() is not None:
        return "varlen"
    return "flex"


def document_attention(q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, layout: Layout) -> Tensor:
    """Attention output [B, T, H, E]; query head h reads key head h // (H // K). The scale is 1/sqrt(E)."""
    if layout.path == "reference":
        assert layout.allowed_BTT is not None
        return reference_attention(q_BTHE, k_BTKE, v_BTKE, layout.allowed_BTT)
    if layout.path == "varlen":
        return _varlen_attention(q_BTHE, k_BTKE, v_BTKE, layout)
    q, k, v = (x.transpose(1, 2) for x in (q_BTHE, k_BTKE, v_BTKE))
    grouped = q.shape[1] != k.shape[1]
    if layout.path == "flex":
        return _flex_attention(q, k, v, layout.block_mask, grouped).transpose(1, 2)
    parts = [
        F.scaled_dot_product_attention(
            q[:, :, start:stop], k[:, :, first:stop], v[:, :, first:stop], attn_mask=bias_B1QS, enable_gqa=grouped
        )
        for start, stop, first, bias_B1QS in layout.blocks
    ]
    return torch.cat(parts, dim=2).transpose(1, 2)


def allowed_pairs(segments_BT: Tensor) -> Tensor:
    """Bool [B, T, T]: query t may read key s when both are in one segment and s <= t."""
    num_positions = segments_BT.shape[1]
    causal_TT = torch.ones(num_positions, num_positions, dtype=torch.bool, device=segments_BT.device).tril_()
    return (segments_BT.unsqueeze(2) == segments_BT.unsqueeze(1)) & causal_TT


def reference_attention(q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, allowed_BTT: Tensor) -> Tensor:
    """The meaning of all paths, in the open: scores over the whole row, softmax in float32 where allowed, weighted values."""
    group = q_BTHE.shape[2] // k_BTKE.shape[2]
    q_BHTE = q_BTHE.transpose(1, 2)
    k_BHTE = k_BTKE.repeat_interleave(group, dim=2).transpose(1, 2)
    v_BHTE = v_BTKE.repeat_interleave(group, dim=2).transpose(1, 2)
    scores_BHTT = q_BHTE @ k_BHTE.transpose(2, 3) / math.sqrt(q_BTHE.shape[3])
    scores_BHTT = scores_BHTT.float().masked_fill(~allowed_BTT.unsqueeze(1), float("-inf"))
    return (torch.softmax(scores_BHTT, dim=3).to(q_BTHE.dtype) @ v_BHTE).transpose(1, 2)


def segment_starts(segments_BT: Tensor) -> Tensor:
    """Int64 [B, T]: the first column of the segment at each column."""
    columns = torch.arange(segments_BT.shape[1], device=segments_BT.device)
    starts_BT = torch.zeros_like(segments_BT, dtype=torch.long)
    starts_BT[:, 1:] = torch.where(segments_BT[:, 1:] != segments_BT[:, :-1], columns[1:], 0)
    return starts_BT.cummax(dim=1).values


def _query_blocks(segments_BT: Tensor, dtype: torch.dtype) -> tuple[Block, ...]:
    num_positions = segments_BT.shape[1]
    columns = torch.arange(num_positions, device=segments_BT.device)
    # The least over the rows: no query of the block reads further back in any row.
    first_keys = segment_starts(segments_BT).amin(dim=0)[::QUERIES_PER_BLOCK].tolist()
    blocks = []
    for start, first in zip(range(0, num_positions, QUERIES_PER_BLOCK), first_keys, strict=True):
        stop = min(start + QUERIES_PER_BLOCK, num_positions)
        forbidden = segments_BT[:, start:stop, None] != segments_BT[:, None, first:stop]
        forbidden |= columns[start:stop, None] < columns[first:stop]
        bias = torch.zeros(forbidden.shape, dtype=dtype, device=segments_BT.device).masked_fill_(forbidden, float("-inf"))
        blocks.append(Block(start, stop, first, bias.unsqueeze(1)))
    return tuple(blocks)


def segment_borders(segments_BT: Tensor) -> Tensor:
    """Int32 [num_segments + 1]: where runs of equal segment number begin in the flattened rows, and the end. A row border is one."""
    starts_BT = torch.ones_like(segments_BT, dtype=torch.bool)
    starts_BT[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    starts = torch.nonzero(starts_BT.flatten()).flatten()
    return torch.cat([starts, starts.new_tensor([segments_BT.numel()])]).to(torch.int32)


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    if tensor.device == device or device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _varlen() -> Any:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # torch before 2.10, or a build without it
        return None
    return varlen_attn


def _varlen_attention(q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, layout: Layout) -> Tensor:
    group = q_BTHE.shape[2] // k_BTKE.shape[2]
    if group > 1:  # the kernel's own grouping arrived in a later torch than the oldest we allow
        k_BTKE, v_BTKE = (x.repeat_interleave(group, dim=2) for x in (k_BTKE, v_BTKE))
    flat = (x.reshape(-1, x.shape[2], x.shape[3]) for x in (q_BTHE, k_BTKE, v_BTKE))
    # A window of (-1, 0) is causal in every torch that has the kernel; the keyword for it was renamed on the way.
    out = _varlen()(*flat, layout.borders, layout.borders, layout.longest, layout.longest, window_size=(-1, 0))
    return out.view_as(q_BTHE)  # type: ignore[no-any-return]


def flex_mask(segments_BT: Tensor) -> Any:
    """The `BlockMask` of rows with these segments, from the segments' first columns: nothing of size T * T is made on the way, as
    `create_block_mask` makes it, and nothing waits for the device."""
    from torch.nn.attention.flex_attention import BlockMask

    def same_segment(b: Tensor, h: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return (t >= s) & (segments_BT[b, t] == segments_BT[b, s])

    num_positions = segments_BT.shape[1]
    starts_BT = segment_starts(segments_BT)
    blocks = torch.arange(-(-num_positions // FLEX_BLOCK), device=segments_BT.device)
    last_queries = (blocks * FLEX_BLOCK + FLEX_BLOCK - 1).clamp(max=num_positions - 1)
    first_key_BQ1 = starts_BT[:, ::FLEX_BLOCK, None] // FLEX_BLOCK
    # Keys from here up to the last query are one segment, so that blocks before the query's own need no mask at all.
    alone_BQ1 = -(-starts_BT[:, last_queries, None] // FLEX_BLOCK)
    q_Q1, k_K = blocks.unsqueeze(1), blocks
    reached_BQK = (k_K >= first_key_BQ1) & (k_K <= q_Q1)
    whole_Q1 = (q_Q1 + 1) * FLEX_BLOCK <= num_positions
    full_BQK = reached_BQK & (k_K >= alone_BQ1) & (k_K < q_Q1) & whole_Q1
    partial, full = (_block_list(x.unsqueeze(1)) for x in (reached_BQK & ~full_BQK, full_BQK))
    return BlockMask.from_kv_blocks(
        *partial, *full, BLOCK_SIZE=FLEX_BLOCK, mask_mod=same_segment, seq_lengths=(num_positions, num_positions)
    )


def _block_list(wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of wanted blocks by row, and all blocks with the wanted ones first, in order (int32)."""
    indices = torch.argsort(wanted.to(torch.int32), dim=-1, descending=True, stable=True)
    return wanted.sum(dim=-1).to(torch.int32), indices.to(torch.int32)


_compiled: dict[str, Any] = {}


def _flex_attention(q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, block_mask: Any, grouped: bool) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    # Uncompiled flex materialises all scores: right, and only good enough to test the mask on a CPU.
    function = flex_attention
    if q_BHTE.is_cuda:
        function = _compiled.setdefault("flex", torch.compile(flex_attention, dynamic=False))
    return function(q_BHTE, k_BKTE, v_BKTE, block_mask=block_mask, enable_gqa=grouped)  # type: ignore[no-any-return]
