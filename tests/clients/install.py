"""``python -m tests.clients.install DIR``: every client in a folder of its own, since their requirements differ."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

PYTHON: Final = {
    "sdks": ("openai>=3,<4", "anthropic>=2,<3"),
    "agents": ("openai-agents>=0.24,<1",),
    "langchain": ("langchain-openai>=1,<2", "langchain-anthropic>=1,<2"),
    # Its class for Anthropic cannot be used with later versions of that SDK.
    "llamaindex": ("llama-index-llms-openai>=0.8,<1", "llama-index-llms-anthropic>=0.12,<1", "anthropic<1"),
    "pydantic": ("pydantic-ai-slim[openai,anthropic]>=2,<3",),
    "litellm": ("litellm>=1.100,<2",),
}
"""Virtual environments, below ``DIR/python``."""
NODE: Final = (
    "openai@6",
    "@anthropic-ai/sdk@1",
    "ai@6",
    "@ai-sdk/openai@3",
    "@ai-sdk/anthropic@3",
    "@anthropic-ai/claude-code@2",
    "@openai/codex@0",
)
"""Packages, in ``DIR/node``."""


def main(directory: Path) -> None:
    for name, packages in PYTHON.items():
        venv = directory / "python" / name
        print(venv, flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(venv / "bin" / "python"), "-m", "pip", "install", "-q", *packages], check=True)
    node = directory / "node"
    print(node, flush=True)
    node.mkdir(parents=True, exist_ok=True)
    (node / "package.json").write_text('{"private": true, "type": "module"}\n')
    subprocess.run(["npm", "install", "--no-audit", "--no-fund", *NODE], cwd=node, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
