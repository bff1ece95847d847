"""A Hugging Face folder before anything in it is run: what has to be there, what is refused, and the digest of what decoding depends on.

    files = model_files(folder)
    files.digest()                  # over configuration, weights and tokenizer

Only files that are no programs are read: JSON, safetensors, vocabularies. A pickle (`pytorch_model.bin`) can run anything when it is
opened, and so can a configuration that brings its own code, names a repository of kernels or a base model that is elsewhere: refused.

Not promised: that the weights fit the configuration; loading finds that.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compressors.files import digest_of, read_json, sha256_file
from proxy_lm.errors import RequestError

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
TOKENIZER: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_MARKS: Final = (CONFIG, WEIGHTS, INDEX, "pytorch_model.bin", "adapter_config.json", "tokenizer_config.json")
_OURS: Final = ("manifest.json", "run.json", "artifact.json")


@dataclass(frozen=True)
class ModelFiles:
    """What of a folder is used."""

    folder: Path
    config: dict[str, Any]
    weights: tuple[str, ...]
    tokenizer: tuple[str, ...]

    def digest(self) -> str:
        """SHA-256 over names and digests of all files used. Reads the weights once."""
        index = (INDEX,) if (self.folder / INDEX).is_file() and self.weights != (WEIGHTS,) else ()
        return digest_of({name: sha256_file(self.folder / name) for name in (CONFIG, *index, *self.weights, *self.tokenizer)})

    def weight_bytes(self) -> int:
        """Real bytes of the weights: the files without their headers. Raises `RequestError` for what is cut before its header ends."""
        return sum(_data_bytes(self.folder / name) for name in self.weights)


def is_hugging_face(folder: Path) -> bool:
    """Whether this looks as if it were meant to be one: any of the files, and none that this program's own folders have."""
    return any((folder / name).is_file() for name in _MARKS) and not any((folder / name).is_file() for name in _OURS)


def model_files(folder: Path) -> ModelFiles:
    """Raises `RequestError` for a folder that has not all it needs, or that wants programs to be run or fetched."""
    if (folder / "adapter_config.json").is_file():
        raise RequestError(
            f"{folder} holds an adapter, whose base model is elsewhere; merge the two (peft: merge_and_unload) and save the whole model"
        )
    if not (folder / CONFIG).is_file():
        raise RequestError(f"{folder} has no {CONFIG}; give a folder as `save_pretrained` or `proxy-lm export hf` writes it")
    config = read_json(folder / CONFIG, "configuration")
    _check_config(config, folder)
    weights = _weights(folder)
    tokenizer = tuple(name for name in TOKENIZER if (folder / name).is_file())
    if not tokenizer:
        raise RequestError(f"{folder} has no tokenizer ({', '.join(TOKENIZER[:2])} or its like); save the model's tokenizer there too")
    if "tokenizer_config.json" in tokenizer:
        told = read_json(folder / "tokenizer_config.json", "tokenizer configuration")
        if told.get("auto_map") and not (folder / "tokenizer.json").is_file():
            raise RequestError(_own_code(folder, "tokenizer"))
    return ModelFiles(folder, config, weights, tokenizer)


def _check_config(config: dict[str, Any], folder: Path) -> None:
    if not isinstance(config.get("model_type"), str):
        raise RequestError(f"{folder / CONFIG} names no model_type, so nothing tells what the weights are; give another folder")
    if config.get("quantization_config"):
        raise RequestError(
            f"{folder} holds quantized weights, which need a library for each kind and compute otherwise from device to device; "
            "give the model as fp32, fp16 or bf16"
        )
    for key, value in config.items():
        if key.endswith("_implementation") and "/" in str(value):
            raise RequestError(f"{folder / CONFIG} wants {key} fetched from '{value}', and nothing is ever fetched; remove that entry")


def check_known(config: dict[str, Any], folder: Path, known: Any) -> None:
    """`known`: model types that transformers has. Raises `RequestError` for another one."""
    kind = config["model_type"]
    if kind in known:
        return
    if config.get("auto_map"):
        raise RequestError(_own_code(folder, "model"))
    raise RequestError(f"{folder} is of type '{kind}', which the installed transformers does not know; a newer one may")


def _own_code(folder: Path, what: str) -> str:
    return f"the {what} in {folder} is a program (auto_map), and no code of a model folder is ever run; give a model that needs none"


def _weights(folder: Path) -> tuple[str, ...]:
    if (folder / WEIGHTS).is_file():
        return (WEIGHTS,)
    if (folder / INDEX).is_file():
        table = read_json(folder / INDEX, "index of weights").get("weight_map")
        names = sorted({str(name) for name in table.values()}) if isinstance(table, dict) else []
        if not names:
            raise RequestError(f"{folder / INDEX} names no files of weights; fetch the model again")
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise RequestError(f"{folder / INDEX} names '{name}', which is no safetensors file beside it; give another folder")
            if not (folder / name).is_file():
                raise RequestError(f"{folder} has not all of its weights: {name} is missing; fetch it again")
        return tuple(names)
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt") and "token" not in path.name)
    if pickles:
        raise RequestError(
            f"{folder} has its weights in {pickles[0]} only, a format that can run programs when it is opened, so it is not; save it as "
            "safetensors where you trust it: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(OUT)"
        )
    raise RequestError(f"{folder} has no weights ({WEIGHTS}); fetch or save them")


def _data_bytes(path: Path) -> int:
    size = path.stat().st_size
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if size < 8 or header > size - 8:
        raise RequestError(f"{path} is cut or no safetensors file; fetch it again")
    return size - 8 - header
