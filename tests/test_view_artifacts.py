"""Artifacts say what made them and refuse what does not fit; views are found by name, plug-ins of strangers included."""

from __future__ import annotations

import json
import os
import sys
import textwrap

import pytest

import compressors
from compressors.errors import ProxyError, RequestError
from compressors.registry import ENTRY_POINT_GROUP, read_artifact
from compressors.stability import distance_under_deletion

CODE = [b"def f%d(x):\n    return x + %d\n\n\nclass Counter%d(dict):\n    pass\n" % (k, k, k) for k in range(60)]


@pytest.fixture
def artifact(tmp_path):
    folder = tmp_path / "spm"
    compressors.save(compressors.train("spm", CODE, alphabet_size=320), folder, {"bytes_per_symbol": 2.0})
    return folder


def edit(folder, change):
    path = folder / "artifact.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_an_artifact_comes_back(artifact):
    view = compressors.load(artifact)
    assert view.decode(view.encode(CODE[3])) == CODE[3]
    record = read_artifact(artifact)
    assert record["measured"] == {"bytes_per_symbol": 2.0}
    assert record["fingerprint"] == compressors.fingerprint(view)
    assert sorted(path.name for path in artifact.iterdir()) == ["artifact.json", "sentencepiece.model"]


def test_saving_twice_writes_the_same_bytes(artifact, tmp_path):
    compressors.save(compressors.load(artifact), tmp_path / "again", {"bytes_per_symbol": 2.0})
    for path in artifact.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


@pytest.mark.parametrize("name", ["artifact.json", "sentencepiece.model"])
def test_no_file_may_be_missing_or_cut(artifact, name):
    whole = (artifact / name).read_bytes()
    for damage in (None, b"", whole[:1], whole[: len(whole) // 2], whole[:-2], whole + b"x"):
        (artifact / name).unlink()
        if damage is not None:
            (artifact / name).write_bytes(damage)
        with pytest.raises(RequestError, match=name):
            compressors.load(artifact)
        (artifact / name).write_bytes(whole)
    compressors.load(artifact)


def test_every_changed_bit_of_a_model_is_noticed(artifact):
    path = artifact / "sentencepiece.model"
    whole = path.read_bytes()
    for position in range(0, len(whole), max(1, len(whole) // 50)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(RequestError, match="sha256"):
            compressors.load(artifact)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.update(schema=2), "schema 2"),
        (lambda a: a.pop("schema"), "schema None"),
        (lambda a: a.pop("spec"), "no valid 'spec'"),
        (lambda a: a.update(files=[]), "no valid 'files'"),
        (lambda a: a["spec"].update(alphabet_size=1000), "its spec has"),
        (lambda a: a.update(fingerprint="0" * 64), "0000"),
        (lambda a: a.update(kind="gzip"), "kind 'gzip'"),
        (lambda a: a.update(alphabet_size=9), "train it anew"),
        (lambda a: a["files"].update({"../up.model": {"size_bytes": 0, "sha256": ""}}), "refused"),
        (lambda a: a["files"].update({"/etc/hostname": {"size_bytes": 0, "sha256": ""}}), "refused"),
        (lambda a: a["files"].update({"artifact.json": {"size_bytes": 0, "sha256": ""}}), "refused"),
        (lambda a: a["files"].update({"sentencepiece.model": 7}), "size and digest"),
        (lambda a: a["files"].clear(), "train it anew"),
        (lambda a: a.update(measured=[[[1]]]), None),
    ],
)
def test_a_changed_artifact_is_refused_with_a_reason(artifact, change, words):
    edit(artifact, change)
    if words is None:
        compressors.load(artifact)
        return
    with pytest.raises(RequestError, match=words.replace("(", r"\(")):
        compressors.load(artifact)


def test_an_artifact_of_another_probe_is_refused(artifact):
    from compressors.files import digest_of

    def change(value):
        value["spec"]["probe_sha256"] = "0" * 64
        value["fingerprint"] = digest_of(value["spec"])

    edit(artifact, change)
    with pytest.raises(RequestError, match="cuts the probe text differently"):
        compressors.load(artifact)


def test_a_wrong_artifact_is_a_request_error_whatever_it_holds(tmp_path):
    for text in ("", "[]", "null", "{", '{"schema": 1}', "[" * 100_000, '{"schema": 1, "kind": 1, "spec": {}}'):
        (tmp_path / "artifact.json").write_text(text)
        with pytest.raises(RequestError):
            compressors.load(tmp_path)
    with pytest.raises(RequestError, match="does not exist"):
        compressors.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("gzp", {}, "did you mean 'gzip'"),
        ("quite_unknown", {}, "known: as-bytes, bit, .*dibit, doublebyte, gzip, .*spm, .*table, .*zstd"),
        ("gzip", {"levl": 3}, "did you mean 'level'"),
        ("gzip", {"level": 10}, "must be 1 to 9"),
        ("gzip", {"level": True}, "must be a whole number"),
        ("gzip", {"framed": 1}, "must be true or false"),
        ("identity", {"x": 1}, "it has: none"),
        ("zstd", {"level": 22}, "1 to 19"),
        ("zstd", {"dictionary_bytes": 1000}, "give more documents"),
        ("spm", {"alphabet_size": 5}, "must be 258"),
        ("spm", {"alphabet_size": 258}, "their characters need alphabet_size 2"),
        ("spm", {"alphabet_size": 5000}, "up to 2"),
        ("hf", {}, "tokenizer=PATH"),
        ("hf", {"tokenizer": "no/such/file"}, "could not read"),
        ("as-bytes", {}, "inner=NAME"),
        ("as-bytes", {"inner": "spn"}, "did you mean 'spm'"),
    ],
)
def test_wrong_requests_teach(kind, options, words):
    with pytest.raises(RequestError, match=words):
        compressors.train(kind, [b"abc \xff"], **options)


