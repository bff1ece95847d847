"""Where the identifiers of a source file stand, in bytes, and what kind of place an offset of a line is.

    identifiers(b"total = count + 1\n", "python")     # [(0, 5), (8, 13)]
    place(b"    total = 1", 6)                        # 'inside an identifier'

In Python they are the names that the standard library's tokenizer finds: no keywords, nothing in comments or strings. A Python file it
cannot read, and any other language, is searched for words of letters, digits, `_` and bytes from 0x80 up that do not begin with a digit,
wherever they stand; `identifiers` does not say which it was.

Not promised: the grammar of any other language. A word in a comment is as good a completion as another.
"""

from __future__ import annotations

import io
import keyword
import re
import tokenize
import warnings
from typing import Final

_WORD: Final = re.compile(rb"[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*")
_KEYWORDS: Final = frozenset(word.encode() for word in (*keyword.kwlist, *keyword.softkwlist))

PLACES: Final = ("line start", "in the indentation", "before an identifier", "inside an identifier", "inside a character", "elsewhere")
Span = tuple[int, int]


def identifiers(document: bytes, language: str) -> list[Span]:
    """(start, stop) of every identifier, in order."""
    found = _of_python(document) if language == "python" else None
    return words(document) if found is None else found


def words(document: bytes) -> list[Span]:
    """(start, stop) of every word that is no keyword of Python, in order."""
    return [match.span() for match in _WORD.finditer(document) if match.group() not in _KEYWORDS]


def is_word_byte(byte: int) -> bool:
    """Whether a byte goes on with an identifier."""
    return byte >= 0x80 or byte == 0x5F or chr(byte).isalnum()


def place(line: bytes, offset: int) -> str:
    """The kind of place between byte offset - 1 and byte offset of a line (without its newline): one of `PLACES`, the first that holds."""
    assert 0 <= offset < len(line), (offset, len(line))
    after = line[offset]
    if offset == 0:
        return "line start"
    if not line[:offset].strip(b" \t"):
        return "in the indentation"
    if after & 0xC0 == 0x80:
        return "inside a character"
    for match in _WORD.finditer(line):
        if match.start() == offset:
            return "before an identifier"
        if match.start() < offset < match.end():
            return "inside an identifier"
    return "elsewhere"


def _of_python(document: bytes) -> list[Span] | None:
    """Names by the tokenizer; None where it does not get through the document."""
    starts = [0]
    for line in document.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    lines = document.splitlines(keepends=True)
    found = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the source that is read, such as invalid escapes
            for token in tokenize.tokenize(io.BytesIO(document).readline):
                if token.type != tokenize.NAME or keyword.iskeyword(token.string):
                    continue
                row, column = token.start
                start = starts[row - 1] + len(lines[row - 1].decode()[:column].encode())
                if document[start : start + len(token.string.encode())] != token.string.encode():
                    return None  # a byte order mark, another encoding, or line ends of another kind have moved the columns
                found.append((start, start + len(token.string.encode())))
    except (tokenize.TokenError, SyntaxError, UnicodeDecodeError, IndexError):
        return None
    return found
