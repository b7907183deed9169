"""Take what differs between two runs out of a CycloneDX list: `python settle_sbom.py INPUT OUTPUT`.

The time becomes SOURCE_DATE_EPOCH, the serial number a digest of the contents, and the order is by name.
"""

import json
import os
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path

bom = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
# The files that a package was found in are no contents of their own.
bom["components"] = sorted(
    (component for component in bom["components"] if component["type"] != "file"),
    key=lambda component: (component["name"], component.get("version", ""), component["bom-ref"]),
)
for dependency in bom.get("dependencies", []):
    dependency["dependsOn"] = sorted(dependency.get("dependsOn", []))
bom.get("dependencies", []).sort(key=lambda dependency: dependency["ref"])
bom["metadata"]["timestamp"] = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC).isoformat()
bom.pop("serialNumber", None)
bom["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(bom, sort_keys=True))}"
Path(sys.argv[2]).write_text(json.dumps(bom, indent=1) + "\n", encoding="utf-8")
