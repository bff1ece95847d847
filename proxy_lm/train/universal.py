"""A checkpoint of n ranks continued by m: DeepSpeed's shards are made into its universal format, loaded, and deleted again.

    load_checkpoint(engine, checkpoint, run_folder, ranks)          # what `run.py` calls, whatever the two numbers of ranks are

DeepSpeed cuts the fp32 weights and the moments of the optimizer by rank (ZeRO 1 to 3), so its own files fit one number of ranks. The
universal format has them whole: one folder a parameter, one file for the weights and for each moment. Here all ranks make it together, in
`<run>/universal.tmp`, each its share of the parameters, read by memory map: memory is one parameter a rank. Disk: as much as the
optimizer's files take, looked for before. A kill leaves the folder; the next start makes it anew. The checkpoint itself is never touched.

Not promised: state that lies on NVMe (refused), and the same bits as an uninterrupted run: m ranks sum in another order, so losses agree
to rounding (tests/test_elastic.py: 1e-5 relative).
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from compressors.files import atomic_writer
from proxy_lm.errors import WorkError
from proxy_lm.progress import ProgressBar, note
from proxy_lm.train.agreement import agree
from proxy_lm.train.checkpoint import SPACE_MARGIN_PERCENT, Checkpoint
from proxy_lm.train.checkpoint_files import deal
from proxy_lm.train.collectives import Collectives
from proxy_lm.train.run_files import UNIVERSAL_NAME

if TYPE_CHECKING:
    from proxy_lm.train.engine import Engine
    from proxy_lm.train.settings import RunSettings

ENGINE_NAME: Final = "engine"
_SHARD = re.compile(r"(?:bf16_)?zero_pp_rank_([0-9]+)_mp_rank_00_optim_states\.pt")
# What a rank's file has of its own; the rest of it is the same on all ranks.
_SHARDED: Final = ("base_optimizer_state", "param_slice_mappings", "single_partition_of_fp32_groups", "fp32_flat_groups")


@dataclass
class _Parameter:
    """Where one parameter lies: `pieces` are (rank, group, first element, number of elements) in the order of the whole."""

    shape: tuple[int, ...]
    pieces: list[tuple[int, int, int, int]] = field(default_factory=list)

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class _Shards:
    """All ranks' optimizer files, mapped: nothing is read until it is used."""

    stage: int
    fp32: list[list[Tensor]]
    """[rank][group]: a rank's part of the flat fp32 weights."""
    moments: list[dict[int, dict[str, Any]]]
    """[rank][group][name]: flat tensors like `fp32`, and the count of steps."""
    shared: dict[str, Any]
    """The state that all ranks have in common, as DeepSpeed spells it."""
    model_states: Path
    parameters: dict[str, _Parameter]
    momentum_is_whole: bool
    """Muon's momentum is kept by whole matrices and not by parts."""


def needs_conversion(checkpoint: Checkpoint, world_size: int, stage: int) -> bool:
    """Whether DeepSpeed's own files do not fit this number of ranks. At stage 0 every rank has everything."""
    return stage > 0 and checkpoint.world_size != world_size


def load_checkpoint(engine: Engine, checkpoint: Checkpoint, run_folder: Path, ranks: Collectives) -> None:
    """Weights, optimizer and counters of a verified checkpoint into the engine, on every rank. Collective.

    Raises `WorkError` on every rank where it cannot be read, converted or held by the disk; the checkpoint stays as it is."""
    if not needs_conversion(checkpoint, ranks.world_size, engine.stage):
        agree(ranks, lambda: engine.load(checkpoint.path))
        return
    if ranks.rank == 0:
        note(
            f"{checkpoint.path} was written by {count_ranks(checkpoint.world_size)} and this run has {ranks.world_size}: its shards are "
            f"converted in {run_folder / UNIVERSAL_NAME}, which is deleted after loading"
        )
    with converted(checkpoint, run_folder / UNIVERSAL_NAME, ranks) as folder:
        agree(ranks, lambda: engine.load(folder, universal=True))


def count_ranks(number: int) -> str:
    """`1 rank`, `2 ranks`."""
    return f"{number} rank" if number == 1 else f"{number} ranks"


