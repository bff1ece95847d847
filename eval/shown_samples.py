"""Samples to be read, not counted: what a run writes after prompts of held-out documents, beside what really follows there.

    proxy-lm-eval samples runs/nano
    evaluations: {samples: {limit: 3, prompt_bytes: 192}}      # in a comparison's plan: every arm is asked the same

A prompt is whole lines from inside a document, told as the begin of a document; it ends with a newline. Documents and places are drawn by
(seed, document) alone, projects in turn, so that no arm changes the choice and more samples begin with fewer. Completions are greedy unless
a temperature is given: a small model then says the same over and over. A run is asked in raw bytes if it was told any; else in its only
view, its prompts healed where the view can be. `report_samples.py` shows the result.

`RUN/eval/samples.json` has text: bytes that are no UTF-8 are spelled `\\xNN`, and stand as they are in base64 beside it. (`eval.samples` is
something else: where evaluations that take long keep what they have made.)

Not promised: that a few samples tell which model is better; that what a run writes is new and not told to it word by word.
"""

from __future__ import annotations

import base64
import codecs
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydantic import Field

from eval.samples import eval_folder
from proxy_lm.config import Settings
from proxy_lm.data.corpus import Corpus
from proxy_lm.errors import RequestError
from proxy_lm.infer.asked import Prompt, Sampling
from proxy_lm.infer.id_request import Temperature
from proxy_lm.progress import note

if TYPE_CHECKING:
    from eval.opened import Opened
    from proxy_lm.infer.generator import Completion

SCHEMA: Final = "proxy-lm samples 1"
COMMAND: Final = "samples"
MOST_BYTES: Final = 65_536
_NEWLINE: Final = b"\n"
_MOST_ROWS: Final = 16


