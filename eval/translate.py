"""Translation: a held-out stretch is given in one view and asked for in the other, both ways. Does the model know that they are the same?

    proxy-lm-eval translate runs/nano

Each stretch (`stretches`) is told as training's pairs are, one view after the other in one segment. Measured, with intervals by project:

* the change: bits per byte of the raw bytes after their compressed telling minus without it, on the same bytes; and minus those after the
  telling of a stranger (a stretch of another project), which tells the use of *this* context from that of any. Below zero: it helps;
* teacher-forced, both ways: the share of symbols right, of bytes told by right symbols, and of stretches right throughout;
* free-running, both ways, greedy, in the alphabet of the asked view: stretches written exactly, bytes right at their place after decoding,
  edit similarity, and bytes right before the first error.

The same is asked of the run's untrained weights. Samples are kept one by one and a killed evaluation continues; the result is
RUN/eval/translate-<split>-<view>.json. Not promised: that a model which was taught no pairs late in its run still translates by copying.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import Field

from compressors.files import digest_of
from eval.envelope import Dataset, envelope, write_result
from eval.free_running import Written, write_rows
from eval.intervals import Clusters, estimate, share
from eval.samples import Samples, work_folder
from eval.stretches import Row, Side, Stretch, pair_fits, strangers, take_stretches, told_after, told_alone
from eval.teacher import Answer, Model, ask
from eval.two_views import TwoViews, open_two_views
from proxy_lm.config import Settings
from proxy_lm.errors import RequestError
from proxy_lm.infer.engine import IdEngine
from proxy_lm.progress import CountProgress
from proxy_lm.vocabulary import RAW_END

SCHEMA: Final = "proxy-lm translation 1"
COMMAND: Final = "translate"
AMOUNTS: Final = ("dataset.num_items", "settings.num_free", "settings.num_untrained")
_SIDES: Final[tuple[Side, ...]] = ("raw", "view")


class TranslateSettings(Settings):
    """What is translated."""

    split: str = "test"
    """Split of the run's corpus."""

    limit: int = Field(default=400, ge=1)
    """Stretches at most."""

    stretches_per_document: int = Field(default=4, ge=1)
    """Stretches of one document at most, from its beginning."""

    max_stretch_bytes: int = Field(default=1024, ge=1)
    """No stretch is longer, even where a row has room."""

    num_free: int = Field(default=128, ge=0)
    """Of the stretches, how many are written freely, each way; 0: none."""

    num_untrained: int = Field(default=64, ge=0)
    """Of the stretches, how many the run's untrained weights are asked about, teacher-forced; 0: none."""

    rows_per_pass: int = Field(default=16, ge=1)
    """Rows of one forward pass; changes speed and memory, not the numbers."""


def translate(
    run: Path, settings: TranslateSettings, *, view: str | None = None, device: str = "auto", corpus: Path | None = None
) -> dict[str, Any]:
    """Measure, continuing what an earlier call left, and write the result. Raises `RequestError` for a run without two views."""
    started = time.monotonic()
    two = open_two_views(run, view=view, split=settings.split, device=device, corpus=corpus, num_rows=settings.rows_per_pass)
    stretches, num_without = take_stretches(
        two.corpus,
        two.documents,
        two.compressor,
        pair_fits(two.row_length),
        limit=settings.limit,
        per_document=settings.stretches_per_document,
        max_bytes=settings.max_stretch_bytes,
    )
    if not stretches:
        raise RequestError(
            f"no document of split '{two.split}' gives a stretch whose two tellings fit a row of {two.row_length} ids "
            f"({num_without} documents tried); give a run with longer rows"
        )
    job = {
        "schema": SCHEMA,
        **two.identity(),
        "settings": settings.model_dump(mode="json", exclude={"rows_per_pass", "num_free", "num_untrained"}),
    }
    folder = work_folder(run, COMMAND, two.set_name, job)
    with Samples.open(folder, job) as samples:
        others = strangers(stretches)
        _force(two, stretches, others, settings, samples, lambda: two.model, "forced", len(stretches))
        if settings.num_untrained:
            _force(two, stretches, others, settings, samples, two.untrained, "untrained", settings.num_untrained)
        _write(two, stretches[: settings.num_free], settings, samples)
        result = merge(two, stretches, settings, samples.done, num_without, time.monotonic() - started)
    return result | {"written": write_result(run, COMMAND, two.set_name, result, folder, AMOUNTS)}


