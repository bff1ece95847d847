"""From many strings to the most used: parse text, keep what the parse uses, parse again.

    smaller = most_used(dictionary, documents, num_codes=65_536, parse="fewest")

A table of 2^20 windows holds better strings than one of 2^16, and most of its strings are never the last of a parse. Rounds of about half
the codes each let the uses of what goes move to what stays. The 256 bytes always stay. Codes keep their order, which is that of the
strings' cells, so strings with the same beginning have codes side by side.

Not promised: the best choice. What a string is worth is taken to be how often it is used, which ignores that some are easier to replace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from compressors.neural.dictionary import Dictionary, Parse
from compressors.neural.numbering import numbered

# called as report(done, total)
Report = Callable[[int, int], None]
# The share of codes that a round keeps. On 100 MB of Python, from 2^20 strings of `top` to 65,536: greedy 6.01 bytes a symbol with 0.6 and
# with 0.8; fewest 6.26 with 0.35, 6.17 in one round, 6.11 with 0.7 (which 40 MB gave).
_SHRINK: Final[Mapping[str, float]] = {"greedy": 0.6, "fewest": 0.35}


def sizes(num_codes: int, wanted: int, parse: Parse) -> list[int]:
    """Codes kept after each round, down to `wanted`."""
    found = []
    while (num_codes := int(num_codes * _SHRINK[parse])) > wanted:
        found.append(num_codes)
    return [*found, wanted]


def most_used(
    dictionary: Dictionary, documents: Sequence[bytes], *, num_codes: int, parse: Parse, report: Report | None = None
) -> Dictionary:
    """The `num_codes` codes (at least 256) that the parse of `documents` uses most, the lower code on ties."""
    assert num_codes >= 256
    schedule = sizes(dictionary.num_codes, num_codes, parse) if dictionary.num_codes > num_codes else []
    for done, size in enumerate(schedule):
        codes = dictionary.encode(documents, parse=parse)
        uses = np.bincount(np.concatenate([*codes, np.zeros(0, np.uint32)]), minlength=dictionary.num_codes)
        uses[dictionary.codes[1:257]] = np.iinfo(np.int64).max  # the bytes stay
        kept = np.sort(np.argsort(-uses, kind="stable")[:size])
        dictionary = _only(dictionary, kept)
        if report is not None:
            report(done + 1, len(schedule))
    return dictionary


def _only(dictionary: Dictionary, kept: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Dictionary:
    """The dictionary of some of the codes, in their order."""
    coded = np.zeros(len(dictionary.labels), np.bool_)
    coded[dictionary.decode_nodes[kept]] = True
    found = numbered(dictionary.labels, dictionary.parents, coded, dictionary.codes.astype(np.int64))
    return Dictionary(labels=found.labels, parents=found.parents, codes=found.codes, decode_nodes=found.decode_nodes)
