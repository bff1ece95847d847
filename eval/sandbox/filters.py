"""The system calls that a generated program may make, as a classic BPF program for seccomp. Built outside, installed inside by `confine`.

A list of what is allowed, so that a call of a newer kernel is refused without anybody knowing it. Refused calls return EPERM (`clone3`
returns ENOSYS, after which the C library starts threads by `clone`, whose flags can be read); a call of another architecture kills the
process.
Not promised: anything about faults of the kernel in the calls that are allowed.

Source of the numbers: the kernel's unistd headers; `tests/test_sandbox_filters.py` compares them where headers are installed.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

# name: (x86_64, aarch64); None where the architecture never had the call. Frequent calls stand first: the filter is read from the top.
ALLOWED: Final[Mapping[str, tuple[int | None, int | None]]] = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "close": (3, 57), "fstat": (5, 80),
    "newfstatat": (262, 79), "stat": (4, None), "lstat": (6, None), "statx": (332, 291), "lseek": (8, 62), "mmap": (9, 222),
    "mprotect": (10, 226), "munmap": (11, 215), "mremap": (25, 216), "brk": (12, 214), "madvise": (28, 233), "mincore": (27, 232),
    "open": (2, None), "openat": (257, 56), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, None), "readlinkat": (267, 78), "getdents64": (217, 61), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50),
    "statfs": (137, 43), "fstatfs": (138, 44), "umask": (95, 166), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136), "rt_sigsuspend": (130, 133), "rt_sigtimedwait": (128, 137),
    "sigaltstack": (131, 132), "restart_syscall": (219, 128), "pause": (34, None), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24),
    "pipe": (22, None), "pipe2": (293, 59), "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72),
    "epoll_create": (213, None), "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, None), "epoll_pwait": (281, 22),
    "eventfd2": (290, 19), "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153), "getitimer": (36, 102), "setitimer": (38, 103),
    "alarm": (37, None), "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148), "getresgid": (120, 150), "getgroups": (115, 158),
    "getpgrp": (111, None), "getpgid": (121, 155), "getsid": (124, 156), "getpriority": (140, 141), "uname": (63, 160),
    "sysinfo": (99, 179), "getrusage": (98, 165), "getrlimit": (97, 163), "getrandom": (318, 278), "futex": (202, 98),
    "set_robust_list": (273, 99), "set_tid_address": (218, 96), "rseq": (334, 293), "membarrier": (324, 283), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "sched_getscheduler": (145, 120), "sched_getparam": (143, 121), "getcpu": (309, 168),
    "arch_prctl": (158, None), "exit": (60, 93), "exit_group": (231, 94), "wait4": (61, 260), "waitid": (247, 95), "recvfrom": (45, 207),
}  # fmt: skip

# Calls of which only some forms are allowed; the rules are in `_RULES`.
RULED: Final[Mapping[str, tuple[int, int]]] = {
    "clone": (56, 220),
    "ioctl": (16, 29),
    "fcntl": (72, 25),
    "prlimit64": (302, 261),
    "socketpair": (53, 199),
    "sendto": (44, 206),
}
ABSENT: Final[Mapping[str, tuple[int, int]]] = {"clone3": (435, 435)}

_CLONE_THREAD: Final = 0x00010000 | 0x00000800 | 0x00000100  # a thread shares memory and signal handlers
_CLONE_NAMESPACES: Final = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000 | 0x00000080
# Terminal questions, blocking or not, bytes waiting, close-on-exec. Not TIOCSTI, not TIOCLINUX, not FIOSETOWN.
_IOCTLS: Final = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
# Copies, flags, locks, size of a pipe. Not F_SETOWN and F_SETSIG, which send any signal to any process of the same user.
_FCNTLS: Final = (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1032)


class _Rule(NamedTuple):
    """A form that is allowed: argument `argument` is one of `values`, or has all bits of `required` and none of `forbidden`."""

    argument: int
    values: Sequence[int] = ()
    required: int = 0
    forbidden: int = 0
    wide: bool = False  # compare 64 bits: a pointer


_RULES: Final[Mapping[str, _Rule]] = {
    "clone": _Rule(0, required=_CLONE_THREAD, forbidden=_CLONE_NAMESPACES),
    "ioctl": _Rule(1, values=_IOCTLS),
    "fcntl": _Rule(1, values=_FCNTLS),
    "prlimit64": _Rule(0, values=(0,)),  # itself only
    "socketpair": _Rule(0, values=(1,)),  # AF_UNIX: two ends in one process, which is what asyncio needs
    "sendto": _Rule(4, values=(0,), wide=True),  # no address: to the other end only
}

# Architectures: (audit number, column of the tables, first number that is not of this architecture or None).
MACHINES: Final[Mapping[str, tuple[int, int, int | None]]] = {"x86_64": (0xC000003E, 0, 0x40000000), "aarch64": (0xC00000B7, 1, None)}

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def _op(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, k)


def _argument(index: int, high: bool = False) -> bytes:
    return _op(_LOAD, 16 + 8 * index + (4 if high else 0))  # little-endian, as both machines are


def _ruled(number: int, rule: _Rule) -> bytes:
    refuse = _op(_RETURN, _ERRNO | errno.EPERM)
    allow = _op(_RETURN, _ALLOW)
    body = _argument(rule.argument)
    if rule.required:
        body += _op(_ANY_BIT, rule.forbidden, 0, 1) + refuse
        body += _op(_AND, rule.required) + _op(_EQUAL, rule.required, 0, 1) + allow
    for value in rule.values:
        if rule.wide:
            assert value == 0, "a 64-bit argument is compared with nothing only"
            body += _op(_EQUAL, 0, 1, 0) + refuse + _argument(rule.argument, high=True)
        body += _op(_EQUAL, value, 0, 1) + allow
    body += refuse
    return _op(_EQUAL, number, 0, len(body) // 8) + body


def build_filter(machine: str) -> bytes:
    """The program for `machine` (x86_64 or aarch64), 8 bytes an instruction. Raises `KeyError` for another machine."""
    audit, column, end = MACHINES[machine]
    kill = _op(_RETURN, _KILL)
    program = _op(_LOAD, 4) + _op(_EQUAL, audit, 1, 0) + kill + _op(_LOAD, 0)
    if end is not None:
        program += _op(_AT_LEAST, end, 0, 1) + kill
    for numbers in ALLOWED.values():
        number = numbers[column]
        if number is not None:
            program += _op(_EQUAL, number, 0, 1) + _op(_RETURN, _ALLOW)
    for name, both in ABSENT.items():
        assert name not in ALLOWED
        program += _op(_EQUAL, both[column], 0, 1) + _op(_RETURN, _ERRNO | errno.ENOSYS)
    for name, both in RULED.items():
        program += _ruled(both[column], _RULES[name])
    return program + _op(_RETURN, _ERRNO | errno.EPERM)
