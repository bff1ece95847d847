"""The GPU check measures what it says, says what it skipped, and what it carries is what training imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from proxy_lm.model.flops import training_flops_per_symbol
from proxy_lm.train.gpu_check import main, needed_flops, rows_of_documents, settings_for
from proxy_lm.train.wheels import CARRIED, EXPECTED, WheelsError, install, requirements


def test_one_document_a_row_needs_the_triangle_and_not_the_square() -> None:
    settings = settings_for("nano", 8, 2, "cpu")
    model = settings.model.resolved()
    whole = torch.zeros(2, 9, dtype=torch.int32)
    square = 3 * 4 * model.depth * 8 * model.width * 8 * 2  # three forwards of scores and values, 8 columns, 2 rows
    charged = training_flops_per_symbol(settings.model, 320, 8) * 16
    assert needed_flops(settings, 320, whole) == charged - square + square * 36 / 64  # 1 + 2 + ... + 8 of 8 * 8
    halves = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 2]] * 2, dtype=torch.int32)
    assert needed_flops(settings, 320, halves) == charged - square + square * 20 / 64  # twice 1 + 2 + 3 + 4


def test_rows_hold_whole_segments_from_position_zero() -> None:
    rows = rows_of_documents(3, 20_000, 2, 400)
    assert {tuple(part.shape) for part in rows.values()} == {(3, 20_002)}
    for segments, positions in zip(rows["segments"].tolist(), rows["positions"].tolist(), strict=True):
        starts = [k for k in range(20_002) if k == 0 or segments[k] != segments[k - 1]]
        assert len(starts) > 1
        assert [positions[k] for k in starts] == [0] * len(starts)
        assert [segments[k] for k in starts] == list(range(len(starts)))
    assert ((rows["ids"] >= 320) == (rows["views"] == 1)).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="the CPU part, where there is no CUDA device")
def test_without_a_device_the_processor_part_runs_and_the_rest_is_named() -> None:
    words = [sys.executable, "-m", "proxy_lm.train.gpu_check", "--seconds", "0.1", "--symbols", "512", "--json"]
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [one["preset"] for one in report["results"]] == ["nano"]
    assert 0 < report["results"][0]["share_of_matmul"] < 1.5
    assert "no CUDA device" in report["skipped"][0]
    assert "1.5b" in report["skipped"][0]


@pytest.mark.gpu
def test_a_small_model_trains_on_the_device_in_bf16(tmp_path) -> None:
    words = ["--presets", "125m", "--row-lengths", "4096", "--seconds", "2", "--out", str(tmp_path / "found.json")]
    assert main(words) == 0
    one = json.loads((tmp_path / "found.json").read_text())["results"][0]
    assert one["share_of_matmul"] > 0.05
    assert one["last_loss"] < 6.5


@pytest.mark.parametrize(("words", "what"), [(["--presets", "2m"], "unknown preset"), (["--row-lengths", "1,x"], "whole numbers")])
def test_bad_words_are_one_sentence_and_exit_2(words, what, capsys) -> None:
    assert main(words) == 2
    assert what in capsys.readouterr().err


def test_everything_that_training_imports_is_carried_or_expected() -> None:
    code = (
        "import sys, importlib.metadata as m, proxy_lm.train.__main__, proxy_lm.train.run, pytest, hypothesis\n"
        "owners = m.packages_distributions()\n"
        "print(*{name for top in {n.split('.')[0] for n in sys.modules} if top in owners for name in owners[top]})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    # Brought by what is expected: dill, fsspec and tabulate by torch's own optional imports, colorama by tqdm's, protobuf and absl-py by
    # tensorboard.
    optional = {"dill", "fsspec", "tabulate", "colorama", "protobuf", "absl-py"}
    known = {name.lower() for name in (*CARRIED, *EXPECTED)} | {"proxy-lm"} | optional
    loaded = {name.lower().replace("_", "-") for name in done.stdout.split()}
    brought = {"llvmlite", "sympy", "mpmath", "jinja2", "networkx", "filelock", "markupsafe", "attrs"}
    assert loaded - known - brought == set()


def test_versions_are_those_of_the_project(root) -> None:
    lines = requirements(root / "pyproject.toml")
    assert lines["deepspeed"].startswith("deepspeed>=")
    assert lines["pytest"].startswith("pytest>=")


def test_a_folder_without_wheels_is_refused(tmp_path) -> None:
    with pytest.raises(WheelsError, match="holds no wheels"):
        install(tmp_path, tmp_path / "environment")
    assert not (tmp_path / "environment").exists()
