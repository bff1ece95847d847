"""Making views: train a compressor on one split of a corpus, measure it on another, write the artifact with its proof and its cost.

`proxy-lm compressor train` and the comparisons come through `train_view`; `open_view` turns what a user names, a folder or a kind, into a
compressor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from compressors import registry
from compressors.base import Compressor
from compressors.measure import Measurement, measure
from proxy_lm.config import validate
from proxy_lm.data.corpus import Corpus
from proxy_lm.errors import RequestError
from proxy_lm.progress import PLAIN_INTERVAL_SECONDS, ProgressBar, note

# Not a view of its own: a byte model, then one of the views that are made of one.
NEURAL: Final = "neural"
MAX_HELD_OUT_BYTES: Final = 4_000_000
# The ledger counts in operations and a compressor counts in seconds. One simple operation a nanosecond and core is the assumption; it is
# recorded beside every number made with it.
ASSUMED_OPERATIONS_PER_SECOND: Final = 1e9


def train_view(
    kind: str,
    corpus: Corpus,
    out: Path,
    *,
    split: str = "train",
    held_out: str = "valid",
    options: Mapping[str, Any] | None = None,
    force: bool = False,
    byte_model: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train, measure, save; returns the artifact as JSON. Kind `neural` trains a byte model first.

    `byte_model` is what was measured of a model trained for this view: it is kept, and its cost is part of the view's. Raises
    `RequestError` when `out` holds another view and `force` is not set."""
    if kind == NEURAL:
        from proxy_lm.neural_training import ViewOptions, train_neural  # which comes back here with the view of its byte model

        chosen = validate(ViewOptions, dict(options or {}), source=f"options of view '{NEURAL}'")
        return train_neural(corpus, out, **chosen.model_dump(), split=split, held_out=held_out, force=force)
    cls = registry.get(kind)
    if not force:
        # Not the path of a byte model made beside its view: the folder may have been moved, and the fingerprint says which model it is.
        but = ("model",) if byte_model else ()
        refuse_early(out, cls, options or {}, {"corpus_digest": corpus.digest, "split": split}, but=but)
    trained_on, measured_on = split_range(corpus, split), split_range(corpus, held_out)
    started, cpu_started = time.perf_counter(), time.process_time()
    source = _Documents(corpus, trained_on, f"train {kind}")
    progress: dict[str, Any] = {"report": _reporter(f"train {kind}")} if cls.reports_progress else {}
    compressor = registry.train(kind, source, **(options or {}), **progress)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    _refuse_another(out, registry.fingerprint(compressor), force)
    if cls.needs_training:
        note(f"train {kind}: {compressor.alphabet_size} symbols after {seconds:.1f} s")
    proof = measure(compressor, first_documents(corpus, measured_on, MAX_HELD_OUT_BYTES))
    model_cost = byte_model["training"] if byte_model else {"cpu_seconds": 0.0, "flops": 0.0}
    measured = {
        "training": {
            "corpus_digest": corpus.digest,
            "split": split,
            "options": dict(options or {}),
            "source_bytes": source.num_bytes,
            "num_documents": source.num_documents,
            "seconds": seconds,
            "cpu_seconds": cpu_seconds + model_cost["cpu_seconds"],
            "estimated_flops": cpu_seconds * ASSUMED_OPERATIONS_PER_SECOND + model_cost["flops"],
            "assumed_operations_per_second": ASSUMED_OPERATIONS_PER_SECOND,
        },
        "held_out": {"split": held_out, **proof.report()},
        **({"byte_model": dict(byte_model)} if byte_model else {}),
    }
    registry.save(compressor, out, measured)
    return {"folder": str(out), **registry.read_artifact(out)}


def open_view(name: str) -> Compressor:
    """A compressor by artifact folder, or by the name of a kind that needs no training. Raises `RequestError` for anything else."""
    folder = Path(name)
    if name not in registry.names() and (folder.is_dir() or "/" in name):
        return registry.load(folder)
    if name not in registry.names():
        raise RequestError(f"'{name}' is neither a folder nor a view; the views are: {', '.join(registry.names())}")
    if registry.get(name).needs_training:
        raise RequestError(f"view '{name}' needs training first: proxy-lm compressor train {name} --corpus DIR --out views/{name}")
    return registry.train(name, ())


