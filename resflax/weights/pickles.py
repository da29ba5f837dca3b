"""Pickles, read without being run.

A pickle is a program for a small stack machine that may call whatever can be imported. This machine has nothing to call: a
global is its name, and what a call of it stands for is decided by the reader of a format. So nothing in a file is ever
imported or executed, whatever it says.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, NamedTuple


class Refused(Exception):
    """A pickle asks for something that its reader does not know."""


class Global(NamedTuple):
    """What a pickle would import; here nothing but its dotted name."""

    name: str


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = frozenset(
    ("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
)
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def interpret(stream: BinaryIO, call: Callable[[str, Any], Any], persistent: Callable[[Any], Any]) -> Any:
    """What one pickle describes; the stream is left behind its end.

    Args:
      stream: at the start of a pickle of protocol 2 or later.
      call: `(name of a global, arguments) -> value`, for the calls that the pickle asks for; raises `Refused`.
      persistent: the value of an object that is stored outside the pickle, from its identity.

    Returns:
      Dictionaries, lists, tuples, strings, numbers, booleans, None, `Global`s and what the two functions return.

    Raises:
      Refused: it asks for an operation that is not known here.
      ValueError, LookupError, TypeError: it is damaged.
    """
    stack: list[Any] = []
    below: list[list[Any]] = []  # the stacks under each mark
    memo: dict[Any, Any] = {}

    def since_mark() -> list[Any]:
        nonlocal stack
        above, stack = stack, below.pop()
        return above

    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _VALUES:
            stack.append(argument)
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            count = _TUPLES[name]
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "MARK":
            below.append(stack)
            stack = []
        elif name == "TUPLE":
            items = tuple(since_mark())
            stack.append(items)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("APPEND", "APPENDS"):
            added = [stack.pop()] if name == "APPEND" else since_mark()
            _top(stack, list).extend(added)
        elif name in ("SETITEM", "SETITEMS"):
            added = [stack.pop(-2), stack.pop()] if name == "SETITEM" else since_mark()
            _top(stack, dict).update(make_dictionary(added[::2], added[1::2]))
        elif name == "GLOBAL":
            stack.append(Global(str(argument).replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            if not (isinstance(attribute, str) and isinstance(module, str)):
                raise TypeError("a global without a name")
            stack.append(Global(f"{module}.{attribute}"))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            if not isinstance(function, Global):
                raise TypeError("a call of what is no function")
            stack.append(call(function.name, arguments))
        elif name == "BINPERSID":
            stack.append(persistent(stack.pop()))
        elif name == "BUILD":
            stack.pop()  # attributes for the object below, which has none here
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise Refused(f"its pickle has the operation {name}")
    raise ValueError("the pickle has no end")


def make_dictionary(keys: Sequence[Any] = (), values: Sequence[Any] = ()) -> dict[Any, Any]:
    """The dictionary of keys that are text or numbers; hashing nested tuples may take for ever.

    Raises TypeError for other keys, and ValueError unless there are as many keys as values.
    """
    if not all(isinstance(key, (str, int, float, type(None))) for key in keys):
        raise TypeError("a key that is neither text nor a number")
    return dict(zip(keys, values, strict=True))


def _top(stack: list[Any], kind: type) -> Any:
    if not isinstance(stack[-1], kind):
        raise TypeError(f"items for what is no {kind.__name__}")
    return stack[-1]
