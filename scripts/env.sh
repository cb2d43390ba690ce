# The environment of this checkout: Python, ROS 2 and the built package.
# Made by `make build`; source it from bash:
#     . scripts/env.sh

m2f_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

export VIRTUAL_ENV=$m2f_root/.venv PYTHONNOUSERSITE=1
case :$PATH: in
    *:"$VIRTUAL_ENV/bin":*) ;;
    *) export PATH=$VIRTUAL_ENV/bin:$PATH ;;
esac
unset PYTHONHOME

# ROS 2 from wheels: the virtual environment is the whole of it. Otherwise the distribution stays as it is.
if [ -e "$VIRTUAL_ENV/share/ament_index/resource_index/packages/rclpy" ]; then
    if [ -n "${ROS_DISTRO-}" ]; then
        LD_LIBRARY_PATH= # of a distribution that is not used
    fi
    export LD_LIBRARY_PATH=$VIRTUAL_ENV/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export AMENT_PREFIX_PATH=$VIRTUAL_ENV CMAKE_PREFIX_PATH=$VIRTUAL_ENV RMW_IMPLEMENTATION=rmw_fastrtps_cpp
    unset PYTHONPATH ROS_DISTRO COLCON_PREFIX_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE
fi
if [ -e "$m2f_root/install/local_setup.bash" ]; then
    . "$m2f_root/install/local_setup.bash"
fi

# Large images arrive with a Fast DDS profile only.
eval "$("$VIRTUAL_ENV/bin/python" -I -S "$m2f_root/m2f_ros/replay/fastdds.py" "$m2f_root/config")"
unset m2f_root
