"""What a table may say of two rows: the difference over the seeds that both have, its interval, and Holm's correction.

A seed's two runs share their split where each seed draws one, so that what a split does to both cancels.
"""
from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Any

import pandas as pd

LEVEL = 0.05                    # of the comparisons of one table together


def difference(values: dict[int, float], reference: dict[int, float]) -> dict[str, Any]:
    """A row less another, over the seeds that both have, in percentage points. values, reference: seed -> share.

    gain: the mean. low, high: with three pairs or more the 95 % interval of Student's t, with two both differences.
    p: of the two-sided paired t test. effect: Cohen's d_z, the mean over the standard deviation of the pairs. What the
    pairs do not give is NaN."""
    pairs = [100 * (values[s] - reference[s]) for s in sorted(values.keys() & reference.keys())]
    gain = statistics.fmean(pairs) if pairs else math.nan
    out = {"gain": gain, "low": math.nan, "high": math.nan, "p": math.nan, "effect": math.nan, "pairs": len(pairs)}
    if len(pairs) == 2:
        out |= {"low": min(pairs), "high": max(pairs)}
    elif len(pairs) > 2:
        from scipy import stats
        spread = statistics.stdev(pairs)
        half = stats.t.ppf(0.975, len(pairs) - 1) * spread / math.sqrt(len(pairs))
        out |= {"low": gain - half, "high": gain + half}
        if spread > 0:
            out |= {"effect": gain / spread,
                    "p": 2 * stats.t.sf(abs(gain / spread) * math.sqrt(len(pairs)), len(pairs) - 1)}
    return out


def holm(p: Iterable[float]) -> list[float]:
    """p values corrected for their number by Holm's step-down rule (1979); NaN stays and does not count."""
    p = list(p)
    known = sorted((value, i) for i, value in enumerate(p) if not math.isnan(value))
    out, least = [math.nan] * len(p), 0.0
    for rank, (value, i) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * value))
        out[i] = least
    return out


def in_words(row: pd.Series) -> str:
    """A difference as a cell shows it; * where Holm's p is below `LEVEL`."""
    if not row["pairs"]:
        return ""
    between = {1: "", 2: f" ({row['low']:+.1f}, {row['high']:+.1f})"}.get(
        row["pairs"], f" [{row['low']:+.1f}, {row['high']:+.1f}]")
    return f"{row['gain']:+.1f}{between}" + (" *" if row["p_holm"] < LEVEL else "")
