"""The decoder: documents are alone, losses are the plain ones by view, the start is the same for every arm and world size."""

import platform
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend

from proxy_lm.errors import RequestError
from proxy_lm.model.decoder import Decoder, Losses, Rotation, llama_name, rotate
from proxy_lm.model.settings import ModelSettings
from proxy_lm.vocabulary import BOS, EOS, RAW_END, RAW_START, SPECIAL_CODE, Vocabulary

TINY = ModelSettings(preset=None, width=16, depth=2, num_heads=4, num_kv_heads=2, hidden=24)


def small(**options: Any) -> Decoder:
    settings = TINY.model_copy(update=options.pop("settings", {}))
    return Decoder(settings, options.pop("vocabulary_size", 384), **{"num_views": 1, **options})


def row(segments: list[list[int]], seed: int = 0, num_ids: int = 384) -> dict[str, torch.Tensor]:
    """Random ids, all raw, positions from 0 in every segment."""
    numbers = torch.tensor(segments, dtype=torch.int32)
    ids = torch.randint(0, num_ids, numbers.shape, generator=torch.Generator().manual_seed(seed))
    positions = torch.zeros_like(numbers)
    for t in range(1, numbers.shape[1]):
        positions[:, t] = torch.where(numbers[:, t] == numbers[:, t - 1], positions[:, t - 1] + 1, 0)
    return {"ids": ids, "segments": numbers, "positions": positions, "views": torch.zeros_like(numbers, dtype=torch.uint8)}


def without_views(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in batch.items() if name != "views"}


def test_losses_are_plain_cross_entropy_by_view() -> None:
    vocabulary = Vocabulary([("v", 20)])
    view = vocabulary.views[0]
    ids = [BOS, RAW_START, 65, 66, RAW_END, view.start_id, view.first_id, view.first_id + 1, view.end_id, EOS, BOS, view.start_id]
    codes = [SPECIAL_CODE, SPECIAL_CODE, 0, 0, SPECIAL_CODE, SPECIAL_CODE, 1, 1] + [SPECIAL_CODE] * 4
    batch = row([[0] * 10 + [1] * 2])
    batch["ids"], batch["views"] = torch.tensor([ids]), torch.tensor([codes], dtype=torch.uint8)
    model = small(vocabulary_size=vocabulary.size)
    losses = model(**batch)
    logits = model.logits(**without_views(batch))
    nll = F.cross_entropy(logits[0, :-1], batch["ids"][0, 1:], reduction="none").double()
    # Column 9 (EOS) has its target in the next document, so it counts nowhere.
    assert losses.num_targets.tolist() == [2, 2, 6]
    expected = torch.stack([nll[[1, 2]].sum(), nll[[5, 6]].sum(), nll[[0, 3, 4, 7, 8, 10]].sum()])
    torch.testing.assert_close(losses.nll_nats, expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses.loss.double(), expected.sum() / 11, rtol=1e-5, atol=1e-5)


def test_extra_heads_count_only_raw_bytes_of_one_piece() -> None:
    model = small(settings={"num_raw_heads": 2})
    batch = row([[0] * 6 + [1] * 5], num_ids=256)
    batch["views"][0] = torch.tensor([1, 255, 0, 0, 0, 255, 255, 0, 0, 1, 1], dtype=torch.uint8)
    losses = model(**batch)
    # Eight columns. The next two raw and in the segment: columns 1, 2 and 6, not 0, whose next is a special. The next three: column 1.
    assert losses.head_num_targets.tolist() == [7, 3, 1]
    assert losses.num_targets.tolist() == [5, 0, 2]
    torch.testing.assert_close(losses.loss.double(), losses.head_nll_nats.sum() / 8, rtol=1e-5, atol=1e-5)


def test_raw_head_weight_scales_their_share_of_the_loss() -> None:
    batch = row([[0] * 11], num_ids=256)
    plain, weighted = (small(settings={"num_raw_heads": 1, "raw_head_weight": weight})(**batch) for weight in (0.0, 0.5))
    share = (weighted.loss - plain.loss).double()
    torch.testing.assert_close(share, 0.5 * plain.head_nll_nats[1] / 9, rtol=1e-4, atol=1e-5)


def test_the_denominator_is_constant() -> None:
    """Two rows at once, or one after the other with half the weight: the same gradients, whatever the number of targets."""
    model = small()
    batch = row([[0] * 9, [0] * 3 + [-1] * 6])
    model(**batch).loss.backward()
    together = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    for b in range(2):
        (model(**{name: value[b : b + 1] for name, value in batch.items()}).loss / 2).backward()
    torch.testing.assert_close([parameter.grad for parameter in model.parameters()], together, rtol=1e-4, atol=1e-6)


