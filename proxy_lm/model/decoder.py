"""The decoder: plain, Llama-shaped, one class. Rows of ids in, losses out.

    model = Decoder(ModelSettings(preset="nano"), vocabulary.size, num_views=1)
    model.initialise(seed)
    losses = model(ids, segments, positions, views)        # each [B, L + H]; H = model.lookahead
    losses.loss.backward()

Pre-RMSNorm, rotary positions (rotate-half, as Hugging Face's Llama), SwiGLU, grouped-query attention, no biases, untied embeddings;
every matrix has the shape of its namesake in `LlamaForCausalLM` (`llama_name`). A document's logits depend on nothing that shares its
row or its batch. Every parameter is used inside the forward of the module that owns it, as ZeRO 3 asks.

Not promised: a cache for generation; building the largest presets without the host memory for one whole copy.
"""

# B rows, T positions, D width, H query heads, K key heads, E width of a head, F feed-forward width, N = B*T, V ids

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from proxy_lm.errors import RequestError
from proxy_lm.model.attention import Layout, Path, document_attention, layout_of
from proxy_lm.model.loss import OutputHead
from proxy_lm.model.settings import ModelSettings, ResolvedModel
from proxy_lm.model.targets import head_targets
from proxy_lm.vocabulary import RAW_VOCABULARY_SIZE

TRUNCATION_STDS = 3.0
Attend = Callable[[Tensor, Tensor, Tensor, Layout], Tensor]


class Losses(NamedTuple):
    """What a forward gives. Codes: 0 raw, k + 1 view k, the last slot specials; a target belongs to the view it stands in. Heads: in the
    order of `ResolvedModel.head_names`. Everything but `loss` is detached and without weights."""

    loss: Tensor  # float32 scalar, differentiable: every counted target of every head by its weights, over (B * L)
    nll_nats: Tensor  # float64 [num_views + 2]: sums of the first head's losses by the view of the target
    num_targets: Tensor  # int64 [num_views + 2]
    head_nll_nats: Tensor  # float64 [num_heads]: sums of each head's losses
    head_num_targets: Tensor  # int64 [num_heads]


class Linear(nn.Module):
    """A matrix [out, in] without bias. Filled by `Decoder.initialise`, so building it draws no random numbers."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((num_out, num_in), float("nan")))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class Embedding(nn.Module):
    """Rows [V, D] looked up by id."""

    def __init__(self, num_ids: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((num_ids, width), float("nan")))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)


class Norm(nn.Module):
    """Root-mean-square norm with a gain; the mean is taken in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class Rotation(NamedTuple):
    """Cosines and sines of one forward's positions, [B, T, 1, E] each, in the dtype of the model."""

    cos_BT1E: Tensor
    sin_BT1E: Tensor


