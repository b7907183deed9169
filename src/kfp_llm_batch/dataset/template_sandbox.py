"""The sandbox in which prompt templates run: the same row gives the same text, and no expression eats the machine."""

from __future__ import annotations

import datetime
import decimal
import functools
import re
import string
from collections.abc import Callable, Iterable
from typing import Any

import jinja2
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_PROMPT_CHARACTERS = 16 * 2**20

_MAX_NUMBER_BITS = 10_000
_MAX_WIDTH = 10_000
_LONG_WIDTH = re.compile(r"\d{5}")
_PRINTABLE = (
    str,
    int,
    float,
    decimal.Decimal,
    bytes,
    list,
    tuple,
    dict,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    jinja2.Undefined,  # prints as its own error
)


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """Jinja2 without chance, and with bounds where a short expression makes a huge value."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self) -> None:
        # Jinja2 would compute constant expressions at compile time, out of reach of the bounds.
        super().__init__(
            undefined=jinja2.StrictUndefined,
            autoescape=False,
            keep_trailing_newline=True,
            finalize=_printed,
            optimized=False,
        )
        # The same dataset must give the same prompts.
        del self.globals["lipsum"], self.filters["random"]
        self.filters["format"] = _format
        for name in ("center", "indent"):
            self.filters[name] = _bounded(self.filters[name])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute `left operator right`, unless its result would be huge."""
        if operator == "%" and isinstance(left, str):
            return _modulo(left, right)
        if operator == "*" and _product_size(left, right) > MAX_PROMPT_CHARACTERS:
            raise OverflowError(f"a product is longer than {MAX_PROMPT_CHARACTERS} characters")
        if operator != "%" and _number_bits(operator, left, right) > _MAX_NUMBER_BITS:
            raise OverflowError(f"a number has more than {_MAX_NUMBER_BITS} bits")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call `obj`; a method of a text takes no huge width."""
        if isinstance(getattr(obj, "__self__", None), str):
            _check_widths(args)
        return super().call(context, obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Guard `str.format` as the sandbox does, and its widths."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_format((spec or "" for _, _, spec, _ in string.Formatter().parse(value.__self__)), "{")
        return wrapped


@jinja2.pass_context  # with the context it is not applied to constants at compile time
def _printed(context: Context, value: Any) -> Any:
    if value is None:
        raise ValueError('a null value would be printed as "None"; write {{ name or "" }} to allow it')
    if not isinstance(value, _PRINTABLE):
        raise TypeError(f"a {type(value).__name__} would be printed; call it, or make a list or text of it")
    return value


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        _check_widths((*args, *kwargs.values()))
        return function(*args, **kwargs)

    return checked


def _check_widths(values: tuple[Any, ...]) -> None:
    if any(isinstance(value, int) and value > _MAX_WIDTH for value in values):
        raise OverflowError(f"a width is beyond {_MAX_WIDTH}")


def _format(value: Any, *args: Any, **kwargs: Any) -> str:
    """The filter `format`."""
    return _modulo(str(value), kwargs or args)


def _modulo(text: str, values: Any) -> str:
    _check_format(re.findall(r"%(?:\([^)]*\))?([^a-zA-Z%]*)", text), "*")
    return str(text % values)


def _check_format(codes: Iterable[str], elsewhere: str) -> None:
    if any(elsewhere in code or _LONG_WIDTH.search(code) for code in codes):
        raise OverflowError("a format asks for a width of five digits or one that is given elsewhere")


def _product_size(left: Any, right: Any) -> int:
    """How long a repeated text or list would be."""
    if isinstance(right, int) and isinstance(left, (str, bytes, list, tuple)):
        return len(left) * right
    if isinstance(left, int) and isinstance(right, (str, bytes, list, tuple)):
        return len(right) * left
    return 0


def _number_bits(operator: str, left: Any, right: Any) -> int:
    if not (isinstance(left, int) and isinstance(right, int)):
        return 0
    bits = left.bit_length()
    return bits * right if operator == "**" else bits + right.bit_length()
