"""What a process does to itself inside the sandbox before it meets a generated program: user, limits, Landlock, seccomp; none of it undone.

Run by `driver`, in the fresh interpreter, from settings that the supervisor sends. Every step that fails raises, so that no program is
ever run with less. Standard library only, and nothing from the project: the source is loaded inside the sandbox.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_SECCOMP_SET_MODE_FILTER: Final = 1
_SECCOMP_FILTER_FLAG_TSYNC: Final = 1
# The same number on every architecture that has them; seccomp is told by the supervisor.
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_RULE_PATH_BENEATH: Final = 1
LANDLOCK_ABI_NEEDED: Final = 3  # kernel 6.2: the first that governs truncation

_READ: Final = 0b1100  # read file, read folder
_READ_FILE: Final = 0b0100
_WRITE_FILE: Final = 0b0010
_TRUNCATE: Final = 1 << 14

_libc = ctypes.CDLL(None, use_errno=True)


class ConfinementError(Exception):
    """A step of the confinement that this kernel refused. The supervisor takes it for a fault of the tier, never of the program."""


def confine(settings: Mapping[str, Any]) -> None:
    """Do all steps. `uid`: int or None; `limits`: {name: value}; `landlock`: {"read": [path], "devices": [path]} or None; `filter`: the
    BPF program; `seccomp`: the number of the call.
    """
    if settings["uid"] is not None:
        os.setgroups([])
        os.setresgid(settings["uid"], settings["uid"], settings["uid"])
        os.setresuid(settings["uid"], settings["uid"], settings["uid"])
        if os.getuid() != settings["uid"] or os.geteuid() == 0:
            raise ConfinementError("the user of the slot was not taken")
    end_with_parent()  # after the change of user, which clears it
    _prctl(_PR_SET_DUMPABLE, 0)
    for name, value in settings["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if settings["landlock"] is not None:
        restrict_files(settings["landlock"]["read"], settings["landlock"]["devices"])
    install_filter(settings["filter"], settings["seccomp"])


def end_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends."""
    _prctl(_PR_SET_PDEATHSIG, 9)


def adopt_orphans() -> None:
    """Make this process the parent of every descendant that loses its own, so that it can wait for them all."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise ConfinementError(f"prctl {option}: {os.strerror(ctypes.get_errno())}")


def _call(what: str, number: int, *arguments: Any) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise ConfinementError(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def landlock_abi() -> int:
    """The version of Landlock in this kernel; 0 where there is none."""
    return max(0, int(_libc.syscall(ctypes.c_long(_LANDLOCK_CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint32(1))))


def restrict_files(read: Sequence[str], devices: Sequence[str]) -> None:
    """From here on nothing is opened but what lies under `read` (read only) and the `devices`; no TCP, no signal and no socket out."""
    abi = landlock_abi()
    if abi < LANDLOCK_ABI_NEEDED:
        raise ConfinementError(f"Landlock version {abi} where {LANDLOCK_ABI_NEEDED} (kernel 6.2) is needed")
    files = (1 << 15) - 1 if abi < 5 else (1 << 16) - 1  # every right on files that this kernel knows
    network = 0 if abi < 4 else 0b11
    scopes = 0 if abi < 6 else 0b11
    attribute = struct.pack("=QQQ", files, network, scopes)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = _call("landlock_create_ruleset", _LANDLOCK_CREATE_RULESET, attribute, ctypes.c_size_t(len(attribute)), ctypes.c_uint32(0))
    for paths, folder_rights, file_rights in ((read, _READ, _READ_FILE), (devices, 0, _READ_FILE | _WRITE_FILE | _TRUNCATE)):
        for path in paths:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rights = folder_rights if os.path.isdir(path) else file_rights
            rule = struct.pack("=Qi", rights, descriptor)
            _call(
                "landlock_add_rule", _LANDLOCK_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_RULE_PATH_BENEATH), rule, ctypes.c_uint32(0)
            )
            os.close(descriptor)
    _call("landlock_restrict_self", _LANDLOCK_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    os.close(ruleset)


def install_filter(program: bytes, seccomp: int) -> None:
    """Install a BPF program (8 bytes an instruction) for all threads. `seccomp` is the number of the call on this architecture."""
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    done = _call(
        "seccomp", seccomp, ctypes.c_uint(_SECCOMP_SET_MODE_FILTER), ctypes.c_uint(_SECCOMP_FILTER_FLAG_TSYNC), ctypes.c_char_p(header)
    )
    if done != 0:
        raise ConfinementError(f"seccomp: thread {done} could not be brought under the filter")
