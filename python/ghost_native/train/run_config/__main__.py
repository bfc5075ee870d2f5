"""Prints what is generated from the configuration classes, to be written to the files that hold it:

python -m ghost_native.train.run_config docs > docs/configuration.md
python -m ghost_native.train.run_config schema > configs/schema.json
"""

from __future__ import annotations

import json
import sys

from ghost_native.train.run_config.reference import markdown
from ghost_native.train.run_config.schema import json_schema


def generated(what: str) -> str:
    """The text of "docs" or "schema"."""
    return markdown() if what == "docs" else json.dumps(json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] not in (["docs"], ["schema"]):
        sys.exit(__doc__)
    sys.stdout.write(generated(sys.argv[1]))
