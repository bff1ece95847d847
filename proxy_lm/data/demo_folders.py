"""The real data of compression tables, by path: a file of text, a folder of images, a folder of audio, as chunks of 2,048 bytes.

    file_chunks(Path("enwik9"))                  # consecutive pieces of any file
    image_chunks(Path("imagenet/val"))           # 32 x 64 grey patches: channel mean, row-major
    audio_chunks(Path("train-clean-100"))        # 8-bit samples of one channel at 16 kHz

The rules are those of Deletang et al., "Language modeling is compression" (ICLR 2024), and its code. Only whole chunks are told: of a file
of n bytes, n // 2048; of an image, (height // 32) * (width // 64); of a recording of n samples, n // 2048. What is left over is left out.
Files of a folder are read in the order of their paths, however deep.

Grey is the mean of red, green and blue, rounded down; a grey image is taken as it is. A sample is the high byte of the recording's sample
(rounded down), plus 128; several channels are averaged first. WAV is read by the standard library, FLAC and others through soundfile.
Nothing is resampled: a recording at another rate is refused, since what a resampler does is not in the source.
"""

from __future__ import annotations

import importlib
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from proxy_lm.data.demo_made import SAMPLE_RATE, patches
from proxy_lm.errors import RequestError

CHUNK_BYTES: Final = 2048
IMAGE_ENDINGS: Final = frozenset({".png", ".jpg", ".jpeg", ".pgm", ".ppm", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
AUDIO_ENDINGS: Final = frozenset({".wav", ".flac", ".ogg", ".aiff", ".aif"})

U8 = npt.NDArray[np.uint8]


def file_chunks(path: Path, *, limit_bytes: int | None = None) -> Iterator[bytes]:
    """Consecutive whole chunks of a file, of its first `limit_bytes` where that is given: enwik8 is the first 10**8 bytes of enwik9.
    Raises `RequestError` for a file that cannot be read, or holds no whole chunk."""
    try:
        size = path.stat().st_size if path.is_file() else -1
        file = path.open("rb")
    except OSError as error:
        raise RequestError(f"could not read {path}: {error.strerror or error}; name a file that can be read") from error
    num_chunks = (size if limit_bytes is None else min(size, limit_bytes)) // CHUNK_BYTES
    if num_chunks < 1:
        file.close()
        raise RequestError(f"{path} has no whole chunk of {CHUNK_BYTES} bytes to give; name a larger file")
    return _read_chunks(file, num_chunks)


def _read_chunks(file: Any, num_chunks: int) -> Iterator[bytes]:
    with file:
        for _ in range(num_chunks):
            yield file.read(CHUNK_BYTES)


def image_chunks(folder: Path) -> Iterator[bytes]:
    """Patches of all images below a folder. Raises `RequestError` where Pillow is missing, there is no image, or one cannot be read."""
    paths = _files(folder, IMAGE_ENDINGS, "images")
    library = _library("PIL.Image", "pillow", "images")
    return (chunk for path in paths for chunk in _pieces(patches(grey_of(path, library))))


def audio_chunks(folder: Path) -> Iterator[bytes]:
    """Chunks of all recordings below a folder. Raises `RequestError` where there is none, soundfile is missing for one that is no WAV,
    or one cannot be read or has another rate than 16 kHz."""
    paths = _files(folder, AUDIO_ENDINGS, "recordings")
    if any(path.suffix.lower() != ".wav" for path in paths):
        _library("soundfile", "soundfile", "recordings that are no WAV")
    return (chunk for path in paths for chunk in _pieces(samples_of(path).tobytes()))


def grey_of(path: Path, library: Any) -> U8:
    """Uint8 [height, width] of an image file; `library` is PIL.Image."""
    try:
        with library.open(path) as image:
            if image.mode == "L":
                return np.asarray(image, dtype=np.uint8)
            channels_HWC = np.asarray(image.convert("RGB"), dtype=np.uint16)
    except (OSError, ValueError, SyntaxError, library.DecompressionBombError) as error:
        raise RequestError(f"could not read the image {path}: {error}; repair it or take it out of the folder") from error
    grey_HW: U8 = (channels_HWC.sum(axis=2, dtype=np.uint16) // 3).astype(np.uint8)
    return grey_HW


def samples_of(path: Path) -> U8:
    """Uint8 [samples] of a recording: one channel, 128 is silence."""
    try:
        rate, samples_TC = _read_wave(path) if path.suffix.lower() == ".wav" else _read_sound(path)
    except (OSError, EOFError, wave.Error, RuntimeError) as error:  # soundfile's own errors are RuntimeErrors
        raise RequestError(f"could not read the recording {path}: {error}; repair it or take it out of the folder") from error
    if rate != SAMPLE_RATE:
        raise RequestError(f"{path} has {rate} samples a second, not {SAMPLE_RATE}; resample it with a tool of your choice first")
    mean_T = samples_TC.sum(axis=1, dtype=np.int64) // samples_TC.shape[1]
    high_T: U8 = ((mean_T >> 8) + 128).astype(np.uint8)
    return high_T


def _read_wave(path: Path) -> tuple[int, npt.NDArray[np.int16]]:
    """Sample rate, and int16 [samples, channels]: 8 bits are shifted up, of more than 16 the high ones are kept."""
    with wave.open(str(path), "rb") as file:
        channels, width, rate, _, _, _ = file.getparams()
        data = np.frombuffer(file.readframes(file.getnframes()), dtype=np.uint8)
    whole = data[: len(data) // (width * channels) * width * channels].reshape(-1, channels, width)
    if width == 1:
        return rate, (whole[:, :, 0].astype(np.int16) - 128) * 256
    return rate, np.ascontiguousarray(whole[:, :, -2:]).view("<i2")[:, :, 0]


def _read_sound(path: Path) -> tuple[int, npt.NDArray[np.int16]]:
    samples_TC, rate = importlib.import_module("soundfile").read(path, dtype="int16", always_2d=True)
    return rate, samples_TC


def _pieces(data: bytes) -> Iterator[bytes]:
    return (data[begin : begin + CHUNK_BYTES] for begin in range(0, len(data) - CHUNK_BYTES + 1, CHUNK_BYTES))


def _files(folder: Path, endings: frozenset[str], what: str) -> list[Path]:
    if not folder.is_dir():
        raise RequestError(f"{folder} is no folder; name the one that holds the {what}")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in endings and path.is_file())
    if not paths:
        raise RequestError(f"{folder} holds no {what} ({' '.join(sorted(endings))}); name the folder that does")
    return paths


def _library(module: str, pip_name: str, what: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise RequestError(f"{what} need {pip_name}, which is not installed here ({error}); pip install {pip_name}") from error
