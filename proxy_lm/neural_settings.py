"""What a transformer byte model is trained with: a preset, then `a.b=c`. Imports no torch.

    --preset 3m --set num_steps=2000 optimizer.learning_rate=1e-3 crops.lengths=[28,60] launch.num_ranks=2

Everything that `proxy_lm.train` takes can be set, but for what the command itself decides (name, out, corpus, views, mix). `crops.*` say
which stretches are seen, `launch.*` how the run is started.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

from pydantic import Field

from proxy_lm.config import Settings, merge, parse_override, validate
from proxy_lm.data.corpus import Corpus
from proxy_lm.errors import RequestError
from proxy_lm.model.flops import training_flops_per_symbol
from proxy_lm.train.child import LaunchSettings
from proxy_lm.train.settings import RunSettings, num_steps, step_shape
from proxy_lm.vocabulary import RAW_VOCABULARY_SIZE

# BOS, RAW_START and their ends around every crop.
_IDS_BESIDE_PAYLOAD: Final = 4
_FIXED: Final = ("name", "out", "corpus", "views", "mix", "vocabulary_size", "resume")
# Of a run; none of it changes what is learned.
_NOT_IDENTITY: Final = {
    "name",
    "out",
    "corpus",
    "views",
    "rows_per_device",
    "validation",
    "logging",
    "checkpoint",
    "communication",
    "resume",
}
_BUDGETS: Final = ("num_steps", "num_symbols", "training_flops")
DEFAULT_PRESET: Final = "0.7m"
# A window of a table ends after 5 bytes, 98 of 100 within 16: most of the crops are short, so that the first bytes are learned best, and
# some are as long as the longest strings. A stream reads on and on: crops as long as a row.
SHORT_CROPS: Final = (28, 28, 28, 60)
LONG_CROPS: Final = (508,)
MIXED_CROPS: Final = (28, 60, 508)
_MAX_CROP_BYTES: Final = 1 << 28

# Quarter of an hour on a quiet core; hours there, minutes on a GPU; a GPU.
_PRESETS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "0.7m": {"num_steps": 3000, "rows_per_step": 8, "rows_per_device": 8, "optimizer": {"learning_rate": 3e-3}},
        "3m": {"num_steps": 6000, "rows_per_step": 32, "rows_per_device": 32, "optimizer": {"learning_rate": 2e-3}},
        "41m": {
            "num_steps": 16000,
            "rows_per_step": 128,
            "rows_per_device": 64,
            "precision": "bf16",
            "optimizer": {"learning_rate": 1e-3},
        },
    }
)
_BASE: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "row_length": 512,
        "schedule": {"kind": "cosine", "warmup_share": 0.02, "floor": 0.03},
        "validation": {"max_bytes": 262_144},
        "checkpoint": {"every_seconds": 60.0},
        "logging": {"tensorboard": False},
    }
)


class CropSettings(Settings):
    """Which stretches of the text are seen."""

    lengths: tuple[Annotated[int, Field(ge=4, le=1 << 20)], ...] | None = Field(default=None, min_length=1)
    """Bytes of a crop, drawn anew for each, every entry equally likely; a length that stands twice is drawn twice as often. None: short
    ones for `table`, as long as a row for `stream`, both for `segments`."""

    num_bytes: int | None = Field(default=None, ge=1)
    """Bytes of all crops; they are told again where the run is longer. None: as many as the run tells, at most 256 MiB."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One training of one byte model, nothing left open."""

    run: RunSettings
    launch: LaunchSettings
    lengths: tuple[int, ...]
    num_crop_bytes: int
    split: str
    held_out: str
    identity: dict[str, Any]
    """What fixes the model, as JSON; equal identities (`changed_settings` finds nothing) continue one another."""

    @property
    def context_bytes(self) -> int:
        """The longest stretch that training sees, rounded down to an even number."""
        return max(self.lengths) // 2 * 2


