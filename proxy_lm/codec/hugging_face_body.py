"""A causal model of transformers as a body of the coder: all in float64, split into trunk and head, with kept keys and values.

    body = HuggingFaceBody(model, ids, row_length)
    body.check(begin)               # whole rows, steps and the model's own logits agree, or `RequestError`

Three things are done to a model that knows nothing of this program, and `check` finds where they do not work:

* **float64 throughout.** Models ask for float32 in norms, angles and softmax whatever their weights are. A float64 number that is rounded
  to float32 in the middle can come out otherwise after a change in its last bit, and differ by 6e-8 then, not by 1e-16; the coder's
  phases allow 2e-10. So a request for a narrower type is answered with float64 while the model runs.
* **Trunk and head apart.** Logits of all positions at once are too large to hold. The trunk gives the stream; for logits the model's own
  forward runs over a copy whose trunk gives back that stream, so that what a model does to its logits (scales, caps) is done.
* **Keys and values in buffers that grow by doubling**, any lane of which can take another's place. A model whose state is of another kind
  (no keys, a window of convolutions) has its whole row read again for every step: right, and slow.
"""

# B rows, T positions, K key heads, E width of a head, D width, N positions of all rows, C columns

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers.cache_utils import Cache, DynamicLayer

from compressors.neural.quantise import STEPS_PER_NAT
from proxy_lm.codec.frequencies import SAFE_STEPS
from proxy_lm.codec.symbol_model import Lanes
from proxy_lm.errors import RequestError

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

NOISE_LIMIT: Final = SAFE_STEPS / STEPS_PER_NAT / 4
"""Nats that two evaluations of the probe may differ by: a quarter of what the coder's phases allow."""
_OWN_LIMIT: Final = 1e-9
_PROBE_IDS: Final = 24
_IDS_PER_PASS: Final = 4096
_NARROW: Final = (torch.float32, torch.float16, torch.bfloat16)
_NARROWING: Final = (Tensor.float, Tensor.half, Tensor.bfloat16)
_FIRST_SLOTS: Final = 64


