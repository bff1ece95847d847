"""Which symbols of a comparison's views will have bytes' ids, before the views are made: shared literals make a smaller model.

    literals = planned_literals(plan, out, alphabets)
    Vocabulary([(view, alphabets[view]) for view in run.views], literals)

A view that is not fitted counts with the 256 bytes, which every fitted kind here holds. SentencePiece holds some single characters twice,
so its vocabulary ends up about a hundred rows smaller still.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import compressors.registry as registry
from compressors.base import Compressor
from eval.plan import ComparePlan, ViewPlan, arm_runs
from proxy_lm.view_training import NEURAL
from proxy_lm.vocabulary import NUM_BYTES, Literals, literals_of


def planned_literals(plan: ComparePlan, out: Path, alphabets: Mapping[str, int | None]) -> dict[str, Literals]:
    """Literals by view, of those views that some arm shares them in. `alphabets` by view, None where not known yet.

    Raises `RequestError` for a view that has none, as far as its kind tells before it is fitted."""
    sharing = [run for run in arm_runs(plan) if run.settings(Path("runs"), Path("corpus"), num_steps=1).literals == "shared"]
    names = {name for run in sharing for name in run.views}
    return {name: _literals(name, view, out / "views" / name, alphabets[name]) for name, view in plan.views.items() if name in names}


def _literals(name: str, view: ViewPlan, folder: Path, alphabet_size: int | None) -> Literals:
    if (folder / registry.ARTIFACT_NAME).exists():
        return literals_of(name, registry.load(folder).spelling())
    if view.kind == NEURAL:
        made = ViewPlan(kind=view.options.get("view", "table"), options=view.options.get("options", {}))
        return _literals(name, made, folder, alphabet_size)
    kind = registry.get(view.kind)
    if not kind.needs_training:
        return literals_of(name, registry.train(view.kind, (), **view.options).spelling())
    if kind.spelling is Compressor.spelling:
        return literals_of(name, None)
    return tuple((byte, byte) for byte in range(min(NUM_BYTES, alphabet_size or NUM_BYTES)))
