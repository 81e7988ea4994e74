"""The released files of SAM2: their names, Meta's public address, their hashes, and the configuration of each.

Source: the addresses are those of facebookresearch/sam2 (`checkpoints/download_ckpts.sh`). Meta states no hashes; these
are the ones that several independent public projects pin for the files at those addresses, micro-sam and Slicer's SAM2
extension among them.
"""

import difflib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote

from no_time_to_train.configs.shipped import weights_folder

PUBLIC_ADDRESS = "https://dl.fbaipublicfiles.com/segment_anything_2"


@dataclass(frozen=True)
class Sam2File:
    """One released file.

    Attributes:
        name: As `ntt fetch` takes it.
        config: Meta's name of the configuration, `sam2_cfg_file`.
        folder: Of the release, below the public address.
        sha256: In hex.
    """

    name: str
    config: str
    folder: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The file's name."""
        return f"{self.name}.pt"

    @property
    def url(self) -> str:
        """Where Meta has it."""
        return f"{PUBLIC_ADDRESS}/{self.folder}/{self.file_name}"


def _by_name(*files: Sam2File) -> Mapping[str, Sam2File]:
    return MappingProxyType({file.name: file for file in files})


SAM2_FILES: Mapping[str, Sam2File] = _by_name(
    Sam2File(
        "sam2_hiera_tiny",
        "sam2_hiera_t.yaml",
        "072824",
        "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125",
    ),
    Sam2File(
        "sam2_hiera_small",
        "sam2_hiera_s.yaml",
        "072824",
        "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3",
    ),
    Sam2File(
        "sam2_hiera_base_plus",
        "sam2_hiera_b+.yaml",
        "072824",
        "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071",
    ),
    Sam2File(
        "sam2_hiera_large",
        "sam2_hiera_l.yaml",
        "072824",
        "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b",
    ),
    Sam2File(
        "sam2.1_hiera_tiny",
        "sam2.1_hiera_t.yaml",
        "092824",
        "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
    ),
    Sam2File(
        "sam2.1_hiera_small",
        "sam2.1_hiera_s.yaml",
        "092824",
        "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
    ),
    Sam2File(
        "sam2.1_hiera_base_plus",
        "sam2.1_hiera_b+.yaml",
        "092824",
        "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
    ),
    Sam2File(
        "sam2.1_hiera_large",
        "sam2.1_hiera_l.yaml",
        "092824",
        "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
    ),
)


def sam2_file(name: str) -> Sam2File | None:
    """Return the released file that a name, a file's name or a link stands for; None if it is not one of SAM2's.

    Examples:
        >>> sam2_file("https://host/sam2_hiera_tiny.pt").config
        'sam2_hiera_t.yaml'
    """
    last = unquote(name.partition("?")[0]).rpartition("/")[2] if "://" in name else name
    return SAM2_FILES.get(last.removesuffix(".pt"))


def nearest_sam2(name: str) -> str | None:
    """Return the nearest name of a released file where a name means a SAM2, such as `facebook/sam2-hiera-tiny`."""
    owner, _, last = name.lower().rpartition("/")
    if owner not in ("", "facebook") or not last.startswith("sam2"):
        return None
    known = {name: name for name in SAM2_FILES} | {Path(file.config).stem: file.name for file in SAM2_FILES.values()}
    return known[difflib.get_close_matches(last.replace("-", "_").removesuffix(".yaml"), known, n=1, cutoff=0.0)[0]]


def command_for(config: str, path: Path | None) -> str | None:
    """Return the command that fetches a missing SAM2 file; None where there is no released one.

    Args:
        config: Meta's name of the configuration, with or without a folder.
        path: The file that is missing, where it was named.
    """
    named = sam2_file(path.name) if path is not None else None
    fitting = [file for file in SAM2_FILES.values() if file.config == Path(config).name]
    file = named or (fitting[0] if fitting else None)
    if file is None:
        return None
    if path is None or named is None or path.parent in (Path("checkpoints"), weights_folder()):
        return f"ntt fetch {file.name}"
    return f"ntt fetch {file.name} --root {shlex.quote(str(path.parent))}"