def test_padding_alone_gives_a_loss_of_zero_and_zero_gradients() -> None:
    model = small()
    losses = model(**row([[-1] * 9]))
    losses.loss.backward()
    assert losses.loss.item() == 0.0
    assert losses.num_targets.sum() == 0
    assert all(parameter.grad is not None and parameter.grad.abs().sum() == 0 for parameter in model.parameters())


@pytest.mark.parametrize("attention", ["reference", "blocked"])
def test_a_document_is_alone_in_row_and_batch(attention: Any) -> None:
    """Logits of a document, and the gradient of its loss, with other neighbours, another place and another batch."""
    model = small(attention=attention)
    document = row([[0] * 70])
    torch.manual_seed(0)
    expected = model.logits(**without_views(document))[0]
    expected_grads = torch.autograd.grad(expected.square().sum(), list(model.parameters()), allow_unused=True)
    crowd = row([[0] * 40 + [1] * 70 + [2] * 10, [0] * 120], seed=5)
    crowd["ids"][0, 40:110] = document["ids"][0]
    logits = model.logits(**without_views(crowd))[0, 40:110]
    grads = torch.autograd.grad(logits.square().sum(), list(model.parameters()), allow_unused=True)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-3, atol=1e-3)


def test_positions_are_relative_inside_a_document() -> None:
    model = small()
    batch = without_views(row([[0] * 20]))
    expected = model.logits(**batch)
    shifted = Decoder(TINY, 384, row_length=64, num_views=1)
    batch["positions"] = batch["positions"] + 30
    torch.testing.assert_close(shifted.logits(**batch), expected, rtol=1e-4, atol=1e-5)


def test_rotation_turns_pairs_half_a_head_apart() -> None:
    angle = torch.tensor([0.5, 0.0, 0.5, 0.0]).view(1, 1, 1, 4)
    x = torch.tensor([1.0, 2.0, 0.0, 3.0]).view(1, 1, 1, 4)
    turned = rotate(x, Rotation(angle.cos(), angle.sin())).flatten()
    torch.testing.assert_close(turned, torch.tensor([0.8775825, 2.0, 0.4794255, 3.0]))


