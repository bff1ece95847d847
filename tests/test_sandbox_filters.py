"""The system call filter: its program, run by a slow reader, lets through what the tables say and nothing else, on both architectures."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.sandbox import filters

ALLOW, KILL = "allow", "kill"


def meet(program: bytes, audit: int, number: int, *arguments: int) -> str | int:
    """What the kernel answers: the instructions one by one over `struct seccomp_data`. An error is its number."""
    data = struct.pack("=IIQ6Q", number, audit, 0, *(list(arguments) + [0] * 6)[:6])
    operations = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    at, accumulator = 0, 0
    while True:
        code, yes, no, k = operations[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, k)
        elif code == 0x54:
            accumulator &= k
        elif code == 0x06:
            return {0x7FFF0000: ALLOW, 0x80000000: KILL}.get(k, k & 0xFFFF)
        else:
            taken = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[code]
            at += yes if taken else no


PROGRAMS = {machine: filters.build_filter(machine) for machine in filters.MACHINES}


@pytest.mark.parametrize("machine", PROGRAMS)
def test_every_number_is_answered_as_the_tables_say(machine):
    audit, column, _ = filters.MACHINES[machine]
    allowed = {numbers[column] for numbers in filters.ALLOWED.values()}
    ruled = {numbers[column] for numbers in filters.RULED.values()}
    for number in range(600):
        if number not in ruled:
            wanted = ALLOW if number in allowed else errno.ENOSYS if number == 435 else errno.EPERM
            assert meet(PROGRAMS[machine], audit, number) == wanted, number


@pytest.mark.parametrize("machine", PROGRAMS)
def test_another_architecture_is_killed(machine):
    for other in (0x40000003, 0x40000028, 0, *(audit for name, (audit, _, _) in filters.MACHINES.items() if name != machine)):
        assert meet(PROGRAMS[machine], other, 0) == KILL


def test_x32_is_killed():
    assert meet(PROGRAMS["x86_64"], 0xC000003E, 0x40000000) == KILL
    assert meet(PROGRAMS["x86_64"], 0xC000003E, 0x40000000 | 39) == KILL


THREAD = 0x3D0F00  # what the C library passes for a thread


@pytest.mark.parametrize(
    ("name", "arguments", "wanted"),
    [
        ("clone", (THREAD,), ALLOW),
        ("clone", (17,), errno.EPERM),  # fork
        ("clone", (0x4111,), errno.EPERM),  # vfork
        ("clone", (THREAD | 0x10000000,), errno.EPERM),  # a thread in a user namespace
        ("clone", (THREAD & ~0x10000,), errno.EPERM),
        ("ioctl", (0, 0x5401), ALLOW),
        ("ioctl", (0, 0x5412), errno.EPERM),  # TIOCSTI: keys typed for the terminal
        ("ioctl", (0, 0x541C), errno.EPERM),  # TIOCLINUX
        ("fcntl", (0, 1), ALLOW),
        ("fcntl", (0, 8), errno.EPERM),  # F_SETOWN
        ("fcntl", (0, 10), errno.EPERM),  # F_SETSIG
        ("fcntl", (0, 1031), errno.EPERM),  # F_SETPIPE_SZ
        ("prlimit64", (0,), ALLOW),
        ("prlimit64", (1,), errno.EPERM),
        ("socketpair", (1,), ALLOW),
        ("socketpair", (2,), errno.EPERM),
        ("sendto", (3, 4, 5, 6, 0), ALLOW),
        ("sendto", (3, 4, 5, 6, 1), errno.EPERM),
        ("sendto", (3, 4, 5, 6, 1 << 32), errno.EPERM),  # an address whose lower half is nothing
    ],
)
@pytest.mark.parametrize("machine", PROGRAMS)
def test_calls_with_rules(machine, name, arguments, wanted):
    audit, column, _ = filters.MACHINES[machine]
    assert meet(PROGRAMS[machine], audit, filters.RULED[name][column], *arguments) == wanted


@given(flags=st.integers(0, (1 << 32) - 1))
def test_nothing_but_a_thread_is_cloned(flags):
    wanted = ALLOW if flags & 0x10900 == 0x10900 and not flags & 0x7E020080 else errno.EPERM
    assert meet(PROGRAMS["x86_64"], 0xC000003E, 56, flags) == wanted


FORBIDDEN = """
    execve execveat fork vfork kill tkill tgkill ptrace mount unshare setns socket connect bind bpf io_uring_setup keyctl
    userfaultfd chmod fchmodat rename unlink mkdir memfd_create prctl seccomp setuid process_vm_readv pidfd_open truncate
"""


@pytest.mark.parametrize("name", FORBIDDEN.split())
def test_what_must_never_be_allowed_is_in_no_table(name):
    assert name not in filters.ALLOWED
    assert name not in filters.RULED


HEADERS = {
    "x86_64": (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm/unistd_64.h")),
    "aarch64": (Path("/usr/include/asm-generic/unistd.h"),),
}


@pytest.mark.parametrize("machine", HEADERS)
def test_numbers_are_those_of_the_kernel_headers(machine):
    header = next((path for path in HEADERS[machine] if path.exists()), None)
    if header is None:
        pytest.skip(f"no kernel header with the numbers of {machine} is installed here")
    text = header.read_text()
    numbers = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    numbers["newfstatat"] = numbers.get("newfstatat", numbers.get("fstatat", -1))
    column = filters.MACHINES[machine][1]
    for name, both in {**filters.ALLOWED, **filters.RULED, **filters.ABSENT}.items():
        assert numbers.get(name) == both[column], name


def test_no_jump_leaves_the_program():
    for program in PROGRAMS.values():
        for at in range(0, len(program), 8):
            code, yes, no, _ = struct.unpack_from("=HBBI", program, at)
            assert code == 0x06 or at + 8 * (1 + max(yes, no)) < len(program)
        assert len(program) // 8 <= 4096
