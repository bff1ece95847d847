"""`proxy-lm data demo`: legal local stand-ins for the data of compression tables, so that every row runs offline.

    demo = make_demo(Path("demo"), num_bytes=1 << 20, seed=0)
    for chunk in demo_chunks(Path("demo"), "images"): ...        # 2,048 bytes each, digests checked first

Written: `text.bin code.bin images.bin audio.bin random.bin`, each of exactly the bytes asked for; `examples/` with the first scenes as PGM
and the first clip as WAV, for eyes and ears (and for the readers of folders); `manifest.json` with sizes, digests and how each was made.
The folder appears whole or not at all.
"""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
import wave
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, Final

import numpy as np

from compressors.base import JSON
from compressors.files import disk_error, sha256_file, write_bytes
from proxy_lm.data import demo_made, demo_text
from proxy_lm.errors import RequestError

Source = Callable[[int], Iterator[bytes]]
Advance = Callable[[int, str], object]
VERSION: Final = 1
CHUNK_BYTES: Final = 2048
MANIFEST: Final = "manifest.json"
MOST_BYTES: Final = 1 << 30
_NUM_SCENES_SHOWN: Final = 2

HOW: Final[Mapping[str, str]] = {
    "text": "documentation strings of the installed Python, ASCII, from other files than the code",
    "code": "source files of the installed Python",
    "images": "grey scenes made from the seed, cut into patches of 32 x 64 (height x width), row-major",
    "audio": "sound made from the seed: 16 kHz, mono, 8 bits, 128 is silence",
    "random": "uniform random bytes made from the seed",
}
KINDS: Final = tuple(HOW)
SOURCES: Final[Mapping[str, Source]] = {
    "text": demo_text.text_blocks,
    "code": demo_text.code_blocks,
    "images": lambda seed: (demo_made.patches(demo_made.scene(seed, index)) for index in count()),
    "audio": lambda seed: (demo_made.clip(seed, index).tobytes() for index in count()),
    "random": lambda seed: (demo_made.noise(seed, index) for index in count()),
}
"""Of each kind its bytes, in blocks, as a function of the seed."""


def make_demo(
    out: Path,
    *,
    num_bytes: int,
    seed: int,
    sources: Mapping[str, Source] = SOURCES,
    advance: Advance = lambda num_bytes, kind: None,
) -> dict[str, Any]:
    """Write the folder; its manifest. One that is there already with the same request and right digests is left as it is. `advance` is
    told the bytes that are done. Raises `RequestError` for a size that is no number of chunks, a folder with something else in it, and
    more code or text than this Python has; `WorkError` where the disk fails."""
    _check(num_bytes, seed)
    request: dict[str, JSON] = {"version": VERSION, "seed": seed, "num_bytes": num_bytes, "chunk_bytes": CHUNK_BYTES}
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        return _as_it_is(out, request)
    partial = out.with_name(f"{out.name}.tmp-{os.uname().nodename}-{os.getpid()}")
    try:
        (partial / "examples").mkdir(parents=True)
        kinds = {kind: _write_kind(partial, kind, num_bytes, sources[kind](seed), advance) for kind in KINDS}
        _write_examples(partial / "examples", seed)
        made_with = {"python": platform.python_version(), "numpy": np.__version__}
        manifest = {**request, "made_with": made_with, "kinds": kinds}
        write_bytes(partial / MANIFEST, json.dumps(manifest, indent=2).encode() + b"\n")
        partial.replace(out)
    except OSError as error:
        raise disk_error(error, out) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {**manifest, "made": True}


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a demo folder. Raises `RequestError` where there is none that can be read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        known = manifest["version"] == VERSION and set(manifest["kinds"]) == set(KINDS)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{folder} is no demo folder ({error}); make one with proxy-lm data demo --out {folder}") from error
    if not known:
        raise RequestError(f"{folder} is a demo folder of another version than {VERSION}; make one with proxy-lm data demo")
    return dict(manifest)


