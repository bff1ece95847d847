"""The DeepSpeed dict: derived from our settings, then completed by a user's own DeepSpeed JSON. No deepspeed import.

Everything whose unset value would surprise is set: clipping (unset means 1.0), the type of gradient sums (unset means the weights' type),
bucket sizes (they change the order of sums), all three batch numbers, validation of checkpoint tags.

A user's JSON (`--deepspeed FILE` or `--deepspeed_config FILE`) may say anything that our YAML leaves at its default; `"auto"` takes our
value. What both say must agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from proxy_lm.config import merge, validate
from proxy_lm.errors import RequestError
from proxy_lm.train.settings import RunSettings, StepShape

# DeepSpeed 0.19.8 refuses these with an exception of several lines; we say it in one, before any process group exists.
REMOVED: Final = (
    "nebula",
    "compression_training",
    "amp",
    "quantize_training",
    "sparse_gradients",
    "eigenvalue",
    "sparse_attention",
    "elasticity",
    "graph_harvesting",
    "curriculum_learning",
    "progressive_layer_drop",
    "zero_optimization.mics_shard_size",
    "zero_optimization.mics_hierarchical_params_gather",
    "zero_optimization.zeropp_loco_param",
)
# Words that DeepSpeed itself reads as "auto".
AUTO_FOR_DEEPSPEED: Final = ("data_types.keep_in_fp32_modules",)
NEVER: Final = 2_000_000_000

# JSON path -> our setting, and how the JSON value reads as ours.
SHARED: Final[dict[str, tuple[str, Callable[[Any], Any]]]] = {
    "train_batch_size": ("rows_per_step", int),
    "train_micro_batch_size_per_gpu": ("rows_per_device", int),
    "gradient_clipping": ("optimizer.gradient_clip", float),
    "zero_optimization.stage": ("zero.stage", int),
    "zero_optimization.reduce_bucket_size": ("zero.reduce_bucket_size", lambda value: int(float(value))),
    "zero_optimization.allgather_bucket_size": ("zero.allgather_bucket_size", lambda value: int(float(value))),
    "zero_optimization.offload_optimizer.device": ("zero.offload_optimizer", str),
    "zero_optimization.offload_param.device": ("zero.offload_parameters", str),
    "zero_optimization.offload_param.nvme_path": ("zero.nvme_path", str),
    "fp16.loss_scale": ("loss_scale.static", float),
    "fp16.initial_scale_power": ("loss_scale.initial_power", int),
    "fp16.loss_scale_window": ("loss_scale.window_steps", int),
}
OPTIMIZER_KEYS: Final = {"lr": "learning_rate", "betas": "betas", "eps": "eps", "weight_decay": "weight_decay"}


def derive(settings: RunSettings, shape: StepShape) -> dict[str, Any]:
    """The dict that DeepSpeed is given, from our settings alone."""
    zero = settings.zero
    sharding: dict[str, Any] = {
        "stage": zero.stage,
        "reduce_bucket_size": zero.reduce_bucket_size,
        "allgather_bucket_size": zero.allgather_bucket_size,
        "contiguous_gradients": True,
        "reduce_scatter": True,
        "allgather_partitions": True,
        "overlap_comm": False,
        "round_robin_gradients": False,
        "sub_group_size": 1_000_000_000,
    }
    if zero.stage == 3:
        sharding |= {
            "stage3_prefetch_bucket_size": zero.reduce_bucket_size,
            "stage3_param_persistence_threshold": 100_000,
            "stage3_max_live_parameters": 1_000_000_000,
            "stage3_max_reuse_distance": 1_000_000_000,
            "stage3_gather_16bit_weights_on_model_save": False,
        }
    if zero.offload_optimizer != "none":
        sharding["offload_optimizer"] = {"device": zero.offload_optimizer, "pin_memory": False}
    if zero.offload_parameters != "none":
        sharding["offload_param"] = {"device": zero.offload_parameters, "pin_memory": False}
    if zero.offload_parameters == "nvme":
        sharding["offload_param"]["nvme_path"] = zero.nvme_path
    if zero.stage == 3 and settings.optimizer.kind == "muon":
        # DeepSpeed's Muon needs whole gradients of its matrices on their way there and refuses to scatter them.
        sharding["reduce_scatter"] = False
    return {
        # Ranks that share rows hold a part of each: DeepSpeed counts such parts, one data-parallel rank a rank.
        "train_batch_size": shape.rows_per_device * shape.accumulation * shape.world_size,
        "train_micro_batch_size_per_gpu": shape.rows_per_device,
        "gradient_accumulation_steps": shape.accumulation,
        # At stage 0 our engine clips by itself, because DeepSpeed keeps no gradient norm there; 0 turns DeepSpeed's own off.
        "gradient_clipping": settings.optimizer.gradient_clip if zero.stage else 0.0,
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "bf16": {"enabled": settings.precision == "bf16"},
        "fp16": {
            "enabled": settings.precision == "fp16",
            "auto_cast": False,
            "loss_scale": settings.loss_scale.static,
            "initial_scale_power": settings.loss_scale.initial_power,
            "loss_scale_window": settings.loss_scale.window_steps,
            "hysteresis": 2,
            "consecutive_hysteresis": False,
            "min_loss_scale": 1,
        },
        "torch_autocast": {"enabled": False},
        "zero_optimization": sharding,
        "zero_allow_untested_optimizer": False,
        # We give torch's AdamW, whose fused kernel also runs in host memory: DeepSpeed's own needs a compiler at run time.
        "zero_force_ds_cpu_optimizer": False,
        "checkpoint": {"tag_validation": "Fail", "load_universal": False, "use_node_local_storage": False},
        "steps_per_print": NEVER,
        "wall_clock_breakdown": False,
        "memory_breakdown": False,
        "dump_state": False,
    }


def read_user_json(path: Path) -> dict[str, Any]:
    """A user's DeepSpeed JSON. Raises `RequestError` for a missing or malformed file and for keys that DeepSpeed has removed."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise RequestError(f"could not read the DeepSpeed configuration {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the DeepSpeed configuration {path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise RequestError(f"the DeepSpeed configuration {path} holds a {type(value).__name__}; it must be a JSON object")
    paths = dict(_leaves(value)) | dict.fromkeys(value)
    removed = [key for key in REMOVED if any(here == key or here.startswith(key + ".") for here in paths)]
    if removed:
        raise RequestError(f"{path}: DeepSpeed has removed {', '.join(removed)}; take {'it' if len(removed) == 1 else 'them'} out")
    return value