class Float64(TorchFunctionMode):
    """Within it every floating-point tensor that is made is float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _NARROWING:
            func = Tensor.double
        found = func(*[_widened(one) for one in args], **{key: _widened(one) for key, one in (kwargs or {}).items()})
        return found.double() if isinstance(found, Tensor) and found.dtype in _NARROW else found


def _widened(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in _NARROW else value


class HuggingFaceBody:
    """A `symbol_model.Body`."""

    def __init__(self, model: Any, ids: I64, row_length: int) -> None:
        """`model`: a causal model in float64; `ids`: the id of each column. Raises `RequestError` where it has no trunk."""
        self.row_length = row_length
        self._model = model
        self._device = next(model.parameters()).device
        self._ids = self._to(ids)
        self._cached = True
        self._probe = np.resize(ids[:: max(1, len(ids) // _PROBE_IDS)], 2 * _PROBE_IDS)
        self._trunk, self._given, self._head = self._split()

    def parallel(self, rows: Sequence[I64], firsts: Sequence[int]) -> list[Tensor]:
        """As `Body.parallel`. Rows of about equal length share a pass; the shorter ones are filled up at their end."""
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        streams: dict[int, Tensor] = {}
        while order:
            length = len(rows[order[0]])
            some = order[: max(1, _IDS_PER_PASS // length)]
            order = order[len(some) :]
            ids_BT = np.full((len(some), length), rows[some[0]][0], np.int64)
            for ids, i in zip(ids_BT, some, strict=True):
                ids[: len(rows[i])] = rows[i]
            for stream_TD, i in zip(self.stream(ids_BT, None), some, strict=True):
                streams[i] = stream_TD[firsts[i] : len(rows[i])]
        return [streams[i] for i in range(len(rows))]

    def logits(self, stream_ND: Tensor) -> F64:
        """As `Body.logits`."""
        found: F64 = self._logits(stream_ND).index_select(1, self._ids).cpu().numpy()
        return found

    def lanes(self, num: int, num_positions: int) -> Lanes:
        """As `Body.lanes`."""
        return _CachedLanes(self) if self._cached else _WholeLanes(self)

    def stream(self, ids_BT: I64, cache: Any) -> Tensor:
        """The stream behind the trunk, float64 [B, T, D]; `cache` None, or what the trunk has read before."""
        with Float64():
            found = self._trunk(input_ids=self._to(ids_BT), past_key_values=cache, use_cache=cache is not None, return_dict=True)
        stream_BTD: Tensor = found[0]
        return stream_BTD

    def _logits(self, stream_ND: Tensor) -> Tensor:
        self._given.stream = stream_ND.unsqueeze(0)
        with Float64():
            found = self._head(input_ids=torch.zeros((1, len(stream_ND)), dtype=torch.int64, device=self._device), return_dict=True)
        logits_NV: Tensor = found.logits[0]
        return logits_NV

    def _split(self) -> tuple[Any, _Given, Any]:
        """The trunk, and a copy of the model in which a `_Given` stands in its place."""
        names = {id(module): name for name, module in self._model.named_modules()}
        candidates = [self._model.base_model, self._model.get_decoder()]
        with torch.inference_mode():
            for trunk in candidates:
                if trunk is self._model or id(trunk) not in names:
                    continue
                self._trunk, self._given = trunk, _Given()
                self._head = _replaced(self._model, names[id(trunk)].split("."), self._given)
                if self._own_difference() <= _OWN_LIMIT:
                    return self._trunk, self._given, self._head
        raise RequestError(f"{type(self._model).__name__} is built in a way that this program cannot code with; give another model")

    def _own_difference(self) -> float:
        """How far the logits differ from those of the model as it is. Infinite where a part does not do what parts do."""
        row_BT = self._probe[None, : min(_PROBE_IDS, self.row_length)]
        try:
            with Float64():
                own_TV: Tensor = self._model(input_ids=self._to(row_BT), use_cache=False, return_dict=True).logits[0]
        except Exception as error:  # whatever a model's parts raise
            raise RequestError(
                f"{type(self._model).__name__} cannot be computed in float64 here ({_told(error)}); give another model"
            ) from error
        try:
            found_TV = self._logits(self.stream(row_BT, None)[0])
        except Exception:  # built otherwise than was supposed: the next candidate
            return float("inf")
        return float((found_TV - own_TV).abs().max()) if found_TV.shape == own_TV.shape else float("inf")

    @torch.inference_mode()
    def check(self) -> None:
        """Compare whole rows with steps. Where kept keys do not give the same, none are kept; raises `RequestError` where that does not
        either: such a model sees what comes after, or rounds in between."""
        length = min(_PROBE_IDS, self.row_length - 1)
        rows = [self._probe[:length], self._probe[::-1][:length].copy()]
        whole = [self.logits(stream) for stream in self.parallel(rows, [0, 0])]
        if not all(np.isfinite(one.max(axis=1)).all() for one in whole):
            raise RequestError("the model's logits are not finite; are its weights whole?")
        found = ""
        for self._cached in (True, False):
            try:
                difference = self._stepped_difference(rows, whole)
            except Exception as error:  # a state of another kind than keys and values
                found = _told(error)
                continue
            if difference <= NOISE_LIMIT:
                return
            found = f"by {difference:.1e} nats; at most {NOISE_LIMIT:.1e} can be coded with"
        raise RequestError(
            f"{type(self._model).__name__} gives other numbers when it is read step by step than at once ({found}): it is no causal model, "
            "or rounds to fewer digits inside; give another model"
        )

    def _stepped_difference(self, rows: list[I64], whole: list[F64]) -> float:
        lanes, length, largest = self.lanes(2, len(rows[0])), len(rows[0]), 0.0
        parts = [slice(0, length // 2), *(slice(i, i + 1) for i in range(length // 2, length))]
        for part in parts:
            # The second lane takes the first one's place for the last steps, as where a chunk is done before another.
            alone = part.start >= 3 * length // 4
            if alone and part.start - 1 < 3 * length // 4:
                lanes.move(1, 0, part.start)
            who = [1] if alone else [0, 1]
            found = self.logits(lanes.read([rows[i][part] for i in who], [part.start] * len(who)))
            largest = max(largest, *(_difference(one, whole[i][part.stop - 1]) for one, i in zip(found, who, strict=True)))
        return largest

    @torch.inference_mode()
    def bytes_per_position(self) -> int:
        """Of keys and values, of one lane."""
        cache = new_cache()
        if not self._cached:
            return 0
        self.stream(self._probe[None, :2], cache)
        return sum(layer.keys[..., :1, :].nbytes + layer.values[..., :1, :].nbytes for layer in cache.layers)

    def _to(self, array: I64) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def _difference(found: F64, wanted: F64) -> float:
    finite = np.isfinite(wanted)
    if not (finite == np.isfinite(found)).all():
        return float("inf")
    return float(abs(found[finite] - wanted[finite]).max())


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


class _Given(nn.Module):
    """Stands in the trunk's place and answers with the stream that it was handed."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = torch.empty(0)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return _Answer(self.stream)


