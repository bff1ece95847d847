"""Presets have the sizes their names say, overrides win, and shapes that do not fit are refused in one sentence."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from proxy_lm.config import validate
from proxy_lm.errors import RequestError
from proxy_lm.model.flops import num_parameters, training_flops_per_symbol
from proxy_lm.model.settings import PRESETS, ModelSettings

# Millions of body parameters: 0.5b to 14b as the paper's released configurations give them, the others by design.
BODY_MILLIONS = {
    "nano": 0.5, "micro": 3, "mini": 12, "40m": 40, "125m": 125, "350m": 350,
    "0.5b": 470, "1.5b": 1342, "4b": 3926, "7b": 6980, "14b": 14260,
    "0.7m": 0.65, "3m": 3.15, "41m": 41,
    "compressor-200k": 0.2, "compressor-800k": 0.8, "compressor-3.2m": 3.2,
}  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_preset_has_the_body_its_name_says(name: str) -> None:
    body = num_parameters(ModelSettings(preset=name), 320).body / 1e6
    tolerance = 0.005 if name.endswith("b") else 0.1
    assert body == pytest.approx(BODY_MILLIONS[name], rel=tolerance)


def test_compressors_have_the_parameters_of_the_source() -> None:
    source = {"compressor-200k": (64, 4, 231_936), "compressor-800k": (128, 4, 856_832), "compressor-3.2m": (256, 8, 3_286_272)}
    for name, (width, num_heads, num_all) in source.items():
        model = ModelSettings(preset=name).resolved()
        assert (model.width, model.depth, model.num_heads, model.num_kv_heads) == (width, 4, num_heads, num_heads)
        assert num_parameters(ModelSettings(preset=name), 320).total == pytest.approx(num_all, rel=0.02)


def test_every_preset_is_listed_with_its_size() -> None:
    assert list(PRESETS) == list(BODY_MILLIONS)


def test_the_readme_states_the_presets_as_they_are() -> None:
    text = (Path(__file__).parent.parent / "proxy_lm" / "model" / "README.md").read_text()
    for name, shape in PRESETS.items():
        settings = ModelSettings(preset=name)
        body, flops = num_parameters(settings, 320).body, training_flops_per_symbol(settings, 320, 512) / 1e6
        sizes = f"{shape.width} | {shape.depth} | {shape.num_heads} / {shape.num_kv_heads} | {shape.hidden}"
        assert f"| `{name}` | {sizes} | {body:,} | {flops:,.1f} M |" in text


def test_a_field_given_wins_over_the_preset() -> None:
    resolved = ModelSettings(preset="nano", depth=7, rope_theta=500.0).resolved()
    assert (resolved.width, resolved.depth, resolved.rope_theta) == (PRESETS["nano"].width, 7, 500.0)


def test_key_heads_follow_query_heads() -> None:
    assert ModelSettings(preset="micro", num_heads=8).resolved().num_kv_heads == 2
    assert ModelSettings(preset="micro", num_heads=1).resolved().num_kv_heads == 1


def test_without_a_preset_all_is_given() -> None:
    resolved = ModelSettings(preset=None, width=8, depth=1, num_heads=2, hidden=12).resolved()
    assert (resolved.num_kv_heads, resolved.head_width, resolved.lookahead) == (2, 4, 1)
    with pytest.raises(ValidationError, match="depth, hidden must be given"):
        ModelSettings(preset=None, width=8, num_heads=2)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"preset": "nanno"}, "did you mean 'nano'"),
        ({"preset": "zzz"}, "known: nano, micro"),
        ({"num_heads": 3}, "width 128 is not a multiple of num_heads 3; set num_heads=2"),
        ({"width": 12, "num_heads": 4}, "3 wide"),
        ({"num_kv_heads": 3}, "num_kv_heads 3 does not divide num_heads 2"),
        ({"depth": 0}, "depth"),
        ({"widht": 64}, "did you mean 'width'"),
    ],
)
def test_a_mistake_is_one_sentence(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        validate(ModelSettings, values, source="test")


def test_settings_and_flops_import_no_torch() -> None:
    code = "import sys, proxy_lm.model.settings, proxy_lm.model.flops; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
