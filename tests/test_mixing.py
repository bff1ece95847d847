"""Curves say what they do: numbers or points, straight lines between, and one sentence for what cannot be meant."""

from __future__ import annotations

import re

import numpy as np
import pytest

from proxy_lm.config import Settings, dump_yaml, validate
from proxy_lm.data.mixing import Curve, MixSettings
from proxy_lm.errors import RequestError


def mix(**values) -> MixSettings:
    return validate(MixSettings, values, "test")


def test_a_number_is_constant_and_points_are_joined_by_lines():
    assert mix(rate=0.9).rate(np.array([0.0, 0.5, 1.0])).tolist() == [0.9, 0.9, 0.9]
    curve = mix(rate=[[0.0, 0.4], [0.2, 0.9]]).rate
    assert np.allclose(curve(np.array([0.0, 0.1, 0.2, 1.0])), [0.4, 0.65, 0.9, 0.9])
    assert np.allclose(mix(pair=[[0.5, 1], [0.6, 0]]).pair(np.array([0.0, 0.5, 0.55, 1.0])), [1.0, 1.0, 0.5, 0.0])


def test_the_saved_form_is_the_written_form():
    settings = mix(rate=[[0, 0.4], [0.2, 0.9]], pair=0.1, weights={"a": 2.0})
    assert settings.model_dump(mode="json")["rate"] == [[0.0, 0.4], [0.2, 0.9]]
    assert settings.model_dump(mode="json")["pair"] == 0.1
    assert validate(MixSettings, settings.model_dump(mode="json"), "test") == settings
    assert "pair: 0.1" in dump_yaml(settings)
    assert MixSettings().rate == Curve.constant(0.0)


def test_saved_runs_of_the_older_spelling_are_read():
    old = {"rate": 0.5, "pair": [[0.0, 0.5], [0.2, 0.0]], "parallel_share": 0.25, "raw_first": 0.5, "weights": {"a": 1.0}}
    assert mix(**old) == mix(**{**old, "pair": [[0, 0.375], [0.2, 0]], "parallel": [[0, 0.125], [0.2, 0]]} | {"parallel_share": 0.0})
    assert mix(rate=0.5, parallel_share=0.0) == mix(rate=0.5)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rate": 1.5}, "1.5 is outside 0..1"),
        ({"rate": -0.1}, "-0.1 is outside 0..1"),
        ({"rate": float("nan")}, "nan: Input should be a finite number"),
        ({"rate": "high"}, "a number from 0 to 1, or a list"),
        ({"rate": None}, "a number from 0 to 1, or a list"),
        ({"rate": True}, "a number from 0 to 1, or a list"),
        ({"rate": []}, "without points"),
        ({"rate": [0.4, 0.9]}, "0.4 is not a [progress, value] pair"),
        ({"rate": [[0.0, 0.4, 1.0]]}, "is not a [progress, value] pair"),
        ({"rate": [[0.5, 0.4], [0.5, 0.9]]}, "progress 0.5 comes after 0.5"),
        ({"pair": [[0.0, 0.4], [1.5, 0.9]]}, "progress 1.5 is outside 0..1"),
        ({"pair": [[0.0, 0.4], [1.0, 9]]}, "share 9.0 is outside 0..1"),
        ({"parallel": 2}, "share 2.0 is outside 0..1; write 0.9 for 90 %"),
        ({"parallel_share": 0.5, "parallel": 0.1}, "did you mean 'parallel'?"),
        ({"raw_first": -1}, "share -1.0 is outside 0..1"),
        ({"weights": {"a": -1.0}}, "weight -1.0 is outside 0..1000"),
        ({"weights": {"a": 0.0}}, "all weights are 0"),
        ({"rates": 0.5}, "did you mean 'rate'?"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(values, said):
    with pytest.raises(RequestError, match=re.escape(said)) as caught:
        mix(**values)
    assert "\n" not in str(caught.value)


def test_a_wrong_curve_inside_a_run_names_its_place():
    class Run(Settings):
        mix: MixSettings = MixSettings()

    with pytest.raises(RequestError, match=r"setting 'mix.rate'.*1\.5 is outside"):
        validate(Run, {"mix": {"rate": 1.5}}, "run.yaml")


def test_weights_become_borders():
    assert mix().cumulative_weights(["a", "b"]).tolist() == [0.5, 1.0]
    assert mix(weights={"a": 3, "b": 1}).cumulative_weights(["a", "b"]).tolist() == [0.75, 1.0]
    assert mix(weights={"b": 1}).cumulative_weights(["a", "b", "c"]).tolist() == [0.0, 1.0, 1.0]  # a and c get no draw
    assert mix().cumulative_weights([]).tolist() == []


def test_views_that_the_run_does_not_have_are_refused():
    with pytest.raises(RequestError, match=r"names the view 'gzip', which the run does not have; known: spm"):
        mix(weights={"gzip": 1}).cumulative_weights(["spm"])
    with pytest.raises(RequestError, match=r"mix.rate = 0.9 asks for views, but the run names none"):
        mix(rate=0.9).cumulative_weights([])
    with pytest.raises(RequestError, match=r"mix.pair = \[\[0.0, 0.5\], \[0.2, 0.0\]\] asks for views"):
        mix(pair=[[0, 0.5], [0.2, 0]]).cumulative_weights([])
