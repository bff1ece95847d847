"""Next-line and identifier completion on held-out documents, and the boundary sweep: the same lines cut at every byte offset.

    proxy-lm-eval lines runs/nano --limit 200
    proxy-lm-eval lines runs/nano --files 'src/**/*.py'

Greedy completions give exact match, edit similarity (rapidfuzz), the first byte, and how many bytes are right before the first error. The
same places are also told by teacher forcing, as bits per byte of what really follows: that speaks at any scale. A run that reads symbols
is asked twice, with its prompts as they are ('plain') and healed. `line_items.py` says what is asked, `continuations.py` what is charged.

Samples are kept one by one, so a killed evaluation continues; `RUN/eval/lines-<set>.json` is written last.

Not promised: that completions say anything about programs that run; that files given by name were not in somebody's training data beyond
those whose very bytes are documents of the run's train split, which are left out.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field

import compressors.registry as registry
from compressors.base import Compressor
from eval import line_scores
from eval.continuations import Continuations
from eval.envelope import Dataset, envelope, write_result
from eval.line_items import MIN_PROMPT_BYTES, NEWLINE, Documents, Item, choose, of_corpus, of_files
from eval.opened import Opened, open_run
from eval.samples import Samples, work_folder
from proxy_lm.config import Settings
from proxy_lm.data.corpus import Corpus
from proxy_lm.errors import RequestError
from proxy_lm.progress import ProgressBar, note

if TYPE_CHECKING:
    from proxy_lm.infer.generator import Prompt

SCHEMA: Final = "proxy-lm lines 1"
AMOUNTS: Final = ("settings.num_lines", "settings.num_identifiers", "settings.num_sweep_lines")
PLAIN: Final = "plain"
HEALED: Final = "healed"
_LONGEST_LINE = 128
_ITEMS_PER_CHUNK = 128  # what a kill can cost
_OPENING_BYTES = 2  # BOS and the start sentinel, counted as in `eval.windows`


class LinesSettings(Settings):
    """What is asked; the same for every arm of a comparison."""

    split: str = "test"
    """Split of the run's corpus: train, valid or test. Files given by name take its place."""

    num_lines: int = Field(default=400, ge=0)
    """Lines to complete from their start."""

    num_identifiers: int = Field(default=400, ge=0)
    """Identifiers to complete from inside."""

    num_sweep_lines: int = Field(default=30, ge=0)
    """Lines to cut at every byte offset."""

    context_bytes: int | None = Field(default=None, ge=MIN_PROMPT_BYTES)
    """Nothing is predicted from more bytes than this, the two ids that open a document counted as two; None: 1024, or the row length of the
    run if that is less."""

    max_bytes: int | None = Field(default=None, ge=4)
    """Longest line asked, and longest completion; None: 128, or a quarter of the context if that is less."""

    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Which places are drawn."""

    view: str | None = None
    """Reading: 'raw' or a view of the run. None: raw if the run was told any raw bytes, else its only view."""

    device: str = "auto"
    """'cpu', 'cuda', or 'auto'."""

    num_rows: int = Field(default=16, ge=1)
    """Completions generated at a time; changes speed and memory, not the bytes."""

    def limited(self, limit: int) -> LinesSettings:
        """At most so many items of each kind; a line of the sweep counts as ten."""
        if limit < 1:
            raise RequestError(f"a limit of {limit} items measures nothing; give at least 1")
        return self.model_copy(
            update={
                "num_lines": min(self.num_lines, limit),
                "num_identifiers": min(self.num_identifiers, limit),
                "num_sweep_lines": min(self.num_sweep_lines, -(-limit // 10)),
            }
        )


def evaluate(
    run: Path, settings: LinesSettings, *, corpus: Path | None = None, files: Sequence[str] = (), borders: Path | None = None
) -> dict[str, Any]:
    """Measure a run, continuing what an earlier call left; the result is also RUN/eval/lines-<set>.json.

    `corpus` stands in for the folder the run names, when that has moved; `files` take the place of its split. `borders` is the folder of a
    view by whose symbols the offsets of the sweep are told apart; None: the view that is read, else the run's first with spans. Raises
    `RequestError` for what is not a run, has no such lines, or reads a view that cannot be continued.
    """
    if not settings.num_lines + settings.num_identifiers + settings.num_sweep_lines:
        raise RequestError("0 lines, 0 identifiers and 0 lines of the sweep ask nothing; give at least one of them 1 or more")
    opened = open_run(run, view=settings.view, device=settings.device, context_bytes=settings.context_bytes, num_rows=settings.num_rows)
    settings = _resolved(opened, settings)
    documents, num_left_out = _documents(opened, settings, corpus, files)
    items = _items(documents, settings)
    reference = _reference(opened, borders)
    set_name = "files" if files else settings.split
    dataset = Dataset(name=documents.name, digest=documents.digest, num_items=len(items))
    job = _job(opened, settings, documents)
    folder = work_folder(run, "lines", set_name, job)
    with Samples.open(folder, job) as samples:
        for prompts in ways(opened):
            _fill(opened.healed(prompts == HEALED), prompts, items, samples, settings.max_bytes or _LONGEST_LINE)
        records = samples.done
    found = line_scores.summarise(items, records, ways(opened), None if reference is None else reference[1])
    left_out = {"num_files_in_training": num_left_out} if files else {}
    found = {**found, **left_out, "borders": None if reference is None else reference[0], "healing": _why(opened)}
    keys = {f"{prompts}/{item.key}" for prompts in ways(opened) for item in items}
    seconds = sum(record["seconds"] for key, record in records.items() if key in keys)
    result = envelope(SCHEMA, "lines", opened.identity, dataset, settings, seconds, found, libraries=["rapidfuzz"])
    return result | {"written": write_result(run, "lines", set_name, result, folder, AMOUNTS)}


def ways(opened: Opened) -> list[str]:
    """How prompts are told: as they are, and healed where there is a border to heal."""
    return [PLAIN, HEALED] if opened.can_heal else [PLAIN]


def _resolved(opened: Opened, settings: LinesSettings) -> LinesSettings:
    """With the numbers that are computed where they are not given. Raises `RequestError` where a prompt would have no room."""
    context = opened.context_bytes
    longest = settings.max_bytes or max(4, min(_LONGEST_LINE, context // 4))
    if opened.view == "raw" and context > opened.row_length:
        raise RequestError(
            f"a context of {context} bytes is longer than the rows of {opened.row_length} ids this model was trained on; "
            f"use --context-bytes {opened.row_length} or less, the same for every arm"
        )
    if _prompt_bytes(context, longest) < MIN_PROMPT_BYTES:
        raise RequestError(
            f"a context of {context} bytes has no room for lines of {longest} bytes and a prompt of {MIN_PROMPT_BYTES}; "
            "give a smaller --max-bytes, or train with longer rows"
        )
    return settings.model_copy(update={"context_bytes": context, "max_bytes": longest, "view": opened.view})


def _prompt_bytes(context_bytes: int, max_bytes: int) -> int:
    return context_bytes - _OPENING_BYTES - max_bytes - len(NEWLINE)


def _documents(opened: Opened, settings: LinesSettings, corpus: Path | None, files: Sequence[str]) -> tuple[Documents, int]:
    """What is asked, and the number of files left out because the run was trained on them."""
    if not files:
        return of_corpus(opened.corpus(corpus), settings.split), 0
    held_out_from: Corpus | None = None
    try:
        held_out_from = opened.corpus(corpus, verify=False)
    except RequestError as error:
        note(f"lines: files are not compared with the training documents: {error}")
    return of_files(files, held_out_from)


def _items(documents: Documents, settings: LinesSettings) -> list[Item]:
    assert settings.context_bytes is not None
    assert settings.max_bytes is not None
    return choose(
        documents,
        num_lines=settings.num_lines,
        num_identifiers=settings.num_identifiers,
        num_sweep_lines=settings.num_sweep_lines,
        prompt_bytes=_prompt_bytes(settings.context_bytes, settings.max_bytes),
        max_bytes=settings.max_bytes,
        seed=settings.seed,
    )


def _job(opened: Opened, settings: LinesSettings, documents: Documents) -> dict[str, Any]:
    """What a sample depends on. How many are asked is not in it: more of them continue the same samples."""
    identity = {key: value for key, value in opened.identity.items() if key not in ("name", "healing")}
    asked = settings.model_dump(mode="json", include={"seed", "max_bytes", "context_bytes"})
    assert settings.max_bytes is not None
    # Completions of another greatest length are other samples.
    asked["longest_completion"] = settings.max_bytes + 1
    return {"schema": SCHEMA, "run": identity, "documents": documents.digest, "settings": asked}


def _reference(opened: Opened, folder: Path | None) -> tuple[dict[str, Any], Compressor] | None:
    """The view by whose borders offsets are told apart. Raises `RequestError` for a folder whose view has none."""
    if folder is not None:
        compressor = registry.load(folder)
        if compressor.spans(b"") is None:
            raise RequestError(f"the symbols of the view in {folder} stand for no stretch of bytes; give the folder of a view with borders")
        return {"view": folder.name, "compressor": registry.fingerprint(compressor)}, compressor
    if opened.reading.compressor is not None:
        return {"view": opened.view, "compressor": opened.identity["compressor"]}, opened.reading.compressor
    for name, path in opened.loaded.views.items():
        if (path / registry.ARTIFACT_NAME).exists():
            compressor = registry.load(path)
            if compressor.spans(b"") is not None:
                return {"view": name, "compressor": registry.fingerprint(compressor)}, compressor
    return None


def _why(opened: Opened) -> str:
    if opened.can_heal:
        return "both ways"
    if opened.view == "raw":
        return "raw bytes: a prompt has no border to heal"
    return f"view '{opened.view}' spells its symbols differently in different places, so prompts are asked as they are"


def _fill(opened: Opened, prompts: str, items: Sequence[Item], samples: Samples, max_bytes: int) -> None:
    """Make the samples that are missing, in the order of the items."""
    todo = [item for item in items if f"{prompts}/{item.key}" not in samples.done]
    continuations = Continuations(opened)
    with ProgressBar(f"lines, prompts {prompts}", sum(len(item.target) for item in todo)) as bar:
        for chunk in _chunks(todo):
            started = time.monotonic()
            records = list(_asked(opened, continuations, chunk, max_bytes))
            seconds = (time.monotonic() - started) / len(chunk)
            for item, record in zip(chunk, records, strict=True):
                samples.append(f"{prompts}/{item.key}", {**record, "seconds": seconds})
            bar.advance(sum(len(item.target) for item in chunk))


def _chunks(items: Sequence[Item]) -> Iterator[list[Item]]:
    source = iter(items)
    while chunk := list(itertools.islice(source, _ITEMS_PER_CHUNK)):
        yield chunk


def prompt_of(item: Item, max_bytes: int) -> Prompt:
    """What the generator is asked. There is room for one byte more than the truth, which tells right from wrong: of a line it is the
    newline. A whole line is generated, since its similarity is measured too."""
    from proxy_lm.infer.generator import Prompt

    longest = max_bytes if item.task == "line" else len(item.target)
    return Prompt(data=item.prompt, stop=() if item.task == "identifier" else (NEWLINE,), max_bytes=longest + 1)


def _asked(opened: Opened, continuations: Continuations, items: Sequence[Item], max_bytes: int) -> Iterator[dict[str, Any]]:
    """What the run completes and what the truth costs it."""
    from proxy_lm.infer.generator import Sampling

    asked = [prompt_of(item, max_bytes) for item in items]
    nats = continuations.nats([(item.prompt, item.told) for item in items])
    for cost, done in zip(nats, opened.generator.generate(asked, Sampling()), strict=True):
        # Bytes that are no text are kept as lone surrogates, so that the file can be read by people and nothing is lost.
        yield {
            "completion": done.data.decode(errors="surrogateescape"),
            "reason": done.reason,
            "nats": cost,
            "told_raw": done.told_raw,
        }
