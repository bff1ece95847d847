"""`proxy-lm-eval compression`: raw and adjusted rates of models and of classical compressors, in one table.

    table = compression(rows, sets, unavailable, settings, out=Path("rates"))
    table["rows"][0]["cells"]["code"]["raw"]          # percent of the raw size

The layout is that of Table 1 of Deletang et al., "Language modeling is compression" (ICLR 2024): rows are chunk size x compressor, columns
the data sets by raw rate, then by adjusted rate. With `out`, each finished cell (a row on a data set) is kept in `out/cells`, named by all
that it depends on: bytes, model, coder, chunk size. The same command goes on where it was ended, and does anew only what has changed.
`out/compression.json` and `out/compression.md` are written last. Seconds of a kept cell are those of its first time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, field_validator

from compressors.files import digest_of, read_json, write_bytes, write_json
from eval.compression_data import DataSet
from eval.compression_progress import TableProgress
from eval.compression_report import markdown
from eval.compression_rows import ModelRow, Row, rates
from eval.envelope import version_of, versions
from proxy_lm.codec import MAX_CHUNK_BYTES, Predictor
from proxy_lm.codec.classical import Unavailable
from proxy_lm.config import Settings
from proxy_lm.errors import RequestError
from proxy_lm.progress import note

SCHEMA: Final = "proxy-lm compression 1"
CELL_SCHEMA: Final = "proxy-lm compression cell 2"
ACCOUNTINGS: Final = ("appended", "scaled")
COMPRESSORS: Final = ("gzip", "lzma", "zstd", "ppm")
"""Those that can be asked for the next byte."""


class CompressionSettings(Settings):
    """What is measured."""

    chunk_bytes: tuple[int, ...] = (2048,)
    """Sizes of chunks; each is a block of rows."""
    limit_bytes: int | None = Field(default=None, ge=1)
    """Of each data set at most, from its beginning."""
    split: str = "test"
    """Of corpora."""
    seven_bit: bool = False
    """Rows of the models on bytes mapped to 7 bits too."""
    verify: int | Literal["all"] = 4
    """Chunks of a model's row that are decoded and compared."""
    adjusted_for: int | None = Field(default=None, ge=1)
    """Bytes of data that share the cost of a model; None: those measured. The source has 10^9."""
    next_byte: tuple[str, ...] = ()
    """Compressors asked as models of the next byte."""
    next_byte_bytes: int = Field(default=2048, ge=1)
    """Of each data set that they are asked for."""

    @field_validator("chunk_bytes")
    @classmethod
    def _chunks(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if not sizes or any(not 1 <= size <= MAX_CHUNK_BYTES for size in sizes):
            raise ValueError(f"chunks have 1 to {MAX_CHUNK_BYTES} bytes")
        return tuple(sorted(set(sizes)))

    @field_validator("verify")
    @classmethod
    def _verify(cls, verify: int | str) -> int | str:
        if isinstance(verify, int) and verify < 0:
            raise ValueError("a number of chunks, 0 or more, or all")
        return verify

    @field_validator("next_byte")
    @classmethod
    def _next_byte(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in COMPRESSORS:
                raise ValueError(f"'{name}' cannot be asked for the next byte; known: {', '.join(COMPRESSORS)}")
        return tuple(dict.fromkeys(names))


def compression(
    rows: Sequence[Row], sets: Sequence[DataSet], unavailable: Sequence[Unavailable], settings: CompressionSettings, *, out: Path | None
) -> dict[str, Any]:
    """Measure, and write it where `out` is given. Rows that are asked byte by byte are measured on the sets that `parts` adds. Raises
    `RequestError` for names that stand twice, `WorkError` where a chunk is not had back."""
    _check_names(rows, sets)
    started = time.monotonic()
    columns = [*sets, *parts(sets, settings)]
    told: list[dict[str, Any]] = []
    plan = [(row, [data for data in columns if row.group != "next-byte" or data not in sets]) for row in rows]
    with TableProgress(sum(len(on) for _, on in plan)) as progress:
        for row, on in plan:
            where = "whole" if row.chunk_bytes is None else f"chunks of {row.chunk_bytes:,}"
            cells = {data.name: _cell(row, data, out, progress, f"{row.name}, {where}, on {data.name}") for data in on}
            told += _told(row, cells, settings)
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "command": "compression",
        "settings": settings.model_dump(mode="json"),
        "data": [data.described() for data in columns],
        "models": _models(rows),
        "unavailable": [one._asdict() for one in unavailable],
        "rows": told,
        "verdicts": verdicts(told, [data.name for data in columns]),
        "seconds": time.monotonic() - started,
        "versions": {**versions(), "zstandard": version_of("zstandard")},
    }
    if out is not None:
        write_json(out / "compression.json", result)
        write_bytes(out / "compression.md", markdown(result).encode())
    return result


def parts(sets: Sequence[DataSet], settings: CompressionSettings) -> list[DataSet]:
    """The parts on which compressors are asked for the next byte, and everything else too."""
    if not settings.next_byte:
        return []
    return [data.spread(settings.next_byte_bytes, max(settings.chunk_bytes)) for data in sets]


def verdicts(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Of each model, at each chunk size and on each data set, which classical compressors at the same chunk size need more by raw rate."""
    found = []
    for row in rows:
        if row["group"] != "model":
            continue
        for name in names:
            ours = row["cells"][name]["raw"]
            others = {
                other["name"]: other["cells"][name]["raw"]
                for other in rows
                if other["group"] == "classical" and other["chunk_bytes"] == row["chunk_bytes"]
            }
            found.append(
                {
                    "row": row["name"],
                    "accounting": row["accounting"],
                    "chunk_bytes": row["chunk_bytes"],
                    "data": name,
                    "raw": ours,
                    "num_chunks": row["cells"][name]["num_chunks"],
                    "num_by_model": row["cells"][name]["num_by_model"],
                    "best": min(others, key=lambda other: others[other], default=None),
                    "best_raw": min(others.values(), default=None),
                    "beats": [other for other, rate in others.items() if ours < rate],
                    "does_not_beat": [other for other, rate in others.items() if ours >= rate],
                }
            )
    return found


def _told(row: Row, cells: dict[str, dict[str, Any]], settings: CompressionSettings) -> list[dict[str, Any]]:
    """The rows of the table that one measured row becomes: with lost bits, one each way of counting them."""
    mapped = isinstance(row, ModelRow) and row.seven_bit
    told = []
    for accounting in ACCOUNTINGS if mapped else (None,):
        with_rates = {
            name: {
                **rates(
                    cell,
                    parameters=row.num_parameters,
                    parameter_bytes=row.num_parameter_bytes,
                    adjusted_for=settings.adjusted_for,
                    accounting=accounting,
                ),
                **cell,
            }
            for name, cell in cells.items()
        }
        told.append(
            {
                "name": row.name,
                "group": row.group,
                "chunk_bytes": row.chunk_bytes,
                "seven_bit": mapped,
                "accounting": accounting,
                "cells": with_rates,
            }
        )
    return told


def _models(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Each model once."""
    models: dict[str, Predictor] = {row.name: row.predictor for row in rows if isinstance(row, ModelRow)}
    return [
        {
            "name": name,
            "identity": predictor.identity(),
            "portable": predictor.portable,
            "num_parameters": predictor.num_parameters,
            "num_parameter_bytes": predictor.num_parameter_bytes,
        }
        for name, predictor in models.items()
    ]


def _cell(row: Row, data: DataSet, out: Path | None, progress: TableProgress, what: str) -> dict[str, Any]:
    """Measured, or as it was kept."""
    key = {"schema": CELL_SCHEMA, "row": row.identity(data), "chunk_bytes": row.chunk_bytes, "data": data.digest, "bytes": len(data.data)}
    path = None if out is None else out / "cells" / f"{digest_of(key)[:32]}.json"
    if path is not None and path.exists() and (kept := _kept(path, key, row.verify)) is not None:
        progress.end(kept=True)
        return kept
    progress.begin(what, len(data.data))
    cell = row.measure(data, progress.advance)
    progress.end()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"key": key, "cell": cell})
    return cell


