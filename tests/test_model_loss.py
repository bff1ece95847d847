"""The chunked cross-entropy is the plain one: loss and gradients, any number of positions, any dtype."""

import pytest
import torch
import torch.nn.functional as F

from proxy_lm.model import loss as loss_module
from proxy_lm.model.loss import OutputHead, chunk_positions

WIDTH, IDS = 16, 384


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", {"cpu": 1})  # 64 positions, the least


def make(num_positions: int, dtype: torch.dtype = torch.float32) -> tuple[OutputHead, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(num_positions)
    head = OutputHead(WIDTH, IDS)
    with torch.no_grad():
        head.weight.copy_(torch.randn(IDS, WIDTH, generator=generator))
    hidden = torch.randn(num_positions, WIDTH, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(0, IDS, (num_positions,), generator=generator)
    counts = torch.rand(num_positions, generator=generator) < 0.8
    return head.to(dtype), hidden, targets, counts


@pytest.mark.parametrize("num_positions", [1, 2, 63, 64, 65, 200])
def test_equals_plain_cross_entropy(num_positions: int) -> None:
    """C9: fewer positions than one chunk made no chunk at all, and an error."""
    head, hidden, targets, counts = make(num_positions)
    total, nll = head(hidden, targets, counts)
    (3.0 * total).backward()
    leaf, weight = hidden.detach().clone().requires_grad_(), head.weight.detach().clone().requires_grad_()
    plain = F.cross_entropy(leaf @ weight.t(), targets, reduction="none") * counts
    (3.0 * plain.sum()).backward()
    torch.testing.assert_close(nll, plain.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(total.detach(), plain.sum().detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(hidden.grad, leaf.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(head.weight.grad, weight.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_dtypes_are_near_float32(dtype: torch.dtype) -> None:
    head, hidden, targets, counts = make(200, dtype)
    total, _ = head(hidden, targets, counts)
    total.backward()
    leaf, weight = hidden.detach().float().requires_grad_(), head.weight.detach().float().requires_grad_()
    plain = (F.cross_entropy(leaf @ weight.t(), targets, reduction="none") * counts).sum()
    plain.backward()
    assert total.dtype == torch.float32
    assert hidden.grad is not None
    assert leaf.grad is not None
    assert head.weight.grad is not None
    assert weight.grad is not None
    assert hidden.grad.dtype == head.weight.grad.dtype == dtype
    assert (total - plain).abs() / plain < 2e-3
    assert (hidden.grad.float() - leaf.grad).norm() / leaf.grad.norm() < 2e-2
    assert (head.weight.grad.float() - weight.grad).norm() / weight.grad.norm() < 2e-2


def test_a_small_denominator_does_not_underflow_in_float16() -> None:
    head, hidden, targets, counts = make(64, torch.float16)
    total, _ = head(hidden, targets, counts)
    (total / 2**20 * 2**16).backward()  # the mean over a million positions, under the engine's loss scale
    assert hidden.grad is not None
    assert (hidden.grad != 0).float().mean() > 0.7


@pytest.mark.parametrize("num_positions", [0, 1, 100])
def test_no_valid_target_is_a_loss_of_zero(num_positions: int) -> None:
    head, hidden, targets, counts = make(num_positions)
    total, nll = head(hidden, torch.full_like(targets, 10**6), torch.zeros_like(counts))
    total.backward()
    assert total.item() == 0.0
    assert nll.tolist() == [0.0] * num_positions
    assert hidden.grad is not None
    assert head.weight.grad is not None
    assert hidden.grad.abs().sum() == 0
    assert head.weight.grad.abs().sum() == 0


def test_chunks_do_not_change_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    head, hidden, targets, counts = make(300)
    _, small = head(hidden, targets, counts)
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", {"cpu": 1 << 20})
    _, large = head(hidden, targets, counts)
    torch.testing.assert_close(small, large, rtol=1e-6, atol=1e-6)


def test_no_gradient_is_made_where_none_is_asked_for() -> None:
    head, hidden, targets, counts = make(100)
    with torch.no_grad():
        total, nll = head(hidden, targets, counts)
    assert not total.requires_grad
    with_gradient, _ = head(hidden, targets, counts)
    assert with_gradient.grad_fn is not None
    assert torch.equal(total, with_gradient.detach())
    assert not nll.requires_grad


def test_a_large_vocabulary_is_cut_into_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert chunk_positions(320) == 3264
    assert chunk_positions(65_856) == 64
    assert chunk_positions(65_536, "cuda") == 2048
    head = OutputHead(4, 65_536)
    with torch.no_grad():
        head.weight.zero_()
    sizes = []
    real = torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda x, dim: (sizes.append(x.numel()), real(x, dim=dim))[1])
    total, _ = head(torch.zeros(130, 4), torch.arange(130), torch.ones(130, dtype=torch.bool))
    assert sizes == [64 * 65_536, 64 * 65_536, 2 * 65_536]
    torch.testing.assert_close(total, torch.tensor(130 * 11.090354888959125), rtol=1e-6, atol=0.0)
