"""The plugin's process: serves the component `openshift-lvs:Cluster` to the engine that started it."""

import sys
from pathlib import Path

# The folder above this one has the components.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from plugin.provider import serve  # noqa: E402 (its folder is found by the line above)

serve(sys.argv[1:])