def mend_loaded(optimizer: Any, settings: RunSettings, folder: Path, groups: Sequence[Mapping[str, Any]]) -> None:
    """Put right what DeepSpeed's universal loader gets wrong in its sharded `optimizer`: at stage 3 every group gets the first one's weight
    decay, and all groups share one count of steps, which each then moves on; and it does not know where Muon's momentum belongs.
    `groups` are the groups' settings from before the load. On CUDA the fused optimizer also wants the count on the device."""
    state = optimizer.optimizer.state
    for group, before in zip(optimizer.optimizer.param_groups, groups, strict=True):
        group.update(before)
    for parameter, of_parameter in state.items():
        if isinstance(of_parameter.get("step"), Tensor):
            of_parameter["step"] = of_parameter["step"].clone().to(parameter.device)
    if settings.optimizer.kind != "muon":
        return
    if settings.zero.stage == 3:
        # Flat, and it has come as AdamW's first moment.
        for flat, by_muon in zip(optimizer.fp32_partitioned_groups_flat, optimizer.sub_groups_using_muon, strict=True):
            if by_muon:
                state[flat] = {"momentum_buffer": state[flat]["exp_avg"]}
    elif settings.zero.offload_optimizer == "none" and hasattr(optimizer, "params_in_partition"):
        # The whole of every matrix that this rank has a part of, and the loader has read that part. (DeepSpeed's class for bf16 at
        # stage 1 keeps the part only.)
        for group, members in zip(optimizer.optimizer.param_groups, optimizer.params_in_partition, strict=True):
            if group["use_muon"] and members:
                files = [folder / ENGINE_NAME / "zero" / optimizer.param_names[member] / "momentum_buffer.pt" for member in members]
                whole = torch.cat([torch.load(file, map_location="cpu", weights_only=True)["param"].flatten() for file in files])
                state[group["params"][0]] = {"momentum_buffer": whole.to(group["params"][0].device)}


@contextmanager
def converted(checkpoint: Checkpoint, folder: Path, ranks: Collectives) -> Iterator[Path]:
    """`folder`, filled with the checkpoint in DeepSpeed's universal format; deleted at the end. Collective."""

    def prepare() -> None:
        if ranks.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was killed
            _check_space(checkpoint, folder)
            (folder / ENGINE_NAME / "zero").mkdir(parents=True)

    agree(ranks, prepare)
    try:
        agree(ranks, lambda: convert(checkpoint.path / ENGINE_NAME, folder / ENGINE_NAME, ranks.rank, ranks.world_size))
        yield folder
    finally:
        if ranks.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)


def convert(source: Path, target: Path, rank: int, world_size: int) -> None:
    """This rank's share of the universal form of `source` (DeepSpeed's files of one checkpoint) into `target`.

    Raises `WorkError` where the files are not what this version of DeepSpeed writes: nothing is guessed."""
    try:
        shards = _open(source)
    except (KeyError, IndexError, AttributeError, TypeError, OSError, RuntimeError, UnpicklingError) as error:
        raise WorkError(
            f"the engine's files in {source} do not have the form that this version reads ({type(error).__name__}: {str(error)[:150]}); "
            "continue with the number of ranks and the version that wrote them"
        ) from error
    share = deal({name: 4 * parameter.num_elements for name, parameter in shards.parameters.items()}, world_size)[rank]
    if rank == 0:
        _write_common(shards, target)
    sizes = {name: 12 * shards.parameters[name].num_elements for name in share}
    if rank == 0:
        with ProgressBar("convert the checkpoint", sum(sizes.values())) as bar:
            for name in share:
                _write_parameter(shards, name, target / "zero" / name)
                bar.advance(sizes[name])
    else:
        for name in share:
            _write_parameter(shards, name, target / "zero" / name)


