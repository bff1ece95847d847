"""Steps do not depend on who reads them: world size, micro-batch, accumulation, prefetch and the place of a restart deal the same rows."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from proxy_lm.config import load as load_settings
from proxy_lm.data.bench import MemoryDocuments
from proxy_lm.data.loader import Loader, LoaderSettings
from proxy_lm.data.mixing import MixSettings
from proxy_lm.data.plan import Plan, step_digest
from proxy_lm.data.rows import RowReader
from proxy_lm.errors import RequestError, WorkError
from proxy_lm.train.settings import RunSettings, changed_settings
from proxy_lm.vocabulary import Vocabulary

SIZES = np.random.default_rng(0).lognormal(3.0, 1.0, 200).astype(np.int64)
NUM_STEPS = 40
ROWS = 8  # of one step
LAYOUTS = [
    {"rate": [[0.0, 0.2], [1.0, 0.9]]},
    {"rate": 0.5, "pair": [[0.0, 1.0], [1.0, 0.0]]},
    {"pair": 0.25, "parallel": 0.25},
]


def make_reader(mix: dict[str, Any] = LAYOUTS[1], packing: str = "cut") -> RowReader:
    raw, view = MemoryDocuments(SIZES, 256, seed=1), MemoryDocuments(SIZES // 3, 1000, seed=2)
    vocabulary = Vocabulary([("made-up", 1000)])
    plan = Plan(
        sizes=SIZES,
        documents=range(SIZES.size),
        views=[view],
        vocabulary=vocabulary,
        mix=MixSettings.model_validate(mix),
        seed=0,
        row_length=32,
        lookahead=1,
        num_rows=NUM_STEPS * ROWS,
        packing=packing,
    )
    return RowReader(raw, [view], vocabulary, plan)


def load(reader: RowReader, rows_per_device: int, world_size: int, first_step: int = 0, num_steps: int = NUM_STEPS, **reading: int):
    """Ids of each global step, rows in global order, put together from all ranks: [num_steps, ROWS, L + H]."""
    accumulation = ROWS // (rows_per_device * world_size)
    steps = np.zeros((num_steps, accumulation, world_size, rows_per_device, 33), dtype=np.int64)
    for rank in range(world_size):
        with Loader(
            reader,
            first_step=first_step,
            num_steps=num_steps,
            rows_per_device=rows_per_device,
            accumulation=accumulation,
            rank=rank,
            world_size=world_size,
            **reading,
        ) as loader:
            for step, batches in enumerate(loader):
                assert len(batches) == accumulation
                steps[step, :, rank] = np.stack([batch.ids for batch in batches])
    return steps.reshape(num_steps, ROWS, 33)


@pytest.fixture(scope="module")
def whole() -> np.ndarray:
    """The uninterrupted run on one device."""
    return load(make_reader(), rows_per_device=ROWS, world_size=1)


@pytest.mark.parametrize(
    ("rows_per_device", "world_size"), [(1, 1), (2, 1), (4, 1), (8, 1), (4, 2), (2, 2), (1, 2), (2, 4), (1, 4), (1, 8)]
)
def test_any_world_size_and_accumulation_deal_the_same_rows(whole, rows_per_device, world_size):
    """A3: the schedule moved once a micro-batch, so accumulating k of them ran it k times too fast. Here it follows symbols."""
    assert np.array_equal(load(make_reader(), rows_per_device, world_size), whole)


@pytest.mark.parametrize(("workers", "prefetch_steps"), [(0, 2), (1, 1), (1, 7), (1, 100), (2, 2), (3, 1), (8, 20)])
def test_reading_ahead_changes_nothing(whole, workers, prefetch_steps):
    """A3: the schedule also ran ahead of the training by whatever the queue held."""
    assert np.array_equal(load(make_reader(), 4, 2, workers=workers, prefetch_steps=prefetch_steps), whole)


@pytest.mark.parametrize("packing", ["cut", "fit"])
def test_packed_rows_are_dealt_like_any(packing):
    mix = {"rate": 0.3, "parallel": 0.2, "fim": {"rate": 0.5}}
    whole = load(make_reader(mix, packing), ROWS, 1)
    assert np.array_equal(load(make_reader(mix, packing), 2, 2, workers=2, prefetch_steps=3), whole)
    assert np.array_equal(load(make_reader(mix, packing), 1, 4, first_step=33, num_steps=5, workers=0), whole[33:38])


class Uneven(RowReader):
    """Takes its time for some rows, so that workers finish out of order; remembers which steps were read and when."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.first_rows: list[int] = []

    def read(self, rows):
        self.first_rows.append(rows[0])
        time.sleep(0.02 if rows[0] // ROWS % 3 == 0 else 0.0)
        return super().read(rows)


def uneven() -> Uneven:
    good = make_reader()
    return Uneven(good._sources[0], [good._sources[1]], good.vocabulary, good.plan)


def test_steps_come_in_order_whichever_worker_is_first(whole):
    reader = uneven()
    assert np.array_equal(load(reader, ROWS, 1, num_steps=12, workers=3, prefetch_steps=4), whole[:12])
    assert sorted(reader.first_rows) == [step * ROWS for step in range(12)]  # each once


def test_no_more_than_the_wanted_steps_are_read_ahead():
    reader = uneven()
    with Loader(
        reader, first_step=0, num_steps=40, rows_per_device=8, accumulation=1, rank=0, world_size=1, workers=2, prefetch_steps=5
    ) as loader:
        for taken in range(1, 4):
            next(loader)
            time.sleep(0.2)
            assert len(reader.first_rows) == taken + 5


@pytest.mark.parametrize("mix", LAYOUTS, ids=["view", "pair", "parallel"])
def test_thirty_restarts_give_the_uninterrupted_rows(mix):
    """A2: the generator's state was saved before a document's draws and its position after them, so that a resumed run drew every view
    anew, one document off, and an offset past the end of a re-drawn document was skipped."""
    whole = load(make_reader(mix), rows_per_device=8, world_size=1)
    for first in np.random.default_rng(2).permutation(NUM_STEPS)[:30].tolist():
        num_steps = min(3, NUM_STEPS - first)
        assert np.array_equal(load(make_reader(mix), 4, 2, first, num_steps), whole[first : first + num_steps]), first


def test_the_digest_of_a_step_is_one_for_all_world_sizes():
    """A5: the loader's state was one file a rank, good for that number of ranks only, and nothing named the documents of a step."""
    reader = make_reader()
    single = [step_digest(reader.plan, step, ROWS) for step in range(NUM_STEPS)]
    with Loader(reader, first_step=0, num_steps=NUM_STEPS, rows_per_device=8, accumulation=1, rank=0, world_size=1) as loader:
        assert [batches[0].digest for batches in loader] == single
    assert len(set(single)) == NUM_STEPS


def test_counts_of_all_ranks_add_up_to_the_plan():
    reader = make_reader()
    total = np.zeros(2, dtype=np.int64)
    for rank in range(2):
        with Loader(reader, first_step=0, num_steps=NUM_STEPS, rows_per_device=2, accumulation=2, rank=rank, world_size=2) as loader:
            total += sum(batch.source_bytes for batches in loader for batch in batches)
    views = reader.plan.summary()["views"]
    assert total.tolist() == [views["raw"]["source_bytes"], views["made-up"]["source_bytes"]]


class Broken(RowReader):
    """Fails in one row."""

    def read(self, rows):
        if 3 * ROWS in rows:
            raise WorkError("the disk went away")
        return super().read(rows)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_error_while_reading_reaches_the_consumer_as_itself_in_its_step(workers):
    """A6: any exception while reading ended the process on the spot, without a word of what it was."""
    good = make_reader()
    reader = Broken(good._sources[0], [good._sources[1]], good.vocabulary, good.plan)
    loader = Loader(reader, first_step=0, num_steps=NUM_STEPS, rows_per_device=8, accumulation=1, rank=0, world_size=1, workers=workers)
    for _ in range(3):
        assert len(next(loader)) == 1
    with pytest.raises(WorkError, match="the disk went away"):
        next(loader)
    assert not any(thread.name == "loader" for thread in threading.enumerate())
    with pytest.raises(StopIteration):
        next(loader)


def test_steps_before_the_error_arrive():
    good = make_reader()
    reader = Broken(good._sources[0], [good._sources[1]], good.vocabulary, good.plan)
    with Loader(reader, first_step=0, num_steps=9, rows_per_device=8, accumulation=1, rank=0, world_size=1, prefetch_steps=5) as loader:
        assert [len(next(loader)) for _ in range(3)] == [1, 1, 1]
        with pytest.raises(WorkError, match="the disk went away"):
            next(loader)


def test_leaving_early_ends_the_thread():
    with Loader(make_reader(), first_step=0, num_steps=NUM_STEPS, rows_per_device=1, accumulation=8, rank=0, world_size=1) as loader:
        next(loader)
        assert any(thread.name == "loader" for thread in threading.enumerate())
    assert not any(thread.name == "loader" for thread in threading.enumerate())
    loader.close()
    assert list(loader) == []


def test_the_wait_is_counted_and_hidden_behind_a_step():
    reader = make_reader()
    with Loader(reader, first_step=0, num_steps=20, rows_per_device=8, accumulation=1, rank=0, world_size=1) as loader:
        next(loader)
        before = loader.wait_seconds
        assert before > 0.0
        for _ in loader:
            time.sleep(0.005)
        assert loader.wait_seconds - before < 19 * 0.005  # generous: the machine may be busy; `make bench` measures the share


def test_steps_beyond_the_plan_are_refused():
    with pytest.raises(RequestError, match=r"step 40 ends at row 327, and the plan has 320 rows"):
        Loader(make_reader(), first_step=0, num_steps=41, rows_per_device=8, accumulation=1, rank=0, world_size=1)
    with pytest.raises(RequestError, match="rows_per_device is 0"):
        Loader(make_reader(), first_step=0, num_steps=1, rows_per_device=0, accumulation=1, rank=0, world_size=1)
    assert list(Loader(make_reader(), first_step=40, num_steps=0, rows_per_device=8, accumulation=1, rank=0, world_size=1)) == []


def test_workers_and_depth_may_differ_between_a_checkpoint_and_its_continuation():
    assert changed_settings({"loader": {"workers": 1, "prefetch_steps": 2}}, {"loader": {"workers": 4, "prefetch_steps": 9}}) == []
    assert (LoaderSettings().workers, LoaderSettings().prefetch_steps) == (1, 2)
    for wrong, said in (({"workers": -1}, "loader.workers"), ({"prefetch_steps": 0}, "loader.prefetch_steps")):
        with pytest.raises(RequestError, match=said):
            load_settings(RunSettings, None, base={"name": "x", "corpus": "c", "num_steps": 1, "loader": wrong})
