"""Splices are exact: every stretch's symbols tell exactly its bytes, stretches join to the document, nothing is told twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import compressors.registry as registry
from proxy_lm.data.corpus import Corpus, build_small
from proxy_lm.data.cuts import line_borders, nearest_borders, open_cuts, open_lines, symbol_borders
from proxy_lm.data.encoding import encode_corpus
from proxy_lm.data.mixing import MixSettings
from proxy_lm.data.plan import Plan
from proxy_lm.data.rows import RowReader
from proxy_lm.data.views import View
from proxy_lm.errors import RequestError, WorkError
from proxy_lm.vocabulary import BOS, EOS, PAD, RAW_END, RAW_START, Vocabulary, special_id

SPLICE = special_id("<|splice|>")
MIX = MixSettings.model_validate({"splice": 1, "max_cuts": 4})
# Symbols of a word piece, of a byte, of half a byte (a byte is told by its second), of two bytes.
KINDS = {"spm": {"alphabet_size": 420}, "identity": {}, "nibble": {}, "doublebyte": {}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Corpus]:
    """A corpus of sources and awkward documents, and a view of each kind."""
    folder = tmp_path_factory.mktemp("splice")
    texts = [path.read_bytes()[:1500] for path in sorted((Path(__file__).parent.parent / "compressors").glob("*.py"))][:12]
    texts += [b"", b"x", b"\n\n\n", "äöü — 漢字 \U0001f600\n".encode() * 3, bytes(range(256)), b"no newline at all", b"a\nb"]
    corpus = build_small(folder / "corpus", {"train": texts, "valid": [b"valid"], "test": [b"test"]})
    for kind, options in (KINDS | {"gzip": {}}).items():
        registry.save(registry.train(kind, texts, **options), folder / kind)
        encode_corpus(corpus, folder / kind, folder / kind, num_workers=1)
    return folder, corpus


def opened(made: tuple[Path, Corpus], kinds: list[str]) -> list[View]:
    return [View.open(made[0] / kind, made[1]) for kind in kinds]


def told_of(row: np.ndarray, vocabulary: Vocabulary) -> list[tuple[int, list[int]]]:
    """(code, symbols) of the stretches of one document's ids, BOS to EOS."""
    ids = row.tolist()
    starts = {RAW_START: 0} | {view.start_id: view.code for view in vocabulary.views}
    ends = {0: RAW_END} | {view.code: view.end_id for view in vocabulary.views}
    firsts = {0: 0} | {view.code: view.first_id for view in vocabulary.views}
    assert (ids[0], ids[-1]) == (BOS, EOS)
    stretches = []
    for number, stretch in enumerate(" ".join(map(str, ids[1:-2])).split(f" {SPLICE} ")):
        start, *symbols = map(int, stretch.split())
        stretches.append((starts[start], [symbol - firsts[starts[start]] for symbol in symbols]))
        assert (number == 0) or stretches[-1][0] != stretches[-2][0]
    assert ids[-2] == ends[stretches[-1][0]]
    return stretches


@pytest.mark.parametrize("kinds", [["spm"], ["identity"], ["nibble"], ["doublebyte"], ["spm", "nibble"]], ids="-".join)
def test_stretches_decode_to_their_bytes_and_join_to_the_document(made, kinds):
    _, corpus = made
    views = opened(made, kinds)
    vocabulary = Vocabulary([(view.name, view.alphabet_size) for view in views])
    longest = int(corpus.sizes.max()) * 2 + 40
    plan = Plan.for_corpus(
        corpus,
        views,
        vocabulary=vocabulary,
        mix=MIX,
        seed=1,
        row_length=longest,
        lookahead=1,
        num_rows=60,
        shuffle_rows=1,
        packing="fit",
        cuts=open_cuts(corpus, views, MIX),
    )
    batch = RowReader(corpus, views, vocabulary, plan).read(range(60))
    compressors = [registry.load(view.path) for view in views]
    slices = plan.row_slices(0, 60)
    found: dict[int, list[bytes]] = {}
    num_stretches = set()
    for row, ids in enumerate(batch.ids[:, :longest]):
        ids = ids[ids != PAD]
        begins = np.flatnonzero(ids == BOS)
        mine = slices.row == row
        documents = slices.document[mine][np.diff(slices.order[mine], prepend=-1) != 0]
        for document, first, end in zip(documents, begins, [*begins[1:], ids.size], strict=False):
            if ids[end - 1] != EOS:
                continue  # its end lies behind the last row
            parts = []
            for code, symbols in told_of(ids[first:end], vocabulary):
                parts.append(bytes(symbols) if code == 0 else compressors[code - 1].decode(np.array(symbols, dtype=np.uint32)))
            assert all(parts) or len(parts) == 1
            found.setdefault(int(document), []).append(b"".join(parts))
            num_stretches.add(len(parts))
    train = corpus.splits["train"]
    assert set(found) == set(train)  # several epochs of them
    for document, tellings in found.items():
        assert set(tellings) == {corpus.document(document)}
    assert num_stretches == {1, 2, 3, 4, 5}  # 1: no border inside
    # The pieces say which bytes they tell: side by side, without gap or overlap, the sum of a telling is the document.
    assert plan.summary()["unique_source_bytes"] == corpus.sizes[train.start : train.stop].sum()
    assert plan.summary()["num_uncut"] > 0