def forms(two: TwoViews, stretch: Stretch, stranger: Stretch | None) -> dict[str, Row]:
    """The rows one stretch is asked in, by name: alone, after its other telling, after the other telling of a stranger."""
    found: dict[str, Row] = {}
    for side in _SIDES:
        other = other_side(side)
        found[side] = told_alone(side, stretch, two.view)
        found[f"{side}_after_{other}"] = told_after(other, stretch, side, stretch, two.view)
        if stranger is not None:
            found[f"{side}_after_stranger"] = told_after(other, stranger, side, stretch, two.view, row_length=two.row_length)
    return found


def other_side(side: Side) -> Side:
    """Raw for the view, the view for raw."""
    return "view" if side == "raw" else "raw"


def _force(
    two: TwoViews,
    stretches: Sequence[Stretch],
    others: Sequence[int] | None,
    settings: TranslateSettings,
    samples: Samples,
    model_of: Callable[[], Model],
    kind: str,
    count: int,
) -> None:
    """One sample for each of the first `count` stretches: what the model says of its forms; `others` are their strangers. The model is made
    only where something is left to ask."""
    todo = [i for i, stretch in enumerate(stretches[:count]) if f"{kind}:{stretch.key}" not in samples.done]
    title = f"{'teacher-forced' if kind == 'forced' else 'untrained weights'}, {two.opened.run.name}"
    if not todo:
        return
    model = model_of()
    with CountProgress(title, len(todo)) as progress:
        for at in range(0, len(todo), settings.rows_per_pass):
            some = todo[at : at + settings.rows_per_pass]
            asked = [forms(two, stretches[i], None if others is None else stretches[others[i]]) for i in some]
            answers = iter(
                ask(
                    model,
                    [row for rows in asked for row in rows.values()],
                    rows_per_pass=settings.rows_per_pass,
                    device=two.opened.device,
                )
            )
            for i, rows in zip(some, asked, strict=True):
                record = {name: _told(next(answers), stretches[i], row) for name, row in rows.items()}
                samples.append(f"{kind}:{stretches[i].key}", record)
            progress.advance(len(some))


def _told(answer: Answer, stretch: Stretch, row: Row) -> dict[str, Any]:
    """One answer as it is kept. `right_bytes` are the bytes told by right symbols; null where symbols stand for no stretch of bytes."""
    right = answer.right[:-1]
    if row.end_id == RAW_END:
        right_bytes: int | None = int(right.sum())
    else:
        right_bytes = None if stretch.borders is None else int(np.diff(stretch.borders)[right].sum())
    return {
        "nll_nats": answer.payload_nats,
        "end_nats": float(answer.nats[-1]),
        "num_right": int(right.sum()),
        "right_bytes": right_bytes,
        "exact": answer.exact,
    }


def _write(two: TwoViews, stretches: Sequence[Stretch], settings: TranslateSettings, samples: Samples) -> None:
    """One sample a stretch and direction: what the model writes freely."""
    todo = [
        (stretch, side, told_after(other_side(side), stretch, side, stretch, two.view))
        for side in _SIDES
        for stretch in stretches
        if f"{side}:{stretch.key}" not in samples.done
    ]
    if not todo:
        return
    engine = IdEngine(two.model, settings.rows_per_pass, two.row_length)
    rows = [row for _, _, row in todo]
    with CountProgress(f"free-running, {two.opened.run.name}", len(todo)) as progress:
        for index, written in write_rows(engine, rows, num_ids=two.opened.loaded.vocabulary.size, row_length=two.row_length):
            stretch, side, row = todo[index]
            samples.append(f"{side}:{stretch.key}", _judged(written, stretch, side, row, two))
            progress.advance()


