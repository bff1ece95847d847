"""Demo data and the readers of real data: exact sizes, equal by seed, whole or absent, counts as the source cuts."""

import importlib.util
import json
import random
import wave
from pathlib import Path

import numpy as np
import pytest

from compressors.files import sha256_bytes
from proxy_lm.cli import main
from proxy_lm.data import demo_made
from proxy_lm.data.demo import KINDS, SOURCES, demo_chunks, make_demo
from proxy_lm.data.demo_folders import audio_chunks, file_chunks, image_chunks, samples_of
from proxy_lm.data.demo_text import docstrings
from proxy_lm.errors import RequestError

NUM_BYTES = 6 * 2048
needs_pillow = pytest.mark.skipif(importlib.util.find_spec("PIL") is None, reason="Pillow is not installed")
needs_soundfile = pytest.mark.skipif(importlib.util.find_spec("soundfile") is None, reason="soundfile is not installed")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "demo"
    make_demo(folder, num_bytes=NUM_BYTES, seed=1)
    return folder


def write_wave(path: Path, samples: bytes, *, width: int = 2, channels: int = 1, rate: int = 16_000) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(samples)


def write_pgm(path: Path, grey_HW: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(f"P5\n{grey_HW.shape[1]} {grey_HW.shape[0]}\n255\n".encode() + grey_HW.tobytes())


def test_every_kind_has_exactly_its_bytes_and_its_digest(demo):
    manifest = json.loads((demo / "manifest.json").read_bytes())
    assert sorted(manifest["kinds"]) == sorted(["text", "code", "images", "audio", "random"])
    for kind, entry in manifest["kinds"].items():
        data = (demo / f"{kind}.bin").read_bytes()
        assert (len(data), sha256_bytes(data), entry["num_chunks"]) == (NUM_BYTES, entry["sha256"], 6)
        assert b"".join(demo_chunks(demo, kind)) == data
    assert (demo / "text.bin").read_bytes().isascii()
    assert list(demo.parent.iterdir()) == [demo]


def test_what_is_made_is_a_function_of_the_seed():
    for make in (lambda seed, index: demo_made.scene(seed, index).tobytes(), lambda *at: demo_made.clip(*at).tobytes(), demo_made.noise):
        assert make(1, 0) == make(1, 0)
        assert len({make(1, 0), make(2, 0), make(1, 1)}) == 3


def test_what_is_made_is_neither_flat_nor_noise():
    grey, sound = demo_made.scene(3, 0), demo_made.clip(3, 0)
    assert (grey.shape, sound.shape) == ((256, 512), (131_072,))
    assert grey.std() > 15
    assert 1 < sound.std() < 60
    # Neighbours are alike: a difference says less than a value.
    assert np.abs(np.diff(grey.astype(int), axis=1)).mean() < grey.std() / 2
    assert np.abs(sound.astype(int).mean() - 128) < 2


def test_docstrings_of_a_file():
    long = "Twenty bytes of text." * 5
    source = f'"""Short."""\n\ndef f():\n    """{long}\n\n    {long}\n    """\n\nclass C:\n    """{long} é"""\n'
    assert docstrings(source.encode()) == [f"{long}\n\n{long}"]
    assert docstrings(b"def broken(:") == []
    assert docstrings(b"\x00") == []


def test_patches_are_cut_row_by_row():
    grey = np.zeros((70, 130), dtype=np.uint8)
    grey[0:32, 64:128] = 1
    grey[32:64, 0:64] = 2
    grey[32:64, 64:128] = 3
    grey[5, 7] = 9
    cut = demo_made.patches(grey)
    assert len(cut) == 4 * 2048
    assert [cut[2048 * index + 100] for index in range(4)] == [0, 1, 2, 3]
    assert cut[5 * 64 + 7] == 9


@needs_pillow
def test_a_folder_of_the_demos_images_is_the_demos_images(demo):
    assert list(image_chunks(demo / "examples"))[:6] == list(demo_chunks(demo, "images"))


def test_a_folder_of_the_demos_audio_is_the_demos_audio(demo):
    assert list(audio_chunks(demo / "examples"))[:6] == list(demo_chunks(demo, "audio"))


@needs_pillow
def test_images_are_counted_and_greyed(tmp_path):
    write_pgm(tmp_path / "b" / "two.pgm", np.full((63, 128), 7, dtype=np.uint8))
    write_pgm(tmp_path / "small.pgm", np.full((31, 640), 7, dtype=np.uint8))
    colours = np.tile(np.array([10, 20, 31], dtype=np.uint8), (32, 64, 1))
    (tmp_path / "a.ppm").write_bytes(b"P6\n64 32\n255\n" + colours.tobytes())
    (tmp_path / "notes.txt").write_text("no image")
    # (10 + 20 + 31) // 3 is 20; two patches of the wide image, none of the low one.
    assert list(image_chunks(tmp_path)) == [b"\x14" * 2048, b"\x07" * 2048, b"\x07" * 2048]


def test_audio_is_cut_to_eight_bits(tmp_path):
    samples = np.array([0, 255, 256, -1, -256, 32_767, -32_768], dtype="<i2")
    write_wave(tmp_path / "a.wav", samples.tobytes())
    assert samples_of(tmp_path / "a.wav").tolist() == [128, 128, 129, 127, 127, 255, 0]
    write_wave(tmp_path / "b.wav", bytes([128, 0, 255]), width=1)
    assert samples_of(tmp_path / "b.wav").tolist() == [128, 0, 255]
    write_wave(tmp_path / "c.wav", np.array([[512, 0], [-512, 0]], dtype="<i2").tobytes(), channels=2)
    assert samples_of(tmp_path / "c.wav").tolist() == [129, 127]
    write_wave(tmp_path / "d.wav", b"\xff\x00\x01" + b"\x00\x00\x80", width=3)
    assert samples_of(tmp_path / "d.wav").tolist() == [129, 0]


def test_recordings_are_counted_one_by_one(tmp_path):
    (tmp_path / "speaker").mkdir()
    write_wave(tmp_path / "speaker" / "a.wav", bytes(2 * 5000))
    write_wave(tmp_path / "b.wav", bytes(2 * 2047))
    assert list(audio_chunks(tmp_path)) == [b"\x80" * 2048] * 2


@needs_soundfile
def test_flac_is_read_like_wave(tmp_path):
    import soundfile

    samples = np.random.default_rng(1).integers(-32_768, 32_768, 4096).astype(np.int16)
    write_wave(tmp_path / "a.wav", samples.astype("<i2").tobytes())
    soundfile.write(tmp_path / "b.flac", samples, 16_000, subtype="PCM_16")
    assert samples_of(tmp_path / "a.wav").tobytes() == samples_of(tmp_path / "b.flac").tobytes()


def test_a_file_is_counted(tmp_path):
    data = random.Random(1).randbytes(3 * 2048 + 5)
    (tmp_path / "enwik").write_bytes(data)
    assert b"".join(file_chunks(tmp_path / "enwik")) == data[: 3 * 2048]
    assert len(list(file_chunks(tmp_path / "enwik", limit_bytes=2 * 2048 + 2047))) == 2


def test_readers_refuse(tmp_path):
    (tmp_path / "short").write_bytes(bytes(2047))
    write_wave(tmp_path / "fast.wav", bytes(8192), rate=44_100)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.wav").write_bytes(b"RIFF no more")
    for read, told in (
        (lambda: file_chunks(tmp_path / "short"), "no whole chunk of 2048"),
        (lambda: file_chunks(tmp_path / "none"), "could not read"),
        (lambda: file_chunks(tmp_path), "could not read"),
        (lambda: audio_chunks(tmp_path / "none"), "is no folder"),
        (lambda: image_chunks(tmp_path), "holds no images"),
        (lambda: list(audio_chunks(tmp_path)), "44100 samples a second|could not read the recording"),
        (lambda: list(audio_chunks(tmp_path / "bad")), "could not read the recording"),
    ):
        with pytest.raises(RequestError, match=told):
            read()


@needs_pillow
def test_an_image_that_is_damaged_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    with pytest.raises(RequestError, match=r"could not read the image .*a\.png"):
        list(image_chunks(tmp_path))


def command(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["data", "demo", *map(str, words)])
    out, error = capsys.readouterr()
    return code, out, error


def test_command_leaves_what_is_there_and_right(demo, capsys):
    code, out, _ = command(capsys, "--out", demo, "--bytes", NUM_BYTES, "--seed", 1, "--json")
    told = json.loads(out)
    assert (code, told["made"], told["seed"]) == (0, False, 1)
    code, out, error = command(capsys, "--out", demo, "--bytes", NUM_BYTES, "--seed", 1)
    assert code == 0
    assert "already there" in out
    for kind in KINDS:
        assert f"{kind}.bin" in out
    code, out, error = command(capsys, "--out", demo, "--bytes", NUM_BYTES, "--seed", 2)
    assert (code, out) == (2, "")
    assert f"holds {NUM_BYTES} bytes of seed 1" in error


def test_command_makes_equal_files(demo, tmp_path, capsys):
    code, out, _ = command(capsys, "--out", tmp_path / "again", "--bytes", NUM_BYTES, "--seed", 1, "--json")
    assert (code, json.loads(out)["made"]) == (0, True)
    assert (tmp_path / "again" / "manifest.json").read_bytes() == (demo / "manifest.json").read_bytes()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--bytes", "1000"], "give a multiple, 2048 for one"),
        (["--bytes", "-5"], "give a multiple"),
        (["--seed", "-1"], "seed -1 is not between"),
    ],
)
def test_command_refuses(tmp_path, capsys, words, told):
    code, out, error = command(capsys, "--out", tmp_path / "demo", *words)
    assert (code, out) == (2, "")
    assert told in error
    assert list(tmp_path.iterdir()) == []


