"""Programs that try to get out, to stay, or to use up the machine: the battery that a tier must hold. Run by `campaign`, in a tier only.

Every program is harmless and bounded even where it gets through: it tells what it could do and does no more. Words between @ are places on
the host that the campaign prepares and looks at afterwards: a folder, a file with a secret, listening sockets, processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from eval.sandbox.programs import Program, Verdict


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A program, and the verdict when `attack()` is asked and must equal "refused"."""

    name: str
    expected: tuple[Verdict, ...]
    source: str
    limit_s: float = 10.0

    def program(self, places: Mapping[str, str]) -> Program:
        """The program with the places of this host in it."""
        source = self.source
        for word, place in places.items():
            source = source.replace(f"@{word}@", place)
        return Program(key=self.name, solution=source, tests=TESTS, entry_points=("attack",), limit_s=self.limit_s)


TESTS: Final = 'said = attack()\nassert said == "refused", said'

# Raw system calls by number: where the filter is asked, the answer is EPERM or ENOSYS whatever the arguments are.
_PRELUDE: Final = """
import os, signal, socket, sys, threading, time

NUMBERS = {
    "bpf": (321, 280), "perf_event_open": (298, 241), "io_uring_setup": (425, 425), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "userfaultfd": (323, 282), "ptrace": (101, 117), "process_vm_readv": (310, 270), "mount": (165, 40),
    "process_vm_writev": (311, 271), "umount2": (166, 39), "unshare": (272, 97), "setns": (308, 268), "pivot_root": (155, 41),
    "chroot": (161, 51), "mknodat": (259, 33), "memfd_create": (319, 279), "memfd_secret": (447, 447), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "tgkill": (234, 131), "tkill": (200, 130), "clone": (56, 220),
    "rt_sigqueueinfo": (129, 138), "clone3": (435, 435), "setpriority": (141, 140), "sched_setaffinity": (203, 122),
    "kexec_load": (246, 104),
    "sethostname": (170, 161), "settimeofday": (164, 170), "swapon": (167, 224), "init_module": (175, 105), "delete_module": (176, 106),
    "acct": (163, 89), "quotactl": (179, 60), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    "fanotify_init": (300, 262),
    "inotify_init1": (294, 26), "personality": (135, 92), "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186),
    "mq_open": (240, 180), "seccomp": (317, 277), "prctl": (157, 167), "fsopen": (430, 430), "open_tree": (428, 428),
    "move_mount": (429, 429), "mount_setattr": (442, 442), "syslog": (103, 116), "vhangup": (153, 58),
    "landlock_create_ruleset": (444, 444),
    "setrlimit": (160, 164), "execveat": (322, 281), "accept4": (288, 242), "sendmsg": (46, 211), "bind": (49, 200), "connect": (42, 203),
    "kcmp": (312, 272), "lookup_dcookie": (212, 18), "migrate_pages": (256, 238), "move_pages": (279, 239), "reboot": (169, 142),
}

def attempt(action):
    try:
        return "done " + repr(action())[:60]
    except (OSError, ImportError, RuntimeError, MemoryError, EOFError) as error:
        return "refused"

def raw(name, *arguments):
    import ctypes, errno
    number = NUMBERS[name][os.uname().machine == "aarch64"]
    result = ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *(ctypes.c_long(a) for a in arguments))
    refused = result == -1 and ctypes.get_errno() in (errno.EPERM, errno.ENOSYS)
    return "refused" if refused else "done %d %s" % (result, os.strerror(ctypes.get_errno()))

def every(*answers):
    return next((answer for answer in answers if answer != "refused"), "refused")
"""


def _tries(name: str, expression: str, **settings: float) -> Attack:
    """One expression whose value is "refused" where it is."""
    return Attack(name=name, expected=("pass",), source=f"{_PRELUDE}\ndef attack():\n    return {expression}\n", **settings)


def _attempts(name: str, expression: str) -> Attack:
    """One expression that raises where it is refused."""
    return _tries(name, f"attempt(lambda: {expression})")


def _raws(group: str, *calls: str) -> list[Attack]:
    """System calls by name, with arguments that mean nothing."""
    return [_tries(f"{group} {name}", f'raw("{name}", 0, 0, 0, 0, 0)') for name in calls]


