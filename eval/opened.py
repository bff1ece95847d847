"""A trained run, opened to be asked: its model, the view it is read in, and what a result has to say about it.

    opened = open_run(Path("runs/nano"))
    opened.scorer.rolling(document)                    # bits; `eval.scorer`
    opened.generator.generate(prompts, sampling)       # bytes; `proxy_lm.infer.generator`
    opened.identity                                    # goes into every result

One checkpoint is loaded once; scorer and generator are built when first asked for and share its weights. Not safe to share between threads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import compressors.registry as registry
from eval.scorer import Reading, Scorer, reading_of
from proxy_lm.data.corpus import Corpus
from proxy_lm.errors import RequestError
from proxy_lm.reading import compressor_of, device_named, open_corpus, reading_view
from proxy_lm.train.restore import LoadedModel, load_model
from proxy_lm.train.weights import WEIGHTS_NAME

if TYPE_CHECKING:
    from proxy_lm.infer.generator import Generator

DEFAULT_CONTEXT_BYTES = 1024
DEFAULT_ROWS = 16


@dataclass(frozen=True)
class Opened:
    """A run with the view in which it is asked. `context_bytes` bounds what is read before a byte, the opening ids counted as two."""

    run: Path
    loaded: LoadedModel
    reading: Reading
    healing: bool
    context_bytes: int
    device: torch.device
    num_rows: int = DEFAULT_ROWS
    """Rows of one forward pass; changes speed and memory, not the numbers."""

    @property
    def view(self) -> str:
        """Name of the view the run is read in; 'raw' for bytes."""
        return self.reading.name

    @property
    def row_length(self) -> int:
        """Ids in a row of the run's training: positions beyond it were never seen."""
        return self.loaded.settings.row_length

    @property
    def can_heal(self) -> bool:
        """Whether prompts can be healed: a view other than bytes whose symbols always spell the same bytes."""
        compressor = self.reading.compressor
        return compressor is not None and compressor.spelling() is not None

    @cached_property
    def scorer(self) -> Scorer:
        """Bits of given bytes, in windows of `context_bytes` that move by half."""
        return Scorer(
            self.loaded.model,
            self.reading,
            row_length=self.row_length,
            context_bytes=self.context_bytes,
            stride_bytes=max(1, self.context_bytes // 2),
            windows_per_batch=self.num_rows,
            device=self.device,
        )

    @cached_property
    def generator(self) -> Generator:
        """Bytes after given bytes."""
        from proxy_lm.infer.generator import Generator

        return Generator(self.loaded, view=self.view, healing=self.healing, num_rows=self.num_rows)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a result says of the run: checkpoint, view, healing, compressor, context. Equal identities, equal results."""
        weights = next(entry["sha256"] for entry in self.loaded.manifest["files"] if entry["name"] == WEIGHTS_NAME)
        compressor = self.reading.compressor
        return {
            "name": self.loaded.settings.name,
            "checkpoint": {"step": self.loaded.step, "digest": weights},
            "view": self.view,
            "compressor": None if compressor is None else registry.fingerprint(compressor),
            "healing": self.healing,
            "context_bytes": self.context_bytes,
            "row_length": self.row_length,
            "corpus_digest": self.loaded.manifest["state"]["identity"]["corpus"],
        }

    def healed(self, healing: bool) -> Opened:
        """The same run with its prompts healed, or not; the weights are shared. Raises `RequestError` as `open_run`."""
        if healing:
            _check_healing(self)
        return replace(self, healing=healing)

    def corpus(self, path: Path | None = None, *, verify: bool = True) -> Corpus:
        """The corpus of the run, from `path` where it has moved. Raises `RequestError` for another corpus than the run was trained on."""
        return open_corpus(self.loaded, path, verify=verify)


def open_run(
    run: Path,
    *,
    view: str | None = None,
    healing: bool = False,
    device: str = "auto",
    context_bytes: int | None = None,
    num_rows: int = DEFAULT_ROWS,
) -> Opened:
    """Load the newest valid checkpoint of a run folder, or the checkpoint folder given.

    `view` None: raw if the run was told any raw bytes, else its only view. `context_bytes` None: 1024, or the row length if that is less.
    Raises `RequestError` for what is not a run, a view it does not have, and healing where there is nothing to heal.
    """
    loaded = load_model(run, device=device_named(device))
    name = view or reading_view(loaded.settings)
    reading = reading_of(loaded.vocabulary, name, compressor_of(loaded, name))
    context = min(DEFAULT_CONTEXT_BYTES, loaded.settings.row_length) if context_bytes is None else context_bytes
    opened = Opened(run, loaded, reading, healing, context, next(loaded.model.parameters()).device, num_rows)
    if healing:
        _check_healing(opened)
    return opened


def _check_healing(opened: Opened) -> None:
    if not opened.can_heal:
        why = "raw bytes" if opened.view == "raw" else f"view '{opened.view}', whose symbols spell different bytes in different places"
        raise RequestError(f"{opened.run} reads {why}: its prompts cannot be healed; leave healing off")