class _Answer:
    """As a trunk answers: the stream first, and nothing else."""

    def __init__(self, stream: Tensor) -> None:
        self.last_hidden_state = stream

    def __getitem__(self, index: int) -> Tensor | None:
        return self.last_hidden_state if index == 0 else None

    def __getattr__(self, name: str) -> None:
        return None


def _replaced(module: nn.Module, path: list[str], new: nn.Module) -> nn.Module:
    """A copy of `module` that shares everything with it but the submodule at `path`."""
    made = copy.copy(module)
    made.__dict__["_modules"] = dict(module._modules)
    child = module._modules[path[0]]
    assert child is not None
    made._modules[path[0]] = new if len(path) == 1 else _replaced(child, path[1:], new)
    return made


class _Layer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one block [B, K, T, E], the front of buffers [lanes, K, slots, E]."""

    buffers: list[Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append, for the first lanes."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        first = self.get_seq_length()
        stop, num = first + key_states.shape[-2], key_states.shape[0]
        if self.buffers is None or stop > self.buffers[0].shape[-2]:
            slots = max(_FIRST_SLOTS, 2 * stop)
            grown = [new.new_zeros((*new.shape[:2], slots, new.shape[3])) for new in (key_states, value_states)]
            for buffer, old in zip(grown, self.buffers or [], strict=False):
                buffer[:, :, :first] = old[:num, :, :first]
            self.buffers = grown
        for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:num, :, first:stop] = new
        self.keys, self.values = (buffer[:num, :, :stop] for buffer in self.buffers)
        return self.keys, self.values

    def move(self, source: int, target: int) -> None:
        """One lane goes on in the place of another."""
        for buffer in self.buffers or []:
            buffer[target] = buffer[source]

    def keep(self, num: int) -> None:
        """The first lanes go on."""
        if self.buffers is not None:
            self.keys, self.values = self.keys[:num], self.values[:num]


def new_cache() -> Any:
    """An empty one for any model that keeps keys and values."""
    return Cache(layer_class_to_replicate=_Layer)


class _CachedLanes:
    """Lanes that keep keys and values."""

    def __init__(self, body: HuggingFaceBody) -> None:
        self._body = body
        self._cache = new_cache()

    def read(self, ids: Sequence[I64], first_positions: Sequence[int]) -> Tensor:
        """As `Lanes.read`; all lanes stand at one position."""
        if first_positions[0] == 0:
            self._cache = new_cache()
        if self._cache.get_seq_length() != first_positions[0]:
            raise ValueError("the model keeps no keys and values")  # for `check`, which then has whole rows read
        for layer in self._cache.layers:
            layer.keep(len(ids))
        return self._body.stream(np.stack(ids), self._cache)[:, -1]

    def move(self, source: int, target: int, num_positions: int) -> None:
        """As `Lanes.move`."""
        for layer in self._cache.layers:
            layer.move(source, target)


class _WholeLanes:
    """Lanes that keep nothing but ids."""

    def __init__(self, body: HuggingFaceBody) -> None:
        self._body = body
        self._ids: list[I64] = []

    def read(self, ids: Sequence[I64], first_positions: Sequence[int]) -> Tensor:
        """As `Lanes.read`."""
        before = self._ids if first_positions[0] else [part[:0] for part in ids]
        self._ids = [np.concatenate([old, new]) for old, new in zip(before, ids, strict=False)]
        return self._body.stream(np.stack(self._ids), None)[:, -1]

    def move(self, source: int, target: int, num_positions: int) -> None:
        """As `Lanes.move`."""
        self._ids[target] = self._ids[source]
