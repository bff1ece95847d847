"""What a run reads: corpus, views, the vocabulary derived from them, and the plan over them. No torch, no engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy_lm.data.corpus import Corpus
from proxy_lm.data.cuts import open_cuts, open_lines_of
from proxy_lm.data.plan import Plan
from proxy_lm.data.rows import RowReader
from proxy_lm.data.soft_targets import Teacher, open_teacher
from proxy_lm.data.views import View, vocabulary_of
from proxy_lm.errors import RequestError
from proxy_lm.model.flops import training_flops_per_symbol
from proxy_lm.train.settings import RunSettings, StepShape, num_steps, step_shape
from proxy_lm.vocabulary import Vocabulary

# Rows of the valid split are planned with this seed in every run, so that all runs over one corpus watch the same documents.
VALIDATION_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything that fixes which ids each step sees."""

    settings: RunSettings
    corpus: Corpus
    views: list[View]
    vocabulary: Vocabulary
    shape: StepShape
    num_steps: int
    flops_per_symbol: int
    plan: Plan
    teacher: Teacher | None = None

    @property
    def reader(self) -> RowReader:
        """Reads the plan's rows, taught where the run has a teacher."""
        return RowReader(self.corpus, self.views, self.vocabulary, self.plan, self.teacher)

    @property
    def view_names(self) -> list[str]:
        """`raw` and the views, in the order of the codes."""
        return ["raw", *(view.name for view in self.views)]

    @property
    def inexact_names(self) -> list[str]:
        """Views that do not promise to give documents back; their symbols have no bits per byte."""
        return [view.name for view in self.views if not view.exact]

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must share with a run that continues it."""
        return {
            "corpus": self.corpus.digest,
            "views": {view.name: view.digest for view in self.views},
            "vocabulary": describe_vocabulary(self.vocabulary),
            "plan": self.plan.digest,
            **({"teacher": self.teacher.fingerprint} if self.teacher else {}),
        }


def open_inputs(settings: RunSettings, world_size: int, *, verify: bool) -> Inputs:
    """Open corpus and views, derive the vocabulary and plan the rows. `verify` reads every file once and compares digests. What only a mix
    with splices needs, the table of cuts beside a view, is made where it is missing.

    Raises `RequestError` for anything missing, damaged or not belonging together.
    """
    shape = step_shape(settings, world_size)
    corpus = Corpus.open(Path(settings.corpus), verify=verify)
    views = [View.open(Path(path), corpus, verify=verify, name=name) for name, path in settings.views.items()]
    vocabulary = vocabulary_of(views, settings.literals)
    if settings.vocabulary_size not in (None, vocabulary.size):
        raise RequestError(
            f"vocabulary_size = {settings.vocabulary_size} and the views {[view.name for view in views]} make {vocabulary.size} ids; "
            "leave vocabulary_size out: it is derived"
        )
    flops = training_flops_per_symbol(settings.model, vocabulary.size, settings.row_length)
    steps = num_steps(settings, flops)
    plan = Plan.for_corpus(
        corpus,
        views,
        vocabulary=vocabulary,
        mix=settings.mix,
        seed=settings.seed,
        row_length=settings.row_length,
        lookahead=settings.model.resolved().lookahead,
        num_rows=steps * settings.rows_per_step,
        shuffle_rows=settings.shuffle_rows,
        cuts=open_cuts(corpus, views, settings.mix, verify=verify),
        lines=open_lines_of(corpus, settings.mix, verify=verify),
        packing=settings.packing,
    )
    return Inputs(
        settings=settings,
        corpus=corpus,
        views=views,
        vocabulary=vocabulary,
        shape=shape,
        num_steps=steps,
        flops_per_symbol=flops,
        plan=plan,
        teacher=open_teacher(settings.teacher, settings.rows_per_step, steps, verify=verify) if settings.teacher else None,
    )


def describe_vocabulary(vocabulary: Vocabulary) -> dict[str, Any]:
    """The id space for records, as JSON: its size, its views and, where views share literals, how many each. With the views' digests it
    fixes every id."""
    shared = {name: len(found) for name, found in vocabulary.literals.items()}
    described: dict[str, Any] = {"size": vocabulary.size, "views": [[view.name, view.alphabet_size] for view in vocabulary.views]}
    return {**described, "literals": shared} if shared else described