def test_damaged_tokenizer_files_are_refused(tmp_path):
    for text in (b"", b"{}", b"[1]", b"\xff", b'{"model": {"type": "BPE", "vocab": {}, "merges": []}}', b'{"version": "1.0"}'):
        (tmp_path / "tokenizer.json").write_bytes(text)
        with pytest.raises(RequestError, match=r"tokenizer\.json"):
            compressors.train("hf", [], tokenizer=str(tmp_path / "tokenizer.json"))


@pytest.mark.parametrize(("module", "extra"), [("tokenizers", "hf"), ("rapidfuzz", "inspect")])
def test_a_missing_extra_is_named_with_its_command(monkeypatch, tmp_path, module, extra):
    def use():
        if extra == "hf":
            compressors.train("hf", [], tokenizer=str(tmp_path / "tokenizer.json"))
        else:
            distance_under_deletion(compressors.train("bit", []), b"abc")

    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(RequestError, match=rf"pip install 'proxy-lm\[{extra}\]'"):
        use()


# ---- plug-ins -------------------------------------------------------------------------------------------------------------------------

PLUG_IN = textwrap.dedent(
    """
    import numpy as np
    from compressors.base import DEFAULT_MAX_DECODED_BYTES, Compressor
    from compressors.errors import DecodeError
    from compressors.options import Option

    class Rotate(Compressor):
        "Bytes moved by a fixed amount."
        name = "rotate"
        exact = True
        options = {"by": Option(default=13, low=0, high=255, help="how far")}

        def __init__(self, *, by=13):
            self.by = by

        @property
        def alphabet_size(self):
            return 256

        def encode(self, data):
            return (np.frombuffer(data, dtype=np.uint8).astype(np.uint32) + self.by) % 256

        def decode(self, symbols, max_bytes=DEFAULT_MAX_DECODED_BYTES):
            if len(symbols) > max_bytes or (len(symbols) and symbols.max() > 255):
                raise DecodeError("view 'rotate': not its symbols")
            return ((symbols + 256 - self.by) % 256).astype(np.uint8).tobytes()

        def spec(self):
            return {"name": "rotate", "version": 1, "by": self.by}

        @classmethod
        def from_artifact(cls, spec, files):
            return cls(by=spec["by"])
    """
)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution the way pip leaves it: a module and a dist-info folder on the path."""

    def make(module, source, points):
        site = tmp_path / f"site-{module}"
        info = site / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\n" + "\n".join(points) + "\n")
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, module, raising=False)
        return site

    yield make
    for module in [name for name in sys.modules if name.startswith("plug_")]:
        del sys.modules[module]


def test_a_plug_in_is_a_view_like_any_other(install, tmp_path, monkeypatch, capsys):
    site = install("plug_rotate", PLUG_IN, ["rotate = plug_rotate:Rotate"])
    assert "rotate" in compressors.names()
    view = compressors.train("rotate", [], by=3)
    assert view.encode(b"\x00\xff").tolist() == [3, 2]
    compressors.save(view, tmp_path / "v")
    again = compressors.load(tmp_path / "v")
    assert again.decode(again.encode(b"abc")) == b"abc"
    wrapped = compressors.train("as-bytes", [], inner="rotate", by=200, gray=True)
    assert wrapped.decode(wrapped.encode(bytes(range(256)))) == bytes(range(256))
    monkeypatch.setenv("PYTHONPATH", str(site) + os.pathsep + os.environ.get("PYTHONPATH", ""))
    from proxy_lm import cli

    assert cli.main(["compressor", "list", "--json"]) == 0
    listed = {view["name"]: view for view in json.loads(capsys.readouterr().out)["views"]}
    assert listed["rotate"]["about"] == "Bytes moved by a fixed amount."
    assert listed["rotate"]["options"] == {"by": {"default": 13, "required": False, "help": "how far"}}


def test_the_plug_in_of_the_readme_works(install, root):
    code = (root / "compressors" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    install("plug_words", code, ["words = plug_words:Words"])
    view = compressors.train("words", [])
    assert view.encode(b"def f").tolist() == [256, ord("f")]
    for data in (b"", bytes(range(256)), b"    return self.x"):
        assert view.decode(view.encode(data), max_bytes=len(data)) == data


def test_a_plug_in_that_fails_to_import_is_named(install, capsys):
    install("plug_broken", "raise OSError('its library is not here')", ["broken = plug_broken:View"])
    assert "broken" in compressors.names()
    with pytest.raises(RequestError, match=r"plug_broken \(plug_broken:View\).*its library is not here"):
        compressors.get("broken")
    assert compressors.get("gzip").name == "gzip", "one broken plug-in does not hide the others"
    from proxy_lm import cli

    assert cli.main(["compressor", "list"]) == 0
    assert "its library is not" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("source", "point", "words"),
    [
        ("View = 3", "odd = plug_odd:View", "not a subclass"),
        ("", "odd = plug_odd:View", "cannot be imported"),
        (PLUG_IN, "odd = plug_odd:Rotate", "whose name is 'rotate'"),
        (PLUG_IN, "gzip = plug_odd:Rotate", "takes the name 'gzip' of a built-in view"),
    ],
)
def test_plug_ins_that_are_no_views_are_refused(install, source, point, words):
    install("plug_odd", source, [point])
    with pytest.raises(ProxyError, match=words):
        compressors.get(point.split()[0])


def test_two_plug_ins_of_one_name_are_refused(install):
    install("plug_one", PLUG_IN, ["rotate = plug_one:Rotate"])
    install("plug_two", PLUG_IN, ["rotate = plug_two:Rotate"])
    with pytest.raises(RequestError, match=r"more than once, by .*plug_one.* and .*|.*plug_two"):
        compressors.get("rotate")
