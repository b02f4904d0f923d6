"""What can be had without a network. A network is worth its trouble only if it does better on the same folds.

    share_of_white       one number an image, nothing fitted: benign cores hold more empty space
    histogram            which colours there are, not where; with logistic regression
    group of the image   does the day of the photograph give the answer away?

What is measured of an image, `regress` makes a probability of, from the training images and their labels alone. (The
commonest class needs no code: `experiments/cross_validate.py` counts it.)
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cnn.dyes import STAINS
from cnn.stains import DARKEST, WHITE

PERCENTILES = (5, 10, 25, 50, 75, 90, 95)


def share_of_white(images: np.ndarray) -> np.ndarray:
    """The share of pixels, from 0 to 1, that are above 200 in all channels: (number,) of (number, height, width, 3)."""
    return np.array([(image > WHITE).all(-1).mean() for image in images])


def histogram(image: np.ndarray, tissue_only: bool = False) -> np.ndarray:
    """What a classifier of colours sees of an image, (55,): 16 bins each of red, green and blue, as shares of the
    pixels, and seven percentiles of haematoxylin.

    Args:
        image: (height, width, 3) uint8.
        tissue_only: leave white pixels out, so that the share of white says nothing.
    """
    pixels = image.reshape(-1, 3)
    if tissue_only:
        tissue = pixels[(pixels <= WHITE).any(axis=1)]
        pixels = tissue if len(tissue) else pixels  # an image without any tissue is all that it is
    bins = [np.histogram(pixels[:, channel], 16, (0, 256))[0] / len(pixels) for channel in range(3)]
    density = -np.log(np.maximum(pixels / 255, DARKEST))
    haematoxylin = (density @ np.linalg.inv(STAINS))[:, 0]
    return np.concatenate([*bins, np.percentile(haematoxylin, PERCENTILES)])


def regress(features: np.ndarray, labels: np.ndarray, new: np.ndarray, *, strength: float) -> np.ndarray:
    """Logistic regression on standardised features: the probability of class 1 for each row of `new`, (number,).

    Args:
        features, new: (images, features).
        labels: (images,) 0 or 1.
        strength: C, the inverse of the penalty on large coefficients.
    """
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000))
    return classifier.fit(features, labels).predict_proba(new)[:, 1]


def group_rate(groups: np.ndarray, labels: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The share of class 1 in the training images of the same group, else in all of them: (number,).

    Where a group is all of one class, its name alone is the answer, and a network may learn a day's stain instead of
    tissue. If whole groups are left out, no image has a group to go by, and the share of the others leans away from the
    class that is left out: an area below 0.5, down to 0, then means nothing.
    """
    overall = labels.mean()
    return np.array([labels[groups == group].mean() if (groups == group).any() else overall for group in new])
