"""Found instances in the forms of other programs, a folder for each form."""

from typing import Literal

FormatName = Literal["coco", "coco-polygons", "yolo-seg", "labelme", "voc", "labelstudio", "masks"]
ExportName = FormatName | Literal["crops"]
