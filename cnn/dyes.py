"""The two dyes of nearly every slide: haematoxylin dyes nuclei blue, eosin the rest pink.

STAINS is how strongly each weakens red, green and blue: rows are unit vectors of optical density, which is -log(light),
as measured by Ruifrok and Johnston ("Quantification of histochemical staining by color deconvolution", Anal Quant Cytol
Histol 23, 2001). The third is orthogonal to both, and takes what is left over. `stains.py` says how they are used.
"""

import numpy as np

_HAEMATOXYLIN, _EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])
STAINS = np.stack([_HAEMATOXYLIN, _EOSIN, np.cross(_HAEMATOXYLIN, _EOSIN)])
STAINS = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)
