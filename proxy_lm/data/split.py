"""Which documents are for training, validation and test: whole projects, chosen by their names and a seed.

Copies do not leak: exact and near duplicates are gone before the split, and documents of one project never part. Projects are taken in an
order drawn from (seed, name); one too large for what a split still lacks stays in train, so the largest projects are never held out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

TRAIN, VALID, TEST = 0, 1, 2
# A project of more than this part of a split's wanted bytes waits until smaller ones have been asked: several voices in each split.
_FIRST_PASS_PART = 0.25


def split_projects(
    names: Iterable[str], sizes: npt.NDArray[np.int64], seed: int, valid_share: float, test_share: float
) -> npt.NDArray[np.int8]:
    """The split of each project, shape [num_projects]; `sizes` in bytes. Shares are of all bytes, met from below as well as projects allow.

    With at least three projects every split asked for (share above 0) gets one; with fewer, as many as there are beyond train's.
    """
    split = np.zeros(len(sizes), np.int8)
    draws = np.zeros((len(sizes), 32), np.uint8)
    for project, name in enumerate(names):
        draws[project] = np.frombuffer(_draw(seed, name), np.uint8)
    order = np.lexsort(draws.view(">u8").T[::-1])
    del draws
    num_in_train = len(sizes)
    wanted = {number: share * int(sizes.sum()) for number, share in ((TEST, test_share), (VALID, valid_share)) if share > 0}
    missing = dict(wanted)
    for part in (_FIRST_PASS_PART, 1.0):
        for project in order:
            size = int(sizes[project])
            fits = [number for number in missing if size <= min(part * wanted[number], missing[number])]
            if fits and split[project] == TRAIN and num_in_train > 1:
                number = max(fits, key=missing.__getitem__)
                split[project] = number
                num_in_train -= 1
                missing[number] -= size
    for number in wanted:
        if not (split == number).any() and num_in_train > 1:
            free = order[split[order] == TRAIN]
            split[free[np.argmin(sizes[free])]] = number  # the first in order of the smallest
            num_in_train -= 1
    return split


def _draw(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed} {name}".encode("utf-8", "surrogatepass")).digest()
