"""Sources in, a corpus out: the work behind `proxy-lm prepare SRC... --out DIR`.

Three passes: *read* fills a spool with documents that pass the filters one by one, in blocks, by worker processes; *compare* drops copies
and benchmark problems; *write* deals whole projects to splits, cuts what is to be cut and writes the corpus. All of it happens in
`DIR.partial`; the finished folder is renamed to DIR at the end. A run killed at any moment leaves no DIR, or a whole one, and the same
command goes on from the blocks that stand. The disk must hold the spool beside the corpus: about twice the bytes read.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator, model_validator

from compressors.files import digest_of, disk_error, read_json, sync_folder, write_json
from proxy_lm.config import Settings
from proxy_lm.data.corpus import MANIFEST, SPLITS, Corpus, CorpusWriter, Document
from proxy_lm.data.decontaminate import MIN_RUNS, MIN_SHARE, RUN_WORDS
from proxy_lm.data.dedup import NUM_VALUES, SHINGLE_WORDS, bands, check_library
from proxy_lm.data.engines import Engine, LocalEngine, busy_file, idle
from proxy_lm.data.folders import read_patterns
from proxy_lm.data.installed import INSTALLED, installed_packages
from proxy_lm.data.languages import check_languages
from proxy_lm.data.memory import Memory
from proxy_lm.data.records import Fields
from proxy_lm.data.select import Indexes, Selection, load_problems_once, select
from proxy_lm.data.sources import Source, Unit, open_sources, source_origin
from proxy_lm.data.split import split_projects
from proxy_lm.data.spool import Filters, Spool, spool_unit
from proxy_lm.data.whole_lines import MIN_CUT_BYTES, stretches
from proxy_lm.errors import ProxyError, RequestError
from proxy_lm.progress import ProgressBar, note

STATE_SCHEMA = "proxy-lm prepare 2"
STATE = "state.json"

Share = Annotated[float, Field(ge=0, lt=1)]


class PrepareSettings(Settings):
    """Everything beside the sources that decides what the corpus holds; recorded in its manifest and covered by its digest."""

    seed: int = 0
    """Of the order of documents and of the split."""
    min_bytes: int = Field(default=1, ge=0)
    """Smaller documents are dropped; 0 keeps the empty document."""
    max_bytes_per_document: int = Field(default=1 << 20, ge=1)
    """Larger documents are dropped, not cut (see cut_bytes)."""
    max_bytes: int | None = Field(default=None, ge=1)
    """Size of the whole corpus: a fair sample of what is left after all other drops."""
    cut_bytes: int | None = None
    """Longer documents are cut, after all drops and the split, into documents of as many whole lines as fit into so many bytes (16 or
    more); a longer line is cut after so many bytes; None: documents stay whole."""
    languages: tuple[str, ...] = ()
    """Only these, by suffix; empty: all."""
    include: tuple[str, ...] = ()
    """Only paths that match one of these patterns (as in .gitignore); empty: all."""
    exclude: tuple[str, ...] = ()
    """Not the paths that match one of these patterns."""
    text_field: str | None = None
    """Field or column with the text; None: the first of content, text, code."""
    bytes_field: str | None = None
    """Field with base64, or column with bytes, instead of text."""
    project_field: str | None = None
    """Field or column with the project; None: the first of repo_name, repository, project that is there."""
    binary: Literal["drop", "keep"] = "drop"
    """What to do with documents that have a NUL byte in their first 8 KiB."""
    near_duplicates: float | None = Field(default=0.8, ge=0.5, le=1)
    """Jaccard similarity of 5-word shingles from which on a document is a copy; None: exact copies only."""
    valid_share: Share = 0.01
    """Of the bytes, for validation."""
    test_share: Share = 0.01
    """Of the bytes, for test."""
    max_bad_share: float = Field(default=0.01, ge=0, le=1)
    """Share of damaged records in one input file above which the run stops."""
    hub_split: str = "train"
    """Which split of hf: data sets is read."""

    @field_validator("cut_bytes", mode="wrap")
    @classmethod
    def _long_enough(cls, value: Any, read: ValidatorFunctionWrapHandler) -> int | None:
        try:
            number: int | None = read(value)
        except ValidationError:
            number = 0
        if number is not None and number < MIN_CUT_BYTES:
            raise ValueError(f"give a whole number of bytes, at least {MIN_CUT_BYTES}, or leave it out and documents stay whole")
        return number

    @field_validator("languages")
    @classmethod
    def _known_languages(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return check_languages(names)

    @field_validator("include", "exclude")
    @classmethod
    def _good_patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        read_patterns(list(patterns), "--include or --exclude")
        return patterns

    @model_validator(mode="after")
    def _fit_together(self) -> PrepareSettings:
        if self.text_field and self.bytes_field:
            raise ValueError("text_field and bytes_field exclude each other")
        if self.valid_share + self.test_share >= 1:
            raise ValueError(f"valid_share + test_share = {self.valid_share + self.test_share:g} leaves nothing to train on")
        if self.min_bytes > self.max_bytes_per_document:
            raise ValueError(f"min_bytes {self.min_bytes} is over max_bytes_per_document {self.max_bytes_per_document}")
        return self

    def recorded(self) -> dict[str, Any]:
        """As the manifest has it. `cut_bytes` only where documents are cut: corpora made before it was known keep their digests."""
        return self.model_dump(mode="json", exclude={"cut_bytes"} if self.cut_bytes is None else None)


def prepare(
    specs: Sequence[str],
    out: Path,
    settings: PrepareSettings,
    *,
    against: Sequence[Path] = (),
    num_workers: int = 1,
    engine: Engine | None = None,
    max_memory: int | None = None,
    force: bool = False,
) -> tuple[dict[str, Any], bool]:
    """Make the corpus `out`, or find it made: its manifest, and whether there was work to do. Raises `RequestError` and `WorkError`.

    `engine` does the work (default: `num_workers` processes here); it changes nothing in the corpus. `max_memory`
    caps what each process holds beside the program, in bytes (see `proxy_lm.data.memory`).
    """
    engine = engine or LocalEngine(num_workers)
    memory = Memory.of(max_memory, settings.max_bytes_per_document)
    out = out.absolute()  # workers on other machines stand elsewhere
    if settings.near_duplicates is not None:
        check_library()
    against = [path.absolute() for path in against]
    problems = load_problems_once(tuple(map(str, against)))
    request = {
        "settings": settings.recorded(),
        "against": [[path.name, digest] for path, digest in zip(against, problems.digests, strict=True)],
        "sources": [source_origin(spec) for spec in specs],
    }
    staging = out.with_name(f"{out.name}.partial")
    if not force and (manifest := _finished(out, request)):
        if staging.is_dir():
            with _locked(staging):
                shutil.rmtree(staging)
        return manifest, False
    _check_replaceable(out)
    sources = open_sources(specs, hub_split=settings.hub_split)
    with _locked(staging):
        with idle(staging / STATE):
            _start_or_continue(
                staging,
                {
                    **request,
                    "schema": STATE_SCHEMA,
                    "blocks": [memory.block_bytes, memory.block_documents],
                    "inventory": digest_of([source.inventory for source in sources]),
                },
            )
        units = [unit for source in sources for unit in source.units]
        _read(staging, units, settings, memory, engine)
        spool = Spool(staging / "spool", units, staging / STATE)
        try:
            memory.check(spool.num_documents)
            chosen = select(
                spool,
                seed=settings.seed,
                near=settings.near_duplicates,
                against=against,
                max_bytes=settings.max_bytes,
                engine=engine,
                cache_bytes=memory.cache_bytes,
            )
            manifest = _write(staging / "corpus", spool, chosen, settings, sources, request)
        finally:
            spool.close()
        _publish(staging, out)
    return manifest, True


def _finished(out: Path, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of `out` if it was made by this very request; None if there is no `out`."""
    if not (out / MANIFEST).exists():
        return None
    manifest = Corpus.open(out, verify=False).manifest
    made_by = manifest.get("request", {})
    if made_by == request:
        return manifest
    old, new = ({**side.get("settings", {}), **{name: side.get(name) for name in ("sources", "against")}} for side in (made_by, request))
    different = [f"{name} {old.get(name)!r} (now {new.get(name)!r})" for name in {**new, **old} if old.get(name) != new.get(name)]
    raise RequestError(
        f"{out} is a corpus made with other settings: {'; '.join(different)}. Name another --out, or replace it with --force"
    )


