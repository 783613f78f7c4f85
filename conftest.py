"""Every test: one thread, no network, a data cache of its own, and nothing of the user's settings."""

import os
import tempfile
from pathlib import Path

from hypothesis import settings

ROOT = Path(__file__).parent

# Before torch is imported, here and in the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["ZOO_CACHE"] = tempfile.mkdtemp(prefix="zoo-cache-")
for variable in ("ZOO_STRICT", "ZOO_DISABLE", "ZOO_PLUGINS", "ZOO_MAX_PARAMETERS"):
    os.environ.pop(variable, None)
# A busy machine is slow, which no property is about; and a red run must be red again.
settings.register_profile("zoo", deadline=None, derandomize=True)
settings.load_profile("zoo")
if "ZOO_DATA" not in os.environ and (ROOT.parent / "shared" / "data").is_dir():
    os.environ["ZOO_DATA"] = str(ROOT.parent / "shared" / "data")
