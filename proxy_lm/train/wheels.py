"""What an offline GPU machine lacks, carried there as wheels. Needs nothing but Python itself, on both machines.

    make gpu-wheels     where pip has an index:  python3 -m proxy_lm.train.wheels pack .cache/gpu-wheels
    make gpu-check      on the GPU machine:      python3 -m proxy_lm.train.wheels install .cache/gpu-wheels .venv-gpu

Images of such machines have torch with CUDA, numpy, pyarrow and numba, and often neither DeepSpeed nor pydantic. `pack` downloads wheels
for several Python versions and builds DeepSpeed's without its compiled operations (none is needed here); `install` makes an environment
that sees the machine's own packages and adds those that are missing, and only those.

Not promised: other processors than x86-64; torch, numpy, pyarrow, numba and tensorboard, which are too large to carry or always there:
where one is missing, `install` says which.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

# Distribution -> the module it brings. The one list of what training and the `gpu` tests import beyond the standard library.
CARRIED: Final = {
    "deepspeed": "deepspeed",
    "hjson": "hjson",
    "einops": "einops",
    "msgpack": "msgpack",
    "ninja": "ninja",
    "psutil": "psutil",
    "py-cpuinfo": "cpuinfo",
    "tqdm": "tqdm",
    "packaging": "packaging",
    "pydantic": "pydantic",
    "pydantic-core": "pydantic_core",
    "annotated-types": "annotated_types",
    "typing-inspection": "typing_inspection",
    "typing-extensions": "typing_extensions",
    "PyYAML": "yaml",
    "safetensors": "safetensors",
    "zstandard": "zstandard",
    "pathspec": "pathspec",
    "rich": "rich",
    "markdown-it-py": "markdown_it",
    "mdurl": "mdurl",
    "Pygments": "pygments",
    "pytest": "pytest",
    "pluggy": "pluggy",
    "iniconfig": "iniconfig",
    "hypothesis": "hypothesis",
    "sortedcontainers": "sortedcontainers",
}
EXPECTED: Final = ("torch", "numpy", "pyarrow", "numba", "tensorboard", "setuptools")
BUILT: Final = "deepspeed"  # published as source only
PYTHONS: Final = ("3.11", "3.12", "3.13")
PLATFORMS: Final = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
MAX_BYTES: Final = 64 << 20


class WheelsError(Exception):
    """What a user can meet, in one sentence. The project's own errors need packages that may not be here yet."""


def pack(folder: Path, pythons: Sequence[str]) -> int:
    """Fill `folder` with wheels for these Python versions; returns its size in bytes. Raises `WheelsError` when pip fails."""
    folder.mkdir(parents=True, exist_ok=True)
    needs = requirements(Path(__file__).resolve().parents[2] / "pyproject.toml")
    plain = [needs.get(name.lower(), name) for name in CARRIED if name != BUILT]
    for python in pythons:
        words = ["download", "--only-binary=:all:", "--implementation=cp", f"--python-version={python}", f"--dest={folder}"]
        _pip(sys.executable, [*words, *(f"--platform={platform}" for platform in PLATFORMS), *plain])
    _pip(sys.executable, ["wheel", f"--wheel-dir={folder}", "--no-build-isolation", needs[BUILT]], {"DS_BUILD_OPS": "0"})
    size_bytes = sum(path.stat().st_size for path in folder.glob("*.whl"))
    if size_bytes > MAX_BYTES:
        raise WheelsError(
            f"{folder} holds {size_bytes} bytes of wheels and {MAX_BYTES} are meant to be carried; pack fewer --python versions"
        )
    return size_bytes


def install(folder: Path, environment: Path) -> list[str]:
    """Make `environment` over the machine's own packages and add what is missing from `folder`; returns what was added.

    Raises `WheelsError` for a folder without wheels and for what can neither be found nor carried."""
    if not any(folder.glob("*.whl")):
        raise WheelsError(f"{folder} holds no wheels; run `make gpu-wheels` where pip has an index and bring the folder here")
    python = environment / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        # By path and not by --system-site-packages, which does not see the packages of an image whose own Python is an environment.
        here = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        own = subprocess.run(
            [str(python), "-c", "import site; print(site.getsitepackages()[0])"], capture_output=True, text=True, check=True
        )
        (Path(own.stdout.strip()) / "machine.pth").write_text("\n".join(here) + "\n")
    absent = _missing(python, EXPECTED)
    if absent:
        raise WheelsError(
            f"{sys.executable} has no {', '.join(absent)}, which are not carried; start with the Python of the machine's image"
        )
    names = {module: name for name, module in CARRIED.items()}
    added = [names[module] for module in _missing(python, list(names))]
    if added:
        _pip(str(python), ["install", "--no-index", f"--find-links={folder}", *added])
    return added


def requirements(pyproject: Path) -> dict[str, str]:
    """Requirement lines of pyproject.toml by lower-case name: the carried versions are those the project asks for."""
    import tomllib

    project = tomllib.loads(pyproject.read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    return {re.split(r"[<>=\[ ]", line, maxsplit=1)[0].lower(): line for line in lines}


def _missing(python: Path, modules: Sequence[str]) -> list[str]:
    code = "import importlib.util as u, sys; print(*[m for m in sys.argv[1:] if u.find_spec(m) is None])"
    done = subprocess.run([str(python), "-c", code, *modules], capture_output=True, text=True, check=True)
    return done.stdout.split()


def _pip(python: str, words: Sequence[str], environment: dict[str, str] | None = None) -> None:
    command = [python, "-m", "pip", words[0], "--quiet", "--disable-pip-version-check", "--no-deps", *words[1:]]
    done = subprocess.run(command, env={**os.environ, **(environment or {})}, stdout=sys.stderr, check=False)
    if done.returncode:
        raise WheelsError(f"pip {words[0]} ended with {done.returncode}; its own message above says why")


def main(argv: Sequence[str] | None = None) -> int:
    """Read the words, pack or install, say what was done."""
    parser = argparse.ArgumentParser(
        prog="proxy_lm.train.wheels",
        description="Carry to an offline GPU machine what its image lacks.",
        epilog="example: python3 -m proxy_lm.train.wheels pack .cache/gpu-wheels --python 3.12",
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    packing = verbs.add_parser("pack", help="download and build the wheels (needs pip's index)")
    packing.add_argument("folder", type=Path)
    packing.add_argument("--python", action="append", metavar="VERSION", help=f"target version, repeatable (default {' '.join(PYTHONS)})")
    installing = verbs.add_parser("install", help="add what is missing to an environment over the machine's packages (offline)")
    installing.add_argument("folder", type=Path)
    installing.add_argument("environment", type=Path)
    words = parser.parse_args(argv)
    try:
        if words.verb == "pack":
            size_bytes = pack(words.folder, words.python or PYTHONS)
            print(f"{words.folder}: {len(list(words.folder.glob('*.whl')))} wheels, {size_bytes / 2**20:.1f} MiB", file=sys.stderr)
        else:
            added = install(words.folder, words.environment)
            print(f"{words.environment}: added {', '.join(added) or 'nothing, all was there'}", file=sys.stderr)
    except WheelsError as error:
        print(f"proxy_lm.train.wheels: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
