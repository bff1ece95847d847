"""Where the alignment lives: hidden states of raw bytes and of a view of the same spans, layer by layer.

    proxy-lm-eval align runs/nano --plot align.svg

Held-out stretches are read twice, each telling alone as a document of its own, so that neither sees the other. The hidden states of a span
are averaged over its positions (32 bytes or a little more, whole symbols), by layer: 0 is the embedding, then each block, last the
normed state that the heads read. Measured, with intervals by project:

* similarity: cosine of the two means of one span, beside that of spans of other documents, and of those at about the same place of their
  stretch, since positions leave traces of their own in every model;
* retrieval: of 1,000 spans, how often the nearest of the other view is the same span, both ways; chance is 1 in 1,000;
* CKA: likeness of the two clouds of 1,000 under any rotation.

`similarity` says what plain, centred, whitened and rotated mean. The same is asked of the run's untrained weights. Vectors are kept in
blocks and a killed evaluation continues; the result is RUN/eval/align-<split>-<view>.json, with a plot beside it. Not promised: that a
layer with a low number holds no alignment; a rotation between the views hides it from all but CKA and the rotated way.
"""

# N spans, D width

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from compressors.files import atomic_writer, digest_of, sha256_file, write_bytes
from eval import align_plot
from eval.envelope import ASIDE_NAME, Dataset, asked_less, envelope, write_result
from eval.intervals import estimate, share
from eval.samples import Samples, result_path, work_folder
from eval.similarity import F64, SHRINKAGE, WAYS, cka, cosines, reciprocal_ranks, retrieved, rotated
from eval.spans import Span, draw_spans, mean_states
from eval.stretches import Stretch, alone_fits, take_stretches, told_alone
from eval.teacher import Model
from eval.two_views import TwoViews, open_two_views
from proxy_lm.config import Settings
from proxy_lm.errors import RequestError, WorkError
from proxy_lm.progress import CountProgress

SCHEMA: Final = "proxy-lm alignment 1"
COMMAND: Final = "align"
AMOUNTS: Final = ("dataset.num_items", "settings.untrained")
# Stretches whose vectors are kept in one file.
_BLOCK = 64
# A span is compared with so many of other documents that stand nearest to its place.
_NEIGHBOURS = 16
_PLOT_SUFFIX = ".svg"


class AlignSettings(Settings):
    """What is compared."""

    split: str = "test"
    """Split of the run's corpus."""

    limit: int = Field(default=1000, ge=4)
    """Spans, among which each is looked for."""

    span_bytes: int = Field(default=32, ge=1)
    """A span is the shortest run of whole symbols with so many bytes."""

    stretches_per_document: int = Field(default=4, ge=1)
    """Stretches of one document at most, from its beginning."""

    max_stretch_bytes: int = Field(default=1024, ge=1)
    """No stretch is longer, even where a row has room."""

    seed: int = Field(default=0, ge=0)
    """Which spans are drawn."""

    untrained: bool = True
    """Ask the run's untrained weights too."""

    rows_per_pass: int = Field(default=16, ge=1)
    """Rows of one forward pass; changes speed and memory, not the numbers."""


def align(
    run: Path,
    settings: AlignSettings,
    *,
    view: str | None = None,
    device: str = "auto",
    corpus: Path | None = None,
    plot: Path | None = None,
) -> dict[str, Any]:
    """Measure, continuing what an earlier call left; write the result, and the plot (`plot`: .svg or .png, else beside the result).

    Raises `RequestError` for a run without two views, and for a view whose symbols stand for no stretch of bytes."""
    started = time.monotonic()
    align_plot.check(plot.suffix if plot is not None else _PLOT_SUFFIX)
    two = open_two_views(run, view=view, split=settings.split, device=device, corpus=corpus, num_rows=settings.rows_per_pass)
    if two.compressor.spans(b"") is None:
        raise RequestError(f"the symbols of view '{two.view.name}' stand for no stretch of bytes, so it has no spans; ask another view")
    stretches, spans = _draw(two, settings)
    job = {"schema": SCHEMA, **two.identity(), "settings": settings.model_dump(mode="json", exclude={"rows_per_pass", "untrained"})}
    folder = work_folder(run, COMMAND, two.set_name, job)
    with Samples.open(folder, job) as samples:
        vectors = _vectors(two, stretches, spans, settings, samples, lambda: two.model, "trained")
        layers = compare_layers(vectors, stretches, spans)
        untrained = None
        if settings.untrained:
            vectors = _vectors(two, stretches, spans, settings, samples, two.untrained, "untrained")
            untrained = compare_layers(vectors, stretches, spans)
    found = {
        "view": two.view.name,
        "pairs_told": two.pairs_told(sum(len(one.symbols) for one in stretches) / sum(len(one.data) for one in stretches)),
        "num_spans": len(spans),
        "num_documents": len({stretches[span.stretch].document for span in spans}),
        "num_projects": len({stretches[span.stretch].project for span in spans}),
        "mean_span_bytes": float(np.mean([span.end_byte - span.first_byte for span in spans])),
        "mean_span_symbols": float(np.mean([span.end_symbol - span.first_symbol for span in spans])),
        "chance": 1 / len(spans),
        "shrinkage": SHRINKAGE,
        "interval_means": "95 %, bootstrap over projects; null with fewer than two projects, and for a share of none or all",
        "best_layer": {way: _best(layers, way) for way in (*WAYS, "rotated")},
        "best_layer_means": "highest mean retrieval of both ways, chosen on these very spans; rotated: null below 5 projects",
        "layers": layers,
        "untrained": untrained,
    }
    dataset = Dataset(name=two.set_name, digest=digest_of([two.corpus.digest, *map(list, _places(stretches, spans))]), num_items=len(spans))
    result = envelope(SCHEMA, COMMAND, two.opened.identity, dataset, settings, time.monotonic() - started, found)
    path = _plot(run, two, result, folder, plot)
    return result | {"written": write_result(run, COMMAND, two.set_name, result, folder, AMOUNTS, path)}


