"""The processes that score: one in place, several on this machine, or the ranks of a launcher (`WORLD_SIZE` in the environment).

Workers share nothing but the folder of finished blocks, so their number changes the time and never the totals.
"""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch

from compressors.files import write_json
from eval.blocks import Block, pending, plan_blocks, read_done, work
from eval.bpb import EvaluationSettings, Job
from eval.scorer import Scorer, reading_of
from proxy_lm.data.corpus import Corpus
from proxy_lm.errors import ProxyError, RequestError, WorkError
from proxy_lm.progress import ProgressBar, note
from proxy_lm.reading import compressor_of, device_named, open_corpus, reading_view
from proxy_lm.train.launch import detect
from proxy_lm.train.restore import LoadedModel, load_model
from proxy_lm.train.weights import WEIGHTS_NAME

_PR_SET_PDEATHSIG = 1


def run_workers(run: Path, settings: EvaluationSettings, *, num_workers: int, corpus: Path | None) -> tuple[Job, Corpus, list[Block]]:
    """Score every block of the job that is not done yet; returns when all are."""
    if num_workers < 1:
        raise RequestError(f"{num_workers} workers score nothing; give at least 1")
    rank, world_size = _ranks()
    job, opened, loaded = open_job(run, settings, corpus, verify=True)
    blocks = plan_blocks(opened.sizes, job.documents(opened))
    if rank == 0:
        write_json(job.folder / "job.json", describe(job))
    todo = [block for block in blocks if block.index not in read_done(job.folder, blocks)] if world_size == 1 else blocks
    threads, num_workers = _threads(num_workers), min(num_workers, max(1, len(todo)))
    total_bytes = sum(block.num_bytes for block in todo)
    if not todo:
        note(f"{run}: scored already with these settings")
        return job, opened, blocks
    with ProgressBar(f"bits per byte of {run.name}", total_bytes if world_size == 1 else None) as bar:
        if world_size > 1:
            _launched(job, opened, loaded, blocks, rank, world_size, bar)
        elif num_workers == 1:
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                for block in score_blocks(job, opened, loaded, blocks, 0, 1):
                    bar.advance(block.num_bytes)
            finally:
                torch.set_num_threads(before)
        else:
            del loaded  # each worker has its own
            _spawned(job, num_workers, threads, bar)
    return job, opened, blocks


def _ranks() -> tuple[int, int]:
    """(rank, world size) of this process under a launcher; (0, 1) without one, and then the environment is left alone."""
    environment = dict(os.environ)
    launch = detect(environment)
    if launch.world_size > 1:
        os.environ.update(environment)
    return launch.rank, launch.world_size


def open_job(run: Path, settings: EvaluationSettings, corpus: Path | None, *, verify: bool) -> tuple[Job, Corpus, LoadedModel]:
    """Load the newest valid checkpoint of the run, and the corpus it was trained on; `verify` compares the digest of every byte of it."""
    loaded = load_model(run, device=device_named(settings.device))
    opened = open_corpus(loaded, corpus, verify=verify)
    view = settings.view or reading_view(loaded.settings)
    weights = next(entry["sha256"] for entry in loaded.manifest["files"] if entry["name"] == WEIGHTS_NAME)
    job = Job(run, opened.path, settings, view, loaded.step, weights, opened.digest)
    return job, opened, loaded


def describe(job: Job) -> dict[str, Any]:
    """What the folder of blocks is about, for people."""
    return {
        "view": job.view,
        "checkpoint": {"step": job.checkpoint_step, "digest": job.checkpoint_digest},
        "corpus_digest": job.corpus_digest,
        "settings": job.settings.model_dump(mode="json"),
    }


def score_blocks(job: Job, corpus: Corpus, loaded: LoadedModel, blocks: list[Block], rank: int, world_size: int) -> Iterator[Block]:
    """This worker's share of what is not done; yields each block once it is on the disk."""
    compressor = compressor_of(loaded, job.view)
    settings = job.settings
    scorer = Scorer(
        loaded.model,
        reading_of(loaded.vocabulary, job.view, compressor),
        row_length=loaded.settings.row_length,
        context_bytes=settings.context_bytes,
        stride_bytes=settings.stride_bytes,
        windows_per_batch=settings.windows_per_batch,
        score_end=settings.score_end,
        device=next(loaded.model.parameters()).device,
    )
    todo = pending(job.folder, blocks, rank, world_size)
    yield from work(job.folder, todo, rank, lambda block: _score(scorer, corpus, block))


def _score(scorer: Scorer, corpus: Corpus, block: Block) -> dict[str, Any]:
    scores = scorer.rolling_many([corpus.document(index) for index in range(block.first, block.stop)])
    return {
        "nll_nats": [math.fsum(score.nll_nats) for score in scores],
        "end_nats": [score.end_nats for score in scores],
        "num_symbols": sum(len(score.nll_nats) for score in scores),
        "num_windows": sum(score.num_windows for score in scores),
        "num_short_windows": sum(score.num_short_windows for score in scores),
        "num_told_raw": sum(score.told_raw for score in scores),
    }


def _threads(num_workers: int) -> int:
    """Threads of one worker. From the number that was asked for, not of those that still have work: threads change the last bits of sums,
    and a continued evaluation ends with the numbers of an uninterrupted one."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) else max(1, len(os.sched_getaffinity(0)) // num_workers)


def _launched(job: Job, corpus: Corpus, loaded: LoadedModel, blocks: list[Block], rank: int, world_size: int, bar: ProgressBar) -> None:
    """One rank of a launcher. The barriers keep a fast rank from merging before a slow one has written, and a slow one from missing
    what a fast one has taken."""
    torch.distributed.init_process_group("gloo")
    try:
        for block in score_blocks(job, corpus, loaded, blocks, rank, world_size):
            bar.advance(block.num_bytes)
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


def _spawned(job: Job, num_workers: int, threads: int, bar: ProgressBar) -> None:
    """Several processes on this machine; the first error of any is raised here, and none outlives this one."""
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, SpawnProcess] = {}
    for rank in range(num_workers):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(job, rank, num_workers, threads, theirs), daemon=True)
        process.start()
        theirs.close()
        workers[ours] = process
    try:
        while workers:
            for ready in wait(list(workers)):
                assert isinstance(ready, Connection)
                try:
                    message = ready.recv()
                except EOFError:
                    process = workers.pop(ready)
                    process.join()
                    if process.exitcode:
                        raise WorkError(
                            f"a scoring process died with exit code {process.exitcode}; what is done is kept: run the same command again"
                        ) from None
                    continue
                if isinstance(message, int):
                    bar.advance(message)
                else:
                    raise (RequestError if message[0] == 2 else WorkError)(message[1])
    finally:
        for process in workers.values():
            process.terminate()


def _child(job: Job, rank: int, world_size: int, threads: int, pipe: Connection) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets the Ctrl-C and ends us
    torch.set_num_threads(threads)
    report: Callable[[Any], None] = pipe.send
    try:
        again, corpus, loaded = open_job(job.run, job.settings, job.corpus, verify=False)  # the parent has verified it
        if again.key != job.key:
            raise WorkError(f"the checkpoint of {job.run} changed while it was being measured; run the same command again")
        blocks = plan_blocks(corpus.sizes, job.documents(corpus))
        for block in score_blocks(job, corpus, loaded, blocks, rank, world_size):
            report(block.num_bytes)
    except ProxyError as error:
        report((error.exit_code, str(error)))
    finally:
        pipe.close()
