"""A model as a lossless coder of chunks: what a container and a measurement need to know of any model.

    predictor = open_predictor(Path("runs/nano"))
    coded = predictor.encode([b"def f(x):", b""])
    predictor.decode([one.payload for one in coded], [9, 0])        # [b"def f(x):", b""]

Each chunk is coded alone: its code depends on its bytes and the model, not on what else is in the call. Any bytes can be coded.

Not promised: checks of any kind. A damaged payload may decode to other bytes; whoever keeps payloads keeps checksums too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from compressors.base import JSON
from compressors.errors import RequestError

MAX_CHUNK_BYTES: Final = 1 << 16


@dataclass(frozen=True)
class Coded:
    """One chunk."""

    payload: bytes
    """Its arithmetic code, nothing else: no length, no checksum."""
    information_bits: float
    """-log2 of the probability that the integer frequencies give the chunk."""


class Predictor(Protocol):
    """A model with a coder. Equal identities decode each other's payloads (on one machine, where `portable` is False)."""

    @property
    def portable(self) -> bool:
        """Whole numbers only: equal code on every machine."""

    @property
    def lanes(self) -> int:
        """Chunks that are best given at once."""

    @property
    def num_parameters(self) -> int:
        """Numbers that the model holds."""

    @property
    def num_parameter_bytes(self) -> int:
        """Real bytes of the weights."""

    def identity(self) -> dict[str, JSON]:
        """What decoding depends on: kind, fingerprint of the weights, coder and its precision. To be compared before decoding."""

    def encode(self, chunks: Sequence[bytes]) -> list[Coded]:
        """Each chunk alone, without history; any bytes, empty too. Raises `RequestError` for a chunk of more than `MAX_CHUNK_BYTES`."""

    def decode(self, payloads: Sequence[bytes], lengths: Sequence[int]) -> list[bytes]:
        """The chunks, of exactly these lengths in bytes. Raises `DecodeError` for what cannot be, in time bounded by the lengths."""


def check_chunks(chunks: Sequence[bytes]) -> None:
    """Raises `RequestError` for a chunk that is too long."""
    for chunk in chunks:
        if len(chunk) > MAX_CHUNK_BYTES:
            raise RequestError(f"a chunk of {len(chunk)} bytes; at most {MAX_CHUNK_BYTES} are coded at once: cut it into smaller chunks")


def open_predictor(model: Path, *, view: str | None = None, device: str = "cpu") -> Predictor:
    """The predictor of a folder: an integer byte model (`model.json`), a run of ours (or one of its checkpoints), or a causal model of
    Hugging Face. `view` None: what the run is asked in. Raises `RequestError` for anything else."""
    from compressors.neural.models import MODEL_NAME, load_model
    from proxy_lm.codec.hugging_face_files import is_hugging_face

    if (model / MODEL_NAME).is_file():
        from proxy_lm.codec.byte_model import ByteModelPredictor

        if view not in (None, "raw"):
            raise RequestError(f"the byte model in {model} reads raw bytes and has no view '{view}'; leave the view out")
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise RequestError(f"device '{device}' is unknown; give cpu: a byte model computes there whatever device is named")
        return ByteModelPredictor(load_model(model))
    if is_hugging_face(model):
        from proxy_lm.codec.hugging_face import hugging_face_predictor  # torch

        if view not in (None, "raw"):
            raise RequestError(f"the model in {model} is read through its own tokenizer and has no view '{view}'; leave the view out")
        return hugging_face_predictor(model, device=device)
    _refuse_view(model)
    from proxy_lm.codec.run_model import run_predictor  # torch

    return run_predictor(model, view=view, device=device)


def _refuse_view(folder: Path) -> None:
    """A view is no model; the byte model that some were made with is one."""
    from compressors.neural.models import MODEL_NAME
    from compressors.registry import ARTIFACT_NAME
    from proxy_lm.neural_training import MODEL_FOLDER

    if (folder / ARTIFACT_NAME).is_file():
        model = folder / MODEL_FOLDER
        remedy = f"its byte model is in {model}" if (model / MODEL_NAME).is_file() else "give a run, a byte model or a Hugging Face model"
        raise RequestError(f"{folder} is a view, no model; {remedy}")
