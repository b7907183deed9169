"""Text that an engine gives out, as text that can be stored."""

from __future__ import annotations

REPLACEMENT = "\ufffd"
"""What a decoder puts in the place of bytes that are no character."""


def without_surrogates(text: str) -> str:
    """Halves of a surrogate pair joined where they belong together, and replaced where one is alone."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def whole_text(text: str, decoded: str) -> tuple[str, bool]:
    """An answer without the incomplete character at its end.

    vLLM gives out no text until the bytes so far are whole characters. So the end of an answer that was cut inside a
    character is missing from `text`, at times with whole characters that share a token with the incomplete one.

    Args:
        text: What the engine gave out.
        decoded: All of the answer's tokens, decoded together; bytes that are no character are U+FFFD there.

    Returns:
        The text, and whether it lacks something.
    """
    if not decoded.endswith(REPLACEMENT):
        return text, False
    text, whole = text.rstrip(REPLACEMENT), decoded.rstrip(REPLACEMENT)
    return (whole if whole.startswith(text) else text), True
