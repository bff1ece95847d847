"""Languages by file suffix: the one table behind `--languages` and the `language` column of a corpus.

The name is a lower-case word; `other` is a document whose name says nothing. A language here is a guess from the name: nothing is parsed.
"""

from __future__ import annotations

from collections.abc import Iterable

from proxy_lm.errors import RequestError

OTHER = "other"

_SUFFIXES = {
    "ada": "adb ads",
    "assembly": "asm s",
    "c": "c h",
    "clojure": "clj cljs cljc edn",
    "cmake": "cmake",
    "cpp": "cc cpp cxx c++ hh hpp hxx ipp tpp",
    "csharp": "cs csx",
    "css": "css scss sass less",
    "cuda": "cu cuh",
    "d": "d",
    "dart": "dart",
    "elixir": "ex exs",
    "elm": "elm",
    "erlang": "erl hrl",
    "fortran": "f f77 f90 f95 f03 f08 for",
    "fsharp": "fs fsi fsx",
    "go": "go",
    "groovy": "groovy gradle",
    "haskell": "hs lhs",
    "html": "html htm xhtml",
    "java": "java",
    "javascript": "js mjs cjs jsx",
    "json": "json jsonl json5 geojson",
    "julia": "jl",
    "jupyter": "ipynb",
    "kotlin": "kt kts",
    "latex": "tex sty cls bib",
    "lisp": "lisp lsp cl el scm rkt",
    "lua": "lua",
    "make": "mk mak",
    "markdown": "md markdown mdx",
    "matlab": "m",
    "nim": "nim",
    "objectivec": "mm",
    "ocaml": "ml mli",
    "pascal": "pas pp",
    "perl": "pl pm t",
    "php": "php phtml",
    "powershell": "ps1 psm1 psd1",
    "proto": "proto",
    "python": "py pyi pyx pxd pyw",
    "r": "r rmd",
    "ruby": "rb rake gemspec",
    "rust": "rs",
    "scala": "scala sc sbt",
    "shell": "sh bash zsh fish ksh",
    "sql": "sql",
    "swift": "swift",
    "tcl": "tcl",
    "text": "txt rst adoc",
    "toml": "toml",
    "typescript": "ts tsx mts cts",
    "verilog": "v vh sv svh",
    "vhdl": "vhd vhdl",
    "vue": "vue",
    "xml": "xml xsd xsl xslt svg",
    "yaml": "yaml yml",
    "zig": "zig",
}
_WHOLE_NAMES = {"makefile": "make", "gnumakefile": "make", "dockerfile": "dockerfile", "cmakelists.txt": "cmake", "rakefile": "ruby"}
_ALIASES = {
    "c++": "cpp",
    "c#": "csharp",
    "f#": "fsharp",
    "objective-c": "objectivec",
    "js": "javascript",
    "ts": "typescript",
    "golang": "go",
}

LANGUAGE_OF_SUFFIX = {suffix: language for language, suffixes in _SUFFIXES.items() for suffix in suffixes.split()}
LANGUAGES = tuple(sorted({*_SUFFIXES, *_WHOLE_NAMES.values(), OTHER}))


def language_of_path(path: str) -> str:
    """The language that a file's name suggests, `other` if none."""
    name = path.replace("\\", "/").rpartition("/")[2].lower()
    return _WHOLE_NAMES.get(name) or LANGUAGE_OF_SUFFIX.get(name.rpartition(".")[2] if "." in name else "", OTHER)


def language_of_name(name: str) -> str:
    """The language meant by a data set's own word for it (`Python`, `C++`), as that word in lower case if it is not in the table."""
    word = name.strip().lower()
    return _ALIASES.get(word, word) or OTHER


def check_languages(names: Iterable[str]) -> tuple[str, ...]:
    """Names as in the table, sorted, each once. Raises `RequestError` for a name that no suffix has."""
    found = {language_of_name(name) for name in names}
    if unknown := sorted(found - set(LANGUAGES)):
        raise RequestError(f"unknown language '{unknown[0]}'; known: {', '.join(LANGUAGES)}")
    return tuple(sorted(found))
