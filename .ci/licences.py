"""Lists the licences of what is installed, and fails on one that users of Apache-2.0 software could not take.

Usage: python .ci/licences.py
"""

import re
import sys
from collections.abc import Iterable
from fnmatch import fnmatch
from importlib.metadata import Distribution, distributions

# Permissive licences, and MPL-2.0, whose terms end with its own files; as `_plainly` spells them.
_ALLOWED = frozenset(
    {
        *(
            "apache",
            "apache 2.0",
            "apache 2",
            "mit",
            "mit cmu",
            "isc",
            "isc iscl",
            "0bsd",
            "bsl 1.0",
            "cc0 1.0",
            "zlib",
        ),
        *("bsd", "freebsd", "bsd 2 clause", "bsd 3 clause", "2 clause bsd", "3 clause bsd", "afl 2.1", "cnri python"),
        *("mpl 2.0", "mozilla public 2.0 mpl 2.0", "psf 2.0", "psfl", "python foundation", "hpnd", "unlicense"),
    }
)
# By name, with the reason why it may be there all the same.
EXCEPTIONS = {
    "cuda-toolkit": "names NVIDIA's libraries for torch's CUDA build, and holds nothing itself",
    "faster-coco-eval": "Apache-2.0 by the LICENSE in its wheel; its metadata does not say so",
    "iopath": "MIT by the LICENSE in its source; of the tests' sam2 alone",
    "jax2onnx": "Apache-2.0 by the LICENSE in its wheel; its metadata does not say so",
    "pi-heif": "BSD-3-Clause; libheif and libde265 in its wheel are LGPL-3.0: users install it from PyPI",
    "nvidia-*": "NVIDIA's libraries for torch's CUDA build: users install them from PyPI, the project ships none",
}


def stated(package: Distribution) -> str:
    """Return what a package says of its licence: the SPDX expression, or else its classifiers, or a line of text."""
    metadata = package.metadata
    expression = metadata.get("License-Expression")
    if expression:
        return str(expression)
    classifiers = [
        entry.split(" :: ")[-1] for entry in metadata.get_all("Classifier", []) if entry.startswith("License :: ")
    ]
    # Of "OSI Approved" alone and of Debian's word nothing follows; the rest hold all at once.
    named = [entry for entry in classifiers if entry not in {"OSI Approved", "DFSG approved"}]
    return " AND ".join(named) or str(metadata.get("License", "")).strip().split("\n")[0][:60]


def is_allowed(licence: str) -> bool:
    """Tell whether every licence of an expression is allowed, or of alternatives one.

    Example:
        >>> is_allowed("MIT AND (GPL-3.0-only OR Apache-2.0)"), is_allowed("AGPL-3.0-only"), is_allowed("")
        (True, False, False)
    """
    text = re.sub(r"\s+WITH\s+[\w.-]+", "", licence)
    while (inner := re.search(r"\(([^()]*\b(?:AND|OR)\b[^()]*)\)", text)) is not None:
        text = text.replace(inner[0], "MIT" if is_allowed(inner[1]) else "refused")
    return any(
        all(_plainly(part) in _ALLOWED for part in re.split(r"\bAND\b", choice)) for choice in re.split(r"\bOR\b", text)
    )


def _plainly(licence: str) -> str:
    """Bring the spellings of one licence together: `Apache License, Version 2.0` and `Apache-2.0`."""
    words = re.findall(r"[\w.]+", licence.lower())
    return " ".join(word for word in words if word not in {"the", "licence", "license", "software", "version"})


def excepted(name: str) -> str | None:
    """Return the reason why a package may be there whatever it says, if there is one."""
    return next((reason for pattern, reason in EXCEPTIONS.items() if fnmatch(name, pattern)), None)


def listed(packages: Iterable[Distribution]) -> tuple[list[str], list[str]]:
    """Return a line for each package, and the names of those that may not be there."""
    lines, refused = [], []
    for name, package in sorted((package.metadata["Name"].lower().replace("_", "-"), package) for package in packages):
        licence = stated(package) or "states none"
        reason = None if is_allowed(licence) else excepted(name)
        if reason is None and not is_allowed(licence):
            refused.append(f"{name} ({licence})")
        lines.append(f"{name:34} {package.version:16} {licence}{f'  [{reason}]' if reason else ''}")
    return lines, refused


def main() -> int:
    """Print the list, and fail where one is refused."""
    lines, refused = listed(distributions())
    print("\n".join(lines))
    if refused:
        print(f"not allowed beside Apache-2.0: {', '.join(refused)}", file=sys.stderr)
        print("replace them, or write an exception with its reason into .ci/licences.py", file=sys.stderr)
    return int(bool(refused))


if __name__ == "__main__":
    sys.exit(main())
