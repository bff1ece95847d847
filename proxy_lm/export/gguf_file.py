"""A run as one GGUF file, for llama.cpp and what is built on it.

    proxy-lm export gguf runs/nano exported/nano.gguf

llama.cpp turns neighbouring pairs of a head where we turn halves, so the rows of the query and key matrices are put in its order. Its
byte-level tokenizer refuses an empty list of merges: the file has one, of two bytes 0xFF into the last reserved id, which no UTF-8 text
holds. Ids are then the bytes, and the name of a special inside a text is text unless the caller asks for specials.

llama.cpp puts `<|bos|>` in front of a text by itself and cannot be told to put `<|raw|>` behind it: give it ids, `[257, 259, *data]`, which
also is the only way for bytes that are no UTF-8. The file cannot forbid ids; a trained model gives specials other than the two ends next to
nothing, and a sampler's bias (`logit_bias`) gives them nothing.

Not promised: quantized types (llama.cpp's own tools make them from this file); fill-in-the-middle by llama.cpp's `infill`, which leaves
`<|raw|>` out; the run's extra heads.
"""

# H heads, E width of a head

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compressors.files import atomic_writer, sha256_file
from proxy_lm.errors import RequestError, WorkError
from proxy_lm.export.check import ABSOLUTE_LIMIT, LONG_ROW, expected_logits, logits_agree, probe_ids, round_weights
from proxy_lm.export.llama import LlamaReader, LlamaShape, llama_weights
from proxy_lm.export.source import SCHEMA, Source, open_source
from proxy_lm.export.tokenizer import byte_characters, names
from proxy_lm.progress import note
from proxy_lm.vocabulary import BOS, EOS, NUM_BYTES, PAD, RAW_END, RAW_VOCABULARY_SIZE, special_id

# Ours, and the names of `gguf.LlamaFileType` and `gguf.GGMLQuantizationType`. Norms are float32 in all three, as llama.cpp wants them.
DTYPES: Final = {
    "fp32": (torch.float32, "ALL_F32", "F32"),
    "fp16": (torch.float16, "MOSTLY_F16", "F16"),
    "bf16": (torch.bfloat16, "MOSTLY_BF16", "BF16"),
}
_MAGIC: Final = b"GGUF"
_MERGED_ID: Final = RAW_VOCABULARY_SIZE - 1
_WHOLE: Final = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_PARTS: Final = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_FIM: Final = {"pre": "prefix", "suf": "suffix", "mid": "middle", "pad": "pad"}


def export_gguf(run: Path, out: Path, *, dtype: str = "fp32", replace: bool = False) -> dict[str, Any]:
    """Write the file `out` and return what was done, as plain JSON. Raises `RequestError` for a run without raw bytes, a place that is
    taken or a missing `gguf` package; `WorkError` when the file does not read back to the same logits: then `out` is as it was."""
    _check(out, replace)
    source = open_source(run)
    kind, _, _ = DTYPES[dtype]
    ids = probe_ids(min(source.shape.row_length, LONG_ROW))
    rounding = round_weights(source.loaded.model, kind, ids, norms=False)
    expected = expected_logits(source.loaded.model, ids)
    with atomic_writer(out) as file:
        note(f"writing {out}")
        path = Path(file.name)  # the package opens files by name; this one gets its real name when the block ends
        write(path, source, dtype)
        note("reading it back")
        shape, weights = read(path)
        weights = {name: tensor.double() for name, tensor in weights.items()}
        check = logits_agree(expected, LlamaReader(weights, shape).logits(ids), "this program's reader", ABSOLUTE_LIMIT)
    return {
        "schema": SCHEMA,
        "format": "gguf",
        "dtype": dtype,
        **source.identity(),
        "num_parameters": source.num_parameters,
        "check": check,
        "largest_change_by_rounding": rounding,
        "files": [{"name": out.name, "num_bytes": out.stat().st_size, "sha256": sha256_file(out)}],
    }


def _check(out: Path, replace: bool) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise RequestError("the package gguf is missing, which writes GGUF files: pip install 'proxy-lm[export]'")
    if out.suffix != ".gguf":
        raise RequestError(f"{out} does not end in .gguf, and programs look for that: give {out}.gguf")
    if out.is_dir():
        raise RequestError(f"{out} is a folder; an export is one file: give a name inside it")
    if not out.exists():
        return
    with out.open("rb") as file:
        is_gguf = file.read(len(_MAGIC)) == _MAGIC
    if not (replace and is_gguf):
        raise RequestError(
            f"{out} exists{'; give --replace to write it anew, or' if is_gguf else ' and is no GGUF file; give'} another name"
        )