def transformer_request(
    corpus: Corpus,
    folder: Path,
    preset: str | None,
    view: str,
    options: Mapping[str, Any],
    settings: Sequence[str],
    split: str,
    held_out: str,
) -> Request:
    """The request that a command line means, its run in `folder`. Raises `RequestError` for anything that could not be trained."""
    given: dict[str, Any] = {}
    for text in settings:
        given = merge(given, parse_override(text))
    for name in _FIXED:
        if name in given:
            raise RequestError(f"--set {name}=... is decided by this command; the other settings of `proxy_lm.train` may be set")
    crops = validate(CropSettings, _group(given, "crops"), source="crops")
    launch = validate(LaunchSettings, _group(given, "launch"), source="launch")
    run = _run(given, folder, preset or DEFAULT_PRESET)
    if launch.arguments is None:
        if "rows_per_device" not in given:
            run = run.model_copy(update={"rows_per_device": min(run.rows_per_device, max(1, run.rows_per_step // launch.num_ranks))})
        step_shape(run, launch.num_ranks)  # told here and not by the ranks, minutes later
    lengths = crops.lengths or _lengths_for(view, options)
    _check_lengths(corpus, lengths, split, held_out)
    mean = sum(lengths) / len(lengths)
    assert run.num_steps is not None
    told = int(run.num_steps * run.rows_per_step * run.row_length * mean / (mean + _IDS_BESIDE_PAYLOAD)) + 1
    num_crop_bytes = crops.num_bytes or min(told, _MAX_CROP_BYTES)
    identity = {
        "kind": "transformer",
        "text_digest": corpus.digest,  # not under `corpus`: that is a path, which may change
        "splits": [split, held_out],
        "crops": {"lengths": list(lengths), "num_bytes": num_crop_bytes},
        **run.model_dump(mode="json", exclude=_NOT_IDENTITY),
    }
    return Request(
        run=run, launch=launch, lengths=tuple(lengths), num_crop_bytes=num_crop_bytes, split=split, held_out=held_out, identity=identity
    )


def _run(given: Mapping[str, Any], folder: Path, preset: str) -> RunSettings:
    if preset not in _PRESETS:
        raise RequestError(f"unknown preset '{preset}' of a byte model; known: {', '.join(_PRESETS)} (--set model.width=... changes one)")
    base = merge(dict(_BASE), {**_PRESETS[preset], "model": {"preset": preset}})
    if any(name in given for name in _BUDGETS):
        del base["num_steps"]
    values = merge(base, {name: value for name, value in given.items() if name not in ("crops", "launch")})
    fixed = {"name": "byte-model", "out": str(folder), "corpus": str(folder / "crops")}
    run = validate(RunSettings, {**values, **fixed}, source="the byte model's settings")
    if run.model.resolved().num_extra_heads:
        raise RequestError("a byte model has one head; leave model.num_raw_heads and model.num_symbol_heads at 0")
    steps = num_steps(run, training_flops_per_symbol(run.model, RAW_VOCABULARY_SIZE, run.row_length))
    return run.model_copy(update={"num_steps": steps, "num_symbols": None, "training_flops": None})


def _group(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    group = given.get(name, {})
    if not isinstance(group, dict):
        raise RequestError(f"--set {name}={group!r} is a group of settings; write {name}.NAME=VALUE")
    return group


def _lengths_for(view: str, options: Mapping[str, Any]) -> tuple[int, ...]:
    if view == "segments":
        return MIXED_CROPS
    return LONG_CROPS if view == "stream" and options.get("reset") != "always" else SHORT_CROPS


def _check_lengths(corpus: Corpus, lengths: Sequence[int], *splits: str) -> None:
    for split in splits:
        documents = corpus.splits[split]
        longest = int(corpus.sizes[documents.start : documents.stop].max(initial=0))
        if max(lengths) > longest:
            raise RequestError(
                f"crops of {max(lengths)} bytes are wanted and the longest document of split '{split}' has {longest}: "
                "set crops.lengths to shorter ones, or prepare more text"
            )
