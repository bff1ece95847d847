"""The decoder with its keys and values kept: each position is computed once, and a pass reads only the ids that are new.

    body = CachedBody(model)
    cache = body.new_cache(num_rows=16, num_slots=512)
    hidden = body.read(cache, [prompt, other], first_positions=[0, 0], rows=[0, 1])        # [N, D]: all of prompt, then all of other
    logits = hidden @ body.output_matrix(model.head.weight)

The same function as `Decoder.logits` on one segment a row, arranged for few positions at a time, where a step's time is the number of
operations and the bytes of weights, not arithmetic: queries, keys and values are one matrix, gate and up are one; gains of norms are folded
into the matrix behind them; the pair (i, i + E/2) of a head is made neighbours, so that a rotation is one complex product; the stream
carries a column that holds the norm's epsilon, so that a norm is a vector norm and a quotient.

Rows of a pass may bring different numbers of ids: attention is called for each run of neighbours that bring about equally many, the shorter
ones filled up; everything else sees the ids one after another.

Not promised: bits. Another number of rows or ids in a pass changes the last bits of a float32; `engine.py` says how results stay the same
all the same. Rows of a cache are one document each, from position 0.
"""

# B rows, T ids of the longest row of a pass, S slots that are read, N ids of all rows, D width, H query heads, K key heads, G = H/K,
# E width of a head

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from proxy_lm.model.decoder import Block, Decoder, _angle_table

I64 = npt.NDArray[np.int64]

# Columns behind the stream: the first holds epsilon, the others keep rows aligned to 64 bytes.
_SPARE_COLUMNS = 16
# Slots read by several rows are rounded up to it, so that shapes repeat.
_SLOTS_STEP = 32
# Positions that may be filled up to save a call of attention: as long as it takes, measured on one core with a nano.
_WORTH_FILLING = 16
# Positions that one row may bring without a bias made for it: all that drafts ever are.
_LADDER_POSITIONS = 48


class _BlockWeights(NamedTuple):
    """Matrices as [in, out]."""

    qkv: Tensor
    output: Tensor
    gate_up: Tensor
    down: Tensor


class _Run(NamedTuple):
    """Neighbours among the rows that bring about equally many ids: one call of attention."""

    rows: slice
    ids: slice
    num_columns: int
    num_read: int
    bias: Tensor | None  # 0 or -inf [B, 1, T * G, S]
    spread: Tensor | None = None  # for rows that are filled up: the id at each place [B * T], and the place of each id
    places: Tensor | None = None


class _Grid(NamedTuple):
    """What all blocks of one pass share."""

    rotation_N1E: Tensor
    places: Tensor | slice  # of all ids; or the positions of the only row
    runs: list[_Run]


