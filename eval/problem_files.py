"""Rows of published problem files, and which problem each row is. Nothing is downloaded unless the source says `hf:`.

Read: .jsonl, .jsonl.gz, .json (one array), .parquet, and `hf:NAME[/CONFIG][:SPLIT]` through `datasets`. The format is told by the fields:

| fields | format |
|---|---|
| `base_input`, `plus_input` | HumanEval+ and MBPP+ release files; gold answers are computed by the judge (`eval.plus`) |
| `suffix` | HumanEval-Infilling: single-line, multi-line, random-span, light |
| `test_list`, `code` | MBPP full and sanitized; with `test` a row of MBPP+ as the hub has it |
| `prompt`, `test`, `entry_point` | HumanEval, and HumanEval+ as the hub has it |

Integer ids of MBPP become `Mbpp/7`, the spelling of EvalPlus's sample files.
"""

from __future__ import annotations

import ast
import builtins
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.plus import is_release, plus_problem
from eval.problems import Problem, helpers_above
from proxy_lm.errors import RequestError

Row = Mapping[str, Any]


def read_rows(source: str | Path, *, what: str = "problems", remedy: str = "download the file again") -> Iterator[Row]:
    """Rows in the order of the file. Raises `RequestError` with the line number for what cannot be read; `what` the rows are and the
    `remedy` for a damaged file are said there."""
    if str(source).startswith("hf:"):
        yield from _from_hub(str(source)[3:])
        return
    path = Path(source)
    if path.is_dir():
        raise RequestError(f"{path} is a folder; give one file of {what} (.jsonl, .jsonl.gz, .json or .parquet)")
    if path.suffix == ".parquet":
        yield from _from_parquet(path)
    elif path.suffix == ".json":
        rows = _parsed(_text(path, remedy), path, 1, remedy)
        if not isinstance(rows, list):
            raise RequestError(f"{path} holds a {type(rows).__name__}; a .json file of {what} is one array (or name it .jsonl)")
        yield from (_object(row, path, number) for number, row in enumerate(rows, start=1))
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        for number, line in enumerate(_text(path, remedy).split("\n"), start=1):
            if line.strip():
                yield _object(_parsed(line, path, number, remedy), path, number)
    else:
        raise RequestError(f"{path} has a suffix unknown here; {what} come as .jsonl, .jsonl.gz, .json or .parquet")


def problem_of(row: Row) -> Problem:
    """One problem. Raises `KeyError` with the missing field, or `ValueError` with what is wrong."""
    if is_release(row):
        return plus_problem(row)
    if "suffix" in row:
        return _infilling(row)
    if "test_list" in row:
        return _mbpp(row)
    return _humaneval(row)


def _humaneval(row: Row) -> Problem:
    prompt, entry, solution = str(row["prompt"]), str(row["entry_point"]), str(row.get("canonical_solution") or "")
    return Problem(
        task_id=str(row["task_id"]),
        prompt=prompt,
        entry_point=entry,
        canonical_solution=solution,
        test=f"{row['test']}\n\ncheck({entry})\n",
        style="humaneval",
        setup=helpers_above(prompt + (solution or "    pass\n"), entry),
        level=str(row.get("level") or ""),
    )


def _infilling(row: Row) -> Problem:
    prompt, suffix, entry = str(row["prompt"]), str(row["suffix"]), str(row["entry_point"])
    solution = str(row.get("canonical_solution") or "")
    return Problem(
        task_id=str(row["task_id"]),
        prompt=prompt,
        suffix=suffix,
        entry_point=entry,
        canonical_solution=solution,
        test=f"{row['test']}\n\ncheck({entry})\n",
        style="infilling",
        setup=helpers_above(prompt + solution + suffix, entry),
    )


