"""Neural views from nothing but a corpus: train a byte model, then make the view of it.

    proxy-lm compressor train neural --model counts --corpus corpus --out views/neural
    proxy-lm compressor train neural --model transformer --preset 0.7m --corpus corpus --out views/neural --set num_steps=5000

    OUT/model/        the byte model: model.json with its loss by position since a reset, and its files
    OUT/model-run/    transformer only: request.json, the training run (a DeepSpeed child), and crops/ until the run is done
    OUT/artifact.json the view, as every other view has it

Killed anywhere and run again it continues: the crops appear when they are whole, the run continues from its newest checkpoint, the model
is written last. A folder that holds another model is refused unless told otherwise. Not promised: that a transformer beats counts; both
report the same numbers.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field

from compressors import registry
from compressors.errors import ProxyError
from compressors.files import read_json, write_json
from compressors.neural.models import MODEL_NAME, ByteModel, load_model, save_model
from compressors.options import take
from proxy_lm.config import Settings, merge, parse_override
from proxy_lm.data.corpus import Corpus
from proxy_lm.errors import RequestError, WorkError
from proxy_lm.neural_settings import Request, transformer_request
from proxy_lm.progress import ProgressBar, note
from proxy_lm.train.settings import changed_settings
from proxy_lm.view_training import ASSUMED_OPERATIONS_PER_SECOND, MAX_HELD_OUT_BYTES, first_documents, refuse_early, split_range, train_view

if TYPE_CHECKING:
    from compressors.neural.network import NetworkModel
    from proxy_lm.model.decoder import Decoder

MODELS: Final = ("counts", "transformer")
_MODEL_VIEWS: Final = ("table", "table-paper", "stream", "segments")
MODEL_FOLDER: Final = "model"
RUN_FOLDER: Final = "model-run"
REQUEST_NAME: Final = "request.json"
CROPS_FOLDER: Final = "crops"
_NUM_STRETCHES: Final = 2048
# Fixed, since the crops are part of what a run continues with; validation reads as much of them as it is told to.
_HELD_OUT_CROP_BYTES: Final = 262_144


def train_neural(
    corpus: Corpus,
    out: Path,
    *,
    model: str,
    preset: str | None = None,
    view: str = "table",
    options: Mapping[str, Any] | None = None,
    settings: Sequence[str] = (),
    split: str = "train",
    held_out: str = "valid",
    force: bool = False,
) -> dict[str, Any]:
    """A byte model in OUT/model and the view of it in OUT; returns the artifact as JSON. `settings` are NAME=VALUE of the byte model's
    training: settings of `proxy_lm.train`, `crops.*` and `launch.*` for a transformer, options of the count model for counts.

    Raises `RequestError` before any training for what cannot be, and `WorkError` where training fails."""
    check_request(model, preset, view, options or {}, settings)
    wanted = {**(options or {}), "model": str(out / MODEL_FOLDER)}
    if model == "transformer" and "verify" in registry.get(view).options:
        wanted.setdefault("verify", True)  # a network is not in whole numbers: what it streams is exact where it was decoded
    texts = {"corpus_digest": corpus.digest, "split": split}
    if not force:
        refuse_early(out, registry.get(view), wanted, texts, but=("model",))
    for name in (split, held_out):
        split_range(corpus, name)
    if model == "counts":
        measured = _count(corpus, out / MODEL_FOLDER, settings, split, held_out, force)
    else:
        request = transformer_request(corpus, out / RUN_FOLDER, preset, view, wanted, settings, split, held_out)
        measured = _train_transformer(corpus, out, request, force)
    artifact = _finished_view(out, view, wanted, texts, measured)
    if artifact is None:
        artifact = train_view(view, corpus, out, split=split, held_out=held_out, options=wanted, force=force, byte_model=measured)
    return {**artifact, "byte_model": measured}


class ViewOptions(Settings):
    """Options of a view of kind `neural` in a comparison: `kind: neural, options: {model: counts, view: table, options: {bits: 16}}`."""

    model: str = "counts"
    """counts or transformer."""

    preset: str | None = None
    """Size of the transformer."""

    view: str = "table"
    """The view made of it."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Options of that view."""

    settings: list[str] = Field(default_factory=list)
    """NAME=VALUE of the byte model's training."""


