"""How a program is isolated on this machine: the tiers, the command line of each, and which one works here.

    bwrap-uid   root: namespaces by bubblewrap, and inside a real user that owns nothing
    bwrap       any user: namespaces by bubblewrap through a user namespace
    landlock    any user, no namespaces: Landlock for files, seccomp for the rest

In each the process has an empty environment, no writable file, no network, no new process, and the same seccomp filter and limits. As root
the last two also run as the user of the slot. Not promised: protection from faults of the kernel, which all tiers share with the host;
in `landlock` a program can see that a path exists, and its size.
"""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eval.sandbox import confine, filters
from proxy_lm.errors import RequestError

TIERS: Final = ("bwrap-uid", "bwrap", "landlock")
_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/urandom")
_FIRST_UID, _NUM_SMALL_UIDS = 1_500_000_000, 20_000
_SYSTEM: Final = ("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d")
_SECCOMP_NUMBERS: Final[Mapping[str, int]] = {"x86_64": 317, "aarch64": 277}


@dataclass(frozen=True)
class Interpreter:
    """The Python that runs programs: the one under the running environment, without installed packages."""

    path: str
    folders: tuple[str, ...]

    @classmethod
    @functools.cache
    def here(cls) -> Interpreter:
        """The interpreter of this process, by its real path."""
        path = os.path.realpath(getattr(sys, "_base_executable", sys.executable) or sys.executable)
        paths = sysconfig.get_paths()
        library = sysconfig.get_config_var("LIBDIR") or ""
        wanted = {os.path.realpath(sys.base_prefix), os.path.realpath(sys.base_exec_prefix)}
        wanted |= {os.path.realpath(paths["stdlib"]), os.path.realpath(paths["platstdlib"]), os.path.dirname(path)}
        wanted |= {os.path.realpath(library)} if library.startswith(sys.base_prefix) else set()
        folders = sorted(folder for folder in wanted if os.path.isdir(folder))
        # Each folder once: none that lies in another, or in what is mounted for the system.
        return cls(path, tuple(f for f in folders if not any(Path(f).is_relative_to(other) for other in ("/usr", *folders) if other != f)))

    def command(self, boot: str) -> list[str]:
        """Start it with nothing of the environment, the user or the working folder."""
        return [self.path, "-s", "-P", "-S", "-B", "-X", "utf8", "-c", boot]


@dataclass(frozen=True, kw_only=True)
class Tier:
    """One way to isolate, for one slot. `uid` is the user that programs run as; None: the caller, who is not root."""

    name: str
    uid: int | None
    bwrap: str | None = None
    flags: tuple[str, ...] = ()

    def command(self, boot: str, info: int) -> list[str]:
        """The command line that starts the interpreter inside. bubblewrap tells the number of the process through descriptor `info`."""
        interpreter = Interpreter.here()
        if self.bwrap is None:
            return interpreter.command(boot)
        return [self.bwrap, *self.flags, "--info-fd", str(info), "--", *interpreter.command(boot)]

    def settings(self, num_threads: int) -> dict[str, Any]:
        """What `confine` does inside, but for the limits that the program sets."""
        landlock = None
        if self.bwrap is None:
            system = [path for path in _SYSTEM if os.path.exists(path)]
            landlock = {"read": [*system, *Interpreter.here().folders], "devices": list(_DEVICES)}
        limits = {"RLIMIT_CORE": 0, "RLIMIT_FSIZE": 0, "RLIMIT_NOFILE": 64, "RLIMIT_STACK": 8 << 20, "RLIMIT_NPROC": num_threads}
        limits |= {"RLIMIT_MEMLOCK": 0, "RLIMIT_MSGQUEUE": 0, "RLIMIT_SIGPENDING": 64}
        machine = os.uname().machine
        # Inside the namespaces of `bwrap` the caller is the user already.
        uid = self.uid if self.name != "bwrap" else None
        return {
            "uid": uid,
            "limits": limits,
            "landlock": landlock,
            "filter": filters.build_filter(machine),
            "seccomp": _SECCOMP_NUMBERS[machine],
        }


