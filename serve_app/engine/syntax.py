"""Syntax: how one family of models writes calls."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Syntax:
    """Both ways: what a forced call looks like, and what is read as a call.

    A call is written ``head`` (``NAME`` stands for the function's), arguments, ``tail``; an answer's calls are
    ``opening begin call (between call)* end``. ``between`` None: one call an answer.

    ``reads`` matches what stands between the opening and the arguments' brace, with the name as its group;
    ``wrapped``: that is the beginning of an object which holds the arguments. ``marks`` may follow a call.
    ``repeats``: further calls need no opening; ``bare``: neither does the first, at the beginning of an answer.
    ``controls``: other tokens of the syntax that may be control tokens.
    """

    name: str
    opening: str
    head: str
    tail: str
    between: str | None
    reads: re.Pattern[str]
    marks: tuple[str, ...]
    begin: str = ""
    end: str = ""
    repeats: bool = False
    bare: bool = False
    wrapped: bool = True
    controls: tuple[str, ...] = ()
