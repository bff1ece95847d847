"""`table`: the neural view. Equal-info windows with a full reset, compiled into one table of strings.

    proxy-lm compressor train table --corpus corpus --out views/table
    proxy-lm compressor train table --corpus corpus --option rule=top bits=20 alphabet_size=65536 keep=used --out views/dense
    proxy-lm compressor train table --corpus corpus --option symbol_bits=8 --out views/table8

A window takes bytes while the model's arithmetic code for them fits `bits` bits; then model and coder start anew. So a window is one of at
most 2^bits strings, found once when the view is trained (build.py); encoding walks the table and decoding looks strings up. The model, a
network or counts, is needed by neither, and nothing about it can make two machines disagree. README.md has the rules and the numbers.

`table` is exact: `cells` and `top` give every string a code, `canonical` gives one to each byte besides, `delay` gives back what its code
does not say. `table-paper` is the published rule, for comparison: different strings share a code, and its spec says how many windows of the
training text would not come back.

Not promised: that training again on another machine gives the same table where the model is a network. The artifact holds the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Final, Self, TypeAlias, cast, final

import numpy as np

from compressors.base import DEFAULT_MAX_DECODED_BYTES, JSON, Borders, Compressor, Symbols
from compressors.errors import DecodeError, RequestError
from compressors.files import digest_of, sha256_bytes
from compressors.neural.dictionary import Dictionary, Offsets
from compressors.neural.models import ByteModel, load_model
from compressors.neural.training_text import whole_until
from compressors.options import Option
from compressors.symbols import checked

FILE: Final = "table.dictionary"
VERSION: Final = 1
MAX_BITS: Final = 20
Report: TypeAlias = Callable[[int, int], None]
PARSES: Final = ("greedy", "fewest")
KEEPS: Final = ("probable", "used")
_COLLISION_SAMPLE_BYTES: Final = 8_000_000

_OPTIONS: Final = {
    "bits": Option(default=16, low=9, high=MAX_BITS, help="bits of a window: the table has at most 2^bits strings"),
    "alphabet_size": Option(default=None, kind=int, low=257, high=1 << MAX_BITS, help="keep this many strings, the most probable ones"),
    "symbol_bits": Option(default=16, low=8, high=16, help="16: one symbol a window; 8: two symbols of 256, the high byte first"),
    "model": Option(default="", help="folder of a byte model; empty: counts of the documents"),
    "max_training_bytes": Option(default=100_000_000, low=1, help="documents are counted until this many bytes"),
    "depth": Option(default=63, low=1, high=255, help="bytes of the longest string"),
}


class WindowTable(Compressor):
    """What `table` and `table-paper` share: a dictionary, and how its codes are told as symbols."""

    needs_training: ClassVar[bool] = True
    in_threads: ClassVar[bool] = True
    reports_progress: ClassVar[bool] = True
    rules: ClassVar[tuple[str, ...]]

    def __init__(self, *, dictionary: Dictionary, facts: Mapping[str, JSON]) -> None:
        """`facts` is the spec without name, version, sizes and digest. Raises `RequestError` where it is not one of this view."""
        _check_facts(self.name, facts, self.rules, dictionary)
        if dictionary.is_exact != self.exact:
            told = "decodes to other strings than it parses" if self.exact else "is exact: the view is 'table'"
            raise RequestError(f"view '{self.name}' with rule '{facts['rule']}' has a dictionary that {told}; train it anew")
        self.dictionary = dictionary
        self.facts = dict(facts)
        self._per_code = 16 // cast(int, facts["symbol_bits"])
        self._data = dictionary.to_bytes()
        self._sha256 = sha256_bytes(self._data)

    @property
    def alphabet_size(self) -> int:
        return 256 if self._per_code == 2 else self.dictionary.num_codes

    def encode(self, data: bytes) -> Symbols:
        return self._symbols(self.codes([data])[0])

    def encode_batch(self, documents: Sequence[bytes]) -> list[Symbols | None]:
        return [self._symbols(codes) for codes in self.codes(documents)]

    def codes(self, documents: Sequence[bytes]) -> list[Symbols]:
        """The code of every window of each document, whatever `symbol_bits` is."""
        return self.dictionary.encode(documents, parse=cast(Any, self.facts["parse"]))

    def decode(self, symbols: Symbols, max_bytes: int = DEFAULT_MAX_DECODED_BYTES) -> bytes:
        return self.dictionary.decode(self._as_codes(symbols), max_bytes)

    def decode_batch(self, symbols: Sequence[Symbols], max_bytes: int = DEFAULT_MAX_DECODED_BYTES) -> list[bytes | None]:
        """As `decode`, all documents in one pass where they are good: checks a document would cost more than decoding it."""
        if any(one.dtype != np.uint32 or one.ndim != 1 or one.size % self._per_code for one in symbols):
            return super().decode_batch(symbols, max_bytes)
        offsets = _offsets([one.size // self._per_code for one in symbols])
        try:
            codes = self._as_codes(np.concatenate([np.zeros(0, np.uint32), *symbols]))
            data, ends = self.dictionary.decode_flat(codes, offsets, max_bytes=max_bytes * len(symbols))
        except DecodeError:
            return super().decode_batch(symbols, max_bytes)
        if np.diff(ends).max(initial=0) > max_bytes:
            return super().decode_batch(symbols, max_bytes)
        text, cuts = data.tobytes(), ends.tolist()
        return [text[start:end] for start, end in pairwise(cuts)]

    def spans(self, data: bytes) -> Borders:
        """Of two symbols that tell a window, the second stands for its bytes."""
        borders = self._borders(data)
        return np.repeat(borders, self._per_code)[: self._per_code * (len(borders) - 1) + 1]

    def spelling(self) -> list[bytes] | None:
        return self.dictionary.strings() if self._per_code == 1 else None

    def spec(self) -> dict[str, JSON]:
        return {
            "name": self.name,
            "version": VERSION,
            **self.facts,
            "alphabet_size": self.alphabet_size,
            "num_codes": self.dictionary.num_codes,
            "dictionary_sha256": self._sha256,
        }

    def files(self) -> dict[str, bytes]:
        return {FILE: self._data}

    @classmethod
    def from_artifact(cls, spec: Mapping[str, JSON], files: Mapping[str, bytes]) -> Self:
        if spec.get("name") != cls.name or spec.get("version") != VERSION:
            raise RequestError(
                f"this is view '{spec.get('name')}' version {spec.get('version')}, not {cls.name} version {VERSION}; train it anew"
            )
        if set(files) != {FILE} or sha256_bytes(files[FILE]) != spec.get("dictionary_sha256"):
            raise RequestError(f"view '{cls.name}' holds {FILE} alone, with the digest {spec.get('dictionary_sha256')}; train it anew")
        own = ("name", "version", "alphabet_size", "num_codes", "dictionary_sha256")
        view = cls(dictionary=Dictionary.from_bytes(files[FILE]), facts={key: value for key, value in spec.items() if key not in own})
        if view.spec() != dict(spec):
            raise RequestError(f"the spec of view '{cls.name}' does not tell the sizes of its {FILE}; train it anew")
        return view

    @classmethod
    def take_options(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        chosen = super().take_options(options)
        _check_choices(cls, chosen)
        from compressors.neural import build

        build.check(**{name: chosen[name] for name in ("bits", "rule", "depth", "alphabet_size")})
        return chosen

    @classmethod
    def train(cls, documents: Iterable[bytes], *, report: Any = None, **options: JSON) -> Self:
        """Count the documents, or load `model`, and compile. Documents are kept in memory up to `max_training_bytes`; `report(done, total)`
        is called on the way."""
        chosen = cls.take_options(options)
        from compressors.neural import build
        from compressors.neural.prune import most_used

        rule, parse, keep = chosen["rule"], chosen.get("parse", "greedy"), chosen.get("keep", "probable")
        used = keep == "used"
        within = {"bits": chosen["bits"], "rule": rule, "depth": chosen["depth"]}
        text = whole_until(documents, chosen["max_training_bytes"])
        if used and not any(text):
            raise RequestError(f"view '{cls.name}' with keep=used needs documents that are not empty: it keeps what their parse uses")
        counting, building, keeping = (_part(report, number) for number in range(3))
        model = _model(text, chosen["model"], chosen["depth"], counting)
        strings = build.build(model, **within, alphabet_size=None if used else chosen["alphabet_size"], report=building)
        dictionary = Dictionary(labels=strings.labels, parents=strings.parents, codes=strings.codes, decode_nodes=strings.decode_nodes)
        if used:
            dictionary = most_used(dictionary, text, num_codes=chosen["alphabet_size"], parse=cast(Any, parse), report=keeping)
        facts: dict[str, JSON] = {
            "rule": rule,
            "bits": chosen["bits"],
            "symbol_bits": chosen["symbol_bits"],
            "parse": parse,
            "model": {"kind": model.kind, "fingerprint": digest_of(model.spec())},
        }
        return cls(dictionary=dictionary, facts=facts | cls._more_facts(dictionary, whole_until(text, _COLLISION_SAMPLE_BYTES)))

    @classmethod
    def _more_facts(cls, dictionary: Dictionary, documents: Sequence[bytes]) -> dict[str, JSON]:
        """What else the spec says, of the text that the table was made from."""
        return {}

    def _borders(self, data: bytes) -> Borders:
        """Where each window starts in the document, and the end: int64 [num_windows + 1]."""
        return self.dictionary.borders(self.codes([data])[0])

    def _symbols(self, codes: Symbols) -> Symbols:
        if self._per_code == 1:
            return codes
        return np.stack([codes >> 8, codes & 255], axis=1).reshape(-1)

    def _as_codes(self, symbols: Symbols) -> Symbols:
        """Codes of symbols from outside. Raises `DecodeError` for what is none."""
        good = checked(self.name, symbols, self.alphabet_size)
        if self._per_code == 1:
            return good
        if len(good) % 2:
            raise DecodeError(f"view '{self.name}' with symbol_bits=8 tells a window in two symbols; got {len(good)}, which is odd")
        return checked(self.name, good[0::2] << 8 | good[1::2], self.dictionary.num_codes)


@final
class Table(WindowTable):
    """Equal-info windows of a byte model, compiled into a table: exact, hundreds of MB a second."""

    name: ClassVar[str] = "table"
    exact: ClassVar[bool] = True
    rules: ClassVar[tuple[str, ...]] = ("cells", "top", "delay", "canonical")
    options: ClassVar[Mapping[str, Option]] = {
        "rule": Option(default="cells", help="how a window ends: cells, top, delay or canonical; 'paper' is view table-paper"),
        **_OPTIONS,
        "keep": Option(default="probable", help="which strings alphabet_size keeps: probable, or used by the parse of the documents"),
        "parse": Option(default="greedy", help="greedy takes the longest string, fewest the fewest symbols"),
    }


@final
class TablePaper(WindowTable):
    """Equal-info windows as published, for replication: codes are shared, so windows do not come back."""

    name: ClassVar[str] = "table-paper"
    exact: ClassVar[bool] = False
    rules: ClassVar[tuple[str, ...]] = ("paper",)
    options: ClassVar[Mapping[str, Option]] = {"rule": Option(default="paper", help="the only one here"), **_OPTIONS}

    def __init__(self, *, dictionary: Dictionary, facts: Mapping[str, JSON]) -> None:
        super().__init__(dictionary=dictionary, facts=facts)
        self._windows = _windows(dictionary)

    def codes(self, documents: Sequence[bytes]) -> list[Symbols]:
        return [self.dictionary.codes[nodes + 1] for nodes in self._windows.encode(documents)]

    def _borders(self, data: bytes) -> Borders:
        return self._windows.borders(self._windows.encode([data])[0])

    @classmethod
    def _more_facts(cls, dictionary: Dictionary, documents: Sequence[bytes]) -> dict[str, JSON]:
        """How many windows of the text decode to another string than they hold."""
        found = [nodes + 1 for nodes in _windows(dictionary).encode(documents)]
        wrong = sum(int((dictionary.decode_nodes[dictionary.codes[nodes]] != nodes).sum()) for nodes in found)
        return {"training_windows": sum(map(len, found)), "training_collisions": wrong}


def _windows(dictionary: Dictionary) -> Dictionary:
    """The same strings with a code each, node - 1: which string a window held, where its code does not say."""
    nodes = np.arange(1, len(dictionary.labels), dtype=np.uint32)
    codes = np.concatenate([dictionary.codes[:1], nodes - 1])
    return Dictionary(labels=dictionary.labels, parents=dictionary.parents, codes=codes, decode_nodes=nodes)


def _part(report: Report | None, number: int) -> Report:
    """Progress of one of three parts, in thousandths of all."""

    def part(done: int, total: int) -> None:
        if report is not None:
            report((1000 * number + 1000 * done // max(1, total)) // 3, 1000)

    return part


def _model(documents: Sequence[bytes], folder: str, depth: int, report: Report) -> ByteModel:
    if folder:
        return load_model(Path(folder))
    from compressors.neural.counts import CountModel

    return CountModel.train(documents, depth=depth, report=report)


def _check_choices(cls: type[WindowTable], chosen: Mapping[str, Any]) -> None:
    """Raises `RequestError` for options that do not fit together, before anything is read."""
    for name, known in {"rule": cls.rules, "parse": PARSES, "keep": KEEPS}.items():
        if chosen.get(name, known[0]) not in known:
            raise RequestError(f"option {name}={chosen[name]!r} of view '{cls.name}' must be {' or '.join(known)}")
    bits, size, rule = chosen["bits"], chosen["alphabet_size"], chosen["rule"]
    if chosen["symbol_bits"] not in (8, 16):
        raise RequestError(f"option symbol_bits={chosen['symbol_bits']} of view '{cls.name}' must be 8 or 16")
    if chosen["symbol_bits"] == 8 and not (bits == 16 if size is None else size <= 1 << 16 <= 1 << bits):
        raise RequestError(
            f"view '{cls.name}' with symbol_bits=8 tells 16 bits in two symbols; bits={bits} and alphabet_size={size} are others: "
            "choose bits=16, or more with alphabet_size=65536"
        )
    if chosen["symbol_bits"] == 8 and rule == "canonical" and size is None:
        raise RequestError("rule 'canonical' has a few codes more than 2^bits; choose alphabet_size=65536 with symbol_bits=8")
    if chosen.get("keep") == "used" and size is None:
        raise RequestError("option keep=used chooses among 2^bits strings: give alphabet_size, and more bits than it needs")
    if chosen.get("parse") == "fewest" and rule == "delay":
        raise RequestError("rule 'delay' is defined by its own parse; choose parse=greedy")
    if chosen.get("keep") == "used" and rule == "delay":
        raise RequestError("rule 'delay' shares codes by the cells of its strings, none of which can go; choose keep=probable")


def _check_facts(name: str, facts: Mapping[str, JSON], rules: tuple[str, ...], dictionary: Dictionary) -> None:
    """Raises `RequestError` for a spec that no training makes."""
    known = {"rule": rules, "parse": PARSES, "symbol_bits": (8, 16), "bits": tuple(range(9, MAX_BITS + 1))}
    for key, values in known.items():
        if not any(facts.get(key) == value and type(facts.get(key)) is type(value) for value in values):
            raise RequestError(f"the spec of view '{name}' has {key} {facts.get(key)!r}; known: {', '.join(map(str, values))}")
    if facts["symbol_bits"] == 8 and dictionary.num_codes > 1 << 16:
        raise RequestError(f"view '{name}' with symbol_bits=8 has at most 65536 codes; its dictionary has {dictionary.num_codes}")
    if facts["parse"] == "fewest" and dictionary.gives_back.any():
        raise RequestError(f"view '{name}' with parse 'fewest' has a dictionary that only 'greedy' parses; train it anew")


def _offsets(sizes: Sequence[int]) -> Offsets:
    return np.concatenate([[0], np.cumsum(np.array(sizes, dtype=np.int64))]).astype(np.int64)
