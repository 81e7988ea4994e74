"""The commands around data: the demo, drawn scenes, sampled references."""

from pathlib import Path

from no_time_to_train.cli.options import GivenPath, Output


def sample_references_command(
    *,
    annotations: GivenPath,
    shots: int,
    output: Output,
    seed: int = 0,
    split: str | None = None,
    allow_fewer: bool = False,
) -> None:
    """Choose K references a class from a COCO or LVIS annotation file and write them as COCO JSON.

    Args:
        annotations: COCO or LVIS annotation file to choose from.
        shots: References a class.
        output: JSON file to write.
        seed: The same seed chooses the same references.
        split: Published split that names the classes, such as coco_fewshot_novel20; all classes if not given.
        allow_fewer: Take what there is of classes with fewer usable annotations than asked for.
    """
    # Here and not above: `ntt --help` asks for this module, and has no use for arrays.
    from no_time_to_train.data.coco import write_coco
    from no_time_to_train.data.inputs import check_not_replaced
    from no_time_to_train.data.sampling import sample_references

    check_not_replaced([output], {"annotations": annotations})
    sampled = sample_references(annotations, shots=shots, seed=seed, split=split, allow_fewer=allow_fewer)
    write_coco(sampled, output)
    print(
        f"{output}: {len(sampled.annotations)} references of {len(sampled.categories)} classes "
        f"in {len(sampled.images)} images"
    )


def write_shapes(
    *,
    root: GivenPath,
    seed: int = 0,
    size: int = 256,
    shots: int = 5,
    num_targets: int = 40,
    distractors: bool = True,
) -> None:
    """Write the embedded synthetic few-shot dataset as JPEG files and COCO JSON.

    Args:
        root: Folder to write.
        seed: The same seed gives the same files.
        size: Side of the square images, in pixels.
        shots: References a class.
        num_targets: Target images.
        distractors: Draw objects of other classes among the targets' too.
    """
    from no_time_to_train.data.synthetic.dataset import write_shapes as write

    paths = write(root, seed=seed, size=size, shots=shots, num_targets=num_targets, distractors=distractors)
    print(f"references: {paths.references_json}\ntargets: {paths.targets_json}\nimages: {paths.image_dir}")


def demo(*, output: Output = Path("runs/demo"), num_targets: int = 10, min_score: float = 0.7) -> int:
    """Find embedded synthetic objects by five references a class, with the models that the project ships.

    ONNX Runtime runs it; torch is not needed.

    Args:
        output: The folder to write: the data, what was found with an overlay for each image, and report.html.
        num_targets: Images to look at.
        min_score: Instances of a lower score are left out.
    """
    from no_time_to_train.cli.predict import predict
    from no_time_to_train.configs.limits import check_number
    from no_time_to_train.data.coco import load_coco
    from no_time_to_train.data.synthetic.dataset import write_shapes as write

    check_number("--num-targets", num_targets, 1, 10_000, "every image is drawn")
    paths = write(output / "shapes", num_targets=num_targets)
    targets = load_coco(paths.targets_json)
    return predict(
        images=[paths.image_dir / image.file_name for image in targets.images],
        output=output / "found",
        references=[str(paths.references_json)],
        reference_images=paths.image_dir,
        bundle=Path("quickstart"),
        min_score=min_score,
        report=True,
    )
