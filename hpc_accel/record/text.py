"""Texts in a record are other people's: run names, host names, error messages. Control characters end here."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

# Terminal escapes first as whole sequences, so that no "[31m" is left behind; then single control characters.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_MAX_TEXT = 4000
_CUT = " ... (cut)"


def clean(value: str) -> str:
    """The text without control characters, newlines and tabs kept, bounded in length."""
    text = _ESCAPES.sub("", value.encode("utf-8", "replace").decode("utf-8"))
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - len(_CUT)] + _CUT


def _clean_all(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(str(key)): _clean_all(each) for key, each in value.items()}
    return [_clean_all(each) for each in value] if isinstance(value, list | tuple) else value


Text = Annotated[str, AfterValidator(clean)]
Facts = Annotated[dict[str, Any], BeforeValidator(_clean_all)]
"""JSON of any shape, each text in it cleaned."""
