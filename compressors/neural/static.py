"""A byte model that looks at nothing: how often each byte occurs (StaticAC, arXiv 2404.03626, section 3.2).

    model = StaticModel.train(documents)

Every row is the same, so `after` and `rows` give read-only views of one row, whatever the prefix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self, final

import numpy as np

from compressors.base import JSON
from compressors.errors import RequestError
from compressors.neural.models import TOTAL, ByteModel, Frequencies, Prefixes
from compressors.options import Option, take


@final
class StaticModel(ByteModel):
    """One row of frequencies for every place."""

    kind: ClassVar[str] = "static"
    integer: ClassVar[bool] = True
    version: ClassVar[int] = 1
    options: ClassVar[Mapping[str, Option]] = {
        "max_training_bytes": Option(default=1 << 28, low=1, help="documents are read up to this many bytes")
    }

    def __init__(self, frequencies: Sequence[int]) -> None:
        """256 whole numbers of at least 1 that add up to 65,536. Raises `RequestError` for anything else."""
        good = len(frequencies) == 256 and all(type(f) is int and f >= 1 for f in frequencies) and sum(frequencies) == TOTAL
        if not good:
            raise RequestError(f"the frequencies of a static byte model are 256 whole numbers from 1 that add up to {TOTAL}; train it anew")
        self._row = np.array(frequencies, np.uint16)

    def after(self, prefixes: Prefixes) -> Frequencies:
        return np.broadcast_to(self._row, (len(prefixes), 256))

    def rows(self, stretches: Sequence[bytes]) -> list[Frequencies]:
        return [np.broadcast_to(self._row, (len(stretch), 256)) for stretch in stretches]

    @property
    def context_bytes(self) -> int:
        return 0

    def spec(self) -> dict[str, JSON]:
        return {"kind": self.kind, "version": self.version, "frequencies": self._row.tolist()}

    def files(self) -> dict[str, bytes]:
        return {}

    @classmethod
    def from_files(cls, spec: Mapping[str, JSON], files: Mapping[str, bytes]) -> Self:
        frequencies = spec.get("frequencies")
        if spec.get("kind") != cls.kind or spec.get("version") != cls.version or files or not isinstance(frequencies, list):
            raise RequestError(f"not a static byte model of version {cls.version}; train it anew")
        return cls(frequencies)  # type: ignore[arg-type]  # the constructor checks each

    @classmethod
    def train(cls, documents: Iterable[bytes], **options: Any) -> Self:
        """Count the bytes of the documents. No text at all gives the uniform row."""
        left = take("static", cls.options, options)["max_training_bytes"]
        counts = np.zeros(256, np.int64)
        for document in documents:
            counts += np.bincount(np.frombuffer(document[:left], np.uint8), minlength=256)
            left -= min(left, len(document))
            if left == 0:
                break
        total = int(counts.sum())
        if total == 0:
            return cls([TOTAL // 256] * 256)
        frequencies = [1 + int(count) * (TOTAL - 256) // total for count in counts]
        frequencies[int(counts.argmax())] += TOTAL - sum(frequencies)
        return cls(frequencies)
