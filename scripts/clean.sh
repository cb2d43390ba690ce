#!/bin/bash
# Removes what the build made. A folder without the sign of that is left, and said.
set -euo pipefail
cd -- "$(dirname -- "$0")/.."

# remove FOLDER SIGN: the sign is a file in the folder that the build puts there.
remove() {
    if [ -e "$1/$2" ]; then
        rm -rf "./$1"
    elif [ -e "$1" ]; then
        echo "m2f_ros: $1 stays: the build did not make it ($1/$2 is not there)" >&2
    fi
}

remove .venv made-for
remove build wanted.txt
remove install .colcon_install_layout
remove log COLCON_IGNORE
