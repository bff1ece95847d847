"""The teacher of a comparison's arm: the byte model of a view of the plan, in place of a folder.

    views: {stream: {kind: neural, options: {model: counts, view: stream}}}
    arms:  {bytes: {}, taught: {teacher: {view: stream, weight: [[0, 1.0], [1, 0.5]]}}}

The view need not be one that the arm reads. Its model is fitted on the train split, as everything that a comparison fits, and what fitting
and asking it took is counted among the arm's compressor cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from proxy_lm.config import Settings, validate
from proxy_lm.data.curves import Curve
from proxy_lm.neural_training import MODEL_FOLDER
from proxy_lm.view_training import NEURAL


class PlannedTeacher(Settings):
    """`teacher` of an arm, of `base` or of a scale."""

    view: str
    """A view of the plan, of kind neural with a model of kind counts."""

    weight: Curve
    """See `proxy_lm.data.soft_targets.TeacherSettings`."""

    lead: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """See there."""


def teacher_view(values: Mapping[str, Any], where: str = "an arm") -> str | None:
    """The view whose byte model teaches a run of these settings; None for a run without a teacher. Raises `RequestError`."""
    planned = values.get("teacher")
    return None if planned is None else validate(PlannedTeacher, planned, source=f"teacher of {where}").view


def located_teacher(values: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """The settings with the folder in place of the view. `out` is the comparison's folder."""
    view = teacher_view(values)
    if view is None:
        return dict(values)
    kept = {name: value for name, value in values["teacher"].items() if name != "view"}
    return {**values, "teacher": {"model": str(out / "views" / view / MODEL_FOLDER), **kept}}


def check_teacher_view(where: str, values: Mapping[str, Any], views: Mapping[str, tuple[str, Mapping[str, Any]]]) -> None:
    """Raise `ValueError` for a teacher that is no view of the plan (kind and options by name), or none with a count model."""
    view = teacher_view(values, where)
    if view is None:
        return
    if view not in views:
        raise ValueError(f"{where} is taught by view '{view}'; the plan has: {', '.join(views) or 'none'}")
    kind, options = views[view]
    if kind != NEURAL or options.get("model", "counts") != "counts":
        raise ValueError(
            f"{where} is taught by view '{view}', which has no count model beside it; make it of kind {NEURAL}: "
            f"{{kind: {NEURAL}, options: {{model: counts, view: {kind if kind != NEURAL else options.get('view', 'table')}}}}}"
        )