def _check_replaceable(out: Path) -> None:
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST).exists())):
        raise RequestError(f"{out} exists and is no corpus; name another --out, or move it away")


@contextmanager
def _locked(staging: Path) -> Iterator[None]:
    """Hold the staging folder; a second `prepare` into the same place is refused."""
    try:
        staging.mkdir(parents=True, exist_ok=True)
        file = (staging / "lock").open("w")
    except OSError as error:
        raise disk_error(error, staging) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RequestError(f"another prepare is at work in {staging}; wait for it, or name another --out") from error
        yield


def _start_or_continue(staging: Path, state: Mapping[str, Any]) -> None:
    """Keep what an interrupted run of the same request on the same input left, and nothing else."""
    file = staging / STATE
    if file.exists():
        try:
            same = read_json(file, "state of an interrupted run") == state
        except ProxyError:
            same = False
        if same:
            note(f"continuing the interrupted run in {staging}")
            shutil.rmtree(staging / "corpus", ignore_errors=True)
            return
        note(f"{staging} is of other settings or other input; starting anew")
    for entry in staging.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name not in ("lock", busy_file(file).name):
            entry.unlink()
    write_json(file, state)


def _read(staging: Path, units: Sequence[Unit], settings: PrepareSettings, memory: Memory, engine: Engine) -> None:
    filters = Filters(
        min_bytes=settings.min_bytes,
        max_document_bytes=settings.max_bytes_per_document,
        keep_binary=settings.binary == "keep",
        languages=settings.languages,
        include=settings.include,
        exclude=settings.exclude,
        max_bad_share=settings.max_bad_share,
        fields=Fields(settings.text_field, settings.bytes_field, settings.project_field),
        hub_split=settings.hub_split,
        memory=memory,
    )
    spool = staging / "spool"
    spool.mkdir(exist_ok=True)
    total = sum(unit.size_bytes for unit in units)
    known = not any(unit.kind == "hub" for unit in units)
    tasks = [(spool, number, unit, filters) for number, unit in enumerate(units)]
    with ProgressBar("read", total or None) as bar:
        for num_bytes in engine.run(spool_unit, tasks, seal=staging / STATE, num_bytes=total if known else None):
            bar.advance(num_bytes)


