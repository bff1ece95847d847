"""Cross-entropy in chunks of positions, inside the module that owns the output matrix.

For each chunk the logits are made, turned into losses and at once into the gradients of the hidden states and of the matrix, and dropped.
All logits never exist together: a vocabulary of 65,536 costs one chunk of them, and the backward pass computes nothing again.

Numbers: logits, softmax and sums are float32 whatever the dtype of the inputs. The gradients are kept without the division by the
number of positions, so that in float16 they do not underflow before the engine's loss scale reaches them in `backward`.

Not promised: second derivatives; gradients through the per-position losses (only through their sum).
"""

# N positions (rows flattened), D width, V ids

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# Logits of one chunk, in numbers. On one core 2**19 and 2**20 are level and 2**22 is a tenth slower (README.md). On CUDA, 1,024 positions
# of 65,536 ids, to fill the device; not measured.
CHUNK_LOGITS = {"cpu": 1 << 20, "cuda": 1 << 26}
MIN_CHUNK_POSITIONS = 64


class OutputHead(nn.Module):
    """An output matrix [V, D] with its loss. The matrix is only touched inside `forward`, where ZeRO 3 has gathered it."""

    def __init__(self, width: int, num_ids: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((num_ids, width), float("nan")))

    def forward(self, hidden_ND: Tensor, targets_N: Tensor | None = None, counts_N: Tensor | None = None) -> tuple[Tensor, Tensor] | Tensor:
        """With targets (int64) and counts (bool: this position counts): the sum of the losses in nats (float32 scalar,
        differentiable) and the losses [N] (float32, detached, 0 where not counted). Without: the logits, float32 [N, V]."""
        if targets_N is None or counts_N is None:
            return _logits(hidden_ND, self.weight)
        weight_VD: Tensor = self.weight
        if not torch.is_grad_enabled():  # an autograd Function is told that a parameter needs its gradient even here
            hidden_ND, weight_VD = hidden_ND.detach(), weight_VD.detach()
        total, nll_N = ChunkedCrossEntropy.apply(hidden_ND, weight_VD, targets_N, counts_N)  # type: ignore[no-untyped-call]
        return total, nll_N


class ChunkedCrossEntropy(torch.autograd.Function):
    """(hidden [N, D], weight [V, D], targets [N], counts [N]) -> (sum of nll, nll [N]). See the head of this file."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, counts_N: Tensor) -> tuple[Tensor, Tensor]:
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        num_positions, num_ids = hidden_ND.shape[0], weight_VD.shape[0]
        nll_N = torch.zeros(num_positions, dtype=torch.float32, device=hidden_ND.device)
        grad_hidden_ND = torch.empty_like(hidden_ND) if needs_hidden else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if needs_weight else None
        chunk = chunk_positions(num_ids, hidden_ND.device.type)
        for start in range(0, num_positions, chunk):
            part = slice(start, min(start + chunk, num_positions))
            hidden_CD, counts_C = hidden_ND[part], counts_N[part]
            # A target that does not count may be any id, in range or not.
            targets_C1 = targets_N[part].masked_fill(~counts_C, 0).unsqueeze(1)
            log_p_CV = torch.log_softmax(_logits(hidden_CD, weight_VD), dim=1)
            nll_N[part] = log_p_CV.gather(1, targets_C1).squeeze(1).neg_().masked_fill_(~counts_C, 0.0)
            if not (needs_hidden or needs_weight):
                continue
            counted_C1 = counts_C.unsqueeze(1).to(torch.float32)
            grad_CV = log_p_CV.exp_().mul_(counted_C1).scatter_add_(1, targets_C1, -counted_C1)
            grad_CV = grad_CV.to(hidden_ND.dtype)
            if grad_hidden_ND is not None:
                torch.mm(grad_CV, weight_VD, out=grad_hidden_ND[part])
            if grad_weight_VD is not None:
                _add_product(grad_weight_VD, grad_CV.t(), hidden_CD)
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD)
        ctx.weight_dtype = weight_VD.dtype
        ctx.mark_non_differentiable(nll_N)
        return nll_N.sum(dtype=torch.float64).to(torch.float32), nll_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        grad_hidden_ND, grad_weight_VD = ctx.saved_tensors
        scale = grads[0]
        hidden = None if grad_hidden_ND is None else grad_hidden_ND * scale.to(grad_hidden_ND.dtype)
        weight = None if grad_weight_VD is None else (grad_weight_VD * scale).to(ctx.weight_dtype)
        return hidden, weight, None, None


def chunk_positions(num_ids: int, device_type: str = "cpu") -> int:
    """Positions of one chunk for this many ids: about `CHUNK_LOGITS` logits, a multiple of 64."""
    return max(MIN_CHUNK_POSITIONS, CHUNK_LOGITS.get(device_type, CHUNK_LOGITS["cpu"]) // num_ids // 64 * 64)


def _logits(hidden_ND: Tensor, weight_VD: Tensor) -> Tensor:
    if hidden_ND.dtype == torch.float32:
        return hidden_ND @ weight_VD.t()
    if hidden_ND.is_cuda:
        return torch.mm(hidden_ND, weight_VD.t(), out_dtype=torch.float32)
    # No mixed product on the CPU: products are summed in float32 and rounded once, to the 16-bit dtype.
    return (hidden_ND @ weight_VD.t()).to(torch.float32)


def _add_product(into_VD: Tensor, a_VC: Tensor, b_CD: Tensor) -> None:
    """into += a @ b, with float32 sums across chunks."""
    if a_VC.dtype == torch.float32:
        torch.addmm(into_VD, a_VC, b_CD, out=into_VD)
    elif a_VC.is_cuda:
        into_VD += torch.mm(a_VC, b_CD, out_dtype=torch.float32)
    else:
        into_VD += a_VC @ b_CD
