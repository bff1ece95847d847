"""What a run can be asked: a prompt, and how the next id is chosen. No torch, so that a command checks its request before it loads any.

prompt = Prompt(data=b"def area(", stop=(b"\\n\\n",))
completions = generator.generate([prompt], Sampling(temperature=0.8))      # proxy_lm.infer.generator
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from proxy_lm.config import Settings
from proxy_lm.errors import RequestError
from proxy_lm.infer.id_request import Temperature


class Sampling(Settings):
    """How the next id is chosen."""

    temperature: Temperature = 0.0
    """0: always the most probable."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Only the most probable ids that together reach this share."""
    top_k: int = Field(default=0, ge=0)
    """Only so many of the most probable ids; 0: all."""
    seed: int = Field(default=0, ge=0)
    """Equal seeds, equal bytes."""
    valid_utf8: bool = False
    """Only bytes that continue the prompt as valid UTF-8; the completion never ends inside a character."""
    speculate: bool = True
    """Draft several ids a step, from what was said before and the extra heads. Changes the time, never the bytes."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What to complete, and where to stop."""

    data: bytes
    """The begin of a document. May be empty, and may end anywhere, also inside a character."""
    suffix: bytes | None = None
    """What follows the completion (fill-in-the-middle); None: nothing is known of it."""
    stop: tuple[bytes, ...] = ()
    """The completion ends before the first of these."""
    max_bytes: int = 256
    """It has at most so many bytes."""
    seed: int = 0
    """Its draws are keyed by the seed of the sampling, this one, and the index of the draw."""

    def check(self) -> None:
        """Raise `RequestError` for what cannot be asked."""
        if self.max_bytes < 1:
            raise RequestError(f"max_bytes = {self.max_bytes} leaves nothing to generate; give at least 1")
        if any(not stop for stop in self.stop):
            raise RequestError("a stop sequence of no bytes would stop before the first; leave it out, or give at least one byte")
