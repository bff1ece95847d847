"""Reading an export back before it is called done: the same logits, and a tokenizer that gives the bytes.

    expected = expected_logits(decoder, probe_ids(256))
    check = logits_agree(expected, LlamaReader(weights, shape).logits(ids), "this program's reader", ABSOLUTE_LIMIT)

All is computed in float64, so that a difference is one of the files and not of the order of sums: in float32 a small model with logits of
18 differs from itself by 1e-5, one of 28 blocks by 1e-4. `LlamaReader` has to agree within 1e-5, and does within 1e-6. `transformers` keeps
norms and angles in float32 whatever it is asked: it is given short rows, where angles are nearly exact, and 1e-5 of the largest logit
(3 blocks: 5e-6, 28 blocks: 2e-5 where the largest is 19).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from proxy_lm.errors import WorkError
from proxy_lm.export.tokenizer import names
from proxy_lm.model.decoder import Decoder
from proxy_lm.vocabulary import BOS, RAW_START, RAW_VOCABULARY_SIZE

ABSOLUTE_LIMIT: Final = 1e-5
RELATIVE_LIMIT: Final = 1e-5
LONG_ROW: Final = 256
SHORT_ROW: Final = 16
# What tokenizers are known to change: runs of spaces, tabs, other line ends, names of specials, marks that combine, no end of line.
TEXTS: Final = (
    "",
    " ",
    "def f(x):\n    return x  # <|eos|><|pad|> <|fim_prefix|> </s> <|endoftext|>\n",
    "\tif a :\r\n\t\tb = ' . , ! do n't'\r\n",
    "naïve e\u0301 日本語 \U0001f600 \u2581\u00a0\ufeff\u0000\u007f end   ",
)


def probe_ids(row_length: int) -> Tensor:
    """Rows int64 [B, T] in which every one of the 320 ids is read, in a fixed random order, behind the two ids that open a document."""
    order = np.random.Generator(np.random.Philox(key=[0, RAW_VOCABULARY_SIZE])).permutation(RAW_VOCABULARY_SIZE)
    length = max(row_length - 2, 1)
    rows = np.resize(order, (-(-len(order) // length), length))
    return torch.tensor([[BOS, RAW_START, *row] for row in rows.tolist()], dtype=torch.int64)[:, :row_length]


@torch.no_grad()
def expected_logits(model: Decoder, ids_BT: Tensor) -> Tensor:
    """Logits of the first 320 ids, float32 [B, T, 320], by our own decoder computing in float64."""
    positions_BT = torch.arange(ids_BT.shape[1]).expand_as(ids_BT)
    model.double()
    try:
        return model.logits(ids_BT, torch.zeros_like(ids_BT), positions_BT)[..., :RAW_VOCABULARY_SIZE]
    finally:
        model.float()


def round_weights(model: Decoder, dtype: torch.dtype, ids_BT: Tensor, *, norms: bool = True) -> float:
    """Round every parameter in place to what `dtype` can say, the gains of norms only if asked; the largest change of a logit that comes of
    it. Raises `WorkError` where a number is too large for the type."""
    if dtype == torch.float32:
        return 0.0
    before = expected_logits(model, ids_BT)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if norms or parameter.ndim > 1:
                parameter.copy_(parameter.to(dtype))
                if not bool(torch.isfinite(parameter).all()):
                    raise WorkError(f"{name} has numbers beyond the range of {dtype}, so nothing was written; export as fp32 or bf16")
    return float((expected_logits(model, ids_BT) - before).abs().max())


def logits_agree(expected_BTV: Tensor, found_BTV: Tensor, by: str, limit: float) -> dict[str, Any]:
    """What was compared, as plain JSON. Raises `WorkError` where the two differ by more than the limit, or anything is not finite."""
    difference = float((found_BTV - expected_BTV).abs().max()) if found_BTV.shape == expected_BTV.shape else float("nan")
    if not difference <= limit:  # also where it is not a number
        raise WorkError(
            f"the exported model, read back by {by}, gives other logits than the run (largest difference {difference:.3g}, limit "
            f"{limit:.3g}), so nothing was written; please report this with the version of that program"
        )
    return {
        "by": by,
        "largest_difference": difference,
        "limit": limit,
        "largest_logit": float(expected_BTV.abs().max()),
        "num_positions": expected_BTV.shape[0] * expected_BTV.shape[1],
    }


def relative_limit(expected_BTV: Tensor) -> float:
    """1e-5 of the largest logit, and at least 1e-5."""
    return RELATIVE_LIMIT * max(1.0, float(expected_BTV.abs().max()))


def tokenizer_agrees(encode: Any, decode: Any, by: str) -> str:
    """Compare `encode(text) -> ids` and `decode(ids) -> text` of another program with the bytes; returns `by`."""
    for text in TEXTS:
        ids, wanted = list(encode(text)), [BOS, RAW_START, *text.encode()]
        if ids != wanted or decode(ids) != text:
            raise WorkError(
                f"the exported tokenizer, read back by {by}, does not give the bytes of {text!r}, so nothing was written; please report "
                "this with the version of that program"
            )
    return by


def tokenizer_is_ours(folder: Path) -> str:
    """Where neither `transformers` nor `tokenizers` is installed: the vocabulary in `tokenizer.json` is ours and nothing is merged."""
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    if model["merges"] or model["vocab"] != {name: number for number, name in enumerate(names())}:
        raise WorkError(f"{folder / 'tokenizer.json'} is not what was written; is the disk sound?")
    return "this program's reader"
