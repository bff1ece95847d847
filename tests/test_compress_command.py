"""`proxy-lm compress` and `decompress` as a user gives them: files, pipes, kills, refusals, exit codes, what is printed."""

import io
import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compressors.neural.counts import CountModel
from compressors.neural.models import save_model
from proxy_lm.cli import main
from proxy_lm.codec import open_predictor
from proxy_lm.codec.byte_model import ByteModelPredictor
from proxy_lm.codec.compress import compress
from proxy_lm.codec.container import read_head
from proxy_lm.codec.decompress import check_model, decompress

SOURCE = Path(__file__).read_bytes()


def saved_counts(folder, text, **options):
    save_model(CountModel.train([text] * 4, max_nodes=2048, num_starts=1 << 14, **options), folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A count model of this file."""
    return saved_counts(tmp_path_factory.mktemp("model") / "model", SOURCE)


@pytest.fixture
def words(tmp_path, model, capsys):
    """`words("compress", "in", "out", ...)` runs the command in an empty folder that has `in`; its exit code, output and errors."""
    (tmp_path / "in").write_bytes(SOURCE)

    def run(command, file, out, *more, with_model=model):
        path = tmp_path / file if file != "-" else file
        given = [command, str(path), "--model", str(with_model), "--out", str(tmp_path / out) if out != "-" else out]
        code = main([*given, *map(str, more)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    run.folder = tmp_path
    return run


def left(words):
    return sorted(path.name for path in words.folder.iterdir())


def test_there_and_back_and_the_numbers(words, model):
    code, out, _ = words("compress", "in", "coded", "--json")
    found = json.loads(out)
    size = (words.folder / "coded").stat().st_size
    assert (code, found["bytes"], found["coded_bytes"]) == (0, len(SOURCE), size)
    assert found["rate_percent"] == 100 * size / len(SOURCE) < 60
    assert found["bits_per_byte"] == 8 * size / len(SOURCE)
    assert found["num_parameter_bytes"] == (model / "counts.bin").stat().st_size
    assert found["adjusted_rate_percent"] == 100 * (size + found["num_parameter_bytes"]) / len(SOURCE)
    assert (found["num_chunks"], found["num_stored"], found["portable"]) == (-(-len(SOURCE) // 2048), 0, True)
    assert found["seconds"] > 0
    # Within 0.1 % and 4 bytes a chunk of the information content; the container adds 14 bytes a chunk at most, and its head and foot.
    assert found["payload_bytes"] <= 1.001 * found["information_bits"] / 8 + 4 * found["num_chunks"]
    assert size <= found["payload_bytes"] + 14 * found["num_chunks"] + 500
    code, out, _ = words("decompress", "coded", "back", "--json")
    assert (code, json.loads(out)["bytes"], json.loads(out)["coded_bytes"]) == (0, len(SOURCE), size)
    assert (words.folder / "back").read_bytes() == SOURCE
    assert left(words) == ["back", "coded", "in"]


def test_a_table_for_people(words, monkeypatch):
    monkeypatch.setattr("proxy_lm.progress.PLAIN_INTERVAL_SECONDS", 0)
    code, out, err = words("compress", "in", "coded", "--chunk-bytes", 700)
    assert code == 0
    assert all(heading in out for heading in ("bytes", "coded", "rate %", "bits a byte", "with the model", "stored", "seconds"))
    assert f"{len(SOURCE):,}" in out
    assert err.startswith("compress: ")
    assert re.search(r" \(coded to [0-9.]+ % of their size so far\)$", err, re.MULTILINE)
    code, out, _ = words("decompress", "coded", "back")
    assert f"{len(SOURCE):,} bytes of {-(-len(SOURCE) // 700)} chunks" in out


def test_an_empty_file_has_no_rate(words):
    (words.folder / "none").write_bytes(b"")
    code, out, _ = words("compress", "none", "coded", "--json")
    assert (code, json.loads(out)["rate_percent"], json.loads(out)["bits_per_byte"]) == (0, None, None)
    assert words("compress", "none", "coded", "--force")[0] == 0
    assert words("decompress", "coded", "back")[0] == 0
    assert (words.folder / "back").read_bytes() == b""


def test_refusals(words, model, tmp_path):
    """Exit code 2, one sentence, nothing written."""
    coded, bad = words.folder / "coded", words.folder / "bad"
    assert words("compress", "in", "coded")[0] == 0
    other = saved_counts(tmp_path / "other", SOURCE[::-1])
    (words.folder / "link").symlink_to(words.folder / "in")
    before = left(words)

    def refused(message, *given, **options):
        code, out, err = words(*given, **options)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert message in err
        assert left(words) == before

    refused("coded exists; give --force", "compress", "in", "coded")
    refused("in exists; give --force", "decompress", "coded", "in")
    refused("is the input itself", "compress", "in", "link", "--force")
    refused("a chunk has 1 to 65536 bytes", "compress", "in", "x", "--chunk-bytes", 0)
    refused("could not read", "compress", "nowhere", "x")
    refused("is a folder", "compress", ".", "x")
    refused("is a folder", "compress", "in", ".")
    refused("both be on standard output", "compress", "in", "-", "--json")
    refused("is no file of `proxy-lm compress`", "decompress", "in", "x")
    refused("is negative", "decompress", "coded", "x", "--cap", -1)
    refused(f"holds {len(SOURCE):,} bytes or more and 99 are allowed; give --cap", "decompress", "coded", "x", "--cap", 99)
    refused("coded with another model (fingerprint: the file's", "decompress", "coded", "x", with_model=other)
    refused("not a folder", "decompress", "coded", "x", with_model=tmp_path / "nowhere")
    refused("view", "compress", "in", "x", "--view", "gzip")
    for size in (0, 7, 100, coded.stat().st_size - 1):
        before = sorted({*before, "bad"})
        bad.write_bytes(coded.read_bytes()[:size])
        refused("", "decompress", "bad", "x")
    bad.write_bytes(coded.read_bytes() + b"\n")
    refused("does not end as it was written", "decompress", "bad", "x")


def test_salvage_writes_what_is_whole_and_says_what_is_not(words):
    assert words("compress", "in", "coded", "--chunk-bytes", 512)[0] == 0
    good = (words.folder / "coded").read_bytes()
    assert words("decompress", "coded", "same", "--salvage")[0] == 0
    assert (words.folder / "same").read_bytes() == SOURCE
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 4
    (words.folder / "bad").write_bytes(bad)
    code, out, err = words("decompress", "bad", "x")
    assert (code, out) == (2, "")
    assert "does not fit its checksum" in err
    assert "`--salvage` writes what is whole" in err
    assert not (words.folder / "x").exists()
    code, out, err = words("decompress", "bad", "x", "--salvage", "--json")
    (lost,) = json.loads(out)["lost"]
    start, end = lost[:2]
    assert (code, end - start, start % 512) == (1, 512, 0)
    assert "lost: 512 bytes; what is whole is in" in err
    assert (words.folder / "x").read_bytes() == SOURCE[:start] + bytes(512) + SOURCE[end:]
    (words.folder / "cut").write_bytes(good[: len(good) // 2])
    code, out, err = words("decompress", "cut", "y", "--salvage")
    most = (words.folder / "y").read_bytes()
    assert (code, most) == (1, SOURCE[: len(most)])
    assert len(most) > len(SOURCE) // 3
    assert f"lost: bytes {len(most)} to the end" in out
    assert f"lost: what there was from byte {len(most):,} on; what is whole is in" in err
    code, out, err = words("decompress", "bad", "z", "--salvage")
    assert (out + err).count(f"{start} to {end - 1}") == 1


def test_pipes(words, model):
    """Standard input and output, whose bytes are those of files; a cut pipe ends with exit code 2 behind a right begin."""
    assert words("compress", "in", "coded")[0] == 0
    program = [sys.executable, "-m", "proxy_lm"]
    done = subprocess.run([*program, "compress", "-", "--model", model, "--out", "-"], input=SOURCE, capture_output=True, check=True)
    assert done.stdout == (words.folder / "coded").read_bytes()
    assert b"rate %" in done.stderr
    back = [*program, "decompress", "-", "--model", model, "--out", "-"]
    cut = subprocess.run(back, input=done.stdout[:-1], capture_output=True, check=False)
    assert (cut.returncode, cut.stdout) == (2, SOURCE)
    assert b"does not fit what stands before it; it is damaged or cut off" in cut.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_in_the_middle_the_same_command_goes_on(words, model, number):
    """A child that is ended from outside, then the same command; the bytes are those of a run that nobody disturbed."""
    data = SOURCE * 15
    (words.folder / "in").write_bytes(data)
    program = (
        "import sys; from proxy_lm.codec import compress as room; room.COMMIT_SECONDS = 0\n"
        "import proxy_lm.cli; sys.exit(proxy_lm.cli.main(sys.argv[1:]))"
    )
    given = ["compress", str(words.folder / "in"), "--model", str(model), "--out", str(words.folder / "coded"), "--chunk-bytes", "256"]
    child = subprocess.Popen([sys.executable, "-c", program, *given], stderr=subprocess.PIPE, text=True)
    journal = words.folder / "coded.partial.json"
    deadline = time.monotonic() + 120
    while not journal.exists():
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert not (words.folder / "coded").exists()
    assert child.returncode == (-9 if number == signal.SIGKILL else 143)
    assert number == signal.SIGKILL or f"what is finished is kept in {words.folder / 'coded'}.partial and the same command continues" in err
    code, out, _ = words("compress", "in", "coded", "--chunk-bytes", 256, "--json")
    assert (code, json.loads(out)["resumed_bytes"] > 0) == (0, True)
    whole = io.BytesIO()
    compress(io.BytesIO(data), whole, open_predictor(model), chunk_bytes=256)
    assert (words.folder / "coded").read_bytes() == whole.getvalue()
    assert left(words) == ["coded", "in"]


def test_an_interrupt_before_anything_is_finished_says_so_and_leaves_nothing(words, monkeypatch):
    """The first group of chunks ends with what a Ctrl-C raises."""

    def interrupted(self, chunks):
        raise KeyboardInterrupt

    monkeypatch.setattr(ByteModelPredictor, "encode", interrupted)
    said = "proxy-lm: interrupted; nothing was finished yet, so nothing is kept; the same command begins anew\n"
    assert words("compress", "in", "coded") == (130, "", said)
    assert left(words) == ["in"]


def test_a_full_disk_is_told_and_leaves_nothing_wrong(words, model):
    """The file system refuses bytes past a limit; afterwards the same command ends the work."""
    import resource

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        code, _, err = words("compress", "in", "coded")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert code == 1
    assert "could not write" in err
    assert not (words.folder / "coded").exists()
    assert words("compress", "in", "coded")[0] == 0
    assert words("decompress", "coded", "back")[0] == 0
    assert (words.folder / "back").read_bytes() == SOURCE


def round_trip(data, predictor, chunk_bytes=2048):
    """(coded bytes, payload bytes, information content in bytes, chunks)."""
    coded, back = io.BytesIO(), io.BytesIO()
    found = compress(io.BytesIO(data), coded, predictor, chunk_bytes=chunk_bytes)
    coded.seek(0)
    header = read_head(coded)
    check_model(header, predictor)
    decompress(coded, back.write, header, predictor)
    assert back.getvalue() == data
    return found["coded_bytes"], found["payload_bytes"], found["information_bits"] / 8, found["num_chunks"]


def many_files(number):
    """Files of every kind that the battery names, of 0 to some ten thousand bytes."""
    draw = random.Random(5)
    sources = sorted(Path(json.__file__).parent.parent.rglob("*.py"))
    for at in range(number):
        text = sources[at % len(sources)].read_bytes()
        length = draw.choice((0, 1, 2, 2047, 2048, 2049, 4096, draw.randrange(20_000)))
        yield draw.choice(
            (
                text[:length],
                text[:length],
                draw.randbytes(length),
                bytes([draw.randrange(256)]) * length,
                text[:length].replace(b"\n", b"\r\n"),
                text[: length // 2] + b"\0\xff\xc3(" + text[length // 2 : length],
                text[:length].decode("utf-8", "replace").encode("utf-16"),
                bytes(range(256)) * (length // 256 + 1),
            )
        )


def test_many_files_of_every_kind(model):
    predictor = open_predictor(model)
    for data in many_files(25):
        round_trip(data, predictor)


@pytest.mark.campaign
def test_campaign_of_files(model):
    """1,000 files of every kind."""
    predictor = open_predictor(model)
    started, totals = time.process_time(), [0, 0, 0.0, 0]
    for data in many_files(1000):
        totals = [a + b for a, b in zip(totals, round_trip(data, predictor), strict=True)]
    print(f"\n1,000 files: {totals[0]:,} coded bytes, {totals[3]:,} chunks, {time.process_time() - started:.0f} s of processor")


@pytest.mark.campaign
def test_campaign_of_a_large_file(model):
    """20 MB, a million bytes of them random; memory does not grow with the file."""
    import resource

    predictor = open_predictor(model)
    big = bytearray(random.Random(3).randbytes(1_000_001))
    for path in sorted(Path(json.__file__).parent.parent.rglob("*.py")):
        big += path.read_bytes()[: 20_000_100 - len(big)]
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    coded, payload, information, chunks = round_trip(bytes(big), predictor)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    seconds = time.process_time() - started
    print(f"\n{len(big):,} bytes: {coded:,} coded, {chunks:,} chunks, {seconds:.0f} s of processor, {grown // 1024} MB more at the peak")
    assert len(big) > 20_000_000
    assert payload <= 1.001 * information + 4 * chunks
    assert grown < 200 << 10, "kB"
