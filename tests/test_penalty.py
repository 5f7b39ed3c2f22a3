"""The path over penalties: the full grid's choice and fit, for less."""

import numpy as np
import pytest
import scipy.optimize

from trustq.heads import LinearHead, SharedFeatures, choose_penalty, fit_multinomial
from trustq.heads.linear import fit_together
from trustq.metrics.probabilities import log_softmax

GRID = (1e-3, 1e-2, 1e-1, 1.0)


def noisy_classes(
    n: int, d: int, k: int, *, spread: float, noise: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features and labels to fit on, of which some are wrong, and to choose by; sizes of columns
    fall as they do in features of networks."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(k, size=2 * n)
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    features = (rng.standard_normal((2 * n, d)) + spread * np.eye(k, d)[labels]) @ turn
    features = (features * np.linspace(1, 0.05, d) @ turn.T).astype(np.float32)
    observed = np.where(rng.random(2 * n) < noise, rng.integers(k, size=2 * n), labels)
    return features[:n], observed[:n], features[n:], labels[n:]


def log_loss(head: LinearHead, features: np.ndarray, labels: np.ndarray) -> float:
    logs = log_softmax(head.predict_logits(features))
    return float(-logs[np.arange(len(labels)), labels].mean())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("n", "d", "k", "spread", "noise"),
    [(900, 96, 5, 1.0, 0.3), (1200, 60, 3, 4.0, 0.0), (700, 400, 7, 2.0, 0.1), (300, 8, 2, 1, 0)],
)
def test_the_path_chooses_what_the_whole_grid_would_and_fits_it_as_alone(
    n: int, d: int, k: int, spread: float, noise: float, seed: int
) -> None:
    features, observed, held_out, truth = noisy_classes(
        n, d, k, spread=spread, noise=noise, seed=seed
    )
    shared = SharedFeatures(features)

    def fit(c: float, start: LinearHead | None, tolerance: float | None) -> LinearHead:
        head = LinearHead(n_classes=k, C=c)
        begun = None if start is None else [start]
        fit_together([head], shared, observed[None], start=begun, tolerance=tolerance)
        return head

    grid = [fit(c, None, None) for c in GRID]
    losses = [log_loss(head, held_out, truth) for head in grid]
    penalty, chosen = choose_penalty(
        GRID[::-1], fit=fit, loss=lambda head: log_loss(head, held_out, truth)
    )
    best = int(np.argmin(losses))
    assert penalty == GRID[best]
    np.testing.assert_array_equal(chosen.coef_, grid[best].coef_)


def test_the_path_stops_where_the_loss_has_risen() -> None:
    asked: list[tuple[float, float | None, bool]] = []
    losses = {0.1: 1.0, 1.0: 0.9, 10.0: 0.95, 100.0: 0.1}

    def fit(c: float, start: float | None, tolerance: float | None) -> float:
        asked.append((c, start, tolerance is None))
        return c

    assert choose_penalty([10.0, 0.1, 100.0, 1.0], fit=fit, loss=losses.__getitem__) == (1.0, 1.0)
    loose = [(0.1, None, False), (1.0, 0.1, False), (10.0, 1.0, False)]
    assert asked == [*loose, (1.0, None, True)]


def test_near_losses_are_told_apart_by_exact_fits() -> None:
    def fit(c: float, start: object, tolerance: float | None) -> tuple[float, bool]:
        return c, tolerance is None

    losses = {
        (1.0, False): 0.9, (2.0, False): 0.901, (3.0, False): 0.99,
        (1.0, True): 0.902, (2.0, True): 0.9,
    }  # fmt: skip
    assert choose_penalty([1.0, 2.0, 3.0], fit=fit, loss=losses.__getitem__) == (2.0, (2.0, True))


@pytest.mark.parametrize("penalty", [1e-3, 1e-1, 1.0])
def test_more_columns_than_the_block_are_solved_as_scipy_solves_them(penalty: float) -> None:
    features, observed, _, _ = noisy_classes(700, 400, 4, spread=2.0, noise=0.1, seed=5)
    weights = (np.arange(700) % 5 > 0).astype(float)
    fits = fit_multinomial(
        features, observed[None], n_classes=4, weights=weights[None], penalties=penalty
    )
    double, target = features[weights > 0].astype(np.float64), np.eye(4)[observed[weights > 0]]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        coef, intercept = flat[:1600].reshape(4, 400), flat[1600:]
        logs = log_softmax(double @ coef.T + intercept)
        residuals = np.exp(logs) - target
        slope = np.concatenate([(residuals.T @ double + coef / penalty).ravel(), residuals.sum(0)])
        return float(-(target * logs).sum() + (coef**2).sum() / (2 * penalty)), slope

    best = scipy.optimize.minimize(
        objective, np.zeros(1604), jac=True, method="L-BFGS-B",
        options={"maxiter": 20_000, "maxfun": 20_000, "ftol": 1e-15, "gtol": 1e-7},
    )  # fmt: skip
    ours = objective(np.concatenate([fits.coef[0].ravel(), fits.intercept[0]]))[0]
    assert ours <= best.fun * (1 + 1e-6)