def network_of(decoder: Decoder, context_bytes: int) -> NetworkModel:
    """The trained decoder as a byte model: the rows of its matrices that bytes and the two begin symbols own."""
    from compressors.neural.network import NetworkModel, NetworkShape
    from proxy_lm.vocabulary import BOS, NUM_BYTES, RAW_START

    sizes = decoder.sizes
    shape = NetworkShape(
        width=sizes.width,
        depth=sizes.depth,
        num_heads=sizes.num_heads,
        num_kv_heads=sizes.num_kv_heads,
        hidden=sizes.hidden,
        rope_theta=float(sizes.rope_theta),
        norm_eps=sizes.norm_eps,
        context_bytes=context_bytes,
    )
    weights = {}
    for name, parameter in decoder.named_parameters():
        if not name.startswith(("raw_heads.", "symbol_heads.")):
            weights[name.removesuffix(".weight")] = parameter.detach().cpu().numpy()
    weights["embedding"] = weights["embedding"][[*range(NUM_BYTES), BOS, RAW_START]]
    weights["head"] = weights["head"][:NUM_BYTES]
    return NetworkModel(shape, weights)


def measure_model(model: ByteModel, corpus: Corpus, split: str) -> dict[str, Any]:
    """Bits per byte by position since a reset, on stretches of a split."""
    from proxy_lm.analysis.reset_loss import reset_loss
    from proxy_lm.analysis.told import Sample

    documents = first_documents(corpus, split_range(corpus, split), MAX_HELD_OUT_BYTES)
    return {"split": split, **reset_loss(model, Sample(documents, [""] * len(documents)), num_stretches=_NUM_STRETCHES)}


def check_request(model: str, preset: str | None, view: str, options: Mapping[str, Any], settings: Sequence[str]) -> None:
    """Raises `RequestError` for what no corpus could make right."""
    if model not in MODELS:
        raise RequestError(f"unknown byte model '{model}'; known: {', '.join(MODELS)}")
    if model == "counts" and preset is not None:
        raise RequestError(
            f"preset '{preset}' is the size of a transformer and the byte model is counts; leave it out, or choose transformer"
        )
    cls = registry.get(view)
    if "model" not in cls.options:
        made = [name for name in registry.names() if name in _MODEL_VIEWS]
        raise RequestError(f"view '{view}' is not made of a byte model; these are: {', '.join(made)}")
    if "model" in options:
        raise RequestError(
            "option model=... is decided by this command: it trains the model; `compressor train table` takes one that is there"
        )
    chosen = cls.take_options(options)
    if model == "transformer" and view == "segments" and chosen["reset"] == "segment":
        raise RequestError("view 'segments' of a transformer needs --option reset=window: otherwise decoding would ask the network")
    if model == "transformer" and "verify" in options and not chosen["verify"]:
        raise RequestError("view 'stream' of a transformer is exact only where each document is decoded; leave verify=false out")
    for text in settings:
        parse_override(text)


