"""Each output head learns from the targets that belong to it and no others: worked examples by head, a slow twin, weights by view."""

import json
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from proxy_lm.data.rows import Batch
from proxy_lm.model.decoder import Decoder, Losses
from proxy_lm.model.settings import ModelSettings
from proxy_lm.model.targets import head_targets
from proxy_lm.train.engine import Ranks
from proxy_lm.train.launch import detect
from proxy_lm.train.metrics import StepTotals, Tally, step_record

S = 255  # a special
TINY: dict[str, Any] = {"preset": None, "width": 16, "depth": 1, "num_heads": 2, "hidden": 24}


def tensors(segments: list[list[int]], views: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(segments, dtype=torch.int32), torch.tensor(views, dtype=torch.uint8)


def counted(segments: list[int], views: list[int], row_length: int, **heads: int) -> dict[str, str]:
    """By head: `x` where a column of the row counts, `.` where not."""
    found = head_targets(*tensors([segments], [views]), row_length, **heads)
    names = ModelSettings(**TINY, **heads).resolved().head_names
    return {name: "".join(".x"[int(c)] for c in head.counts_BL[0]) for name, head in zip(names, found, strict=True)}


def test_a_pair_of_views_in_one_segment() -> None:
    # BOS <raw> a b c </raw> <view> p q r </view> EOS, then another document's BOS <raw> d. Row of 12, lookahead 3.
    views = [S, S, 0, 0, 0, S, S, 1, 1, 1, S, S, S, S, 0]
    segments = [0] * 12 + [1] * 3
    assert counted(segments, views, 12, num_raw_heads=2, num_symbol_heads=2) == {
        # The last column's target is the next document's BOS.
        "next": "xxxxxxxxxxx.",
        # ids[t + 1], ids[t + 2] are a b (t = 1) or b c (t = 2); for `raw_3` only a b c.
        "raw_2": ".xx.........",
        "raw_3": ".x..........",
        # As the raw heads in the raw piece, and p q, q r, p q r in the view's.
        "symbol_2": ".xx...xx....",
        "symbol_3": ".x....x.....",
    }


def test_a_splice_changes_view_behind_a_special_and_no_head_looks_across() -> None:
    # BOS <raw> a b SPLICE <view> p q </view> EOS: raw bytes, then symbols of the same document in the same segment.
    views = [S, S, 0, 0, S, S, 1, 1, S, S, S]
    assert counted([0] * 10 + [1], views, 9, num_raw_heads=1, num_symbol_heads=1) == {
        "next": "xxxxxxxxx",
        "raw_2": ".x.......",
        "symbol_2": ".x...x...",
    }


def test_fill_in_the_middle_parts_are_pieces_of_their_own() -> None:
    # BOS <raw> PREFIX a b SUFFIX c d MIDDLE e f </raw>: bytes on both sides of a mark are not neighbours in the text.
    views = [S, S, S, 0, 0, S, 0, 0, S, 0, 0, S]
    expected = "..x..x..x."
    assert counted([0] * 12, views, 10, num_raw_heads=1, num_symbol_heads=1) == {
        "next": "x" * 10,
        "raw_2": expected,
        "symbol_2": expected,
    }


def test_two_views_of_one_document_told_at_once_do_not_mix() -> None:
    # No special between codes 1 and 2 (no layout does it): the run of one code ends the piece all the same.
    assert counted([0] * 6, [1, 1, 1, 2, 2, 2], 4, num_symbol_heads=1) == {"next": "xxxx", "symbol_2": "x.xx"}


def test_a_row_that_begins_and_ends_inside_a_document_looks_into_its_lookahead() -> None:
    # Five bytes of one document, four of them the row's own: the fourth has its next byte, and no more.
    assert counted([0] * 6, [0] * 6, 4, num_raw_heads=1) == {"next": "xxxx", "raw_2": "xxxx"}
    assert counted([0] * 5 + [1], [0] * 6, 4, num_raw_heads=1) == {"next": "xxxx", "raw_2": "xxx."}


def test_padding_counts_nowhere() -> None:
    # A row packed with a gap: two bytes of a document, two of padding, whose views are specials as the packer writes them.
    assert counted([0, 0, 0, -1, -1, -1], [S, 0, 0, S, S, S], 4, num_raw_heads=1, num_symbol_heads=1) == {
        "next": "xx..",
        "raw_2": "x...",
        "symbol_2": "x...",
    }


def slow(segments: np.ndarray, views: np.ndarray, row_length: int, name: str) -> list[list[bool]]:
    """The table of `targets.py`, column by column."""
    kind, _, ahead = name.partition("_")
    distance = int(ahead or 1)
    out = []
    for b in range(len(segments)):
        row = []
        for t in range(row_length):
            way = range(t + 1, t + distance + 1)
            counts = segments[b, t] >= 0 and all(segments[b, u] == segments[b, t] for u in way)
            if kind == "raw":
                counts = counts and all(views[b, u] == 0 for u in way)
            if kind == "symbol":
                counts = counts and len({int(views[b, u]) for u in way}) == 1 and views[b, t + 1] != S
            row.append(bool(counts))
        out.append(row)
    return out


@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.integers(0, 5), st.integers(1, 20), st.integers(1, 3))
def test_masks_are_those_of_the_slow_twin(seed: int, num_raw: int, num_symbol: int, row_length: int, num_rows: int) -> None:
    rng = np.random.default_rng(seed)
    width = row_length + 1 + max(num_raw, num_symbol)
    segments = np.cumsum(rng.random((num_rows, width)) < 0.1, axis=1)
    segments[rng.random(num_rows) < 0.3, width // 2 :] = -1
    # Runs of codes rather than noise, so that far heads count somewhere.
    views = np.repeat(rng.choice([0, 0, 1, 2, S], (num_rows, width)), rng.integers(1, 9), axis=1)[:, :width]
    found = head_targets(*tensors(segments.tolist(), views.tolist()), row_length, num_raw, num_symbol)
    names = ModelSettings(**TINY, num_raw_heads=num_raw, num_symbol_heads=num_symbol).resolved().head_names
    for name, head in zip(names, found, strict=True):
        assert head.counts_BL.tolist() == slow(segments, views, row_length, name), name


def batch(row_length: int, lookahead: int, num_views: int = 2) -> dict[str, torch.Tensor]:
    """Two rows with two documents each; runs of raw, two views and specials."""
    rng = np.random.default_rng(5)
    width = row_length + lookahead
    views = np.repeat(rng.choice([0, 1, num_views, S], (2, width)), 4, axis=1)[:, :width]
    segments, views_tensor = tensors([[int(t >= width // 2) for t in range(width)]] * 2, views.tolist())
    positions = torch.arange(width, dtype=torch.int32).expand(2, -1)
    return {"ids": torch.from_numpy(rng.integers(0, 320, (2, width))), "segments": segments, "positions": positions, "views": views_tensor}


def test_every_head_is_plain_cross_entropy_on_its_own_targets() -> None:
    settings = ModelSettings(**TINY, num_raw_heads=2, num_symbol_heads=3, raw_head_weight=0.5, symbol_head_weight=0.25)
    model = Decoder(settings, 384, num_views=2, seed=1)
    assert model.lookahead == 4
    rows = batch(40, model.lookahead)
    losses = model(**rows)
    names = model.sizes.head_names
    assert names == ("next", "raw_2", "raw_3", "symbol_2", "symbol_3", "symbol_4")
    hidden = model._hidden(rows["ids"][:, :40], rows["segments"][:, :40], rows["positions"][:, :40]).flatten(0, 1)
    objective = torch.zeros((), dtype=torch.float64)
    for k, (name, head) in enumerate(zip(names, [model.head, *model.raw_heads, *model.symbol_heads], strict=True)):
        ahead = int(name.partition("_")[2] or 1)
        counts = torch.tensor(slow(rows["segments"].numpy(), rows["views"].numpy(), 40, name)).flatten()
        targets = rows["ids"][:, ahead : ahead + 40].flatten()
        nll = F.cross_entropy((hidden @ head.weight.t())[counts], targets[counts], reduction="sum").double()
        assert counts.sum() > 0
        assert losses.head_num_targets[k] == counts.sum()
        torch.testing.assert_close(losses.head_nll_nats[k], nll.detach(), rtol=1e-5, atol=1e-5)
        objective = objective + {"next": 1.0, "raw": 0.5, "symbol": 0.25}[name.partition("_")[0]] * nll
    torch.testing.assert_close(losses.loss.double(), objective / 80, rtol=1e-5, atol=1e-5)
    for parameter, grad in zip(model.parameters(), torch.autograd.grad(objective / 80, list(model.parameters())), strict=True):
        torch.testing.assert_close(torch.autograd.grad(losses.loss, parameter, retain_graph=True)[0], grad, rtol=1e-4, atol=1e-6)


def test_weights_by_view_change_what_is_trained_and_not_what_is_reported() -> None:
    """Each code alone, then a mixture: the objective and the gradients are the sum of the parts times their weights."""
    settings = ModelSettings(**TINY, num_raw_heads=1, num_symbol_heads=1, raw_head_weight=0.5)
    model = Decoder(settings, 384, num_views=2, seed=1)
    rows = batch(40, model.lookahead)
    plain: Losses = model(**rows)

    def trained(weights: list[float]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        losses = model(**rows, loss_weights=torch.tensor(weights))
        for got, expected in zip(losses[1:], plain[1:], strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=0)
        return losses.loss.detach(), list(torch.autograd.grad(losses.loss, list(model.parameters())))

    ones, ones_grads = trained([1.0, 1.0, 1.0, 1.0])
    torch.testing.assert_close(ones, plain.loss.detach(), rtol=0, atol=0)
    parts = [trained([float(k == code) for k in range(4)]) for code in range(4)]
    mixed, mixed_grads = trained([1.0, 0.25, 2.0, 0.5])
    weights = (1.0, 0.25, 2.0, 0.5)
    torch.testing.assert_close(mixed, sum(w * loss for w, (loss, _) in zip(weights, parts, strict=True)), rtol=1e-5, atol=1e-6)
    for k, grad in enumerate(mixed_grads):
        torch.testing.assert_close(grad, sum(w * grads[k] for w, (_, grads) in zip(weights, parts, strict=True)), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(ones_grads[k], sum(grads[k] for _, grads in parts), rtol=1e-4, atol=1e-6)
    # The first head's part is known from the table by view: raw alone, and twice nothing else.
    first = plain.nll_nats[3] / 80
    torch.testing.assert_close(parts[3][0].double(), first, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_raw_heads", [17, 40])
def test_any_number_of_raw_heads(num_raw_heads: int) -> None:
    """More heads than a row has columns, too: bytes of the lookahead are targets like others."""
    model = Decoder(ModelSettings(**TINY, num_raw_heads=num_raw_heads), 320, seed=1)
    width = 8 + model.lookahead
    rows = {
        "ids": torch.arange(width).remainder(256).unsqueeze(0),
        "segments": torch.zeros(1, width, dtype=torch.int32),
        "positions": torch.arange(width, dtype=torch.int32).unsqueeze(0),
        "views": torch.zeros(1, width, dtype=torch.uint8),
    }
    losses = model(**rows)
    assert losses.head_num_targets.tolist() == [8] * (1 + num_raw_heads)
    assert losses.loss.isfinite()


def test_the_line_of_a_step_has_the_loss_of_every_head() -> None:
    zeros = np.zeros((1, 1), dtype=np.int32)
    counts = np.zeros(2, dtype=np.int64)
    told = Batch(zeros.astype(np.int64), zeros, zeros, zeros.astype(np.uint8), counts, counts, counts, "")
    tally = Tally(Ranks(detect({}), timeout_seconds=1.0), num_views=1)
    for nll in (6.0, 2.0):
        tally.add(
            Losses(
                torch.tensor(1.5),
                torch.tensor([nll, 0.0, 0.0], dtype=torch.float64),
                torch.tensor([2, 0, 0]),
                torch.tensor([nll, 3.0, 0.0], dtype=torch.float64),
                torch.tensor([2, 1, 0]),
            ),
            told,
        )
    totals: StepTotals = tally.reduce()
    line = step_record(totals, ["raw", "v"], 4, head_names=("next", "raw_2", "symbol_2"))
    assert line["loss_nats"] == 2.0
    assert line["head_loss_nats"] == {"next": 2.0, "raw_2": 3.0, "symbol_2": None}


def test_a_run_with_heads_logs_each_and_its_checkpoint_has_them(tiny_run: Any) -> None:
    """The whole trainer, one process, ZeRO 3: names in `metrics.jsonl` and in TensorBoard, and the model comes back with its heads."""
    from proxy_lm.train.restore import load_model

    settings = tiny_run.settings("heads", num_steps=4, zero={"stage": 3}, logging={"tensorboard": True, "tensorboard_every_steps": 1})
    settings["model"] = {**settings["model"], "num_raw_heads": 2, "num_symbol_heads": 1, "symbol_head_weight": 0.5}
    settings["mix"] = {**settings["mix"], "loss_weights": {"gzip": 0.5}}
    tiny_run.train(tiny_run.write(settings))
    folder = tiny_run.folder / "runs" / "heads"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = ["next", "raw_2", "raw_3", "symbol_2"]
    for line in lines:
        assert list(line["head_loss_nats"]) == names
        assert line["head_loss_nats"]["next"] == line["loss_nats"]
        # At the start every head guesses: the nats of 320 ids, or of all of them. A step that is told by the view alone has no raw bytes.
        silent = [name for name, loss in line["head_loss_nats"].items() if loss is None]
        assert silent == [] or (silent == ["raw_2", "raw_3"] and line["symbol_share"]["raw"] < 0.01)
        assert all(4.0 < loss < 8.0 for loss in line["head_loss_nats"].values() if loss is not None)
    events = EventAccumulator(str(folder / "tb")).Reload()
    assert {f"head_loss_nats/{name}" for name in names} <= set(events.Tags()["scalars"])
    loaded = load_model(folder).model
    assert loaded.sizes.head_names == tuple(names)
    assert loaded.lookahead == 3