def _runs(name: str, expected: str, body: str, limit_s: float = 10.0) -> Attack:
    """A whole program."""
    return Attack(name=name, expected=tuple(expected.split("|")), source=_PRELUDE + body, limit_s=limit_s)  # type: ignore[arg-type]


def _endless(name: str, body: str) -> Attack:
    return _runs(f"S01 {name}", "timeout", body, limit_s=0.7)


_THREADS: Final = """
def attack():
    threading.stack_size(@SIZE@)
    wait = threading.Event()
    threads = [threading.Thread(target=wait.wait, daemon=True) for _ in range(500)]
    return attempt(lambda: [thread.start() for thread in threads])
"""

_TIME: Final = [
    _endless("a loop", "def attack():\n    while True: pass\n"),
    _endless("a loop while loading", "while True: pass\n"),
    _endless("a long sleep", "def attack(): time.sleep(3600)\n"),
    _endless("a huge power", "def attack(): return len(str(10 ** (10 ** 9)))\n"),
    _endless("a bad pattern", 'import re\ndef attack(): return re.match("(a+)+$", "a" * 64 + "b")\n'),
    _endless(
        "signals ignored",
        """
def attack():
    for number in range(1, 65):
        try: signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError): pass
    while True: pass
""",
    ),
    _endless(
        "every exception caught",
        "def attack():\n    while True:\n        try: raise KeyboardInterrupt\n        except BaseException: pass\n",
    ),
    _endless("a lock taken twice", "def attack():\n    lock = threading.Lock()\n    lock.acquire()\n    lock.acquire()\n"),
    _endless("waiting for a signal", "def attack():\n    signal.pause()\n"),
    _endless(
        "a thread that spins",
        "def attack():\n    t = threading.Thread(target=lambda: [0 for _ in iter(int, 1)])\n    t.start()\n    t.join()\n",
    ),
    _endless("a generator without an end", "def endless():\n    while True: yield 1\ndef attack(): return sum(endless())\n"),
    _endless(
        "stopping itself", "def attack():\n    try: os.kill(os.getpid(), signal.SIGSTOP)\n    except OSError: pass\n    time.sleep(3600)\n"
    ),
]

_MEMORY: Final = [
    _attempts("S02 4 GB at once", "len(bytearray(4 << 30))"),
    _attempts("S02 a list that grows", "[[0] * 1_000_000 for _ in range(1_000)] and 1"),
    _attempts("S02 a zlib bomb", '__import__("zlib").decompress(__import__("zlib").compress(bytes(1 << 26)) * 1 , bufsize=4 << 30)'),
    _attempts("S02 4 GB mapped", '__import__("mmap").mmap(-1, 4 << 30)'),
    _attempts("S02 a text doubled", '[s for s in ["x" * (1 << 33)]] and 1'),
    _runs(
        "S02 limits raised",
        "pass",
        """
def attack():
    import resource
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        try: resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except ValueError: pass
    return attempt(lambda: len(bytearray(3 << 30)))
""",
    ),
    _tries("S02 pipes made large", 'attempt(lambda: __import__("fcntl").fcntl(os.pipe()[1], 1031, 1 << 20))'),
    _runs("S02 a thousand pipes", "pass", "def attack():\n    made = attempt(lambda: [os.pipe() for _ in range(1000)])\n    return made\n"),
]

_PROCESSES: Final = [
    _tries("S03 150 forks", "every(*(attempt(os.fork) for _ in range(150)))"),
    _attempts("S03 a command", 'os.execv("/bin/sh", ["sh", "-c", "true"])'),
    _attempts("S03 subprocess", '__import__("subprocess").run(["/bin/true"])'),
    _tries("S03 system", '"refused" if os.system("true") != 0 else "done"'),
    _attempts("S03 spawn", 'os.posix_spawn("/bin/true", ["true"], {})'),
    _attempts("S03 a terminal of its own", '__import__("pty").fork()'),
    _attempts("S03 multiprocessing", '__import__("multiprocessing").Process(target=int).start() or 1'),
    _tries("S03 clone with no flags", 'raw("clone", 17, 0, 0, 0, 0)'),
    _tries("S03 clone as vfork", 'raw("clone", 0x4111, 0, 0, 0, 0)'),
    _tries("S03 clone into a namespace", 'raw("clone", 0x10000000 | 17, 0, 0, 0, 0)'),
    *_raws("S03", "clone3", "execveat"),
    _runs("S03 500 threads", "pass", _THREADS.replace("@SIZE@", "0")),
    _runs("S03 500 small threads", "pass", _THREADS.replace("@SIZE@", "65536")),
]

