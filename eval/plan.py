"""A comparison as one YAML: what is asked, the corpus, the views, what all arms share, and what each arm changes. No torch here.

    proxy-lm-eval compare configs/compare/quickstart.yaml --dry-run

    base:  {row_length: 1024, rows_per_step: 16, model: {preset: nano}, ...}     settings of proxy_lm.train that every arm gets
    arms:  {bytes: {}, proxy: {views: [spm], mix: {rate: 0.9}}}                  what an arm changes; `views` names views of the plan
    match: {flops: 2.0e14}                                                      see eval/budget.py

Everything in `base` is equal for all arms by construction: data order, seeds, heads, optimizer. What an arm changes is listed in the
report. `scales`, `budgets` and `seeds` multiply arms (eval/README.md, "Grids").
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from eval.bpb import EvaluationSettings
from eval.budget import MatchSettings
from eval.planned_teacher import check_teacher_view, located_teacher, teacher_view
from proxy_lm.config import Settings, merge, validate
from proxy_lm.data.corpus import SPLITS
from proxy_lm.errors import RequestError
from proxy_lm.train.child import LaunchSettings
from proxy_lm.train.settings import RunSettings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._]*\Z")
_COMPUTED = ("name", "out", "corpus", "seed", "num_steps", "num_symbols", "training_flops", "resume", "vocabulary_size")


class CorpusPlan(Settings):
    """A corpus to prepare, or one that is there."""

    sources: list[str] = Field(default_factory=list)
    """As `proxy-lm prepare` takes them: folders, archives, `hf:NAME`, `python:`."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Further settings of `proxy-lm prepare`."""

    path: str | None = None
    """A prepared corpus to use as it is; then there are no sources."""

    @model_validator(mode="after")
    def _one(self) -> CorpusPlan:
        if bool(self.sources) == (self.path is not None):
            raise ValueError("give either 'sources' to prepare, or the 'path' of a prepared corpus")
        return self


class ViewPlan(Settings):
    """A view to make: the compressor is fitted on the train split only."""

    kind: str
    """A name that `proxy-lm compressor list` shows."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Options of that compressor."""


class ArmLaunchSettings(LaunchSettings):
    """How every arm is started, how many run side by side, and how many processes score one."""

    jobs: int | None = Field(default=None, ge=1)
    """Runs side by side on this machine, which share its cores; None: one without accelerators, else as many as there are devices for
    `num_ranks` ranks each. More than that share devices."""

    evaluation_workers: int | None = Field(default=None, ge=1)
    """Processes that score; None: num_ranks on a CPU, 1 with an accelerator."""


class SearchSettings(Settings):
    """The same small search for learning rates for every arm: short runs of each at each rate, judged on the valid split."""

    learning_rates: list[float] = Field(min_length=2)
    """Peak rates that are tried."""

    share: float = Field(default=0.25, gt=0, le=1)
    """Length of a try, as a share of the arm's first budget at that scale."""

    seed: int = Field(default=1000, ge=0)
    """Seed of all tries; none of `seeds`, so that the search has not seen the runs it serves."""

    scales: list[str] | None = None
    """Scales that are searched. The others take the rate from the last of these, by `transfer`. None: all."""

    transfer: Literal["width", "same"] = "width"
    """width: the rate times the ratio of the widths (searched over taken); same: the rate as it is."""


class LeftOut(Settings):
    """Cells of the grid that are not run: all that match what is given here."""

    arms: list[str] | None = None
    scales: list[str] | None = None
    budgets: list[str] | None = None
    seeds: list[int] | None = None


