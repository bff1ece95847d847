"""Configuration: later wins, mistakes become one sentence with the nearest name."""

import pytest

from proxy_lm import config
from proxy_lm.config import Settings
from proxy_lm.errors import RequestError


class Inner(Settings):
    learning_rate: float = 1e-3
    """Step size."""


class Outer(Settings):
    name: str = "x"
    """A name."""
    inner: Inner = Inner()
    """A group."""


def test_defaults_then_yaml_then_overrides(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("name: from-file\ninner: {learning_rate: 1e-2}\n")  # YAML 1.1 reads 1e-2 as text; the schema makes it a number
    settings = config.load(Outer, path, ["--inner.learning_rate=0.5"])
    assert (settings.name, settings.inner.learning_rate) == ("from-file", 0.5)
    assert config.load(Outer, path).inner.learning_rate == 0.01
    assert config.load(Outer, None) == Outer()


def test_an_empty_mapping_on_the_command_line_clears_and_in_a_file_does_not():
    below = {"views": {"a": 1}, "mix": {"weights": {"a": 2}, "rate": 0.5}}
    assert config.merge(below, config.parse_override("views={}"), empty_clears=True) == {**below, "views": {}}
    cleared = config.merge(below, config.parse_override("mix.weights={}"), empty_clears=True)
    assert cleared["mix"] == {"weights": {}, "rate": 0.5}
    assert config.merge(below, {"views": {}}) == below


def test_lists_are_replaced_and_mappings_merged():
    assert config.merge({"a": [1, 2], "b": {"c": 1, "d": 2}}, {"a": [3], "b": {"c": 4}}) == {"a": [3], "b": {"c": 4, "d": 2}}


def test_unknown_key_names_the_nearest():
    with pytest.raises(RequestError, match=r"unknown setting 'inner\.learning_rte'; did you mean 'learning_rate'\?"):
        config.load(Outer, None, ["inner.learning_rte=1"])


def test_bad_value_names_the_key_and_the_value():
    with pytest.raises(RequestError, match=r"inner\.learning_rate.*'fast'"):
        config.load(Outer, None, ["inner.learning_rate=fast"])


def test_a_bad_option_is_told_as_it_is_typed():
    with pytest.raises(RequestError) as told:
        config.validate(Outer, {"inner": {"learning_rate": "fast"}}, source=config.OPTIONS)
    assert str(told.value) == "--learning-rate fast: Input should be a valid number, unable to parse string as a number"


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "1e999"])
def test_a_number_is_finite(value):
    with pytest.raises(RequestError, match=r"inner\.learning_rate.*finite number"):
        config.load(Outer, None, [f"inner.learning_rate={value}"])


@pytest.mark.parametrize("word", ["novalue", "=3", "a..b=1", "a.=1"])
def test_a_word_that_is_no_setting(word):
    with pytest.raises(RequestError, match="not a setting"):
        config.load(Outer, None, [word])


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "!!python/object/apply:os.system ['true']", "\x00"])
def test_files_that_are_no_configuration(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(RequestError):
        config.load(Outer, path)


def test_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(RequestError, match="could not read the configuration"):
        config.load(Outer, tmp_path / "none.yaml")


def test_resolved_configuration_reads_back(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(config.dump_yaml(config.load(Outer, None, ["name=y", "inner.learning_rate=0.25"])))
    assert config.load(Outer, path) == Outer(name="y", inner=Inner(learning_rate=0.25))