_OUTPUT: Final = [
    _runs("S04 64 MB printed", "pass|timeout", 'def attack():\n    for _ in range(64): print("x" * (1 << 20))\n    return "refused"\n'),
    _runs(
        "S04 64 MB of errors without a line end",
        "pass|timeout",
        'def attack():\n    for _ in range(64): os.write(2, b"y" * (1 << 20))\n    return "refused"\n',
    ),
    _runs(
        "S04 no text",
        "pass",
        'def attack():\n    os.write(1, bytes(range(256)) * 100)\n    os.write(2, b"\\xff\\xfe\\x00\\x1b[2J" * 100)\n'
        '    return "refused"\n',
    ),
    _runs("S04 errors, then death", "fail", 'def attack():\n    os.write(2, b"\\x1b]0;title\\x07\\xff" * 1000)\n    os._exit(1)\n'),
]

_SPACE: Final = [
    *(
        _attempts(f"S05 a file in {name}", f'open("{path}", "wb").write(bytes(1 << 20))')
        for name, path in (
            ("tmp", "/tmp/fill"), ("root", "/fill"), ("shared memory", "/dev/shm/fill"), ("home", "/home/fill"), ("var", "/var/tmp/fill"),
            ("dev", "/dev/fill"), ("run", "/run/fill"), ("the working folder", "fill"), ("proc", "/proc/self/fill"),
        )
    ),
    _attempts("S05 deep folders", 'os.makedirs("/tmp/" + "/".join("d" * 50))'),
    _attempts("S05 a file without a name", 'os.open("/tmp", os.O_TMPFILE | os.O_RDWR)'),
    _attempts("S05 a temporary file", '__import__("tempfile").TemporaryFile()'),
    *_raws("S05", "memfd_create", "memfd_secret", "shmget", "semget", "msgget", "mq_open"),
]  # fmt: skip

_NETWORK: Final = [
    _attempts("S06 tcp to the host", 'socket.create_connection(("127.0.0.1", @PORT@), 1)'),
    _attempts("S06 tcp to the host over IPv6", 'socket.socket(socket.AF_INET6).connect(("::1", @PORT@))'),
    _attempts("S06 a datagram", 'socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"out", ("127.0.0.1", @PORT@))'),
    _attempts("S06 an abstract socket", 'socket.socket(socket.AF_UNIX).connect("\\0@ABSTRACT@")'),
    _attempts("S06 a socket by path", 'socket.socket(socket.AF_UNIX).connect("@SOCKET@")'),
    _attempts("S06 a pair that sends elsewhere", 'socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b"out", "\\0@DATAGRAM@")'),
    _attempts("S06 a descriptor sent", 'socket.socketpair()[0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"\\0\\0\\0\\0")])'),
    _attempts("S06 listening", 'socket.socket().bind(("127.0.0.1", 0))'),
    _attempts("S06 a raw socket", "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)"),
    _attempts("S06 netlink", "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)"),
    _attempts("S06 a name looked up", 'socket.getaddrinfo("localhost.invalid", 80)'),
    *_raws("S06", "connect", "bind", "accept4", "sendmsg"),
]