@pytest.mark.parametrize("attention", ["reference", "blocked"])
def test_activation_checkpointing_changes_no_bit(attention: Any) -> None:
    batch = row([[0] * 30 + [1] * 20])
    results = []
    for checkpointing in (False, True):
        model = small(attention=attention, activation_checkpointing=checkpointing)
        losses = model(**batch)
        losses.loss.backward()
        results.append([losses.loss.detach(), *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# The tracer looks at .grad of what it traces; torch's own warning.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_blocks_are_two_graphs_for_all_blocks_and_all_documents() -> None:
    """Before and after attention. Tracing only: a backend that generates code would need a compiler here."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    heads = {"num_raw_heads": 1, "num_symbol_heads": 1}
    model, compiled = small(settings=heads), small(settings=heads, activation_checkpointing=True)
    names = list(compiled.state_dict())
    for block in compiled.blocks:
        block.compile_around_attention(backend=counter, fullgraph=True, dynamic=False)
    for seed in range(3):
        batch = row([[0] * (10 + 9 * seed) + [1] * (72 - 9 * seed)], seed, num_ids=256)
        expected, losses = model(**batch), compiled(**batch)
        torch.testing.assert_close(losses.loss, expected.loss)
        torch.testing.assert_close(losses.head_nll_nats, expected.head_nll_nats, rtol=1e-6, atol=1e-6)
        expected.loss.backward()
        losses.loss.backward()
        assert counter.frame_count == 2
    grads = [[parameter.grad for parameter in part.parameters()] for part in (model, compiled)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)
    assert list(compiled.state_dict()) == names  # compiled in place: a checkpoint of either is one of both


def test_the_start_depends_on_seed_and_name_alone() -> None:
    state = torch.random.get_rng_state()
    model, again, other = small(), small(), small(seed=1)
    assert torch.equal(state, torch.random.get_rng_state())
    for (name, a), b, c in zip(model.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c) == name.endswith("norm.weight")


def test_arms_with_other_vocabularies_start_with_equal_bodies_and_byte_rows() -> None:
    arm = small(settings={"num_raw_heads": 1})
    parameters = dict(small(vocabulary_size=1000).named_parameters())
    for name, parameter in arm.named_parameters():
        if not name.startswith("raw_heads"):
            assert torch.equal(parameter, parameters[name][: parameter.shape[0]]), name


def test_the_start_has_the_deviation_asked_for_and_three_at_most() -> None:
    model = Decoder(ModelSettings(preset="nano", init_std=0.05), 320)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            assert bool((parameter == 1).all())
            continue
        residual = name.endswith(("output.weight", "down.weight"))
        std = 0.05 / (6**0.5 if residual else 1.0)
        assert parameter.std().item() == pytest.approx(0.9866 * std, rel=0.03)  # a normal cut at three has 0.9866 of its deviation
        assert parameter.abs().max().item() <= 3.0001 * std


def test_target_nll_is_the_loss_by_position() -> None:
    model = small()
    batch = row([[0] * 5 + [1] * 6 + [-1] * 2])
    nll = model.target_nll(**without_views(batch))
    assert nll.shape == (1, 12)
    assert (nll == 0).nonzero()[:, 1].tolist() == [4, 10, 11]
    torch.testing.assert_close(nll.double().sum(), model(**batch).nll_nats.sum(), rtol=1e-6, atol=1e-6)


def test_bfloat16_is_near_float32() -> None:
    batch = row([[0] * 30 + [1] * 20])
    model = small()
    expected = model(**batch).loss.item()
    losses: Losses = model.bfloat16()(**batch)
    losses.loss.backward()
    assert losses.loss.dtype == torch.float32
    assert losses.loss.item() == pytest.approx(expected, rel=1e-2)


def test_names_are_those_of_llama() -> None:
    names = [llama_name(name) for name, _ in small(settings={"num_raw_heads": 1}).named_parameters()]
    assert names[0] == "model.embed_tokens.weight"
    block = ["input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    block += ["post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    assert names[1:19] == [f"model.layers.{k}.{part}.weight" for k in range(2) for part in block]
    assert names[19:] == ["model.norm.weight", "lm_head.weight", None]


def test_a_vocabulary_without_the_specials_is_refused() -> None:
    with pytest.raises(RequestError, match="a vocabulary of 256 ids; bytes and specials alone are 320"):
        Decoder(TINY, 256)


def test_it_learns_a_row_by_heart() -> None:
    model = small()
    batch = row([[0] * 16 + [1] * 17])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        losses = model(**batch)
        optimizer.zero_grad()
        losses.loss.backward()
        optimizer.step()
    assert losses.loss.item() < 0.5


def test_freed_memory_can_be_kept() -> None:
    code = "from proxy_lm.model.allocator import keep_freed_memory; print(keep_freed_memory())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == str(platform.libc_ver()[0] == "glibc")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compiled", [False, True])
def test_cuda_gives_the_losses_and_gradients_of_the_cpu(dtype: torch.dtype, compiled: bool) -> None:
    """Whole decoder with extra heads, weights by view, segments left on the host, rows of several documents and padding."""
    settings = ModelSettings(preset="nano", num_raw_heads=1, num_symbol_heads=1)
    ours, theirs = Decoder(settings, 384, num_views=1, seed=2), Decoder(settings, 384, num_views=1, seed=2).cuda().to(dtype)
    if compiled:
        for block in theirs.blocks:
            block.compile_around_attention(dynamic=False)  # type: ignore[operator]
    for seed in range(3):
        batch = row([[0] * (100 + 50 * seed) + [1] * (158 - 50 * seed), [0] * 200 + [-1] * 58], seed, num_ids=256)
        weights = torch.tensor([1.0, 0.5, 2.0])
        expected = ours(**batch, loss_weights=weights)
        on_device = {name: value if name == "segments" else value.cuda() for name, value in batch.items()}
        got = theirs(**on_device, loss_weights=weights.cuda())
        near = {"rtol": 1e-3, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
        torch.testing.assert_close(got.loss.cpu(), expected.loss, **near)
        torch.testing.assert_close(got.head_num_targets.cpu(), expected.head_num_targets)
        torch.testing.assert_close(got.head_nll_nats.cpu(), expected.head_nll_nats, **near)
        expected.loss.backward()
        got.loss.backward()
    for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None
        assert its.grad is not None
        assert (its.grad.float().cpu() - mine.grad).norm() <= (2e-3 if dtype == torch.float32 else 8e-2) * mine.grad.norm()


@pytest.mark.gpu
def test_cuda_forward_does_not_wait_for_the_device() -> None:
    """With segments on the host, the forward pass of the 16-bit path starts no synchronisation."""
    model = Decoder(ModelSettings(preset="nano", num_raw_heads=1), 384, num_views=1, seed=2).cuda().bfloat16()
    batch = row([[0] * 100 + [1] * 158], num_ids=256)
    on_device = {name: value.pin_memory() if name == "segments" else value.cuda() for name, value in batch.items()}
    model(**on_device).loss.backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(**on_device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
