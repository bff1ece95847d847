"""`model.safetensors` of a checkpoint: fp32 weights of the whole model, whatever the ZeRO stage, readable without DeepSpeed or pickle.

The file is written one tensor at a time in the format of the safetensors library (an 8-byte length, a JSON header, the data back to back),
because the library's own writer wants all tensors in memory at once, and here they are gathered from the ranks one by one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from compressors.files import disk_error
from proxy_lm.errors import WorkError

WEIGHTS_NAME: Final = "model.safetensors"
_ALIGNMENT = 8


def write_weights(
    path: Path | None, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[tuple[str, Tensor | None]], metadata: Mapping[str, str]
) -> None:
    """Write fp32 tensors, given in the order of `shapes`. With `path` None the iterable is only exhausted (ranks that help to gather).

    Raises `WorkError` after the last tensor if any number is not finite: such weights are never committed.
    """
    if path is None:
        for _ in tensors:
            pass
        return
    broken: list[str] = []
    try:
        with path.open("wb") as file:
            file.write(_header(shapes, metadata))
            for name, tensor in tensors:
                assert tensor is not None
                assert tensor.dtype == torch.float32, name
                assert tuple(tensor.shape) == shapes[name], name
                if not bool(torch.isfinite(tensor).all()):
                    broken.append(name)
                file.write(tensor.contiguous().numpy().data)
    except OSError as error:
        # The other ranks still gather with us: take what is left before telling.
        for _ in tensors:
            pass
        raise disk_error(error, path) from error
    if broken:
        raise WorkError(
            f"{len(broken)} of {len(shapes)} parameters are not finite (first: {broken[0]}), so this state is not saved; "
            "go on from the last checkpoint with a lower optimizer.learning_rate"
        )


def _header(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":"), sort_keys=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
