"""How much a pattern, and all that contain it, can still save: what bounds the growth of the best k.

Every node has a *gain*, the most that it can add to what a fusion saves. An occurrence T of size ``largest`` or less
that contains an occurrence S has, besides the nodes of S, at most ``largest - |S|`` others; taken in an order in which
they can be added one by one, the i-th of them is at most i steps away from S. So T saves at most

    gain(S) + the sum over i of the greatest gain within i steps of S.

Disjoint occurrences T hold disjoint occurrences S. So what all of them save together is, in each graph, at most the
least of three sums: that of this expression over all S; the gains of all nodes that any S holds, plus the greatest sum
of others for as many S as fit in those nodes; and the gains of all nodes of the graph.
"""

import numpy as np
import numpy.typing as npt

from graphopt.mining.batch import Batch
from graphopt.mining.levels import Level

Sums = npt.NDArray[np.float64]


def bounds(batch: Batch, level: Level, largest: int) -> Sums:
    """For every pair of a pattern and a graph that contains it, in this order, what can be saved at most.

    Args:
        batch: the graphs.
        level: occurrences of one size.
        largest: the most nodes that an occurrence may have.
    """
    size = level.nodes.shape[1]
    rows = level.nodes
    gains = batch.gains[rows].sum(axis=1)
    others = np.zeros(len(rows))
    for steps in range(1, largest - size + 1):
        others += batch.gains_within(steps)[rows].max(axis=1)
    number = level.pattern.astype(np.int64) * batch.count + level.graph
    pairs, which = np.unique(number, return_inverse=True)
    which = which.ravel()
    sums = np.zeros(len(pairs))
    multiplicity = level.multiplicities(np.arange(len(level))).astype(np.float64)
    np.add.at(sums, which, multiplicity * (gains + others))
    greatest = np.zeros(len(pairs))
    np.maximum.at(greatest, which, others)
    total = len(batch.graph_of)
    held = np.unique((which[:, None] * total + rows).ravel())
    union, nodes = np.divmod(held, total)
    disjoint = np.bincount(union, minlength=len(pairs)) // size
    covered = np.bincount(union, weights=batch.gains[nodes], minlength=len(pairs)) + disjoint * greatest
    moved = np.zeros(len(pairs), dtype=np.bool_)
    moved[which[batch.families.moved[rows].any(axis=1)]] = True  # images hold other nodes
    covered[moved] = np.inf
    found: Sums = np.minimum(np.minimum(sums, covered), batch.total_gains[pairs % batch.count])
    return found
