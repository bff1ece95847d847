"""Progress goes to standard error in plain lines where there is no terminal, and standard output stays clean."""

import pytest

from proxy_lm.progress import CountProgress, ProgressBar, StepProgress, span


@pytest.fixture
def often(monkeypatch):
    """A line at every call rather than every ten seconds."""
    monkeypatch.setattr("proxy_lm.progress.PLAIN_INTERVAL_SECONDS", 0.0)


def test_bytes(often, capsys):
    with ProgressBar("encode", 4_000_000) as bar:
        bar.advance(1_000_000)
        bar.advance(3_000_000, "two blocks")
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0].startswith("encode: 25 % 1.0 MB at ")
    assert lines[1].startswith("encode: 100 % 4.0 MB at ")
    assert lines[1].endswith("two blocks")
    assert len(lines) == 2  # all is told, and not again


def test_unknown_total_has_no_share(often, capsys):
    with ProgressBar("read", None) as bar:
        bar.advance(500_000)
    assert "%" not in capsys.readouterr().err


def test_slow_work_is_told_in_kilobytes(monkeypatch, capsys):
    clock = iter([0.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr("proxy_lm.progress.time.monotonic", lambda: next(clock))
    with ProgressBar("bits per byte", 400_000) as bar:
        bar.advance(400_000)
    assert capsys.readouterr().err == "bits per byte: 400.0 kB at 200.0 kB/s\n"


def test_a_few_bytes_are_told_in_bytes(monkeypatch, capsys):
    clock = iter([0.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr("proxy_lm.progress.time.monotonic", lambda: next(clock))
    with ProgressBar("generate", None) as bar:
        bar.advance(40)
    assert capsys.readouterr().err == "generate: 40 bytes at 20 bytes/s\n"


def test_things_and_steps_are_told_once(often, capsys):
    with CountProgress("judging", 2) as progress:
        progress.advance()
        progress.advance()
    assert [line[: len("judging: 1 of 2")] for line in capsys.readouterr().err.splitlines()] == ["judging: 1 of 2", "judging: 2 of 2"]


def test_the_last_step_is_told_once(capsys):
    with StepProgress("arm", 2) as steps:
        steps.show(2, None)
        steps.show(2, None)
    assert capsys.readouterr().err == "arm: starting, 2 steps\narm: step 2 of 2\n"


def test_no_line_of_success_after_an_error(capsys):
    with pytest.raises(ValueError, match="broke"), ProgressBar("read", 10):
        raise ValueError("broke")
    assert capsys.readouterr().err == ""


def test_steps_tell_the_loss_and_the_time_left(often, capsys):
    with StepProgress("arm bytes", 4) as steps:
        steps.show(2, 1.5)
        steps.show(3, None)
        steps.show(4, 1.25)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["arm bytes: starting, 4 steps", "arm bytes: step 2 of 4 loss 1.500"]
    assert lines[2].startswith("arm bytes: step 3 of 4, ")
    assert lines[2].endswith(" s left")
    assert lines[3] == "arm bytes: step 4 of 4 loss 1.250"


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with ProgressBar("encode", 10) as bar:
        bar.advance(4)
        assert bar._live is not None
        assert bar._live.tasks[0].completed == 4


def test_spans_of_time():
    assert [span(seconds) for seconds in (4, 300, 7800, 4 * 86400)] == ["4 s", "5 min", "2 h 10 min", "4 d 0 h"]