def _mbpp(row: Row) -> Problem:
    """Full (`text`), sanitized (`prompt`) and the hub's MBPP+ (`test` beside `test_list`). Names wanted are read from the asserts."""
    examples = tuple(str(line) for line in _sequence(row["test_list"]))
    test = str(row.get("test") or "\n".join(examples)) + "\n"
    setup = "\n".join([*map(str, _sequence(row.get("test_imports"))), str(row.get("test_setup_code") or "")]).strip()
    code = str(row["code"])
    wanted = names_wanted(test, setup, code)
    if all(name in _imports(code) for name in wanted):
        raise ValueError(f"task {row['task_id']} tests no function of its solution")
    # What the solution merely imports is not its own: the judge imports it itself, or a program could bring a Counter that equals anything.
    imports = _imports(code)
    setup = "\n".join(dict.fromkeys([*filter(None, [setup]), *(imports[name] for name in wanted if name in imports)]))
    wanted = [name for name in wanted if name not in imports]
    # The function that the examples call first is the one that is asked for; the tests may need others, in any order.
    first = next((name for name in names_wanted("\n".join(examples), setup, code) if name in wanted), wanted[0])
    return Problem(
        task_id=mbpp_id(row["task_id"]),
        prompt=str(row["text"] if "text" in row else row["prompt"]),
        entry_point=first,
        canonical_solution=code,
        test=test,
        style="mbpp",
        setup=setup,
        examples=examples,
        more_entry_points=tuple(name for name in wanted if name != first),
    )


def mbpp_id(task_id: Any) -> str:
    """`7` and `"7"` as `Mbpp/7`; any other spelling as it is."""
    return f"Mbpp/{task_id}" if str(task_id).isdigit() else str(task_id)


def names_wanted(test: str, setup: str, code: str) -> list[str]:
    """Names that `test` reads and does not get from itself, `setup` or Python: what a solution has to define, functions called first.

    Where `code` parses, only names that it defines at top level count. Raises `ValueError` when the tests do not parse.
    """
    try:
        tree = ast.parse(f"{setup}\n{test}")
    except SyntaxError as error:
        raise ValueError(f"its tests are not Python: {error}") from error
    bound = {name for node in ast.walk(tree) for name in _bound(node)}
    reads = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    called = [node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    names = dict.fromkeys([*called, *(node.id for node in sorted(reads, key=lambda node: (node.lineno, node.col_offset)))])
    free = [name for name in names if name not in bound and not hasattr(builtins, name)]
    try:
        defined = {name for node in ast.parse(code).body for name in _bound(node)}
    except SyntaxError:
        return free
    return [name for name in free if name in defined]


def _imports(code: str) -> dict[str, str]:
    """Names that a program imports at top level, each with its statement."""
    try:
        body = ast.parse(code).body
    except SyntaxError:
        return {}
    return {name: ast.unparse(node) for node in body if isinstance(node, ast.Import | ast.ImportFrom) for name in _bound(node)}


def _bound(node: ast.AST) -> list[str]:
    """Names that a statement or a binding occurrence gives a value."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
    if isinstance(node, ast.arg):
        return [node.arg]
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return [node.id]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []


def _from_parquet(path: Path) -> Iterator[Row]:
    from proxy_lm.data.streams import open_parquet

    with open_parquet(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


def _from_hub(address: str) -> Iterator[Row]:
    import datasets

    place, _, split = address.partition(":")
    parts = place.split("/")
    name, config = "/".join(parts[:2]), "/".join(parts[2:]) or None
    try:
        rows = datasets.load_dataset(name, config, split=split or "test")
    except Exception as error:
        # `datasets` raises a dozen classes, of its own and of the network's; for a user all of them mean one thing.
        reason = " ".join(str(error).split())[:200]
        raise RequestError(
            f"hf:{address} could not be loaded ({type(error).__name__}: {reason}); download its file by hand and give the path"
        ) from error
    for row in rows:
        yield dict(row)


def _text(path: Path, remedy: str) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (OSError, EOFError) as error:
        raise RequestError(f"could not read {path}: {error}") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8 text ({error}); {remedy}") from error


def _parsed(text: str, path: Path, number: int, remedy: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path}, line {number} is not JSON ({error}); {remedy}") from error


def _object(row: Any, path: Path, number: int) -> Row:
    if not isinstance(row, dict):
        raise RequestError(f"{path}, line {number} is a {type(row).__name__} and not a JSON object with named fields")
    return row


def _sequence(value: Any) -> Sequence[Any]:
    """A list field that may be missing or null."""
    return value if isinstance(value, list | tuple) else []
