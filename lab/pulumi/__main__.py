"""`python -m lab.pulumi build` makes sure that there is an engine; `python -m lab.pulumi exec ...` runs its `pulumi`."""

from __future__ import annotations

import os
import shutil
import sys

from lab.pulumi import environment


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] not in ("build", "exec"):
        sys.exit(__doc__)
    try:
        env = environment()
    except RuntimeError as error:
        sys.exit(f"error: {error}")
    if arguments[0] == "build":
        print(shutil.which("pulumi", path=env["PATH"]))
    else:
        os.execvpe("pulumi", ["pulumi", *arguments[1:]], env)


main(sys.argv[1:])