def adopt(settings: RunSettings, user: dict[str, Any], source: str) -> RunSettings:
    """Our settings with what the user's JSON says where our YAML is silent, so that the saved configuration tells the truth.

    Raises `RequestError` where both speak and differ, and for the blocks that are ours: optimizer and scheduler may only repeat us.
    """
    values = settings.model_dump(mode="json")
    adopted: dict[str, Any] = {}
    for path, (name, read) in SHARED.items():
        given = _at(user, path)
        if given is None or given == "auto":
            continue
        try:
            wanted = read(given)
        except (TypeError, ValueError) as error:
            raise RequestError(f"{source}: {path} = {given!r} is not a value that DeepSpeed knows") from error
        _take(settings, values, adopted, name, wanted, f"{source}: {path} = {given!r}")
    precision = _precision(user, source)
    if precision is not None:
        _take(settings, values, adopted, "precision", precision, f"{source}: bf16/fp16 ask for {precision}")
    _check_optimizer(user, settings, source)
    return validate(RunSettings, merge(_explicit(settings), adopted), source) if adopted else settings


def complete(derived: dict[str, Any], user: dict[str, Any], source: str) -> dict[str, Any]:
    """The derived dict with the rest of the user's JSON on top. `adopt` was applied before. Raises `RequestError` for a leftover auto."""
    rest = {key: value for key, value in user.items() if key not in ("optimizer", "scheduler")}
    given = rest.get("gradient_accumulation_steps", "auto")
    if given not in ("auto", derived["gradient_accumulation_steps"]):
        raise RequestError(
            f"{source}: gradient_accumulation_steps = {given!r} and rows_per_step / (rows_per_device * world size) is "
            f'{derived["gradient_accumulation_steps"]}; write "auto" or change rows_per_step'
        )
    resolved = merge(derived, _without_autos(rest, derived))
    # Our own reading of these five has won in `adopt`; the spelling of the JSON must not bring another back.
    for key in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"):
        resolved[key] = derived[key]
    resolved["zero_optimization"]["stage"] = derived["zero_optimization"]["stage"]
    left = [path for path, value in _leaves(resolved) if value == "auto" and path not in AUTO_FOR_DEEPSPEED]
    if left:
        raise RequestError(f'{source}: "auto" has no value for {", ".join(left)}; DeepSpeed does not resolve it either: write a number')
    return resolved


