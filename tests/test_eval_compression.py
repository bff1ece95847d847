"""The table of compression rates: what a rate is, that code comes back, what is kept and what is done anew, what is refused."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from compressors.neural.models import save_model
from compressors.neural.static import StaticModel
from eval.cli import main
from eval.compression import CompressionSettings, compression, verdicts
from eval.compression_data import DataSet, evenly
from eval.compression_progress import TableProgress
from eval.compression_report import markdown, show_tables
from eval.compression_rows import AsModelRow, ClassicalRow, ModelRow, rates, seven_bits
from proxy_lm.codec import Predictor, open_predictor
from proxy_lm.codec.classical import classical_compressors
from proxy_lm.codec.compressor_model import CompressorModel
from proxy_lm.codec.lengths import open_lengths
from proxy_lm.data.corpus import build_small
from proxy_lm.errors import WorkError

TEXT = b"".join(b"def area_%d(width, height):\n    return width * height + %d\n\n" % (number, number * number) for number in range(40))
GZIP = next(one for one in classical_compressors()[0] if one.name == "gzip-9")


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest byte model: counts of single bytes of the text."""
    folder = tmp_path_factory.mktemp("rates") / "static"
    save_model(StaticModel.train([TEXT]), folder)
    return folder


def a_set(data: bytes, kind: str = "code") -> DataSet:
    return DataSet(name=kind, kind=kind, source="a test", data=data)


