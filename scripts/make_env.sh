#!/bin/bash
# Makes .venv: Python packages, and ROS 2 from PyPI if no distribution is used.
# make_env.sh PYTHON TORCH ROS WHEELS; ROS is the name of the sourced distribution or "wheels", of which there are
# several sets: WHEELS names a list in scripts/ros_wheels. TORCH_INDEX of the environment is the index for PyTorch.
set -euo pipefail

python=$1 torch=$2 ros=$3 wheels=$4
log=build/install.log

# The caller's environment must not change the installation.
unset PYTHONHOME PIP_TARGET PIP_PREFIX
export PYTHONNOUSERSITE=1 PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
if [ "$ros" = wheels ]; then
    unset PYTHONPATH
fi

refuse() {
    echo "m2f_ros: $*" >&2
    exit 1
}

# step TITLE COMMAND…: the title goes to the terminal, the output of the command to the log.
step() {
    local title=$1 before
    shift
    echo "m2f_ros: $title"
    before=$(wc -l <"$log")
    if ! "$@" >>"$log" 2>&1; then
        tail -n "+$((before + 1))" "$log" | tail -n 10 | cut -c 1-200 >&2
        refuse "failed: $title. Its output is in $log; fix the cause and run make again"
    fi
}

# The lowest minor version of Python 3, and the first that is too new.
read -r lowest above < <(sed -n 's/^requires-python = ">=3\.\([0-9]*\),<3\.\([0-9]*\)"$/\1 \2/p' pyproject.toml) ||
    refuse 'pyproject.toml has no line like requires-python = ">=3.10,<3.14"'
supported="Python 3.$lowest to 3.$((above - 1))"
command -v "$python" >/dev/null ||
    refuse "$python is missing: install $supported, or name one: make PYTHON=/path/to/python3"
python=$("$python" -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))') # not the .venv, which may be removed
"$python" -c "import sys; sys.exit(not (3, $lowest) <= sys.version_info[:2] < (3, $above))" ||
    refuse "$("$python" --version 2>&1) is not supported: name a $supported: make PYTHON=/path/to/python3"
if [ "$ros" = wheels ]; then
    sets=$(cd scripts/ros_wheels && echo *.txt)
    [[ $wheels != */* && -f scripts/ros_wheels/$wheels.txt ]] ||
        refuse "there is no set of wheels WHEELS=${wheels@Q}, only ${sets//.txt/}"
elif [ "$ros" != "${ROS_DISTRO-}" ] || ! "$python" -c 'import rclpy' 2>/dev/null; then
    refuse "ROS=${ros@Q} is not in this shell, or $python cannot import its rclpy: source its setup.bash and name its" \
        "Python (make PYTHON=/usr/bin/python3), or use ROS 2 from PyPI (make WHEELS=…)"
fi
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    refuse "$python has no venv module: install it (Debian and Ubuntu: apt install python3-venv)"
"$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
    refuse "$python has no Python.h: install it (Debian and Ubuntu: apt install python3-dev)"
for tool in cmake g++ git; do
    command -v $tool >/dev/null || refuse "$tool is missing: install it (Debian and Ubuntu: apt install $tool)"
done
case $PWD in
    *[[:space:][:cntrl:]\"\'\`\$\\:\;\#%\&\|\<\>\(\)\[\]\{\}\*\?\!^]*)
        refuse "the folder ${PWD@Q} has a space or a sign in its name that colcon, CMake or a search path does not allow:" \
            "move it to a path of letters, digits and . _ - + , = @ ~" ;;
esac
[ ${#PWD} -le 200 ] || refuse "the path $PWD is too long for the first line of a script: move the folder"

mkdir -p build
: >"$log"

# An environment of another folder, interpreter or ROS cannot be reused.
wanted="$PWD $("$python" -c 'import sys; print(sys.base_prefix, sys.version)' | tr '\n' ' ') $ros"
[ "$ros" != wheels ] || wanted+=" $wheels"
wanted+=${TORCH_INDEX:+ $TORCH_INDEX}
if [ "$(cat .venv/made-for 2>/dev/null)" != "$wanted" ]; then
    for made in .venv/made-for install/.colcon_install_layout; do
        [ ! -e "${made%/*}" ] || [ -e "$made" ] || refuse "${made%/*} is in the way, and not of this build: move it away"
    done
    rm -rf .venv build/m2f_ros install
fi

options=()
if [ "$ros" = wheels ]; then
    if [ -n "${ROS_DISTRO-}" ]; then
        echo "m2f_ros: ROS 2 $ROS_DISTRO is sourced and not used: the wheels of ${wheels^} are. A Python that can" \
            "import its rclpy uses it where WHEELS is not given: make PYTHON=/usr/bin/python3"
    fi
else
    # Packages that the distribution was built with stay: NumPy for its ABI, and the template engine of the messages.
    options=(--system-site-packages)
fi
if [ ! -e .venv/made-for ]; then
    mkdir .venv
    : >.venv/made-for # marks the folder as ours if the run is interrupted
    step "making .venv with $("$python" --version)" "$python" -m venv "${options[@]}" .venv
    echo "$wanted" >.venv/made-for
fi
pip=(.venv/bin/python -m pip install --progress-bar off)
if [ "$ros" != wheels ]; then
    .venv/bin/python - >build/constraints.txt <<'EOF'
from importlib import metadata

for name, digits in ("numpy", 1), ("empy", 3), ("catkin-pkg", 3):
    try:
        version = metadata.version(name).split(".")
        print(f"{name}=={'.'.join(version[:digits])}.*")
    except metadata.PackageNotFoundError:
        pass
EOF
    pip+=(-c build/constraints.txt)
fi

step "installing the build tools" "${pip[@]}" 'setuptools>=77.0.3,<80' wheel 'colcon-common-extensions~=0.3.0'
if [ "$ros" = wheels ]; then
    step "installing ROS 2 ${wheels^} from PyPI" "${pip[@]}" -r "scripts/ros_wheels/$wheels.txt"
else
    echo "m2f_ros: using ROS 2 $ros of this machine"
fi
step "installing PyTorch ($torch; minutes on a slow connection)" \
    "${pip[@]}" ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$torch"
step "installing the package and its dependencies" "${pip[@]}" --no-build-isolation -e '.[openvino,export,train,eval,explain,ray,serve,test,lint]'
if [ "$ros" = wheels ]; then
    step "repairing paths in the ROS 2 wheels" .venv/bin/python scripts/repair_ros_wheels.py
fi
