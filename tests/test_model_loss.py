"""The chunked cross-entropy is the plain one: loss and gradients, any number of positions, any dtype."""

import pytest
import torch
import torch.nn.functional as F

from proxy_lm.model import loss as loss_module
from proxy_lm.model.loss import OutputHead, chunk_positions
from proxy_lm.model.loss_bench import compare

WIDTH, IDS = 16, 384


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", {"cpu": 1})
    monkeypatch.setattr(loss_module, "MIN_CHUNK_POSITIONS", 64)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_scale_gradients_and_objective_but_not_the_losses(dtype: torch.dtype) -> None:
    """Positions that weigh 0, 1 and 2 beside positions that do not count at all, against plain torch."""
    head, hidden, targets, counts = make(200, dtype)
    weights = torch.arange(200).remainder(3).float()
    total, nll = head(hidden, targets, counts, weights)
    total.backward()
    leaf, weight = hidden.detach().float().requires_grad_(), head.weight.detach().float().requires_grad_()
    plain = F.cross_entropy(leaf @ weight.t(), targets, reduction="none") * counts
    (plain * weights).sum().backward()
    near = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 3e-2, "atol": 3e-1}
    torch.testing.assert_close(nll, plain.detach(), **near)
    torch.testing.assert_close(total.detach(), (nll * weights).sum(), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(hidden.grad.float(), leaf.grad, **near)
    torch.testing.assert_close(head.weight.grad.float(), weight.grad, **near)
    unweighted = (weights == 0) & counts
    assert hidden.grad[unweighted].abs().max() == 0
    assert nll[unweighted].min() > 0


def test_positions_that_do_not_count_are_not_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    """130 of 200 count: chunks of 64, 64 and 2 instead of three of 64 and one of 8; losses stand where their positions do."""
    head, hidden, targets, _ = make(200)
    counts = torch.arange(200) % 20 < 13
    sizes = []
    real = torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda x, dim: (sizes.append(len(x)), real(x, dim=dim))[1])
    _, nll = head(hidden, targets, counts)
    assert sizes == [64, 64, 2]
    assert torch.equal(nll > 0, counts)
    sizes.clear()
    head(hidden, targets, torch.arange(200) != 7)  # not worth it for one
    assert sizes == [64, 64, 64, 8]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_form_that_is_compiled_on_cuda_gives_the_same_chunk(dtype: torch.dtype) -> None:
    """Also for logits whose smaller exponentials vanish: the loss of an improbable target stays finite."""
    logits = torch.randn(50, IDS, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 3, 50).unsqueeze(1)
    targets = torch.arange(50).unsqueeze(1)
    ours = loss_module.softmax_chunk(logits, targets, dtype)
    compiled = loss_module.softmax_chunk_to_compile(logits, targets, dtype)
    expected = F.cross_entropy(logits.double(), targets.squeeze(1), reduction="none").unsqueeze(1)
    for nll, slope, p in (ours, compiled):
        torch.testing.assert_close(nll.double(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(slope, torch.expm1(-expected).to(dtype), rtol=1e-2, atol=1e-5)
        torch.testing.assert_close(p, torch.softmax(logits.double(), 1).to(dtype), rtol=1e-2, atol=1e-6)


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
    assert chunk_positions(65_856) == 256
    assert chunk_positions(65_536, "cuda") == 2048
    head = OutputHead(4, 65_536)
    with torch.no_grad():
        head.weight.zero_()
    sizes = []
    real = torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda x, dim: (sizes.append(x.numel()), real(x, dim=dim))[1])
    total, _ = head(torch.zeros(514, 4), torch.arange(514), torch.ones(514, dtype=torch.bool))
    assert sizes == [256 * 65_536, 256 * 65_536, 2 * 65_536]
    torch.testing.assert_close(total, torch.tensor(514 * 11.090354888959125), rtol=1e-6, atol=0.0)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_chunks_equal_plain_cross_entropy(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled chunks, a shorter last one, products summed in float32, weights; against float64-free plain torch in float32."""
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", {"cuda": 1})
    head, hidden, targets, counts = make(1000, dtype)
    head, targets, counts = head.cuda(), targets.cuda(), counts.cuda()
    hidden = hidden.detach().cuda().requires_grad_()
    weights = torch.arange(1000, device="cuda").remainder(3).float()
    total, nll = head(hidden, targets, counts, weights)
    total.backward()
    leaf, weight = hidden.detach().float().requires_grad_(), head.weight.detach().float().requires_grad_()
    plain = F.cross_entropy(leaf @ weight.t(), targets, reduction="none") * counts
    (plain * weights).sum().backward()
    near = {"rtol": 1e-3, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 3e-2, "atol": 5e-1}
    torch.testing.assert_close(nll, plain.detach(), **near)
    torch.testing.assert_close(hidden.grad.float(), leaf.grad, **near)
    torch.testing.assert_close(head.weight.grad.float(), weight.grad, **near)


@pytest.mark.gpu
def test_cuda_takes_a_part_of_plain_torchs_memory_at_65536_ids() -> None:
    found = compare(65_536, 1024, 8192, "cuda", "bf16", rounds=3)
    assert found["memory_ratio"] < 0.6
    assert found["time_ratio"] < 1.2
