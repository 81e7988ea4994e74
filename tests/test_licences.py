"""The list of licences: what it takes, what it refuses, and that what is installed here may be."""

import importlib.util
from importlib.metadata import Distribution
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("licences", ROOT / ".ci" / "licences.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


licences = load()


@pytest.mark.parametrize(
    "licence",
    [
        *("Apache-2.0", "Apache License, Version 2.0", "Apache Software License", "Apache 2.0 License", "MIT License"),
        *("BSD-3-Clause", "3-Clause BSD License", "ISC License (ISCL)", "Mozilla Public License 2.0 (MPL 2.0)"),
        *("MIT OR GPL-3.0-only", "Apache-2.0 WITH LLVM-exception AND MIT", "MIT AND (GPL-2.0-only OR ISC)"),
    ],
)
def test_allowed(licence: str) -> None:
    assert licences.is_allowed(licence)


@pytest.mark.parametrize(
    "licence",
    [
        *("", "UNKNOWN", "GPL-3.0-only", "GNU General Public License v3 (GPLv3)", "AGPL-3.0-or-later", "SSPL-1.0"),
        *(
            "MIT AND GPL-2.0-only",
            "LicenseRef-Proprietary",
            "(AGPL-3.0-only AND MIT) OR GPL-2.0-only",
            "Other/Proprietary",
        ),
    ],
)
def test_refused(licence: str) -> None:
    assert not licences.is_allowed(licence)


def package(folder: Path, name: str, *lines: str) -> Distribution:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *lines, ""]))
    return Distribution.at(info)


def test_a_package_that_may_not_be_there_is_named(tmp_path: Path) -> None:
    lines, refused = licences.listed(
        [
            package(tmp_path, "fine", "License-Expression: MIT"),
            package(tmp_path, "viral", "Classifier: License :: OSI Approved :: GNU Affero General Public License v3"),
            package(tmp_path, "silent"),
            package(tmp_path, "nvidia_cudnn_cu99", "License: NVIDIA Proprietary Software"),
            package(tmp_path, "worded", "License: MIT", "Classifier: License :: OSI Approved :: MIT License"),
        ]
    )
    assert len(lines) == 5
    assert refused == ["silent (states none)", "viral (GNU Affero General Public License v3)"]
    assert next(line for line in lines if line.startswith("nvidia")).endswith("the project ships none]")


def test_what_is_installed_may_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert licences.main() == 0, capsys.readouterr().err


def test_every_exception_has_its_reason() -> None:
    assert all(len(reason) > 20 for reason in licences.EXCEPTIONS.values())
