#!/bin/bash
# Makes .venv-zoo: torchvision and segmentation_models.pytorch with the PyTorch that torchvision's wheels are built for,
# what the package needs beside it, and ROS 2 from PyPI if no distribution is used; make build makes the messages.
# make_zoo.sh PYTHON ROS WHEELS REQUIREMENT…: PyTorch and torchvision. For ROS and WHEELS see make_env.sh.
set -euo pipefail

python=$1 ros=$2 wheels=$3
shift 3
log=build/zoo.log

unset PYTHONHOME PIP_TARGET PIP_PREFIX
[ "$ros" != wheels ] || unset PYTHONPATH
export PYTHONNOUSERSITE=1 PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

refuse() {
    echo "m2f_ros: $*" >&2
    exit 1
}

command -v "$python" >/dev/null || refuse "$python is missing: name a Python: make zoo PYTHON=/path/to/python3"
"$python" -c 'import ensurepip, venv' 2>/dev/null || refuse "$python has no venv module: install python3-venv"
mkdir -p build
: >"$log"

wanted="$PWD $("$python" -c 'import sys; print(sys.base_prefix, sys.version)' | tr '\n' ' ') $ros $wheels $*"
if [ "$(cat .venv-zoo/made-for 2>/dev/null)" != "$wanted" ]; then
    [ ! -e .venv-zoo ] || [ -e .venv-zoo/made-for ] || refuse ".venv-zoo is in the way, and not of make zoo: move it away"
    rm -rf .venv-zoo
    mkdir .venv-zoo
    : >.venv-zoo/made-for # marks the folder as ours if the run is interrupted
    "$python" -m venv .venv-zoo >>"$log" 2>&1 || refuse "cannot make .venv-zoo: see $log"
    echo "$wanted" >.venv-zoo/made-for
fi
pip=(.venv-zoo/bin/python -m pip install --progress-bar off)

echo "m2f_ros: installing $* into .venv-zoo (gigabytes where the index has a build for CUDA)"
"${pip[@]}" "$@" >>"$log" 2>&1 ||
    refuse "pip cannot install $*: see $log; name another pair of versions: make zoo ZOO_TORCH='torch==… torchvision==…'"

# The package's own requirements, but for PyTorch: pyproject.toml has the versions that its tests ran with.
.venv-zoo/bin/python - >build/zoo.txt <<'PYTHON'
try:
    import tomllib
except ImportError:
    from pip._vendor import tomli as tomllib
import re

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
extras = project["optional-dependencies"]
test = [line for line in extras["test"] if line.startswith(("pytest", "scipy"))]
for line in [*project["dependencies"], *extras["openvino"], *extras["export"], *extras["zoo"], *extras["train"], *test]:
    if re.match(r"[\w-]+", line)[0] not in ("torch", "torchvision"):
        print(line)
PYTHON
.venv-zoo/bin/python -m pip freeze | grep -E '^(torch|torchvision)==' >build/zoo_pins.txt
echo "m2f_ros: installing segmentation_models_pytorch and what the package needs into .venv-zoo"
"${pip[@]}" -c build/zoo_pins.txt -r build/zoo.txt >>"$log" 2>&1 ||
    refuse "pip cannot install the requirements in build/zoo.txt: see $log"
if [ "$ros" = wheels ]; then
    echo "m2f_ros: installing ROS 2 ${wheels^} from PyPI into .venv-zoo"
    "${pip[@]}" -c build/zoo_pins.txt -r "scripts/ros_wheels/$wheels.txt" >>"$log" 2>&1 ||
        refuse "pip cannot install ROS 2: see $log"
fi
.venv-zoo/bin/python -c 'import torchvision, segmentation_models_pytorch' 2>>"$log" ||
    refuse "torchvision does not work with the installed PyTorch: see $log; name a pair: make zoo ZOO_TORCH='torch==… torchvision==…'"