def _check_space(checkpoint: Checkpoint, folder: Path) -> None:
    stored = sum(entry["size_bytes"] for entry in checkpoint.manifest["files"] if entry["name"].endswith("_optim_states.pt"))
    needed_bytes = stored * SPACE_MARGIN_PERCENT // 100
    free_bytes = shutil.disk_usage(folder.parent).free
    if free_bytes < needed_bytes:
        raise WorkError(
            f"converting {checkpoint.path} needs about {needed_bytes} bytes for a while and {free_bytes} are free in {folder.parent}; free "
            f"{needed_bytes - free_bytes} bytes or more, or start {count_ranks(checkpoint.world_size)}: no conversion is needed then"
        )


def _open(source: Path) -> _Shards:
    files = {int(match.group(1)): path for path in source.iterdir() if (match := _SHARD.fullmatch(path.name))}
    if sorted(files) != list(range(len(files))) or not files:
        raise WorkError(f"{source} has optimizer files of the ranks {sorted(files)}; those of 0 to {len(files) - 1} are needed")
    if (source / "offloaded_tensors").exists():
        raise WorkError(
            f"{source} has its optimizer state in NVMe files of {len(files)} ranks, which fit no other number; start {len(files)}"
        )
    states = [_mapped(files[rank])["optimizer_state_dict"] for rank in range(len(files))]
    # For bf16 at stage 1 DeepSpeed has a class of its own, which does not say its stage.
    stage = int(states[0].get("zero_stage", 1))
    # Stage 3 keeps the optimizer's own dict one level further down, and under another name.
    inner, flat = (
        ("optimizer_state_dict", "fp32_flat_groups") if stage == 3 else ("base_optimizer_state", "single_partition_of_fp32_groups")
    )
    model_states = source / ("zero_pp_rank_0_mp_rank_00_model_states.pt" if stage == 3 else "mp_rank_00_model_states.pt")
    shapes = [{name: tuple(shape) for name, shape in group.items()} for group in _mapped(model_states)["param_shapes"]]
    fp32 = [list(state[flat]) for state in states]
    parameters = _whole_pieces(shapes, fp32) if stage == 3 else _mapped_pieces(shapes, states)
    for name, parameter in parameters.items():
        found = sum(piece[3] for piece in parameter.pieces)
        if found != parameter.num_elements:
            raise WorkError(f"{source} has {found} of the {parameter.num_elements} elements of {name}; it is not a whole checkpoint")
    shared = {key: value for key, value in states[0].items() if key not in _SHARDED}
    shared["param_groups"] = states[0][inner]["param_groups"]
    if stage == 3:
        # DeepSpeed reads the count of steps from the first group there, and nothing else of it. Muon's groups count none.
        steps = [state["step"] for state in states[0][inner]["state"].values() if "step" in state]
        shared[inner] = {"state": {0: {"step": steps[0]}}, "param_groups": states[0][inner]["param_groups"]}
    return _Shards(
        stage=stage,
        fp32=fp32,
        moments=[dict(state[inner]["state"]) for state in states],
        shared=shared,
        model_states=model_states,
        parameters=parameters,
        momentum_is_whole=stage < 3 and "zero_stage" in states[0] and _offload(_mapped(files[0])) == "none",
    )


def _offload(file: dict[str, Any]) -> str:
    """Where the optimizer's state lay when the file was written."""
    return str((file["ds_config"]["zero_optimization"].get("offload_optimizer") or {}).get("device") or "none")


def _mapped_pieces(shapes: list[dict[str, tuple[int, ...]]], states: list[dict[str, Any]]) -> dict[str, _Parameter]:
    """Stages 1 and 2: the flat group is cut at any element; each rank says what it has, in the order of the ranks."""
    parameters = {name: _Parameter(shape) for group in shapes for name, shape in group.items()}
    for rank, state in enumerate(states):
        for group, mapping in enumerate(state["param_slice_mappings"]):
            for name, address in mapping.items():
                parameters[name].pieces.append((rank, group, int(address.start), int(address.numel)))
    return parameters