def _best(layers: Sequence[dict[str, Any]], way: str) -> int | None:
    """The layer where a span's other telling is found most often."""
    found = [layer[way]["retrieval"] for layer in layers if layer[way] is not None]
    return max(range(len(found)), key=lambda k: found[k]["raw_to_view"]["value"] + found[k]["view_to_raw"]["value"], default=None)


def _draw(two: TwoViews, settings: AlignSettings) -> tuple[list[Stretch], list[Span]]:
    """The spans, and the stretches that hold any."""
    stretches, _ = take_stretches(
        two.corpus,
        two.documents,
        two.compressor,
        alone_fits(two.row_length),
        limit=settings.limit * settings.stretches_per_document,
        per_document=settings.stretches_per_document,
        max_bytes=settings.max_stretch_bytes,
    )
    spans = draw_spans(stretches, span_bytes=settings.span_bytes, num_spans=settings.limit, seed=settings.seed)
    if len(spans) < 4:
        raise RequestError(
            f"split '{two.split}' gives {len(spans)} different spans of {settings.span_bytes} bytes and at least 4 are compared; "
            "give a smaller --span-bytes, or a run with a larger split"
        )
    used = sorted({span.stretch for span in spans})
    number = {old: new for new, old in enumerate(used)}
    return [stretches[old] for old in used], [
        Span(number[span.stretch], span.first_byte, span.end_byte, span.first_symbol, span.end_symbol) for span in spans
    ]


def _places(stretches: Sequence[Stretch], spans: Sequence[Span]) -> list[tuple[int, int, int]]:
    """(document, first byte in it, bytes) of each span."""
    return [
        (stretches[span.stretch].document, stretches[span.stretch].first_byte + span.first_byte, span.end_byte - span.first_byte)
        for span in spans
    ]


def _vectors(
    two: TwoViews,
    stretches: Sequence[Stretch],
    spans: Sequence[Span],
    settings: AlignSettings,
    samples: Samples,
    model_of: Callable[[], Model],
    kind: str,
) -> list[npt.NDArray[np.float32]]:
    """Mean states of all spans, a memory map [num_spans of the block, 2 views, num_layers, D] a block of stretches; made where missing."""
    blocks = []
    model: Model | None = None  # made where something is left to ask
    with CountProgress(f"{kind} states, {two.opened.run.name}", len(stretches)) as progress:
        for first in range(0, len(stretches), _BLOCK):
            some = range(first, min(first + _BLOCK, len(stretches)))
            mine = [[span for span in spans if span.stretch == index] for index in some]
            path = samples.folder / f"{kind}-{first}.npy"
            kept = samples.done.get(f"{kind}:{first}")
            if kept is None:
                model = model or model_of()
                made = np.stack([_of_side(two, model, stretches, some, mine, side, settings) for side in ("raw", "view")], axis=1)
                with atomic_writer(path) as file:
                    np.save(file, made, allow_pickle=False)
                samples.append(f"{kind}:{first}", {"file": path.name, "sha256": sha256_file(path), "num_spans": len(made)})
            elif not path.is_file() or sha256_file(path) != kept["sha256"]:
                raise WorkError(f"{path} is missing or damaged; delete {samples.folder} and run the same command again")
            blocks.append(np.load(path, mmap_mode="r", allow_pickle=False))
            progress.advance(len(some))
    return blocks