def _write(
    folder: Path, spool: Spool, chosen: Selection, settings: PrepareSettings, sources: Sequence[Source], request: Mapping[str, Any]
) -> dict[str, Any]:
    drops, examples = spool.total_drops()
    drops.update(chosen.drops)
    for source in sources:
        for reason, count in source.skipped.items():
            drops.setdefault(reason, [0, 0])[0] += count
    if not len(chosen.kept):
        why = ", ".join(f"{count} {reason}" for reason, (count, _) in sorted(drops.items())) or "the sources are empty"
        raise RequestError(f"no document is left ({why}); loosen the filters or name other sources")
    split, split_by = _deal(spool, chosen.kept, settings)
    folder.mkdir()
    with ProgressBar("write", int(spool.sizes[chosen.kept].sum())) as bar, CorpusWriter(folder) as writer:
        for number, name in enumerate(SPLITS):
            indexes = chosen.kept[split == number]
            for index in map(int, indexes):
                data, facts, identity = spool.read(index), spool.facts(index), spool.ids[index].tobytes().hex()
                document = Document(identity, facts.source, facts.project or identity, facts.path, facts.language)
                for stretch in [data] if settings.cut_bytes is None else stretches(data, settings.cut_bytes):
                    writer.add(document, stretch, name)
                bar.advance(len(data))
        return writer.finish(
            {
                "prepare": request["settings"],
                "against": request["against"],
                "sources": [source.label for source in sources],
                **_method(settings),
            },
            {
                "drops": {reason: {"documents": count, "bytes": size} for reason, (count, size) in sorted(drops.items())},
                "num_records": sum(report.num_records for report in spool.reports) + sum(sum(s.skipped.values()) for s in sources),
                "num_read_bytes": sum(report.num_read_bytes for report in spool.reports),
                "split_by": split_by,
                "damaged_examples": examples,
                "matched_problems": chosen.matched,
                "request": dict(request),
                **({} if settings.cut_bytes is None else {"num_whole_documents": len(chosen.kept)}),
                **({"installed": installed_packages()} if any(source.spec == INSTALLED for source in sources) else {}),
            },
        )


def _method(settings: PrepareSettings) -> dict[str, Any]:
    """The constants behind the choices, so that a later release with others gives another digest."""
    method: dict[str, Any] = {"against_runs": [RUN_WORDS, MIN_RUNS, MIN_SHARE]}
    if settings.near_duplicates is not None:
        method["near_duplicate_bands"] = [SHINGLE_WORDS, NUM_VALUES, *bands(settings.near_duplicates)]
    return method


def _deal(spool: Spool, kept: Indexes, settings: PrepareSettings) -> tuple[npt.NDArray[np.int8], str]:
    """The split of each document, and whether projects or documents were dealt."""
    of_none = spool.project_codes[kept] < 0  # a document without a project is one of its own
    used, codes = np.unique(spool.project_codes[kept], return_inverse=True)
    used, codes = used[used >= 0], codes - int(of_none.any())
    codes[of_none] = len(used) + np.arange(of_none.sum())
    num_projects = len(used) + int(of_none.sum())
    names: Iterator[str] = chain((spool.projects[code] for code in used), (spool.ids[index].tobytes().hex() for index in kept[of_none]))
    wanted = 1 + (settings.valid_share > 0) + (settings.test_share > 0)
    split_by = "project"
    if num_projects < wanted:
        note(f"{num_projects} project(s) cannot fill {wanted} splits: dealing single documents, so a project's documents may part")
        split_by, num_projects, codes = "document", len(kept), np.arange(len(kept))
        names = (spool.ids[index].tobytes().hex() for index in kept)
    if num_projects < wanted:
        note(f"{num_projects} document(s) cannot fill {wanted} splits: some are empty")
    project_sizes = np.bincount(codes, weights=spool.sizes[kept], minlength=num_projects).astype(np.int64)
    split = split_projects(names, project_sizes, settings.seed, settings.valid_share, settings.test_share)
    return split[codes], split_by


def _publish(staging: Path, out: Path) -> None:
    """Put the finished corpus in its place; what was there goes only after the new one is whole on the disk."""
    try:
        if out.exists():
            shutil.rmtree(staging / "replaced", ignore_errors=True)
            os.rename(out, staging / "replaced")
        os.rename(staging / "corpus", out)
        sync_folder(out.parent)
        shutil.rmtree(staging)
    except OSError as error:
        raise disk_error(error, out) from error
