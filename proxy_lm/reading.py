"""In which view a trained run is asked, through which compressor, on which corpus and device. No DeepSpeed.

    view = reading_view(loaded.settings)               # 'raw', or the run's only view
    compressor = compressor_of(loaded, view)           # None for raw bytes
    device = device_named("auto")

Everything that asks a run goes through here, so that no command reads symbols that mean something else to the model.
"""

from __future__ import annotations

from pathlib import Path

import torch

import compressors.registry as registry
from compressors.base import Compressor
from proxy_lm.data.corpus import Corpus
from proxy_lm.errors import RequestError
from proxy_lm.train.restore import LoadedModel
from proxy_lm.train.settings import RunSettings


def device_named(name: str) -> torch.device:
    """The device that 'auto', 'cpu', 'cuda' or 'cuda:N' names. Raises `RequestError` where this machine has no such device."""
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if num_gpus else "cpu"
    known = ["cpu", *(["cuda"] if num_gpus else []), *(f"cuda:{index}" for index in range(num_gpus))]
    if name not in known:
        raise RequestError(f"device '{name}' is not here; this machine has: {', '.join(known)}")
    return torch.device(name)


def reading_view(settings: RunSettings) -> str:
    """Raw if the run was told any raw bytes by its mix, else its only view. Raises `RequestError` where there are several."""
    if settings.mix.tells_raw:
        return "raw"
    told = settings.told_views
    if len(told) != 1:
        raise RequestError(f"the run was told by {len(told)} views and never raw; choose the reading with --view: {', '.join(told)}")
    return told[0]


def open_corpus(loaded: LoadedModel, given: Path | None = None, *, verify: bool = True) -> Corpus:
    """The corpus of the run, from `given` where it has moved. Raises `RequestError` for another corpus than the run was trained on."""
    folder = loaded.told.corpus() if given is None else given
    if given is None and not folder.is_dir():
        raise RequestError(f"{loaded.told.missing('corpus', loaded.settings.corpus)}; give its folder with --corpus")
    corpus = Corpus.open(folder, verify=verify)
    expected = loaded.manifest["state"]["identity"]["corpus"]
    if corpus.digest != expected:
        raise RequestError(
            f"{corpus.path} has digest {corpus.digest} and the run was trained on {expected}; give that corpus with --corpus"
        )
    return corpus


def compressor_of(loaded: LoadedModel, view: str) -> Compressor | None:
    """The compressor of a view of the run, None for 'raw'. Raises `RequestError` for a view the run does not have, and where its folder
    now holds another compressor than the run was trained with."""
    if view == "raw":
        return None
    if view not in loaded.views:
        raise RequestError(f"the run has no view '{view}'; it can be read as: raw{''.join(', ' + name for name in loaded.views)}")
    folder = loaded.views[view]
    if not folder.is_dir():
        missing = loaded.told.missing(f"view '{view}'", loaded.settings.views[view])
        raise RequestError(f"{missing}; put it at one of these places, or run the command in the folder where the run was trained")
    compressor = registry.load(folder)
    trained_with = loaded.manifest["state"].get("fingerprints", {}).get(view)
    if registry.fingerprint(compressor) != trained_with:
        raise RequestError(
            f"the run was trained with the compressor {trained_with} as view '{view}' and {folder} now holds "
            f"{registry.fingerprint(compressor)}; put the first one back, its symbols mean something else"
        )
    return compressor
