"""The three import names are ours, the distribution is private, and every package of the tree is listed."""

import importlib
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

ROOTS = ("compressors", "proxy_lm", "eval")


def project(root: Path) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text())


def test_import_names_come_from_this_checkout(root):
    for name in ROOTS:
        origin = Path(importlib.import_module(name).__file__ or "")
        assert origin == root / name / "__init__.py"


def test_every_package_is_listed(root):
    found = {".".join(path.parent.relative_to(root).parts) for name in ROOTS for path in (root / name).rglob("__init__.py")}
    assert found == set(project(root)["tool"]["setuptools"]["packages"])


def test_never_uploaded_by_accident(root):
    assert "Private :: Do Not Upload" in project(root)["project"]["classifiers"]
    assert metadata.metadata("proxy-lm").get_all("Classifier")


def test_every_dependency_is_bounded_above(root):
    table = project(root)["project"]
    extras = [line for name, lines in table["optional-dependencies"].items() if name != "dev" for line in lines]
    for line in table["dependencies"] + extras:
        assert line.startswith("proxy-lm[") or "<" in line, line


def test_importing_the_packages_imports_no_torch():
    code = (
        "import sys, proxy_lm.cli, proxy_lm.config, eval.cli, compressors; sys.exit('torch' in sys.modules or 'deepspeed' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_but_the_drawn_tree_stands_at_the_top(root):
    tracked = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=False)
    if tracked.returncode != 0:  # an unpacked archive: there is no list to compare with
        return
    tops = {line.split("/")[0] for line in tracked.stdout.splitlines()}
    visible = {top for top in tops if not top.startswith(".")}
    assert visible <= {*ROOTS, "configs", "tests", "README.md", "pyproject.toml", "LICENSE", "Makefile"}
