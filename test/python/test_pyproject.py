# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What `pip wheel .` is told agrees with what CMake installs.

The wheel itself takes minutes to build; docs/serving.md says how.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_what_is_installed_is_built(project):
    """CMake installs what `build.targets` builds, in the component it names."""
    cmake = (ROOT / "python/CMakeLists.txt").read_text()
    [(targets, component)] = re.findall(
        r"install\(TARGETS (.*?) LIBRARY.*?COMPONENT (\w+)\)", cmake, re.DOTALL
    )
    options = project["tool"]["scikit-build"]
    assert set(targets.split()) == set(options["build"]["targets"])
    assert options["install"]["components"] == [component]
    assert options["wheel"]["packages"] == ["python/qlm"]


def test_versions_agree(project):
    cmake = (ROOT / "CMakeLists.txt").read_text()
    [version] = re.findall(r"project\(qlm VERSION (\S+)", cmake)
    assert project["project"]["version"] == version


def test_the_sdist_has_what_the_build_reads(project):
    """Folders that CMakeLists.txt adds are not left out."""
    cmake = (ROOT / "CMakeLists.txt").read_text()
    excluded = set(project["tool"]["scikit-build"]["sdist"]["exclude"])
    for folder in re.findall(r"^add_subdirectory\((\w+)", cmake, re.MULTILINE):
        assert folder.split("/")[0] not in excluded, folder
    assert {"lib", "include", "python", "tools", "cmake"}.isdisjoint(excluded)


def test_extras_are_what_the_tests_install(project):
    wanted = (ROOT / "scripts/requirements.txt").read_text()
    for requirement in project["project"]["optional-dependencies"]["serve"]:
        assert requirement in wanted.splitlines(), requirement