def _whole_pieces(shapes: list[dict[str, tuple[int, ...]]], fp32: list[list[Tensor]]) -> dict[str, _Parameter]:
    """Stage 3: every parameter is cut into equal parts, the last one padded, and a rank's parts stand one after the other."""
    parameters: dict[str, _Parameter] = {}
    for group, members in enumerate(shapes):
        start = 0
        for name, shape in members.items():
            parameter = parameters[name] = _Parameter(shape)
            part = math.ceil(parameter.num_elements / len(fp32))
            for rank in range(len(fp32)):
                size = max(0, min(part, parameter.num_elements - rank * part))
                if size:
                    parameter.pieces.append((rank, group, start, size))
            start += part
        if any(start > flat[group].numel() for flat in fp32):
            raise WorkError(f"group {group} of the checkpoint needs {start} elements a rank and has {fp32[0][group].numel()}")
    return parameters


def _write_common(shards: _Shards, target: Path) -> None:
    """What is not a parameter: counters of the engine, loss scale, settings of the groups."""
    model = _mapped(shards.model_states)
    # Weights come from the fp32 files; the copy in the passes' type would only take space.
    _save(target / shards.model_states.name, {**model, "module": {}})
    _save(target / "zero" / "optimizer_state.pt", shards.shared)


def _write_parameter(shards: _Shards, name: str, folder: Path) -> None:
    parameter = shards.parameters[name]
    folder.mkdir(parents=True, exist_ok=True)

    def whole(flat: Sequence[Mapping[int, Tensor] | Sequence[Tensor]]) -> Tensor:
        return torch.cat([flat[rank][group][start : start + size] for rank, group, start, size in parameter.pieces])

    _save_whole(folder / "fp32.pt", parameter, whole(shards.fp32))
    first_rank, first_group, *_ = parameter.pieces[0]
    for key, value in shards.moments[first_rank].get(first_group, {}).items():
        if not isinstance(value, Tensor) or value.dim() == 0:
            if key != "step":
                raise WorkError(f"{name} has a state '{key}' of the optimizer that no other number of ranks can be given")
            if shards.stage < 3:  # stage 3 has one count for all
                _save(folder / "step.pt", value)
            continue
        moment = (
            _momentum(shards, name)
            if key == "momentum_buffer" and shards.momentum_is_whole
            else whole([{group: state[key] for group, state in rank.items() if key in state} for rank in shards.moments])
        )
        if shards.stage == 3 and key == "momentum_buffer":
            # DeepSpeed's loader for stage 3 knows AdamW's two moments only. Muon's travels as the first; `mend_loaded` puts it right.
            _save_whole(folder / "exp_avg.pt", parameter, moment)
            _save_whole(folder / "exp_avg_sq.pt", parameter, torch.zeros_like(moment))
        else:
            _save_whole(folder / f"{key}.pt", parameter, moment)


def _momentum(shards: _Shards, name: str) -> Tensor:
    """Muon's momentum of a matrix at stages 1 and 2 in fp32 without offload: each rank keeps the whole of every matrix that it has a part
    of, one after the other, so the first rank's copy will do."""
    rank, group, *_ = shards.parameters[name].pieces[0]
    start = 0
    for other, parameter in shards.parameters.items():
        if any(piece[:2] == (rank, group) for piece in parameter.pieces):
            if other == name:
                flat: Tensor = shards.moments[rank][group]["momentum_buffer"]
                return flat[start : start + parameter.num_elements]
            start += parameter.num_elements
    raise AssertionError(name)


def _save_whole(path: Path, parameter: _Parameter, flat: Tensor) -> None:
    _save(path, {"param": flat.detach().reshape(parameter.shape), "cat_dim": 0})


def _save(path: Path, value: Mapping[str, Any] | Tensor | float) -> None:
    try:
        with atomic_writer(path, durable=False) as file:
            torch.save(value, file)
    except RuntimeError as error:  # how torch's writer tells of a disk that is full
        raise WorkError(
            f"could not write {path} ({str(error).splitlines()[0][:100]}): {shutil.disk_usage(path.parent).free} bytes are free there; "
            "free some and run the same command again"
        ) from error


def _mapped(path: Path) -> dict[str, Any]:
    """A file of DeepSpeed's, verified by digest before; its tensors are read when they are used. Only plain values, tensors and a few inert
    classes of DeepSpeed can come out of it."""
    from proxy_lm.train.engine import STORED_CLASSES  # here, because the engine imports this module

    with torch.serialization.safe_globals(list(STORED_CLASSES)):
        value: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return value
