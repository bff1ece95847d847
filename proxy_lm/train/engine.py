"""DeepSpeed, and nothing else of the project imports it: process group, engine, its checkpoint files, gathered fp32 weights.

    ranks = start(settings.communication, launch, settings.sequence_parallel)    # process group: nccl on CUDA, gloo on the CPU
    engine = Engine(model, settings, config, ranks)       # config: the dict of `deepspeed_config`
    losses = engine.forward(batch); engine.backward(losses.loss); engine.step()

Ranks that share rows (`sequence_parallel`) are data-parallel ranks to DeepSpeed: each has the loss of its own columns over its own number
of columns, so that the mean over ranks, which DeepSpeed takes, is the mean over whole rows. Only attention talks (Ulysses all-to-all).

Not promised: models that do not fit one host's memory once per rank (parameters are built whole, then sharded), pipeline or tensor
parallelism.
"""

from __future__ import annotations

import inspect
import io
import logging
import math
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from proxy_lm.errors import RequestError, WorkError
from proxy_lm.model.attention import Layout, document_attention
from proxy_lm.model.decoder import Decoder, Losses
from proxy_lm.train.discard import discarding, drop_stale_sums
from proxy_lm.train.launch import Launch
from proxy_lm.train.optimizers import parameter_groups, set_rates
from proxy_lm.train.ranks import Ranks as Ranks
from proxy_lm.train.ranks import device_name as device_name
from proxy_lm.train.ranks import first_line
from proxy_lm.train.ranks import meeting as meeting
from proxy_lm.train.settings import RunSettings
from proxy_lm.train.settings_groups import CommunicationSettings, OptimizerSettings
from proxy_lm.train.stale_locks import refuse_stale_lock
from proxy_lm.train.universal import mend_loaded

TAG: Final = "engine"
MUON_KERNELS: Final = {"zeropower_via_newtonschulz5", "zeropower_via_gram_newtonschulz", "muon_update"}
COMPILERS: Final = ("c++", "g++", "clang++")
DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

if not torch.cuda.is_available():
    # Said before the import: DeepSpeed otherwise probes for accelerators and warns that it found none.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
import deepspeed  # noqa: E402 - reads the variable above
from deepspeed.accelerator import get_accelerator  # noqa: E402 - as above
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler  # noqa: E402 - as above
from deepspeed.runtime.zero.config import ZeroStageEnum  # noqa: E402 - as above
from deepspeed.sequence.layer import DistributedAttention  # noqa: E402 - as above
from deepspeed.utils import logger as deepspeed_logger  # noqa: E402 - as above
from deepspeed.utils import safe_get_full_fp32_param  # noqa: E402 - as above
from deepspeed.utils.tensor_fragment import fragment_address  # noqa: E402 - as above

# What DeepSpeed's files have in them beside tensors and plain values, and all that `universal.py` lets them make.
STORED_CLASSES: Final = (LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address)


