"""Finished cells from another session or machine: `proxy-lm-eval compare PLAN --import RESULTS.json`.

A cell is taken when all that it depends on is equal: settings, budget and steps, the digests of corpus and views, how it was scored. What
is not equal is told, and that cell is run here. Tries of the search come along, so that the same rates are chosen.

Not promised: that the cell would have come out the same here to the last bit; other devices round otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressors.files import read_json
from eval import rate_search
from eval.compare_cells import Grid, blank, cell_key, finished, keep, key_of, only_one
from eval.grid_cells import cells_of
from eval.plan import ArmRun, ComparePlan, arm_runs, changed
from eval.results import ArmResult, Results, read
from proxy_lm.config import validate
from proxy_lm.data.corpus import MANIFEST
from proxy_lm.errors import RequestError
from proxy_lm.progress import note


@dataclass(frozen=True)
class Theirs:
    """Another comparison's results, and the runs of the plan they were made by."""

    name: str
    """Of the file."""
    results: Results
    plan: ComparePlan
    runs: Mapping[tuple[str, str | None, str | None, int], ArmRun]

    @classmethod
    def read(cls, path: Path) -> Theirs:
        """Raises `RequestError` for what is no result of a comparison of this version, and for one whose numbers do not fit together: taken
        over, it would spoil every later report."""
        results = read(path)
        cells_of(results)
        facts = {"corpus": results.corpus, **{f"view '{name}'": view for name, view in results.views.items()}}
        for what, about in facts.items():
            if "digest" not in about:
                raise RequestError(f"{path} does not tell the digest of {what}, so that its cells cannot be compared; make it anew")
        plan = validate(ComparePlan, results.plan, source=f"the plan in {path}")
        rated, _ = rate_search.with_rates(plan, list(arm_runs(plan)), results.chosen)
        return cls(path.name, results, plan, {_place(run): run for run in rated})

    def find(self, grid: Grid, run: ArmRun) -> tuple[ArmResult, dict[str, Any]] | None:
        """Their finished result of this cell as one of `grid`, and its key; None where they have none."""
        if run.tried_rate is None:
            found = next((arm for arm in self.results.finished if (arm.name, arm.scale, arm.budget, arm.seed) == _place(run)), None)
            made_by, num_steps = self.runs.get(_place(run)), 0 if found is None else found.num_steps
        else:
            found, made_by, num_steps = self._try(grid, run), self._planned_try(run), grid.steps[run.cell_name]
        digests = {name: str(facts["digest"]) for name, facts in self.results.views.items()}
        if found is not None and run.tried_rate is None and (self.results.projects is None or found.nll_nats_by_project is None):
            return None  # without nats by project it could never be judged
        if found is None or made_by is None or any(view not in digests for view in made_by.needed_views):
            return None
        moved = found.model_copy(update={"folder": run.folder, "verdict": None})
        return moved, key_of(self.plan, made_by, num_steps, str(self.results.corpus["digest"]), digests)

    def _planned_try(self, run: ArmRun) -> ArmRun | None:
        return next((one for one in rate_search.tries(self.plan) if one.cell_name == run.cell_name), None)

    def _try(self, grid: Grid, run: ArmRun) -> ArmResult | None:
        """Results keep of a try what is reported; steps are compared by its FLOPs."""
        asked = (run.arm, run.scale, run.tried_rate, run.seed)
        for one in self.results.searched:
            if (one.arm, one.scale, one.learning_rate, one.seed) == asked and one.bits_per_byte is not None:
                empty = blank(grid, run)
                if math.isclose(one.training_flops, empty.training_flops, rel_tol=1e-9):
                    return empty.model_copy(update={"status": "done", "bits_per_byte": one.bits_per_byte})
        return None


def import_cells(theirs: Theirs, grid: Grid, runs: Sequence[ArmRun]) -> tuple[list[str], dict[str, str]]:
    """Keep what they have of these runs and is not done here: (names of cells taken, why others were not by name)."""
    projects = None if theirs.results.projects is None else theirs.results.projects.num_bytes
    machine = {key: value for key, value in theirs.results.machine.items() if key != "others"}
    taken: list[str] = []
    reasons: dict[str, str] = {}
    for run in runs:
        kept = finished(grid, run)
        found = None if kept is not None and kept.result.status == "done" else theirs.find(grid, run)
        if found is None:
            continue
        differing = changed("", found[1], cell_key(grid, run))
        with only_one(grid.out, run) as free:
            if differing:
                reasons[run.cell_name] = "; ".join(differing)
            elif not free:
                reasons[run.cell_name] = "another process is running it"
            else:
                keep(grid, run, found[0], projects, machine)
                taken.append(run.cell_name)
    return taken, reasons


def tell_import(theirs: Theirs, grid: Grid, runs: Sequence[ArmRun]) -> None:
    """Import what fits, and say on standard error what came and what did not; where the corpora differ, by which installed packages."""
    taken, reasons = import_cells(theirs, grid, runs)
    if taken or (runs and not reasons):
        note(f"imported from {theirs.name}: {', '.join(taken) or 'nothing; it has no finished cell that is missing here'}")
    cells: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        cells.setdefault(reason, []).append(name)
    for reason, names in cells.items():
        note(f"not imported: {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {reason}")
    if reasons and theirs.results.corpus["digest"] != grid.corpus_digest:
        _tell_packages(theirs.results.corpus.get("installed"), grid.place.corpus)


def _tell_packages(theirs: Mapping[str, str] | None, corpus: Path) -> None:
    """A corpus of `python:` is another with every package that is."""
    ours = read_json(corpus / MANIFEST, "corpus manifest").get("installed")
    if ours is None:
        return
    if theirs is None:
        note("the corpora differ, and theirs does not tell which packages were installed; python: reads all of them")
    elif differing := changed("", theirs, ours):
        note(f"the corpora differ: python: reads what is installed, and that is not the same: {', '.join(differing)}")


def _place(run: ArmRun) -> tuple[str, str | None, str | None, int]:
    return run.arm, run.scale, run.budget, run.seed
