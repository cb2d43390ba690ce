# The environment of this checkout: Python, ROS 2 and the built package.
# Run `make build` first; source it from bash:
#     . scripts/env.sh

if [ -z "${BASH_VERSION-}" ]; then
    echo "m2f_ros: scripts/env.sh is for bash: start bash, and source it there" >&2
    return 1
fi
m2f_root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
if [ ! -x "$m2f_root/.venv/bin/python" ]; then
    echo "m2f_ros: $m2f_root is not built: run \`make build\` there" >&2
    unset m2f_root
    return 1
fi

export VIRTUAL_ENV=$m2f_root/.venv PYTHONNOUSERSITE=1
case :${PATH-}: in
    *:"$VIRTUAL_ENV/bin":*) ;;
    *) export PATH=$VIRTUAL_ENV/bin${PATH:+:$PATH} ;;
esac
unset PYTHONHOME

# With ROS 2 from wheels the virtual environment replaces a distribution. Otherwise the distribution stays as it is.
if [ -e "$VIRTUAL_ENV/share/ament_index/resource_index/packages/rclpy" ]; then
    if [ -n "${ROS_DISTRO-}" ]; then
        LD_LIBRARY_PATH= # the value is of the distribution, which is not used
    fi
    export LD_LIBRARY_PATH=$VIRTUAL_ENV/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export AMENT_PREFIX_PATH=$VIRTUAL_ENV CMAKE_PREFIX_PATH=$VIRTUAL_ENV RMW_IMPLEMENTATION=rmw_fastrtps_cpp
    unset PYTHONPATH ROS_DISTRO COLCON_PREFIX_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE
fi
if [ -e "$m2f_root/install/local_setup.bash" ]; then
    # colcon's scripts read variables that may be unset.
    case $- in
        *u*) set +u && . "$m2f_root/install/local_setup.bash" && set -u ;;
        *) . "$m2f_root/install/local_setup.bash" ;;
    esac
fi

# Large images need a Fast DDS profile.
eval "$("$VIRTUAL_ENV/bin/python" -I -S "$m2f_root/m2f_ros/processes/fastdds.py" "$m2f_root/config")"
unset m2f_root
