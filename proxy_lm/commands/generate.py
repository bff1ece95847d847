"""`proxy-lm generate`: continue a prompt with a trained run. Arguments and printing only; the work is in `proxy_lm.infer.generator`.

Whatever can be refused by looking at the request is refused before torch is imported, which takes seconds.
"""

from __future__ import annotations

import argparse
import base64
import codecs
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy_lm.errors import RequestError

if TYPE_CHECKING:
    from proxy_lm.infer.generator import Completion, Generator, Prompt, Sampling

INTERRUPTED = "what was to be generated is not kept; the same command begins anew"
HELP = "continue a prompt with a trained run: bytes in, bytes out"
EXAMPLE = r"""  proxy-lm generate runs/nano --prompt 'def area(' --stop '\n\n' --temperature 0.8
  proxy-lm generate runs/nano --prompt-file begin.py --max-bytes 500 --stream
  head -c 300 begin.py | proxy-lm generate runs/nano --bytes > more.bin
  proxy-lm generate runs/nano --prompt 'x = ' --num-samples 4 --temperature 1 --json
  proxy-lm generate --from-compressor gzip --prompt-file begin.py --max-bytes 40 --temperature 1

Without --bytes, bytes that are no UTF-8 are shown as U+FFFD; --bytes and --json have every byte as it is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "run", metavar="RUN", nargs="?", type=Path, help="run folder, as training wrote it, or one checkpoint of it (step-N)"
    )
    parser.add_argument(
        "--from-compressor",
        metavar="NAME",
        help="no run: bytes from code lengths of gzip, lzma, lzma-bytes, zstd, ppm, or the folder of a model; 256 compressions a byte",
    )
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--prompt", metavar="TEXT", help="the begin of a document; may be empty (default: standard input)")
    given.add_argument("--prompt-file", type=Path, metavar="FILE", help="the prompt is all bytes of a file")
    after = parser.add_mutually_exclusive_group()
    after.add_argument("--suffix", metavar="TEXT", help="what follows: fill in between, with a run trained with mix.fim")
    after.add_argument("--suffix-file", type=Path, metavar="FILE", help="the suffix is all bytes of a file")
    parser.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help=r"end before this sequence; may be repeated; \n, \t, \r, \s, \0, \\ and \xHH stand for bytes",
    )
    parser.add_argument("--max-bytes", type=int, default=256, metavar="N", help="most bytes of a completion (default: 256)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 takes the most probable (default: 0)")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="only the most probable that together reach P (default: 1)")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="only the K most probable; 0 for all (default: 0)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="equal seeds, equal bytes (default: 0)")
    parser.add_argument("--num-samples", type=int, default=1, metavar="N", help="completions of the prompt (default: 1)")
    parser.add_argument("--valid-utf8", action="store_true", help="only bytes that continue the prompt as UTF-8, never half a character")
    parser.add_argument("--no-speculate", action="store_true", help="one byte a step, also where the model has heads to draft several")
    parser.add_argument(
        "--view", metavar="NAME", help="how the run is asked: raw, or a view of it (default: raw if it was told any raw bytes)"
    )
    parser.add_argument("--healing", action="store_true", help="of a view: let the first symbol reach back over the prompt's end")
    parser.add_argument("--device", default="auto", metavar="NAME", help="cpu, cuda or auto (default: auto)")
    parser.add_argument("--stream", action="store_true", help="write complete characters (with --bytes: bytes) as soon as they are sure")
    parser.add_argument("--bytes", action="store_true", help="write the completion's bytes as they are and nothing else")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Generate; with `--stream` the bytes are written here."""
    if args.from_compressor is not None:
        return _from_compressor(args)
    if args.run is None:
        raise RequestError("there is no run to continue with; name its folder, or a compressor: --from-compressor gzip")
    prompts, sampling = _asked(args)
    from proxy_lm.infer.generator import Generator

    started = time.monotonic()
    generator = Generator.open(args.run, view=args.view, healing=args.healing, device=args.device, num_rows=min(16, args.num_samples))
    _warn(generator)
    loaded = time.monotonic()
    completions = _stream(generator, prompts[0], sampling, args) if args.stream else _generate(generator, prompts, sampling)
    seconds = time.monotonic() - loaded
    num_bytes = sum(len(completion.data) for completion in completions)
    return {
        "run": str(args.run),
        **generator.identity,
        "sampling": sampling.model_dump(mode="json"),
        "prompt_bytes": len(prompts[0].data),
        "suffix_bytes": None if prompts[0].suffix is None else len(prompts[0].suffix),
        "completions": [_described(completion) for completion in completions],
        "num_bytes": num_bytes,
        "seconds": seconds,
        "load_seconds": loaded - started,
        "bytes_per_second": num_bytes / seconds,
        "mean_accepted_length": _mean_accepted_length(completions),
        "shown": "nothing" if args.stream else "bytes" if args.bytes else "text",
    }


