#!/usr/bin/env python3
"""Pins requirements.in: writes requirements.txt with versions and the wheels' SHA-256.

Run from anywhere: python3 image/pin.py
It needs pip and PyPI. For each name it takes the newest version that requirements.in allows and that has a wheel for the
image's Python on x86_64, and requires a wheel of the same version on aarch64. It downloads these wheels to compute their
hashes.
"""

import hashlib
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
PYTHON = "3.13"
GLIBC = range(17, 42)  # manylinux_2_17 (manylinux2014) to manylinux_2_41, the glibc of trixie
MACHINES = ["x86_64", "aarch64"]
HEADER = """\
# Made by image/pin.py from requirements.in: do not edit.
# Wheels for Python 3.13 on manylinux, x86_64 and aarch64; everything is listed, nothing is resolved.
"""


def download(requirement: str, machine: str, dest: str) -> tuple[str, str]:
    """Downloads one wheel; returns its version and hash."""
    platforms = [f"--platform=manylinux_2_{n}_{machine}" for n in GLIBC]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--dest", dest, "--no-deps",
         "--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp",
         f"--platform=manylinux2014_{machine}", *platforms, requirement],
        check=True,
    )
    (wheel,) = pathlib.Path(dest).iterdir()
    return wheel.name.split("-")[1], hashlib.sha256(wheel.read_bytes()).hexdigest()


def pin(requirement: str) -> str:
    name = re.split(r"[=<>!~ ]", requirement)[0]
    hashes, version = [], None
    for machine in MACHINES:
        with tempfile.TemporaryDirectory() as dest:
            found, digest = download(f"{name}=={version}" if version else requirement, machine, dest)
        version = found
        if digest not in hashes:
            hashes.append(digest)
    return f"{name}=={version}" + "".join(f" \\\n    --hash=sha256:{h}" for h in hashes)


def main() -> None:
    lines = (HERE / "requirements.in").read_text().splitlines()
    names = [name for line in lines if (name := line.split("#")[0].strip())]
    pins = []
    for name in names:
        pins.append(pin(name))
        print(pins[-1].split(" ")[0], file=sys.stderr)
    (HERE / "requirements.txt").write_text(HEADER + "\n".join(pins) + "\n")


main()
