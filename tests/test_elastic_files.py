"""The universal form of made-up shards is the whole they were cut from: any shapes, any number of ranks, both ways in which DeepSpeed cuts.

The cutting here is the slow, readable twin of what the converter puts together. No engine, no process group.
"""

from __future__ import annotations

import math
import os
import resource
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy_lm.errors import WorkError
from proxy_lm.train.engine import fragment_address as address
from proxy_lm.train.universal import convert

STATES = ("fp32", "exp_avg", "exp_avg_sq")


def whole_of(shapes: list[tuple[int, ...]]) -> dict[str, dict[str, torch.Tensor]]:
    """Parameters whose elements are all different: {"p0": {"fp32": ..., "exp_avg": ..., "exp_avg_sq": ...}, ...}."""
    start, whole = 0, {}
    for number, shape in enumerate(shapes):
        size = math.prod(shape)
        whole[f"p{number}"] = {state: (torch.arange(start, start + size) + 10_000.0 * k).reshape(shape) for k, state in enumerate(STATES)}
        start += size
    return whole


def write(folder: Path, groups: list[dict], num_ranks: int, stage: int) -> None:
    """Cut `groups` of parameters over the ranks as DeepSpeed does, and write what it writes, as far as the converter reads it."""
    folder.mkdir(parents=True)
    shapes = [OrderedDict((name, torch.Size(states["fp32"].shape)) for name, states in group.items()) for group in groups]
    model = "zero_pp_rank_0_mp_rank_00_model_states.pt" if stage == 3 else "mp_rank_00_model_states.pt"
    torch.save({"param_shapes": shapes, "module": {"p0": torch.ones(99)}, "global_steps": 7, "own_skipped": 2}, folder / model)
    for rank in range(num_ranks):
        cut = [(cut_equally if stage == 3 else cut_anywhere)(group, num_ranks, rank) for group in groups]
        moments = {k: {"step": torch.tensor(7.0), **{state: flat[state] for state in STATES[1:]}} for k, (flat, _) in enumerate(cut)}
        inner = {"state": moments, "param_groups": [{"lr": 0.1, "weight_decay": 0.1 * k} for k in range(len(groups))]}
        state = {"zero_stage": stage, "loss_scaler": "scaler", "overflow": False}
        if stage == 3:
            state |= {"optimizer_state_dict": inner, "fp32_flat_groups": [flat["fp32"] for flat, _ in cut]}
        else:
            state |= {"base_optimizer_state": inner, "single_partition_of_fp32_groups": [flat["fp32"] for flat, _ in cut]}
            state |= {"param_slice_mappings": [mapping for _, mapping in cut]}
        torch.save(
            {"optimizer_state_dict": state, "ds_config": {"zero_optimization": {}}},
            folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt",
        )


def cut_equally(group: dict, num_ranks: int, rank: int) -> tuple[dict, None]:
    """Stage 3: each parameter in `num_ranks` equal parts, the end padded with zeros; a rank's parts one after the other."""
    parts: dict[str, list[torch.Tensor]] = {state: [] for state in STATES}
    for states in group.values():
        for state in STATES:
            flat = states[state].flatten()
            size = math.ceil(len(flat) / num_ranks)
            padded = torch.cat((flat, torch.zeros(size * num_ranks - len(flat))))
            parts[state].append(padded[rank * size : (rank + 1) * size])
    return {state: torch.cat(pieces) for state, pieces in parts.items()}, None


def cut_anywhere(group: dict, num_ranks: int, rank: int) -> tuple[dict, OrderedDict]:
    """Stages 1 and 2: the parameters of a group one after the other, padded, cut into `num_ranks` equal stretches wherever that falls."""
    flat = {state: torch.cat([states[state].flatten() for states in group.values()]) for state in STATES}
    size = math.ceil(len(flat["fp32"]) / (2 * num_ranks)) * 2
    mapping, start = OrderedDict(), 0
    for name, states in group.items():
        end = start + states["fp32"].numel()
        first, last = max(start, rank * size), min(end, (rank + 1) * size)
        if first < last:
            mapping[name] = address(last - first, first - rank * size)
        start = end
    return {state: tensor[rank * size : (rank + 1) * size] for state, tensor in flat.items()}, mapping


def read(folder: Path, name: str, state: str) -> torch.Tensor:
    return torch.load(folder / "zero" / name / f"{state}.pt", weights_only=False)["param"]