class ShownSettings(Settings):
    """What is asked; the same for every arm of a comparison."""

    split: str = "test"
    """Split of the run's corpus: train, valid or test."""

    limit: int = Field(default=3, ge=1)
    """Samples at most, one a document."""

    prompt_bytes: int = Field(default=192, ge=16, le=MOST_BYTES)
    """Longest prompt; it is as many whole lines as fit, and at least half as long."""

    num_bytes: int = Field(default=160, ge=1, le=MOST_BYTES)
    """Longest completion, and length of what really follows."""

    temperature: Temperature = 0.0
    """0: always the most probable. Draws are keyed by the seed and the number of the sample."""

    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Which documents and places are drawn."""

    view: str | None = None
    """Reading: 'raw' or a view of the run. None: raw if the run was told any raw bytes, else its only view."""

    device: str = "auto"
    """'cpu', 'cuda', or 'auto'."""


@dataclass(frozen=True)
class Place:
    """A place in a held-out document: `prompt + truth` stands there."""

    source: str
    """Path of the document in its corpus, or its project where it has none."""
    line: int
    """Of the document, from 1: where the completion begins."""
    prompt: bytes
    truth: bytes


def evaluate(run: Path, settings: ShownSettings, *, corpus: Path | None = None) -> dict[str, Any]:
    """Ask a run; the result is also RUN/eval/samples.json. `corpus` stands in for the folder the run names, when that has moved.

    Raises `RequestError` for what is not a run, a split without such places, and a view that cannot be continued.
    """
    from eval.envelope import Dataset, envelope, write_result
    from eval.opened import open_run

    opened = open_run(run, view=settings.view, device=settings.device, num_rows=min(settings.limit, _MOST_ROWS))
    if opened.can_heal:
        opened = opened.healed(True)
    held_out = opened.corpus(corpus)
    places = choose(held_out, settings)
    started = time.monotonic()
    samples = [
        _told(place, completion, settings.num_bytes) for place, completion in zip(places, _written(opened, places, settings), strict=True)
    ]
    dataset = Dataset(name=f"{settings.split} split of the corpus", digest=held_out.digest, num_items=len(places))
    settings = settings.model_copy(update={"view": opened.view})
    result = envelope(SCHEMA, COMMAND, opened.identity, dataset, settings, time.monotonic() - started, {"samples": samples})
    # One that asked less takes the place too: it is made again in seconds.
    return result | {"written": write_result(run, COMMAND, "", result, eval_folder(run), ())}


def choose(corpus: Corpus, settings: ShownSettings) -> list[Place]:
    """At most `limit` places: one of each project in the order drawn, then of what is left. Raises `RequestError` for an unknown split and
    where there is no place."""
    places = []
    for document in drawn(corpus, settings.split, settings.seed):
        place = _place(corpus, document, settings)
        if place is not None:
            places.append(place)
        if len(places) == settings.limit:
            return places
    if not places:
        raise RequestError(
            f"no document of the {settings.split} split of {corpus.path} has lines of at most {settings.prompt_bytes} bytes with "
            f"{settings.num_bytes} bytes behind them; give a smaller --num-bytes, another --prompt-bytes, or another --split"
        )
    note(f"samples: {len(places)} of {settings.limit}: no more documents of the {settings.split} split are long enough")
    return places


def drawn(corpus: Corpus, split: str, seed: int) -> Iterator[int]:
    """Documents of a split in the order drawn, the first of each project before the others. Raises `RequestError` for an unknown split."""
    if split not in corpus.splits:
        raise RequestError(f"unknown split '{split}'; the corpus has {', '.join(corpus.splits)}")
    some = corpus.splits[split]
    projects = corpus.column("project")
    draw = np.random.Generator(np.random.Philox(key=[seed, 0]))
    order = [some.start + int(i) for i in draw.permutation(len(some))]
    first = {projects[document]: document for document in reversed(order)}
    yield from (document for document in order if first[projects[document]] == document)
    yield from (document for document in order if first[projects[document]] != document)


def _place(corpus: Corpus, document: int, settings: ShownSettings) -> Place | None:
    """The place of a document; None where it is too short, or its lines too long."""
    data = corpus.document(document)
    starts = [0, *(i + 1 for i, byte in enumerate(data) if byte == _NEWLINE[0])]
    found = []
    for first in starts:
        cut = data.rfind(_NEWLINE, first, first + settings.prompt_bytes) + 1
        enough = cut - first >= settings.prompt_bytes / 2 and len(data) - cut >= settings.num_bytes
        if enough and data[first : first + 1].strip(b" \t\r\n\f)]}"):  # a prompt begins neither inside a block nor at its end
            found.append((first, cut))
    if not found:
        return None
    draw = np.random.Generator(np.random.Philox(key=[settings.seed, 1 + document]))
    first, cut = found[int(draw.integers(len(found)))]
    source = str(corpus.column("path")[document] or corpus.column("project")[document])
    return Place(source, 1 + data.count(_NEWLINE, 0, cut), data[first:cut], data[cut : cut + settings.num_bytes])


def _written(opened: Opened, places: list[Place], settings: ShownSettings) -> Iterator[Completion]:
    prompts = [Prompt(data=place.prompt, max_bytes=settings.num_bytes, seed=number) for number, place in enumerate(places)]
    return opened.generator.generate(prompts, Sampling(temperature=settings.temperature, seed=settings.seed))


def _told(place: Place, completion: Completion, num_bytes: int) -> dict[str, Any]:
    """A sample as JSON: text, and its exact bytes where the text does not tell them."""
    sample: dict[str, Any] = {"source": place.source, "line": place.line}
    for name, data, is_cut in (
        ("prompt", place.prompt, False),
        ("completion", completion.data, completion.reason == "length"),
        ("truth", place.truth, len(place.truth) == num_bytes),
    ):
        sample[name] = text_of(data, is_cut=is_cut)
        if sample[name].encode() != data:
            sample[f"{name}_base64"] = base64.b64encode(data).decode()
    return {**sample, "ended": completion.reason == "end", "told_raw": completion.told_raw}


def text_of(data: bytes, *, is_cut: bool) -> str:
    """Bytes as text: what is no UTF-8 as `\\xNN`; of what was cut at a number of bytes the begin of a character at the end is left out."""
    return codecs.getincrementaldecoder("utf-8")("backslashreplace").decode(data, final=not is_cut)
