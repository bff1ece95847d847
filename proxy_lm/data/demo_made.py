"""Images, audio and noise made from a seed: no photographs, no recordings, nobody's rights.

Images: grey scenes of 256 x 512 pixels, cut into 64 patches of 32 x 64, row by row. A scene is a field with a falling spectrum, shapes with
soft edges, some of them striped or grained, a slope of light, and sensor noise. Audio: clips of 131,072 samples (8.192 s) at 16 kHz, 8 bits
with 128 for silence: voiced syllables of gliding harmonics, hisses, struck tones that decay, chirps, pauses, over a low noise. Chunks
of 2,048 bytes take PNG 59 % of the images and FLAC 40 % of the audio (ImageNet and speech in the source: 62 and 30); no likeness beyond
that.

Scene or clip i is a function of (seed, i). Not promised: the last bit on another machine or numpy, whose sines may round differently.
"""

# H x W pixels; T samples

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from proxy_lm.data.permutation import key_of

F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]

PATCH_HEIGHT: Final = 32
PATCH_WIDTH: Final = 64
SCENE_HEIGHT: Final = 256
SCENE_WIDTH: Final = 512
SAMPLE_RATE: Final = 16_000
CLIP_SAMPLES: Final = 131_072
NOISE_BYTES: Final = 65_536


def scene(seed: int, index: int) -> U8:
    """Uint8 [256, 512]: one grey scene."""
    draw = _generator(seed, "images", index)
    y_HW, x_HW = np.mgrid[0:SCENE_HEIGHT, 0:SCENE_WIDTH].astype(np.float64)
    grey_HW = draw.uniform(80, 170) + draw.uniform(20, 45) * _field(draw, draw.uniform(1.2, 1.8))
    for _ in range(draw.integers(8, 22)):
        inside_HW = _shape(draw, y_HW, x_HW)
        surface_HW = draw.uniform(20, 235) + draw.uniform(3, 18) * _field(draw, draw.uniform(0.6, 1.8))
        if draw.random() < 0.35:
            angle, length = draw.uniform(0, np.pi), draw.uniform(4, 24)
            wave_HW = np.sin(2 * np.pi * (x_HW * np.cos(angle) + y_HW * np.sin(angle)) / length + draw.uniform(0, 6))
            surface_HW += draw.uniform(6, 35) * wave_HW
        grey_HW += inside_HW * (surface_HW - grey_HW)
    grey_HW += draw.uniform(-20, 20) * (x_HW / SCENE_WIDTH - 0.5) + draw.uniform(-20, 20) * (y_HW / SCENE_HEIGHT - 0.5)
    grey_HW += draw.uniform(1.0, 4.0) * draw.standard_normal(grey_HW.shape)
    pixels_HW: U8 = np.clip(np.rint(grey_HW), 0, 255).astype(np.uint8)
    return pixels_HW


def patches(grey_HW: U8) -> bytes:
    """Whole patches of 32 x 64 of a grey image, row by row of patches, each flattened row by row; what is left at the right and below is
    left out."""
    rows, columns = grey_HW.shape[0] // PATCH_HEIGHT, grey_HW.shape[1] // PATCH_WIDTH
    whole = grey_HW[: rows * PATCH_HEIGHT, : columns * PATCH_WIDTH]
    return whole.reshape(rows, PATCH_HEIGHT, columns, PATCH_WIDTH).swapaxes(1, 2).tobytes()


def clip(seed: int, index: int) -> U8:
    """Uint8 [131072]: 8.192 s of sound, 128 is silence."""
    draw = _generator(seed, "audio", index)
    sound_T = np.zeros(CLIP_SAMPLES)
    at = 0
    while at < CLIP_SAMPLES:
        length = int(draw.uniform(0.06, 0.35) * SAMPLE_RATE)
        make = (_syllable, _syllable, _syllable, _hiss, _struck, _chirp, _pause)[draw.integers(7)]
        piece_T = draw.uniform(4, 40) * make(draw, length)
        end = min(at + length, CLIP_SAMPLES)
        sound_T[at:end] += piece_T[: end - at]
        at += int(length * draw.uniform(0.7, 1.0))
    sound_T += 0.45 * draw.standard_normal(CLIP_SAMPLES)
    samples_T: U8 = np.clip(np.rint(sound_T) + 128, 0, 255).astype(np.uint8)
    return samples_T


