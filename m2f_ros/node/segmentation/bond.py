"""The bond with Nav2's lifecycle manager, which takes a node for dead that forms none after `activate`.

Contract of Nav2 (nav2_ros_common/lifecycle_node.hpp, nav2_lifecycle_manager): topic `bond` in the node's namespace; the
id is the node's name; formed by `activate`, broken by `deactivate` and at the end of the process. The manager may stop
without effect on the node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rclpy.duration import Duration

from m2f_ros.node.process import one_line
from m2f_ros.node.throttle import cut

if TYPE_CHECKING:
    from rclpy.lifecycle import LifecycleNode

TOPIC = "bond"
PERIOD = 0.25  # seconds between two heartbeats, as in Nav2; the manager waits 4 s for one
# Seconds without the manager's heartbeat until the bond breaks: never, as in Nav2. bondpy's own switch, the parameter
# bond_disable_heartbeat_timeout, cannot be set: bondpy declares it itself, at the first timeout.
NEVER = 1e9
ACKNOWLEDGE_TIMEOUT = 0.2  # seconds for the last message, before its publisher goes
MANAGER = "nav2_msgs/srv/ManageLifecycleNodes"  # service that Nav2's lifecycle managers offer
ADVICE = "set the manager's bond_timeout to 0.0"


class ManagerBond:
    """Forms and breaks the bond, where bondpy is installed. Every call belongs to the executor's thread."""

    def __init__(self, node: LifecycleNode) -> None:
        self._node, self._bond, self._told = node, None, False

    def form(self) -> None:
        """Begin to send heartbeats. Without bondpy, log once what to set if a manager of Nav2 is there."""
        self.end()
        try:
            from bondpy.bondpy import Bond
        except ImportError:
            self._tell("bondpy is not installed (package ros-$ROS_DISTRO-bondpy)", by_nav2=True)
            return
        try:
            self._bond = bond = Bond(self._node, TOPIC, self._node.get_name())
            bond.heartbeat_period, bond.heartbeat_timeout = PERIOD, NEVER
            bond.start()
        except Exception as error:  # of another version of bondpy
            self._tell(f"bondpy fails: {cut(one_line(error))}", by_nav2=False)

    def end(self) -> None:
        """Break the bond, if there is one, and destroy its topics."""
        bond: Any
        bond, self._bond = self._bond, None
        if bond is None:
            return
        try:
            bond.break_bond()
            if hasattr(bond.pub, "wait_for_all_acked"):  # not on Humble
                bond.pub.wait_for_all_acked(Duration(seconds=ACKNOWLEDGE_TIMEOUT))
            bond.shutdown()
        except Exception as error:  # as above
            self._say(f"the bond with the lifecycle manager does not end: {cut(one_line(error))}")
        # bondpy destroys the handles alone, and the node would keep the objects.
        for entity, destroy in (("sub", self._node.destroy_subscription), ("pub", self._node.destroy_publisher)):
            if hasattr(bond, entity):
                destroy(getattr(bond, entity))

    def _tell(self, why: str, by_nav2: bool) -> None:
        if self._told or (by_nav2 and not self._is_managed_by_nav2()):
            return
        self._told = True
        self._say(f"no bond with a lifecycle manager: {why}; {ADVICE}, or it takes this node for dead")

    def _say(self, line: str) -> None:
        self._node.get_logger().warning(line)

    def _is_managed_by_nav2(self) -> bool:
        return any(MANAGER in kinds for _, kinds in self._node.get_service_names_and_types())