def _take(settings: RunSettings, values: dict[str, Any], adopted: dict[str, Any], name: str, wanted: Any, what: str) -> None:
    ours = _at(values, name)
    if ours == wanted:
        return
    if _is_explicit(settings, name):
        raise RequestError(f"{what} contradicts {name} = {ours!r} of the run's configuration; make them equal or remove one")
    here = adopted
    *groups, last = name.split(".")
    for group in groups:
        here = here.setdefault(group, {})
    here[last] = wanted


def _precision(user: dict[str, Any], source: str) -> str | None:
    on = [name for name in ("bf16", "fp16") if _at(user, f"{name}.enabled") is True]
    if len(on) == 2:
        raise RequestError(f"{source} enables bf16 and fp16; only one of them can be")
    off = [name for name in ("bf16", "fp16") if _at(user, f"{name}.enabled") is False]
    return on[0] if on else "fp32" if len(off) == 2 else None


def _check_optimizer(user: dict[str, Any], settings: RunSettings, source: str) -> None:
    optimizer = user.get("optimizer") or {}
    kind = str(optimizer.get("type", "AdamW"))
    if kind.lower() != settings.optimizer.kind:
        raise RequestError(
            f"{source}: optimizer.type = {kind!r} and the run has optimizer.kind={settings.optimizer.kind}; this trainer has AdamW and "
            "Muon: set it there and remove the optimizer block"
        )
    for key, value in (optimizer.get("params") or {}).items():
        ours = getattr(settings.optimizer, OPTIMIZER_KEYS[key]) if key in OPTIMIZER_KEYS else None
        same = value == "auto" or (list(value) == list(ours) if isinstance(value, list) and isinstance(ours, tuple) else value == ours)
        if not same:
            known = f"optimizer.{OPTIMIZER_KEYS[key]} = {ours!r}" if key in OPTIMIZER_KEYS else "no such setting"
            raise RequestError(f'{source}: optimizer.params.{key} = {value!r} and the run has {known}; set it there and write "auto" here')
    concrete = [path for path, value in _leaves(user.get("scheduler") or {}) if path != "type" and value != "auto"]
    if concrete:
        raise RequestError(
            f"{source}: scheduler.{concrete[0]} is set; the learning rate follows the run's schedule group: remove the scheduler"
        )


def _explicit(settings: RunSettings) -> dict[str, Any]:
    return settings.model_dump(mode="json", exclude_unset=True)


def _is_explicit(settings: RunSettings, name: str) -> bool:
    here: Any = settings
    for part in name.split("."):
        if part not in here.model_fields_set:
            return False
        here = getattr(here, part)
    return True


def _without_autos(user: dict[str, Any], derived: dict[str, Any]) -> dict[str, Any]:
    """The user's values, minus every "auto" that the derived dict answers."""
    kept: dict[str, Any] = {}
    for key, value in user.items():
        below = derived.get(key)
        if isinstance(value, dict):
            kept[key] = _without_autos(value, below if isinstance(below, dict) else {})
        elif value != "auto" or below is None:
            kept[key] = value
    return kept


def _at(value: dict[str, Any], path: str) -> Any:
    here: Any = value
    for part in path.split("."):
        if not isinstance(here, dict) or part not in here:
            return None
        here = here[part]
    return here


def _leaves(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _leaves(item, f"{prefix}{key}.")
        else:
            yield prefix + key, item