class Cache:
    """Keys and values of `num_rows` rows of `num_slots` positions, one tensor [2, rows, K, slots, E] a block."""

    def __init__(self, depth: int, num_rows: int, num_kv_heads: int, num_slots: int, head_width: int, like: Tensor) -> None:
        shape = (2, num_rows, num_kv_heads, num_slots, head_width)
        self.blocks = [like.new_zeros(shape) for _ in range(depth)]  # zeros: a weight of 0 times what was never written is 0
        self.keys_and_values = [(block[0], block[1]) for block in self.blocks]
        self.num_rows = num_rows
        self.num_slots = num_slots
        # Where head j of (keys, then values) of row 0, position 0 lies among vectors of E.
        heads = np.arange(2 * num_kv_heads)
        plane = num_rows * num_kv_heads * num_slots
        self._head_places = (heads // num_kv_heads) * plane + (heads % num_kv_heads) * num_slots
        self._row_places = np.arange(num_rows) * num_kv_heads * num_slots

    @property
    def size_bytes(self) -> int:
        """Memory it holds."""
        return sum(block.nbytes for block in self.blocks)

    def places(self, rows_N: I64, positions_N: I64) -> I64:
        """Indexes of vectors [N * 2K], in the order of the projection's columns."""
        return ((self._row_places[rows_N] + positions_N)[:, None] + self._head_places).reshape(-1)

    def copy_row(self, source: int, target: int, num_positions: int) -> None:
        """The first positions of one row become those of another."""
        if source != target and num_positions:
            for block in self.blocks:
                block[:, target, :, :num_positions] = block[:, source, :, :num_positions]


class CachedBody:
    """A decoder up to its output matrices, in one dtype; weights are copied once."""

    def __init__(self, model: Decoder, dtype: torch.dtype = torch.float32) -> None:
        self.sizes = model.sizes
        self.dtype = dtype
        self.device = model.embedding.weight.device
        self._scale = math.sqrt(self.sizes.width)
        self._final_gain = model.norm.weight.detach()
        with torch.no_grad():
            table = model.embedding.weight.detach()
            self._embedding = table.new_zeros((table.shape[0], self.sizes.width + _SPARE_COLUMNS), dtype=dtype)
            self._embedding[:, : self.sizes.width] = table
            self._embedding[:, self.sizes.width] = math.sqrt(self.sizes.width * self.sizes.norm_eps)
            self._blocks = [self._pack(block) for block in model.blocks]  # type: ignore[arg-type]
        self._rotation = torch.empty((0, self.sizes.head_width // 2), dtype=torch.complex64)
        self._visible = torch.empty(0)
        self._ladder = torch.empty(0)

    def new_cache(self, num_rows: int, num_slots: int) -> Cache:
        """An empty cache."""
        if self._rotation.shape[0] < num_slots:
            half = self.sizes.head_width // 2
            # The very angles of training, rounded to float32 there: at position 1,000 they differ from exact ones by 3e-5.
            angles = _angle_table(num_slots, self.sizes.head_width, self.sizes.rope_theta)[:, :half].to(self.dtype)
            self._rotation = torch.polar(torch.ones_like(angles), angles).to(self.device)
            self._visible = torch.zeros(2 * num_slots, dtype=self.dtype, device=self.device)
            self._visible[num_slots:] = float("-inf")
            group = self.sizes.num_heads // self.sizes.num_kv_heads
            above = torch.arange(2 * num_slots) > num_slots + torch.arange(_LADDER_POSITIONS).repeat_interleave(group).unsqueeze(1)
            self._ladder = torch.zeros(above.shape, dtype=self.dtype).masked_fill_(above, float("-inf")).to(self.device)
        return Cache(self.sizes.depth, num_rows, self.sizes.num_kv_heads, num_slots, self.sizes.head_width, self._embedding)

    def output_matrix(self, weight_VD: Tensor) -> Tensor:
        """[D, V] for a product with what `read` gives: the last norm's gain is folded in."""
        return self._folded(weight_VD, self._final_gain)

    @torch.inference_mode()
    def read(self, cache: Cache, ids: Sequence[I64], first_positions: Sequence[int], rows: Sequence[int]) -> Tensor:
        """Read ids (int64, at least one a row) into these rows of the cache, from these positions on: [N, D] behind the last norm, without
        its gain, the rows one after another. The positions before must have been read."""
        grid = self._grid(cache, [len(part) for part in ids], first_positions, rows)
        x_ND = self._embedding.index_select(0, self._to(np.concatenate(ids)))
        for index, block in enumerate(self._blocks):
            self._attend(x_ND, block, cache, index, grid)
            self._feed(x_ND, block)
        return self._normed(x_ND)

    def _grid(self, cache: Cache, lengths: Sequence[int], first_positions: Sequence[int], rows: Sequence[int]) -> _Grid:
        if len(rows) == 1 and lengths[0] <= _LADDER_POSITIONS:
            return self._grid_of_one(lengths[0], first_positions[0], rows[0])
        num_ids, num_rows = sum(lengths), len(rows)
        rows_N, positions_N = np.array(rows), np.array(first_positions)
        if num_ids > num_rows:
            starts = np.cumsum([0, *lengths[:-1]])
            positions_N = np.repeat(positions_N - starts, lengths) + np.arange(num_ids)
            rows_N = np.repeat(rows_N, lengths)
        runs, first, first_id = [], 0, 0
        while first < num_rows:
            stop = _end_of_run(lengths, rows, first)
            stop_id = first_id + sum(lengths[first:stop])
            span = slice(rows[first], rows[stop - 1] + 1)
            runs.append(self._run(cache, span, slice(first_id, stop_id), lengths[first:stop], positions_N))
            first, first_id = stop, stop_id
        return _Grid(
            rotation_N1E=self._rotation.index_select(0, self._to(positions_N)).unsqueeze(1),
            places=self._to(cache.places(rows_N, positions_N)),
            runs=runs,
        )

    def _grid_of_one(self, length: int, first_position: int, row: int) -> _Grid:
        """Few ids of one row: everything is a slice."""
        stop, num_slots = first_position + length, self._visible.shape[0] // 2
        bias = None
        if length > 1:  # query t sees the slots up to first_position + t: this stretch of the ladder
            group = self.sizes.num_heads // self.sizes.num_kv_heads
            bias = self._ladder[: length * group, num_slots - first_position : num_slots + length].view(1, 1, length * group, stop)
        run = _Run(slice(row, row + 1), slice(0, length), length, stop, bias)
        return _Grid(self._rotation[first_position:stop].unsqueeze(1), slice(first_position, stop), [run])

    def _run(self, cache: Cache, rows: slice, ids: slice, lengths: Sequence[int], positions_N: I64) -> _Run:
        longest, spread, places = max(lengths), None, None
        positions_N = positions_N[ids]
        if len(positions_N) == len(lengths) * longest:
            positions_BT = positions_N.reshape(-1, longest)
        else:  # a row's last id stands for those that it has not
            columns, lengths_B1 = np.arange(longest), np.array(lengths)[:, None]
            starts_B1 = np.cumsum([0, *lengths[:-1]])[:, None]
            spread_BT = starts_B1 + np.minimum(columns, lengths_B1 - 1)
            positions_BT = positions_N[spread_BT]
            spread = self._to(spread_BT.reshape(-1) + ids.start)
            places = self._to(np.flatnonzero(columns < lengths_B1))
        num_seen = int(positions_BT.max()) + 1
        if positions_BT.size == 1:
            return _Run(rows, ids, 1, num_seen, None)
        num_read = min(-(-num_seen // _SLOTS_STEP) * _SLOTS_STEP, cache.num_slots)
        return _Run(rows, ids, longest, num_read, self._bias(positions_BT, num_read), spread, places)

    def _attend(self, x_ND: Tensor, block: _BlockWeights, cache: Cache, index: int, grid: _Grid) -> None:
        sizes = self.sizes
        num_queries, num_kv, width = sizes.num_heads, sizes.num_kv_heads, sizes.head_width
        group = num_queries // num_kv
        heads_NHE = torch.mm(self._normed(x_ND), block.qkv).view(-1, num_queries + 2 * num_kv, width)
        pairs = torch.view_as_complex(heads_NHE.view(-1, num_queries + 2 * num_kv, width // 2, 2))
        pairs[:, : num_queries + num_kv].mul_(grid.rotation_N1E)
        new_NKE = heads_NHE[:, num_queries:]
        if isinstance(grid.places, slice):
            cache.blocks[index][:, grid.runs[0].rows.start, :, grid.places] = new_NKE.view(-1, 2, num_kv, width).permute(1, 2, 0, 3)
        else:
            cache.blocks[index].view(-1, width).index_copy_(0, grid.places, new_NKE.reshape(-1, width))
        keys, values = cache.keys_and_values[index]
        parts = []
        for run in grid.runs:
            # The queries of one key head stand together, so that no key is read twice: [B, K, T * G, E].
            q = heads_NHE[run.ids, :num_queries] if run.spread is None else heads_NHE[:, :num_queries].index_select(0, run.spread)
            q = q.view(-1, run.num_columns, num_kv, group, width).transpose(1, 2)
            q = q.reshape(-1, num_kv, run.num_columns * group, width)
            seen = run.rows, slice(None), slice(run.num_read)
            out = F.scaled_dot_product_attention(q, keys[seen], values[seen], attn_mask=run.bias)
            out = out.view(-1, num_kv, run.num_columns, group, width).transpose(1, 2).reshape(-1, sizes.width)
            parts.append(out if run.places is None else out.index_select(0, run.places))
        out = parts[0] if len(parts) == 1 else torch.cat(parts)
        x_ND[:, : sizes.width].addmm_(out, block.output)

    def _feed(self, x_ND: Tensor, block: _BlockWeights) -> None:
        gate_up = torch.mm(self._normed(x_ND), block.gate_up)
        hidden = self.sizes.hidden
        x_ND[:, : self.sizes.width].addmm_(F.silu(gate_up[:, :hidden]).mul_(gate_up[:, hidden:]), block.down)

    def _normed(self, x_ND: Tensor) -> Tensor:
        """The stream over its length, epsilon included; the factor sqrt(D) and the gain wait in the next matrix."""
        normed: Tensor = x_ND / torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True)
        return normed[:, : self.sizes.width]

    def _bias(self, positions_BT: I64, num_read: int) -> Tensor:
        """0 or -inf [B, 1, T * G, S]: which slots each query sees."""
        group = self.sizes.num_heads // self.sizes.num_kv_heads
        num_slots = self._visible.shape[0] // 2
        # Row r of the windows sees num_slots - r slots: a query at position p takes row num_slots - 1 - p.
        windows = self._visible.unfold(0, num_slots, 1)[:, :num_read]
        wanted = (num_slots - 1) - (np.repeat(positions_BT, group, axis=1) if group > 1 else positions_BT)
        return windows.index_select(0, self._to(wanted.reshape(-1))).view(len(positions_BT), 1, -1, num_read)

    def _pack(self, block: Block) -> _BlockWeights:
        attention, feed = block.attention, block.feed_forward
        rotated = [self._neighbours(part.weight) for part in (attention.query, attention.key)]
        before, after = block.attention_norm.weight, block.feed_forward_norm.weight
        return _BlockWeights(
            qkv=self._folded(torch.cat([*rotated, attention.value.weight]), before),
            output=attention.output.weight.to(self.dtype).t().contiguous(),
            gate_up=self._folded(torch.cat([feed.gate.weight, feed.up.weight]), after),
            down=feed.down.weight.to(self.dtype).t().contiguous(),
        )

    def _folded(self, weight: Tensor, gain_D: Tensor) -> Tensor:
        return (weight.detach().double() * (gain_D.detach().double() * self._scale)).to(self.dtype).t().contiguous()

    def _neighbours(self, weight: Tensor) -> Tensor:
        """Rows of every head in the order 0, E/2, 1, E/2 + 1, ...: what the rotation pairs stands side by side."""
        width = self.sizes.head_width
        return weight.view(-1, 2, width // 2, self.sizes.width).transpose(1, 2).reshape(-1, self.sizes.width)

    def _to(self, array: I64) -> Tensor:
        return torch.from_numpy(array).to(self.device)


def _end_of_run(lengths: Sequence[int], rows: Sequence[int], first: int) -> int:
    """Behind the last row that is worth to be in one call of attention with row `first`: few places are filled up for each call saved."""
    longest = total = lengths[first]
    stop = first + 1
    while stop < len(lengths) and rows[stop] == rows[stop - 1] + 1:
        wider, sum_of_all = max(longest, lengths[stop]), total + lengths[stop]
        filled, filled_before = wider * (stop + 1 - first) - sum_of_all, longest * (stop - first) - total
        if filled - filled_before > _WORTH_FILLING:
            break
        longest, total, stop = wider, sum_of_all, stop + 1
    return stop
