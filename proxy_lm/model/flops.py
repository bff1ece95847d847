"""Parameters and floating-point operations counted from structure. Imports no torch, so a dry run is instant.

Counted: every matrix product of the forward pass, 2 per multiply-add: the blocks' matrices, the output rows of all heads at every
position, and attention as the reference path runs it, over the whole square of a row. Not counted: the embedding lookup (0 products),
norms, rotations, softmax, the optimizer. A training step is three forwards by definition: each product of the forward has two of the same
size in the backward. Activation checkpointing runs a fourth; it is not counted, since it trains nothing further.

Arms are matched on this number. Faster attention paths multiply less than it says; it does not change with the device or the path.
"""

# D width, E width of a head, F feed-forward width, V ids, L row length

from __future__ import annotations

from typing import NamedTuple

from proxy_lm.model.settings import ModelSettings, ResolvedModel
from proxy_lm.vocabulary import RAW_VOCABULARY_SIZE

FORWARDS_PER_TRAINING_STEP = 3


class ParameterCounts(NamedTuple):
    """Numbers of parameters by part. `body` is the blocks and the last norm: the same in arms that differ in vocabulary."""

    body: int
    embedding: int
    output: int
    raw_heads: int
    symbol_heads: int

    @property
    def total(self) -> int:
        """All parameters."""
        return self.body + self.embedding + self.output + self.raw_heads + self.symbol_heads


def num_parameters(settings: ModelSettings, vocabulary_size: int) -> ParameterCounts:
    """Parameters of `Decoder(settings, vocabulary_size)`, without building it."""
    model = settings.resolved()
    block = _block_matrices(model) + 2 * model.width
    return ParameterCounts(
        body=model.depth * block + model.width,
        embedding=vocabulary_size * model.width,
        output=vocabulary_size * model.width,
        raw_heads=model.num_raw_heads * RAW_VOCABULARY_SIZE * model.width,
        symbol_heads=model.num_symbol_heads * vocabulary_size * model.width,
    )


def forward_flops_per_symbol(settings: ModelSettings, vocabulary_size: int, row_length: int) -> int:
    """FLOPs of one forward over a row of `row_length`, by its length: 2 * (blocks' matrices + output rows) + 4 * depth * L * D."""
    model = settings.resolved()
    output = model.width * output_rows(model, vocabulary_size)
    attention = 2 * 2 * model.depth * row_length * model.width  # scores and weighted values, 2 * L * D products each
    return 2 * (model.depth * _block_matrices(model) + output) + attention


def training_flops_per_symbol(settings: ModelSettings, vocabulary_size: int, row_length: int) -> int:
    """FLOPs of one symbol's share of a training step: three forwards."""
    return FORWARDS_PER_TRAINING_STEP * forward_flops_per_symbol(settings, vocabulary_size, row_length)


def output_rows(model: ResolvedModel, vocabulary_size: int) -> int:
    """Rows of all output matrices: the first head, the raw heads over bytes and specials, the symbol heads over everything."""
    return (1 + model.num_symbol_heads) * vocabulary_size + model.num_raw_heads * RAW_VOCABULARY_SIZE


def _block_matrices(model: ResolvedModel) -> int:
    """Numbers in one block's seven matrices."""
    key_width = model.num_kv_heads * model.head_width
    return 2 * model.width * model.width + 2 * model.width * key_width + 3 * model.width * model.hidden