class Planted:
    """Its pickle makes a folder when it is read by a loader that trusts it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_two_ranks_cut_a_vector_of_five_in_the_middle(tmp_path):
    """Stage 1, one group of a vector of five and one of two: six elements and a pad on two ranks."""
    whole = whole_of([(5,), (2,)])
    write(tmp_path / "engine", [whole], 2, stage=1)
    second = torch.load(tmp_path / "engine" / "zero_pp_rank_1_mp_rank_00_optim_states.pt", weights_only=False)["optimizer_state_dict"]
    assert second["single_partition_of_fp32_groups"][0].tolist() == [4.0, 5.0, 6.0]
    assert {name: (at.start, at.numel) for name, at in second["param_slice_mappings"][0].items()} == {"p0": (0, 1), "p1": (1, 2)}
    convert(tmp_path / "engine", tmp_path / "whole", 0, 1)
    assert read(tmp_path / "whole", "p0", "fp32").tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert read(tmp_path / "whole", "p1", "exp_avg_sq").tolist() == [20_005.0, 20_006.0]
    assert torch.load(tmp_path / "whole" / "zero" / "p1" / "step.pt", weights_only=False) == 7


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.one_of(st.tuples(st.integers(1, 9)), st.tuples(st.integers(1, 5), st.integers(1, 4))), min_size=2, max_size=6),
    num_ranks=st.integers(1, 5),
    num_writers=st.integers(1, 3),
    stage=st.sampled_from((1, 2, 3)),
    data=st.data(),
)
def test_any_cut_is_put_together_again_by_any_number_of_writers(tmp_path_factory, shapes, num_ranks, num_writers, stage, data):
    folder = tmp_path_factory.mktemp("cut")
    whole = whole_of(shapes)
    border = data.draw(st.integers(1, len(whole) - 1))
    names = list(whole)
    groups = [{name: whole[name] for name in some} for some in (names[:border], names[border:])]
    write(folder / "engine", groups, num_ranks, stage)
    for rank in range(num_writers):
        convert(folder / "engine", folder / "whole", rank, num_writers)
    for name, states in whole.items():
        for state, tensor in states.items():
            found = read(folder / "whole", name, state)
            assert found.shape == tensor.shape
            assert torch.equal(found, tensor), (name, state)
    shared = torch.load(folder / "whole" / "zero" / "optimizer_state.pt", weights_only=False)
    assert [group["weight_decay"] for group in shared["param_groups"]] == [0.0, 0.1]
    assert shared["loss_scaler"] == "scaler"
    assert "fp32_flat_groups" not in shared
    model = torch.load(next((folder / "whole").glob("*model_states.pt")), weights_only=False)
    assert (model["global_steps"], model["own_skipped"], model["module"]) == (7, 2, {})


def test_what_is_not_a_whole_checkpoint_is_refused_in_a_sentence(tmp_path):
    whole = whole_of([(4,), (3, 2)])
    for stage in (1, 3):
        folder = tmp_path / str(stage)
        write(folder, [whole], 3, stage)
        (folder / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
        with pytest.raises(WorkError, match=r"optimizer files of the ranks \[0, 2\]; those of 0 to 1 are needed"):
            convert(folder, tmp_path / "none", 0, 1)
        (folder / "zero_pp_rank_2_mp_rank_00_optim_states.pt").unlink()
        with pytest.raises(WorkError, match=r"elements"):
            convert(folder, tmp_path / "none", 0, 1)
    with pytest.raises(WorkError, match=r"optimizer files of the ranks \[\]"):
        convert(tmp_path, tmp_path / "none", 0, 1)
    write(tmp_path / "odd", [whole], 1, 1)
    path = tmp_path / "odd" / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    torch.save({"optimizer_state_dict": {"zero_stage": 1}}, path)
    with pytest.raises(WorkError, match=r"do not have the form that this version reads \(KeyError"):
        convert(tmp_path / "odd", tmp_path / "none", 0, 1)
    torch.save({"optimizer_state_dict": Planted(tmp_path / "ran")}, path)
    with pytest.raises(WorkError, match=r"do not have the form that this version reads \(UnpicklingError"):
        convert(tmp_path / "odd", tmp_path / "none", 0, 1)
    assert not (tmp_path / "ran").exists(), "a file can name no function that is then called"
    path.write_bytes(b"no pickle at all")
    with pytest.raises(WorkError, match="do not have the form that this version reads"):
        convert(tmp_path / "odd", tmp_path / "none", 0, 1)


def test_a_write_that_fails_is_a_sentence(tmp_path):
    """No file may grow beyond 100 kB: what torch makes of it is what it makes of a full disk."""
    write(tmp_path / "engine", [whole_of([(40_000,), (2,)])], 2, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(WorkError, match=r"could not write .* bytes are free there; free some and run the same command again"):
            convert(tmp_path / "engine", tmp_path / "whole", 0, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_state_on_nvme_is_refused_with_the_number_of_ranks_that_fits(tmp_path):
    write(tmp_path / "engine", [whole_of([(4,), (2,)])], 2, 3)
    (tmp_path / "engine" / "offloaded_tensors").mkdir()
    with pytest.raises(WorkError, match="NVMe files of 2 ranks, which fit no other number; start 2"):
        convert(tmp_path / "engine", tmp_path / "none", 0, 1)
