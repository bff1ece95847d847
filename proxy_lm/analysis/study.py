"""Analyses of views over a sample of a corpus: what is run, what is kept, what is written.

    proxy-lm compressor analyse gzip views/spm views/table --corpus corpus --out analyses

    analyses/ results.json report.md report.html parts/<digest>.json

Every finished analysis of a view is a part, named by the digest of all it depends on (corpus, sample, view's fingerprint, analysis, seed,
version), so a killed study continues and another view adds its own parts only. The three results are written at the end, each whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compressors import registry
from compressors.base import Compressor
from compressors.files import digest_of, read_json, write_json
from compressors.neural.models import ByteModel, load_model
from proxy_lm.analysis.collisions import collisions
from proxy_lm.analysis.density import density
from proxy_lm.analysis.edits import resynchronisation, stability
from proxy_lm.analysis.reset_loss import NUM_POSITIONS, NUM_STRETCHES, reset_loss
from proxy_lm.analysis.told import JSON, Sample, Told
from proxy_lm.analysis.transparency import transparency
from proxy_lm.analysis.uniformity import uniformity
from proxy_lm.data.corpus import Corpus
from proxy_lm.errors import RequestError
from proxy_lm.progress import ProgressBar, note
from proxy_lm.view_training import open_view

SCHEMA: Final = "proxy-lm view analyses 1"
# A change of what an analysis computes is a new version: parts of the old one are not taken.
VERSION: Final = 1
ANALYSES: Final[Mapping[str, Callable[[Told, int], JSON]]] = {
    "density": lambda told, seed: density(told),
    "stability": lambda told, seed: stability(told, seed=seed),
    "resynchronisation": lambda told, seed: resynchronisation(told, seed=seed),
    "uniformity": lambda told, seed: uniformity(told),
    "transparency": lambda told, seed: transparency(told),
    "collisions": lambda told, seed: collisions(told),
}


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a study looks at."""

    corpus: Corpus
    split: str
    max_bytes: int
    views: Sequence[str]
    """Artifact folders, or kinds that need no training."""
    models: Sequence[Path] = ()
    """Byte-model folders, for the loss by position after a reset."""
    only: Sequence[str] = tuple(ANALYSES)
    seed: int = 0


def analyse(study: Study, out: Path) -> JSON:
    """Run what is not there yet; returns what `results.json` holds. Raises `RequestError` for unknown names and views."""
    from proxy_lm.analysis import view_report

    if study.max_bytes < 1:
        raise RequestError(f"a sample of {study.max_bytes} bytes shows nothing; give --max-bytes 1 or more")
    unknown = sorted(set(study.only) - set(ANALYSES))
    if unknown:
        raise RequestError(f"unknown analysis '{unknown[0]}'; known: {', '.join(ANALYSES)}")
    labels = unique_labels([*study.views, *(str(model) for model in study.models)])
    views = {label: open_view(name) for label, name in zip(labels, study.views, strict=False)}
    models = {label: load_model(path) for label, path in zip(labels[len(views) :], study.models, strict=True)}
    sample = Sample.of_corpus(study.corpus, study.split, study.max_bytes)
    key = {"version": VERSION, "corpus": study.corpus.digest, "split": study.split, "documents": len(sample.documents), "seed": study.seed}
    results: JSON = {
        "schema": SCHEMA,
        "corpus_digest": study.corpus.digest,
        "split": study.split,
        "num_documents": len(sample.documents),
        "num_bytes": sample.num_bytes,
        "languages": {language: sample.languages.count(language) for language in sorted(set(sample.languages))},
        "seed": study.seed,
        "views": {},
        "models": {},
    }
    for label, compressor in views.items():
        results["views"][label] = _view(label, compressor, sample, study, key, out / "parts")
    for label, model in models.items():
        results["models"][label] = _model(label, model, sample, study, key, out / "parts")
    write_json(out / "results.json", results)
    view_report.write(results, out)
    return results


def unique_labels(names: Sequence[str]) -> list[str]:
    """Folder names, or the whole of what was given where two folders share a name. Raises `RequestError` for one given twice."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RequestError(f"'{twice}' is named twice; name each view once")
    short = [Path(name).name or name for name in names]
    return [name if short.count(label) > 1 else label for name, label in zip(names, short, strict=True)]


def part(folder: Path, key: Mapping[str, Any], make: Callable[[], JSON]) -> JSON:
    """What `make` gave for this key, now or in an earlier call."""
    path = folder / f"{digest_of(key)[:32]}.json"
    if path.exists():
        kept = read_json(path, "part of an analysis")
        if kept.get("key") == key and isinstance(kept.get("found"), dict):
            return dict(kept["found"])
    found = make()
    write_json(path, {"key": dict(key), "found": found})
    return found


def _view(label: str, compressor: Compressor, sample: Sample, study: Study, key: Mapping[str, Any], parts: Path) -> JSON:
    fingerprint = registry.fingerprint(compressor)
    found: JSON = {}
    with ProgressBar(f"analyse {label}", None) as bar:
        told = Told(compressor, sample, bar.advance)
        for name in study.only:
            whole = {**key, "view": fingerprint, "analysis": name}

            def make(name: str = name) -> JSON:
                note(f"analyse {label}: {name}")
                return ANALYSES[name](told, study.seed)

            found[name] = part(parts, whole, make)
    return {
        "kind": compressor.name,
        "alphabet_size": compressor.alphabet_size,
        "exact": compressor.exact,
        "fingerprint": fingerprint,
        "analyses": found,
    }


def _model(label: str, model: ByteModel, sample: Sample, study: Study, key: Mapping[str, Any], parts: Path) -> JSON:
    fingerprint = digest_of(model.spec())
    whole = {**key, "model": fingerprint, "analysis": "reset-loss"}

    def make() -> JSON:
        with ProgressBar(f"loss after a reset: {label}", NUM_STRETCHES * NUM_POSITIONS) as bar:
            return reset_loss(model, sample, seed=study.seed, advance=bar.advance)

    return {"kind": model.kind, "integer": model.integer, "fingerprint": fingerprint, "reset_loss": part(parts, whole, make)}