def told_by(words: list[object], capsys: pytest.CaptureFixture[str]) -> dict:
    assert main(["compression", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_rates_of_small_numbers():
    cell = {"num_bytes": 100, "counted_bytes": 40}
    asked = {"parameters": 5, "parameter_bytes": 20, "adjusted_for": None, "accounting": None}
    assert rates(cell, **asked) == {"raw": 40.0, "adjusted": 50.0, "adjusted_real": 60.0}
    assert rates(cell, **asked | {"adjusted_for": 1000}) == {"raw": 40.0, "adjusted": 41.0, "adjusted_real": 42.0}
    shifted = {"num_bytes": 100, "counted_bytes": 70, "lost_bits": 100}
    assert rates(shifted, **asked | {"accounting": "appended"})["raw"] == 82.5  # (560 + 100) / 800
    assert rates(shifted, **asked | {"accounting": "scaled"})["raw"] == pytest.approx(80.0)  # 560 / 800 * 8 / 7
    incompressible = {"num_bytes": 7, "counted_bytes": 49 / 8, "lost_bits": 7}  # seven bits of each byte are kept as they are
    assert {rates(incompressible, **asked | {"accounting": way})["raw"] for way in ("appended", "scaled")} == {100.0}


def test_seven_bits_as_the_source_maps_them():
    given = bytes([0, 1, 127, 128, 200, 255])
    assert seven_bits(given, "text") == (bytes([0, 1, 127, 0, 72, 127]), 3)
    assert seven_bits(given, "code") == seven_bits(given, "text")
    for kind in ("images", "audio", "random"):
        assert seven_bits(given, kind) == (bytes([0, 0, 63, 64, 100, 127]), 6)
    assert seven_bits(b"ascii", "text") == (b"ascii", 0)


def test_chunks_that_are_compared_stand_at_equal_distances():
    assert evenly(10, 4) == [0, 3, 6, 9]
    assert evenly(3, 4) == [0, 1, 2]
    assert evenly(5, 1) == [0]
    spread = a_set(b"aabbccddee").spread(6, 2)
    assert (spread.data, spread.name) == (b"aaccee", "code (6 bytes)")
    assert a_set(b"aabb").spread(9, 2).data == b"aabb"
    cut = a_set(b"aabbccddee").spread(5, 2)
    assert (cut.data, cut.name) == (b"aacce", "code (5 bytes)")
    assert cut.source == "3 chunks of 2 bytes of code, at equal distances, the last cut to 1"
    first = a_set(b"aabb").spread(1, 2)
    assert (first.data, first.source) == (b"a", "the first 1 bytes of code")


def test_the_table_of_a_command(static, tmp_path, capsys):
    (tmp_path / "text").write_bytes(TEXT)
    words = ["--model", f"counted={static}", "--data", f"text={tmp_path / 'text'}", "--chunk-bytes", 256, 512, "--limit-bytes", 1500]
    result = told_by([*words, "--out", tmp_path / "out", "--verify", "all"], capsys)
    assert result == json.loads((tmp_path / "out" / "compression.json").read_text()) | {"written": str(tmp_path / "out")}
    assert result["data"][0]["num_bytes"] == 1024  # whole chunks of the largest size
    by = {(row["chunk_bytes"], row["name"]): row["cells"]["text"] for row in result["rows"]}
    assert {size for size, _ in by} == {None, 256, 512}
    chunks = [TEXT[begin : begin + 256] for begin in range(0, 1024, 256)]
    coded = open_predictor(static).encode(chunks)
    ours = by[256, "counted"]
    assert ours["coded_bytes"] == sum(len(one.payload) for one in coded)
    assert ours["information_bits"] == pytest.approx(sum(one.information_bits for one in coded))
    assert ours["num_verified"] == ours["num_chunks"] == 4
    assert ours["adjusted"] == pytest.approx(ours["raw"] + 200 * result["models"][0]["num_parameters"] / 1024)
    header = len(GZIP.compress(b"\0"))
    counted = sum(len(GZIP.compress(chunk)) for chunk in chunks) - 3 * header
    assert by[256, "gzip-9"]["raw"] == pytest.approx(100 * counted / 1024)
    assert by[None, "gzip-9"]["raw"] == pytest.approx(100 * len(GZIP.compress(TEXT[:1024])) / 1024)
    assert by[256, "gzip-9"]["raw"] == by[256, "gzip-9"]["adjusted"] == by[256, "gzip-9"]["adjusted_real"]
    page = (tmp_path / "out" / "compression.md").read_text()
    assert "| chunk | compressor | text | adj. text | adj. real text |" in page
    assert f"| 512 | counted | {by[512, 'counted']['raw']:.1f} |" in page
    for one in result["unavailable"]:
        assert f"Not measured: {one['name']}: {one['reason']}" in page
    assert main(["compression", *map(str, words)]) == 0
    assert "counted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("num_finished", "with_out", "said"),
    [
        (1, False, "nothing is kept without --out; the same command begins anew"),
        (0, True, "nothing was finished yet, so nothing is kept; the same command begins anew"),
        (1, True, "the cells that are finished are kept in OUT/cells and the same command continues with the others"),
    ],
)
def test_an_interrupt_says_what_is_kept(num_finished, with_out, said, tmp_path, capsys, monkeypatch):
    (tmp_path / "text").write_bytes(TEXT)
    measure, finished = ClassicalRow.measure, []

    def interrupted(self, data, advance):
        if len(finished) == num_finished:
            raise KeyboardInterrupt
        finished.append(self.name)
        return measure(self, data, advance)

    monkeypatch.setattr(ClassicalRow, "measure", interrupted)
    words = ["compression", "--data", f"text={tmp_path / 'text'}", "--chunk-bytes", "512"]
    assert main([*words, *(["--out", str(tmp_path / "out")] if with_out else [])]) == 130
    assert capsys.readouterr().err == f"proxy-lm-eval: interrupted; {said.replace('OUT', str(tmp_path / 'out'))}\n"


def test_seven_bit_rows_stand_beside_whole_bytes(static):
    data = a_set(np.random.default_rng(1).bytes(512), "images")
    rows = [ModelRow("m", open_predictor(static), chunk_bytes=256, seven_bit=mapped, verify=None) for mapped in (False, True)]
    result = compression(rows, [data], [], CompressionSettings(chunk_bytes=(256,), seven_bit=True), out=None)
    whole, appended, scaled = (row["cells"]["images"] for row in result["rows"])
    mapped_bytes = sum(len(one.payload) for one in open_predictor(static).encode([bytes(np.frombuffer(data.data, np.uint8)[:256] >> 1)]))
    assert whole["lost_bits"] == 0
    assert appended["coded_bytes"] == scaled["coded_bytes"] > mapped_bytes
    assert appended["raw"] == pytest.approx(100 * appended["coded_bytes"] / 512 + 12.5)
    assert scaled["raw"] == pytest.approx(100 * scaled["coded_bytes"] / 512 * 8 / 7)
    assert "| 256 | m, 7 bit, appended |" in markdown(result)
    assert "| 256 | m, 7 bit, scaled |" in markdown(result)


def test_a_compressor_asked_for_the_next_byte(static):
    data, settings = a_set(TEXT[:96]), CompressionSettings(chunk_bytes=(32,), next_byte=("gzip",), next_byte_bytes=64)
    rows = [ClassicalRow(GZIP, chunk_bytes=32), AsModelRow(open_lengths("gzip"), chunk_bytes=32)]
    result = compression(rows, [data], [], settings, out=None)
    assert [one["name"] for one in result["data"]] == ["code", "code (64 bytes)"]
    asked = result["rows"][1]["cells"]
    assert list(asked) == ["code (64 bytes)"]
    chunks = [TEXT[:32], TEXT[64:96]]
    model = CompressorModel(open_lengths("gzip"))
    cell = asked["code (64 bytes)"]
    assert cell["information_bits"] / 64 == pytest.approx(sum(model.bits(chunk) for chunk in chunks) / 2)
    assert cell["own_bits"] / 64 == pytest.approx(sum(model.own_bits(chunk) for chunk in chunks) / 2)
    assert cell["raw"] == pytest.approx(100 * cell["information_bits"] / 512)
    assert "| 32 | gzip, next byte | - |" in markdown(result)


def test_a_compressor_named_twice_is_one_row() -> None:
    assert CompressionSettings(next_byte=("zstd", "gzip", "zstd")).next_byte == ("zstd", "gzip")


def test_chunks_that_cost_less_without_the_model_are_told(saved_run, tmp_path):
    corpus = build_small(tmp_path / "corpus", {"train": [b"x" * 100], "valid": [b"y" * 100], "test": [TEXT[:150]]})
    run, noise = saved_run(tmp_path / "run", corpus=corpus), a_set(np.random.default_rng(2).bytes(256), "random")
    row = ModelRow("m", open_predictor(run), chunk_bytes=256, seven_bit=False, verify=None)
    result = compression([row], [noise], [], CompressionSettings(chunk_bytes=(256,)), out=None)
    assert result["rows"][0]["cells"]["random"]["num_by_model"] == 0
    assert "m, chunks of 256: told by the model itself: random 0 of 1 chunks." in markdown(result)
    assert "random, chunks of 256: m (0 of 1 chunks told by the model itself) 10" in markdown(result)


def test_tables_are_no_wider_than_the_terminal(static):
    sets = [DataSet(f"set-number-{number}", "code", "a test", TEXT[:256]) for number in range(4)]
    rows = [ClassicalRow(GZIP, chunk_bytes=256), ModelRow("counted", open_predictor(static), chunk_bytes=256, seven_bit=False, verify=0)]
    result = compression(rows, sets, [], CompressionSettings(chunk_bytes=(256,)), out=None)

    def shown(width: int) -> list[str]:
        console = Console(width=width, file=io.StringIO())
        show_tables(result, console)
        lines = console.file.getvalue().splitlines()
        return lines[: next(place for place, line in enumerate(lines) if line.startswith("model "))]

    assert max(map(len, shown(50))) <= 50
    assert [line.split()[2:] for line in shown(50) if line.startswith("chunk")][:2] == [
        ["set-number-0", "set-number-1"],
        ["set-number-2", "set-number-3"],
    ]
    assert sum("gzip-9" in line for line in shown(50)) == 2  # what has no weights stands in the raw block alone
    assert [len(line.split()) for line in shown(300) if line.startswith("256")] == [2 + 12] * 2


def test_progress_says_how_far_and_how_long(monkeypatch, capsys):
    monkeypatch.setattr("eval.compression_progress.PLAIN_INTERVAL_SECONDS", 0.0)
    with TableProgress(2) as progress:
        progress.end(kept=True)
        progress.begin("gzip-9, whole, on code", 2000)
        progress.advance(500)
        progress.advance(1500)
        progress.end()
    first, second, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"compression: cell 2 of 2: gzip-9, whole, on code: 500 of 2,000 bytes, \d+ s left of it", first)
    assert second == "compression: cell 2 of 2: gzip-9, whole, on code: 2,000 of 2,000 bytes"
    assert re.fullmatch(r"compression: 2 cells in \d+ s, 1 of them kept from before", last)


