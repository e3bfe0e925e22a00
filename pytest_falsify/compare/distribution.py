"""How far two distributions over the vocabulary are apart, token by token, in nats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def log_softmax(logits: Array) -> Array:
    """Return log probabilities in float64; NaN for a row with a NaN, +inf, or nothing above -inf.

    Args:
        logits: (tokens, vocabulary), any float dtype; -inf is a probability of 0.
    """
    wide = logits.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        shifted = wide - wide.max(axis=-1, keepdims=True)
        result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def kl_divergence(oracle: Array, subject: Array) -> Array:
    """Return KL(oracle || subject) of every token over the full vocabulary.

    Infinite where the subject gives 0 to something that the oracle does not, and for a row that is
    no distribution on either side.

    Args:
        oracle: logits, (tokens, vocabulary).
        subject: logits, (tokens, vocabulary).
    """
    return _divergence(log_softmax(oracle), log_softmax(subject))


def js_divergence(oracle: Array, subject: Array) -> Array:
    """Return the Jensen-Shannon divergence of every token: symmetric, at most ln 2.

    Infinite for a row that is no distribution on either side.
    """
    p, q = log_softmax(oracle), log_softmax(subject)
    with np.errstate(invalid="ignore"):
        middle = np.logaddexp(p, q) - np.log(2)
    result: Array = (_divergence(p, middle) + _divergence(q, middle)) / 2
    return result


def top_k_divergence(oracle: Array, subject: Array, k: int) -> Array:
    """Return KL over the oracle's k most probable tokens and one bucket for all others.

    The bucket keeps the comparison honest: renormalising the top k alone forgives a subject that
    moves mass out of them.
    """
    p, q = log_softmax(oracle), log_softmax(subject)
    chosen = np.argpartition(-p, k - 1, axis=-1)[:, :k] if k < p.shape[-1] else None
    if chosen is None:
        return _divergence(p, q)
    return _divergence(_bucketed(p, chosen), _bucketed(q, chosen))


def _bucketed(log_probabilities: Array, chosen: Array) -> Array:
    """Return the chosen log probabilities and, last, that of all others together."""
    kept = np.take_along_axis(log_probabilities, chosen, axis=-1)
    others = log_probabilities.copy()
    np.put_along_axis(others, chosen, -np.inf, axis=-1)
    with np.errstate(invalid="ignore"):
        rest = np.logaddexp.reduce(others, axis=-1, keepdims=True)
    return np.concatenate([kept, rest], axis=-1)


def _divergence(p: Array, q: Array) -> Array:
    """Return sum p (log p - log q) of each row, from log probabilities; never NaN."""
    with np.errstate(invalid="ignore", over="ignore"):
        terms = np.where(p == -np.inf, 0.0, np.exp(p) * (p - q))
        divergence: Array = np.maximum(terms.sum(axis=-1), 0.0)
    is_distribution = ~(np.isnan(p).any(axis=-1) | np.isnan(q).any(axis=-1))
    return np.where(is_distribution & ~np.isnan(divergence), divergence, np.inf)
