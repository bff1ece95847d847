"""The compressors of arXiv 2404.03626 on one's own text: its number beside ours, row by row, with what differs and why.

    proxy-lm compressor replicate --corpus corpus --out replication
    proxy-lm compressor replicate --corpus corpus --model views/neural/model --out replication-network

    replication/ model/ static/ results.json report.md report.html parts/<digest>.json

Without `--model` the byte model is counted from the train split and kept in `model/`. Every finished measurement is a part, so a killed
replication continues. What is replicated are compressors; the losses of models trained on their symbols are what comparisons measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from compressors import registry
from compressors.base import Symbols
from compressors.files import digest_of, write_json
from compressors.measure import entropy_bits
from compressors.neural.models import MODEL_NAME, TOTAL, ByteModel, load_model, model_class, save_model
from proxy_lm.analysis import published
from proxy_lm.analysis.published import EXAMPLE_BYTES, SETTINGS, Setting
from proxy_lm.analysis.study import part
from proxy_lm.analysis.told import JSON, Sample, Told, encode_all
from proxy_lm.data.corpus import Corpus
from proxy_lm.errors import RequestError
from proxy_lm.progress import ProgressBar, note
from proxy_lm.view_training import first_documents, split_range

SCHEMA: Final = "proxy-lm replication 1"
VERSION: Final = 1
_ROWS_BYTES: Final = 1 << 17


@dataclass(frozen=True, kw_only=True)
class Replication:
    """What is measured on what."""

    corpus: Corpus
    model: Path | None = None
    """Folder of a byte model; None: counts of the train split."""

    split: str = "test"
    max_bytes: int = 1_000_000
    max_training_bytes: int = 50_000_000
    rows: Sequence[str] = ()
    """Rows to measure, such as A5; empty: all."""


def row_names() -> list[str]:
    """All rows, in order."""
    names = {"A1", "A7", *(row for setting in SETTINGS for row in setting.rows.values())}
    return sorted(names, key=lambda name: int(name[1:]))


def replicate(request: Replication, out: Path) -> JSON:
    """Measure what is not there yet; returns what `results.json` holds. Raises `RequestError` for what cannot be."""
    from proxy_lm.analysis import replicate_report

    unknown = [row for row in request.rows if row not in row_names()]
    if unknown:
        raise RequestError(f"unknown row '{unknown[0]}'; known: {', '.join(row_names())}")
    if request.max_bytes < EXAMPLE_BYTES:
        raise RequestError(f"--max-bytes {request.max_bytes} is less than one example of {EXAMPLE_BYTES} bytes; give more")
    rows = list(request.rows) or row_names()
    sample = Sample.of_corpus(request.corpus, request.split, request.max_bytes)
    text = b"".join(sample.documents)
    if len(text) < EXAMPLE_BYTES:
        raise RequestError(f"split '{request.split}' has {len(text)} bytes and one example has {EXAMPLE_BYTES}; prepare more documents")
    models = _models(request, out)
    key = {"version": VERSION, "corpus": request.corpus.digest, "split": request.split, "num_bytes": len(text)}
    results: JSON = {
        "schema": SCHEMA,
        "corpus_digest": request.corpus.digest,
        "split": request.split,
        "num_documents": len(sample.documents),
        "num_bytes": len(text),
        "model": _told_model(models["own"][0], request.model),
        "rows": [],
    }
    if "A1" in rows:
        results["rows"].append(_model_row(models["own"][0], examples_of(text, EXAMPLE_BYTES), key, out / "parts"))
    for setting in SETTINGS:
        if set(rows) & {*setting.rows.values(), *(["A21"] if setting.paper_unigram else [])}:
            results["rows"] += _rows(setting, models, text, key, out / "parts")
    if "A7" in rows:
        results["rows"] += [_decoding_row(kind, models, text, key, out / "parts") for kind in ("table-paper", "table")]
    results["rows"].sort(key=lambda row: int(row["row"][1:]))
    results["checks"] = checks(results["rows"])
    write_json(out / "results.json", results)
    replicate_report.write(results, out)
    return results


def examples_of(text: bytes, size_bytes: int) -> list[bytes]:
    """Consecutive examples of one size; what is left at the end is dropped."""
    return [text[start : start + size_bytes] for start in range(0, len(text) - size_bytes + 1, size_bytes)]


def checks(rows: Sequence[JSON]) -> list[JSON]:
    """What must hold at any scale, as {check, holds, detail}; only of rows that were measured."""
    found: list[JSON] = []
    by_what = {row["what"]: row for row in rows}
    model, coded = by_what.get("byte model"), by_what.get("arithmetic code, 8-bit symbols")
    if model and coded:
        quotient = 8 / coded["bytes_per_symbol"] / model["bits_per_byte"]
        found.append(
            {
                "check": "arithmetic code is as long as the model says, within 0.5 %",
                "holds": abs(quotient - 1) <= 0.005,
                "detail": f"{quotient:.5f}",
            }
        )
    ordered = sorted((row for row in rows if row.get("order") is not None and row["symbol_bits"] == 8), key=lambda row: int(row["order"]))
    ratios = [row["bytes_per_symbol"] for row in ordered if row["row"] != "A10"]
    if len(ratios) > 2:
        found.append(
            {
                "check": "denser in this order: byte unigram, windows of 16, 24, 32, 64 and 128 bits, model never reset, arithmetic code",
                "holds": ratios == sorted(ratios),
                "detail": ", ".join(f"{ratio:.3f}" for ratio in ratios),
            }
        )
    gzip = [row["bytes_per_symbol"] for row in ordered if row["row"] == "A10"]
    least = [row["bytes_per_symbol"] for row in ordered if row["row"] == "A5"][:1]
    if gzip and least:
        found.append(
            {
                "check": "gzip is less dense than windows of 16 bits (on English; code repeats itself, which a reset forgets)",
                "holds": gzip[0] < least[0],
                "detail": f"{gzip[0]:.3f}, {least[0]:.3f}",
            }
        )
    pairs = [
        (by_what[w], by_what[w.replace("8-bit", "16-bit")]) for w in by_what if "8-bit" in w and w.replace("8-bit", "16-bit") in by_what
    ]
    if pairs:
        worst = max(abs(b["bytes_per_symbol"] / a["bytes_per_symbol"] / 2 - 1) for a, b in pairs)
        found.append(
            {
                "check": "16-bit symbols stand for twice the bytes of 8-bit ones, within 0.1 %",
                "holds": worst <= 0.001,
                "detail": f"{worst:.5f}",
            }
        )
    exact = [row for row in rows if row["row"] == "A7" and row["promises_exactness"]]
    if exact:
        good = all(row["exact_examples"] == row["num_examples"] for row in exact)
        found.append({"check": "the exact rule gives every example back", "holds": good, "detail": exact[0]["what"]})
    return found


def _models(request: Replication, out: Path) -> dict[str, tuple[ByteModel, Path]]:
    """The study's byte model and the byte unigram, each with its folder."""
    if request.max_training_bytes < 1:
        raise RequestError(f"--max-training-bytes {request.max_training_bytes} counts nothing; give 1 or more")
    found = {}
    wanted = {"own": (request.model or out / "model", "counts"), "static": (out / "static", "static")}
    for name, (folder, kind) in wanted.items():
        made_of = {"corpus": request.corpus.digest, "max_training_bytes": request.max_training_bytes}
        if (folder / MODEL_NAME).exists() or folder == request.model:
            model = load_model(folder)
            if folder != request.model and _made_of(folder) != made_of:
                raise RequestError(f"{folder} is a byte model of another corpus or size; choose another --out")
        else:
            note(f"byte model '{kind}': counting up to {request.max_training_bytes / 1e6:.1f} MB")
            documents = first_documents(request.corpus, split_range(request.corpus, "train"), request.max_training_bytes)
            model = model_class(kind).train(documents)
            save_model(model, folder, made_of)
        found[name] = model, folder
    return found