def _asked(args: argparse.Namespace) -> tuple[list[Prompt], Sampling]:
    """The request, checked. Standard input is read last, when nothing else can be wrong."""
    from proxy_lm.config import OPTIONS, validate
    from proxy_lm.infer.asked import Prompt, Sampling
    from proxy_lm.infer.stops import unescape
    from proxy_lm.train.run_files import check_run

    _check(args)
    check_run(args.run)
    names = ("temperature", "top_p", "top_k", "seed", "valid_utf8")
    given = {name: getattr(args, name) for name in names} | {"speculate": not args.no_speculate}
    sampling = validate(Sampling, given, source=OPTIONS)
    suffix = _bytes(args.suffix, args.suffix_file)
    prompt = Prompt(data=b"", suffix=suffix, stop=tuple(unescape(stop) for stop in args.stop), max_bytes=args.max_bytes)
    prompt.check()
    data = _prompt(args)
    return [replace(prompt, data=data, seed=index) for index in range(args.num_samples)], sampling


def _from_compressor(args: argparse.Namespace) -> dict[str, Any]:
    from proxy_lm.commands import from_compressor
    from proxy_lm.config import OPTIONS, validate
    from proxy_lm.infer.asked import Prompt, Sampling
    from proxy_lm.infer.stops import unescape

    from_compressor.refuse_unused(args)
    _check(args)
    validate(Sampling, {"temperature": args.temperature, "seed": args.seed}, source=OPTIONS)
    stops = tuple(unescape(stop) for stop in args.stop)
    Prompt(data=b"", stop=stops, max_bytes=args.max_bytes).check()
    return from_compressor.run(args, lambda: _prompt(args), stops, _write)


def _check(args: argparse.Namespace) -> None:
    if args.max_bytes < 1:
        raise RequestError(f"--max-bytes {args.max_bytes} leaves nothing to generate; give at least 1")
    if args.num_samples < 1:
        raise RequestError(f"--num-samples {args.num_samples} asks for nothing; give at least 1")
    if args.num_samples > 1 and args.temperature == 0:
        raise RequestError(f"{args.num_samples} samples at temperature 0 are all the same; give --temperature, or --num-samples 1")
    if args.num_samples > 1 and (args.stream or args.bytes):
        raise RequestError(f"{args.num_samples} samples would run into each other with --stream or --bytes; use --json, or --num-samples 1")
    if args.json and (args.stream or args.bytes):
        raise RequestError("--json prints one object and nothing else, and holds every byte in base64; leave out --stream and --bytes")


def _warn(generator: Generator) -> None:
    """Raw bytes of a run that learned none are asked for by whoever wants to see them, and taken for its best by everyone else."""
    from proxy_lm.progress import note

    settings = generator.loaded.settings
    if generator.view == "raw" and not settings.mix.tells_raw:
        note(
            "generate: warning: training told this run no document in raw bytes, so what it writes in them means nothing; "
            f"ask with --view {' or '.join(settings.told_views)}"
        )


def _prompt(args: argparse.Namespace) -> bytes:
    data = _bytes(args.prompt, args.prompt_file)
    if data is not None:
        return data
    if sys.stdin is None or sys.stdin.isatty():
        raise RequestError("there is no prompt; give --prompt TEXT, --prompt-file FILE, or pipe one in (--prompt '' begins a document)")
    return sys.stdin.buffer.read()


