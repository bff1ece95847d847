"""Small tables for prose and names: keys beside keys, and words for words. Written for this project; a change of a table changes every
perturbed prompt, and so the digest of a result's problem set."""

from __future__ import annotations

NEIGHBOUR_KEYS = {
    "q": "wa", "w": "qes", "e": "wrd", "r": "etf", "t": "ryg", "y": "tuh", "u": "yij", "i": "uok", "o": "ipl", "p": "ol",
    "a": "qsz", "s": "awdxz", "d": "sefcx", "f": "drgvc", "g": "fthbv", "h": "gyjnb", "j": "hukmn", "k": "jilm", "l": "kop",
    "z": "asx", "x": "zsdc", "c": "xdfv", "v": "cfgb", "b": "vghn", "n": "bhjm", "m": "njk",
}  # fmt: skip

_GROUPS = (
    "return give yield", "returns gives", "given provided", "list sequence", "string text", "number value", "numbers values",
    "integer number", "check test verify", "find get locate", "finds gets locates", "compute calculate", "count tally", "sum total",
    "largest biggest greatest", "smallest least", "maximum largest", "minimum smallest", "remove delete drop", "add insert", "sort order",
    "sorted ordered", "reverse invert", "reversed inverted", "create make build", "convert turn transform", "contains holds includes",
    "element item", "elements items", "first initial", "last final", "empty blank", "whether if", "every each", "function routine",
    "input argument", "output result", "word term", "words terms", "letter character", "letters characters", "index position",
    "longest lengthiest", "shortest briefest", "equal identical", "different distinct", "common shared", "unique distinct", "pair couple",
    "length size", "write implement", "same identical", "all every", "only just", "begin start", "starts begins", "end finish",
    "ends finishes", "join combine merge", "split divide", "replace substitute", "keep retain", "take accept",
    "takes accepts", "also too", "must should", "greater larger", "smaller lesser", "below under", "above over", "multiply times",
    "match fit", "search look", "read load", "update change", "print show", "file document", "error fault",
    "default standard", "current present", "new fresh", "old former", "path route", "data information", "raise throw", "call invoke",
)  # fmt: skip


def _synonyms() -> dict[str, tuple[str, ...]]:
    table: dict[str, list[str]] = {}
    for group in _GROUPS:
        words = group.split()
        for word in words:
            table.setdefault(word, []).extend(other for other in words if other != word)
    return {word: tuple(dict.fromkeys(others)) for word, others in table.items()}


SYNONYMS = _synonyms()
"""Lower-case word -> words of nearly the same meaning in a docstring, in the order of the table."""

PLAIN_NAMES = ("value", "item", "result", "data", "temp", "current", "entry", "element", "total", "flag", "record", "part")
"""Names that people give to variables when they do not think."""