_FILES: Final = [
    _attempts("S07 write", 'open("@FOLDER@/kept", "w").write("changed")'),
    _attempts("S07 append", 'open("@FOLDER@/kept", "a").write("changed")'),
    _attempts("S07 change in place", 'os.write(os.open("@FOLDER@/kept", os.O_RDWR), b"c")'),
    _attempts("S07 truncate", 'os.truncate("@FOLDER@/kept", 0)'),
    _attempts("S07 truncate while reading", 'os.open("@FOLDER@/kept", os.O_RDONLY | os.O_TRUNC)'),
    _attempts("S07 rename", 'os.rename("@FOLDER@/kept", "@FOLDER@/moved")'),
    _attempts("S07 remove", 'os.remove("@FOLDER@/kept")'),
    _attempts("S07 mode", 'os.chmod("@FOLDER@/kept", 0o777)'),
    _attempts("S07 owner", 'os.chown("@FOLDER@/kept", os.getuid(), os.getgid())'),
    _attempts("S07 times", 'os.utime("@FOLDER@/kept", (0, 0))'),
    _attempts("S07 attribute", 'os.setxattr("@FOLDER@/kept", "user.x", b"1")'),
    _attempts("S07 link", 'os.link("@FOLDER@/kept", "@FOLDER@/linked")'),
    _attempts("S07 symbolic link", 'os.symlink("@FOLDER@/kept", "@FOLDER@/linked")'),
    _attempts("S07 folder", 'os.mkdir("@FOLDER@/new")'),
    _attempts("S07 fifo", 'os.mkfifo("@FOLDER@/fifo")'),
    _attempts("S07 into the interpreter", 'open(os.__file__, "a").write("#")'),
]

_SECRETS: Final = [
    _attempts("S08 the file", 'open("@FOLDER@/secret").read()'),
    _attempts("S08 the folder", 'os.listdir("@FOLDER@")'),
    _tries("S08 the environment", '"done" if "@SECRET@" in repr(dict(os.environ)) or len(os.environ) > 3 else "refused"'),
    _tries("S08 environments in proc", 'every(*(attempt(lambda p=p: open(f"/proc/{p}/environ")) for p in (1, "self", @SUPERVISOR@)))'),
    _tries("S08 memory in proc", 'every(*(attempt(lambda p=p: open(f"/proc/{p}/mem", "rb")) for p in (1, "self", @SUPERVISOR@)))'),
    _attempts("S08 descriptors of the supervisor", 'os.listdir("/proc/@SUPERVISOR@/fd")'),
    _attempts("S08 password hashes", 'open("/etc/shadow").read()'),
    _attempts("S08 users", 'open("/etc/passwd").read()'),
    _attempts("S08 the project", 'open("@PROJECT@/eval/sandbox/judge.py").read()'),
    _attempts("S08 processes", 'os.listdir("/proc")'),
    _runs("S08 tests in its own memory", "pass", """
def attack():
    import gc
    wanted = "".join(["said == ", '"refu', 'sed"'])
    held = [o for o in gc.get_objects() if isinstance(o, (dict, list, tuple))]
    texts = [text for o in held for text in (o.values() if isinstance(o, dict) else o) if isinstance(text, str)]
    seen = [text for text in texts if wanted in text]
    return "done" if seen else "refused"
"""),
    *_raws("S08", "process_vm_readv", "process_vm_writev", "ptrace", "kcmp", "pidfd_open", "pidfd_getfd", "syslog"),
]  # fmt: skip

_SIGNALS: Final = [
    _attempts("S09 its parent", "os.kill(os.getppid(), 0)"),
    _attempts("S09 the supervisor", "os.kill(@SUPERVISOR@, 0)"),
    _attempts("S09 everybody", "os.kill(-1, 0)"),
    _attempts("S09 its group", "os.killpg(0, 0)"),
    _tries(
        "S09 a signal by an owner of a descriptor",
        'every(*(attempt(lambda c=c, v=v: __import__("fcntl").fcntl(os.pipe()[0], c, v)) for c, v in ((8, @SUPERVISOR@), (10, 9))))',
    ),
    _attempts("S09 a signal by ioctl", '__import__("fcntl").ioctl(os.pipe()[0], 0x8901, b"\\1\\0\\0\\0")'),
    _attempts("S09 limits of the supervisor", '__import__("resource").prlimit(@SUPERVISOR@, __import__("resource").RLIMIT_NOFILE)'),
    *_raws("S09", "tgkill", "tkill", "rt_sigqueueinfo", "pidfd_send_signal", "setpriority", "sched_setaffinity"),
]