def _kept(path: Path, key: dict[str, Any], verify: int | None) -> dict[str, Any] | None:
    """The cell of a file; None where it is another's, damaged, or fewer chunks were compared than are asked now."""
    try:
        held = read_json(path, "cell of a compression table")
    except RequestError:
        note(f"compression: {path} is damaged; measured anew")
        return None
    cell = held.get("cell")
    if held.get("key") != key or not isinstance(cell, dict):
        note(f"compression: {path} is another cell; measured anew")
        return None
    wanted = cell["num_chunks"] if verify is None else min(verify, cell["num_chunks"])
    asked_less = cell["coded_bytes"] is not None and cell["num_verified"] < wanted
    return None if asked_less else cell


def _check_names(rows: Sequence[Row], sets: Sequence[DataSet]) -> None:
    if not sets:
        raise RequestError("no data to measure on; give --data NAME=PATH, or --model a run whose corpus is there")
    labels = [str((row.name, row.chunk_bytes, row.identity(sets[0]).get("mapping"))) for row in rows]
    columns = [data.name for data in sets]
    for found, told, option in ((columns, columns, "--data"), (labels, [row.name for row in rows], "--model")):
        twice = next((name for one, name in zip(found, told, strict=True) if found.count(one) > 1), None)
        if twice is not None:
            raise RequestError(f"the name '{twice}' stands twice in the table; give it another: {option} OTHER=PATH")
