"""`blanks`: a line's end with the indentation behind it is one symbol, and so is a run of spaces; everything else is bytes as they are.

    proxy-lm encode --corpus corpus --view blanks

The lightest of all views: on Python's own sources 1.2 bytes a symbol with a few dozen symbols. It asks what a proxy is worth that hardly
differs from the text. Nothing is trained. Not promised: anything for text that is indented by tabs or by another width than `indent`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Self, final

from compressors.base import DEFAULT_MAX_DECODED_BYTES, JSON, Borders, Compressor, Symbols
from compressors.errors import RequestError
from compressors.neural.dictionary import Dictionary
from compressors.options import Option
from compressors.symbols import checked

VERSION: Final = 1
_SPACES: Final = 4  # runs of up to so many levels of spaces alone


@final
class Blanks(Compressor):
    """Line ends with indentation, and runs of spaces, as one symbol each."""

    name: ClassVar[str] = "blanks"
    exact: ClassVar[bool] = True
    in_threads: ClassVar[bool] = True
    options: ClassVar[Mapping[str, Option]] = {
        "indent": Option(default=4, low=1, high=16, help="spaces of one level of indentation"),
        "levels": Option(default=8, low=1, high=15, help="levels that have symbols of their own"),
    }

    def __init__(self, *, indent: int = 4, levels: int = 8) -> None:
        """Raises `RequestError` for options out of range."""
        chosen = self.take_options({"indent": indent, "levels": levels})
        self.indent, self.levels = int(chosen["indent"]), int(chosen["levels"])
        level = b" " * self.indent
        ends = [b"\n" * lines + level * k for lines in (1, 2) for k in range(2 - lines, self.levels + 1)]
        spaces = {b"  ", *(level * k for k in range(1, _SPACES + 1))} - {b" "}
        self._dictionary = Dictionary.from_strings([*(bytes([byte]) for byte in range(256)), *ends, *sorted(spaces, key=len)])

    @property
    def alphabet_size(self) -> int:
        return self._dictionary.num_codes

    def encode(self, data: bytes) -> Symbols:
        return self._dictionary.encode([data])[0]

    def encode_batch(self, documents: Sequence[bytes]) -> list[Symbols | None]:
        """As `encode`, in one pass."""
        return list(self._dictionary.encode(documents))

    def decode(self, symbols: Symbols, max_bytes: int = DEFAULT_MAX_DECODED_BYTES) -> bytes:
        return self._dictionary.decode(checked(self.name, symbols, self.alphabet_size), max_bytes)

    def spans(self, data: bytes) -> Borders:
        return self._dictionary.borders(self.encode(data))

    def spelling(self) -> list[bytes]:
        return self._dictionary.strings()

    def spec(self) -> dict[str, JSON]:
        return {"name": self.name, "version": VERSION, "indent": self.indent, "levels": self.levels}

    @classmethod
    def from_artifact(cls, spec: Mapping[str, JSON], files: Mapping[str, bytes]) -> Self:
        known = {key: value for key, value in spec.items() if key in cls.options}
        view = cls(**known)  # type: ignore[arg-type]
        if view.spec() != dict(spec) or files:
            raise RequestError(
                f"the spec of view '{cls.name}' has name, version {VERSION}, indent and levels, and no files; got {dict(spec)}"
            )
        return view
