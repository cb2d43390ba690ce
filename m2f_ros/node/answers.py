"""Guards the services of a node: every request gets an answer, and a short one.

`ros2 param load` sets all that `ros2 param dump` wrote, also what cannot change in the present state. So the present
value of a parameter is always accepted. A value for the QoS of a topic that does not exist yet waits for that topic.
"""

from __future__ import annotations

import functools
import inspect
import re
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import yaml
from rcl_interfaces.msg import ListParametersResult, ParameterType, SetParametersResult
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    GetParameterTypes,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.service import Service

from m2f_ros.node.declare import given_values
from m2f_ros.node.throttle import cut

ASKED = 1000  # most parameters in a request, or the number of the node's parameters if larger
REASONS = 100  # most refusals with a reason in one answer
NAME = 60  # characters of a name in an answer
_QOS = re.compile(r"qos_overrides\.(/\w+){1,16}\.(publisher|subscription)(_\w+)?\.[a-z_]+")

Callback = Callable[[Any, Any], Any]
Failed = Callable[[Exception], None]


def keep_answering(node: Node, failed: Callable[[Service, Exception], None]) -> None:
    """Let the services of a node answer even if their callbacks raise. failed: function that takes the exceptions."""
    for service in node.services:
        told = functools.partial(failed, service)
        callback = service.callback
        if service.srv_type in _GUARDS:
            callback = _GUARDS[service.srv_type](node, callback, told)
        service.callback = _answering(service, callback, told)


def _answering(service: Service, callback: Callback, failed: Failed) -> Callback:
    """Wrap a callback: if it raises, the answer reports the failure."""

    def refused(error: Exception) -> Any:
        failed(error)
        response = service.srv_type.Response()
        if hasattr(response, "failure_reason"):  # of ~/get_type_description
            response.failure_reason = cut(f"{type(error).__name__}: {error}")
        return response  # success is false by default

    def answer(request: Any, response: Any) -> Any:
        try:
            response = callback(request, response)
        except Exception as error:
            return refused(error)
        if hasattr(response, "failure_reason"):
            response.failure_reason = cut(response.failure_reason)
        return response

    async def answer_later(request: Any, response: Any) -> Any:
        try:
            return await callback(request, response)
        except Exception as error:
            return refused(error)

    return answer_later if inspect.iscoroutinefunction(callback) else answer


def _too_many(node: Node, asked: list) -> str:
    """Return the reason if a request has too many names, else ""."""
    if len(asked) <= ASKED or len(asked) <= len(node.get_parameters_by_prefix("")):
        return ""
    return f"{len(asked)} parameters in one request are too many; ask for {ASKED} at most"


def _set(node: Node, callback: Callback, request: Any, response: Any, failed: Failed) -> SetParametersResult:
    """Set one parameter, or all together. Raises ValueError with a message for the client."""
    changed, waiting = [], {}
    for message in request.parameters:
        if not message.name:
            raise ValueError("a parameter without a name")
        if not (node.has_parameter(message.name) or _may_wait(node, message)):  # rclpy's error does not name it
            raise ValueError(f"there is no parameter '{cut(message.name, NAME)}'")
        try:
            value = Parameter.from_parameter_msg(message)
        except Exception as error:
            raise ValueError(f"parameter '{cut(message.name, NAME)}' cannot be read: {error}") from error
        if not node.has_parameter(message.name):
            waiting[message.name] = value
        elif not _is_present(node.get_parameter(message.name), value):
            changed.append(message)
    result = SetParametersResult(successful=True)
    if changed:
        request.parameters = changed
        try:
            response = callback(request, response)
        except Exception as error:
            failed(error)
            raise ValueError(f"the node failed to set it: {type(error).__name__}: {error}") from error
        result = response.results[0] if hasattr(response, "results") else response.result
    if result.successful:
        given_values(node).update(waiting)
    return result


def _may_wait(node: Node, message: Any) -> bool:
    """Return True for a short value of the QoS of a topic that may be created later."""
    value = message.value
    return (
        len(message.name) <= 300
        and _QOS.fullmatch(message.name) is not None
        and value.type
        in (ParameterType.PARAMETER_BOOL, ParameterType.PARAMETER_INTEGER, ParameterType.PARAMETER_STRING)
        and len(value.string_value) <= NAME
        and len(given_values(node)) < ASKED
    )


def _is_present(present: Parameter, value: Parameter) -> bool:
    """Return True for the present value of a parameter, and for what `ros2 param load` makes of it.

    It reads values as YAML once more: the text 2026 as a number, 1e-05 as a text, [] as a list without a type.
    """
    if isinstance(present.value, Sequence | array) and not isinstance(present.value, str):
        many = isinstance(value.value, Sequence | array) and not isinstance(value.value, str)
        return many and [one for one in present.value if one != ""] == [one for one in value.value if one != ""]
    if present.type_ == value.type_:
        return present.value == value.value
    with suppress(yaml.YAMLError, ValueError, RecursionError):
        read = yaml.safe_load(str(present.value))
        return type(read) is type(value.value) and read == value.value
    return False


def _one_by_one(node: Node, callback: Callback, failed: Failed) -> Callback:
    """Wrap SetParameters, which sets or refuses each parameter separately."""

    def one(parameter: Any, refusal: str) -> SetParametersResult:
        if refusal:
            return SetParametersResult(successful=False, reason=refusal)
        request, response = SetParameters.Request(parameters=[parameter]), SetParameters.Response()
        try:
            return _set(node, callback, request, response, failed)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))

    def answer(request: Any, response: Any) -> Any:
        refusal = _too_many(node, request.parameters)
        reasons = 1 if refusal else REASONS
        for parameter in request.parameters:
            result = one(parameter, refusal)
            if not result.successful:
                result.reason = cut(result.reason) if reasons > 0 else ""
                reasons -= 1
            response.results.append(result)
        return response

    return answer


def _together(node: Node, callback: Callback, failed: Failed) -> Callback:
    """Wrap SetParametersAtomically, which sets all parameters or none."""

    def answer(request: Any, response: Any) -> Any:
        reason = _too_many(node, request.parameters)
        if not reason:
            try:
                response.result = _set(node, callback, request, response, failed)
                reason = response.result.reason
            except ValueError as error:
                response.result, reason = SetParametersResult(successful=False), str(error)
        response.result.reason = cut(reason)
        return response

    return answer


def _of_names(node: Node, callback: Callback, failed: Failed) -> Callback:
    """Wrap a service for values, types or descriptions: too many names get an empty answer, like an unknown name."""
    return lambda request, response: response if _too_many(node, request.names) else callback(request, response)


def _listing(node: Node, callback: Callback, failed: Failed) -> Callback:
    """Wrap ListParameters: too many prefixes get an empty answer."""

    def answer(request: Any, response: Any) -> Any:
        if _too_many(node, request.prefixes):
            response.result = ListParametersResult()
            return response
        return callback(request, response)

    return answer


_GUARDS: dict[type, Callable[[Node, Callback, Failed], Callback]] = {
    SetParameters: _one_by_one,
    SetParametersAtomically: _together,
    DescribeParameters: _of_names,
    GetParameters: _of_names,
    GetParameterTypes: _of_names,
    ListParameters: _listing,
}