def _made_of(folder: Path) -> Any:
    from compressors.files import read_json

    return read_json(folder / MODEL_NAME, "byte model").get("measured")


def _told_model(model: ByteModel, folder: Path | None) -> JSON:
    return {
        "kind": model.kind,
        "integer": model.integer,
        "fingerprint": digest_of(model.spec()),
        "folder": None if folder is None else folder.name,
    }


def _rows(setting: Setting, models: Mapping[str, tuple[ByteModel, Path]], text: bytes, key: Mapping[str, Any], parts: Path) -> list[JSON]:
    """Bytes a symbol of one setting, beside the paper's: one row for each size of symbol."""
    found = _measured(setting.kind, setting.options, setting, models, text, key, parts)
    exact = None if setting.exact is None else _measured(*setting.exact, setting, models, text, key, parts)
    rows = []
    for symbol_bits, row in setting.rows.items():
        paper: JSON = {"bytes_per_symbol": setting.paper.get(symbol_bits)}
        ours: JSON = {"bytes_per_symbol": found["bytes_per_symbol"][str(symbol_bits)]}
        if symbol_bits == 8 and setting.paper_unigram is not None:
            paper |= {"uniform_bits_per_byte": 8 / setting.paper[8], "unigram_bits_per_byte": setting.paper_unigram}
            ours |= {"uniform_bits_per_byte": 8 / ours["bytes_per_symbol"], "unigram_bits_per_byte": found["unigram_bits_per_byte"]}
        rows.append(
            {
                "row": row,
                "what": f"{setting.what}, {symbol_bits}-bit symbols" if len(setting.rows) > 1 else setting.what,
                "symbol_bits": symbol_bits,
                "order": setting.order,
                "paper": paper,
                "stand_in": setting.stand_in,
                **{name: found[name] for name in ("num_examples", "num_refused", "alphabet_size")},
                **ours,
                "exact_bytes_per_symbol": None if exact is None else exact["bytes_per_symbol"][str(symbol_bits)],
            }
        )
    return rows


