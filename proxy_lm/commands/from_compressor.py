"""`proxy-lm generate --from-compressor NAME`: bytes from a compressor's code lengths, without a run. The work is in
`proxy_lm.codec.compressor_model`, which also says why this makes gzip look worse than it is."""

from __future__ import annotations

import argparse
import base64
import codecs
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from proxy_lm.errors import RequestError

if TYPE_CHECKING:
    from proxy_lm.codec.compressor_model import CompressorModel

Writer = Callable[[bytes], None]

UNUSED: Final = {
    "run": None,
    "suffix": None,
    "suffix_file": None,
    "view": None,
    "healing": False,
    "top_p": 1.0,
    "top_k": 0,
    "valid_utf8": False,
    "no_speculate": False,
}
"""What only a run understands, and its value where nothing was asked."""


def refuse_unused(args: argparse.Namespace) -> None:
    """Raises `RequestError` for options that mean nothing here, rather than leave them without effect."""
    for name, default in UNUSED.items():
        if getattr(args, name) != default:
            told = f"the run {args.run}" if name == "run" else f"--{name.replace('_', '-')}"
            raise RequestError(f"{told} means nothing with --from-compressor {args.from_compressor}; leave one of them out")


def run(args: argparse.Namespace, read_prompt: Callable[[], bytes], stops: tuple[bytes, ...], write: Writer) -> dict[str, Any]:
    """Generate; the same keys as of a run, where they have a meaning."""
    from proxy_lm.codec.compressor_model import CompressorModel
    from proxy_lm.codec.lengths import open_lengths

    started = time.monotonic()
    lengths = open_lengths(args.from_compressor, device="cpu" if args.device == "auto" else args.device)
    model = CompressorModel(lengths)
    prompt = read_prompt()
    loaded = time.monotonic()
    completions = [_one(model, prompt, stops, sample, args, write if args.stream else None) for sample in range(args.num_samples)]
    seconds = time.monotonic() - loaded
    num_bytes = sum(one["num_bytes"] for one in completions)
    return {
        "compressor": lengths.name,
        "identity": lengths.identity(),
        "granularity": lengths.granularity,
        "sampling": {"temperature": args.temperature, "seed": args.seed},
        "prompt_bytes": len(prompt),
        "completions": completions,
        "num_bytes": num_bytes,
        "seconds": seconds,
        "load_seconds": loaded - started,
        "bytes_per_second": num_bytes / seconds,
        "shown": "nothing" if args.stream else "bytes" if args.bytes else "text",
    }


def _one(
    model: CompressorModel, prompt: bytes, stops: tuple[bytes, ...], sample: int, args: argparse.Namespace, write: Writer | None
) -> dict[str, Any]:
    from proxy_lm.codec.compressor_model import completed, continuation

    sampled = continuation(model, prompt, max_bytes=args.max_bytes, temperature=args.temperature, seed=args.seed, sample=sample)
    characters = codecs.getincrementaldecoder("utf-8")("replace")
    data = b""
    ended: bytes | None = None
    for new, stop in completed(sampled if write else _counted(sampled, args.max_bytes), stops):
        data, ended = data + new, stop
        if write is not None and new:
            write(new if args.bytes else characters.decode(new).encode())
    if write is not None and not args.bytes:
        write(characters.decode(b"", final=True).encode() + b"\n")
    return {
        "text": data.decode("utf-8", "replace"),
        "data_base64": base64.b64encode(data).decode(),
        "num_bytes": len(data),
        "reason": "length" if ended is None else "stop",
        "stop_base64": None if ended is None else base64.b64encode(ended).decode(),
    }


def _counted(sampled: Iterator[bytes], num_bytes: int) -> Iterator[bytes]:
    from proxy_lm.progress import CountProgress

    with CountProgress("generate: bytes", num_bytes) as progress:
        for byte in sampled:
            progress.advance()
            yield byte
