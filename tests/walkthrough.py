"""Does what a page of the documentation says, from top to bottom: python tests/walkthrough.py PAGE.

Blocks of Python share their names; a block of YAML is written to the file that the page has named last before it; of
the commands those of ``zoo`` are run. Each command and what it printed follow as a line of JSON.
"""

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from zoo_core.cli.main import app

BLOCK = re.compile(r"^```(python|console|yaml)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def walk(page: str) -> None:
    scope: dict[str, Any] = {}
    for block in BLOCK.finditer(page):
        language, text = block.groups()
        if language == "python":
            exec(compile(text, "python", "exec"), scope)
        elif language == "yaml":
            Path(re.findall(r"`(\S+\.yaml)`", page[: block.start()])[-1]).write_text(text)
        else:
            for command in re.findall(r"^\$ zoo (.*)$", text, re.MULTILINE):
                print(json.dumps([command, run(command)]))


def run(command: str) -> str:
    done = CliRunner().invoke(app, shlex.split(command, comments=True), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


if __name__ == "__main__":
    walk(Path(sys.argv[1]).read_text(encoding="utf-8"))
