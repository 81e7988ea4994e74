"""The embedded synthetic dataset for Lightning."""

from pathlib import Path

from no_time_to_train.data.synthetic.dataset import write_shapes
from no_time_to_train.pl_wrapper.datamodule import ReferenceTargetDataModule


class ShapesDataModule(ReferenceTargetDataModule):
    """References and targets of the embedded dataset, written when they are first needed.

    Args:
        root: Folder of the dataset.
        seed: The same seed gives the same files.
        size: Side of the square images, in pixels.
        shots: References a class.
        num_targets: Target images.
        distractors: Draw objects of known classes among the targets' too, which are not annotated.
        num_workers: Processes that read images ahead, while others are computed.
        batch_size: Targets that go through the networks together.
        shard: Which share of the targets to take, such as 2/4; see `ReferenceTargetDataModule`.
    """

    def __init__(
        self,
        root: Path,
        *,
        seed: int = 0,
        size: int = 256,
        shots: int = 5,
        num_targets: int = 40,
        distractors: bool = True,
        num_workers: int = 0,
        batch_size: int = 1,
        shard: str | None = None,
    ) -> None:
        super().__init__(
            references=root / "references.json",
            reference_images=root / "images",
            targets=root / "targets.json",
            target_images=root / "images",
            num_workers=num_workers,
            batch_size=batch_size,
            shard=shard,
        )
        self.root = root
        self.seed = seed
        self.size = size
        self.shots = shots
        self.num_targets = num_targets
        self.distractors = distractors

    def prepare_data(self) -> None:
        """Write the dataset, on one process; nothing is done where it is written already."""
        write_shapes(
            self.root,
            seed=self.seed,
            size=self.size,
            shots=self.shots,
            num_targets=self.num_targets,
            distractors=self.distractors,
        )
