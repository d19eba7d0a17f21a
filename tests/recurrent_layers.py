"""Recurrent layers by the equations of ONNX, in float64: the reference evaluator knows one direction only."""

from collections.abc import Mapping

import numpy as np

Array = np.ndarray
GATES = {"GRU": 3, "LSTM": 4}
REVERSED = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def layer(
    op_type: str, feeds: Mapping[str, Array], directions: tuple[bool, ...], reset_after: bool
) -> dict[str, Array]:
    """The results (y, yh, yc) of operands (x, w, r, b, h, c), step by step.

    Raises:
        ValueError: where the operands' shapes contradict each other.
    """
    x, weights, recurrent = (feeds[name].astype(np.float64) for name in ("x", "w", "r"))
    steps, batch, _ = x.shape
    size = recurrent.shape[2]
    bias = feeds.get("b", np.zeros((len(directions), 2 * GATES[op_type] * size)))
    state, gates = (len(directions), batch, size), GATES[op_type] * size
    wanted = {"w": (len(directions), gates, x.shape[2]), "r": (len(directions), gates, size)}
    wanted |= {"b": (len(directions), 2 * gates), "h": state, "c": state}
    if any(feeds[name].shape != shape for name, shape in wanted.items() if name in feeds):
        raise ValueError("the shapes of a recurrent layer contradict each other")
    y = np.zeros((steps, len(directions), batch, size))
    hidden = np.array(feeds.get("h", np.zeros((len(directions), batch, size))), np.float64)
    cell = np.array(feeds.get("c", np.zeros((len(directions), batch, size))), np.float64)
    for d, backwards in enumerate(directions):
        wb, rb = np.split(bias[d], 2)
        for t in reversed(range(steps)) if backwards else range(steps):
            h = hidden[d]
            inputs = np.split(x[t] @ weights[d].T + wb, GATES[op_type], axis=1)
            states = np.split(h @ recurrent[d].T + rb, GATES[op_type], axis=1)
            if op_type == "LSTM":
                i, o, f = (_sigmoid(a + b) for a, b in zip(inputs[:3], states[:3], strict=True))
                cell[d] = f * cell[d] + i * np.tanh(inputs[3] + states[3])
                hidden[d] = o * np.tanh(cell[d])
            else:
                z, r = (_sigmoid(a + b) for a, b in zip(inputs[:2], states[:2], strict=True))
                last = r * states[2] if reset_after else (r * h) @ recurrent[d][2 * size :].T + rb[2 * size :]
                hidden[d] = (1 - z) * np.tanh(inputs[2] + last) + z * h
            y[t, d] = hidden[d]
    return {"y": y, "yh": hidden, "yc": cell}
