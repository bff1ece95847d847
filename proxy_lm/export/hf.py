"""A run as a Hugging Face folder: weights, configuration, byte tokenizer and card, read back before it gets its name.

    proxy-lm export hf runs/nano exported/nano

The folder needs none of our code: `LlamaForCausalLM` and a fast tokenizer, for transformers 4 and 5 and whatever reads their files. It is
written without `transformers`. `LlamaReader` reads it back, and so does `transformers` where it is installed.

Not promised: several weight files (one file holds the model); anything about the extra heads, which `LlamaForCausalLM` does not have.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from compressors.files import disk_error, read_json, sha256_file, write_bytes, write_json
from proxy_lm.export.card import model_card
from proxy_lm.export.check import (
    ABSOLUTE_LIMIT,
    LONG_ROW,
    SHORT_ROW,
    expected_logits,
    logits_agree,
    probe_ids,
    relative_limit,
    round_weights,
    tokenizer_agrees,
    tokenizer_is_ours,
)
from proxy_lm.export.folder import RECORD_NAME, check_free, new_folder
from proxy_lm.export.llama import LlamaReader, LlamaShape, generation_configuration, llama_weights
from proxy_lm.export.source import SCHEMA, Source, open_source
from proxy_lm.export.tokenizer import tokenizer_files
from proxy_lm.progress import note

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}
WEIGHTS_FILE: Final = "model.safetensors"


def export_hf(run: Path, out: Path, *, dtype: str = "fp32", replace: bool = False) -> dict[str, Any]:
    """Write the folder `out` and return its record (`export.json`). Raises `RequestError` for a run without raw bytes or a place that is
    taken, `WorkError` when what was written does not read back to the same logits and bytes: then `out` is as it was."""
    check_free(out, replace=replace)
    source = open_source(run)
    model, kind = source.loaded.model, DTYPES[dtype]
    long_rows, short_rows = (probe_ids(min(source.shape.row_length, length)) for length in (LONG_ROW, SHORT_ROW))
    rounding = round_weights(model, kind, long_rows)
    expected, expected_short = expected_logits(model, long_rows), expected_logits(model, short_rows)
    with new_folder(out, replace=replace) as stage:
        note(f"writing {out}")
        _write(stage, source, kind)
        note("reading it back")
        record = {
            "schema": SCHEMA,
            "format": "hf",
            "dtype": dtype,
            **source.identity(),
            "num_parameters": source.num_parameters,
            "check": _read_back(stage, long_rows, expected),
            "transformers": _read_by_transformers(stage, short_rows, expected_short),
            "tokenizer_checked_by": _tokenizer_check(stage),
            "largest_change_by_rounding": rounding,
        }
        write_bytes(stage / "README.md", model_card(source, record).encode())
        record["files"] = [
            {"name": path.name, "num_bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in sorted(stage.iterdir())
        ]
        write_json(stage / RECORD_NAME, record)
    return record


def _write(stage: Path, source: Source, dtype: torch.dtype) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in llama_weights(source.loaded.model).items()}
    try:
        save_file(weights, stage / WEIGHTS_FILE, metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:  # the library has a class of its own for what a disk refuses
        raise disk_error(OSError(str(error)), stage / WEIGHTS_FILE) from error
    write_json(stage / "config.json", source.shape.configuration(str(dtype).removeprefix("torch.")))
    write_json(stage / "generation_config.json", generation_configuration())
    for name, contents in tokenizer_files(source.shape.row_length).items():
        write_json(stage / name, contents)
    # safetensors lets nobody else read what it writes; an export is to be read as any other file.
    (stage / WEIGHTS_FILE).chmod((stage / "config.json").stat().st_mode)


def _read_back(folder: Path, ids: Tensor, expected: Tensor) -> dict[str, Any]:
    shape = LlamaShape.read(read_json(folder / "config.json", "configuration"))
    weights = {name: tensor.double() for name, tensor in load_file(folder / WEIGHTS_FILE).items()}
    return logits_agree(expected, LlamaReader(weights, shape).logits(ids), "this program's reader", ABSOLUTE_LIMIT)


def _read_by_transformers(folder: Path, ids: Tensor, expected: Tensor) -> dict[str, Any] | None:
    """None where it is not installed."""
    if importlib.util.find_spec("transformers") is None:
        return None
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model: Any = transformers.LlamaForCausalLM.from_pretrained(folder, local_files_only=True)
    with torch.no_grad():
        found = model.double().eval()(ids).logits
    return logits_agree(expected, found, f"transformers {transformers.__version__}", relative_limit(expected))


def _tokenizer_check(folder: Path) -> str:
    if importlib.util.find_spec("transformers") is not None:
        import transformers

        fast = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return tokenizer_agrees(
            lambda text: fast(text).input_ids, lambda ids: fast.decode(ids[2:]), f"transformers {transformers.__version__}"
        )
    if importlib.util.find_spec("tokenizers") is not None:
        from tokenizers import Tokenizer

        plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
        by = f"tokenizers {importlib.metadata.version('tokenizers')}"
        return tokenizer_agrees(lambda text: plain.encode(text).ids, lambda ids: plain.decode(ids[2:]), by)
    return tokenizer_is_ours(folder)
