"""What a template's tokens depend on, as plain JSON and as a checksum: equal checksums, equal tokens."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from preferent.data.template import Template

LIBRARIES = ("preferent", "transformers", "tokenizers", "jinja2", "pyarrow")


def settings(template: Template) -> dict[str, Any]:
    """A template's own fields, without its tokenizer and without what is only told to people."""
    names = [each.name for each in dataclasses.fields(template) if each.name not in ("tokenizer", "remedy")]
    return {name: getattr(template, name) for name in names}


def fingerprint(template: Template) -> str | None:
    """A checksum of all that decides which tokens a text becomes; None where that cannot be told.

    That is so for tokenizers that are programs of their own (without a ``tokenizer.json``), and for templates with
    options that JSON has no words for. The code that makes tokens is part of it: this package's and its libraries'.
    """
    backend = getattr(template.tokenizer, "backend_tokenizer", None)
    if backend is None or type(template) is not Template:
        return None
    template.tokens("")  # the first use of a tokenizer clears settings for padding that it may have been saved with
    said = {
        "libraries": {name: version(name) for name in LIBRARIES},
        "code": checksum(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))),
        "settings": settings(template),
        "tokenizer": [type(template.tokenizer).__qualname__, checksum(backend.to_str().encode())],
        "special": {name: str(token) for name, token in template.tokenizer.special_tokens_map.items()},
        "ends": template.end_tokens,
        "templates": [template.source, template.source_with_tools],
    }
    return checksum_of(said)


def checksum_of(said: Mapping[str, Any]) -> str | None:
    """A checksum of something that JSON can say; None where it cannot."""
    try:
        return checksum(json.dumps(said, sort_keys=True).encode())
    except (TypeError, ValueError):
        return None


def checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
