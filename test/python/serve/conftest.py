# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""One package and one server for all tests of the server."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def package(packages):
    return packages.compile("tiny-llama", "--weights=int8", "--max-context=256")


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    import serving

    path = tmp_path_factory.mktemp("template") / "chat.jinja"
    path.write_text(serving.TEMPLATE)
    return path


@pytest.fixture(scope="session")
def server(package, template):
    import serving

    with serving.Server(
        package, "--name=tiny", f"--chat-template={template}", "--speculate=4",
    ) as running:  # fmt: skip
        yield running


@pytest.fixture(scope="session")
def expected(package):
    """Greedy text of the prompt, from the binding."""
    import qlm
    import serving

    model = qlm.load(package)
    return model.generate(serving.PROMPT, max_new_tokens=24)[0]
