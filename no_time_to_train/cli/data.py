"""`ntt sample-references`."""

from pathlib import Path


def sample_references_command(
    annotations: Path,
    shots: int,
    output: Path,
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


def demo(output: Path = Path("runs/demo"), num_targets: int = 10, min_score: float = 0.7) -> int:
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
    from no_time_to_train.data.synthetic.dataset import write_shapes

    check_number("--num-targets", num_targets, 1, 10_000, "every image is drawn")
    paths = write_shapes(output / "shapes", num_targets=num_targets)
    targets = load_coco(paths.targets_json)
    return predict(
        images=[paths.image_dir / image.file_name for image in targets.images],
        output=output / "found",
        references=paths.references_json,
        reference_images=paths.image_dir,
        bundle=Path("quickstart"),
        min_score=min_score,
        report=True,
    )
