"""The model as `LlamaForCausalLM`: names, shapes and configuration, and a plain forward pass that reads them back.

    weights = llama_weights(decoder)                     # float32 tensors by their names in LlamaForCausalLM; 320 rows
    logits = LlamaReader(weights, LlamaShape.of(decoder, row_length)).logits(ids)

`LlamaReader` follows the published definition of Llama (arXiv 2302.13971; grouped keys: arXiv 2305.13245; rotate-half as in `transformers`)
and shares no line with our decoder. It checks an export where `transformers` is not installed.

Not promised: speed, or a cache; it is a check, not an engine.
"""

# B rows, T positions, D width, H query heads, K key heads, E width of a head, V ids

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from proxy_lm.model.decoder import Decoder, llama_name
from proxy_lm.vocabulary import BOS, EOS, NUM_BYTES, PAD, RAW_END, RAW_VOCABULARY_SIZE

_ROWS_BY_ID = ("model.embed_tokens.weight", "lm_head.weight")


class LlamaShape(NamedTuple):
    """Every number of the exported model."""

    width: int
    depth: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    hidden: int
    rope_theta: float
    norm_eps: float
    init_std: float
    row_length: int

    @classmethod
    def of(cls, model: Decoder, row_length: int) -> LlamaShape:
        """The numbers of a decoder trained on rows of `row_length` positions."""
        sizes = model.sizes
        same = {name: getattr(sizes, name) for name in cls._fields if name != "row_length"}
        return cls(**same, row_length=row_length)

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> LlamaShape:
        """The numbers of a `config.json` that `configuration` has written."""
        return cls(
            width=config["hidden_size"],
            depth=config["num_hidden_layers"],
            num_heads=config["num_attention_heads"],
            num_kv_heads=config["num_key_value_heads"],
            head_width=config["head_dim"],
            hidden=config["intermediate_size"],
            rope_theta=config["rope_theta"],
            norm_eps=config["rms_norm_eps"],
            init_std=config["initializer_range"],
            row_length=config["max_position_embeddings"],
        )

    def configuration(self, dtype: str) -> dict[str, Any]:
        """`config.json`. Keys that transformers 4 and 5 spell differently are there in both spellings."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": RAW_VOCABULARY_SIZE,
            "hidden_size": self.width,
            "intermediate_size": self.hidden,
            "num_hidden_layers": self.depth,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_width,
            "hidden_act": "silu",
            "max_position_embeddings": self.row_length,
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "initializer_range": self.init_std,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "mlp_bias": False,
            "tie_word_embeddings": False,
            "use_cache": True,
            "pretraining_tp": 1,
            "bos_token_id": BOS,
            "eos_token_id": [RAW_END, EOS],
            "pad_token_id": PAD,
            "dtype": dtype,
            "torch_dtype": dtype,
        }


def generation_configuration() -> dict[str, Any]:
    """`generation_config.json`: greedy, ends at the end sentinel or EOS, and no other special is ever written."""
    ends = [RAW_END, EOS]
    return {
        "bos_token_id": BOS,
        "eos_token_id": ends,
        "pad_token_id": PAD,
        "do_sample": False,
        "suppress_tokens": [number for number in range(NUM_BYTES, RAW_VOCABULARY_SIZE) if number not in ends],
    }


def llama_weights(model: Decoder) -> dict[str, Tensor]:
    """Parameters by their names in `LlamaForCausalLM`, on the host, of the ids of bytes and specials; extra heads are left behind. Most
    share memory with the model."""
    weights = {}
    for name, parameter in model.named_parameters():
        other = llama_name(name)
        if other is not None:
            rows = parameter.detach()[:RAW_VOCABULARY_SIZE].clone() if other in _ROWS_BY_ID else parameter.detach()
            weights[other] = rows.cpu().contiguous()
    return weights


class LlamaReader:
    """Logits from Llama weights by name, in the dtype of the weights."""

    def __init__(self, weights: Mapping[str, Tensor], shape: LlamaShape) -> None:
        self.weights = weights
        self.shape = shape

    @torch.no_grad()
    def logits(self, ids_BT: Tensor) -> Tensor:
        """[B, T] int64 -> [B, T, V]; every row begins at position 0."""
        weight, shape = self.weights, self.shape
        x_BTD = weight["model.embed_tokens.weight"][ids_BT]
        cos_TE, sin_TE = self._rotation(ids_BT.shape[1])
        for block in range(shape.depth):
            name = f"model.layers.{block}."
            y_BTD = self._norm(x_BTD, name + "input_layernorm")
            q_BHTE, k_BKTE, v_BKTE = (self._heads(y_BTD, f"{name}self_attn.{part}_proj") for part in "qkv")
            q_BHTE, k_BKTE = (x * cos_TE + _half_turned(x) * sin_TE for x in (q_BHTE, k_BKTE))
            groups = shape.num_heads // shape.num_kv_heads
            k_BHTE, v_BHTE = (x.repeat_interleave(groups, dim=1) for x in (k_BKTE, v_BKTE))
            scores_BHTT = q_BHTE @ k_BHTE.transpose(2, 3) / shape.head_width**0.5
            hidden_TT = torch.ones(scores_BHTT.shape[2:], dtype=torch.bool).triu(1)
            out_BHTE = scores_BHTT.masked_fill(hidden_TT, float("-inf")).softmax(-1) @ v_BHTE
            x_BTD = x_BTD + out_BHTE.transpose(1, 2).flatten(2) @ weight[name + "self_attn.o_proj.weight"].T
            y_BTD = self._norm(x_BTD, name + "post_attention_layernorm")
            gate, up, down = (weight[f"{name}mlp.{part}_proj.weight"].T for part in ("gate", "up", "down"))
            x_BTD = x_BTD + (F.silu(y_BTD @ gate) * (y_BTD @ up)) @ down
        return self._norm(x_BTD, "model.norm") @ weight["lm_head.weight"].T

    def _heads(self, y_BTD: Tensor, name: str) -> Tensor:
        """[B, heads, T, E]."""
        rows, positions, _ = y_BTD.shape
        return (y_BTD @ self.weights[name + ".weight"].T).view(rows, positions, -1, self.shape.head_width).transpose(1, 2)

    def _norm(self, x_BTD: Tensor, name: str) -> Tensor:
        size = x_BTD.pow(2).mean(-1, keepdim=True) + self.shape.norm_eps
        return x_BTD * size.rsqrt() * self.weights[name + ".weight"]

    def _rotation(self, num_positions: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [T, E]. Angles are float32, as in training: other programs round them otherwise, by 6e-8 of the position."""
        wavelengths = self.shape.rope_theta ** (torch.arange(0, self.shape.head_width, 2, dtype=torch.float64) / self.shape.head_width)
        angles = (torch.arange(num_positions, dtype=torch.float64)[:, None] / wavelengths).float().repeat(1, 2)
        dtype = self.weights["lm_head.weight"].dtype
        return angles.cos().to(dtype), angles.sin().to(dtype)


def _half_turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)