class Attention(nn.Module):
    """Grouped-query attention inside segments."""

    def __init__(self, model: ResolvedModel) -> None:
        super().__init__()
        self.head_width = model.head_width
        self.attend: Attend = document_attention
        self.query = Linear(model.width, model.width)
        self.key = Linear(model.width, model.num_kv_heads * model.head_width)
        self.value = Linear(model.width, model.num_kv_heads * model.head_width)
        self.output = Linear(model.width, model.width)

    def project(self, x_BTD: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, T, H, E] and keys [B, T, K, E], both rotated, and values [B, T, K, E]."""
        rows, positions, _ = x_BTD.shape
        q, k, v = (part(x_BTD).view(rows, positions, -1, self.head_width) for part in (self.query, self.key, self.value))
        return rotate(q, rotation), rotate(k, rotation), v


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, model: ResolvedModel) -> None:
        super().__init__()
        self.gate = Linear(model.width, model.hidden)
        self.up = Linear(model.width, model.hidden)
        self.down = Linear(model.hidden, model.width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x_BTD)) * self.up(x_BTD))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and feed-forward, each behind its norm and added to the stream."""

    def __init__(self, model: ResolvedModel) -> None:
        super().__init__()
        self.attention_norm = Norm(model.width, model.norm_eps)
        self.attention = Attention(model)
        self.feed_forward_norm = Norm(model.width, model.norm_eps)
        self.feed_forward = FeedForward(model)
        self._compiled: tuple[Callable[..., Any], Callable[..., Any]] | None = None

    def forward(self, x_BTD: Tensor, rotation: Rotation, layout: Layout) -> Tensor:
        before, after = self._compiled or (self.before_attention, self.after_attention)
        q_BTHE, k_BTKE, v_BTKE = before(x_BTD, rotation)
        return after(x_BTD, self.attention.attend(q_BTHE, k_BTKE, v_BTKE, layout))  # type: ignore[no-any-return]

    def before_attention(self, x_BTD: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values, as `Attention.project`."""
        return self.attention.project(self.attention_norm(x_BTD), rotation)

    def after_attention(self, x_BTD: Tensor, out_BTHE: Tensor) -> Tensor:
        """The stream after attention's output and the feed-forward have been added."""
        x_BTD = x_BTD + self.attention.output(out_BTHE.flatten(2))
        return x_BTD + self.feed_forward(self.feed_forward_norm(x_BTD))  # type: ignore[no-any-return]

    def compile_around_attention(self, **options: Any) -> None:
        """Compile what stands before and after attention, one compilation for all blocks. Attention keeps its own kernels: documents end
        elsewhere in every batch, and code compiled for their borders would be compiled again for each."""
        self._compiled = torch.compile(self.before_attention, **options), torch.compile(self.after_attention, **options)


class Decoder(nn.Module):
    """The whole model. `forward` is what the engine calls; `logits` and `target_nll` are for measuring."""

    def __init__(
        self,
        settings: ModelSettings,
        vocabulary_size: int,
        row_length: int | None = None,
        *,
        num_views: int = 0,
        activation_checkpointing: bool = False,
        attention: Path = "auto",
        seed: int | None = 0,
    ) -> None:
        """`num_views` fixes the slots of `Losses`. `row_length` only sizes the table of rotations; longer rows extend it.
        `seed` None leaves the parameters NaN, for a caller that loads them. Raises `RequestError` for a vocabulary under 320."""
        super().__init__()
        if vocabulary_size < RAW_VOCABULARY_SIZE:
            raise RequestError(
                f"a vocabulary of {vocabulary_size} ids; bytes and specials alone are {RAW_VOCABULARY_SIZE}: use Vocabulary.size"
            )
        model = settings.resolved()
        self.sizes = model
        self.vocabulary_size = vocabulary_size
        self.num_views = num_views
        self.lookahead = model.lookahead
        self.activation_checkpointing = activation_checkpointing
        self.attention_path: Path = attention
        self._column_share, self._num_shares = 0, 1
        self.embedding = Embedding(vocabulary_size, model.width)
        self.blocks = nn.ModuleList(Block(model) for _ in range(model.depth))
        self.norm = Norm(model.width, model.norm_eps)
        self.head = OutputHead(model.width, vocabulary_size)
        self.raw_heads = nn.ModuleList(OutputHead(model.width, RAW_VOCABULARY_SIZE) for _ in range(model.num_raw_heads))
        self.symbol_heads = nn.ModuleList(OutputHead(model.width, vocabulary_size) for _ in range(model.num_symbol_heads))
        self._angles = _angle_table(row_length or 1, model.head_width, model.rope_theta)
        if seed is not None:
            self.initialise(seed)

    def share_columns(self, share: int, num_shares: int, attend: Attend) -> None:
        """From now on `forward` takes whole rows and gives the losses of one of `num_shares` equal stretches of their columns, over B times
        L / num_shares: the mean over all stretches is the loss of whole rows. `attend` takes queries, keys and values of these columns
        and all heads, [B, L / num_shares, ., E], with the layout of whole rows, and gives these columns' output; it has to talk to the
        holders of the other stretches. `logits` and `target_nll` do not share."""
        self._column_share, self._num_shares = share, num_shares
        for block in self.blocks:
            block.attention.attend = attend  # type: ignore[union-attr,assignment]

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Fill every parameter from its own generator, keyed by (seed, name): equal for any world size, equal bodies for arms that
        differ in vocabulary, and equal leading rows of the embedding and the head. Norm gains are 1, matrices are normal with
        `init_std`, cut at three deviations; the two matrices that write to the residual stream get 1/sqrt(2 * depth) of it."""
        for name, parameter in self.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
                continue
            residual = name.endswith(("attention.output.weight", "feed_forward.down.weight"))
            std = self.sizes.init_std / (math.sqrt(2 * self.sizes.depth) if residual else 1.0)
            parameter.copy_(truncated_normal(parameter.shape, std, seed, name))

    def forward(
        self,
        ids: Tensor,
        segments: Tensor,
        positions: Tensor,
        views: Tensor,
        loss_weights: Tensor | None = None,
        soft: Tensor | None = None,
        soft_weight: float = 0.0,
    ) -> Losses:
        """Losses of rows [B, L + lookahead] (ids int64; segments, positions integers; views uint8, see `proxy_lm.vocabulary`). Segments may
        lie on the host while all else is on the device: then nothing here waits for the device.

        `loss_weights` (float32 [num_views + 2], by the code of the target; left out, all 1) weighs what is trained, never what is
        reported. The denominator B * L is constant: neither world size, accumulation nor weights change it. `soft` (uint16
        [B, L + lookahead, 256], see `Batch.soft`) has `soft_weight` in the targets of the first head; what is reported is of the labels."""
        length = ids.shape[1] - self.lookahead
        whole_segments, segments = segments[:, :length], segments.to(ids.device, non_blocking=True)
        if self._num_shares > 1:  # this rank's columns and the lookahead behind them; attention alone needs whole rows
            length //= self._num_shares
            columns = slice(self._column_share * length, (self._column_share + 1) * length + self.lookahead)
            ids, segments, positions, views = (part[:, columns] for part in (ids, segments, positions, views))
        hidden_ND = self._hidden(ids[:, :length], whole_segments, positions[:, :length]).flatten(0, 1)
        total = hidden_ND.new_zeros((), dtype=torch.float32)
        sums, numbers = [], []
        wanted = head_targets(segments, views, length, self.sizes.num_raw_heads, self.sizes.num_symbol_heads)
        for (head, head_weight), (ahead, counts_BL) in zip(self._weighted_heads(), wanted, strict=True):
            columns = slice(ahead, ahead + length)
            counts_N, codes_N = counts_BL.flatten(), self._codes(views[:, columns].flatten())
            weights_N = None if loss_weights is None else loss_weights.to(ids.device, torch.float32)[codes_N]
            taught = () if soft is None or ahead > 1 else (soft[:, columns].flatten(0, 1), soft_weight)
            objective, nll_N = head(hidden_ND, ids[:, columns].flatten(), counts_N, weights_N, *taught)
            total = total + head_weight * objective
            if ahead == 1:
                nll_nats, num_targets = self._by_view(nll_N, counts_N, codes_N)
            sums.append(nll_N.sum(dtype=torch.float64))
            numbers.append(counts_N.sum())
        return Losses(total / (ids.shape[0] * length), nll_nats, num_targets, torch.stack(sums), torch.stack(numbers))

    def logits(self, ids: Tensor, segments: Tensor, positions: Tensor) -> Tensor:
        """Logits of the first head, float32 [B, T, V]."""
        hidden_BTD = self._hidden(ids, segments, positions)
        return self.head(hidden_BTD.flatten(0, 1)).view(*ids.shape, -1)  # type: ignore[no-any-return]

    @torch.no_grad()
    def target_nll(self, ids: Tensor, segments: Tensor, positions: Tensor) -> Tensor:
        """Losses in nats, float32 [B, T - 1]: entry t is that of ids[t + 1] given its segment up to t; 0 where t + 1 starts a segment
        or is padding. Never holds all logits."""
        hidden_ND = self._hidden(ids[:, :-1], segments[:, :-1], positions[:, :-1]).flatten(0, 1)
        counts_BT = (segments[:, :-1] >= 0) & (segments[:, 1:] == segments[:, :-1])
        _, nll_N = self.head(hidden_ND, ids[:, 1:].flatten(), counts_BT.flatten())
        return nll_N.view(ids.shape[0], -1)  # type: ignore[no-any-return]

    @torch.no_grad()
    def states(self, ids: Tensor, segments: Tensor, positions: Tensor) -> Iterator[Tensor]:
        """The stream [B, T, D] as the embedding gives it and after each block, then normed as the heads read it: depth + 2 tensors."""
        x_BTD = self.embedding(ids)
        layout, rotation = layout_of(segments, x_BTD.dtype, self.attention_path, ids.device), self._rotation(positions, x_BTD.dtype)
        yield x_BTD
        for block in self.blocks:
            x_BTD = block(x_BTD, rotation, layout)
            yield x_BTD
        yield self.norm(x_BTD)

    def _hidden(self, ids: Tensor, segments: Tensor, positions: Tensor) -> Tensor:
        x_BTD = self.embedding(ids)
        layout = layout_of(segments, x_BTD.dtype, self.attention_path, ids.device)
        rotation = self._rotation(positions, x_BTD.dtype)
        for block in self.blocks:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x_BTD = checkpoint(block, x_BTD, rotation, layout, use_reentrant=False)
            else:
                x_BTD = block(x_BTD, rotation, layout)
        return self.norm(x_BTD)  # type: ignore[no-any-return]

    def _rotation(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        # The table is no buffer: casting the model to 16 bits must not cast the angles. A row of T has positions below T.
        num_positions = positions.shape[1] * self._num_shares
        if num_positions > self._angles.shape[0]:
            self._angles = _angle_table(num_positions, self.sizes.head_width, self.sizes.rope_theta)
        if self._angles.device != positions.device:
            self._angles = self._angles.to(positions.device)
        angles_BT1E = self._angles[positions.long()].unsqueeze(2)
        return Rotation(angles_BT1E.cos().to(dtype), angles_BT1E.sin().to(dtype))

    def _weighted_heads(self) -> list[tuple[nn.Module, float]]:
        """Every output head with its weight, in the order of `Losses`."""
        raw = [(head, self.sizes.raw_head_weight) for head in self.raw_heads]
        return [(self.head, 1.0), *raw, *((head, self.sizes.symbol_head_weight) for head in self.symbol_heads)]

    def _codes(self, views_N: Tensor) -> Tensor:
        """Slots of `Losses` (int64): specials have the last."""
        return views_N.long().clamp(max=self.num_views + 1)

    def _by_view(self, nll_N: Tensor, counts_N: Tensor, codes_N: Tensor) -> tuple[Tensor, Tensor]:
        """Sums by code as one product with a one-hot table: a fixed shape, and the same bits on every run."""
        one_hot_CN = (codes_N == torch.arange(self.num_views + 2, device=codes_N.device).unsqueeze(1)) & counts_N
        return (one_hot_CN * nll_N.to(torch.float64)).sum(dim=1), one_hot_CN.sum(dim=1)


def rotate(x_BTHE: Tensor, rotation: Rotation) -> Tensor:
    """Turn each pair (i, i + E/2) of every head by its position's angle."""
    first, second = x_BTHE.chunk(2, dim=-1)
    return x_BTHE * rotation.cos_BT1E + torch.cat((-second, first), dim=-1) * rotation.sin_BT1E


def truncated_normal(shape: torch.Size, std: float, seed: int, name: str) -> Tensor:
    """Normal numbers (float32), cut at three deviations, from a generator keyed by (seed, name). A longer shape begins with a
    shorter one's numbers: uniform numbers, one each, go through the inverse of the normal's distribution function."""
    key = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little") >> 1
    generator = torch.Generator().manual_seed(key)
    limit = math.erf(TRUNCATION_STDS / math.sqrt(2))
    uniform = torch.empty(shape, dtype=torch.float32).uniform_(-limit, limit, generator=generator)
    return uniform.erfinv_().mul_(math.sqrt(2) * std)


def llama_name(name: str) -> str | None:
    """This parameter's name in `LlamaForCausalLM`, same shape; None for the extra heads, which that class does not have."""
    if name.startswith(("raw_heads.", "symbol_heads.")):
        return None
    whole = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight", "head.weight": "lm_head.weight"}
    if name in whole:
        return whole[name]
    parts = {
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.output": "self_attn.o_proj",
        "feed_forward.gate": "mlp.gate_proj",
        "feed_forward.up": "mlp.up_proj",
        "feed_forward.down": "mlp.down_proj",
        "attention_norm": "input_layernorm",
        "feed_forward_norm": "post_attention_layernorm",
    }
    _, block, rest = name.split(".", 2)
    return f"model.layers.{block}.{parts[rest.removesuffix('.weight')]}.weight"


def _angle_table(num_positions: int, head_width: int, theta: float) -> Tensor:
    """Float32 [num_positions, E]: position times inverse wavelength, the half repeated as rotate-half wants it."""
    inverse = theta ** -(torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
    angles = torch.arange(num_positions, dtype=torch.float64).unsqueeze(1) * inverse
    return torch.cat((angles, angles), dim=1).to(torch.float32)