def start(settings: CommunicationSettings, launch: Launch, sequence_parallel: int = 1) -> Ranks:
    """Join the process group that `launch` describes. Raises `WorkError` when the ranks do not find each other, `RequestError` where
    `sequence_parallel` does not divide their number."""
    if launch.world_size % sequence_parallel:
        raise RequestError(
            f"sequence_parallel={sequence_parallel} does not divide the world size {launch.world_size}; start a multiple of "
            f"{sequence_parallel} ranks"
        )
    _quiet(launch.rank)
    device = get_accelerator().device_name()
    if device == "cuda":
        if launch.local_rank >= torch.cuda.device_count():
            raise RequestError(
                f"local rank {launch.local_rank} has no device: {torch.cuda.device_count()} CUDA devices are visible; start as many ranks"
            )
        torch.cuda.set_device(launch.local_rank)
    elif device == "cpu":
        if "OMP_NUM_THREADS" not in os.environ:
            # torch takes every core in every rank otherwise, and the ranks then fight for them.
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // launch.local_world_size))
        if not settings.shared_memory_op:
            # The CPU backend compiles a shared-memory all-reduce at its first start: a C++ compiler, 100 to 150 s, and a lock that hangs
            # every later start when its owner was killed. It looks its op up in this table; given one that denies it, it stays with gloo.
            # Set whole rather than edited, because reading the table first probes every op with a compiler.
            vars(deepspeed.ops)["__compatible_ops__"] = {"deepspeed_shm_comm": False}
        else:
            refuse_stale_lock("deepspeed_shm_comm")
    try:
        deepspeed.init_distributed(
            dist_backend=get_accelerator().communication_backend_name(),
            auto_mpi_discovery=False,
            verbose=False,
            timeout=timedelta(seconds=settings.timeout_seconds),
        )
    except (RuntimeError, ValueError, OSError) as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise WorkError(
            f"rank {launch.rank} of {launch.world_size} could not meet the others at {address} ({first_line(error)}); "
            "check that all ranks start, that the port is free and the address is reachable"
        ) from error
    device_of_rank = torch.device(get_accelerator().device_name(launch.local_rank))
    return Ranks(launch, settings.timeout_seconds, sequence_parallel, device_of_rank)


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def versions() -> dict[str, str]:
    """Of the libraries that decide a run's numbers."""
    return {"torch": torch.__version__, "deepspeed": deepspeed.__version__}