class ComparePlan(Settings):
    """The whole comparison."""

    name: str
    """Name of its folder under runs/."""

    question: str = ""
    """What the comparison asks, in a sentence; printed on top of the report."""

    corpus: CorpusPlan
    """The documents."""

    views: dict[str, ViewPlan] = Field(default_factory=dict)
    """Views that arms may use, by name."""

    base: dict[str, Any] = Field(default_factory=dict)
    """Settings of `proxy_lm.train` that every arm gets."""

    arms: dict[str, dict[str, Any]]
    """What each arm changes of `base`; `views` is a list of names."""

    scales: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Settings by which every arm is repeated, such as {nano: {model: {preset: nano}}}; empty: once, as it stands."""

    match: MatchSettings
    """What is equal between arms."""

    budgets: dict[str, float | dict[str, float]] = Field(default_factory=dict)
    """Targets in the unit of `match`, by name: a number for every scale, or {scale: number}, where a scale that is not named has no cell.
    Empty: the one of `match`."""

    left_out: list[LeftOut] = Field(default_factory=list)
    """Cells that are not run."""

    search: SearchSettings | None = None
    """How learning rates are chosen; None: as they stand in `base`, `scales` and the arms."""

    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)
    """Every arm runs once with each."""

    baseline: str | None = None
    """The arm that the others are judged against; None: the first."""

    launch: ArmLaunchSettings = ArmLaunchSettings()
    """How arms are started."""

    evaluation: EvaluationSettings = EvaluationSettings()
    """How they are scored; the same for all."""

    evaluations: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """What every arm is asked after bits per byte: commands of `proxy-lm-eval` with their options (see eval/further.py)."""

    @model_validator(mode="after")
    def _check(self) -> ComparePlan:
        if not self.arms:
            raise ValueError("a comparison without arms compares nothing; add at least two under 'arms'")
        for what, names in (("name", [self.name]), ("view", self.views), ("arm", self.arms), ("scale", self.scales)):
            for name in names:
                # A hyphen joins arm, scale and seed in folder names, so that two of them can never make the same folder.
                if not _NAME.match(name if what != "name" else name.replace("-", "")):
                    raise ValueError(f"{what} '{name}' is used as a folder name: letters, digits, '.' and '_', a letter or digit first")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds {self.seeds} repeat; each runs once")
        if self.baseline is not None and self.baseline not in self.arms:
            raise ValueError(f"baseline '{self.baseline}' is no arm; arms: {', '.join(self.arms)}")
        shared = [self.base, *self.scales.values()]
        computed = [key for key in _COMPUTED if any(key in values for values in (*shared, *self.arms.values()))]
        if computed or any("views" in values for values in shared):
            raise ValueError(f"'{(computed or ['views'])[0]}' is computed from the plan; take it out of 'base', the scales and the arms")
        for name, arm in self.arms.items():
            if not isinstance(arm.get("views", []), list):
                raise ValueError(f"arm '{name}' has views {arm['views']!r}; give a list of names, such as [spm]")
            unknown = [view for view in arm.get("views", []) if view not in self.views]
            if unknown:
                raise ValueError(f"arm '{name}' uses view '{unknown[0]}'; the plan has: {', '.join(self.views) or 'none'}")
        for run in arm_runs(self):
            check_teacher_view(f"arm '{run.arm}'", run.values, {name: (view.kind, view.options) for name, view in self.views.items()})
        self._check_grid()
        return self

    def _check_grid(self) -> None:
        """Budgets, what is left out, and the search name what is there."""
        known: dict[str, Sequence[Any]] = {
            "arms": list(self.arms),
            "scales": list(self.scales),
            "budgets": list(self.budgets),
            "seeds": self.seeds,
        }
        for name, targets in self.budgets.items():
            if not _NAME.match(name):
                raise ValueError(f"budget '{name}' is used as a folder name: letters, digits, '.' and '_', a letter or digit first")
            _among(f"budgets.{name}", list(targets) if isinstance(targets, dict) else [], known["scales"], "scale")
            wrong = [value for value in (targets.values() if isinstance(targets, dict) else [targets]) if value <= 0]
            if wrong:
                raise ValueError(f"budgets.{name} is {wrong[0]:g} {self.match.kind}; give a number above 0")
        for entry in self.left_out:
            given = entry.model_dump(exclude_none=True)
            if not given:
                raise ValueError("an entry of 'left_out' names nothing, so nothing would be run; name arms, scales, budgets or seeds")
            for what, names in given.items():
                _among(f"left_out.{what}", names, known[what], what[:-1])
        if next(arm_runs(self), None) is None:
            raise ValueError("'left_out' and 'budgets' leave no cell to run; take an entry out")
        if self.search is not None:
            self._check_search(self.search)

    def _check_search(self, search: SearchSettings) -> None:
        _among("search.scales", search.scales or [], list(self.scales), "scale")
        if search.scales == []:
            raise ValueError("search.scales is empty, so no learning rate would be found; name a scale, or leave it out for all")
        names = [f"{rate:g}" for rate in search.learning_rates]
        if len(set(names)) != len(names) or min(search.learning_rates) <= 0:
            raise ValueError(f"search.learning_rates are {', '.join(names)}; give different numbers above 0")
        if search.seed in self.seeds:
            raise ValueError(f"search.seed {search.seed} is one of 'seeds'; the search must not have seen the runs it serves: give another")
        for group, changes in (("arms", self.arms), ("scales", self.scales)):
            for name, values in changes.items():
                if isinstance(values.get("optimizer"), dict) and "learning_rate" in values["optimizer"]:
                    raise ValueError(f"{group}.{name} sets optimizer.learning_rate, which 'search' chooses; take one of them out")

    def targets(self, scale: str | None) -> dict[str | None, float]:
        """Budgets of a scale by name, in the unit of `match`; {None: the target of `match`} for a plan without budgets."""
        if not self.budgets:
            return {None: self.match.target}
        found: dict[str | None, float] = {}
        for name, target in self.budgets.items():
            if not isinstance(target, dict):
                found[name] = target
            elif scale in target:
                found[name] = target[scale]
        return found

    @property
    def judged_against(self) -> str:
        """Name of the baseline arm."""
        return self.baseline or next(iter(self.arms))


@dataclass(frozen=True)
class ArmRun:
    """One training run of the comparison: a cell of the grid, or a try of the search."""

    arm: str
    scale: str | None
    seed: int
    folder_name: str
    views: tuple[str, ...]
    values: Mapping[str, Any]
    """Settings of the run without its budget, corpus and folders."""
    budget: str | None = None
    target: float = 0.0
    """Of its budget, in the unit of `match`."""
    tried_rate: float | None = None
    """A try's learning rate; None for a cell of the grid."""

    @property
    def folder(self) -> str:
        """Its run folder, in the folder of the comparison."""
        return f"{'arms' if self.tried_rate is None else 'search'}/{self.folder_name}"

    @property
    def cell_name(self) -> str:
        """What `--cell` takes."""
        return self.folder_name if self.tried_rate is None else self.folder

    def with_learning_rate(self, rate: float) -> ArmRun:
        """The same run with another peak rate."""
        return replace(self, values=merge(dict(self.values), {"optimizer": {"learning_rate": rate}}))

    @property
    def needed_views(self) -> tuple[str, ...]:
        """Views that its result depends on: those it reads, and the one whose byte model teaches it."""
        teacher = teacher_view(self.values)
        return self.views if teacher is None or teacher in self.views else (*self.views, teacher)

    def settings(self, out: Path, corpus: Path, num_steps: int) -> RunSettings:
        """Complete settings. `out` is the comparison's folder."""
        located = {
            "name": self.folder_name,
            "out": str(out / self.folder),
            "corpus": str(corpus),
            "views": {view: str(out / "views" / view) for view in self.views},
            "seed": self.seed,
            "num_steps": num_steps,
        }
        # Enough points for a curve, unless the plan says otherwise.
        # A try is judged by its last validation; in a short one, twenty would cost more than the training.
        watched = {"validation": {"every_steps": -(-num_steps // (20 if self.tried_rate is None else 1))}}
        return validate(RunSettings, merge(merge(watched, located_teacher(self.values, out)), located), source=f"arm '{self.folder_name}'")


def arm_runs(plan: ComparePlan) -> Iterator[ArmRun]:
    """All cells: for every seed, scale and budget each arm, so that a comparison of one seed is complete before the next begins."""
    for seed in plan.seeds:
        scales: list[str | None] = list(plan.scales) or [None]
        for scale in scales:
            for budget, target in plan.targets(scale).items():
                for arm, changes in plan.arms.items():
                    if any(_leaves_out(entry, arm, scale, budget, seed) for entry in plan.left_out):
                        continue
                    values = merge(
                        merge(plan.base, plan.scales[scale] if scale else {}), {k: v for k, v in changes.items() if k != "views"}
                    )
                    parts = [
                        arm,
                        *([scale] if scale else []),
                        *([budget] if budget else []),
                        *([f"s{seed}"] if len(plan.seeds) > 1 else []),
                    ]
                    yield ArmRun(arm, scale, seed, "-".join(parts), tuple(changes.get("views", [])), values, budget, target)


def _leaves_out(entry: LeftOut, arm: str, scale: str | None, budget: str | None, seed: int) -> bool:
    asked: tuple[tuple[Sequence[Any] | None, Any], ...] = (
        (entry.arms, arm),
        (entry.scales, scale),
        (entry.budgets, budget),
        (entry.seeds, seed),
    )
    return all(names is None or name in names for names, name in asked)


def _among(where: str, names: Sequence[Any], known: Sequence[Any], what: str) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"{where} names {what} '{unknown[0]}'; the plan has: {', '.join(map(str, known)) or 'none'}")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed between two resolved plans that finished work depends on, as lines `key: old -> new`.

    How arms are scored, launched and judged may change, and arms, views, scales, budgets and seeds may be added.
    """
    lines = []
    for key in ("corpus", "base", "match"):
        lines += changed(key, old.get(key), new.get(key))
    if old.get("search") != new.get("search"):
        lines += changed("search", old.get("search") or {}, new.get("search") or {})
    for group in ("views", "arms", "scales", "budgets"):
        before, after = old.get(group) or {}, new.get(group) or {}
        if group in ("scales", "budgets") and bool(before) != bool(after):
            lines.append(f"{group}: {list(before)} -> {list(after)}")
        for name in before:
            if name not in after:
                continue
            mine, other = before[name], after[name]
            if group == "budgets" and isinstance(mine, dict) and isinstance(other, dict):  # that of another scale is of other cells
                mine, other = ({scale: side[scale] for scale in mine if scale in other} for side in (mine, other))
            lines += changed(f"{group}.{name}", mine, other)
    if (len(old["seeds"]) > 1) != (len(new["seeds"]) > 1):
        lines.append(f"seeds: {old['seeds']} -> {new['seeds']} (folders of one seed and of several are named differently)")
    return lines


def changed(key: str, old: Any, new: Any) -> list[str]:
    """Where two JSON values differ, as lines `key.name: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [line for name in {**old, **new} for line in changed(f"{key}.{name}".lstrip("."), old.get(name), new.get(name))]
    return [] if old == new else [f"{key}: {old!r} -> {new!r}"]


def check_arms(plan: ComparePlan) -> None:
    """Every arm's settings are valid before anything starts. Raises `RequestError` naming the arm and the setting."""
    if plan.evaluation.split not in SPLITS:
        raise RequestError(f"evaluation.split '{plan.evaluation.split}' is no split of a corpus; it has: {', '.join(SPLITS)}")
    for run in arm_runs(plan):
        settings = run.settings(Path("runs"), Path("corpus"), num_steps=1)
        if not run.views and plan.evaluation.context_bytes > settings.row_length:  # found after the training, it would come hours late
            raise RequestError(
                f"arm '{run.folder_name}' is scored with evaluation.context_bytes={plan.evaluation.context_bytes}, longer than its rows of "
                f"row_length={settings.row_length} ids; set evaluation.context_bytes to {settings.row_length} or less"
            )
        share = settings.rows_per_device * plan.launch.num_ranks
        if plan.launch.arguments is None and settings.rows_per_step % share:
            raise RequestError(
                f"arm '{run.folder_name}': rows_per_step={settings.rows_per_step} is not a multiple of rows_per_device="
                f"{settings.rows_per_device} times {plan.launch.num_ranks} ranks; change one of them"
            )
