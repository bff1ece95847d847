"""Any causal model in a local Hugging Face folder as a coder of chunks. Needs the extra: `pip install 'proxy-lm[export]'`.

    predictor = hugging_face_predictor(Path("models/gpt2"), device="cpu")

The folder has `config.json`, weights as safetensors and a tokenizer; nothing is fetched and no code of the folder is run. Weights of any
floating type compute as float64. A chunk is told in ids as a document's begin: what the tokenizer puts before a text, then ids that spell
the chunk's bytes and no others (`hugging_face_reading.py`). The payload is that of `symbol_model.py`: how the chunk is told (by the model;
by counted bytes; stored), then the ids. Their number is not coded: every id spells the same bytes wherever it stands, so the chunk ends
where its bytes are spelled. More ids than the model has positions are read in rows whose first half was told before.

What decoding depends on is in the identity: configuration, weights and tokenizer files, and what the installed tokenizer makes of them.
The versions of transformers and torch are not. They change often and these numbers seldom, and by less than the coder allows; a version
that computes something else is found by the checksum of the first chunk, and nothing wrong is written. Refusing each other version
would lose files that decode.

Not promised: speed; float64 is slow, and every chunk begins with an empty context. Memory: eight bytes a parameter.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from compressors.base import JSON
from compressors.files import digest_of
from proxy_lm.codec.hugging_face_files import ModelFiles, check_known, model_files
from proxy_lm.codec.symbol_model import SymbolPredictor
from proxy_lm.errors import RequestError
from proxy_lm.reading import device_named

DEFAULT_ROW_LENGTH: Final = 2048
"""Ids of a row where the configuration names no limit."""
_LANE_BYTES: Final = 1 << 30
_LANE_IDS: Final = 1024
_MOST_LANES: Final = 32


def hugging_face_predictor(folder: Path, *, device: str = "cpu") -> SymbolPredictor:
    """The predictor of a folder. Raises `RequestError` where the extra or a file is missing, for a folder that brings its own code, weights
    that are no safetensors, and a model or tokenizer that nothing can be coded with."""
    files = model_files(folder)
    if importlib.util.find_spec("transformers") is None:
        raise RequestError(f"{folder} is a Hugging Face model, and transformers is not installed: pip install 'proxy-lm[export]'")
    import transformers

    from proxy_lm.codec.hugging_face_body import HuggingFaceBody
    from proxy_lm.codec.hugging_face_reading import reading_of

    check_known(files.config, folder, transformers.CONFIG_MAPPING)
    where = device_named(device)
    stored_bytes = files.weight_bytes()
    with _quiet():
        tokenizer = _loaded(files, "tokenizer", transformers.AutoTokenizer.from_pretrained)
        model, info = _loaded(
            files,
            "model",
            transformers.AutoModelForCausalLM.from_pretrained,
            dtype=torch.float64,
            use_safetensors=True,
            output_loading_info=True,
        )
        _check_loaded(info, files)
        if hasattr(model, "set_experts_implementation"):  # transformers 5; its grouped products have no float64
            model.set_experts_implementation("eager")
        model = model.double().eval().requires_grad_(False).to(where)
        config = model.config.get_text_config()
        head = model.get_output_embeddings()
        num_rows = config.vocab_size if head is None else head.weight.shape[0]
        reading = reading_of(tokenizer, num_rows, config.bos_token_id)
        body = HuggingFaceBody(model, reading.ids, _row_length(config))
        body.check()
    told: dict[str, JSON] = {
        "begin": list(reading.begin),
        "ids": reading.ids.tolist(),
        "spelled": [text.hex() for text in getattr(reading, "spelled", [])],
    }
    identity: dict[str, JSON] = {"kind": "hugging face", "fingerprint": files.digest(), "reading": digest_of(told)}
    predictor = SymbolPredictor(body, reading, identity, sum(p.numel() for p in model.parameters()), stored_bytes)
    lane_bytes = max(1, body.bytes_per_position() * min(_LANE_IDS, body.row_length))
    predictor.lanes = max(1, min(_MOST_LANES, _LANE_BYTES // lane_bytes))
    return predictor


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's bars and advice."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _loaded(files: ModelFiles, what: str, load: Any, **options: Any) -> Any:
    import transformers

    try:
        return load(files.folder, local_files_only=True, trust_remote_code=False, **options)
    except Exception as error:  # the library raises whatever its parts raise
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise RequestError(
            f"transformers {transformers.__version__} cannot load the {what} in {files.folder}: {told[0]}; give a folder that it can load"
        ) from error


def _check_loaded(info: Any, files: ModelFiles) -> None:
    """Weights that are not in the files would be random numbers."""
    for key in ("missing_keys", "mismatched_keys"):
        names = sorted(str(name) for name in info.get(key) or ())
        if names:
            raise RequestError(
                f"{files.folder} has not all weights of its model as a causal language model ({len(names)} missing, first: {names[0]}); "
                "give a folder of a causal model"
            )


def _row_length(config: Any) -> int:
    """Ids of a row: positions that the model knows. Where angles depend on how many there are, only those that change nothing."""
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
    found = [value for name in names if isinstance(value := getattr(config, name, None), int) and value > 0]
    length = found[0] if found else DEFAULT_ROW_LENGTH
    for name in ("rope_parameters", "rope_scaling"):
        rope = getattr(config, name, None)
        if isinstance(rope, dict) and rope.get("rope_type", rope.get("type")) in ("dynamic", "longrope"):
            original = rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
            length = min(length, original or length)
    return length