class Engine:
    """One model under DeepSpeed: passes, updates, files."""

    def __init__(self, model: Decoder, settings: RunSettings, config: dict[str, Any], ranks: Ranks) -> None:
        """`config` is the resolved DeepSpeed dict. Raises `RequestError` where DeepSpeed refuses it, and for what this machine lacks."""
        check_machine(settings)
        self.settings = settings
        self.ranks = ranks
        self.stage = settings.zero.stage
        self.device = ranks.device
        self._clip = settings.optimizer.gradient_clip
        self._own_skipped = 0
        self._norm = 0.0
        if ranks.sequence_group is not None:
            model.share_columns(ranks.column_share, ranks.sequence_parallel, Ulysses(ranks.sequence_group))
        optimizer = build_optimizer(model, settings.optimizer, self.device)
        try:
            # Under bf16 and ZeRO 1 it prints its memory use, ten times and without asking.
            with redirect_stdout(io.StringIO()):
                self._engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
        except (ValueError, AssertionError, NotImplementedError, deepspeed.runtime.config.DeepSpeedConfigError) as error:
            raise RequestError(
                f"DeepSpeed {deepspeed.__version__} refuses its configuration: {first_line(error)} (precision {settings.precision}, "
                f"ZeRO {settings.zero.stage}, on {ranks.device.type}); change the setting it speaks of"
            ) from error
        self.module: nn.Module = self._engine.module
        if settings.compile == "blocks":
            for block in model.blocks:
                block.compile_around_attention(dynamic=False)  # type: ignore[operator]

    def forward(
        self,
        ids: Tensor,
        segments: Tensor,
        positions: Tensor,
        views: Tensor,
        loss_weights: Tensor | None = None,
        *,
        soft: Tensor | None = None,
        soft_weight: float = 0.0,
    ) -> Losses:
        """The model's losses on one micro-batch; the last three as in `Decoder.forward`."""
        taught = () if soft is None else (soft, soft_weight)
        losses: Losses = self._engine(ids, segments, positions, views, loss_weights, *taught)
        return losses

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one micro-batch; at the last one of a step they are summed over the ranks."""
        self._engine.backward(loss)

    def step(self, *, discard: bool = False) -> None:
        """After every micro-batch. At the last one of a step: clip, update, clear; to `discard` it, clear only and count it as skipped."""
        forget: AbstractContextManager[Any] = discarding(self._engine.optimizer) if discard and self.stage else nullcontext()
        is_last = self._engine.is_gradient_accumulation_boundary()
        if self.stage == 0 and is_last and not self._clip_here(discard):
            forget = _without_update(self._engine.optimizer)
        with forget:
            self._engine.step()
        if is_last:
            drop_stale_sums(self._engine.optimizer)

    def set_learning_rate(self, rate: float) -> None:
        """AdamW's rate of the next update; Muon's follows in proportion."""
        set_rates(self._engine.optimizer.param_groups, self.settings.optimizer, rate)

    def train(self, mode: bool = True) -> None:
        """Training or evaluation mode of the model."""
        self._engine.train(mode)

    @property
    def gradient_norm(self) -> float:
        """Norm of the last update's gradient before clipping; not finite where the update was skipped."""
        return self._norm if self.stage == 0 else float(self._engine.get_global_grad_norm() or 0.0)

    @property
    def skipped_steps(self) -> int:
        """Updates that were not made because the gradient was not finite."""
        return int(self._engine.skipped_steps) + self._own_skipped

    @property
    def loss_scale(self) -> float:
        """fp16's factor; 1 otherwise."""
        return float(getattr(self._engine.optimizer, "cur_scale", 1.0)) if self.settings.precision == "fp16" else 1.0

    def save(self, folder: Path) -> None:
        """DeepSpeed's own files under `folder`/engine; every rank calls it. No `latest` is written: the checkpoint manager commits."""
        self._engine.save_checkpoint(str(folder), tag=TAG, client_state={"own_skipped": self._own_skipped}, save_latest=False)

    def load(self, folder: Path, *, universal: bool = False) -> None:
        """Weights, optimizer and counters from what `save` wrote, or `universal.py` made of it for another number of ranks. The caller has
        verified every file by digest. Raises `WorkError`.

        At stage 3 DeepSpeed cannot load right after saving with the same engine: load into a new one."""
        groups = self._engine.optimizer.param_groups
        ours = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        level = deepspeed_logger.level
        self._engine._config.load_universal_checkpoint = universal
        deepspeed_logger.setLevel(logging.ERROR)  # the universal loader warns that there is no tensor parallelism
        try:
            path, state = self._engine.load_checkpoint(str(folder), tag=TAG)
        except (OSError, LookupError, ValueError, AssertionError, RuntimeError) as error:
            raise WorkError(f"DeepSpeed could not load {folder / TAG}: {first_line(error)}") from error
        finally:
            self._engine._config.load_universal_checkpoint = False
            deepspeed_logger.setLevel(level)
        if path is None:
            raise WorkError(f"DeepSpeed found no checkpoint in {folder / TAG}; a run never restarts at step 0 by itself")
        self._own_skipped = int((state or {}).get("own_skipped", 0))
        if universal:
            mend_loaded(self._engine.optimizer, self.settings, folder, ours)

    def close(self) -> None:
        """Give back what DeepSpeed holds, before another engine takes its place."""
        self._engine.destroy()

    def full_parameters(self) -> Iterator[tuple[str, Tensor | None]]:
        """(name, fp32 tensor on the CPU) in the model's order, one at a time, whatever the stage; None on every rank but 0.

        Every rank must exhaust the iterator: gathering is collective. Memory: one parameter on the device, one on rank 0's host."""
        whole = self.stage == 0 or (self.stage < 3 and self.settings.precision == "fp32")
        for name, parameter in self.module.named_parameters():
            full = parameter.detach() if whole else safe_get_full_fp32_param(parameter)
            assert full is not None, name
            yield name, full.detach().to("cpu", torch.float32) if self.ranks.rank == 0 else None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Full shape of every parameter in the model's order."""
        return {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in self.module.named_parameters()}

    def _clip_here(self, discard: bool) -> bool:
        """Whether there is a gradient to go by: the same as what the other stages do with an overflow."""
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        self._norm = math.inf if discard else float(norm)
        if not math.isfinite(self._norm):
            self._own_skipped += 1
            for parameter in parameters:
                parameter.grad = None
            return False
        if self._clip > 0:
            nn.utils.clip_grads_with_norm_(parameters, self._clip, norm)
        return True