def _of_side(
    two: TwoViews,
    model: Model,
    stretches: Sequence[Stretch],
    some: range,
    mine: Sequence[Sequence[Span]],
    side: str,
    settings: AlignSettings,
) -> npt.NDArray[np.float32]:
    rows, places = [], []
    for index, inside in zip(some, mine, strict=True):
        row = told_alone("raw" if side == "raw" else "view", stretches[index], two.view)
        rows.append(row.ids[: row.first + row.num_payload])
        ends = [(s.first_byte, s.end_byte) if side == "raw" else (s.first_symbol, s.end_symbol) for s in inside]
        places.append([(row.first + a, row.first + b) for a, b in ends])
    return mean_states(model, rows, places, rows_per_pass=settings.rows_per_pass, device=two.opened.device)


def compare_layers(blocks: Sequence[npt.NDArray[np.float32]], stretches: Sequence[Stretch], spans: Sequence[Span]) -> list[dict[str, Any]]:
    """One entry a layer. `blocks` are [num_spans, 2, num_layers, D], raw first, in the order of `spans`."""
    num_layers = blocks[0].shape[2]
    documents = np.array([stretches[span.stretch].document for span in spans])
    projects = [stretches[span.stretch].project for span in spans]
    places = np.array([span.first_byte for span in spans])
    strange_NN = documents[:, None] != documents[None, :]
    near_NN = _nearest(places, strange_NN)
    layers = []
    for layer in range(num_layers):
        x_ND, y_ND = (np.concatenate([block[:, side, layer] for block in blocks]).astype(np.float64) for side in (0, 1))
        name = "embedding" if layer == 0 else "final norm" if layer == num_layers - 1 else f"block {layer}"
        found: dict[str, Any] = {"layer": layer, "name": name, "cka": cka(x_ND, y_ND)}
        for way, change in WAYS.items():
            cosine_NN = cosines(change(x_ND), change(y_ND))
            found[way] = _compare(cosine_NN, cosine_NN.T, strange_NN, near_NN, projects)
        turned = rotated(x_ND, y_ND, projects)
        found["rotated"] = None if turned is None else _compare(*turned, strange_NN, near_NN, projects)
        layers.append(found)
    return layers


def _nearest(places: npt.NDArray[np.int64], strange_NN: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """For each span the `_NEIGHBOURS` spans of other documents whose place is nearest, bool [N, N]."""
    distance = np.abs(places[:, None] - places[None, :]).astype(np.float64)
    distance[~strange_NN] = np.inf
    order = np.argsort(distance, axis=1, kind="stable")[:, :_NEIGHBOURS]
    near_NN = np.zeros_like(strange_NN)
    np.put_along_axis(near_NN, order, True, axis=1)
    return near_NN & strange_NN


def _compare(
    cosine_NN: F64, backward_NN: F64, strange_NN: npt.NDArray[np.bool_], near_NN: npt.NDArray[np.bool_], projects: Sequence[str]
) -> dict[str, Any]:
    """Of one layer in one way: cosines of raw rows with the view's, and the other way round."""
    own = np.diagonal(cosine_NN)
    others, nearby = (_mean_where(cosine_NN, mask) for mask in (strange_NN, near_NN))
    kept = ~np.isnan(others)
    some = [project for project, keep in zip(projects, kept, strict=True) if keep]
    return {
        "similarity": {
            "same_span": float(own.mean()),
            "other_documents": float(others[kept].mean()) if kept.any() else None,
            "other_documents_same_place": float(nearby[kept].mean()) if kept.any() else None,
            "gap": estimate(some, (own - others)[kept]).to_json(),
            "gap_same_place": estimate(some, (own - nearby)[kept]).to_json(),
        },
        "retrieval": {
            "raw_to_view": share(projects, retrieved(cosine_NN)).to_json(),
            "view_to_raw": share(projects, retrieved(backward_NN)).to_json(),
            "mean_reciprocal_rank": {
                "raw_to_view": float(reciprocal_ranks(cosine_NN).mean()),
                "view_to_raw": float(reciprocal_ranks(backward_NN).mean()),
            },
        },
    }


def _mean_where(values_NN: F64, mask_NN: npt.NDArray[np.bool_]) -> F64:
    """Mean of each row where the mask is set; NaN where it is nowhere."""
    count_N = mask_NN.sum(axis=1)
    total_N = np.where(mask_NN, values_NN, 0.0).sum(axis=1)
    return np.where(count_N > 0, total_N / np.maximum(count_N, 1), np.nan)


def _plot(run: Path, two: TwoViews, result: dict[str, Any], folder: Path, plot: Path | None) -> Path:
    """Where it is asked for, else beside the result, which may stand aside."""
    beside = result_path(run, COMMAND, two.set_name)
    beside = folder / ASIDE_NAME if asked_less(beside, result, AMOUNTS) else beside
    path = plot or beside.with_suffix(_PLOT_SUFFIX)
    write_bytes(path, align_plot.picture(result, path.suffix))
    return path