def _finished_view(
    out: Path, view: str, options: Mapping[str, Any], texts: Mapping[str, Any], measured: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The artifact in `out` if it is this view of this very model already."""
    if not (out / registry.ARTIFACT_NAME).exists():
        return None
    artifact = registry.read_artifact(out)
    found = artifact.get("measured") or {}
    training = found.get("training") or {}
    # Not the path of the model, which is another one once the folder was moved; what was measured of it says that it is the same.
    old, new = ({name: value for name, value in one.items() if name != "model"} for one in (training.get("options") or {}, options))
    same = artifact["kind"] == view and old == new and found.get("byte_model") == measured
    if not same or any(training.get(name) != value for name, value in texts.items()):
        return None
    note(f"train {view}: {out} holds this view already")
    return {"folder": str(out), **artifact}


def _count(corpus: Corpus, folder: Path, settings: Sequence[str], split: str, held_out: str, force: bool) -> dict[str, Any]:
    from compressors.neural.counts import CountModel

    given: dict[str, Any] = {}
    for text in settings:
        given = merge(given, parse_override(text))
    chosen = take("counts", CountModel.options, given)
    request = {"kind": "counts", "text_digest": corpus.digest, "split": split, **chosen}
    known = _finished_model(folder, request, force)
    if known is not None:
        return known
    started, cpu_started = time.perf_counter(), time.process_time()
    documents = split_range(corpus, split)
    size = min(int(corpus.sizes[documents.start : documents.stop].sum()), chosen["max_training_bytes"])
    with ProgressBar("byte model: counting", None) as bar:

        def told(done: int, total: int) -> None:
            bar.total_bytes = size
            bar.advance(size * done // total - bar.done_bytes)

        model = CountModel.train((corpus.document(index) for index in documents), report=told, **chosen)
    cpu_seconds = time.process_time() - cpu_started
    training = {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": cpu_seconds,
        "flops": cpu_seconds * ASSUMED_OPERATIONS_PER_SECOND,
        "source_bytes": size,
    }
    return _write_model(model, folder, request, training, corpus, held_out)


def _train_transformer(corpus: Corpus, out: Path, request: Request, force: bool) -> dict[str, Any]:
    from proxy_lm.train import child

    known = _finished_model(out / MODEL_FOLDER, request.identity, force)
    if known is not None:
        return known
    child.require_deepspeed()
    run, folder = request.run, out / RUN_FOLDER
    _take_run_folder(folder, request.identity, force)
    done = child.finished_run(run)
    if done is None:
        from proxy_lm.neural_crops import crop_corpus

        crop_corpus(
            corpus,
            folder / CROPS_FOLDER,
            train=request.split,
            held_out=request.held_out,
            lengths=request.lengths,
            num_bytes=request.num_crop_bytes,
            held_out_bytes=_HELD_OUT_CROP_BYTES,
            seed=run.seed,
        )
    outcome = child.train_run(run, request.launch, "byte model")
    done = child.finished_run(run)
    if done is None:
        raise WorkError(f"the byte model is not trained: {outcome.failure}")
    from proxy_lm.train.restore import load_model as load_decoder

    decoder = load_decoder(folder).model
    training = {
        "seconds": outcome.wall_seconds,
        "cpu_seconds": done["device_seconds"],
        "flops": float(done["training_flops_per_symbol"]) * done["num_steps"] * done["symbols_per_step"],
        "source_bytes": done["source_bytes"],
        "num_steps": done["num_steps"],
        "num_parameters": sum(parameter.numel() for parameter in decoder.parameters()),
    }
    measured = _write_model(
        network_of(decoder, request.context_bytes), out / MODEL_FOLDER, request.identity, training, corpus, request.held_out
    )
    shutil.rmtree(folder / CROPS_FOLDER, ignore_errors=True)  # as large as the text, and made again from it in a minute
    return measured


def _write_model(
    model: ByteModel, folder: Path, request: Mapping[str, Any], training: Mapping[str, Any], corpus: Corpus, held_out: str
) -> dict[str, Any]:
    loss = measure_model(model, corpus, held_out)
    measured = {"kind": model.kind, "request": dict(request), "training": dict(training), "reset_loss": loss}
    save_model(model, folder, measured)
    told = loss.get("bits_per_byte")
    if told:
        few = ", ".join(f"{told[at]:.2f}" for at in (0, 1, 2, 3, 7, 15, 31))
        note(f"byte model '{model.kind}': {few} bits for bytes 1, 2, 3, 4, 8, 16 and 32 after a reset, {training['seconds']:.1f} s")
    return measured


def _finished_model(folder: Path, request: Mapping[str, Any], force: bool) -> dict[str, Any] | None:
    """What was measured of a model that this very request made; it is also loaded once, so that damage is told here."""
    if not (folder / MODEL_NAME).exists():
        return None
    try:
        measured = read_json(folder / MODEL_NAME, "byte model").get("measured")
        differences = _differences(measured.get("request") if isinstance(measured, dict) else None, request)
        if not differences:
            load_model(folder)
            note(f"byte model: {folder} holds it already")
            return measured
    except ProxyError as error:
        if force:
            return None
        raise RequestError(f"{error}; or say --force") from error
    if not force:
        raise RequestError(f"{folder} holds a byte model of another request ({differences}); choose another folder or say --force")
    return None


def _take_run_folder(folder: Path, request: Mapping[str, Any], force: bool) -> None:
    """The run folder with this request in it; the run of another request is refused, or with `force` removed."""
    path = folder / REQUEST_NAME
    if folder.exists():
        old = read_json(path, "request of a byte model") if path.exists() else None
        differences = _differences(old, request)
        if not differences:
            return
        if not force:
            raise RequestError(f"{folder} holds a training run of another request ({differences}); choose another folder or say --force")
        shutil.rmtree(folder)
    write_json(path, dict(request))


def _differences(old: Any, new: Mapping[str, Any]) -> str:
    if not isinstance(old, dict):
        return "it says none"
    return "; ".join(changed_settings(old, dict(new)))
