"""Fill-in-the-middle: documents told raw whose middle comes last, so that the model learns to write between what it has read.

    mix:
      fim: {rate: 0.5, spm_share: 0.5, line_share: 0.25}

    prefix, suffix, middle      BOS <raw> PREFIX p SUFFIX s MIDDLE m </raw> EOS
    suffix, prefix, middle      BOS <raw> PREFIX SUFFIX s MIDDLE p m </raw> EOS

The specials are `<|fim_prefix|>`, `<|fim_suffix|>` and `<|fim_middle|>`, so that an editor's prompt looks as it does to other models. The
two cuts are drawn evenly from all places between bytes, both ends included, also inside a character; or from the starts of lines (and both
ends), so that the middle is whole lines. The three parts join to the document, and it counts once. Orders and even cuts are those of
Bavarian et al., "Efficient training of language models to fill in the middle" (arXiv 2207.14255), sections 3 and 4; of its two ways to
write suffix first, this is the one in which prefix and middle stand together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from proxy_lm.config import Settings
from proxy_lm.data.curves import F64, Curve
from proxy_lm.data.permutation import key_of, uniforms
from proxy_lm.data.pieces import I64, U8, Bools, Layout
from proxy_lm.errors import RequestError

if TYPE_CHECKING:
    from proxy_lm.data.cuts import CutTable


class FimSettings(Settings):
    """How often and how documents are told with their middle last."""

    rate: Curve = Curve.constant(0.0)
    """Share of the documents told raw, once and whole, that are told this way. A number, or [[progress, value], ...]; `anneal` leaves it
    alone, since its documents are raw."""

    spm_share: float = Field(default=0.5, ge=0.0, le=1.0)
    """Of these, the share whose suffix comes first (suffix, prefix, middle)."""

    line_share: float = Field(default=0.0, ge=0.0, le=1.0)
    """Of these, the share cut at starts of lines, of which up to 16 a document are drawn once for the corpus. A document of a single line
    is cut at any byte, and counted (`num_uncut`)."""

    @property
    def needs_lines(self) -> bool:
        """True when some document is cut at the start of a line."""
        return self.line_share > 0.0 and not self.rate.is_zero


class Fim:
    """The draws. A pure function of its arguments; each decision has a draw of its own, keyed by the position."""

    def __init__(self, settings: FimSettings, seed: int, num_documents: int, lines: CutTable | None) -> None:
        """`lines` of a corpus of `num_documents`, needed where `settings.needs_lines`. Raises `RequestError` where they are missing."""
        if settings.needs_lines and lines is None:
            raise RequestError(
                f"mix.fim.line_share = {settings.line_share} asks for line starts and the plan has no table of them; give `lines`, "
                "or set mix.fim.line_share=0"
            )
        if lines is not None and lines.borders.size != num_documents + 1:
            raise RequestError(
                f"the table of lines is of {lines.borders.size - 1} documents and the corpus has {num_documents}; make it anew"
            )
        self.settings = settings
        self._lines = lines
        self._keys = {what: key_of(seed, f"fim {what}") for what in ("rate", "order", "lines", "first", "second")}

    def decide(self, layout: U8, position: I64, size_bytes: I64, rate: F64) -> None:
        """Turn raw documents into these layouts, in place; `rate` one number or one a document. Empty documents stay as they are."""
        chosen = (layout == Layout.RAW) & (size_bytes > 0) & (uniforms(self._keys["rate"], position) < rate)
        some = np.flatnonzero(chosen)
        suffix_first = uniforms(self._keys["order"], position[some]) < self.settings.spm_share
        layout[some] = np.where(suffix_first, np.uint8(Layout.FIM_SPM), np.uint8(Layout.FIM_PSM))

    def middles(self, position: I64, document: I64, size_bytes: I64) -> tuple[I64, I64, Bools]:
        """(first byte, end byte) of the middle of each document, and whether it was to be cut at lines and has none inside.

        `document` is the index in the corpus."""
        first, second = (uniforms(self._keys[which], position) for which in ("first", "second"))
        by_lines = uniforms(self._keys["lines"], position) < self.settings.line_share
        # Even over 0 .. size: the ends are places too.
        cuts: Any = [(draw * (size_bytes + 1)).astype(np.int64) for draw in (first, second)]
        unlined = np.zeros(position.size, dtype=np.bool_)
        if self._lines is not None:
            num_starts = self._lines.num_candidates(document)
            unlined = by_lines & (num_starts == 0)
            some = np.flatnonzero(by_lines & (num_starts > 0))
            # Two different ones of: the document's begin, its line starts, its end.
            places = num_starts[some] + 2
            one = (first[some] * places).astype(np.int64)
            other = (second[some] * (places - 1)).astype(np.int64)
            other += other >= one
            for cut, place in zip(cuts, (one, other), strict=True):
                start = self._lines.byte[np.clip(self._lines.borders[document[some]] + place - 1, 0, self._lines.byte.size - 1)]
                cut[some] = np.where(place == 0, 0, np.where(place == places - 1, size_bytes[some], start))
        return np.minimum(*cuts), np.maximum(*cuts), unlined
