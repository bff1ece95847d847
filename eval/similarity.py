"""Two clouds of vectors that tell the same things: how alike are the two vectors of each, and can one be found from the other?

    clouds = WAYS["centred"](x), WAYS["centred"](y)          # [N, D] each, row i of both tells span i
    cosine_NN = cosines(*clouds)
    found_by_x, found_by_y = retrieved(cosine_NN), retrieved(cosine_NN.T)
    cka(x, y)

Hidden states of one view lie in a narrow cone of their own: all cosines are high and say little. Hence three ways without knowledge of the
pairs: plain; centred (the mean of each cloud taken away); whitened (and each cloud's own directions scaled alike). A fourth knows pairs:
rotated turns one cloud onto the other by a rotation that was fitted on the pairs of other projects. It finds what the two views share in
different directions, which the model itself need not use.

Sources: linear CKA is Kornblith, Norouzi, Lee and Hinton (ICML 2019); its unbiased estimate of HSIC is Song, Smola, Gretton, Bedo and
Borgwardt (JMLR 2012). Not promised: that the whitening of N vectors is that of the population; a tenth of it is shrunk to the mean.
"""

# N spans, D width

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

SHRINKAGE: Final = 0.1
NUM_FOLDS: Final = 5
# Directions of a cloud that a rotation turns: at most a quarter of the spans, else it could fit anything.
_SPANS_PER_DIRECTION: Final = 4


def centred(x_ND: F64) -> F64:
    """Around their mean."""
    moved: F64 = x_ND - x_ND.mean(axis=0)
    return moved


def whitened(x_ND: F64) -> F64:
    """Around their mean, then times the inverse root of their covariance, of which `SHRINKAGE` is shrunk to its mean variance: directions
    keep their place (ZCA), so that two clouds whitened by themselves can still be compared. Zero where all vectors are equal."""
    scores_NK, v_KD = _components(x_ND)
    found: F64 = scores_NK @ v_KD
    return found


def _components(x_ND: F64) -> tuple[F64, F64]:
    """Whitened places on the principal directions, the widest first, and those directions."""
    u_NK, scale_K, v_KD = np.linalg.svd(centred(x_ND), full_matrices=False)
    variance_K = scale_K**2 / max(1, len(x_ND) - 1)
    shrunk_K = (1 - SHRINKAGE) * variance_K + SHRINKAGE * variance_K.sum() / x_ND.shape[1]
    return u_NK * np.divide(scale_K, np.sqrt(shrunk_K), out=np.zeros_like(scale_K), where=shrunk_K > 0), v_KD


def plain(x_ND: F64) -> F64:
    """As they are."""
    return x_ND


WAYS: Final[Mapping[str, Callable[[F64], F64]]] = MappingProxyType({"plain": plain, "centred": centred, "whitened": whitened})


def cosines(x_ND: F64, y_ND: F64) -> F64:
    """Cosine of every row of x with every row of y; 0 for a row of zeros."""
    return _directions(x_ND) @ _directions(y_ND).T


def rotated(x_ND: F64, y_ND: F64, groups: Sequence[str]) -> tuple[F64, F64] | None:
    """Cosines [N, N] of each x with every y, and of each y with every x, after whitening and the rotation (orthogonal Procrustes) that best
    turns x onto y in the pairs of other folds. Folds are made of whole `groups` (one name a span). None with fewer groups than folds."""
    names, index_N = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    if len(names) < NUM_FOLDS:
        return None
    # The largest groups first, each into the fold that has least.
    sizes = np.bincount(index_N)
    held = np.zeros(NUM_FOLDS, dtype=np.int64)
    fold_of = np.zeros(len(names), dtype=np.int64)
    for group in np.argsort(-sizes, kind="stable"):
        fold_of[group] = int(held.argmin())
        held[fold_of[group]] += sizes[group]
    most = max(1, len(x_ND) // _SPANS_PER_DIRECTION)
    x_NK, y_NK = (_components(cloud)[0][:, :most] for cloud in (x_ND, y_ND))
    forward_NN, backward_NN = np.zeros((len(x_ND),) * 2), np.zeros((len(x_ND),) * 2)
    for fold in range(NUM_FOLDS):
        asked, fitted = fold_of[index_N] == fold, fold_of[index_N] != fold
        u_KK, _, v_KK = np.linalg.svd(x_NK[fitted].T @ y_NK[fitted], full_matrices=False)
        turn_KK = u_KK @ v_KK
        forward_NN[asked] = cosines(x_NK[asked] @ turn_KK, y_NK)
        backward_NN[asked] = cosines(y_NK[asked] @ turn_KK.T, x_NK)
    return forward_NN, backward_NN


def retrieved(cosine_NN: F64) -> npt.NDArray[np.bool_]:
    """Whether the row's own column is the nearest, bool [N]. A tie finds nothing: vectors that are all equal are not aligned."""
    others = cosine_NN.copy()
    np.fill_diagonal(others, -np.inf)
    found: npt.NDArray[np.bool_] = np.diagonal(cosine_NN) > others.max(axis=1)
    return found


def reciprocal_ranks(cosine_NN: F64) -> F64:
    """1 / rank of the row's own column, [N]; in a tie it comes last."""
    own_N1 = np.diagonal(cosine_NN)[:, None]
    ranks: F64 = (cosine_NN >= own_N1).sum(axis=1).astype(np.float64)
    return 1.0 / ranks


def cka(x_ND: F64, y_ND: F64) -> float | None:
    """Linear centred kernel alignment, the unbiased estimate: 1 where one cloud is a turned and scaled copy of the other, about 0 (also
    below) where they have nothing to do with each other, however wide they are. None with fewer than four spans, or where a cloud has no
    extent."""
    if len(x_ND) < 4:
        return None
    x_NN, y_NN = (centred(cloud) @ centred(cloud).T for cloud in (x_ND, y_ND))
    own = _hsic(x_NN, x_NN) * _hsic(y_NN, y_NN)
    return float(_hsic(x_NN, y_NN) / np.sqrt(own)) if own > 0 else None


def _hsic(k_NN: F64, l_NN: F64) -> float:
    """The unbiased estimate of the Hilbert-Schmidt independence criterion (Song et al. 2012, equation 5)."""
    n = len(k_NN)
    k_NN, l_NN = (kernel - np.diag(np.diagonal(kernel)) for kernel in (k_NN, l_NN))
    k_N, l_N = k_NN.sum(axis=1), l_NN.sum(axis=1)
    total = np.vdot(k_NN, l_NN) + k_N.sum() * l_N.sum() / ((n - 1) * (n - 2)) - 2 * (k_N @ l_N) / (n - 2)
    return float(total / (n * (n - 3)))


def _directions(x_ND: F64) -> F64:
    length_N1 = np.linalg.norm(x_ND, axis=1, keepdims=True)
    found: F64 = np.divide(x_ND, length_N1, out=np.zeros_like(x_ND), where=length_N1 > 0)
    return found
