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
