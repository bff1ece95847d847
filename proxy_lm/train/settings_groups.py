"""The groups of a run's settings that belong to the trainer itself: optimizer, sharding, checkpoints, logging, communication.

    optimizer: {learning_rate: 1e-3}         # in a run's YAML; `settings.RunSettings` holds one of each group

Each group is checked where it is defined. What needs two groups at once is checked in `settings.py`. No torch here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from proxy_lm.config import Settings

Precision = Literal["fp32", "bf16", "fp16"]
Decay = Annotated[float, Field(ge=0, lt=1)]


class MuonSettings(Settings):
    """DeepSpeed's Muon, for the matrices of the blocks: momentum, made nearly orthogonal by Newton-Schulz steps. Everything else of the
    model (embedding, output matrices, gains) stays with AdamW and its settings."""

    learning_rate: float = Field(default=0.02, gt=0)
    """Peak rate of the block matrices, in units of spectral norm; the schedule scales it as it scales AdamW's."""

    momentum: Decay = 0.95
    """Decay of the momentum (Nesterov's)."""

    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled decay of the block matrices, times Muon's rate."""

    newton_schulz: Literal["gram", "standard"] = "gram"
    """gram: on the smaller square, in fp16 where the device has it, else fp32. standard: the original iteration, in bf16."""


class OptimizerSettings(Settings):
    """AdamW (torch's fused kernel where the device has one), or Muon for the matrices of the blocks and AdamW for the rest."""

    kind: Literal["adamw", "muon"] = "adamw"
    """adamw: everything by AdamW. muon: the two-dimensional parameters of the blocks by Muon."""

    muon: MuonSettings = MuonSettings()
    """kind=muon only."""

    learning_rate: float = Field(default=3e-4, gt=0)
    """Peak rate; the schedule scales it."""

    betas: tuple[Decay, Decay] = (0.9, 0.95)
    """Decay of the two moments."""

    eps: float = Field(default=1e-8, gt=0)
    """Added to the square root of the second moment."""

    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled decay of the weight matrices."""

    decay_embeddings: bool = False
    """Decay the embedding matrix too. The output matrix is a weight matrix and always decays."""

    decay_norms: bool = False
    """Decay the gains of the norms too."""

    gradient_clip: float = Field(default=1.0, ge=0)
    """Largest norm of the gradient over all parameters; 0 turns clipping off."""


class LossScaleSettings(Settings):
    """fp16 only: gradients are multiplied before the backward pass so that small ones do not vanish."""

    static: float = Field(default=0, ge=0)
    """A fixed factor; 0 means that it moves."""

    initial_power: int = Field(default=16, ge=0, le=32)
    """The moving factor starts at 2 to this power."""

    window_steps: int = Field(default=1000, ge=1)
    """Steps without overflow after which the factor doubles."""


class ZeroSettings(Settings):
    """How DeepSpeed shards the training state over the ranks."""

    stage: Literal[0, 1, 2, 3] = 1
    """0 nothing, 1 optimizer state, 2 and gradients, 3 and parameters. Stage 0 has no fp32 sums under bf16 and fp16: fp32 only."""

    offload_optimizer: Literal["none", "cpu", "nvme"] = "none"
    """Keep the optimizer state in host memory (stages 1 to 3). nvme is refused: such a run could not be continued."""

    offload_parameters: Literal["none", "cpu", "nvme"] = "none"
    """Keep the sharded parameters in host memory, or in files under `nvme_path` (both stage 3)."""

    nvme_path: str | None = None
    """Folder on a fast local disk, for nvme. DeepSpeed reads and writes it through libaio, for which it compiles operations."""

    reduce_bucket_size: int = Field(default=50_000_000, ge=1)
    """Elements reduced at a time. Part of the configuration because another size sums in another order."""

    allgather_bucket_size: int = Field(default=50_000_000, ge=1)
    """Elements gathered at a time (stages 1 and 2); the same remark."""

    @model_validator(mode="after")
    def _offload_fits_stage(self) -> ZeroSettings:
        if self.offload_optimizer == "cpu" and self.stage == 0:
            raise ValueError("offload_optimizer=cpu needs zero.stage 1, 2 or 3; stage 0 keeps everything on the device")
        if self.offload_optimizer == "nvme":
            # It trains as it should, but a checkpoint loaded in a new engine misses the state: the next loss was 8 % off (README.md).
            raise ValueError(
                "offload_optimizer=nvme is refused, because DeepSpeed 0.19.8 does not load the state back from its checkpoints and the run "
                "could not be continued; use offload_optimizer=cpu (with offload_parameters=nvme where memory is short)"
            )
        if self.offload_parameters != "none" and self.stage != 3:
            raise ValueError(f"offload_parameters={self.offload_parameters} needs zero.stage=3 and it is {self.stage}")
        if self.offload_parameters == "nvme" and self.nvme_path is None:
            raise ValueError("offload_parameters=nvme needs nvme_path; name a folder on a fast local disk")
        return self


class CheckpointSettings(Settings):
    """When the run is saved and what is kept. A checkpoint at the end is always written."""

    every_steps: int | None = Field(default=None, ge=1)
    """Save after so many steps; None leaves it to `every_seconds`."""

    every_seconds: float | None = Field(default=600.0, gt=0)
    """Save when so much time has passed since the last one, as measured by rank 0."""

    keep_last: int = Field(default=2, ge=2)
    """Newest checkpoints kept; at least 2, so that a damaged newest one has a predecessor."""

    keep_every: int | None = Field(default=None, ge=1)
    """Checkpoints whose step is a multiple of this are kept for good."""


class ValidationSettings(Settings):
    """Bits per byte on the valid split while training: for watching, with windows of one row; `proxy-lm-eval bpb` is the measurement."""

    every_steps: int | None = Field(default=None, ge=1)
    """Validate after so many steps; None: only at the end."""

    max_bytes: int = Field(default=65_536, ge=0)
    """Ids of the valid split read per told view, rounded up to whole rows, at most all of them; 0 turns validation off."""


class LoggingSettings(Settings):
    """What is written while training. `metrics.jsonl` has every step whatever is set here."""

    console_seconds: float = Field(default=5.0, ge=0)
    """Pause between lines on the console (rank 0)."""

    tensorboard: bool = True
    """Write the same scalars as TensorBoard events under `tb/`."""

    tensorboard_every_steps: int = Field(default=1, ge=1)
    """Steps between TensorBoard points."""

    peak_flops: float | None = Field(default=None, gt=0)
    """Peak FLOP/s of one rank's device, for the share of peak. None: a short matrix product measures what the device gives."""


class CommunicationSettings(Settings):
    """How ranks talk."""

    timeout_seconds: float = Field(default=1800.0, gt=0, le=1e9)
    """A collective that takes longer is an error."""

    shared_memory_op: bool = False
    """CPU only: let DeepSpeed compile its shared-memory all-reduce (a C++ compiler and minutes at the first start). Off: plain gloo."""
