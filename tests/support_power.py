"""Simulated sweeps whose true effect is known, judged by the test that trustq reports."""

import numpy as np

from trustq.statistics.paired import holm, sign_flip_test


def detected(n, effect, *, sweeps=2000, alpha=0.05, family=1, seed=0, draw=None):
    """Share of simulated sweeps in which a standardised effect over n units is found by Holm.

    One comparison of the `family` has the effect, the others none. `draw` makes differences of
    another shape, of mean 0 and standard deviation 1, from (generator, shape).
    """
    rng = np.random.default_rng([seed, n, family])
    draw = draw or (lambda rng, shape: rng.standard_normal(shape))
    differences = draw(rng, (sweeps, family, n))
    differences[:, 0] += effect
    found = 0
    for sweep in differences:
        p = np.array([sign_flip_test(row, seed=0).p_value for row in sweep])
        found += bool(holm(p)[0] <= alpha)
    return found / sweeps
