"""Generating in bytes with any run: prompts in, completions out, callers never see an id.

    generator = Generator.open(Path("runs/nano"))
    for completion in generator.generate([Prompt(data=b"def area(", stop=(b"\n\n",))], Sampling(temperature=0.8)):
        print(completion.data)

`proxy-lm generate` runs it. A raw-byte run continues bytes; a run of symbols gets the prompt in symbols of its view and its symbols are
turned into bytes, healed or not. Only ids of the view that is asked and the end of the document are possible, optionally only valid UTF-8.
A completion depends on its prompt, the sampling and its seeds alone, not on what else is generated beside it.

Not promised: equal bytes on another device or with another number of threads, where a near-tie is decided by rounding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator as Yields
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from proxy_lm.errors import RequestError
from proxy_lm.infer import utf8
from proxy_lm.infer.asked import Prompt, Sampling
from proxy_lm.infer.completion import Completion, Progress
from proxy_lm.infer.engine import Automaton, IdEngine
from proxy_lm.infer.prompts import PromptTeller, Told
from proxy_lm.infer.spelling import BYTES, DecodingSpeller, FixedSpeller, Speller
from proxy_lm.reading import compressor_of, device_named, reading_view
from proxy_lm.train.restore import LoadedModel, load_model
from proxy_lm.train.weights import WEIGHTS_NAME
from proxy_lm.vocabulary import EOS, NUM_BYTES, RAW_END

__all__ = ["Completion", "Generator", "Prompt", "Sampling"]

GREEDY = Sampling()


class Generator:
    """Generates with one run through one reading. Not safe to share between threads."""

    def __init__(self, loaded: LoadedModel, *, view: str | None = None, healing: bool = False, num_rows: int = 16) -> None:
        """`view` None is the run's own reading (`reading_view`); `num_rows` completions are generated at a time. Raises `RequestError` for
        a view the run does not have, or one that nothing can be generated in, and for healing of raw bytes."""
        if num_rows < 1:
            raise RequestError(f"{num_rows} rows generate nothing; give at least 1")
        self.loaded = loaded
        self.view = view or reading_view(loaded.settings)
        if healing and self.view == "raw":
            raise RequestError(
                "this run is asked in raw bytes, where a prompt can end anywhere and there is nothing to heal; ask without healing"
            )
        self.healing = healing
        self.num_rows = num_rows
        self.teller = PromptTeller(loaded, self.view, compressor_of(loaded, self.view), healing=healing)
        self._idle: list[IdEngine] = []
        self._tables: dict[tuple[bool, bool], npt.NDArray[np.int16]] = {}

    @classmethod
    def open(cls, run: Path, *, view: str | None = None, healing: bool = False, device: str = "auto", num_rows: int = 16) -> Self:
        """The newest valid checkpoint of a run folder, or the checkpoint folder given. Raises `RequestError` as `load_model` does."""
        return cls(load_model(run, device=device_named(device)), view=view, healing=healing, num_rows=num_rows)

    @property
    def identity(self) -> dict[str, Any]:
        """What was asked and how, for results."""
        digest = next(entry["sha256"] for entry in self.loaded.manifest["files"] if entry["name"] == WEIGHTS_NAME)
        return {"checkpoint": {"step": self.loaded.step, "digest": digest}, "view": self.view, "healing": self.healing}

    def generate(self, prompts: Iterable[Prompt], sampling: Sampling = GREEDY) -> Iterator[Completion]:
        """A completion for each prompt, in their order. Prompts are taken as rows become free."""
        source = iter(prompts)
        waiting: deque[Progress] = deque()  # to be read again: before new ones
        order: deque[Progress] = deque()
        with self._engine() as engine:
            while True:
                while engine.num_free and (row := waiting.popleft() if waiting else self._next(source, sampling, order)) is not None:
                    engine.add(row.request())
                if not order:
                    return
                for result in engine.step():
                    assert isinstance(result.request.watcher, Progress)
                    if not result.request.watcher.take_result(result):
                        waiting.append(result.request.watcher)
                while order and order[0].completion is not None:
                    done = order.popleft().completion
                    assert done is not None
                    yield done

    def stream(self, prompt: Prompt, sampling: Sampling = GREEDY) -> Yields[bytes, None, Completion]:
        """The completion's bytes as soon as they are sure, complete characters only under `valid_utf8`; together they are its `data`. The
        generator's return value is the `Completion`."""
        row = self.progress(prompt, sampling)
        num_given = 0
        with self._engine() as engine:
            engine.add(row.request())
            while row.completion is None:
                for result in engine.step():
                    if not row.take_result(result):
                        engine.add(row.request())
                if new := row.sure(num_given):
                    yield new
                    num_given += len(new)
        return row.completion

    @contextmanager
    def _engine(self) -> Iterator[IdEngine]:
        """An engine for one caller: what it has read before stays, so that prompts that begin alike share it. Two that generate in turns
        have one each."""
        engine = self._idle.pop() if self._idle else IdEngine(self.loaded.model, self.num_rows, self.teller.row_length)
        try:
            yield engine
        finally:
            engine.clear()
            self._idle.append(engine)

    def _next(self, source: Iterator[Prompt], sampling: Sampling, order: deque[Progress]) -> Progress | None:
        prompt = next(source, None)
        if prompt is None:
            return None
        order.append(self.progress(prompt, sampling))
        return order[-1]

    def progress(self, prompt: Prompt, sampling: Sampling) -> Progress:
        """A completion at its begin, for whoever drives an engine."""
        told = self.teller.tell(prompt)
        free, healing = self._automata(prompt, told, sampling)
        return Progress(prompt, sampling, told, self._speller(prompt, told), self.teller.row_length, free=free, healing=healing)

    def _speller(self, prompt: Prompt, told: Told) -> Speller:
        if told.raw:
            return FixedSpeller()
        assert self.teller.view is not None
        assert self.teller.compressor is not None
        if self.teller.spelling is not None:
            return FixedSpeller(self.teller.spelling, self.teller.view)
        early = self.teller.compressor.spans(prompt.data) is not None
        return DecodingSpeller(self.teller.compressor, self.teller.view, prompt.data, told.symbols, early=early)

    def _automata(self, prompt: Prompt, told: Told, sampling: Sampling) -> tuple[Automaton, Automaton | None]:
        """What may follow this prompt, in free states; and the rules until its tail is spelled, whose states are those of the tail and
        then the free ones."""
        free = self._free(told.raw, sampling.valid_utf8)
        state = utf8.state_after(prompt.data) if sampling.valid_utf8 else 0
        if not told.tail:
            return Automaton(free, state), None
        view, healer = self.teller.view, self.teller.healer
        assert view is not None
        assert healer is not None
        columns = view.to_ids(np.arange(view.alphabet_size))  # symbols that share an id spell the same and lead to the same state
        table = np.full((len(told.tail) + len(free), free.shape[1]), -1, dtype=np.int16)
        table[len(told.tail) :] = np.where(free >= 0, free + len(told.tail), -1)
        table[: len(told.tail), columns] = healer.next_states(told.tail, free[:, columns], state)
        return Automaton(free, state), Automaton(table, 0)

    def _free(self, raw: bool, valid_utf8: bool) -> npt.NDArray[np.int16]:
        """int16 [1 or 8, V]: symbols of the view asked, or bytes, and the end of the document between characters."""
        if (raw, valid_utf8) in self._tables:
            return self._tables[raw, valid_utf8]
        table = np.full((utf8.NUM_STATES if valid_utf8 else 1, self.loaded.model.vocabulary_size), -1, dtype=np.int16)
        view = self.teller.view
        spelling: Sequence[bytes] | None = BYTES
        columns, end = np.arange(NUM_BYTES), RAW_END
        if not raw and view is not None:
            columns, end, spelling = view.to_ids(np.arange(view.alphabet_size)), view.end_id, self.teller.spelling
        if spelling is not None:
            found = utf8.spelled_transitions(spelling) if valid_utf8 else np.where([[not text for text in spelling]], -1, 0)
            table[:, columns] = found
        elif valid_utf8:
            raise RequestError(
                f"the symbols of view '{self.view}' do not spell the same bytes wherever they stand, so they cannot be held to valid "
                "UTF-8; ask without it, or in raw bytes"
            )
        else:
            table[:, columns] = 0
        table[utf8.START, [end, EOS]] = utf8.START
        self._tables[raw, valid_utf8] = table
        return table
