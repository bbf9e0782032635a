"""What OECL has to beat: a logistic regression of outliers against normals."""

from __future__ import annotations

import numpy as np
import torch

RIDGE = 1e-3
STEPS = 200


def outlier_logistic(
    normals: np.ndarray, outliers: np.ndarray, ridge: float = RIDGE
) -> tuple[np.ndarray, float]:
    """Weights float32 [d] and bias of the log-odds of an outlier, of rows [n, d] and [m, d].

    Minimises ½·(mean log-loss of normals + mean log-loss of outliers) + ½·ridge·‖v‖², v being the
    weights of coordinates standardised over all rows; L-BFGS in float64. The same rows give the
    same weights.
    """
    rows = np.concatenate([normals, outliers]).astype(np.float64)
    mean, scale = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-8)
    inputs = torch.from_numpy((rows - mean) / scale)
    sign = torch.ones(len(rows), dtype=torch.float64)
    sign[: len(normals)] = -1
    share = torch.cat(
        [torch.full((len(part),), 0.5 / len(part)) for part in (normals, outliers)]
    ).double()
    weights = torch.zeros(rows.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights],
        max_iter=STEPS,
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        odds = inputs @ weights[:-1] + weights[-1]
        missed = (share * torch.nn.functional.softplus(-sign * odds)).sum()
        total = missed + 0.5 * ridge * weights[:-1].square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    found = weights.detach().numpy()
    made = found[:-1] / scale
    return made.astype(np.float32), float(found[-1] - made @ mean)
