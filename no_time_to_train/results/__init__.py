"""What was found: COCO datasets, average precision, drawings."""
