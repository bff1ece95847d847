"""A trained model from its run folder, in one process: no DeepSpeed, no pickle, any ZeRO stage and world size.

    loaded = load_model(Path("runs/x"))                   # or one checkpoint folder: runs/x/checkpoints/step-1000
    logits = loaded.model.logits(ids, segments, positions)

The checkpoint's digests are verified before anything is read, then only `model.safetensors` is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from proxy_lm.config import validate
from proxy_lm.errors import RequestError
from proxy_lm.model.decoder import Decoder
from proxy_lm.train.checkpoint import Checkpoint, CheckpointManager
from proxy_lm.train.checkpoint_files import MANIFEST_NAME, check_structure, parse_step
from proxy_lm.train.run_files import CHECKPOINTS_NAME, check_run
from proxy_lm.train.settings import RunSettings
from proxy_lm.train.told_folders import ToldFolders
from proxy_lm.train.weights import WEIGHTS_NAME
from proxy_lm.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model ready to be measured, and what made it."""

    model: Decoder
    vocabulary: Vocabulary
    settings: RunSettings
    views: dict[str, Path]
    """Folder of each view by its name in the run, where it is now; as the run's configuration says it where it is nowhere."""
    run: Path
    """The folder that was given."""
    step: int
    manifest: dict[str, Any]

    @property
    def told(self) -> ToldFolders:
        """The folders that the run's configuration names."""
        return ToldFolders(self.settings, self.run, self.manifest["state"])


def load_model(path: Path, *, device: str | torch.device = "cpu") -> LoadedModel:
    """The fp32 model of the newest valid checkpoint of a run, or of the checkpoint folder given, in evaluation mode on `device`.

    Raises `RequestError` when there is none or it does not fit this version, `WorkError` when all are damaged.
    """
    checkpoint = find_checkpoint(Path(path))
    settings = validate(RunSettings, checkpoint.state["settings"], source=str(checkpoint.path))
    weights = checkpoint.file(WEIGHTS_NAME)
    try:
        with safe_open(weights, framework="pt", device="cpu") as file:
            vocabulary = _vocabulary(file.metadata() or {}, settings)
            model = Decoder(settings.model, vocabulary.size, settings.row_length, num_views=len(vocabulary.views), seed=None)
            _fill(model, file, weights)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise RequestError(
            f"{weights} is not the weights of a run of this version ({error}); train again or use the version that made it"
        ) from error
    told = ToldFolders(settings, Path(path), checkpoint.state)
    return LoadedModel(
        model=model.to(device).eval(),
        vocabulary=vocabulary,
        settings=settings,
        views={name: told.view(name) for name in settings.views},
        run=Path(path),
        step=checkpoint.step,
        manifest=checkpoint.manifest,
    )


def _vocabulary(metadata: dict[str, str], settings: RunSettings) -> Vocabulary:
    views = [(str(name), int(size)) for name, size in json.loads(metadata["vocabulary"])["views"]]
    shared = json.loads(metadata["literals"]) if views and settings.literals == "shared" else {}
    return Vocabulary(views, {name: tuple((int(symbol), int(byte)) for symbol, byte in found) for name, found in shared.items()})


def find_checkpoint(path: Path) -> Checkpoint:
    """The newest valid checkpoint of a run folder, or the given checkpoint folder once its digests match."""
    check_run(path)
    if parse_step(path.name) is not None and (path / MANIFEST_NAME).exists():
        problems = CheckpointManager(path.parent).verify(path)
        manifest, _ = check_structure(path)
        if problems or manifest is None:
            raise RequestError(f"{path} is damaged: {problems[0]}; give the run folder to use the newest valid checkpoint")
        return Checkpoint(path=path, step=manifest["step"], state=manifest["state"], manifest=manifest)
    checkpoint = CheckpointManager(path / CHECKPOINTS_NAME).newest_valid()
    if checkpoint is None:
        raise RequestError(f"{path / CHECKPOINTS_NAME} has no checkpoint; train the run first")
    return checkpoint


def _fill(model: Decoder, file: Any, weights: Path) -> None:
    parameters = dict(model.named_parameters())
    stored = set(file.keys())
    if stored != set(parameters):
        odd = sorted(stored ^ set(parameters))
        raise RequestError(
            f"{weights} and the model of this version differ in {len(odd)} parameters (first: {odd[0]}); use the version that made it"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(file.get_tensor(name))
