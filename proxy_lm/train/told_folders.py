"""Corpus and views that a run's configuration names: where they are now.

    told = ToldFolders(settings, Path("/data/mine/arms/tokens"), checkpoint.state)
    told.view("spm")                      # Path("/data/mine/views/spm")
    told.places("runs/mine/views/spm")    # all that are looked at, the one that is told first

A configuration names folders as they were seen from where the run was trained. Asked from another folder, or after the comparison that
holds the run and its views was moved, they are looked for beside the run too: where they stood relative to it, and from each folder above
it. Of what is there, the one with the digest of the training is taken; so a stranger of the same name is passed over. No torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from compressors.files import read_json
from compressors.neural.models import MODEL_NAME
from compressors.registry import ARTIFACT_NAME
from proxy_lm.config import read_yaml, validate
from proxy_lm.data.corpus import MANIFEST
from proxy_lm.errors import RequestError
from proxy_lm.train.run_files import CHECKPOINTS_NAME, CONFIG_NAME, RUN_NAME
from proxy_lm.train.settings import RunSettings


@dataclass(frozen=True)
class ToldFolders:
    """`run` is the run folder, wherever it is now, or one checkpoint of it; `state` is what its checkpoint says it was trained with."""

    settings: RunSettings
    run: Path
    state: Mapping[str, Any]

    @classmethod
    def of_run(cls, run: Path) -> Self:
        """By the files of a run folder, without its checkpoints. Raises `RequestError` where its configuration is none of this version."""
        settings = validate(RunSettings, read_yaml(run / CONFIG_NAME), source=str(run / CONFIG_NAME))
        record = run / RUN_NAME
        return cls(settings, run, read_json(record, "record of a run") if record.is_file() else {})

    def corpus(self) -> Path:
        """The folder of the corpus; as the configuration says it where none is there."""
        return self._found(self.settings.corpus, MANIFEST, "digest", self.state.get("identity", {}).get("corpus"))

    def view(self, name: str) -> Path:
        """The folder of a view of the run; as the configuration says it where none is there."""
        return self._found(self.settings.views[name], ARTIFACT_NAME, "fingerprint", self.state.get("fingerprints", {}).get(name))

    def here(self) -> RunSettings:
        """The settings with corpus, views and a teacher's model where they are now."""
        found: dict[str, Any] = {"corpus": str(self.corpus()), "views": {name: str(self.view(name)) for name in self.settings.views}}
        if (teacher := self.settings.teacher) is not None:
            model = str(self._found(teacher.model, MODEL_NAME, "fingerprint", self.state.get("identity", {}).get("teacher")))
            found["teacher"] = teacher.model_copy(update={"model": model})
        return self.settings.model_copy(update=found)

    def places(self, told: str) -> list[Path]:
        """Where a folder of the configuration is looked for."""
        return [Path(told), *self._beside(told), *self._above(told)]

    def missing(self, what: str, told: str) -> str:
        """A sentence about a folder that is at none of the places."""
        seen_from = "" if Path(told).is_absolute() else f" seen from {Path.cwd()}"
        beside = self._beside(told)
        looked = f", nor beside the run ({' or '.join(map(str, beside))})" if beside else ""
        looked += ", nor seen from a folder above the run" if self._above(told) else ""
        return f"the run names its {what} by the folder {told}, which is not there{seen_from}{looked}"

    @cached_property
    def _runs(self) -> list[Path]:
        """The run folder as it was given and, where a link leads to it, as it is."""
        run = Path(os.path.abspath(self.run))
        run = run.parent.parent if run.parent.name == CHECKPOINTS_NAME else run
        return list(dict.fromkeys([run, run.resolve()]))

    def _beside(self, told: str) -> list[Path]:
        """Where it stood relative to the run; nowhere where one of the two paths cannot be seen from the other."""
        path, trained_in = Path(told), self.settings.folder
        if path.is_absolute() != trained_in.is_absolute():
            return []
        return [Path(os.path.normpath(run / os.path.relpath(path, trained_in))) for run in self._runs]

    def _above(self, told: str) -> list[Path]:
        return [] if Path(told).is_absolute() else [above / told for run in self._runs for above in run.parents]

    def _found(self, told: str, file: str, key: str, wanted: object) -> Path:
        there = [place for place in self.places(told) if place.is_dir()]
        right = (place for place in there if wanted is not None and _said(place / file, key) == wanted)
        return next(right, there[0] if there else Path(told))


def _said(path: Path, key: str) -> object:
    """What a folder says that it is; None where it says nothing that can be read. Who opens it checks it."""
    try:
        return read_json(path, "manifest").get(key)
    except RequestError:
        return None