class Counted(ClassicalRow):
    """Gzip that knows how often it was asked."""

    asked = 0

    def measure(self, data, advance):
        self.asked += 1
        return super().measure(data, advance)


def test_what_is_kept_is_not_measured_again(static, tmp_path):
    row, settings, out = Counted(GZIP, chunk_bytes=64), CompressionSettings(chunk_bytes=(64,)), tmp_path / "out"
    first = compression([row], [a_set(TEXT[:256])], [], settings, out=out)
    again = compression([row], [a_set(TEXT[:256])], [], settings, out=out)
    assert (row.asked, again["rows"]) == (1, first["rows"])
    compression([row], [a_set(TEXT[:256]), a_set(TEXT[64:320], "text")], [], settings, out=out)
    assert row.asked == 2  # the new data set alone
    for cell in (out / "cells").iterdir():
        cell.write_bytes(cell.read_bytes()[:-30])
    assert compression([row], [a_set(TEXT[:256])], [], settings, out=out)["rows"][0]["cells"]["code"]["raw"] == pytest.approx(
        first["rows"][0]["cells"]["code"]["raw"]
    )
    assert row.asked == 3
    compression([Counted(GZIP, chunk_bytes=32)], [a_set(TEXT[:256])], [], settings, out=out)
    assert len(list((out / "cells").iterdir())) == 3  # another chunk size is another cell


