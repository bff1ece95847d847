"""Which parameter is updated how: groups for AdamW alone, or for Muon (matrices of the blocks) beside AdamW (everything else).

    groups = parameter_groups(model, settings.optimizer)          # what torch's or DeepSpeed's optimizer is given
    set_rates(groups, settings.optimizer, rate)                   # the schedule moves both rates in proportion

Muon is for matrices inside the network, as its author says: embedding, output matrices and gains belong to AdamW. No DeepSpeed here;
`engine.py` makes the optimizer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from proxy_lm.train.settings_groups import OptimizerSettings


def parameter_groups(model: nn.Module, settings: OptimizerSettings) -> list[dict[str, Any]]:
    """Parameters with and without weight decay, those of Muon apart; groups without parameters are left out.

    Vectors (gains of norms) and the embedding do not decay unless asked for. With Muon every group says `use_muon`, and so does every
    parameter, because DeepSpeed's sharded optimizers ask the parameter."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    by_muon: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if settings.kind == "muon" and is_muon_matrix(name, parameter):
            by_muon.append(parameter)
            continue
        decays = settings.decay_norms if parameter.dim() < 2 else settings.decay_embeddings if name == "embedding.weight" else True
        (decayed if decays else plain).append(parameter)
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if settings.kind == "muon":
        muon = settings.muon
        adam = {"lr": settings.learning_rate, "betas": settings.betas, "eps": settings.eps, "use_muon": False}
        groups = [group | adam for group in groups]
        groups.append(
            {
                "params": by_muon,
                "lr": muon.learning_rate,
                "momentum": muon.momentum,
                "weight_decay": muon.weight_decay,
                "ns_method": muon.newton_schulz,
                "use_muon": True,
            }
        )
        for group in groups:
            for parameter in group["params"]:
                parameter.use_muon = group["use_muon"]
    return [group for group in groups if group["params"]]


def is_muon_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon updates this parameter: a matrix of a block. `name` is that of `named_parameters`."""
    return name.startswith("blocks.") and parameter.dim() == 2


def set_rates(groups: Iterable[dict[str, Any]], settings: OptimizerSettings, rate: float) -> None:
    """`rate` is AdamW's rate of the next update; Muon's stands in the same proportion to its own peak."""
    for group in groups:
        group["lr"] = rate * (settings.muon.learning_rate / settings.learning_rate) if group.get("use_muon") else rate
