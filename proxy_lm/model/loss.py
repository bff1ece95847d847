"""Cross-entropy in chunks of positions, inside the module that owns the output matrix.

For each chunk the logits are made, turned into losses and at once into the gradients of the hidden states and of the matrix, and dropped.
All logits never exist together: a vocabulary of 65,536 costs one chunk of them, and the backward pass computes nothing again.

Numbers: logits, softmax and sums are float32 whatever the dtype of the inputs. The gradients are kept without the division by the
number of positions, so that in float16 they do not underflow before the engine's loss scale reaches them in `backward`.
A position's weight multiplies its gradient and its share of the objective, never the loss that is reported.

A teacher's distribution q over the first S ids may stand beside the target (distillation: Hinton et al. 2015, at temperature 1). The target
is then (1 - w) of the one id and w of q, the softmax is over all V ids as ever, and the loss that is reported is that of the id.

On CUDA the passes over a chunk's logits are one compiled kernel after another where triton is (`softmax_of`); elsewhere they are torch's.

Not promised: second derivatives; gradients through the per-position losses (only through their sum).
"""

# N positions (rows flattened), D width, V ids, C positions of one chunk, S ids that a teacher knows

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# Logits of one chunk, in numbers. On one core 2**19 and 2**20 are level and 2**22 is a tenth slower (README.md). On CUDA, 2,048 positions
# of 65,536 ids: the float32 sums of the matrix's gradient are read and written once a chunk, so larger chunks are cheaper; not measured.
CHUNK_LOGITS = {"cpu": 1 << 20, "cuda": 1 << 27}
# Fewer positions a chunk, and reading the matrix and its gradient once a chunk costs more than the products: at 65,536 ids and width 512 on
# one core 64 take 1.16 of plain torch's time, 128 take 1.00, 256 take 0.95 (README.md).
MIN_CHUNK_POSITIONS = 256
# Of the positions that count. Skipping the others takes 1.04 of the time where 0.99 count, 0.96 at 0.9, 0.53 at 0.5 and 0.17 at 0.1 (one
# core, 4,096 positions, width 128, 320 ids).
KEEP_ALL_ABOVE = 0.9

# Frequencies of a teacher's row, as `compressors.neural.models` counts them.
SOFT_TOTAL = 1 << 16

Softmax = tuple[Tensor, Tensor, Tensor]
TaughtSoftmax = tuple[Tensor, Tensor, Tensor, Tensor]


class OutputHead(nn.Module):
    """An output matrix [V, D] with its loss. The matrix is only touched inside `forward`, where ZeRO 3 has gathered it."""

    def __init__(self, width: int, num_ids: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((num_ids, width), float("nan")))

    def forward(
        self,
        hidden_ND: Tensor,
        targets_N: Tensor | None = None,
        counts_N: Tensor | None = None,
        weights_N: Tensor | None = None,
        soft_NS: Tensor | None = None,
        soft_weight: float = 0.0,
    ) -> tuple[Tensor, Tensor] | Tensor:
        """With targets (int64) and counts (bool: this position counts): the sum of the losses in nats, each times its weight (float32
        [N]; left out, 1), as a differentiable float32 scalar; and the losses [N] (float32, detached, unweighted, 0 where not counted).
        Without: the logits, float32 [N, V].

        `soft_NS` (uint16, in 1/65,536 of ids 0 to S - 1; a row of zeros is not taught) has `soft_weight` in the target of what is summed,
        and no part in the losses [N]."""
        if targets_N is None or counts_N is None:
            return _logits(hidden_ND, self.weight)
        weight_VD: Tensor = self.weight
        if not torch.is_grad_enabled():  # an autograd Function is told that a parameter needs its gradient even here
            hidden_ND, weight_VD = hidden_ND.detach(), weight_VD.detach()
        return _counted_loss(hidden_ND, weight_VD, targets_N, counts_N, weights_N, soft_NS, soft_weight)  # type: ignore[no-any-return]


