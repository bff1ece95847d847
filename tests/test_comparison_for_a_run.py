"""A comparison's folder given where one run is asked: the answer names the arms to give."""

from __future__ import annotations

import pytest

from eval import cli
from proxy_lm import cli as training_cli
from proxy_lm.errors import RequestError
from proxy_lm.train.run_files import check_run


def comparison_of(folder, *arms):
    (folder / "corpus").mkdir(parents=True)
    for name in ("plan.json", "results.json"):
        (folder / name).write_text("{}")
    for arm in arms:
        (folder / "arms" / arm / "checkpoints").mkdir(parents=True)
    return folder


@pytest.mark.parametrize("command", ["bpb", "lines", "translate", "align", "robustness", "code run", "report"])
def test_every_command_that_asks_a_run_names_the_arms(tmp_path, capsys, command):
    given = comparison_of(tmp_path / "ladder", "bytes-s0", "bytes-s1", "proxy-s0", "proxy-s1", "tokens-s0")
    assert cli.main([*command.split(), str(given)]) == 2
    arms = given / "arms"
    expected = (
        f"{given} is a comparison, no run; give one of its arms: {arms / 'bytes-s0'}, {arms / 'bytes-s1'}, {arms / 'proxy-s0'} and 2 more"
    )
    assert capsys.readouterr().err.splitlines() == [f"proxy-lm-eval: {expected}"]


def test_the_commands_of_training_say_so_too(tmp_path, capsys):
    given = comparison_of(tmp_path / "tiny", "bytes")
    for words in (["generate", str(given), "--prompt", "x"], ["export", "hf", str(given), str(tmp_path / "out")]):
        assert training_cli.main(words) == 2
        assert f"{given} is a comparison, no run; give its arm: {given / 'arms' / 'bytes'}" in capsys.readouterr().err


def test_arms_without_a_checkpoint_are_not_offered(tmp_path):
    given = comparison_of(tmp_path / "begun")
    with pytest.raises(RequestError, match=r"is a comparison, no run; none of its arms has a checkpoint in .*/arms; train them with"):
        check_run(given)
    (given / "arms" / "failed").mkdir(parents=True)  # it never saved
    (given / "arms" / "fine" / "checkpoints").mkdir(parents=True)
    with pytest.raises(RequestError, match=r"give its arm: .*/arms/fine$"):
        check_run(given)


def test_a_run_beside_a_plan_is_a_run(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    check_run(comparison_of(tmp_path / "odd", "bytes") / "arms" / "bytes")
    (tmp_path / "plan.json").write_text("{}")
    (tmp_path / "results.json").write_text("{}")
    check_run(tmp_path)
