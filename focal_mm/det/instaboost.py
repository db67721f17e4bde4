"""InstaBoost for masks of several contours."""

from __future__ import annotations

import numpy as np
from mmdet.datasets.transforms import InstaBoost
from mmengine.registry import TRANSFORMS


def mask_to_polygons(mask: np.ndarray, tolerance: float = 0) -> list[list[float]]:
    """Contours of a mask as COCO's polygons.

    Args:
        mask: (height, width), of 0 and 1.
        tolerance: Largest distance of the polygons from the contours, in pixels.

    Returns:
        For each contour x, y of its points one after the other.
    """
    from skimage import measure

    polygons = []
    # Zeros around close what ends at the border; the contours are moved back by them.
    for contour in measure.find_contours(np.pad(mask, 1), 0.5):
        contour = measure.approximate_polygon(contour, tolerance)
        if len(contour) >= 3:
            points = np.clip(contour[:, ::-1] - 1, 0, None)
            polygons.append(points.ravel().tolist())
    return polygons


@TRANSFORMS.register_module()
class ManyContoursInstaBoost(InstaBoost):
    """MMDetection's InstaBoost, with its arguments, on current NumPy versions.

    Its package (instaboostfast 0.1.2) subtracts a number from a list of contours, which
    NumPy refuses since 1.24 where their lengths differ: where a moved instance is of
    several pieces, or has a hole.
    """

    def transform(self, results: dict) -> dict:
        """Move instances of an image; see MMDetection's."""
        from instaboostfast import affine_transform

        # Here, not when it is built: processes that load data import it anew.
        affine_transform.binary_mask_to_polygon = mask_to_polygons
        return super().transform(results)
