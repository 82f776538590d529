"""Self-training of the end task's last layer: it learns its own surest guesses of unlabelled examples.

    X (n, H), y (n,)   the labelled examples and their classes
    U (m, H)           unlabelled ones
    w                  `guess_weight`
    p_j, g_j           the probability of the class g_j that is guessed of u_j

After a fit to the labelled examples alone, the layer is fitted twice more, each time to minimise

    |s W|^2 / 2 + C [ sum_i L(x_i, y_i) + w sum_j p_j L(u_j, g_j) ]

over the guesses j of the fit before that are the surest of their class: half of them, then 70 %. Shares of what is
guessed, instead of as many of each class, leave rare classes rare. Scudder 1965, Probability of error of some adaptive
pattern-recognition machines; Yarowsky 1995; of networks, Lee 2013, Pseudo-Label.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from raysearch.data.prepared import RowsOfSplit
from raysearch.errors import SpecError
from raysearch.modalities.batch import ViewBatchBuilder
from raysearch.training.context import TrainingContext

Array = NDArray[np.float64]
UNLABELLED = "domain"
MOST = 2000  # unlabelled examples that are guessed, at most
SHARES = (0.5, 0.7)  # of the guesses of each class, round by round


def unlabelled_inputs(context: TrainingContext) -> Any:
    """Returns what the last layer reads of unlabelled examples (m, H), at most MOST of them, always the same.

    Raises ValueError for a task without unlabelled text.
    """
    try:
        split = context.splits(UNLABELLED)
    except SpecError as error:
        raise ValueError("guess_weight needs unlabelled text, and the task has no `domain:`") from error
    rows = np.sort(np.random.default_rng(0).permutation(len(split))[:MOST])
    chosen = RowsOfSplit(split, rows)
    cast(ViewBatchBuilder, context.batches).cache_rows(chosen, np.arange(len(rows)))
    return context.network.head_inputs(context.batches, chosen)


def surest_guesses(logits: Array, share: float) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """Returns the numbers (r,) of the surest guesses of each class, their classes and probabilities.

    They are `share` of the guesses of each class, of logits (m, C), and at least one.
    """
    P = softmax(logits, axis=1)
    guess, sureness = P.argmax(axis=1), P.max(axis=1)
    chosen = []
    for c in np.unique(guess):
        of_class = np.flatnonzero(guess == c)
        order = np.argsort(-sureness[of_class], kind="stable")
        chosen.append(of_class[order[: max(1, int(share * len(of_class)))]])
    rows = np.sort(np.concatenate(chosen))
    return rows, guess[rows], sureness[rows]
