"""A fresh process for :func:`wmlightning.testing.watermarks.check_elsewhere`."""

from __future__ import annotations

import json
import sys

from wmlightning.testing.watermarks import made_triggers

if __name__ == "__main__":
    names, config_dir, overrides = json.loads(sys.argv[1])
    print(json.dumps(made_triggers(names, config_dir, overrides)))
