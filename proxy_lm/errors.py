"""Errors shown to a user as one sentence; defined in the lowest room, used under this name above it."""

from compressors.errors import DecodeError, NotRepresentableError, ProxyError, RequestError, WorkError

__all__ = ["DecodeError", "NotRepresentableError", "ProxyError", "RequestError", "WorkError"]
