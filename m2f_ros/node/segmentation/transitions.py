"""Runs lifecycle transitions in a separate thread, so that the executor stays responsive while a model loads.

rclpy runs a transition inside the service's callback, which blocks the executor's thread; a MultiThreadedExecutor would
cost time with every image.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from lifecycle_msgs.srv import ChangeState, GetAvailableTransitions
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode
from rclpy.task import Future

from m2f_ros.node.process import join, one_line
from m2f_ros.node.throttle import Throttle, cut

WAITING = 100  # most waiting requests; further ones are refused
NAME = 40  # characters of a label in the log


class Transitions:
    """Runs the transitions of a lifecycle node in sequence. A request is answered after its transition."""

    def __init__(self, node: LifecycleNode) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._waiting = 0  # number of requests; used in the executor's thread only
        self._say = Throttle(lambda line: node.get_logger().error(line))
        # Wakes the executor, which then resumes the callbacks that wait for a future.
        self._wake = node.create_guard_condition(lambda: None)
        group = ReentrantCallbackGroup()  # else a waiting callback would block all others
        for service in node.services:
            if service.srv_type is ChangeState:
                service.callback = self._later(service.callback)
                service.callback_group = group
                group.add_entity(service)
            elif service.srv_name.endswith("get_available_transitions"):
                self._available = service.callback
        self._thread = threading.Thread(target=self._run, name="transitions", daemon=True)
        self._thread.start()

    def post(self, job: Callable[[], None]) -> None:
        """Queue a function that makes transitions."""
        self._jobs.put(job)

    def close(self, timeout: float) -> bool:
        """End the thread after its present transition. Return False if it still runs after `timeout` seconds."""
        self._jobs.put(None)
        return join([self._thread], timeout)

    def _later(self, callback: Callable) -> Callable:
        async def change_state(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
            if self._waiting >= WAITING:
                self._say(f"transition refused: {self._waiting} wait already", "waiting")
                return response
            done: Future = Future()
            self._waiting += 1
            self._jobs.put(lambda: self._change(callback, request, response, done))
            try:
                return await done
            finally:
                self._waiting -= 1

        return change_state

    def _change(
        self, callback: Callable, request: ChangeState.Request, response: ChangeState.Response, done: Future
    ) -> None:
        try:
            if refusal := self._refusal(request):
                self._say(f"transition refused: {refusal}", "refused")
            else:
                response = callback(request, response)
        except Exception as error:
            response.success = False
            self._say(f"a transition failed: {one_line(error)}", "failed")
        finally:
            done.set_result(response)
            self._wake.trigger()

    def _refusal(self, request: ChangeState.Request) -> str:
        """Return why a transition is impossible now, or "". rclpy logs each such request, or raises (rclpy#1209)."""
        asked = request.transition
        answer = self._available(GetAvailableTransitions.Request(), GetAvailableTransitions.Response())
        there = [description.transition for description in answer.available_transitions]
        if any(asked.label == t.label if asked.label else asked.id == t.id for t in there):
            return ""
        name = repr(cut(asked.label, NAME)) if asked.label else asked.id
        return f"{name} cannot be made now; these can: {', '.join(t.label for t in there) or 'none'}"

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception as error:
                self._say(f"a transition failed: {one_line(error)}", "failed")
