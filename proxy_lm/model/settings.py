"""Sizes of the decoder: presets from `nano` to the paper's five, and the fields that override them. Imports no torch.

    model: {preset: nano, depth: 4}        in a run's YAML, or `model.depth=4` on the command line

A field left out is taken from the preset; a field given wins. The vocabulary is not here: `proxy_lm.vocabulary` computes it from the
run's views. Not promised: that an overridden preset still has about the number of parameters in its name.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, Self

from pydantic import Field, model_validator

from proxy_lm.config import Settings


class Shape(NamedTuple):
    """What a preset fixes. `hidden` is the width inside the feed-forward part (three matrices: gate, up, down)."""

    width: int
    depth: int
    num_heads: int
    num_kv_heads: int
    hidden: int
    rope_theta: float


# 0.5b to 14b are the paper's sizes (arXiv 2602.04289, released configurations): head width 128, one key head per query head, theta 1e5.
# nano to mini are made for one processor core: few, wide blocks, since small matrices waste its arithmetic (measured in README.md).
PRESETS: Final[Mapping[str, Shape]] = MappingProxyType(
    {
        "nano": Shape(width=128, depth=3, num_heads=2, num_kv_heads=1, hidden=320, rope_theta=10_000.0),
        "micro": Shape(width=256, depth=4, num_heads=4, num_kv_heads=2, hidden=704, rope_theta=10_000.0),
        "mini": Shape(width=384, depth=8, num_heads=6, num_kv_heads=2, hidden=1024, rope_theta=10_000.0),
        "40m": Shape(width=512, depth=13, num_heads=8, num_kv_heads=4, hidden=1536, rope_theta=10_000.0),
        "125m": Shape(width=768, depth=18, num_heads=12, num_kv_heads=12, hidden=2048, rope_theta=100_000.0),
        "350m": Shape(width=1024, depth=28, num_heads=16, num_kv_heads=16, hidden=2752, rope_theta=100_000.0),
        "0.5b": Shape(width=1024, depth=28, num_heads=8, num_kv_heads=8, hidden=4096, rope_theta=100_000.0),
        "1.5b": Shape(width=2048, depth=20, num_heads=16, num_kv_heads=16, hidden=8192, rope_theta=100_000.0),
        "4b": Shape(width=3072, depth=32, num_heads=24, num_kv_heads=24, hidden=9216, rope_theta=100_000.0),
        "7b": Shape(width=4096, depth=32, num_heads=32, num_kv_heads=32, hidden=12288, rope_theta=100_000.0),
        "14b": Shape(width=5120, depth=40, num_heads=40, num_kv_heads=40, hidden=16384, rope_theta=100_000.0),
        # Byte models of neural views (`compressor train neural`): 0.7 million parameters for a processor core; 256 wide, 3 blocks and 4
        # heads as in arXiv 2404.03626; 41 million as in arXiv 2602.04289.
        "0.7m": Shape(width=128, depth=3, num_heads=4, num_kv_heads=4, hidden=352, rope_theta=10_000.0),
        "3m": Shape(width=256, depth=3, num_heads=4, num_kv_heads=4, hidden=1024, rope_theta=10_000.0),
        "41m": Shape(width=512, depth=12, num_heads=8, num_kv_heads=8, hidden=1536, rope_theta=10_000.0),
        # Byte models as compressors: width, blocks and heads of the three trained for "Language modeling is compression" (ICLR 2024), and
        # about their parameters: their feed-forward part has two matrices of 4 x width, ours three of 8/3.
        "compressor-200k": Shape(width=64, depth=4, num_heads=4, num_kv_heads=4, hidden=168, rope_theta=10_000.0),
        "compressor-800k": Shape(width=128, depth=4, num_heads=4, num_kv_heads=4, hidden=336, rope_theta=10_000.0),
        "compressor-3.2m": Shape(width=256, depth=4, num_heads=8, num_kv_heads=8, hidden=680, rope_theta=10_000.0),
    }
)


class ResolvedModel(NamedTuple):
    """Every number of a decoder, nothing left open. All of the room works on this; only users write `ModelSettings`."""

    width: int
    depth: int
    num_heads: int
    num_kv_heads: int
    hidden: int
    rope_theta: float
    norm_eps: float
    init_std: float
    num_raw_heads: int
    raw_head_weight: float
    num_symbol_heads: int
    symbol_head_weight: float

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.num_heads

    @property
    def lookahead(self) -> int:
        """Columns a row carries beyond its length, so that the head that looks furthest has its target."""
        return 1 + max(self.num_raw_heads, self.num_symbol_heads)

    @property
    def num_extra_heads(self) -> int:
        """Output heads beside the first."""
        return self.num_raw_heads + self.num_symbol_heads

    @property
    def head_names(self) -> tuple[str, ...]:
        """All output heads in the order of `Losses`: `next`, then `raw_k` and `symbol_k`, which predict k columns ahead."""
        raw = (f"raw_{2 + j}" for j in range(self.num_raw_heads))
        return "next", *raw, *(f"symbol_{2 + j}" for j in range(self.num_symbol_heads))


class ModelSettings(Settings):
    """A decoder's size. `resolved()` fills what was left out from the preset."""

    preset: str | None = "nano"
    """Name of a size in `PRESETS`; null when width, depth, num_heads and hidden are all given."""
    width: int | None = Field(default=None, ge=1)
    """Width of the residual stream (d_model)."""
    depth: int | None = Field(default=None, ge=1)
    """Number of blocks."""
    num_heads: int | None = Field(default=None, ge=1)
    """Query heads; divides width, and the width of a head is even."""
    num_kv_heads: int | None = Field(default=None, ge=1)
    """Key and value heads; divides num_heads. Given num_heads alone, it is the largest divisor not above the preset's."""
    hidden: int | None = Field(default=None, ge=1)
    """Width inside the feed-forward part."""
    rope_theta: float | None = Field(default=None, gt=1.0)
    """Base of the rotary wavelengths."""
    norm_eps: float = Field(default=1e-6, gt=0.0, lt=1.0)
    """Added to the mean square inside the norms."""
    init_std: float | None = Field(default=None, gt=0.0, le=1.0)
    """Standard deviation of the matrices at the start; left out it is 1/sqrt(width) (README.md says what was measured)."""
    num_raw_heads: int = Field(default=0, ge=0)
    """Extra heads over bytes and specials; head j predicts the raw byte 1 + j columns ahead. The same in every arm of a comparison."""
    raw_head_weight: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)
    """Weight of each raw head's loss beside the first head's."""
    num_symbol_heads: int = Field(default=0, ge=0)
    """Extra heads over the whole vocabulary; head j predicts the symbol 1 + j columns ahead, bytes and symbols of views alike, inside one
    piece. Each costs another output matrix. The same number in every arm of a comparison."""
    symbol_head_weight: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)
    """Weight of each symbol head's loss beside the first head's."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.resolved()
        return self

    def resolved(self) -> ResolvedModel:
        """All numbers filled in and checked. Raises ValueError (one sentence) when they do not fit together."""
        shape = self._shape()
        resolved = ResolvedModel(
            **shape._asdict(),
            norm_eps=self.norm_eps,
            init_std=self.init_std or shape.width**-0.5,
            num_raw_heads=self.num_raw_heads,
            raw_head_weight=self.raw_head_weight,
            num_symbol_heads=self.num_symbol_heads,
            symbol_head_weight=self.symbol_head_weight,
        )
        _check_heads(resolved)
        return resolved

    def _shape(self) -> Shape:
        if self.preset is None:
            given = {name: getattr(self, name) for name in ("width", "depth", "num_heads", "hidden")}
            missing = [name for name, value in given.items() if value is None]
            if missing:
                raise ValueError(f"no preset, so {', '.join(missing)} must be given; or choose a preset: {', '.join(PRESETS)}")
            return Shape(**given, num_kv_heads=self.num_kv_heads or given["num_heads"], rope_theta=self.rope_theta or 10_000.0)
        preset = PRESETS.get(self.preset.lower())
        if preset is None:
            near = difflib.get_close_matches(self.preset.lower(), PRESETS, n=1, cutoff=0.3)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise ValueError(f"unknown preset '{self.preset}'; {hint}known: {', '.join(PRESETS)}")
        given = {name: getattr(self, name) for name in Shape._fields if getattr(self, name) is not None}
        if self.num_heads is not None and self.num_kv_heads is None:
            limit = min(preset.num_kv_heads, self.num_heads)
            given["num_kv_heads"] = next(k for k in range(limit, 0, -1) if self.num_heads % k == 0)
        return preset._replace(**given)


def _check_heads(model: ResolvedModel) -> None:
    if model.width % model.num_heads:
        near = [k for k in range(1, model.width + 1) if model.width % k == 0 and (model.width // k) % 2 == 0]
        best = min(near, key=lambda k: abs(k - model.num_heads), default=1)
        raise ValueError(f"width {model.width} is not a multiple of num_heads {model.num_heads}; set num_heads={best} or another divisor")
    if model.head_width % 2:
        raise ValueError(f"a head is width/num_heads = {model.head_width} wide, and rotary positions turn pairs; make it even")
    if model.num_heads % model.num_kv_heads:
        raise ValueError(
            f"num_kv_heads {model.num_kv_heads} does not divide num_heads {model.num_heads}; set it to a divisor of {model.num_heads}"
        )