def _measured(
    kind: str,
    options: Mapping[str, Any],
    setting: Setting,
    models: Mapping[str, tuple[ByteModel, Path]],
    text: bytes,
    key: Mapping[str, Any],
    parts: Path,
) -> JSON:
    """Bytes a symbol (by bits a symbol) and the rest, of one view of a setting."""
    model = None if setting.model is None else models[setting.model]
    whole = {**key, "kind": kind, "options": dict(options), "size": setting.size_bytes, "model": model and digest_of(model[0].spec())}

    def make() -> JSON:
        examples = examples_of(text, setting.size_bytes)
        rows = "/".join(dict.fromkeys(setting.rows.values()))
        with ProgressBar(f"{rows} {setting.what} ({kind})", len(examples) * setting.size_bytes) as bar:
            told, alphabet_size = _told(kind, options, model, examples, bar)
        symbols = [one for one in told if one is not None]
        num_bytes = len(symbols) * setting.size_bytes
        pairs = 8 in setting.rows  # two 8-bit symbols are one of 16 bits; the last one of an example is filled up
        counts = {8: sum(map(len, symbols)), 16: sum(-(-len(one) // 2) if pairs else len(one) for one in symbols)}
        return {
            "num_examples": len(symbols),
            "num_refused": len(examples) - len(symbols),
            "alphabet_size": alphabet_size,
            "bytes_per_symbol": {str(bits): num_bytes / counts[bits] for bits in setting.rows},
            "unigram_bits_per_byte": entropy_bits(np.concatenate(symbols)) * sum(map(len, symbols)) / num_bytes,
        }

    return part(parts, whole, make)


def _told(
    kind: str, options: Mapping[str, Any], model: tuple[ByteModel, Path] | None, examples: list[bytes], bar: ProgressBar
) -> tuple[Sequence[Symbols | None], int]:
    """Symbols of every example, and the alphabet. Nothing is decoded here, so a model in floating point will do."""
    if kind == "arithmetic":
        from compressors.neural.stream import encode_ranges  # brings numba: not for the sake of --help

        assert model is not None
        coded: list[Symbols] = []
        at_once = max(1, _ROWS_BYTES // len(examples[0]))
        for first in range(0, len(examples), at_once):
            some = examples[first : first + at_once]
            coded += [code.astype(np.uint32) for code in encode_ranges(model[0], some)]
            bar.advance(sum(map(len, some)))
        return coded, 256
    chosen: dict[str, Any] = dict(options)
    if model is not None:
        chosen["model"] = str(model[1])
        if kind == "stream" and not model[0].integer:
            kind, chosen["rule"] = "stream-inexact", "cells"
    view = registry.train(kind, (), **chosen)
    return [symbols for example in examples for symbols in encode_all(view, [example], bar.advance)], view.alphabet_size


def _model_row(model: ByteModel, examples: Sequence[bytes], key: Mapping[str, Any], parts: Path) -> JSON:
    """A1: what the model itself charges for the examples."""

    def make() -> JSON:
        bits = 0.0
        with ProgressBar("A1 byte model", len(examples) * EXAMPLE_BYTES) as bar:
            at_once = max(1, _ROWS_BYTES // EXAMPLE_BYTES)
            for first in range(0, len(examples), at_once):
                some = examples[first : first + at_once]
                for example, rows in zip(some, model.rows(some), strict=True):
                    bits -= float(np.log2(rows[np.arange(len(example)), np.frombuffer(example, np.uint8)] / TOTAL).sum())
                bar.advance(sum(map(len, some)))
        return {"num_examples": len(examples), "bits_per_byte": bits / (len(examples) * EXAMPLE_BYTES)}

    found = part(parts, {**key, "what": "byte model", "model": digest_of(model.spec())}, make)
    return {"row": "A1", "what": "byte model", "paper": {"bits_per_byte": published.MODEL_BITS_PER_BYTE}, **found}


def _decoding_row(kind: str, models: Mapping[str, tuple[ByteModel, Path]], text: bytes, key: Mapping[str, Any], parts: Path) -> JSON:
    """A7: examples that come back, and windows that decode to another text, under the published rule and under `cells`."""
    from proxy_lm.analysis.collisions import collisions

    model, folder = models["own"]
    rule = "the published rule" if kind == "table-paper" else "this project's rule cells"

    def make() -> JSON:
        examples = examples_of(text, EXAMPLE_BYTES)
        with ProgressBar(f"A7 {rule}", None) as bar:
            told = Told(registry.train(kind, (), model=str(folder)), Sample(examples, [""] * len(examples)), bar.advance)
            return collisions(told)

    found = part(parts, {**key, "what": "decoding", "kind": kind, "model": digest_of(model.spec())}, make)
    return {
        "row": "A7",
        "what": f"windows of 16 bits come back, {rule}",
        "paper": {"exact_share": 0.994 if kind == "table-paper" else None},
        "num_examples": found["num_documents"],
        "exact_examples": found["exact_documents"],
        "promises_exactness": found["promises_exactness"],
        "wrong_window_share": found.get("wrong_window_share"),
        "prefix_ratio": found.get("prefix_ratio"),
        "prefix_ratio_at_least_0.8": found.get("prefix_ratio_at_least_0.8"),
    }