def noise(seed: int, index: int) -> bytes:
    """65,536 uniform random bytes."""
    return _generator(seed, "random", index).bytes(NOISE_BYTES)


def _generator(seed: int, kind: str, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([key_of(seed, f"demo {kind}"), index], dtype=np.uint64)))


def _field(draw: np.random.Generator, falloff: float) -> F64:
    """Float64 [256, 512] of mean 0 and deviation 1 whose amplitudes fall with frequency to the power of `falloff`."""
    frequency_HW = np.hypot(np.fft.fftfreq(SCENE_HEIGHT)[:, None], np.fft.rfftfreq(SCENE_WIDTH)[None, :])
    frequency_HW[0, 0] = 1.0
    waves_HW = np.fft.rfft2(draw.standard_normal((SCENE_HEIGHT, SCENE_WIDTH))) / frequency_HW**falloff
    waves_HW[0, 0] = 0
    field_HW: F64 = np.fft.irfft2(waves_HW, s=(SCENE_HEIGHT, SCENE_WIDTH))
    field_HW /= field_HW.std()
    return field_HW


def _shape(draw: np.random.Generator, y_HW: F64, x_HW: F64) -> F64:
    """Float64 [256, 512]: 1 inside a turned ellipse or box, 0 outside, an edge of some pixels between."""
    angle = draw.uniform(0, np.pi)
    across_HW, along_HW = x_HW - draw.uniform(0, SCENE_WIDTH), y_HW - draw.uniform(0, SCENE_HEIGHT)
    u_HW = (across_HW * np.cos(angle) + along_HW * np.sin(angle)) / draw.uniform(10, 120)
    v_HW = (along_HW * np.cos(angle) - across_HW * np.sin(angle)) / draw.uniform(10, 120)
    outward_HW = np.hypot(u_HW, v_HW) if draw.random() < 0.6 else np.maximum(np.abs(u_HW), np.abs(v_HW))
    softness = draw.uniform(0.01, 0.06)
    inside_HW: F64 = 1 / (1 + np.exp(np.clip((outward_HW - 1) / softness, -50, 50)))
    return inside_HW


def _seconds(length: int) -> F64:
    return np.arange(length) / SAMPLE_RATE


def _swell(length: int) -> F64:
    swell_T: F64 = np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 0.7
    return swell_T


def _syllable(draw: np.random.Generator, length: int) -> F64:
    pitch = np.linspace(draw.uniform(85, 240), draw.uniform(85, 240), length)
    phase_T = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    peaks = draw.uniform((300, 900, 2200), (900, 2200, 3400))
    sound_T = np.zeros(length)
    for harmonic in range(1, 24):
        frequency = harmonic * float(pitch.mean())
        strength = sum(np.exp(-(((frequency - peak) / 220) ** 2)) / (1 + order) for order, peak in enumerate(peaks)) + 0.4 / harmonic**2
        sound_T += strength * np.sin(harmonic * phase_T + draw.uniform(0, 6))
    return _swell(length) * sound_T / 1.5


def _hiss(draw: np.random.Generator, length: int) -> F64:
    white_T = draw.standard_normal(length + 1)
    return 0.25 * _swell(length) * np.diff(white_T)


def _struck(draw: np.random.Generator, length: int) -> F64:
    seconds_T, pitch = _seconds(length), draw.uniform(150, 1800)
    sound_T = np.zeros(length)
    for partial in (1.0, 2.01, 3.03):
        sound_T += np.sin(2 * np.pi * pitch * partial * seconds_T) * np.exp(-seconds_T * draw.uniform(6, 18) * partial) / partial
    return sound_T


def _chirp(draw: np.random.Generator, length: int) -> F64:
    frequency_T = np.geomspace(draw.uniform(150, 3000), draw.uniform(150, 3000), length)
    chirp_T: F64 = 0.7 * _swell(length) * np.sin(2 * np.pi * np.cumsum(frequency_T) / SAMPLE_RATE)
    return chirp_T


def _pause(draw: np.random.Generator, length: int) -> F64:
    return np.zeros(length)
