#!/bin/bash
# Removes the folders of the build. A folder without the sign of the build stays, with a line.
set -euo pipefail
cd -- "$(dirname -- "$0")/.."

# remove FOLDER SIGN: SIGN is a file that the build puts into the folder.
remove() {
    if [ -e "$1/$2" ]; then
        rm -rf "./$1"
    elif [ -e "$1" ]; then
        echo "m2f_ros: $1 stays: the build did not make it ($1/$2 is not there)" >&2
    fi
}

remove .venv made-for
remove .venv-zoo made-for
remove build wanted.txt
remove install .colcon_install_layout
remove log COLCON_IGNORE