def build_optimizer(model: nn.Module, settings: OptimizerSettings, device: torch.device) -> torch.optim.Optimizer:
    """torch's AdamW, or DeepSpeed's Muon with that AdamW inside. Fused also where offload keeps the state in host memory."""
    groups, adamw = parameter_groups(model, settings), _adamw(settings)
    if device.type == "cpu":
        _import_muon_uncompiled()
    if settings.kind == "adamw":
        return torch.optim.AdamW(groups, **adamw, fused=True)
    from deepspeed.runtime.zero.muon import muon_optimizer, original_muon
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    if device.type == "cpu":
        # Compiled kernels mean a C++ compiler and a minute here, for matrices that need neither: take what was decorated.
        for module in (original_muon, muon_optimizer):
            for name in MUON_KERNELS & vars(module).keys():
                setattr(module, name, inspect.unwrap(getattr(module, name)))
    muon: torch.optim.Optimizer = MuonWithAuxAdam(groups, adam_optimizer=torch.optim.AdamW, adam_optimizer_kwargs={**adamw, "fused": True})
    return muon


def check_machine(settings: RunSettings) -> None:
    """What the settings need at run time and this machine lacks. Raises `RequestError` with the remedy; DeepSpeed and torch would answer
    in the middle of the start, in pages."""
    if settings.compile != "none" and not any(shutil.which(name) for name in COMPILERS):
        raise RequestError(
            f"compile={settings.compile} needs a C++ compiler ({', '.join(COMPILERS)}) at run time and none is found; install one, "
            "or use compile=none"
        )
    if settings.zero.offload_parameters == "nvme":
        from deepspeed.ops.op_builder import AsyncIOBuilder

        if not AsyncIOBuilder().is_compatible(verbose=False):
            raise RequestError(
                "offload_parameters=nvme needs DeepSpeed's asynchronous reads and writes, which cannot be built here: install libaio "
                "with its headers (libaio-dev), a C++ compiler and ninja (`proxy-lm doctor` looks for them), or use offload_parameters=cpu"
            )
        refuse_stale_lock("async_io")


class Ulysses:
    """Attention over columns that several ranks share, as `Decoder.share_columns` takes it: DeepSpeed's all-to-all gives each rank all
    columns of some heads and gives the columns back after. No module, so that ZeRO 3 hangs no hooks on it."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._num_shares = dist.get_world_size(group)
        self._exchange = DistributedAttention(document_attention, group, scatter_idx=2, gather_idx=1)

    def __call__(self, q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, layout: Layout) -> Tensor:
        # Every rank gets as many key heads: too few of them are repeated, each for the queries that read it.
        copies = self._num_shares // math.gcd(self._num_shares, k_BTKE.shape[2])
        if copies > 1:
            k_BTKE, v_BTKE = (part.repeat_interleave(copies, dim=2) for part in (k_BTKE, v_BTKE))
        out: Tensor = self._exchange(q_BTHE, k_BTKE, v_BTKE, 0, None, layout)
        return out


@contextmanager
def _without_update(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """While this is open, `step` of a plain optimizer does nothing. Missing gradients are not enough: Muon takes them for zeros."""
    vars(optimizer)["step"] = lambda closure=None: None
    try:
        yield
    finally:
        del vars(optimizer)["step"]


def _import_muon_uncompiled() -> None:
    """DeepSpeed imports its Muon to check any optimizer, and decorates the kernels for compilation: torch then imports its whole compiler,
    half of a start on the CPU, where the kernels are not compiled. Imported before with the variable for that, they stay plain."""
    import torch._dynamo  # noqa: F401 - reads the variable too, once, for all that is compiled later

    name = "TORCHDYNAMO_DISABLE"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401 - DeepSpeed finds it imported
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _adamw(settings: OptimizerSettings) -> dict[str, Any]:
    return {"lr": settings.learning_rate, "betas": settings.betas, "eps": settings.eps}


def _quiet(rank: int) -> None:
    deepspeed_logger.setLevel(logging.WARNING if rank == 0 else logging.ERROR)
    for kind in (FutureWarning, UserWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=kind, module=r"(deepspeed|torch)\.")  # upstream's own, once a rank