def _judged(written: Written, stretch: Stretch, side: Side, row: Row, two: TwoViews) -> dict[str, Any]:
    """What was written, decoded and held against the bytes of the stretch (of its symbols, where the view is not exact)."""
    wanted = stretch.data
    if side == "raw":
        data: bytes | None = bytes(written.ids.astype(np.uint8))
    else:
        cap = 4 * len(wanted) + 64
        data = two.compressor.decode_batch([two.view.to_symbols(written.ids).astype(np.uint32)], max_bytes=cap)[0]
        if not two.compressor.exact:
            wanted = two.compressor.decode(stretch.symbols.astype(np.uint32))
    right = row.ids[row.first : row.first + row.num_payload]
    return {
        "ids": written.ids.tolist(),
        "text": None if data is None else data.decode("utf-8", "backslashreplace"),
        "ended": written.ended,
        "exact": written.ended and np.array_equal(written.ids, right),
        **compared(data, wanted),
    }


def compared(data: bytes | None, wanted: bytes) -> dict[str, Any]:
    """Bytes written (None: they did not decode) against those wanted: `right_bytes` stand equal at their place, of `longest` places;
    `before_error` stand before the first difference; `similarity` is 1 - Levenshtein distance / longest."""
    from rapidfuzz.distance import Levenshtein

    ours = data or b""
    common = min(len(ours), len(wanted))
    same = np.frombuffer(ours[:common], np.uint8) == np.frombuffer(wanted[:common], np.uint8)
    return {
        "decodes": data is not None,
        "exact_bytes": data == wanted,
        "right_bytes": int(same.sum()),
        "before_error": common if same.all() else int(same.argmin()),
        "longest": max(len(ours), len(wanted)),
        "similarity": float(Levenshtein.normalized_similarity(ours, wanted)),
    }


def merge(
    two: TwoViews,
    stretches: Sequence[Stretch],
    settings: TranslateSettings,
    done: dict[str, dict[str, Any]],
    num_without: int,
    seconds: float,
) -> dict[str, Any]:
    """The result from its samples."""
    free = stretches[: settings.num_free]
    forced = [done[f"forced:{stretch.key}"] for stretch in stretches]
    num_bytes, num_symbols = (sum(map(len, parts)) for parts in zip(*((one.data, one.symbols) for one in stretches), strict=True))
    found: dict[str, Any] = {
        "view": two.view.name,
        "pairs_told": two.pairs_told(num_symbols / num_bytes),
        "num_stretches": len(stretches),
        "num_bytes": num_bytes,
        "num_symbols": num_symbols,
        "num_documents": len({stretch.document for stretch in stretches}),
        "num_documents_without": num_without,
        "num_projects": len({stretch.project for stretch in stretches}),
        "num_free": len(free),
        "interval_means": "95 %, bootstrap over projects; null with fewer than two projects, and for a share of none or all",
        "bits_per_byte": _bits(stretches, forced),
        "by_project": _by_project(stretches, forced),
    }
    for side, name in zip(_SIDES, ("view_to_raw", "raw_to_view"), strict=True):
        found[name] = {
            "teacher_forced": _accuracy(stretches, forced, side),
            "free": _freedom(free, [done[f"{side}:{stretch.key}"] for stretch in free]) if free else None,
        }
    found["untrained"] = None
    if settings.num_untrained:
        some = stretches[: settings.num_untrained]
        untrained = [done[f"untrained:{stretch.key}"] for stretch in some]
        found["untrained"] = {
            "num_stretches": len(some),
            "bits_per_byte": _bits(some, untrained),
            "view_to_raw": _accuracy(some, untrained, "raw"),
            "raw_to_view": _accuracy(some, untrained, "view"),
        }
    digest = digest_of([two.corpus.digest, *(stretch.key for stretch in stretches)])
    dataset = Dataset(name=two.set_name, digest=digest, num_items=len(stretches))
    return envelope(SCHEMA, COMMAND, two.opened.identity, dataset, settings, seconds, found, libraries=("rapidfuzz",))


