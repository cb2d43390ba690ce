#!/bin/bash
# Builds the messages and installs the package into install/, in the environment of .venv.
set -eo pipefail
cd -- "$(dirname -- "$0")/.."

log=build/build.log
. scripts/env.sh
echo "m2f_ros: building the package"
if ! python -m colcon --log-base build/log build --symlink-install --cmake-args \
    -DPython3_EXECUTABLE="$VIRTUAL_ENV/bin/python" -DBUILD_TESTING=OFF >"$log" 2>&1; then
    tail -n 25 "$log" >&2
    echo "m2f_ros: the build failed; its output is in $log. If the compiler changed: make clean" >&2
    exit 1
fi
# Removes links to deleted modules.
find install -xtype l -delete
