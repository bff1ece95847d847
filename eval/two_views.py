"""A run opened to be asked in two views: raw bytes and one of its views. `translate` and `align` begin here.

    pair = open_two_views(Path("runs/nano"), split="test")
    pair.view, pair.compressor, pair.corpus, pair.documents, pair.model, pair.untrained()

A run that was told one view only has nothing to say about two, and is refused with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import compressors.registry as registry
from compressors.base import Compressor
from eval.opened import Opened, open_run
from proxy_lm.data.corpus import Corpus
from proxy_lm.data.pieces import OVERHEAD, Layout
from proxy_lm.errors import RequestError
from proxy_lm.model.decoder import Decoder
from proxy_lm.reading import compressor_of
from proxy_lm.train.settings import RunSettings
from proxy_lm.vocabulary import ViewRange


@dataclass(frozen=True)
class TwoViews:
    """Raw bytes and `view` of one run, and the documents both are asked about."""

    opened: Opened
    view: ViewRange
    compressor: Compressor
    corpus: Corpus
    documents: range
    split: str

    @property
    def model(self) -> Decoder:
        """The trained model."""
        return self.opened.loaded.model

    @property
    def row_length(self) -> int:
        """Ids of a row of training."""
        return self.opened.row_length

    @property
    def set_name(self) -> str:
        """Names the result among those of its command."""
        return f"{self.split}-{self.view.name}"

    def untrained(self) -> Decoder:
        """The weights this run began with, on the same device: what the numbers are without any training."""
        loaded = self.opened.loaded
        settings = loaded.settings
        model = Decoder(
            settings.model, loaded.vocabulary.size, settings.row_length, num_views=len(loaded.vocabulary.views), seed=settings.seed
        )
        return model.to(self.opened.device).eval()

    def identity(self) -> dict[str, Any]:
        """What the numbers depend on beside the command's settings: weights, compressor, documents."""
        return {
            "run": self.opened.identity,
            "view": self.view.name,
            "compressor": registry.fingerprint(self.compressor),
            "corpus": self.corpus.digest,
            "split": self.split,
        }

    def pairs_told(self, symbols_per_byte: float) -> dict[str, float]:
        """What this run could learn of the two views together: the share of documents told twice, the second telling seeing the first, over
        the run (`mean_share`) and at its end; and, at `symbols_per_byte`, the share of the train split's documents whose two tellings fit
        one row at all. What is longer is split, and the second telling does not see what stands in another row."""
        progress = np.linspace(0.0, 1.0, 1025)
        share = np.broadcast_to(self.opened.loaded.settings.mix.shares(progress).pair, progress.shape)
        train = self.corpus.splits["train"]
        sizes = self.corpus.sizes[train.start : train.stop]
        fitting = sizes * (1 + symbols_per_byte) + int(OVERHEAD[Layout.PAIR]) <= self.row_length
        return {
            "mean_share": float(share.mean()),
            "share_at_end": float(share[-1]),
            "share_that_fit_a_row": float(fitting.mean()) if len(sizes) else 0.0,
        }


def open_two_views(
    run: Path, *, view: str | None = None, split: str = "test", device: str = "auto", corpus: Path | None = None, num_rows: int = 16
) -> TwoViews:
    """Load a run, its view (None: the only one it was told) and its corpus.

    Raises `RequestError` for a run that was told in one way only, for a view it was not told, and for an unknown or empty split."""
    opened = open_run(run, view="raw", device=device, num_rows=num_rows)
    name = chosen_view(run, opened.loaded.settings, view)
    compressor = compressor_of(opened.loaded, name)
    assert compressor is not None
    found = opened.corpus(corpus)
    if split not in found.splits:
        raise RequestError(f"unknown split '{split}'; the corpus has {', '.join(found.splits)}")
    documents = found.splits[split]
    if not int(found.sizes[documents.start : documents.stop].sum()):
        raise RequestError(f"split '{split}' of {found.path} has no bytes to measure; prepare the corpus with a larger share for it")
    return TwoViews(opened, opened.loaded.vocabulary.view(name), compressor, found, documents, split)


def chosen_view(run: Path, settings: RunSettings, view: str | None) -> str:
    """The view to set beside raw bytes. Raises `RequestError` where the run was not told both."""
    told = settings.told_views
    if not told:
        raise RequestError(
            f"{run} was told raw bytes only, so it has no second view to translate to or to align with; give a run whose mix tells both"
        )
    if not settings.mix.tells_raw:
        raise RequestError(
            f"{run} was told by {', '.join(told)} and never raw bytes, so it knows no two tellings of one; give a run whose mix tells both"
        )
    if view is None:
        if len(told) > 1:
            raise RequestError(f"{run} was told by {len(told)} views; choose one with --view: {', '.join(told)}")
        return told[0]
    if view not in told:
        raise RequestError(f"{run} was not told by a view '{view}'; it was told by: {', '.join(told)}")
    return view
