"""Writes /usr/share/dormouse/packages.json, what the image holds; run by setup.sh."""

import importlib.metadata
import json
import pathlib
import re
import subprocess
import sys

DEBIAN = "/usr/lib/python3/dist-packages"
LOCAL = "/usr/local/lib/python3.13/dist-packages"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(path: str) -> dict[str, str]:
    found = importlib.metadata.distributions(path=[path])
    return {normal(d.metadata["Name"]): d.version for d in found}


def debian() -> dict[str, str]:
    asked = [line.split("#")[0].strip() for line in open("packages.txt")]
    out = subprocess.check_output(["dpkg-query", "-W", "-f", "${Package}\t${Version}\n"], text=True)
    versions = dict(line.split("\t") for line in out.splitlines())
    return {name: versions[name] for name in asked if name}


def main() -> None:
    wheels, packaged = names(LOCAL), names(DEBIAN)
    hidden = sorted(wheels.keys() & packaged.keys())
    if hidden:
        sys.exit(f"requirements.in names what Debian's packages hold already: {', '.join(hidden)}")

    pinned = re.findall(r"^([\w.-]+)==([\w.]+)", open("requirements.txt").read(), re.MULTILINE)
    missing = [f"{name}=={version}" for name, version in pinned
               if normal(name) not in wheels]
    reason = pathlib.Path("left-out")
    inventory = {
        "suite": "trixie",
        "python": sys.version.split()[0],
        "debian": debian(),
        "pypi": wheels,
        "left_out": missing,
        "left_out_reason": reason.read_text().strip() if reason.exists() else "",
    }
    target = pathlib.Path("/usr/share/dormouse/packages.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(inventory, indent=1, sort_keys=True) + "\n")


main()