def slot_uid() -> int | None:
    """A user that exists nowhere else, by the number of this process; None where the caller is not root."""
    if os.geteuid() != 0:
        return None
    mapped = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    end = max(first + length for first, _, length in mapped)
    uid = _FIRST_UID + os.getpid() if end > _FIRST_UID + (1 << 23) else end - 1 - os.getpid() % min(_NUM_SMALL_UIDS, end // 2)
    try:
        known = pwd.getpwuid(uid).pw_name
    except KeyError:
        return uid
    raise RequestError(f"user {uid}, which the sandbox would use, is {known} here; run in a user namespace of over {_FIRST_UID} users")


def build_tier(name: str) -> Tier:
    """The tier by name for this process. Raises `RequestError` with the remedy where something that it needs is missing."""
    machine = os.uname().machine
    if sys.platform != "linux" or machine not in filters.MACHINES:
        raise RequestError(f"the sandbox knows Linux on {' and '.join(filters.MACHINES)}; this is {sys.platform} on {machine}")
    if name not in TIERS:
        raise RequestError(f"unknown sandbox tier {name!r}; known: auto, {', '.join(TIERS)}")
    uid = slot_uid()
    if name == "landlock":
        abi = confine.landlock_abi()
        if abi < confine.LANDLOCK_ABI_NEEDED:
            raise RequestError(f"Landlock has version {abi} in this kernel; version {confine.LANDLOCK_ABI_NEEDED} (Linux 6.2) is needed")
        _check_reach(uid)
        return Tier(name=name, uid=uid)
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise RequestError("bubblewrap is not installed: `apt-get install bubblewrap` or your distribution's package")
    if name == "bwrap-uid" and uid is None:
        raise RequestError("tier bwrap-uid gives each slot a user of its own, which needs root; use tier bwrap")
    if name == "bwrap":
        _check_reach(uid)
    return Tier(name=name, uid=uid, bwrap=bwrap, flags=_bwrap_flags(bwrap, user_namespace=name == "bwrap"))


def _check_reach(uid: int | None) -> None:
    """Refuse an interpreter that only root can start, where the user of a slot starts it."""
    path = Interpreter.here().path
    closed = next((str(folder) for folder in reversed(Path(path).parents) if not folder.stat().st_mode & 0o001), None)
    if uid is not None and closed is not None:
        raise RequestError(
            f"only root may enter {closed}, where the interpreter {path} lies; use tier bwrap-uid, which mounts it for its programs, or a "
            "Python that every user can start"
        )


def _bwrap_flags(bwrap: str, *, user_namespace: bool) -> tuple[str, ...]:
    flags = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    if user_namespace:
        flags.append("--unshare-user")
        if "--disable-userns" in _bwrap_help(bwrap):  # since 0.8; without it the filter alone refuses new namespaces
            flags.append("--disable-userns")
    flags += ["--die-with-parent", "--new-session", "--hostname", "sandbox"]
    for path in _SYSTEM:
        if os.path.islink(path):
            flags += ["--symlink", os.readlink(path).lstrip("/"), path]
        elif os.path.exists(path):
            flags += ["--ro-bind", path, path]
    for folder in Interpreter.here().folders:
        for parent in reversed(Path(folder).parents[:-1]):  # made by hand: bubblewrap would give them the modes of the host's, /root's say
            flags += ["--perms", "0755", "--dir", str(parent)]
        flags += ["--ro-bind", folder, folder]
    for device in _DEVICES:
        flags += ["--dev-bind", device, device]
    return (*flags, "--remount-ro", "/", "--chdir", "/")


@functools.cache
def _bwrap_help(bwrap: str) -> str:
    return subprocess.run([bwrap, "--help"], capture_output=True, text=True, timeout=10, check=False).stdout