def _bits(stretches: Sequence[Stretch], records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Bits per source byte of each form, and the two differences of each side; ends are not counted."""
    projects, sizes = [stretch.project for stretch in stretches], [len(stretch.data) for stretch in stretches]
    bits = {name: np.array([record[name]["nll_nats"] for record in records]) / math.log(2) for name in records[0]}
    found: dict[str, Any] = {name: estimate(projects, values, sizes).to_json() for name, values in bits.items()}
    for side in _SIDES:
        after = bits[f"{side}_after_{other_side(side)}"]
        found[f"{side}_change"] = estimate(projects, after - bits[side], sizes).to_json()
        stranger = bits.get(f"{side}_after_stranger")
        found[f"{side}_change_beside_stranger"] = None if stranger is None else estimate(projects, after - stranger, sizes).to_json()
    return found


def _by_project(stretches: Sequence[Stretch], records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums that two runs asked the same can be paired by: bits and bytes of each change, right symbols and symbols of each way."""
    projects = [stretch.project for stretch in stretches]
    sizes = np.array([len(stretch.data) for stretch in stretches], dtype=np.float64)
    found: dict[str, Any] = {"projects": sorted(set(projects))}
    for side, name in zip(_SIDES, ("view_to_raw", "raw_to_view"), strict=True):
        after = f"{side}_after_{other_side(side)}"
        counts = sizes if side == "raw" else np.array([len(stretch.symbols) for stretch in stretches], dtype=np.float64)
        changes = np.array([record[after]["nll_nats"] - record[side]["nll_nats"] for record in records]) / math.log(2)
        right = np.array([record[after]["num_right"] for record in records], dtype=np.float64)
        for metric, top, bottom in ((f"{side}_change", changes, sizes), (f"{name}_accuracy", right, counts)):
            sums = Clusters.of_documents(projects, top, bottom)
            found[metric] = [sums.nll_nats.tolist(), sums.num_bytes.tolist()]
    return found


def _accuracy(stretches: Sequence[Stretch], records: Sequence[Mapping[str, Any]], side: Side) -> dict[str, Any]:
    """Shares of symbols, bytes and stretches that were right after the other telling, and of symbols right without it."""
    projects, sizes = [stretch.project for stretch in stretches], [len(stretch.data) for stretch in stretches]
    counts = sizes if side == "raw" else [len(stretch.symbols) for stretch in stretches]
    after = [record[f"{side}_after_{other_side(side)}"] for record in records]
    whole = all(record["right_bytes"] is not None for record in after)
    return {
        "accuracy": estimate(projects, [record["num_right"] for record in after], counts).to_json(),
        "accuracy_without": estimate(projects, [record[side]["num_right"] for record in records], counts).to_json(),
        "byte_accuracy": estimate(projects, [record["right_bytes"] for record in after], sizes).to_json() if whole else None,
        "byte_accuracy_reason": None if whole else "the symbols of this view stand for no stretch of bytes",
        "exact_match": share(projects, [record["exact"] for record in after]).to_json(),
    }


def _freedom(stretches: Sequence[Stretch], records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What was written freely. Shares of bytes are of all bytes, similarity and exactness are means over stretches."""
    projects, sizes = [stretch.project for stretch in stretches], [len(stretch.data) for stretch in stretches]

    def mean(name: str, of: Sequence[float] | None = None) -> dict[str, Any]:
        return estimate(projects, [record[name] for record in records], of).to_json()

    return {
        "exact_match": share(projects, [record["exact"] for record in records]).to_json(),
        "exact_bytes": share(projects, [record["exact_bytes"] for record in records]).to_json(),
        "byte_accuracy": mean("right_bytes", [record["longest"] for record in records]),
        "bytes_before_error": mean("before_error", sizes),
        "edit_similarity": mean("similarity"),
        "num_not_decoded": sum(not record["decodes"] for record in records),
        "num_not_ended": sum(not record["ended"] for record in records),
    }