def test_another_model_and_more_to_compare_are_done_anew(static, tmp_path):
    save_model(StaticModel.train([TEXT[::-1] + b"zzzz"]), tmp_path / "other")
    settings, out, data = CompressionSettings(chunk_bytes=(64,)), tmp_path / "out", [a_set(TEXT[:256])]

    def verified(model: Path, verify: int | None) -> int:
        row = ModelRow("m", open_predictor(model), chunk_bytes=64, seven_bit=False, verify=verify)
        return compression([row], data, [], settings, out=out)["rows"][0]["cells"]["code"]["num_verified"]

    assert [verified(static, 2), verified(static, 1), verified(static, None), verified(static, 0)] == [2, 2, 4, 4]
    assert len(list((out / "cells").iterdir())) == 1
    assert verified(tmp_path / "other", 0) == 0
    assert len(list((out / "cells").iterdir())) == 2


class Forgets:
    """A predictor whose last chunk comes back with another last byte."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def __getattr__(self, name: str) -> object:
        return getattr(self.predictor, name)

    def decode(self, payloads, lengths):
        *before, last = self.predictor.decode(payloads, lengths)
        return [*before, last[:-1] + bytes([last[-1] ^ 1])]


def test_code_that_does_not_come_back_is_no_rate(static):
    row = ModelRow("m", Forgets(open_predictor(static)), chunk_bytes=64, seven_bit=False, verify=2)  # type: ignore[arg-type]
    with pytest.raises(WorkError, match="m did not give chunk 3 of code back"):
        row.measure(a_set(TEXT[:256]), lambda num_bytes: None)


def test_verdicts_compare_equal_chunks_by_raw_rate():
    def row(name: str, group: str, size: int | None, raw: float) -> dict:
        return {
            "name": name,
            "group": group,
            "chunk_bytes": size,
            "accounting": None,
            "cells": {"code": {"raw": raw, "num_chunks": 2, "num_by_model": 1}},
        }

    rows = [
        row("a", "classical", None, 1.0),
        row("a", "classical", 64, 50.0),
        row("b", "classical", 64, 40.0),
        row("m", "model", 64, 40.0),
    ]
    (found,) = verdicts(rows, ["code"])
    assert (found["beats"], found["does_not_beat"]) == (["a"], ["b"])
    assert (found["best"], found["best_raw"]) == ("b", 40.0)


def test_a_run_alone_is_measured_on_its_own_held_out_bytes(saved_run, tmp_path, capsys):
    corpus = build_small(tmp_path / "corpus", {"train": [b"x" * 100], "valid": [b"y" * 100], "test": [TEXT[:150], TEXT[150:300]]})
    run = saved_run(tmp_path / "run", corpus=corpus)
    (run / "config.yaml").write_text(f"name: run\ncorpus: {corpus.path}\nnum_steps: 1\n")
    result = told_by(["--model", run, "--chunk-bytes", 128, "--verify", "1"], capsys)
    (data,) = result["data"]
    assert (data["name"], data["num_bytes"], data["corpus_digest"]) == ("test", 256, corpus.digest)
    cell = next(row for row in result["rows"] if row["name"] == "run")["cells"]["test"]
    assert (cell["num_chunks"], cell["num_verified"]) == (2, 1)
    assert 0 <= 8 * cell["coded_bytes"] - cell["information_bits"] <= 2 * 32
    assert result["models"][0]["num_parameter_bytes"] == 4 * result["models"][0]["num_parameters"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no data"),
        (["--model", "nowhere"], "is not a folder"),
        (["--data", "code"], "NAME=PATH"),
        (["--data", "code=nowhere"], "is not there"),
        (["--data", "code=images:"], "no path after the colon"),
        (["--data", "code=FILE", "--data", "code=FILE"], "stands twice"),
        (["--data", "code=FILE", "--verify", "some"], "or all"),
        (["--data", "code=FILE", "--verify", "-1"], "0 or more"),
        (["--data", "code=FILE", "--chunk-bytes", "0"], "1 to 65536"),
        (["--data", "code=FILE", "--chunk-bytes", "65536"], "no whole chunk"),
        (["--data", "code=FILE", "--limit-bytes", "0"], "limit-bytes 0"),
        (["--data", "code=FILE", "--limit-bytes", "5"], "--limit-bytes 5 is less than a chunk of 2048"),
        (["--data", "code=FILE", "--next-byte", "brotli"], "next byte"),
        (["--data", "code=FILE", "--out", "FILE"], "is a file"),
        (["--data", "code=FILE", "--model", "STATIC", "--model", "STATIC"], "stands twice"),
        (["--data", "code=FILE", "--model", "static=STATIC", "--model", "gzip-9=STATIC"], "stands twice"),
    ],
)
def test_what_is_refused(words, said, static, tmp_path, capsys):
    (tmp_path / "file").write_bytes(TEXT)
    paths = {"FILE": tmp_path / "file", "STATIC": static}
    filled = [word if (found := word.rpartition("=")[2]) not in paths else word.replace(found, str(paths[found])) for word in words]
    assert main(["compression", *filled]) == 2
    assert said in capsys.readouterr().err
