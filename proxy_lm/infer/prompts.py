"""Prompts: from bytes to the ids that a model reads, whatever it was told.

    teller = PromptTeller(loaded, "raw", compressor=None)
    told = teller.tell(Prompt(data=b"def f("))         # ids: BOS <raw> d e f _ f (
    told = teller.tell(Prompt(data=b"def f(", suffix=b"\n    return x\n"))

A prompt is the begin of a document, not closed. A run read through a view gets the symbols of the view's compressor; a prompt that the
view cannot express is told raw, as its document would have been in training. With a suffix the ids are those of fill-in-the-middle
(`proxy_lm.data.fim`), in the order that the run was trained on; a suffix too long for a row loses its far end, and so does its prefix.

A row has as many positions as in training. Where the ids do not fit, the last half of the full row is read again as a continued row: no
sentinel, positions from 0. `continued` says so for any number of ids, so that a long prompt is read as if its end had been generated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressors.base import Compressor
from proxy_lm.data.parts import comes_back
from proxy_lm.errors import NotRepresentableError, RequestError
from proxy_lm.infer import utf8
from proxy_lm.infer.asked import Prompt
from proxy_lm.infer.healing import Healer
from proxy_lm.train.restore import LoadedModel
from proxy_lm.vocabulary import BOS, RAW_START, ViewRange, special_id

_PREFIX, _SUFFIX, _MIDDLE = (special_id(f"<|fim_{part}|>") for part in ("prefix", "suffix", "middle"))
_NUM_FIM_SPECIALS = 5


@dataclass(frozen=True)
class Told:
    """A prompt in ids."""

    ids: list[int]
    """All of them, from BOS on; they may be more than a row holds."""
    symbols: list[int]
    """The payload of them in symbols of the view; empty where told raw."""
    tail: bytes
    """Bytes of the prompt that are not in `ids`: the first generated symbols spell them."""
    raw: bool
    num_cut: int = 0
    """1 where the prompt was cut to fit (with a suffix only)."""


class PromptTeller:
    """Tells prompts to one run through one reading."""

    def __init__(self, loaded: LoadedModel, view: str, compressor: Compressor | None, *, healing: bool = False) -> None:
        """`compressor` None for raw bytes. Raises `RequestError` where healing cannot work for the view."""
        self.row_length = loaded.settings.row_length
        self.compressor = compressor
        self.view: ViewRange | None = None if compressor is None else loaded.vocabulary.view(view)
        self.spelling = None if compressor is None else compressor.spelling()
        self.healer: Healer | None = None
        self._fim = loaded.settings.mix.fim
        if compressor is None:
            return
        if not compressor.exact:
            raise RequestError(f"view '{view}' does not promise to give documents back, so nothing is generated in it; ask with --view raw")
        if healing:
            if self.spelling is None:
                raise RequestError(
                    f"the symbols of view '{view}' do not spell the same bytes wherever they stand, so no prompt can be healed in it; "
                    "ask without healing"
                )
            self.healer = Healer(self.spelling)

    def tell(self, prompt: Prompt) -> Told:
        """The ids of a prompt. Raises `RequestError` for what the run or the view cannot read."""
        prompt.check()
        if prompt.suffix is not None:
            return self._infilling(prompt, prompt.suffix)
        if self.compressor is None or self.view is None:
            return _raw(prompt.data)
        found = self._symbols(prompt.data)
        if found is None:
            return _raw(prompt.data)
        symbols, tail = found
        return Told([BOS, self.view.start_id, *self.view.to_ids(np.array(symbols, dtype=np.int64)).tolist()], symbols, tail, False)

    def _symbols(self, data: bytes) -> tuple[list[int], bytes] | None:
        """Symbols that are read, and the bytes that are told again. None where the view cannot express the prompt."""
        assert self.compressor is not None
        if not data:
            return [], b""  # where any document begins; some views tell the empty document by symbols of its own
        symbols = _encoded(self.compressor, data)
        if symbols is None and self.healer is not None:  # a view of text refuses half a character: told again, the next bytes complete it
            for length in range(1, min(4, len(data) + 1)):
                if utf8.state_after(data) != utf8.START and utf8.state_after(data[:-length]) == utf8.START:
                    symbols = _encoded(self.compressor, data[:-length])
                    break
        if symbols is None:
            return None
        if self.spelling is None and self.compressor.spans(data) is None:
            raise RequestError(
                f"a symbol of view '{self.compressor.name}' stands for no stretch of bytes, so the prompt of {len(data)} bytes has no "
                "symbols that could be continued; give an empty prompt for a whole document, or another view"
            )
        if self.healer is None:
            return symbols, b""
        healed = self.healer.heal(data, symbols)
        return symbols[: healed.num_kept], healed.tail

    def _infilling(self, prompt: Prompt, suffix: bytes) -> Told:
        if self._fim.rate.is_zero:
            raise RequestError(
                "this run was never told a document with its middle last, so it cannot use a suffix; train with mix.fim.rate above 0, "
                "or drop the suffix"
            )
        if self.compressor is not None:
            raise RequestError("a suffix is read in raw bytes only, and this run is asked through a view; ask with --view raw, or drop it")
        room = self.row_length - _NUM_FIM_SPECIALS - min(prompt.max_bytes, self.row_length // 4)
        prefix, cut_suffix = _fitted(prompt.data, suffix, max(2, room))
        if self._fim.spm_share < 1:
            ids = [BOS, RAW_START, _PREFIX, *prefix, _SUFFIX, *cut_suffix, _MIDDLE]
        else:
            ids = [BOS, RAW_START, _PREFIX, _SUFFIX, *cut_suffix, _MIDDLE, *prefix]
        return Told(ids, [], b"", True, int(len(prefix) + len(cut_suffix) < len(prompt.data) + len(suffix)))


def continued(num_ids: int, row_length: int) -> tuple[int, int]:
    """(first id of the row that is read, how many rows were full before it) of `num_ids` ids in all. Each row but the first begins with
    the last half of a full one."""
    if num_ids <= row_length:
        return 0, 0
    step = row_length - row_length // 2
    num_full = -(-(num_ids - row_length) // step)
    return num_full * step, num_full


def _raw(data: bytes) -> Told:
    return Told([BOS, RAW_START, *data], [], b"", True)


def _fitted(prefix: bytes, suffix: bytes, room: int) -> tuple[bytes, bytes]:
    """The ends nearest to the middle, at most `room` bytes together; each gets half, and what the other leaves."""
    if len(prefix) + len(suffix) <= room:
        return prefix, suffix
    of_suffix = min(len(suffix), max(room // 2, room - len(prefix)))
    of_prefix = room - of_suffix
    return prefix[len(prefix) - of_prefix :], suffix[:of_suffix]


def _encoded(compressor: Compressor, data: bytes) -> list[int] | None:
    try:
        symbols = compressor.encode(data)
        told = comes_back(compressor, data, symbols)  # else the view was not allowed to tell such a document in training either
    except NotRepresentableError:
        return None
    return np.asarray(symbols).tolist() if told else None
