"""Packed rows: no segment is split that fits into a row, a split one loses no target, and the counts say how much is padding.

In the pictures ^ is BOS, $ EOS, < > the raw sentinels, [ ] the view's, - a splice; small letters are bytes, capitals symbols, dots padding.
Seed 3 happens to tell three documents in the order 0 1 2, then 1 2 0, then 0 2 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy_lm.data.bench import MemoryDocuments, made_up_sizes
from proxy_lm.data.fit import pack
from proxy_lm.data.mixing import MixSettings
from proxy_lm.data.pieces import CLOSINGS, OPENINGS
from proxy_lm.data.plan import KnownLengths, Plan
from proxy_lm.data.rows import RowReader
from proxy_lm.errors import RequestError
from proxy_lm.vocabulary import BOS, EOS, PAD, RAW_END, RAW_START, SPECIAL_CODE, Vocabulary, special_id

ALPHABET = 26
FIXED = {"bos": "^", "eos": "$", "splice": "-", "prefix": "p", "suffix": "s", "middle": "m"}


class Source:
    """Documents or their symbols, read like a corpus or a view; None is raw only."""

    def __init__(self, name: str, payloads: list[Any]) -> None:
        self.name = name
        self.payloads = [None if p is None else np.array(list(p), dtype=np.uint8) for p in payloads]
        self.lengths = np.array([-1 if p is None else len(p) for p in payloads], dtype=np.int64)

    def slice(self, index: int, start: int, stop: int) -> np.ndarray:
        return self.payloads[index][start:stop]


@dataclass
class Example:
    documents: list[bytes]
    symbols: list[str | None]
    mix: dict[str, Any] = field(default_factory=dict)
    seed: int = 3
    row_length: int = 16
    lookahead: int = 2
    num_rows: int = 64
    shuffle_rows: int = 1

    def __post_init__(self) -> None:
        raw = Source("raw", self.documents)
        view = Source("v0", [None if s is None else [ord(c) - ord("A") for c in s] for s in self.symbols])
        self.vocabulary = Vocabulary([("v0", ALPHABET)])
        self.plan = Plan(
            sizes=raw.lengths,
            documents=range(len(self.documents)),
            views=[view],
            vocabulary=self.vocabulary,
            mix=MixSettings.model_validate(self.mix),
            seed=self.seed,
            row_length=self.row_length,
            lookahead=self.lookahead,
            num_rows=self.num_rows,
            shuffle_rows=self.shuffle_rows,
            packing="fit",
        )
        self.reader = RowReader(raw, [view], self.vocabulary, self.plan)

    def picture(self, ids: np.ndarray) -> str:
        view = self.vocabulary.views[0]
        signs = {BOS: "^", EOS: "$", RAW_START: "<", RAW_END: ">", PAD: ".", view.start_id: "[", view.end_id: "]"}
        signs[special_id("<|splice|>")] = "-"
        signs |= {view.first_id + symbol: chr(ord("A") + symbol) for symbol in range(ALPHABET)}
        return "".join(signs.get(int(i)) or chr(int(i)) for i in ids)

    def pictures(self, rows: int) -> list[str]:
        return [self.picture(row) for row in self.reader.read(range(rows)).ids]

    def units(self) -> list[tuple[int, str]]:
        """(position, text) of every segment that is planned, piece by piece."""
        found: list[tuple[int, str]] = []
        for pieces in self.plan.pieces():
            for k in range(pieces.start.size):
                code, first = int(pieces.code[k]), int(pieces.first[k])
                signs = FIXED | {"start": "<["[code], "end": ">]"[code]}
                document = int(pieces.document[k])
                whole = self.documents[document].decode() if code == 0 else self.symbols[document]
                assert whole is not None
                text = "".join(signs[name] for name in OPENINGS[pieces.opening[k]]) + whole[first : first + int(pieces.payload[k])]
                text += "".join(signs[name] for name in CLOSINGS[pieces.closing[k]])
                if text[0] == "^":
                    found.append((int(pieces.position[k]), text))
                else:
                    found[-1] = (found[-1][0], found[-1][1] + text)
        return found


DOCUMENTS = [b"a", b"bcd", b"efghij"]
SYMBOLS = ["A", "BC", "DEF"]


def digits(rows: np.ndarray) -> list[str]:
    return ["".join("-" if value < 0 else str(value) for value in row) for row in rows]


def test_raw():
    # Eight positions are packed together: units of 5, 7, 10, 7, 10, 5, 5 and 10 ids into rows of 16.
    example = Example(DOCUMENTS, SYMBOLS)
    assert example.plan.block_positions == 8
    batch = example.reader.read(range(4))
    assert example.pictures(4) == ["^<a>$^<efghij>$...", "^<bcd>$^<bcd>$....", "^<efghij>$^<a>$...", "^<efghij>$^<a>$..."]
    assert digits(batch.segments)[:2] == ["000001111111111---", "00000001111111----"]
    assert digits(batch.positions)[:2] == ["012340123456789012", "012345601234560123"]
    assert digits(batch.views)[0] == "xx0xxxx000000xxxxx".replace("x", str(SPECIAL_CODE))
    assert batch.source_bytes.tolist() == [7 + 6 + 7 + 7, 0]
    assert batch.num_documents.tolist() == [8, 0]
    assert batch.ids.dtype == np.int64
    assert batch.segments.dtype == batch.positions.dtype == np.int32


def test_view_pair_and_parallel():
    assert Example(DOCUMENTS, SYMBOLS, {"rate": 1}, row_length=12).pictures(2) == ["^[A]$^[DEF]$..", "^[BC]$^[BC]$.."]
    # A pair is one segment and stays together; in parallel the two tellings are two, and may lie in two rows.
    assert Example(DOCUMENTS, SYMBOLS, {"pair": 1, "raw_first": 1}).pictures(2) == ["^<a>[A]$^<a>[A]$..", "^<bcd>[BC]$......."]
    pictures = Example(DOCUMENTS, SYMBOLS, {"parallel": 1, "raw_first": 1}).pictures(9)
    assert all(re.fullmatch(r"(\^(<[a-j]+>|\[[A-F]+\])\$)+\.+", picture) for picture in pictures)


def test_a_document_longer_than_a_row_fills_rows_and_its_rest_is_packed():
    example = Example([b"abcdefghijklmnopqrst", b"u", b"v"], [None, None, None], row_length=10, num_rows=60)
    batch = example.reader.read(range(5))
    # Two positions are packed together. The two ids of lookahead show how the document goes on, not what stands in the next row.
    assert example.pictures(5) == ["^<abcdefghij", "ijklmnopqrst", "st>$^<u>$...", "^<v>$^<u>$..", "^<v>$st>$..."]
    assert digits(batch.segments[:3]) == ["000000000000", "000000000000", "000011111---"]
    assert batch.positions[1].tolist() == list(range(12))  # a part begins again at position 0
    assert digits(batch.positions[2:]) == ["012301234012", "012340123401", "012340123012"]
    # Row 4 ends with the rest of a document whose beginning follows in rows 5 and 6: bytes are counted where they are told.
    assert [example.reader.read([row]).source_bytes[0] for row in range(7)] == [8, 10, 2 + 1, 2, 1 + 2, 8, 10]
    assert [example.reader.read([row]).num_documents[0] for row in range(7)] == [1, 0, 1, 2, 1, 1, 0]


def check(example: Example) -> None:
    """Rows against units rendered as text; the counts of rows against those of the plan."""
    plan, length = example.plan, example.row_length
    width = length + example.lookahead
    expected: list[list[tuple[int, str]]] = []  # by row of the stream: (column, text with lookahead)
    units = example.units()
    split = set()
    for block in range(plan.num_positions // plan.block_positions):
        mine = [(position, text) for position, text in units if position // plan.block_positions == block]
        packed = pack(np.array([len(text) for _, text in mine]), length)
        first = len(expected)
        expected += [[] for _ in range(int(packed.num_rows[0]))]
        for unit, (position, text) in enumerate(mine):
            num_whole = (len(text) - 1) // length
            for k in range(num_whole):
                expected[first + int(packed.whole_row[unit]) + k].append((0, text[k * length : k * length + width]))
            expected[first + int(packed.row[unit])].append((int(packed.column[unit]), text[num_whole * length :]))
            later = [first + int(packed.whole_row[unit]) + k for k in range(1, num_whole)] + [first + int(packed.row[unit])]
            if num_whole and min(later) < plan.num_rows:
                split.add(position)
    batch = example.reader.read(range(plan.num_rows))
    padding = 0
    for row in range(plan.num_rows):
        parts = sorted(expected[row])
        picture = "".join(text for _, text in parts)
        assert example.picture(batch.ids[row]) == picture.ljust(width, ".")
        padding += max(length - len(picture), 0)
        column = 0
        for segment, (at, text) in enumerate(parts):
            assert at == column
            assert batch.segments[row, column : column + len(text)].tolist() == [segment] * len(text)
            assert batch.positions[row, column : column + len(text)].tolist() == list(range(len(text)))
            column += len(text)
        assert (batch.segments[row, column:] == -1).all()
        assert (batch.views[row, column:] == SPECIAL_CODE).all()
    summary = plan.summary()
    assert summary["num_padding"] == padding
    assert summary["padding_share"] == pytest.approx(padding / plan.num_symbols)
    for k, name in enumerate(["raw", "v0"]):
        assert summary["views"][name]["source_bytes"] == batch.source_bytes[k]
        assert summary["views"][name]["num_symbols"] == batch.num_symbols[k]
        assert summary["views"][name]["num_documents"] == batch.num_documents[k]
    assert summary["num_special_symbols"] + batch.num_symbols.sum() + padding == plan.num_symbols
    one_by_one = [example.reader.read([row]) for row in range(plan.num_rows)]
    assert np.array_equal(sum(one.source_bytes for one in one_by_one), batch.source_bytes)  # nothing is lost between rows
    assert summary["num_split_documents"] == len(split)


LETTERS = st.text("abcdefghij", max_size=14)
CAPITALS = st.text("ABCDEFGHIJ", max_size=9)
SHARE = st.sampled_from([0.0, 0.3, 0.5])
CURVE = st.one_of(SHARE, st.tuples(SHARE, SHARE).map(lambda ends: [[0.1, ends[0]], [0.8, ends[1]]]))


@settings(max_examples=40, deadline=None)
@given(
    told=st.lists(st.tuples(LETTERS, st.none() | CAPITALS), min_size=2, max_size=7),
    mix=st.fixed_dictionaries({"rate": CURVE, "pair": CURVE, "parallel": CURVE, "raw_first": SHARE}),
    seed=st.integers(0, 2**64),
    row_length=st.integers(1, 24),
    lookahead=st.integers(1, 9),
    num_rows=st.integers(1, 80),
)
def test_rows_hold_the_packed_units(told, mix, seed, row_length, lookahead, num_rows):
    documents, symbols = [letters.encode() for letters, _ in told], [view for _, view in told]
    check(Example(documents, symbols, mix, seed, row_length, lookahead, num_rows))


def test_rows_hold_the_packed_units_over_many_blocks():
    documents = [b"abcdefghi"[: i % 10] for i in range(50)]
    symbols = ["ABCDE"[: i % 6] for i in range(50)]
    example = Example(documents, symbols, {"rate": [[0, 0], [1, 1]], "pair": [[0, 1], [0.5, 0]]}, row_length=32, num_rows=1500)
    assert example.plan.num_positions > 4096  # more than one span
    check(example)


def test_every_id_but_the_first_of_a_unit_is_a_target_once():
    example = Example(DOCUMENTS, SYMBOLS, {"pair": 0.5}, row_length=6, lookahead=1, num_rows=200)
    batch = example.reader.read(range(200))
    inside = (batch.segments[:, 1:] == batch.segments[:, :-1]) & (batch.segments[:, :-1] >= 0)
    targets = sum(
        len(text) - 1 for position, text in example.units() if position < example.plan.num_positions - example.plan.block_positions
    )
    assert int(inside.sum()) >= targets
    every = sum(len(text) - 1 for _, text in example.units())
    assert int(inside.sum()) <= every


SIZES = np.minimum(made_up_sizes(3000, median_bytes=300.0), 5000)


def big(packing: str = "fit", **changes: Any) -> Plan:
    arguments: dict[str, Any] = {
        "sizes": SIZES,
        "documents": range(SIZES.size),
        "views": [KnownLengths("v0", SIZES // 3)],
        "vocabulary": Vocabulary([("v0", 100)]),
        "mix": MixSettings.model_validate({"rate": [[0, 0.2], [1, 0.9]], "pair": 0.2, "parallel": 0.2}),
        "seed": 0,
        "row_length": 1024,
        "lookahead": 2,
        "num_rows": 1500,
        "shuffle_rows": 100,
        "packing": packing,
    }
    return Plan(**arguments | changes)


def test_any_row_is_reached_without_the_rows_before_it():
    whole = big().row_slices(0, 1500)
    for first in np.random.default_rng(1).integers(0, 1500, 8).tolist():
        count = min(7, 1500 - first)
        some = big().row_slices(first, count)
        inside = (whole.row >= first) & (whole.row < first + count)
        for name in some.__dataclass_fields__:
            assert np.array_equal(getattr(some, name), getattr(whole, name)[inside]), name


def test_packing_is_part_of_the_plan():
    assert len({big().digest, big("cut").digest}) == 2
    assert big().digest == big().digest
    assert big().step_digest(3, 8) != big("cut").step_digest(3, 8)


def test_few_are_split_and_little_is_padding():
    fit, cut = big().summary(), big("cut").summary()
    assert cut["num_padding"] == cut["padding_share"] == 0
    assert cut["split_share"] > 0.3
    assert fit["split_share"] < 0.15  # only those that no row can hold
    assert 0 < fit["padding_share"] < 0.015
    assert fit["split_share"] == fit["num_split_documents"] / fit["num_documents"]
    # Rows out of the shuffled run hold what the stream's rows hold: every telling of the run is counted once.
    told = big().row_slices(0, 1500)
    begins, symbols, _ = told.counted(1024)
    assert int(begins.sum()) == sum(view["num_documents"] for view in fit["views"].values())
    assert int(symbols.sum()) == sum(view["num_symbols"] for view in fit["views"].values())


def test_curves_are_followed():
    phases = big(mix=MixSettings.model_validate({"rate": [[0, 0], [1, 1]]}), num_rows=2400).summary()["phases"]
    for k, phase in enumerate(phases):
        layouts = phase["layouts"]
        assert abs(layouts["view"] / (layouts["view"] + layouts["raw"]) - (k + 0.5) / 10) < 0.12, k


@pytest.mark.parametrize(("mix", "anneal"), [({"rate": 1.0}, 0.05), ({"pair": 1.0}, 0.1)], ids=["view", "pair"])
def test_the_raw_only_end_may_be_shorter_than_a_block(mix, anneal):
    sizes = np.full(50_000, 59)  # a block is a sixteenth of the run told raw, an eighth told twice
    given: dict[str, Any] = {"sizes": sizes, "documents": range(sizes.size), "views": [KnownLengths("v0", sizes)], "row_length": 512}
    plan = big(**given, num_rows=4096, mix=MixSettings.model_validate(mix | {"anneal": anneal}))
    assert plan.num_positions // plan.block_positions < 20
    phases = plan.summary(20)["phases"]
    assert [phase["views"]["v0"]["num_symbols"] for phase in phases[-round(20 * anneal) :]] == [0] * round(20 * anneal)
    assert all(phase["views"]["v0"]["num_symbols"] > 0 for phase in phases[:16])
    # A document is a block of its own here, half as long as the run, and that does not make it raw.
    few = big(sizes=np.full(9, 40_000), documents=range(9), views=[KnownLengths("v0", np.full(9, 40))], num_rows=80, mix=plan.mix)
    assert few.block_positions == 1
    assert few.summary(1)["views"]["v0"]["num_symbols"] > 0


def test_documents_of_any_length_are_packed():
    lengths = np.array([0, 1, 5000])
    raw = MemoryDocuments(lengths, 256, seed=1)
    plan = big(sizes=lengths, documents=range(3), views=[KnownLengths("v0", lengths)], row_length=64, num_rows=500, shuffle_rows=1)
    batch = RowReader(raw, [MemoryDocuments(lengths, 100, seed=2)], plan.vocabulary, plan).read(range(500))
    assert int((batch.ids[:, :64] == PAD).sum()) == plan.summary()["num_padding"]


def test_an_unknown_packing_is_refused():
    with pytest.raises(RequestError, match="packing is 'first'; known: cut, fit"):
        big("first")
