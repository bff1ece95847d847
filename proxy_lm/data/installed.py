"""The sources of the running Python: `python:` as a SRC of `proxy-lm prepare`.

Two roots: the standard library of the base interpreter (also from inside a virtual environment) and the environment's own site-packages.
Only `.py` files, each once, and none that says where a package installed for editing lies on this machine. A project is a top-level
package, or `stdlib/<module or package>`, so that a split never cuts through one.
"""

from __future__ import annotations

import sys
import sysconfig
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

from proxy_lm.data.folders import FileEntry, Listing, list_files
from proxy_lm.errors import RequestError

INSTALLED = "python:"
"""The SRC."""
_PACKAGE_FOLDERS = frozenset({"site-packages", "dist-packages"})
_EDITABLE = ("__editable__", "_editable_impl_")
"""How the files begin that setuptools, and the builders that use `editables`, write for such a package."""


class InstalledRoot(NamedTuple):
    """One folder of installed sources and the word its files' paths begin with."""

    folder: Path
    name: str
    listing: Listing


def installed_roots() -> list[InstalledRoot]:
    """The standard library, then site-packages, each listed. Raises `RequestError` when there are no sources."""
    base = {"base": sys.base_prefix, "installed_base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    base["installed_platbase"] = sys.base_exec_prefix
    named = [(sysconfig.get_path(key, vars=base), "stdlib") for key in ("stdlib", "platstdlib")]
    named += [(sysconfig.get_path(key), "site-packages") for key in ("purelib", "platlib")]
    roots: list[InstalledRoot] = []
    for path, name in named:
        folder = Path(path).resolve()
        if folder.is_dir() and folder not in {root.folder for root in roots}:
            roots.append(InstalledRoot(folder, name, list_files(folder, gitignore=False, keep=_is_source)))
    if not any(root.listing.files for root in roots):
        raise RequestError(f"this Python has no .py sources in {', '.join(sorted({path for path, _ in named}))}; name a folder instead")
    return roots


def installed_packages() -> dict[str, str]:
    """Version by name of what the corpus can hold: Python and the packages beside it, those only installed for editing left out."""
    folder = Path(sysconfig.get_path("purelib"))
    found = {
        one.name: one.version
        for one in distributions(path=[str(folder)])
        if not any(Path(file).name.startswith(_EDITABLE) for file in one.files or ())
    }
    return {"python": sys.version.split()[0], **dict(sorted(found.items(), key=lambda item: item[0].lower()))}


def installed_project(root_name: str, file: FileEntry) -> str:
    """The top-level package or module of a file, under `stdlib/` if it belongs there."""
    top = file.path.partition("/")[0].removesuffix(".py")
    return f"stdlib/{top}" if root_name == "stdlib" else top


def _is_source(path: str, is_folder: bool) -> bool:
    name = path.rpartition("/")[2]
    # Packages installed beside the standard library are no part of it, and in a virtual environment not even of this environment.
    if is_folder:
        return path not in _PACKAGE_FOLDERS and name != "__pycache__"
    return name.endswith(".py") and not name.startswith(_EDITABLE)