def write(path: Path, source: Source, dtype: str) -> None:
    """The file, without a check."""
    from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
    from gguf.quants import quantize

    _, file_type, tensor_type = DTYPES[dtype]
    writer = GGUFWriter(None, "llama")
    writer.add_file_type(LlamaFileType[file_type])
    _add_numbers(writer, source)
    _add_tokenizer(writer)
    for name, tensor in llama_weights(source.loaded.model).items():
        numbers = in_pairs(name, tensor.float().numpy(), source.shape)
        kind = GGMLQuantizationType["F32" if numbers.ndim == 1 else tensor_type]
        writer.add_tensor(gguf_name(name), quantize(numbers, kind), raw_dtype=kind)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read(path: Path) -> tuple[LlamaShape, dict[str, Tensor]]:
    """Shape and float32 weights of a file by their names in `LlamaForCausalLM`; the tokenizer's list is compared on the way."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(path)

    def value(key: str) -> Any:
        return reader.fields[key].contents()

    if value("tokenizer.ggml.tokens") != token_names():
        raise WorkError(f"the tokens in {path} are not those that were written; is the disk sound?")
    shape = LlamaShape(
        width=value("llama.embedding_length"),
        depth=value("llama.block_count"),
        num_heads=value("llama.attention.head_count"),
        num_kv_heads=value("llama.attention.head_count_kv"),
        head_width=value("llama.attention.key_length"),
        hidden=value("llama.feed_forward_length"),
        rope_theta=value("llama.rope.freq_base"),
        norm_eps=value("llama.attention.layer_norm_rms_epsilon"),
        init_std=float("nan"),
        row_length=value("llama.context_length"),
    )
    ours = {gguf_name(name): name for name in llama_names(shape.depth)}
    weights = {}
    for tensor in reader.tensors:
        name = ours[tensor.name]
        numbers = dequantize(tensor.data, tensor.tensor_type).reshape(tuple(reversed(tensor.shape.tolist())))
        weights[name] = torch.from_numpy(np.array(in_pairs(name, numbers, shape, back=True)))
    return shape, weights


def token_names() -> list[str]:
    """Name of every id in the file; the last is what the one merge makes."""
    return [*names()[:_MERGED_ID], 2 * byte_characters()[0xFF]]


def llama_names(depth: int) -> list[str]:
    """Every parameter of `LlamaForCausalLM`."""
    return [*_WHOLE, *(f"model.layers.{block}.{part}.weight" for block in range(depth) for part in _PARTS)]


def gguf_name(name: str) -> str:
    """llama.cpp's name of a parameter of `LlamaForCausalLM`."""
    if name in _WHOLE:
        return _WHOLE[name]
    _, _, block, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{block}.{_PARTS[part]}.weight"


def in_pairs(name: str, numbers: npt.NDArray[np.float32], shape: LlamaShape, *, back: bool = False) -> npt.NDArray[np.float32]:
    """Rows of query and key matrices [H * E, D] from halves to neighbouring pairs, so that i and i + E/2 become 2 i and 2 i + 1; or `back`.
    Other matrices as they are."""
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return numbers
    half = shape.head_width // 2
    split = (-1, half, 2, numbers.shape[1]) if back else (-1, 2, half, numbers.shape[1])
    return np.ascontiguousarray(numbers.reshape(split).swapaxes(1, 2).reshape(numbers.shape))


def _add_numbers(writer: Any, source: Source) -> None:
    shape, identity = source.shape, source.identity()
    writer.add_name(identity["run"])
    writer.add_string("proxy_lm.version", identity["proxy_lm"])
    writer.add_uint64("proxy_lm.checkpoint.step", identity["checkpoint"]["step"])
    writer.add_string("proxy_lm.checkpoint.sha256", identity["checkpoint"]["digest"])
    writer.add_vocab_size(RAW_VOCABULARY_SIZE)
    writer.add_context_length(shape.row_length)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.depth)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.num_heads)
    writer.add_head_count_kv(shape.num_kv_heads)
    writer.add_key_length(shape.head_width)
    writer.add_value_length(shape.head_width)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.norm_eps)


def _add_tokenizer(writer: Any) -> None:
    from gguf import TokenType

    last = byte_characters()[0xFF]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(token_names())
    # What the merge makes is never in a text, and a control token would be looked for by name.
    types = [TokenType.NORMAL] * NUM_BYTES + [TokenType.CONTROL] * (_MERGED_ID - NUM_BYTES) + [TokenType.UNUSED]
    writer.add_token_types(types)
    writer.add_token_merges([f"{last} {last}"])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_eot_token_id(RAW_END)
    writer.add_pad_token_id(PAD)
    for key, name in _FIM.items():
        writer.add_uint32(f"tokenizer.ggml.fim_{key}_token_id", special_id(f"<|fim_{name}|>"))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