def demo_chunks(folder: Path, kind: str) -> Iterator[bytes]:
    """The chunks of one kind, 2,048 bytes each, after its digest is checked. Raises `RequestError` for another kind, no demo folder, and
    a file that is not what the manifest says."""
    if kind not in HOW:
        raise RequestError(f"'{kind}' is no kind of demo data; known: {', '.join(KINDS)}")
    entry = read_manifest(folder)["kinds"][kind]
    path = folder / entry["file"]
    if damage := _damage(path, entry):
        raise RequestError(f"{damage}; remove {folder} and make it again with proxy-lm data demo")
    return _chunks(path)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _check(num_bytes: int, seed: int) -> None:
    if not CHUNK_BYTES <= num_bytes <= MOST_BYTES or num_bytes % CHUNK_BYTES:
        near = min(MOST_BYTES, max(1, round(num_bytes / CHUNK_BYTES)) * CHUNK_BYTES)
        raise RequestError(
            f"{num_bytes} bytes are not 1 to {MOST_BYTES // CHUNK_BYTES} chunks of {CHUNK_BYTES} bytes; give a multiple, {near} for one"
        )
    if not 0 <= seed < 1 << 63:
        raise RequestError(f"seed {seed} is not between 0 and 2**63 - 1; give another")


def _as_it_is(out: Path, request: dict[str, JSON]) -> dict[str, Any]:
    if not (out / MANIFEST).is_file():
        raise RequestError(f"{out} is there and is no demo folder; name another, or remove it")
    manifest = read_manifest(out)
    if any(manifest.get(name) != value for name, value in request.items()):
        held = f"{manifest.get('num_bytes')} bytes of seed {manifest.get('seed')}"
        raise RequestError(f"{out} holds {held}, not {request['num_bytes']} of seed {request['seed']}; name another, or remove it")
    for entry in manifest["kinds"].values():
        if damage := _damage(out / entry["file"], entry):
            raise RequestError(f"{damage}; remove {out} and run the same command again")
    return {**manifest, "made": False}


def _damage(path: Path, entry: dict[str, Any]) -> str | None:
    try:
        found = sha256_file(path)
    except OSError as error:
        return f"could not read {path}: {error.strerror or error}"
    return None if found == entry["sha256"] else f"{path} has the digest {found}, its manifest says {entry['sha256']}"


def _write_kind(folder: Path, kind: str, num_bytes: int, blocks: Iterator[bytes], advance: Advance) -> dict[str, JSON]:
    path, left = folder / f"{kind}.bin", num_bytes
    with path.open("wb") as file:
        for block in blocks:
            file.write(block[:left])
            advance(min(left, len(block)), kind)
            left -= min(left, len(block))
            if not left:
                break
        file.flush()
        os.fsync(file.fileno())
    if left:
        most = (num_bytes - left) // CHUNK_BYTES * CHUNK_BYTES
        raise RequestError(f"this Python holds {num_bytes - left} bytes of {kind}, not {num_bytes}; give --bytes {most} or less")
    return {
        "file": path.name,
        "num_bytes": num_bytes,
        "num_chunks": num_bytes // CHUNK_BYTES,
        "sha256": sha256_file(path),
        "how": HOW[kind],
    }


def _write_examples(folder: Path, seed: int) -> None:
    for index in range(_NUM_SCENES_SHOWN):
        grey_HW = demo_made.scene(seed, index)
        header = f"P5\n{grey_HW.shape[1]} {grey_HW.shape[0]}\n255\n".encode()
        (folder / f"scene-{index}.pgm").write_bytes(header + grey_HW.tobytes())
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(1)
        sound.setframerate(demo_made.SAMPLE_RATE)
        sound.writeframes(demo_made.clip(seed, 0).tobytes())
    (folder / "clip-0.wav").write_bytes(file.getvalue())
