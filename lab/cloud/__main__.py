"""The local cloud by hand: python -m lab.cloud up | down [--keep] | status | exec COMMAND..."""

from __future__ import annotations

import argparse
import os
import sys

from lab import cloud, debian
from lab.phases import Phases


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab.cloud", description=cloud.__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("up", help="bring it up, or make sure that it is")
    down = verbs.add_parser("down", help="end it")
    down.add_argument("--keep", action="store_true", help="keep its state: servers run again after the next up")
    verbs.add_parser("status", help="every service, and whether it lives")
    execute = verbs.add_parser("exec", help="run a command inside, as the cloud's operator")
    execute.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    try:
        match given.verb:
            case "up":
                cloud.up(Phases())
            case "down":
                cloud.down(wipe=not given.keep)
            case "status":
                for name, service in cloud.status().items():
                    life = f"alive for {service['seconds']} s" if service["pid"] else "dead"
                    print(f"{name:24} {life}, {service['restarts']} restarts")
            case "exec":
                command = [*cloud.inside(), *(given.command or ["bash"])]
                os.execvp(command[0], command)
    except (cloud.CloudError, debian.BuildError, TimeoutError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
