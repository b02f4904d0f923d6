"""From predictions to figures that say how sure one can be: counts, rates with intervals, and the area under the curve.

Numbers only; `figures.py` draws them. One class is the positive one, the one that a test is to find: malignant.

    sensitivity  of the malignant images, how many were found     TP / (TP + FN)     (also: recall)
    specificity  of the others, how many were left in peace       TN / (TN + FP)
    PPV          of those called malignant, how many are           TP / (TP + FP)     (also: precision)
    NPV          of those called something else, how many are      TN / (TN + FN)

The curve is the ROC: sensitivity against 1 - specificity, as the threshold falls from 1 to 0. The area under it (AUC)
is the probability that a positive image scores above one that is not, ties counting half.
"""

import math

import numpy as np
from scipy import optimize, stats
from sklearn import metrics

from cnn.errors import UserError

Z = stats.norm.ppf(0.975)  # 1.96: what a 95 % interval leaves out is 2.5 % on either side


def rate(k: int, n: int) -> dict:
    """k of n, with the 95 % interval of Wilson (J Am Stat Assoc 22, 1927): {"k", "n", "value", "low", "high"}.

    Of 0 nothing can be said: value, low and high are None.

    >>> rate(51, 58)  # doctest: +ELLIPSIS
    {'k': 51, 'n': 58, 'value': 0.8793103448275862, 'low': 0.77..., 'high': 0.94...}
    """
    if n == 0:
        return {"k": int(k), "n": 0, "value": None, "low": None, "high": None}
    interval = stats.binomtest(int(k), int(n)).proportion_ci(0.95, method="wilson")
    return {
        "k": int(k),
        "n": int(n),
        "value": int(k) / int(n),
        "low": float(interval.low),
        "high": float(interval.high),
    }


def difference(first: dict, second: dict) -> dict:
    """One `rate` minus another, of unrelated images, with the 95 % interval of Newcombe: {"value", "low", "high"}.

    From the ends of Wilson's intervals (Stat Med 17, 1998, method 10): low = p1 - p2 - sqrt((p1 - low1)^2 +
    (high2 - p2)^2), and high likewise. If the interval lies above 0, the first is larger by more than chance
    explains.

    >>> found = difference(rate(56, 70), rate(48, 80))
    >>> [round(found[name], 4) for name in ("value", "low", "high")]
    [0.2, 0.0524, 0.3339]
    """
    value = first["value"] - second["value"]
    low = value - math.hypot(first["value"] - first["low"], second["high"] - second["value"])
    high = value + math.hypot(first["high"] - first["value"], second["value"] - second["low"])
    return {"value": value, "low": low, "high": high}


def auc(positive: np.ndarray, scores: np.ndarray) -> dict:
    """The probability that a positive image scores above another one, ties counting half: {"value", "low", "high"}.

    The interval is to the area what Wilson's is to a proportion: all areas t for which the one observed is within 1.96
    standard errors, with the standard error that t itself implies (Newcombe, Stat Med 25, 2006, method 5, on the
    variance of Hanley and McNeil, Radiology 143, 1982). So it does not shrink to nothing when every pair is in order.

    Args:
        positive: (number,) bool.
        scores: (number,) the higher, the more likely positive.
    """
    m, n = int(positive.sum()), int((~positive).sum())
    if m == 0 or n == 0:
        return {"value": None, "low": None, "high": None}
    area = float(metrics.roc_auc_score(positive, scores))

    def beyond(t: float) -> float:  # how much further than 1.96 standard errors t lies from the area observed
        pairs = (m + n) / 2 - 1
        variance = t * (1 - t) / (m * n) * (1 + pairs * ((1 - t) / (2 - t) + t / (1 + t)))
        return abs(t - area) - Z * math.sqrt(variance)

    low = 0.0 if area == 0 else optimize.brentq(beyond, 0.0, min(area, 1 - 1e-9))
    high = 1.0 if area == 1 else optimize.brentq(beyond, max(area, 1e-9), 1.0)
    return {"value": area, "low": float(low), "high": float(high)}


def positive_class(classes: tuple[str, ...], name: str | None = None) -> int:
    """The index of the class that counts as positive: the one named, else "malignant", else the last.

    Raises:
        UserError: if the name is no class.
    """
    if name is None:
        return classes.index("malignant") if "malignant" in classes else len(classes) - 1
    if name not in classes:
        raise UserError(f'--positive: there is no class "{name}"; wants one of {", ".join(classes)}')
    return classes.index(name)


def judge(labels: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...], positive: int) -> dict:
    """All figures of one set of images.

    Args:
        labels: (number,) int, the true classes.
        probabilities: (number, classes); the largest decides.
        classes: names, alphabetical.
        positive: index of the positive class; all others count as negative.
    Returns:
        "n", "classes", "positive", "confusion_matrix" (rows true, columns predicted), then "accuracy", "sensitivity",
        "specificity", "ppv", "npv" as `rate` and "auc" as `auc`.
    """
    predicted = probabilities.argmax(axis=1)
    matrix = metrics.confusion_matrix(labels, predicted, labels=range(len(classes)))
    is_positive, called_positive = labels == positive, predicted == positive
    return {
        "n": len(labels),
        "classes": list(classes),
        "positive": classes[positive],
        "confusion_matrix": matrix.tolist(),
        "accuracy": rate((predicted == labels).sum(), len(labels)),
        "sensitivity": rate((is_positive & called_positive).sum(), is_positive.sum()),
        "specificity": rate((~is_positive & ~called_positive).sum(), (~is_positive).sum()),
        "ppv": rate((is_positive & called_positive).sum(), called_positive.sum()),
        "npv": rate((~is_positive & ~called_positive).sum(), (~called_positive).sum()),
        "auc": auc(is_positive, probabilities[:, positive]),
    }


def brier(positive: np.ndarray, probability: np.ndarray) -> float:
    """The mean of (probability - truth)^2, truth being 1 or 0 (Brier, Mon Weather Rev 78, 1950); lower is better.

    Always saying 0.5 gives 0.25. probability: (images,) or (repeats, images).
    """
    return float(((probability - positive) ** 2).mean())


def reliability(positive: np.ndarray, probability: np.ndarray, bins: int = 5) -> list[dict]:
    """Of the images given about the same probability, how many are positive? A calibrated network: as many as it says.

    Args:
        positive: (images,) bool.
        probability: (images,).
        bins: of equal width, from 0 to 1; empty ones are left out.
    Returns:
        for each bin, `rate` of the positives in it, and "said", the mean probability.
    """
    places = np.minimum((probability * bins).astype(int), bins - 1)
    return [
        {"said": float(probability[places == i].mean()), **rate(int(positive[places == i].sum()), (places == i).sum())}
        for i in np.unique(places)
    ]


def mistakes(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The indices of the images that were classified wrongly, (k,), the surest mistake first."""
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    return wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")]
