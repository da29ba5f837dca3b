"""The errors a user can cause, each with the exit code of the command that meets it.

A message is one sentence: what must hold, what was received, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_COMPARED = 100  # letters of a name: comparing takes the square of them


class ResflaxError(Exception):
    """An error that a command reports in one sentence, without a traceback."""

    exit_code = 1

    def __init__(self, message: str):
        super().__init__(one_line(message))


class ConfigError(ResflaxError):
    """A usage or configuration error: unknown key, wrong type, impossible combination."""

    exit_code = 2


class InputError(ResflaxError):
    """Some inputs could not be used (an unreadable image, an empty folder)."""

    exit_code = 3


class DataError(ResflaxError):
    """Numbers or data that must not be trained on: a non-finite loss, a label outside its range."""

    exit_code = 65


class StorageError(ResflaxError):
    """A file that could not be read or written, or a checkpoint that is not what it says."""

    exit_code = 74


class TemporaryError(ResflaxError):
    """What may go well later: a download that failed, a process of the job that was not there yet."""

    exit_code = 75


class Interrupted(ResflaxError):
    """A signal ended the run after its state was saved; the exit code is 128 + the signal's number."""

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number


def one_line(text: str, longest: int = 2000) -> str:
    """`text` as it can be shown: what libraries say, and names of files, may have several lines, or move a terminal's cursor.

    Line ends become spaces and other characters that cannot be printed their escapes; of more than `longest` characters the
    middle is left out.
    """
    text = " ".join(text.splitlines())
    if len(text) > longest:
        text = f"{text[: longest // 2]} ... {text[-longest // 2 :]}"
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def nearest(name: str, valid: Iterable[str], count: int = 1) -> list[str]:
    """The `count` members of `valid` most similar to `name`, most similar first; those that end with it come first."""
    name = name[:_COMPARED]
    alike = difflib.get_close_matches(name, sorted(valid), n=max(count, 20), cutoff=0.0)
    return sorted(alike, key=lambda one: not one.endswith(name))[:count]
