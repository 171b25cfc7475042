#!/bin/sh
# The way of Docker Hub: makes a Debian base the sandbox image. sandbox.dockerfile runs it.
set -eu
cd /image
export DEBIAN_FRONTEND=noninteractive

cp dpkg.cfg /etc/dpkg/dpkg.cfg.d/dormouse
if [ -n "${MIRROR:-}" ]; then
	sed -i "s,http://deb.debian.org/debian,$MIRROR," /etc/apt/sources.list.d/debian.sources
fi

echo "step: downloading and installing the Debian packages"
apt-get update
apt-get upgrade --yes
sed 's/#.*//' packages.txt | xargs apt-get install --yes --no-install-recommends
apt-get clean

echo "step: downloading the Python wheels"
python3 -m pip download --no-color --no-cache-dir --disable-pip-version-check --progress-bar=off --retries=1 \
	--dest=wheels --no-deps --only-binary=:all: --require-hashes --requirement=requirements.txt || {
	rm -rf wheels
	echo "step: LEFT OUT: the packages from PyPI, which could not be downloaded"
	echo "they could not be downloaded when the image was built" >left-out
}

rm -f /etc/dpkg/dpkg.cfg.d/dormouse
exec sh setup.sh
