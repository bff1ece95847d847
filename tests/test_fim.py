"""Fill-in-the-middle: three parts join to the document, told once, in two orders, cut at bytes or at lines; a slow twin draws the same.

In the pictures ^ is BOS, $ EOS, < > the raw sentinels, P S M the specials before prefix, suffix and middle; the rest are bytes.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy_lm.data.corpus import Corpus, build_small
from proxy_lm.data.cuts import CutTable, open_lines, open_lines_of
from proxy_lm.data.mixing import MixSettings
from proxy_lm.data.permutation import key_of, permute, uniforms
from proxy_lm.data.plan import KnownLengths, Plan
from proxy_lm.data.rows import RowReader
from proxy_lm.errors import RequestError
from proxy_lm.vocabulary import BOS, EOS, PAD, RAW_END, RAW_START, SPECIAL_CODE, Vocabulary, special_id

SIGNS = {BOS: "^", EOS: "$", RAW_START: "<", RAW_END: ">", PAD: "."}
SIGNS |= {special_id(f"<|fim_{part}|>"): part[0].upper() for part in ("prefix", "suffix", "middle")}


class Documents:
    """Bytes, read like a corpus."""

    def __init__(self, documents: list[bytes]) -> None:
        self.documents = documents
        self.lengths = np.array([len(document) for document in documents], dtype=np.int64)

    def slice(self, index: int, start: int, stop: int) -> np.ndarray:
        return np.frombuffer(self.documents[index][start:stop], dtype=np.uint8)


def reader_of(texts: list[bytes], fim: dict[str, Any], **changes: Any) -> RowReader:
    raw = Documents(texts)
    arguments: dict[str, Any] = {
        "sizes": raw.lengths,
        "documents": range(len(texts)),
        "views": [],
        "vocabulary": Vocabulary(),
        "mix": MixSettings.model_validate({"fim": fim}),
        "seed": 0,
        "row_length": 13,
        "lookahead": 1,
        "num_rows": 3,
    }
    plan = Plan(**arguments | changes)
    return RowReader(raw, [], plan.vocabulary, plan)


def pictures(reader: RowReader) -> list[str]:
    ids = reader.read(range(reader.plan.num_rows)).ids[:, : reader.plan.row_length]
    return ["".join(SIGNS.get(int(i)) or chr(int(i)) for i in row) for row in ids]


def joined(segment: str) -> str:
    """The document that a segment tells."""
    found = re.fullmatch(r"\^<(?:P([^S]*)S([^M]*)M)?([^>]*)>\$", segment)
    assert found is not None, segment
    prefix, suffix, rest = found.groups(default="")
    return prefix + rest + suffix


def test_prefix_suffix_middle():
    # The rows are as long as each telling: 6 bytes and 7 specials.
    reader = reader_of([b"abcdef"], {"rate": 1, "spm_share": 0})
    assert pictures(reader) == ["^<PabSefMcd>$", "^<PSdefMabc>$", "^<PabcdSfMe>$"]
    batch = reader.read([0])
    assert batch.segments[0, :13].tolist() == [0] * 13
    assert batch.positions[0, :13].tolist() == list(range(13))
    x = SPECIAL_CODE
    assert batch.views[0, :13].tolist() == [x, x, x, 0, 0, x, 0, 0, x, 0, 0, x, x]
    assert (batch.source_bytes.tolist(), batch.num_documents.tolist(), batch.num_symbols.tolist()) == ([6], [1], [6])


def test_suffix_prefix_middle():
    # The same cuts: prefix and middle stand together.
    reader = reader_of([b"abcdef"], {"rate": 1, "spm_share": 1})
    assert pictures(reader) == ["^<PSefMabcd>$", "^<PSdefMabc>$", "^<PSfMabcde>$"]
    batch = reader.read(range(3))
    assert (batch.source_bytes.tolist(), batch.num_documents.tolist(), batch.num_symbols.tolist()) == ([18], [3], [18])


def test_cut_by_the_row_and_packed():
    reader = reader_of([b"abcdef"], {"rate": 1, "spm_share": 0}, row_length=8, num_rows=4)
    assert "".join(pictures(reader)) == "^<PabSefMcd>$^<PSdefMabc>$^<Pabc"
    each = [reader.read([row]) for row in range(4)]
    assert [one.source_bytes[0] for one in each] == [4, 2, 3 + 3, 3]
    assert [one.num_documents[0] for one in each] == [1, 1, 0, 1]  # where the start sentinel stands
    packed = reader_of([b"abcdef"], {"rate": 1, "spm_share": 0}, row_length=16, num_rows=20, packing="fit")
    assert pictures(packed)[0] == "^<PabSefMcd>$..."


def stream(reader: RowReader) -> list[str]:
    """Whole segments of the stream, from its begin on."""
    return re.findall(r"\^[^$]*\$", "".join(pictures(reader)))


LETTERS = st.text("abcdef\n", max_size=9)


@settings(max_examples=30, deadline=None)
@given(
    documents=st.lists(LETTERS, min_size=1, max_size=6),
    rate=st.sampled_from([0.3, 1.0]),
    spm_share=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 2**64),
    packing=st.sampled_from(["cut", "fit"]),
)
def test_the_parts_join_to_the_document(documents, rate, spm_share, seed, packing):
    raw = [text.encode() for text in documents]
    fim = {"rate": rate, "spm_share": spm_share}
    reader = reader_of(raw, fim, seed=seed, row_length=40 if packing == "fit" else 11, num_rows=30, packing=packing)
    plan = reader.plan
    if packing == "cut":
        told = [joined(segment) for segment in stream(reader)]
        order = permute(key_of(seed, "document"), len(raw), np.arange(len(told)))
        assert told == [documents[document] for document in order.tolist()]
    else:
        slices = plan.row_slices(0, plan.num_rows)
        text = pictures(reader)
        for row in range(plan.num_rows):
            order = list(dict.fromkeys(slices.order[slices.row == row].tolist()))
            number = permute(key_of(seed, "document"), len(raw), np.array(order)).tolist()
            assert [joined(segment) for segment in re.findall(r"\^[^$]*\$", text[row])] == [documents[document] for document in number]
    batch = reader.read(range(plan.num_rows))
    summary = plan.summary()
    assert summary["views"]["raw"]["source_bytes"] == batch.source_bytes[0] == batch.num_symbols[0]
    assert summary["views"]["raw"]["num_documents"] == batch.num_documents[0]
    assert summary["unique_source_bytes"] <= sum(map(len, raw))


def twin(position: int, size: int, fim: dict[str, Any], starts: list[int]) -> tuple[str, int, int]:
    """(order, first, end of the middle) of one document: one draw at a time."""

    def draw(what: str) -> float:
        return float(uniforms(key_of(0, f"fim {what}"), np.array([position]))[0])

    order = "spm" if draw("order") < fim["spm_share"] else "psm"
    if starts and draw("lines") < fim["line_share"]:
        places = [0, *starts, size]
        one = int(draw("first") * len(places))
        other = [place for k, place in enumerate(places) if k != one][int(draw("second") * (len(places) - 1))]
        return order, min(places[one], other), max(places[one], other)
    cuts = sorted(int(draw(which) * (size + 1)) for which in ("first", "second"))
    return order, cuts[0], cuts[1]


TEXTS = ["one\ntwo\nthree\n", "single", "a\n\nb", "", "\n\n", "é\nü\nß"]


@pytest.fixture(scope="module")
def lined(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, CutTable]:
    corpus = build_small(
        tmp_path_factory.mktemp("fim") / "corpus", {"train": [text.encode() for text in TEXTS], "valid": [b"x"], "test": [b"y"]}
    )
    return corpus, open_lines(corpus)


@pytest.mark.parametrize("line_share", [0.0, 0.5, 1.0])
def test_the_twin_draws_the_same(lined, line_share):
    corpus, lines = lined
    train = corpus.splits["train"]
    documents = [corpus.document(index) for index in range(corpus.num_documents)]
    fim = {"rate": 1, "spm_share": 0.4, "line_share": line_share}
    reader = reader_of(documents, fim, documents=train, lines=lines, num_rows=200)
    text = "".join(pictures(reader))
    expected, uncut = "", 0
    position = 0
    while len(expected) < len(text):
        document = train.start + int(permute(key_of(0, "document"), len(train), np.array([position]))[0])
        data = documents[document].decode("latin-1")
        starts = lines.byte[lines.borders[document] : lines.borders[document + 1]].tolist()
        assert starts == [k + 1 for k in range(len(data) - 1) if data[k] == "\n"]  # so few that 16 draws find all
        if data:
            order, first, end = twin(position, len(data), fim, starts)
            prefix, middle, suffix = data[:first], data[first:end], data[end:]
            expected += f"^<P{prefix}S{suffix}M{middle}>$" if order == "psm" else f"^<PS{suffix}M{prefix}{middle}>$"
            uncut += not starts and float(uniforms(key_of(0, "fim lines"), np.array([position]))[0]) < line_share
        else:
            expected += "^<>$"
        position += 1
    assert text == expected[: len(text)]
    assert reader.plan.summary()["num_uncut"] == uncut
    assert (uncut > 0) == (line_share > 0)


def test_lines_stay_whole_and_bytes_do_not():
    table = CutTable(np.array([0, 9]), np.arange(5, 50, 5).astype(np.uint32), np.arange(5, 50, 5).astype(np.uint32), "made up")
    whole = reader_of([b"line\n" * 9 + b"last"], {"rate": 1, "spm_share": 0, "line_share": 1}, lines=table, num_rows=300)
    for segment in stream(whole):
        prefix, suffix, middle = re.fullmatch(r"\^<P(.*)S(.*)M(.*)>\$", segment, re.DOTALL).groups()
        assert middle
        assert re.fullmatch(r"(line\n)*(last)?", middle)
        assert re.fullmatch(r"(line\n)*", prefix)
        assert re.fullmatch(r"((line\n)*last)?", suffix)
    # At bytes, a character of two bytes is sometimes halved.
    halved = reader_of(["éé".encode()], {"rate": 1, "spm_share": 0}, num_rows=60)
    assert any(segment[3] == "Ã" and segment[4] == "S" for segment in stream(halved))


def test_cuts_are_even_and_shares_are_the_written_ones():
    num = 40_000
    sizes = np.full(num, 3)
    fim = {"rate": 0.6, "spm_share": 0.25}
    mix = MixSettings.model_validate({"rate": 0.5, "fim": fim})
    plan = Plan(
        sizes=sizes,
        documents=range(num),
        views=[KnownLengths("v0", np.ones(num, dtype=np.int64))],
        vocabulary=Vocabulary([("v0", 9)]),
        mix=mix,
        seed=0,
        row_length=1000,
        lookahead=1,
        num_rows=250,
    )
    summary = plan.summary()
    layouts = summary["layouts"]
    raw = layouts["raw"] + layouts["fim_psm"] + layouts["fim_spm"]
    for count, of, share in (
        (layouts["view"], summary["num_documents"], 0.5),
        (layouts["fim_psm"] + layouts["fim_spm"], raw, 0.6),
        (layouts["fim_spm"], layouts["fim_psm"] + layouts["fim_spm"], 0.25),
    ):
        assert abs(count / of - share) < 5 * np.sqrt(share * (1 - share) / of), (count, of, share)
    middles: dict[tuple[int, int], int] = {}
    for pieces in plan.pieces():
        for k in np.flatnonzero((pieces.layout == 5) & (pieces.opening == 6)).tolist():
            cut = (int(pieces.first[k]), int(pieces.first[k] + pieces.payload[k]))
            middles[cut] = middles.get(cut, 0) + 1
    total = sum(middles.values())
    assert len(middles) == 10
    for (first, end), count in middles.items():
        share = (1 if first == end else 2) / 16  # two even draws of four places
        assert abs(count / total - share) < 5 * np.sqrt(share / total), (first, end)


def test_rate_follows_its_curve_also_where_the_run_is_raw_only():
    sizes = np.full(20_000, 10)
    mix = MixSettings.model_validate({"rate": 0.9, "anneal": 0.5, "fim": {"rate": [[0, 0], [1, 1]]}})
    views = [KnownLengths("v0", sizes // 2)]
    plan = Plan(
        sizes=sizes,
        documents=range(sizes.size),
        views=views,
        vocabulary=Vocabulary([("v0", 9)]),
        mix=mix,
        seed=0,
        row_length=100,
        lookahead=1,
        num_rows=2000,
    )
    last = plan.summary()["phases"][-1]["layouts"]
    assert last["view"] == 0
    assert abs((last["fim_psm"] + last["fim_spm"]) / sum(last.values()) - 0.95) < 0.03


def test_empty_documents_stay_as_they_are():
    assert set(stream(reader_of([b""], {"rate": 1}, num_rows=4))) == {"^<>$"}


def test_what_is_not_asked_for_costs_nothing(lined):
    corpus, lines = lined
    assert open_lines_of(corpus, MixSettings.model_validate({"fim": {"rate": 0.5}})) is None
    assert open_lines_of(corpus, MixSettings.model_validate({"fim": {"line_share": 0.5}})) is None
    found = open_lines_of(corpus, MixSettings.model_validate({"fim": {"rate": 0.5, "line_share": 0.5}}))
    assert found is not None
    assert found.digest == lines.digest


def test_lines_are_asked_for_and_part_of_the_plan(lined):
    corpus, lines = lined
    fim = {"rate": 0.5, "line_share": 0.5}
    documents = [corpus.document(index) for index in range(corpus.num_documents)]
    with pytest.raises(RequestError, match=r"mix.fim.line_share = 0.5 asks for line starts .* set mix.fim.line_share=0"):
        reader_of(documents, fim)
    with pytest.raises(RequestError, match=f"table of lines is of {len(documents)} documents and the corpus has 1"):
        reader_of([b"x"], fim, lines=lines)
    digests = {reader_of(documents, fim | change, lines=lines).plan.digest for change in ({}, {"spm_share": 0.1}, {"rate": 0.4})}
    assert len(digests) == 3
    with pytest.raises(ValueError, match=r"share 1.5 is outside 0..1"):
        MixSettings.model_validate({"fim": {"rate": 1.5}})