# Whole-model compilation stops here and goes on behind it: chunks of 65,536 ids are products, and have their own kernels.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _counted_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    counts_N: Tensor,
    weights_N: Tensor | None,
    soft_NS: Tensor | None,
    soft_weight: float,
) -> tuple[Tensor, Tensor]:
    # A CPU knows at no cost which positions count, and skips the others where they are many: most columns of a raw head in a run of
    # compressed views. A few, as ends of documents are, cost less than taking the rest out and putting their gradients back.
    skips = not hidden_ND.is_cuda and int(counts_N.sum()) < KEEP_ALL_ABOVE * len(counts_N)
    if not skips:
        total, nll_N = ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden_ND, weight_VD, targets_N, counts_N, weights_N, soft_NS, soft_weight
        )
        return total, nll_N
    kept_C = counts_N.nonzero().squeeze(1)
    chosen = (None if x is None else x.index_select(0, kept_C) for x in (targets_N, counts_N, weights_N, soft_NS))
    total, nll_C = ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_ND.index_select(0, kept_C), weight_VD, *chosen, soft_weight
    )
    return total, nll_C.new_zeros(counts_N.shape).index_copy_(0, kept_C, nll_C)


class ChunkedCrossEntropy(torch.autograd.Function):
    """(hidden [N, D], weight [V, D], targets [N], counts [N], weights [N] or None, soft [N, S] or None, its weight)
    -> (weighted sum of what is trained, nll [N])."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        counts_N: Tensor,
        weights_N: Tensor | None,
        soft_NS: Tensor | None,
        soft_weight: float,
    ) -> tuple[Tensor, Tensor]:
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        num_positions, num_ids = hidden_ND.shape[0], weight_VD.shape[0]
        nll_N = torch.zeros(num_positions, dtype=torch.float32, device=hidden_ND.device)
        scale_N1 = (counts_N.to(torch.float32) if weights_N is None else weights_N.masked_fill(~counts_N, 0.0)).unsqueeze(1)
        grad_hidden_ND = torch.empty_like(hidden_ND) if needs_hidden else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if needs_weight else None
        trained_N = nll_N if soft_NS is None else torch.zeros_like(nll_N)
        # A tensor, so that code compiled for CUDA is not compiled again for every value of a curve.
        soft_weight_1 = torch.full((), soft_weight, dtype=torch.float32, device=hidden_ND.device)
        softmax, taught = softmax_of(hidden_ND.device.type), taught_softmax_of(hidden_ND.device.type)
        chunk = chunk_positions(num_ids, hidden_ND.device.type)
        for start in range(0, num_positions, chunk):
            part = slice(start, min(start + chunk, num_positions))
            hidden_CD, counts_C, scale_C1 = hidden_ND[part], counts_N[part], scale_N1[part].to(hidden_ND.dtype)
            # A target that does not count may be any id, in range or not.
            targets_C1 = targets_N[part].masked_fill(~counts_C, 0).unsqueeze(1)
            logits_CV = _logits(hidden_CD, weight_VD)
            if soft_NS is None:
                nll_C1, slope_C1, grad_CV = softmax(logits_CV, targets_C1, hidden_ND.dtype)
            else:
                soft_CS = soft_NS[part].to(torch.float32) / SOFT_TOTAL
                trained_C1, nll_C1, slope_C1, grad_CV = taught(logits_CV, targets_C1, hidden_ND.dtype, soft_CS, soft_weight_1)
                trained_N[part] = trained_C1.squeeze(1).masked_fill_(~counts_C, 0.0)
            del logits_CV
            nll_N[part] = nll_C1.squeeze(1).masked_fill_(~counts_C, 0.0)
            # The gradient of the logits is p - 1 at the target and p elsewhere; scaling D numbers a position is less than scaling V.
            if needs_hidden or needs_weight:
                grad_CV.scatter_(1, targets_C1, slope_C1)
            if grad_hidden_ND is not None:
                torch.mm(grad_CV, weight_VD, out=grad_hidden_ND[part]).mul_(scale_C1)
            if grad_weight_VD is not None:
                _add_product(grad_weight_VD, grad_CV.t(), hidden_CD * scale_C1)
            del grad_CV  # or it would stand beside the next chunk's logits and softmax
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD)
        ctx.weight_dtype = weight_VD.dtype
        ctx.mark_non_differentiable(nll_N)
        weighted_N = trained_N if weights_N is None else trained_N * scale_N1.squeeze(1)
        return weighted_N.sum(dtype=torch.float64).to(torch.float32), nll_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None, None]:
        grad_hidden_ND, grad_weight_VD = ctx.saved_tensors
        scale = grads[0]
        hidden = None if grad_hidden_ND is None else grad_hidden_ND * scale.to(grad_hidden_ND.dtype)
        weight = None if grad_weight_VD is None else (grad_weight_VD * scale).to(ctx.weight_dtype)
        return hidden, weight, None, None, None, None, None


def softmax_chunk(logits_CV: Tensor, targets_C1: Tensor, dtype: torch.dtype) -> Softmax:
    """nll [C, 1] (float32), p - 1 at the target [C, 1] and p [C, V] (both in `dtype`) of float32 logits."""
    top_C1, chosen_C1 = logits_CV.amax(dim=1, keepdim=True), logits_CV.gather(1, targets_C1)
    p_CV = torch.softmax(logits_CV, dim=1)
    # The largest probability is at least 1/V, so its logarithm is exact to a rounding: one exp an id, where log-softmax and exp take two.
    log_sum_C1 = top_C1 - p_CV.amax(dim=1, keepdim=True).log()
    return log_sum_C1 - chosen_C1, torch.expm1(chosen_C1 - log_sum_C1).to(dtype), p_CV.to(dtype)


def softmax_chunk_to_compile(logits_CV: Tensor, targets_C1: Tensor, dtype: torch.dtype) -> Softmax:
    """The same, written so that a compiler makes one pass for the sums and one for p in its final dtype."""
    top_C1, chosen_C1 = logits_CV.amax(dim=1, keepdim=True), logits_CV.gather(1, targets_C1)
    log_sum_C1 = top_C1 + (logits_CV - top_C1).exp().sum(dim=1, keepdim=True).log()
    p_CV = (logits_CV - log_sum_C1).exp().to(dtype)
    return log_sum_C1 - chosen_C1, torch.expm1(chosen_C1 - log_sum_C1).to(dtype), p_CV


def taught_chunk(logits_CV: Tensor, targets_C1: Tensor, dtype: torch.dtype, soft_CS: Tensor, weight: Tensor) -> TaughtSoftmax:
    """As `softmax_chunk` for targets of 1 - weight of the id and weight of `soft_CS` (float32; rows of zeros are not taught): what is
    trained [C, 1] (float32), nll [C, 1] of the id, and the gradient of the former by the logits, at the id [C, 1] and elsewhere [C, V].
    p - weight * q is taken in float32: where both are near 1, nothing of it is left in 16 bits."""
    num_known = soft_CS.shape[1]
    nll_C1, slope_C1, grad_CV = softmax_chunk(logits_CV, targets_C1, torch.float32)
    given_CS = weight * soft_CS
    weight_C1 = weight * (soft_CS.amax(dim=1, keepdim=True) > 0)
    expected_C1 = (given_CS * logits_CV[:, :num_known]).sum(dim=1, keepdim=True)
    trained_C1 = nll_C1 + (weight_C1 * logits_CV.gather(1, targets_C1) - expected_C1)
    slope_C1 = slope_C1 + (weight_C1 - given_CS.gather(1, targets_C1.clamp(max=num_known - 1)))
    grad_CV[:, :num_known] -= given_CS
    return trained_C1, nll_C1, slope_C1.to(dtype), grad_CV.to(dtype)


@functools.cache
def taught_softmax_of(device_type: str) -> Callable[[Tensor, Tensor, torch.dtype, Tensor, Tensor], TaughtSoftmax]:
    """The function for this device, as `softmax_of`."""
    if device_type == "cuda" and importlib.util.find_spec("triton") is not None:
        return torch.compile(taught_chunk, dynamic=True)
    return taught_chunk


@functools.cache
def softmax_of(device_type: str) -> Callable[[Tensor, Tensor, torch.dtype], Softmax]:
    """The function for this device. Chunks but the last have one shape, so it is compiled at most twice for each vocabulary."""
    if device_type == "cuda" and importlib.util.find_spec("triton") is not None:
        return torch.compile(softmax_chunk_to_compile, dynamic=True)
    return softmax_chunk


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
