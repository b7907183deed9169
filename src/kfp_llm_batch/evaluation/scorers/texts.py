"""Texts made comparable."""

from __future__ import annotations

import re
import string
import unicodedata

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def squad_normalized(text: str) -> str:
    """Lower case, without ASCII punctuation, English articles and surplus white space: the convention of SQuAD."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def folded(text: str) -> str:
    """Without differences of case, of Unicode's compatible forms, and of white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