def split_range(corpus: Corpus, split: str) -> range:
    """Document indexes of a split. Raises `RequestError` for an unknown or empty one."""
    found = corpus.splits.get(split)
    if found is None:
        raise RequestError(f"corpus {corpus.path} has no split '{split}'; it has: {', '.join(corpus.splits)}")
    if not len(found):
        raise RequestError(f"split '{split}' of corpus {corpus.path} is empty; choose another split or prepare more documents")
    return found


def first_documents(corpus: Corpus, documents: Sequence[int], max_bytes: int) -> list[bytes]:
    """Whole documents from the first on, at least one, until the next would pass `max_bytes`. A prefix of a split is a fair sample."""
    chosen: list[bytes] = []
    num_bytes = 0
    for index in documents:
        num_bytes += int(corpus.sizes[index])
        if chosen and num_bytes > max_bytes:
            break
        chosen.append(corpus.document(index))
    return chosen


def measure_view(
    compressor: Compressor, documents: Sequence[bytes], *, rate: float, seed: int, num_stability_documents: int
) -> dict[str, Any]:
    """Measurement and, over the first documents, the mean distance under deletion, as one JSON object."""
    from compressors.stability import distance_under_deletion

    found: Measurement = measure(compressor, documents)
    distances = [distance_under_deletion(compressor, document, rate=rate, seed=seed) for document in documents[:num_stability_documents]]
    known = [distance for distance in distances if distance is not None]
    return {**found.report(), "distance_under_deletion": sum(known) / len(known) if known else None}


def refuse_early(
    out: Path, cls: type[Compressor], options: Mapping[str, Any], source: Mapping[str, str], *, but: Sequence[str] = ()
) -> None:
    """What is certain to end in another view is refused before minutes are spent on learning it. Options named in `but` may differ."""
    if not (out / registry.ARTIFACT_NAME).exists():
        return
    try:
        artifact = registry.read_artifact(out)
    except RequestError as error:  # it ends in "train the view anew", which is what the user is doing
        raise RequestError(f"{error} with --force, or into another folder") from error
    differences = [] if artifact["kind"] == cls.name else [f"the view '{artifact['kind']}' where this is '{cls.name}'"]
    training = (artifact.get("measured") or {}).get("training")
    if training and cls.needs_training and not differences:
        defaults = {name: option.default for name, option in cls.options.items()}
        old = {**{name: training.get(name) for name in source}, **defaults, **training.get("options", {})}
        new = {**source, **defaults, **options}
        differences = [
            f"a view of {name} {old.get(name)} where this is of {new[name]}"
            for name in new
            if name not in but and old.get(name) != new[name]
        ]
    if differences:
        raise RequestError(f"{out} holds {'; '.join(differences)}; choose another folder or say --force")


def _refuse_another(out: Path, fingerprint: str, force: bool) -> None:
    path = out / registry.ARTIFACT_NAME
    if force or not path.exists():
        return
    old = registry.read_artifact(out)["fingerprint"]
    if old != fingerprint:
        raise RequestError(
            f"{out} holds a view with fingerprint {old} and this one has {fingerprint}; choose another folder or say --force"
        )


def _reporter(title: str) -> Callable[[int, int], None]:
    """A line every few seconds, for a view that learns for minutes after the reading."""
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= PLAIN_INTERVAL_SECONDS:
            last = time.monotonic()
            note(f"{title}: learning, {100 * done / max(1, total):.0f} % done")

    return report


class _Documents:
    """The documents of a split, counted as a trainer takes them."""

    def __init__(self, corpus: Corpus, documents: range, title: str) -> None:
        self._corpus = corpus
        self._documents = documents
        self._title = title
        self.num_bytes = 0
        self.num_documents = 0

    def __iter__(self) -> Iterator[bytes]:
        total = int(self._corpus.sizes[self._documents.start : self._documents.stop].sum())
        try:
            with ProgressBar(f"{self._title}: reading", total) as bar:
                for index in self._documents:
                    document = self._corpus.document(index)
                    self.num_bytes += len(document)
                    self.num_documents += 1
                    yield document
                    bar.advance(len(document))
        finally:  # also when the view has read enough and stops
            note(f"{self._title}: learning from {self.num_documents} documents, {self.num_bytes / 1e6:.1f} MB")
