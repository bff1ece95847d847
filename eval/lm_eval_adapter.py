"""Our runs as a model of lm-evaluation-harness, so that its tasks run on them: `proxy-lm`, in bytes.

    python -m eval.lm_eval_adapter run --model proxy-lm --model_args run=runs/nano --tasks mine --include_path my_tasks
    python -m eval.lm_eval_adapter run --model proxy-lm --model_args run=runs/nano --tasks lambada_openai --limit 100   # needs the hub

What follows the module's name goes to the harness as it is. Its texts are told as UTF-8 and its three requests are answered by
`eval.scorer` and `proxy_lm.infer.generator`: a token run is charged for its own segmentation and its prompts can be healed. `--help` begins
with what may stand in `model_args`.

A continuation counts as greedy when each of its symbols is the most probable of all ids. Not promised: chat templates; several processes;
a view whose symbols stand for no stretch of bytes, where a continuation has no symbols of its own.
"""

from __future__ import annotations

import math
import sys
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from eval.opened import DEFAULT_ROWS, Opened, open_run
from eval.scorer import Score, Scorer
from proxy_lm.errors import ProxyError, RequestError
from proxy_lm.infer.generator import Prompt, Sampling
from proxy_lm.model.decoder import Decoder
from proxy_lm.progress import ProgressBar, note
from proxy_lm.reading import device_named

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ImportError as error:
    _MISSING = "lm-eval is missing, whose tasks this module runs: pip install 'proxy-lm[lm_eval]'"
    if __name__ == "__main__":
        print(f"lm_eval_adapter: {_MISSING}", file=sys.stderr)
        sys.exit(2)
    raise ImportError(_MISSING) from error

DEFAULT_TOKENS: Final = 256  # what the harness's own models write at most where a task says nothing
# What a task may ask of generation. Others change what is written and are refused, not dropped.
_KNOWN: Final = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k"}
_MODEL_ARGS: Final = {
    "run": "run folder, or one checkpoint of it (step-N); required",
    "view": "how the run is asked: raw, or a view of it (default: raw if it was told any raw bytes)",
    "healing": "True: prompts of a token run may be told again at their end (default: False)",
    "context_bytes": "what is read before a byte at most (default: 1024, or the row length)",
    "bytes_per_token": "tasks bound what is written in tokens: a token counts as so many bytes (default: 4)",
    "valid_utf8": "True: only valid UTF-8 is written (default: False)",
}
_HARNESS_DEVICE: Final = "cuda:0"  # what the harness asks for where its user said nothing