def test_tables_hold_borders_only_and_do_not_depend_on_the_workers(made):
    folder, corpus = made
    [view] = opened(made, ["spm"])
    one = open_cuts(corpus, [view], MIX, num_workers=1)["spm"]
    manifest = (folder / "spm" / "cuts" / "manifest.json").read_bytes()
    shutil.rmtree(folder / "spm" / "cuts")
    two = open_cuts(corpus, [view], MIX, num_workers=2)["spm"]
    assert (folder / "spm" / "cuts" / "manifest.json").read_bytes() == manifest
    assert one.digest == two.digest
    compressor = registry.load(view.path)
    for document in range(corpus.num_documents):
        spans = compressor.spans(corpus.document(document)).tolist()
        here = slice(*two.borders[document : document + 2])
        assert all(
            0 < byte < corpus.sizes[document] and spans[symbol] == byte
            for byte, symbol in zip(two.byte[here], two.symbol[here], strict=True)
        )
        assert two.borders[document + 1] - two.borders[document] <= 16
    assert 12 <= two.num_candidates(np.array([int(corpus.sizes.argmax())]))[0] <= 16


@pytest.mark.parametrize("name", ["cached", "segments-bytes"])
def test_views_that_pack_offer_only_borders_before_which_they_decode(made, name, root):
    """`cached` fills symbols across the borders of its windows, so that half of its spans are no place to cut."""
    folder, corpus = made
    if not (folder / name).exists():
        shutil.copytree(root / "tests" / "golden" / "views" / name, folder / name)
        encode_corpus(corpus, folder / name, folder / name, num_workers=1)
    [view] = opened(made, [name])
    compressor, table = registry.load(view.path), open_cuts(corpus, [view], MIX)[name]
    num_spans = 0
    for document in range(corpus.num_documents):
        data = corpus.document(document)
        here = slice(*table.borders[document : document + 2])
        for byte, symbol in zip(table.byte[here].tolist(), table.symbol[here].tolist(), strict=True):
            assert compressor.decode(view.slice(document, 0, symbol).astype(np.uint32)) == data[:byte]
        num_spans += 0 if compressor.spans(data) is None else len(symbol_borders(compressor.spans(data), len(data))[0])
    assert 50 < table.byte.size < num_spans


def test_lines_of_a_corpus(made):
    _, corpus = made
    lines = open_lines(corpus)
    for document in range(corpus.num_documents):
        data = corpus.document(document)
        here = lines.byte[lines.borders[document] : lines.borders[document + 1]].tolist()
        assert all(data[byte - 1 : byte] == b"\n" and 0 < byte < len(data) for byte in here)
        starts = [byte for byte in range(1, len(data)) if data[byte - 1 : byte] == b"\n"]
        assert (len(here) > 0) == (len(starts) > 0)
        assert len(starts) > 3 or here == starts or len(here) < len(starts)
    assert np.array_equal(lines.byte, lines.symbol)


