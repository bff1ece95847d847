"""What an export starts from: one checkpoint of a run that was told raw bytes, and the records that lie beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import proxy_lm
from compressors.files import read_json
from proxy_lm.errors import RequestError
from proxy_lm.export.llama import LlamaShape
from proxy_lm.progress import note
from proxy_lm.train.checkpoint_files import parse_step
from proxy_lm.train.restore import LoadedModel, load_model
from proxy_lm.train.run_files import RUN_NAME
from proxy_lm.train.weights import WEIGHTS_NAME
from proxy_lm.vocabulary import RAW_VOCABULARY_SIZE

SCHEMA: Final = "proxy-lm export 1"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A loaded checkpoint and what is written down about it."""

    loaded: LoadedModel
    shape: LlamaShape
    weights_digest: str
    record: dict[str, Any]
    """`run.json`; empty where the run folder has none."""
    measured: list[dict[str, Any]]
    """Results of `proxy-lm-eval bpb` for these very weights, read raw."""

    @property
    def num_parameters(self) -> int:
        """Of the exported model: 320 rows and no extra heads."""
        model = self.loaded.model
        body = sum(math.prod(part.shape) for block in model.blocks for part in block.parameters())
        return body + self.shape.width * (1 + 2 * RAW_VOCABULARY_SIZE)

    def identity(self) -> dict[str, Any]:
        """Which weights these are, as plain JSON without paths."""
        return {
            "run": self.loaded.settings.name,
            "checkpoint": {"step": self.loaded.step, "digest": self.weights_digest},
            "proxy_lm": proxy_lm.__version__,
        }


def open_source(path: Path) -> Source:
    """The newest valid checkpoint of a run folder, or the checkpoint folder given, on the host. Raises `RequestError` for a run that was
    never told raw bytes: without them the 320 rows of an export hold nothing learnt, or with shared literals no raw text."""
    note(f"reading {path}")
    loaded = load_model(path)
    settings = loaded.settings
    if not settings.mix.tells_raw:
        views = ", ".join(settings.views) or "none"
        raise RequestError(
            f"the run '{settings.name}' was told by views alone ({views}) and never raw, and an export has the {RAW_VOCABULARY_SIZE} rows "
            "of bytes and specials, no views; use the run itself with `proxy-lm generate`, or train one whose mix tells raw bytes"
        )
    run = path.parent.parent if parse_step(path.name) is not None else path
    digest = next(entry["sha256"] for entry in loaded.manifest["files"] if entry["name"] == WEIGHTS_NAME)
    return Source(
        loaded=loaded,
        shape=LlamaShape.of(loaded.model, settings.row_length),
        weights_digest=digest,
        record=read_json(run / RUN_NAME, "record of the run") if (run / RUN_NAME).exists() else {},
        measured=_measured(run, digest),
    )


def _measured(run: Path, digest: str) -> list[dict[str, Any]]:
    results = [read_json(path, "result of `proxy-lm-eval bpb`") for path in sorted((run / "eval").glob("bpb-*.json"))]
    return [one for one in results if one.get("checkpoint", {}).get("digest") == digest and one.get("view") == "raw"]