def _bytes(text: str | None, path: Path | None) -> bytes | None:
    if text is not None:
        return os.fsencode(text)
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(f"could not read {path}: {error.strerror or error}; name a file that can be read") from error


def _generate(generator: Generator, prompts: list[Prompt], sampling: Sampling) -> list[Completion]:
    from proxy_lm.progress import CountProgress

    if len(prompts) == 1:
        return list(generator.generate(prompts, sampling))
    completions = []
    with CountProgress("generate: samples", len(prompts)) as progress:
        for completion in generator.generate(prompts, sampling):
            completions.append(completion)
            progress.advance()
    return completions


def _stream(generator: Generator, prompt: Prompt, sampling: Sampling, args: argparse.Namespace) -> list[Completion]:
    """One completion, written as it comes."""
    stream = generator.stream(prompt, sampling)
    characters = codecs.getincrementaldecoder("utf-8")("replace")
    while True:
        try:
            new = next(stream)
        except StopIteration as end:
            if not args.bytes:
                _write(characters.decode(b"", final=True).encode() + b"\n")
            return [end.value]
        _write(new if args.bytes else characters.decode(new).encode())


def _write(data: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _described(completion: Completion) -> dict[str, Any]:
    stop = completion.stop
    return {
        "text": completion.data.decode("utf-8", "replace"),
        "data_base64": base64.b64encode(completion.data).decode(),
        "num_bytes": len(completion.data),
        "reason": completion.reason,
        "stop_base64": None if stop is None else base64.b64encode(stop).decode(),
        "num_passes": completion.num_passes,
        "num_drafted": completion.num_drafted,
        "num_accepted": completion.num_accepted,
        "num_rereads": completion.num_rereads,
        "told_raw": completion.told_raw,
        "num_unspelled": completion.num_unspelled,
    }


def _mean_accepted_length(completions: list[Completion]) -> float:
    """Ids a forward pass that gave ids, over all completions: 1 without drafts."""
    num_passes = sum(completion.num_passes for completion in completions)
    return 1.0 + sum(completion.num_accepted for completion in completions) / max(1, num_passes)


def show(result: dict[str, Any]) -> None:
    """The bytes on standard output, what they cost on standard error."""
    from proxy_lm.progress import note

    completions = result["completions"]
    for index, one in enumerate(completions):
        if result["shown"] == "bytes":
            _write(base64.b64decode(one["data_base64"]))
        elif result["shown"] == "text":
            title = f"--- sample {index}, {_times(one['num_bytes'], 'byte')}, ended by {_ended(one)}\n" if len(completions) > 1 else ""
            _write(f"{title}{one['text']}\n".encode())
    ended = f", ended by {_ended(completions[0])}" if len(completions) == 1 else ""
    if "compressor" in result:
        took = f"{_times(result['num_bytes'], 'byte')} in {result['seconds']:.2f} s ({result['bytes_per_second']:.1f} bytes/s)"
        note(f"generate: {took}, from code lengths of {result['compressor']} in {result['granularity']}{ended}")
        return
    note(
        f"generate: {_times(result['num_bytes'], 'byte')} in {result['seconds']:.2f} s ({result['bytes_per_second']:.0f} bytes/s), "
        f"mean accepted length {result['mean_accepted_length']:.2f}, read as {result['view']}"
        f"{' healed' if result['healing'] else ''}{ended}"
    )
    rereads = sum(one["num_rereads"] for one in completions)
    if rereads:
        note(f"generate: the context was cut {_times(rereads, 'time')}: a row of this run is full after so many positions as in training")
    if unspelled := sum(one["num_unspelled"] for one in completions):
        note(f"generate: {unspelled} symbols at the ends could not be decoded by view '{result['view']}' and are left out")


def _times(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _ended(one: dict[str, Any]) -> str:
    return {"stop": "a stop sequence", "end": "the end of the document", "length": "--max-bytes"}[one["reason"]]