@register_model("proxy-lm")
class ProxyLM(LM):  # type: ignore[misc]
    """One run, asked by the harness."""

    def __init__(
        self,
        run: str | None = None,
        view: str | None = None,
        healing: bool = False,
        device: str | None = None,
        context_bytes: int | None = None,
        bytes_per_token: int = 4,
        valid_utf8: bool = False,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        **unknown: object,
    ) -> None:
        """`batch_size` (rows of one forward pass) and `device` are the harness's own options; 'auto' is understood in both. Raises
        `RequestError` as `eval.opened.open_run` does, and for arguments that are missing or unknown."""
        super().__init__()
        if unknown:
            raise RequestError(f"model_args {', '.join(sorted(unknown))} is nothing this model knows; it knows {', '.join(_MODEL_ARGS)}")
        if not run:
            raise RequestError("the model needs a run: give --model_args run=FOLDER, as training wrote it")
        if bytes_per_token < 1:
            raise RequestError(f"bytes_per_token={bytes_per_token} leaves nothing to write; give at least 1")
        num_rows = DEFAULT_ROWS if batch_size is None or str(batch_size).startswith("auto") else int(batch_size)
        if max_batch_size is not None:
            num_rows = min(num_rows, max_batch_size)
        self.opened: Opened = open_run(
            Path(str(run)), view=view, healing=healing, device=_device(device), context_bytes=context_bytes, num_rows=num_rows
        )
        self.bytes_per_token = bytes_per_token
        self.valid_utf8 = valid_utf8
        self._misses = _misses_scorer(self.opened)

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside its results."""
        return {"proxy_lm": {**self.opened.identity, "bytes_per_token": self.bytes_per_token, "valid_utf8": self.valid_utf8}}

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log probability in nats of the continuation, whether greedy choice would have written it) of each (context, continuation)."""
        pairs = [(str(request.args[0]).encode(), str(request.args[1]).encode()) for request in requests]
        answers: list[tuple[float, bool]] = []
        with ProgressBar("loglikelihood", sum(len(context) + len(continuation) for context, continuation in pairs)) as bar:
            for at in range(0, len(pairs), DEFAULT_ROWS):
                answers += self._likely(pairs[at : at + DEFAULT_ROWS], bar)
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log probability in nats of each whole text, its end not charged; every symbol once, in the scorer's windows."""
        texts = [str(request.args[0]).encode() for request in requests]
        answers: list[float] = []
        with ProgressBar("loglikelihood_rolling", sum(map(len, texts))) as bar:
            for at in range(0, len(texts), DEFAULT_ROWS):
                part = texts[at : at + DEFAULT_ROWS]
                answers += [-math.fsum(score.nll_nats) for score in self.opened.scorer.rolling_many(part)]
                bar.advance(sum(map(len, part)))
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
        return answers

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What follows each context, up to the first stop sequence. Bytes that are no UTF-8 become U+FFFD. A context that is asked again
        is sampled with another seed."""
        asked: Counter[tuple[str, str]] = Counter()
        by_sampling: dict[Sampling, list[tuple[int, Prompt]]] = {}
        for index, request in enumerate(requests):
            context, options = str(request.args[0]), dict(request.args[1])
            key = (context, repr(sorted(options.items())))
            prompt, sampling = self._question(context, options, seed=asked[key])
            asked[key] += 1
            by_sampling.setdefault(sampling, []).append((index, prompt))
        answers = [""] * len(requests)
        with ProgressBar("generate_until", sum(len(prompt.data) for group in by_sampling.values() for _, prompt in group)) as bar:
            for sampling, group in by_sampling.items():
                written = self.opened.generator.generate([prompt for _, prompt in group], sampling)
                for (index, prompt), completion in zip(group, written, strict=True):
                    answers[index] = completion.data.decode(errors="replace")
                    self.cache_hook.add_partial("generate_until", requests[index].args, answers[index])
                    bar.advance(len(prompt.data))
        return answers

    def _likely(self, pairs: list[tuple[bytes, bytes]], bar: ProgressBar) -> list[tuple[float, bool]]:
        documents = [context + continuation for context, continuation in pairs]
        found = [
            _after(score, len(context), self.opened.view)
            for score, (context, _) in zip(self.opened.scorer.rolling_many(documents), pairs, strict=True)
        ]
        # A probability above 1/2 is the largest there is, one below 1/V is not. Only the others are asked for again.
        log_uniform = math.log(self.opened.loaded.vocabulary.size)
        sure = [True if (nats < math.log(2)).all() else False if (nats > log_uniform).any() else None for nats in found]
        open_ones = [i for i, answer in enumerate(sure) if answer is None]
        for i, score in zip(open_ones, self._misses.rolling_many([documents[i] for i in open_ones]), strict=True):
            sure[i] = not _after(score, len(pairs[i][0]), self.opened.view).any()
        bar.advance(sum(map(len, documents)))
        return [(-math.fsum(nats), bool(greedy)) for nats, greedy in zip(found, sure, strict=True)]

    def _question(self, context: str, options: dict[str, Any], seed: int) -> tuple[Prompt, Sampling]:
        if odd := sorted(set(options) - _KNOWN):
            raise RequestError(
                f"the task asks for {', '.join(odd)} in its generation_kwargs, which this model does not know; it knows "
                f"{', '.join(sorted(_KNOWN))}: give --gen_kwargs, or change the task"
            )
        until = options.get("until") or []
        stops = tuple(stop.encode() for stop in ([until] if isinstance(until, str) else until) if stop)
        tokens = int(options.get("max_gen_toks") or DEFAULT_TOKENS)
        temperature = float(options.get("temperature") or 0.0)
        sampled = bool(options.get("do_sample", temperature > 0))
        sampling = Sampling(
            temperature=(temperature or 1.0) if sampled else 0.0,
            top_p=float(options.get("top_p") or 1.0) if sampled else 1.0,
            top_k=int(options.get("top_k") or 0) if sampled else 0,
            valid_utf8=self.valid_utf8,
        )
        return Prompt(data=context.encode(), stop=stops, max_bytes=tokens * self.bytes_per_token, seed=seed), sampling


def _device(asked: str | None) -> str:
    """The harness asks for 'cuda:0' where its user said nothing, so without CUDA that means the device there is."""
    if asked is None or (asked == _HARNESS_DEVICE and not torch.cuda.is_available()):
        note(f"device: {device_named('auto')}")
        return "auto"
    return asked


class Misses:
    """In place of nats, 1 where the most probable id is another one than the target: what `eval.scorer.Scorer` sums and cuts like nats."""

    def __init__(self, model: Decoder) -> None:
        self.model = model

    @torch.no_grad()
    def target_nll(self, ids: Tensor, segments: Tensor, positions: Tensor) -> Tensor:
        """As `eval.scorer.Model.target_nll`; one row's logits at a time."""
        rows = []
        for row in range(ids.shape[0]):
            one = slice(row, row + 1)
            best = self.model.logits(ids[one, :-1], segments[one, :-1], positions[one, :-1]).argmax(-1)
            rows.append((best != ids[one, 1:]).float())
        return torch.cat(rows)


