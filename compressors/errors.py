"""The two errors a user can meet. Every message names the value, the limit and the remedy.

They live in the lowest room so that all three packages raise the same classes. `proxy_lm.cli` turns the first into exit code 2 and the
second into exit code 1, without a traceback. An `assert` is for our own bugs and keeps its traceback.
"""


class ProxyError(Exception):
    """Root of the errors that are shown to a user as one sentence."""

    exit_code: int = 1


class RequestError(ProxyError):
    """The request was wrong: an unknown name, a bad value, a file that is not what it should be. Exit code 2."""

    exit_code = 2


class WorkError(ProxyError):
    """The request was fine and the work failed: no space, damaged data met half way, a child process that died. Exit code 1."""

    exit_code = 1


class NotRepresentableError(ProxyError):
    """A compressor cannot express this document exactly. Callers use the raw view for the document and count it."""


class DecodeError(RequestError):
    """Symbols that no encoder of this compressor emits, or a declared size over the cap."""
