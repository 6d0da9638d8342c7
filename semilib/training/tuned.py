"""The settings that `semilib.study.tuning` chose for each method on features. The tables of that study have them."""
from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("tuned.json")


@functools.cache
def settings_of(method: str) -> dict[str, dict[str, Any]]:
    """A method's settings on features: fields, options, held-out accuracy.

    A method that is not tuned yet has none, and a held-out accuracy of None: its runs have the profile's own values,
    and its tables say so."""
    chosen = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    return chosen.get(method, {"fields": {}, "options": {}, "heldout": None})
