"""All attention paths mean the same, and a document's output and gradient depend on nothing that shares its row or its batch."""

from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from proxy_lm.errors import RequestError
from proxy_lm.model.attention import Layout, document_attention, fastest_path, flex_mask, layout_of, segment_borders

CPU_PATHS = ["reference", "blocked"]
CUDA_PATHS = ["reference", "blocked", "flex", "varlen"]


def draw(rows: int, positions: int, query_heads: int, key_heads: int, seed: int = 0, width: int = 8) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, positions, heads, width, generator=generator) for heads in (query_heads, key_heads, key_heads)]


def run(qkv: list[torch.Tensor], segments: torch.Tensor, path: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Output and gradients of its sum of squares."""
    leaves = [x.clone().requires_grad_() for x in qkv]
    out = document_attention(*leaves, layout_of(segments, leaves[0].dtype, path))
    return out.detach(), list(torch.autograd.grad(out.square().sum(), leaves))


def test_one_document_by_hand() -> None:
    # Equal keys: every query averages the values it may read. Segments 0 0 1 1 pad.
    q, k = torch.ones(1, 5, 1, 2), torch.ones(1, 5, 1, 2)
    v = torch.tensor([1.0, 3.0, 10.0, 20.0, 7.0]).view(1, 5, 1, 1).expand(1, 5, 1, 2)
    segments = torch.tensor([[0, 0, 1, 1, -1]], dtype=torch.int32)
    for path in CPU_PATHS:
        out = document_attention(q, k, v, layout_of(segments, q.dtype, path))  # type: ignore[arg-type]
        torch.testing.assert_close(out[0, :, 0, 0], torch.tensor([1.0, 2.0, 10.0, 15.0, 7.0]))


SEGMENTS = {
    "one position": [[0]],
    "one segment": [[0] * 70],
    "a border inside and at the edge of a block": [[0] * 63 + [1] + [2] * 64 + [3] * 20],
    "rows of different shape, padding": [[0] * 10 + [1] * 100 + [-1] * 20, [0] * 129 + [-1]],
    "every position alone": [list(range(80))],
}


@pytest.mark.parametrize("name", SEGMENTS)
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_blocked_path_equals_the_reference(name: str, key_heads: int) -> None:
    segments = torch.tensor(SEGMENTS[name], dtype=torch.int32)
    qkv = draw(*segments.shape, 4, key_heads)
    out, grads = run(qkv, segments, "blocked")
    expected, expected_grads = run(qkv, segments, "reference")
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-4, atol=1e-5)


# Uncompiled flex is the point of the test: a compiled one needs a compiler, and on a CPU it has no backward pass.
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_mask_is_the_reference_mask() -> None:
    segments = torch.tensor([[0] * 10 + [1] * 100 + [-1] * 18, [0] * 128], dtype=torch.int32)
    q, k, v = draw(2, 128, 4, 2, width=16)
    out = document_attention(q, k, v, layout_of(segments, q.dtype, "flex"))
    expected = document_attention(q, k, v, layout_of(segments, q.dtype, "reference"))
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("path", CPU_PATHS)
def test_documents_are_alone(path: str) -> None:
    segments = torch.tensor([[0] * 5 + [1] * 70 + [2] * 15, [0] * 90], dtype=torch.int32)
    mine = (slice(0, 1), slice(5, 75))
    qkv = draw(2, 90, 4, 2)
    out, grads = run(qkv, segments, path)
    others = draw(2, 90, 4, 2, seed=1)
    for x, other in zip(qkv, others, strict=True):
        other[mine] = x[mine]
    out_after, grads_after = run(others, segments, path)
    assert not torch.equal(out, out_after)
    assert torch.equal(out[mine], out_after[mine])
    for grad, grad_after in zip(grads, grads_after, strict=True):
        assert torch.equal(grad[mine], grad_after[mine])


@pytest.mark.parametrize("path", CPU_PATHS)
def test_the_head_of_a_row_does_not_read_the_tail_of_the_row_before(path: str) -> None:
    """C4: boundaries stood at ends of documents only, so that a document at the end of a row went on into the next row of the batch."""
    segments = torch.zeros(2, 8, dtype=torch.int32)  # the same number in both rows, and no border between them
    qkv = draw(2, 8, 2, 2)
    leaves = [x.requires_grad_() for x in qkv]
    out = document_attention(*leaves, layout_of(segments, torch.float32, path))  # type: ignore[arg-type]
    for grad in torch.autograd.grad(out[1].sum(), leaves):
        assert grad[0].abs().max() == 0


@pytest.mark.parametrize("path", CPU_PATHS)
@pytest.mark.parametrize("shift", [1, 60, 64, 130])
def test_the_place_in_the_row_does_not_matter(path: str, shift: int) -> None:
    document = draw(1, 70, 2, 2)
    alone, grads_alone = run(document, torch.zeros(1, 70, dtype=torch.int32), path)
    row = draw(1, shift + 70 + 9, 2, 2, seed=3)
    mine = (slice(0, 1), slice(shift, shift + 70))
    for x, part in zip(row, document, strict=True):
        x[mine] = part
    segments = torch.tensor([[0] * shift + [1] * 70 + [2] * 9], dtype=torch.int32)
    out, grads = run(row, segments, path)
    torch.testing.assert_close(out[mine], alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close([grad[mine] for grad in grads], grads_alone, rtol=1e-4, atol=1e-5)


def test_a_block_reads_only_from_the_first_key_of_its_documents() -> None:
    segments = torch.tensor([[0] * 100 + [1] * 100, [0] * 120 + [1] * 80], dtype=torch.int32)
    blocks = layout_of(segments, torch.float32, "blocked").blocks
    assert [block[:3] for block in blocks] == [(0, 64, 0), (64, 128, 0), (128, 192, 100), (192, 200, 100)]


@pytest.mark.parametrize("name", SEGMENTS)
def test_flex_mask_is_that_of_every_pair(name: str) -> None:
    """Against torch's own builder, which looks at all pairs. Longer rows than the table has, so that whole blocks are free of the mask."""
    segments = torch.tensor(SEGMENTS[name], dtype=torch.int32).repeat_interleave(7, dim=1)

    def allowed(b: torch.Tensor, h: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return (t >= s) & (segments[b, t] == segments[b, s])

    rows, positions = segments.shape
    theirs, ours = create_block_mask(allowed, rows, None, positions, positions, device="cpu"), flex_mask(segments)
    assert ours.seq_lengths == theirs.seq_lengths
    for part in ("kv", "full_kv", "q", "full_q"):
        numbers, expected = getattr(ours, f"{part}_num_blocks"), getattr(theirs, f"{part}_num_blocks")
        assert torch.equal(numbers, expected), part
        for place in torch.cartesian_prod(*(torch.arange(size) for size in numbers.shape)).reshape(-1, 3).tolist():
            b, h, block = place
            count = int(numbers[b, h, block])
            indices = getattr(ours, f"{part}_indices")[b, h, block, :count], getattr(theirs, f"{part}_indices")[b, h, block, :count]
            assert torch.equal(*indices), (part, place)


def test_row_borders_are_segment_borders() -> None:
    segments = torch.tensor([[0, 0, 1, 1], [1, 1, 1, -1]], dtype=torch.int32)
    assert segment_borders(segments).tolist() == [0, 2, 4, 7, 8]


def test_the_path_is_chosen_by_the_device() -> None:
    assert fastest_path(torch.device("cpu"), torch.float32) == "blocked"
    with pytest.raises(RequestError, match="unknown attention path 'fast'; known: auto"):
        layout_of(torch.zeros(1, 1, dtype=torch.int32), torch.float32, "fast")  # type: ignore[arg-type]
    assert isinstance(layout_of(torch.zeros(1, 1, dtype=torch.int32), torch.float32), Layout)


@pytest.mark.gpu
@pytest.mark.parametrize("path", CUDA_PATHS)
def test_cuda_paths_equal_the_reference(path: Any) -> None:
    segments = torch.tensor([[0] * 10 + [1] * 100 + [-1] * 18, [0] * 128], dtype=torch.int32).cuda()
    dtype = torch.bfloat16 if path == "varlen" else torch.float32
    qkv = [x.cuda().to(dtype) for x in draw(2, 128, 4, 2, width=32)]
    out, grads = run(qkv, segments, path)
    expected, expected_grads = run([x.float() for x in qkv], segments, "reference")
    tolerance = 3e-2 if path == "varlen" else 2e-3
    torch.testing.assert_close(out.float(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close([g.float() for g in grads], expected_grads, rtol=2 * tolerance, atol=5 * tolerance)


@pytest.mark.gpu
def test_cuda_chooses_a_kernel_that_skips_what_the_mask_forbids() -> None:
    assert fastest_path(torch.device("cuda"), torch.bfloat16) in ("varlen", "flex")
    assert fastest_path(torch.device("cuda"), torch.float32) == "flex"
