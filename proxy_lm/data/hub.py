"""Data sets by name, streamed with the `datasets` library: `hf:NAME[/CONFIG]` as a SRC of `proxy-lm prepare`.

NAME is `owner/name`, or a local folder of JSON lines or parquet, which needs no network. No code that comes with a data set is ever run.
Which revision of a named data set is read is not fixed: a finished corpus is, by its digest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from proxy_lm.errors import ProxyError, RequestError, WorkError


def parse_hub(spec: str) -> tuple[str, str | None]:
    """`hf:owner/name/config` as ("owner/name", "config"); a folder is taken whole. Raises `RequestError` for anything else."""
    name = spec.removeprefix("hf:")
    if name and Path(name).is_dir():
        return name, None
    parts = name.split("/")
    if not all(parts) or len(parts) > 3 or name.startswith((".", "~")):
        raise RequestError(f"'{spec}' is neither hf:OWNER/NAME[/CONFIG] nor hf: and an existing folder")
    return "/".join(parts[:2]), parts[2] if len(parts) == 3 else None


def open_hub(name: str, config: str | None, split: str) -> Any:
    """The streamed data set, nothing read yet. Raises `RequestError` that says whether the network, the name or the split is at fault."""
    is_folder = Path(name).is_dir()
    if not is_folder and os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise RequestError(
            f"hf:{name} needs the network and HF_HUB_OFFLINE is set; unset it, or name a local folder that holds the data set's files"
        )
    import datasets

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(name, config, split=split, streaming=True)
    except ProxyError:
        raise
    except Exception as error:  # the library raises whatever its file systems and parsers raise
        raise RequestError(_sentence(name, config, split, error)) from error


def hub_records(name: str, config: str | None, split: str, shard: int, num_shards: int) -> Iterator[Mapping[str, Any]]:
    """The records of one shard of `num_shards`. Raises `WorkError` if the stream breaks off."""
    dataset = open_hub(name, config, split)
    if num_shards > 1:
        dataset = dataset.shard(num_shards=num_shards, index=shard)
    rows = iter(dataset)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # as above: network, decompression and parsing errors of any class
            raise WorkError(
                f"reading hf:{name} stopped in shard {shard + 1} of {num_shards} ({type(error).__name__}: {_first_line(error)}); "
                "run the same command again to continue"
            ) from error
        yield row


def _sentence(name: str, config: str | None, split: str, error: Exception) -> str:
    what = f"hf:{name}" + (f"/{config}" if config else "")
    if isinstance(error, ConnectionError | TimeoutError) or "onnect" in type(error).__name__:
        return f"{what} could not be reached ({_first_line(error)}); check the network, or name a local folder with the data set's files"
    return f"{what} with the split '{split}' could not be opened ({type(error).__name__}: {_first_line(error)}); check name and --hub-split"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:300]