_SYSTEM: Final = [
    *_raws(
        "S10", "mount", "umount2", "unshare", "setns", "pivot_root", "chroot", "mknodat", "sethostname", "settimeofday", "swapon",
        "init_module",
        "delete_module", "kexec_load", "acct", "quotactl", "fsopen", "open_tree", "move_mount", "mount_setattr", "vhangup", "reboot",
    ),
    _attempts("S10 user 0", "os.setuid(0)"),
    _attempts("S10 group 0", "os.setgid(0)"),
    _attempts("S10 groups", "os.setgroups([0])"),
    _attempts("S10 core_pattern", 'open("/proc/sys/kernel/core_pattern", "r+")'),
    _attempts("S10 sysrq", 'open("/proc/sysrq-trigger", "w")'),
    _attempts("S10 cgroups", 'open("/sys/fs/cgroup/cgroup.procs", "w")'),
    _attempts("S10 user map", 'open("/proc/self/uid_map", "w")'),
    _attempts("S10 devices", 'open("/dev/mem", "rb")'),
    _attempts("S10 a nicer process", "os.nice(-5)"),
    *_raws(
        "S11", "io_uring_setup", "bpf", "perf_event_open", "keyctl", "add_key", "request_key", "userfaultfd", "open_by_handle_at",
        "name_to_handle_at", "fanotify_init", "inotify_init1", "personality", "seccomp", "prctl", "landlock_create_ruleset",
        "lookup_dcookie",
        "migrate_pages", "move_pages",
    ),
    _runs("S11 another architecture's call", "fail", """
def attack():
    import ctypes
    ctypes.CDLL(None).syscall(ctypes.c_long((0x40000000 | 39) if os.uname().machine == "x86_64" else 0))
    os._exit(1)
"""),
]  # fmt: skip

_LEAVING: Final = [
    _runs("S12 a daemon", "pass", """
def attack():
    def leave():
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0: time.sleep(60)
            os._exit(0)
    return attempt(leave)
"""),
    _runs("S12 a thread that holds the pipes", "fail", """
def attack():
    threading.Thread(target=time.sleep, args=(60,)).start()
    sys.exit(0)
"""),
    _attempts("S12 a session of its own", "os.setsid()"),
    _runs("S13 reads its input", "pass", "def attack(): return 'refused' if sys.stdin.read() == '' and os.read(0, 1) == b'' else 'done'\n"),
    _attempts("S13 the terminal", 'os.open("/dev/tty", os.O_RDWR)'),
    _attempts("S13 keys typed for the terminal", '__import__("fcntl").ioctl(0, 0x5412, b"x")'),
    _attempts("S13 input", "input()"),
    _runs("S14 recursion", "fail|timeout", "def attack():\n    sys.setrecursionlimit(10 ** 9)\n    return attack()\n", limit_s=1.5),
    _runs("S14 recursion in C", "fail|timeout", """
def attack():
    sys.setrecursionlimit(10 ** 9)
    class Deep:
        def __repr__(self): return repr([self])
    return repr(Deep())
""", limit_s=1.5),
    _runs("S14 a bad address", "fail", "def attack():\n    import ctypes\n    ctypes.string_at(1)\n"),
    _runs("S14 abort", "fail", "def attack(): os.abort()\n"),
    _runs("S14 memory overwritten", "fail", """
def attack():
    import ctypes
    ctypes.memset(ctypes.addressof(ctypes.create_string_buffer(8)) & ~0xFFF, 65, 1 << 26)
"""),
    _runs("S14 the end in mid-answer", "fail", """
def attack():
    for fd in range(3, 64):
        try: os.write(fd, (1000).to_bytes(4, "big") + b"[")
        except OSError: pass
    os._exit(0)
"""),
    _runs("S14 the pipes closed", "fail", "def attack():\n    os.closerange(0, 64)\n    time.sleep(0.2)\n    return 'refused'\n"),
    _tries("S17 imports of what is absent", 'every(*(attempt(lambda n=n: __import__(n)) for n in ("numpy", "torch")))'),
]  # fmt: skip

ATTACKS: Final = (
    *_TIME, *_MEMORY, *_PROCESSES, *_OUTPUT, *_SPACE, *_NETWORK, *_FILES, *_SECRETS, *_SIGNALS, *_SYSTEM, *_LEAVING,
)  # fmt: skip
