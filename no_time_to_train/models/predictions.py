"""From what matching gives on a device to a `Prediction` in NumPy."""

from collections.abc import Sequence

from no_time_to_train.data.masks import encode_changes
from no_time_to_train.data.prediction import Prediction
from no_time_to_train.matching import Instances
from no_time_to_train.matching.array_ops import to_numpy
from no_time_to_train.matching.changes import mask_changes


def to_prediction(instances: Instances, class_names: Sequence[str], *, far_pixel: int = 1) -> Prediction:
    """Bring an image's instances to the CPU; masks on a GPU are encoded there, which is faster.

    Args:
        instances: On any device.
        class_names: The memory's.
        far_pixel: See `Prediction`.
    """
    masks = instances.masks
    height, width = masks.shape[1:]
    encoded = encode_changes(*mask_changes(masks), height, width) if getattr(masks, "is_cuda", False) else None
    return Prediction(
        masks=to_numpy(masks),
        boxes=to_numpy(instances.boxes),
        scores=to_numpy(instances.scores),
        labels=to_numpy(instances.labels),
        class_names=tuple(class_names),
        image_size=(height, width),
        far_pixel=far_pixel,
        encoded_masks=encoded,
    )
