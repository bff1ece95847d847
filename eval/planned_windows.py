"""Whether what a comparison scores fits the rows of its arms: asked before anything is trained, not when the first arm is scored.

    check_documents_fit(plan, runs, corpus, views)

A document whose symbols stand for no stretch of bytes (gzip, one arithmetic code a text) is read in one window or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import compressors.registry as registry
from eval.blocks import take_prefix
from eval.plan import ArmRun, ComparePlan
from eval.windows import NUM_CLOSING_IDS, whole
from proxy_lm.data.corpus import Corpus
from proxy_lm.data.views import View
from proxy_lm.errors import RequestError


def check_documents_fit(plan: ComparePlan, runs: Sequence[ArmRun], corpus: Corpus, views: Mapping[str, View]) -> None:
    """Raise `RequestError` for an arm that is asked in symbols and could not read its longest document to be scored, and for one
    whose reading is open."""
    from proxy_lm.reading import reading_view  # torch

    documents = take_prefix(corpus.sizes, corpus.splits[plan.evaluation.split], plan.evaluation.max_bytes)
    for run in {(run.arm, run.scale): run for run in runs}.values():
        settings = run.settings(Path("runs"), corpus.path, num_steps=1)
        name = plan.evaluation.view or reading_view(settings)
        if name not in settings.views or not len(documents):
            continue
        view = views[name]
        index = max(documents, key=lambda document: int(view.lengths[document]))
        num_ids = whole(int(view.lengths[index]), NUM_CLOSING_IDS if plan.evaluation.score_end else 0).num_ids
        if num_ids > settings.row_length and registry.load(view.path).spans(corpus.document(index)) is None:
            raise RequestError(
                f"arm {run.arm} could not be scored: a document of {corpus.sizes[index]:,} bytes of the {plan.evaluation.split} split is "
                f"{num_ids:,} ids in view '{view.name}', whose symbols cannot be cut by bytes, and a row holds {settings.row_length:,}; "
                f"set row_length to {num_ids:,} or more, or corpus.options.max_bytes_per_document lower"
            )