def test_borders_by_eye():
    assert [list(side) for side in symbol_borders(np.array([0, 0, 1, 1, 4, 4]), 4)] == [[1], [2]]  # two symbols a byte: after the second
    assert [list(side) for side in symbol_borders(np.array([0, 3]), 3)] == [[], []]
    assert line_borders(b"a\n\nbc\n")[0].tolist() == [2, 3]
    assert line_borders(b"")[0].tolist() == []


@given(st.sets(st.integers(1, 99), min_size=1, max_size=40), st.integers(0, 2**40))
def test_the_nearest_border_is_taken(borders, document):
    from proxy_lm.data.permutation import hashes

    byte = np.array(sorted(borders))
    drawn = [1 + int(draw) % 99 for draw in hashes(7, document * 16 + np.arange(16))]
    slow = sorted({min(byte.tolist(), key=lambda border: (abs(border - want), border)) for want in drawn})
    assert nearest_borders(7, document, 100, byte, byte * 2)[0].tolist() == slow
    assert nearest_borders(7, document, 100, byte, byte * 2)[1].tolist() == [2 * border for border in slow]


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("bytes.bin", lambda data: data[:-4], "bytes and its manifest records"),
        ("symbols.bin", lambda data: bytes([data[0] ^ 1]) + data[1:], "has the SHA-256 .* and its manifest records"),
        ("manifest.json", lambda data: data.replace(b'"num_candidates": ', b'"num_candidates": 1'), "its content gives"),
        ("manifest.json", lambda data: data[:40], "is not readable JSON"),
    ],
    ids=["short", "flipped", "edited", "torn"],
)
def test_a_damaged_table_is_refused_with_its_remedy(made, file, change, said):
    folder, corpus = made
    [view] = opened(made, ["identity"])
    open_cuts(corpus, [view], MIX)
    path = folder / "identity" / "cuts" / file
    data = path.read_bytes()
    path.write_bytes(change(data))
    with pytest.raises(RequestError, match=said) as caught:
        open_cuts(corpus, [view], MIX)
    assert "delete" in str(caught.value)
    path.write_bytes(data)
    open_cuts(corpus, [view], MIX)


def test_a_file_in_the_place_of_the_table_is_named(made):
    folder, corpus = made
    [view] = opened(made, ["identity"])
    table = folder / "identity" / "cuts"
    shutil.rmtree(table, ignore_errors=True)
    table.write_text("")
    with pytest.raises(WorkError, match=r"could not write .*cuts/borders\.bin: (File exists|Not a directory)"):
        open_cuts(corpus, [view], MIX)
    table.unlink()


def test_a_table_of_a_view_that_was_encoded_anew_is_made_anew(made):
    folder, corpus = made
    [view] = opened(made, ["identity"])
    table = open_cuts(corpus, [view], MIX)["identity"]
    path = folder / "identity" / "cuts" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"made_of": "another view"}))
    assert open_cuts(corpus, [view], MIX)["identity"].digest == table.digest


def test_views_that_cannot_be_cut_are_refused(made):
    _, corpus = made
    [gzip] = opened(made, ["gzip"])
    with pytest.raises(
        RequestError, match=r"view 'gzip' \(gzip\) stand for no stretch of bytes, so it cannot be spliced; set mix.splice=0"
    ):
        open_cuts(corpus, [gzip], MIX)
    gzip.exact = False
    with pytest.raises(RequestError, match="view 'gzip' does not give documents back exactly"):
        open_cuts(corpus, [gzip], MIX)
    assert open_cuts(corpus, [gzip], MixSettings()) == {}
    mix = MixSettings.model_validate({"splice": 1, "weights": {"identity": 1}})
    [identity] = opened(made, ["identity"])
    assert set(open_cuts(corpus, [gzip, identity], mix)) == {"identity"}  # a view without weight is not asked


def test_a_plan_without_the_table_says_so(made):
    _, corpus = made
    views = opened(made, ["spm"])
    arguments: dict[str, Any] = {"vocabulary": Vocabulary([("spm", views[0].alphabet_size)]), "mix": MIX, "seed": 0, "row_length": 9}
    with pytest.raises(RequestError, match=r"mix\.splice asks for cuts in the view 'spm' and the plan has no table of them"):
        Plan.for_corpus(corpus, views, lookahead=1, num_rows=1, **arguments)
