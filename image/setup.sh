#!/bin/sh
# Turns a root with the packages of packages.txt into the sandbox image. Runs as root
# inside that root, with this folder as /image; both ways of building end here.
#
#   /image/wheels/      the wheels of requirements.txt; absent when they could not be fetched
#   /image/left-out     then: why not, in one line
#
# Lines on stdout that begin with "step: " are shown to the person who waits.
set -eu
cd /image
export LC_ALL=C.UTF-8 PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1

if [ -d wheels ]; then
	echo "step: installing the Python wheels"
	# The wheels land in /usr/local/lib/python3.13/dist-packages, which Debian's Python
	# looks into before its own.
	python3 -m pip install --quiet --no-warn-script-location --no-index --find-links=wheels --require-hashes --no-deps --no-compile \
		--break-system-packages --root-user-action=ignore --disable-pip-version-check \
		--no-cache-dir --requirement requirements.txt
fi

# Fails when a wheel would hide a Debian package; writes what is in the image and what is not.
python3 inventory.py

# Test suites, of those packages that do without their own. (Not by dpkg.cfg: Debian's own
# compiling of packages, while they are installed, fails on files that are not there.)
cd /usr/lib/python3/dist-packages
find matplotlib mpl_toolkits networkx pandas psutil scipy shapely skimage sklearn statsmodels sympy xarray \
	-type d -name tests -prune -exec rm -r {} +
# Headers, what only a network would use, and what only a Jupyter front end would show.
cd /usr/local/lib/python3.13/dist-packages
rm -rf pyarrow/include pyarrow/src pyarrow/tests pyarrow/*flight* pyarrow/*_s3* pyarrow/_s3fs* \
	plotly/labextension plotly/package_data/widgetbundle.js /usr/local/share/jupyter /usr/local/etc/jupyter
cd /image

echo "step: compiling Python's byte code"
# Without looking at the sources' times: the root is read-only, and the times may change on
# the way into an engine.
python3 -m compileall -q -f -j 0 --invalidation-mode unchecked-hash \
	/usr/lib/python3 /usr/lib/python3.13 /usr/local/lib/python3.13 >compile.log 2>&1 ||
	tail -n 20 compile.log # a few packages ship files that are no Python; they stay as they are

echo "step: finishing"
# pip can reach nothing: say so at once, and look where users put their wheels.
cat >/etc/pip.conf <<'CONF'
[global]
no-index = true
find-links = /workspace
break-system-packages = true
disable-pip-version-check = true
CONF
# Text in Chinese, Japanese, Korean or with symbols finds a font, without a setting.
cat >>/etc/matplotlibrc <<'CONF'

font.family: sans-serif, WenQuanYi Micro Hei, Symbola
CONF

# A kernel never gains rights: no set-user-id, no set-group-id, no file capabilities.
find / -xdev -type f -perm /6000 -exec chmod ug-s {} +
find / -xdev -type d -perm /2000 -exec chmod g-s {} +

rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache \
	/var/lib/dpkg/*-old /var/log/* /tmp/* /var/tmp/* /root/.cache /etc/.pwd.lock \
	/usr/share/doc-base /usr/share/locale /usr/share/man /usr/share/info
mkdir -p /var/lib/apt/lists/partial /var/cache/apt/archives/partial
: >/etc/machine-id
# No network, but localhost has a name. (Docker's way: a COPY of its own, as it mounts its own file here.)
[ ! -f hosts ] || cp hosts /etc/hosts
truncate --size 0 /etc/resolv.conf /etc/hostname 2>/dev/null || true # an engine that builds may mount its own there
cd /
rm -rf /image
