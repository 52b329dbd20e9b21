"""`python -m lab.pulumi build` makes sure that there is an engine; `python -m lab.pulumi exec ...` runs its `pulumi`."""

from __future__ import annotations

import os
import shutil
import sys

from lab.pulumi import environment

match sys.argv[1:]:
    case ["build"]:
        print(shutil.which("pulumi", path=environment()["PATH"]))
    case ["exec", *arguments]:
        os.execvpe("pulumi", ["pulumi", *arguments], environment())
    case _:
        sys.exit(__doc__)