def test_command_touches_no_other_folder(tmp_path, capsys):
    (tmp_path / "mine").write_text("mine")
    code, _, error = command(capsys, "--out", tmp_path)
    assert code == 2
    assert "is no demo folder" in error
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_more_text_than_there_is_leaves_nothing(tmp_path):
    sources = {**SOURCES, "text": lambda seed: iter([b"x" * 5000])}
    with pytest.raises(RequestError, match="holds 5000 bytes of text, not 12288; give --bytes 4096 or less"):
        make_demo(tmp_path / "demo", num_bytes=NUM_BYTES, seed=0, sources=sources)
    assert list(tmp_path.iterdir()) == []


def test_damage_is_noticed(tmp_path, demo):
    for path in demo.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    changed = bytearray((tmp_path / "audio.bin").read_bytes())
    changed[77] ^= 1
    (tmp_path / "audio.bin").write_bytes(changed)
    assert len(list(demo_chunks(tmp_path, "images"))) == 6
    with pytest.raises(RequestError, match=r"audio\.bin has the digest"):
        demo_chunks(tmp_path, "audio")
    with pytest.raises(RequestError, match="'video' is no kind of demo data"):
        demo_chunks(tmp_path, "video")
    with pytest.raises(RequestError, match="is no demo folder"):
        demo_chunks(tmp_path / "none", "audio")
