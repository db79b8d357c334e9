"""Write what ``deploy models`` shows: the name, parameters and input of every model of the zoo, torchvision and timm.

    python -m benchmarks.catalog

Builds each model without memory for its weights (minutes) and writes deploy/models/catalog.json, with the version of
the package. ``tests/models/test_catalog.py`` compares the file with the installed packages.
"""

from __future__ import annotations

import json

from deploy.models.catalog import built_line
from deploy.models.known import CATALOG, PRECEDENCE, version_of
from deploy.models.resolve import known_names


def main() -> None:
    """Write the file."""
    sources = []
    for source in PRECEDENCE:
        lines = [built_line(source, name) for name in known_names(source)]
        rows = [
            f"{json.dumps(line.name.partition('/')[2])}: "
            + json.dumps([line.parameters, line.input, line.summary], ensure_ascii=False)
            for line in lines
        ]
        print(f"{source}: {len(lines)} models, {sum(line.parameters is None for line in lines)} not built")
        head = f'"{source}": {{"version": {json.dumps(version_of(source))}, "models": {{\n'
        sources.append(head + ",\n".join(rows) + "\n}}")
    CATALOG.write_text("{\n" + ",\n".join(sources) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
