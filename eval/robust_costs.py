"""Bits of a reference text after a prompt as it is and after perturbed ones, by teacher forcing; kept one by one.

A prompt is cut from its front, at the start of a line, so that prompt and reference text fit the context in bytes, equal for every arm.
Where a perturbation only moves the cut between prompt and reference, the bytes that change sides are charged too, after the nominal prompt:
so both sides are charged for the same bytes, and a model of bytes, to whom a cut is nothing, pays nothing for it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from compressors.files import sha256_bytes
from eval.continuations import Continuations
from eval.lines import HEALED, ways
from eval.opened import Opened
from eval.samples import Samples, work_folder
from eval.variants import FileVariant, Suite, Variant
from proxy_lm.progress import CountProgress

_PAIRS_PER_CHUNK = 128  # what a kill can cost
_OPENING_BYTES = 2  # BOS and the start sentinel, counted as in `eval.windows`


Text = tuple[bytes, bytes]
"""A prompt, and the bytes that are charged after it."""


@dataclass(frozen=True)
class Pair:
    """`group` is drawn again for the intervals, `task` holds the perturbed prompts of one thing."""

    perturbation: str
    family: str
    group: str
    task: str
    nominal: Text
    perturbed: tuple[Text, ...]
    """What is charged is the sum."""
    cut: bool
    """The prompt did not fit the context, so a part of what was perturbed may not be read."""

    @property
    def reference(self) -> bytes:
        """The bytes that are charged after the perturbed prompt."""
        return b"".join(rest for _, rest in self.perturbed)

    @property
    def same(self) -> bool:
        """Whether the same bytes are charged, so that the difference is of the prompt alone."""
        return self.reference == self.nominal[1]


@dataclass(frozen=True)
class Cost:
    """Nats of both reference texts of a pair; None where the view cannot tell them apart from the prompt."""

    pair: Pair
    nominal_nats: float | None
    nats: float | None


def pairs_of_problems(suite: Suite, variants: Sequence[Variant], *, context_bytes: int, reference_bytes: int) -> list[Pair]:
    """One pair for each changed prompt with a reference solution."""
    pairs = []
    for variant in variants:
        before = suite.nominals[variant.nominal]
        if variant.problem is None or not variant.problem.canonical_solution or not before.canonical_solution:
            continue
        nominal, perturbed = [(one.prompt.encode(), one.canonical_solution.encode()) for one in (before, variant.problem)]
        sizes = {"context_bytes": context_bytes, "reference_bytes": reference_bytes}
        first = fit(nominal[0], nominal[1], **sizes)
        if b"".join(nominal) == b"".join(perturbed) and perturbed[0].startswith(nominal[0]):
            size = len(perturbed[0]) - len(nominal[0])
            moved, behind = first[1][:size], first[1][size:]
            texts = [(prompt, rest) for prompt, rest in ((first[0], moved), (first[0] + moved, behind)) if rest]
        else:
            texts = [fit(perturbed[0], perturbed[1], **sizes)]
        cut = len(first[0]) < len(nominal[0]) or len(texts[-1][0]) < len(perturbed[0])
        pairs.append(Pair(variant.perturbation, variant.family, variant.task, variant.task, first, tuple(texts), cut))
    return pairs


def pairs_of_files(variants: Sequence[FileVariant], *, context_bytes: int, reference_bytes: int) -> list[Pair]:
    """One pair for each perturbed head; projects are drawn again."""
    pairs = []
    for variant in variants:
        texts = [
            fit(prompt, variant.rest, context_bytes=context_bytes, reference_bytes=reference_bytes)
            for prompt in (variant.nominal, variant.prompt)
        ]
        cut = len(texts[0][0]) < len(variant.nominal) or len(texts[1][0]) < len(variant.prompt)
        pairs.append(Pair(variant.perturbation, variant.family, variant.project, f"file-{variant.file}", texts[0], (texts[1],), cut))
    return pairs


def fit(prompt: bytes, rest: bytes, *, context_bytes: int, reference_bytes: int) -> tuple[bytes, bytes]:
    """The first bytes of `rest`, and the last whole lines of `prompt` that leave it room; at least the last bytes of a longer line."""
    told = rest[:reference_bytes]
    room = context_bytes - _OPENING_BYTES - reference_bytes  # not of `told`: the same room for every text
    if len(prompt) <= room:
        return prompt, told
    kept = prompt[-room:]
    line = kept.find(b"\n") + 1
    starts_line = prompt[len(prompt) - room - 1 : len(prompt) - room] == b"\n"
    return (kept if starts_line or not 0 < line < len(kept) else kept[line:]), told


def costs(opened: Opened, name: str, pairs: Sequence[Pair], title: str) -> dict[str, list[Cost]]:
    """What each pair costs, by way of telling prompts. Costs are kept by the digest of prompt and reference, so more pairs continue."""
    found: dict[str, list[Cost]] = {}
    identity = {key: value for key, value in opened.identity.items() if key not in ("name", "healing")}
    job = {"what": "robustness bits 1", "run": identity}
    with Samples.open(work_folder(opened.run, "robustness-bits", name, job), job) as samples:
        for way in ways(opened):
            reading = opened.healed(way == HEALED)
            wanted = {f"{way}/{_digest(text)}": text for pair in pairs for text in (pair.nominal, *pair.perturbed)}
            _fill(reading, {key: text for key, text in wanted.items() if key not in samples.done}, samples, f"{title}, prompts {way}")
            nats = {key: samples.done[key]["nats"] for key in wanted}
            found[way] = [
                Cost(
                    pair,
                    nats[f"{way}/{_digest(pair.nominal)}"],
                    _total([nats[f"{way}/{_digest(text)}"] for text in pair.perturbed]),
                )
                for pair in pairs
            ]
    return found


def _total(nats: Sequence[float | None]) -> float | None:
    known = [value for value in nats if value is not None]
    return math.fsum(known) if len(known) == len(nats) else None


def _digest(text: Text) -> str:
    return sha256_bytes(len(text[0]).to_bytes(8, "big") + text[0] + text[1])[:32]


def _fill(reading: Opened, todo: Mapping[str, Text], samples: Samples, title: str) -> None:
    if not todo:
        return
    continuations = Continuations(reading)
    with CountProgress(title, len(todo)) as progress:
        for chunk in _chunks(todo):
            nats = continuations.nats([text for _, text in chunk])
            for (key, _), value in zip(chunk, nats, strict=True):
                samples.append(key, {"nats": value})
            progress.advance(len(chunk))


def _chunks(todo: Mapping[str, Text]) -> Iterator[list[tuple[str, Text]]]:
    source = iter(todo.items())
    while chunk := list(itertools.islice(source, _PAIRS_PER_CHUNK)):
        yield chunk


def told(found: Sequence[Cost]) -> tuple[list[Cost], int]:
    """Those with both numbers, and how many have not."""
    both = [cost for cost in found if cost.nats is not None and cost.nominal_nats is not None]
    return both, len(found) - len(both)
