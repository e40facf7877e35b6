"""Write what is in a locked file as a CycloneDX 1.6 bill of materials: `python scripts/sbom.py [LOCK]`, in `.venv`.

`server.txt`, what the container image holds, unless another lock of `requirements/` is named. To standard output; the
same lock gives the same bytes, so that two builds can be compared. Markers (another system, another Python) are kept as
a property: the lock is for all of them.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import tomllib
from pathlib import Path
from typing import Final
from uuid import UUID

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

ROOT: Final = Path(__file__).resolve().parent.parent
ENTRY: Final = re.compile(
    r"^(?P<name>[a-z0-9][a-z0-9._-]*)==(?P<version>[^\s;\\]+)(?: ; (?P<marker>[^\\\n]+))?", re.MULTILINE
)
HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def product() -> Component:
    """What the bill is of."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return Component(
        name=declared["name"],
        version=declared["version"],
        type=ComponentType.APPLICATION,
        bom_ref=declared["name"],
        purl=PackageURL("pypi", name=declared["name"], version=declared["version"]),
        licenses=[LicenseExpression(declared["license"])],
    )


def components(lock: str) -> list[Component]:
    """The packages of a lock. Each hash is of a file that may be installed: one of them is."""
    found = list(ENTRY.finditer(lock))
    ends = [entry.start() for entry in found[1:]] + [len(lock)]
    made = []
    for entry, end in zip(found, ends, strict=True):
        name, version, marker = entry.group("name", "version", "marker")
        hashes = sorted(HASH.findall(lock[entry.start() : end]))
        made.append(
            Component(
                name=name,
                version=version,
                type=ComponentType.LIBRARY,
                bom_ref=f"{name}=={version}",
                purl=PackageURL("pypi", name=name, version=version),
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=each) for each in hashes],
                properties=[Property(name="ledgerwire:marker", value=marker.strip())] if marker else [],
            )
        )
    return made


def bill(lock: str) -> str:
    """The bill of materials of a lock's text, as JSON."""
    bom = Bom(
        components=components(lock), serial_number=UUID(bytes=hashlib.sha256(lock.encode()).digest()[:16], version=4)
    )
    bom.metadata.component = product()
    bom.metadata.timestamp = None  # type: ignore[assignment] # the format need not have it, and no two would be alike
    bom.register_dependency(bom.metadata.component, bom.components)
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2) + "\n"


def main() -> int:
    """Write it; 2 when there is no such lock."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lock", nargs="?", default="server.txt", help="a file in requirements/; default %(default)s")
    path = ROOT / "requirements" / parser.parse_args().lock
    if not path.is_file():
        print(f"There is no lock {path.name} in requirements/.", file=sys.stderr)
        return 2
    sys.stdout.write(bill(path.read_text("utf-8")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
