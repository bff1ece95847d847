"""One completion on its way: its ids become bytes, its bytes are watched, and it is asked again when its row is full.

`Progress` is what the engine calls with every id it accepts (`take`); `proxy_lm.infer.generator` makes them. The two ways to end by
bytes are found as soon as the bytes are sure: a stop sequence, also inside what one symbol spells, and `max_bytes`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from proxy_lm.infer import utf8
from proxy_lm.infer.asked import Prompt, Sampling
from proxy_lm.infer.id_request import Automaton, IdRequest, IdResult
from proxy_lm.infer.prompts import Told, continued
from proxy_lm.infer.spelling import DecodingSpeller, Speller
from proxy_lm.infer.stops import StopMatcher
from proxy_lm.vocabulary import NUM_BYTES, RAW_VOCABULARY_SIZE

Reason = Literal["stop", "end", "length"]
_MOST_SYMBOLS_A_BYTE = 8  # one bit each
_SPARE_SYMBOLS = 64


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What follows a prompt."""

    data: bytes
    """Without the stop sequence."""
    reason: Literal["stop", "end", "length"]
    """A stop sequence; the end of the document; `max_bytes`."""
    stop: bytes | None
    """The sequence that ended it."""
    num_passes: int
    """Forward passes that gave ids: each one, and the drafts that were right. Those over the prompt are apart."""
    num_drafted: int
    """Ids guessed ahead, from what was said before or by the extra heads."""
    num_accepted: int
    """Of these, the ones that were right."""
    num_rereads: int
    """How often the context was cut: a row was full and its last half read again, or a long prompt did not fit."""
    told_raw: bool = True
    """Whether the prompt was told in raw bytes."""
    num_unspelled: int = 0
    """Symbols at the end that the view's compressor could not decode."""


class Progress:
    """A completion from its first id to its last."""

    def __init__(
        self,
        prompt: Prompt,
        sampling: Sampling,
        told: Told,
        speller: Speller,
        row_length: int,
        *,
        free: Automaton,
        healing: Automaton | None = None,
    ) -> None:
        """`healing` holds until the prompt's tail is spelled: its states are those of the tail, then those of `free`."""
        self.completion: Completion | None = None
        self._prompt, self._sampling, self._told = prompt, sampling, told
        self._free_table, self._is_healing = free.next_state, healing is not None
        self._table, self._state = (healing.next_state, healing.start) if healing else (free.next_state, free.start)
        self._speller, self._row_length = speller, row_length
        self._matcher = StopMatcher(prompt.stop)
        self._data = bytearray()
        self._num_skipped = len(told.tail)
        first, self._num_full = continued(len(told.ids), row_length)
        self._row = told.ids[first:]
        self._num_ids = 0
        self._reason: Reason | None = None
        self._stop: bytes | None = None
        self._most_ids = prompt.max_bytes + len(told.tail)
        if isinstance(speller, DecodingSpeller):
            self._most_ids = _MOST_SYMBOLS_A_BYTE * self._most_ids + _SPARE_SYMBOLS
        self._counts = {"num_passes": 0, "num_drafted": 0, "num_accepted": 0}
        self._first_state = utf8.state_after(prompt.data)

    def request(self) -> IdRequest:
        """What the engine is asked next: the row as it is, or the last half of it where it is full."""
        first, num_full = continued(len(self._row), self._row_length)
        self._row = self._row[first:]
        self._num_full += num_full
        sampling = self._sampling
        return IdRequest(
            prompt_ids=tuple(self._row),
            max_ids=min(self._most_ids - self._num_ids, self._row_length - len(self._row) + 1),
            seed=key_of_draws(sampling.seed, self._prompt.seed),
            first_draw=self._num_ids,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            speculate=sampling.speculate,
            automaton=Automaton(self._table, self._state),
            watcher=self,
        )

    def take(self, ids: Sequence[int]) -> int | None:
        """Spell new ids; how many of them to keep where the row ends, because the completion does or the rules change."""
        for index, one in enumerate(ids):
            self._state = int(self._table[self._state, one])
            assert self._state >= 0, "the engine accepted an id that the automaton forbids"
            if NUM_BYTES <= one < RAW_VOCABULARY_SIZE:  # of the specials only ends are possible
                self._end(self._speller.finish(), "end")
                return index
            self._row.append(one)
            self._num_ids += 1
            self._read(self._speller.add(one))
            if self._reason is not None:
                return index + 1
            if self._num_ids >= self._most_ids:
                self._end(self._speller.finish(), "length")
                return index + 1
            if self._is_healing and self._state >= len(self._told.tail):
                # The same row goes on at once, with the rules that all share: the engine still holds what it has read.
                self._table, self._state, self._is_healing = self._free_table, self._state - len(self._told.tail), False
                return index + 1
        return None

    def take_result(self, result: IdResult) -> bool:
        """The row has left the engine: True where the completion is done, else `request` says how it goes on."""
        for name in self._counts:
            self._counts[name] += getattr(result, name)
        if self._reason is None:
            return False
        whole = bytes(self._data)
        if self._sampling.valid_utf8:
            whole = whole[: utf8.whole_characters(whole, self._first_state)]
        self.completion = Completion(
            data=whole,
            reason=self._reason,
            stop=self._stop,
            num_rereads=self._told.num_cut + self._num_full,
            told_raw=self._told.raw,
            num_unspelled=self._speller.num_unspelled,
            **self._counts,
        )
        return True

    def sure(self, num_given: int) -> bytes:
        """What no further id can take back, behind the first `num_given` bytes that this gave before: without the begin of what may become
        a stop sequence, and complete characters only where only such are asked for."""
        if self.completion is not None:
            return self.completion.data[num_given:]
        known = bytes(self._data[num_given : len(self._data) - self._matcher.num_held])
        if not self._sampling.valid_utf8:
            return known
        return known[: utf8.whole_characters(known, utf8.START if num_given else self._first_state)]

    def _read(self, new: bytes) -> None:
        """Bytes that became sure: those that heal the prompt are dropped, the others may end the completion."""
        skipped = min(self._num_skipped, len(new))
        self._num_skipped -= skipped
        new = new[skipped : skipped + self._prompt.max_bytes - len(self._data)]
        self._data += new
        hit = self._matcher.feed(new)
        if hit is not None:
            del self._data[hit.begin :]
            self._reason, self._stop = "stop", hit.stop
        elif len(self._data) >= self._prompt.max_bytes:
            self._reason = "length"

    def _end(self, left: bytes, reason: Reason) -> None:
        """No id follows, and `left` is what was not sure before."""
        self._read(left)
        self._reason = self._reason or reason


def key_of_draws(sampling_seed: int, prompt_seed: int) -> int:
    """64 bits for one prompt's draws."""
    return int.from_bytes(hashlib.sha256(f"proxy-lm draws {sampling_seed} {prompt_seed}".encode()).digest()[:8], "little")
