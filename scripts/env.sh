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

# Full-HD images arrive with this profile only. Each process takes its 64 MiB of shared memory at once; where
# there is not enough for four (a container has 64 MiB in all), 12 MiB each still carry a full-HD image.
m2f_profile=$m2f_root/config/fastdds.xml
if [ "$(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1)" -lt 278528 ] 2>/dev/null; then
    mkdir -p "$m2f_root/build"
    sed 's/67108864/12582912/; s/16777216/12582912/' "$m2f_profile" >"$m2f_root/build/fastdds.xml"
    m2f_profile=$m2f_root/build/fastdds.xml
fi
case ${ROS_DISTRO-} in
    humble | jazzy) export FASTRTPS_DEFAULT_PROFILES_FILE=${FASTRTPS_DEFAULT_PROFILES_FILE:-$m2f_profile} ;;
    *) # Both at once are an error.
        unset FASTRTPS_DEFAULT_PROFILES_FILE
        export FASTDDS_DEFAULT_PROFILES_FILE=${FASTDDS_DEFAULT_PROFILES_FILE:-$m2f_profile} ;;
esac
unset m2f_root m2f_profile
