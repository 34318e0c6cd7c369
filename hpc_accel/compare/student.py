"""Student's t and the two gamma functions that the spread of few repeats needs. The package needs no scipy for them.

Formulas: Abramowitz and Stegun, "Handbook of Mathematical Functions": 26.5 and 26.7 (t by the incomplete beta function
and its continued fraction), 6.3 and 6.4 (digamma and trigamma by recurrence and asymptotic series).
"""

from __future__ import annotations

import math

_TINY = 1e-300


def two_sided_p(t: float, df: float) -> float:
    """Probability that |T| of `df` degrees of freedom is at least |t|."""
    return _incomplete_beta(df / (df + t * t), df / 2, 0.5)


def quantile(p: float, df: float) -> float:
    """The t that is exceeded by chance, on either side, with probability `p` (0 < p < 1)."""
    low, high = 0.0, 1.0
    while two_sided_p(high, df) > p:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p(middle, df) > p else (low, middle)
    return high


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Regularised; x from 0 to 1."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(1 - x, b, a)
    logs = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(logs) / a / _fraction(x, a, b)


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction 1 + d1/(1 + d2/(1 + ...)), by Lentz's method."""
    value, above, below = 1.0, 1.0, 0.0
    for index in range(1, 500):
        m = index // 2
        if index % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        below = 1 / (1 + term * below or _TINY)
        above = 1 + term / above or _TINY
        value *= above * below
        if abs(above * below - 1) < 1e-15:
            break
    return value


def digamma(x: float) -> float:
    """Derivative of log gamma, x > 0."""
    shift = 0.0
    while x < 10:
        shift -= 1 / x
        x += 1
    square = 1 / (x * x)
    return shift + math.log(x) - 0.5 / x - square * (1 / 12 - square * (1 / 120 - square / 252))


def trigamma(x: float) -> float:
    """Derivative of digamma, x > 0."""
    shift = 0.0
    while x < 10:
        shift += 1 / (x * x)
        x += 1
    square = 1 / (x * x)
    return shift + 1 / x + square / 2 + square / x * (1 / 6 - square * (1 / 30 - square / 42))


def inverse_trigamma(value: float) -> float:
    """The x whose trigamma is `value`; trigamma falls, so the root is bracketed and halved."""
    low, high = 1e-8, 1.0
    while trigamma(high) > value:
        low, high = high, high * 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if trigamma(middle) > value else (low, middle)
    return high