def _misses_scorer(opened: Opened) -> Scorer:
    same = opened.scorer
    return Scorer(
        Misses(opened.loaded.model),
        opened.reading,
        row_length=same.row_length,
        context_bytes=same.context_bytes,
        stride_bytes=same.stride_bytes,
        windows_per_batch=same.windows_per_batch,
        device=same.device,
    )


def _after(score: Score, num_bytes: int, view: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What each symbol that ends behind the first `num_bytes` bytes was charged; one that straddles them is charged whole."""
    if score.borders is None:
        raise RequestError(
            f"view '{view}' has no spans, so a continuation has no symbols of its own; run tasks of whole texts, or "
            "ask in another view: model_args view=raw"
        )
    return score.nll_nats[score.borders[1:] > num_bytes]


def main(words: Sequence[str] | None = None) -> int:
    """The harness's own command line, with this model in its registry."""
    from lm_eval.__main__ import cli_evaluate

    if words is not None:
        sys.argv[1:] = list(words)
    if not sys.argv[1:] or {"-h", "--help"} & set(sys.argv[1:]):
        print(_help(), flush=True)
    try:
        cli_evaluate()
    except ProxyError as error:
        print(f"lm_eval_adapter: {error}", file=sys.stderr)
        return error.exit_code
    except (ValueError, TypeError, OSError) as error:
        if not _refused_by_harness(error):
            raise
        hint = "; 'ls tasks' lists those of the harness, --include_path FOLDER adds yours" if "Tasks not found" in str(error) else ""
        print(f"lm_eval_adapter: {error}{hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lm_eval_adapter: interrupted; the harness keeps nothing, the same command begins anew", file=sys.stderr)
        return 130
    return 0


def _help() -> str:
    lines = "\n".join(f"  {name + '=':17}{text}" for name, text in _MODEL_ARGS.items())
    example = "python -m eval.lm_eval_adapter run --model proxy-lm --model_args run=runs/nano --tasks mine --include_path my_tasks"
    return f"--model proxy-lm is a run of ours; its --model_args, joined by commas:\n{lines}\nexample:\n  {example}\n\nThe harness:\n"


def _refused_by_harness(error: BaseException) -> bool:
    """Whether an error was raised where the harness reads its request: names of tasks, a configuration, options that fight."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("lm_eval.config.")


if __name__ == "__main__":
    sys.exit(main())
