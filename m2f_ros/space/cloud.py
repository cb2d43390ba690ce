"""Clouds of points: sensor_msgs/PointCloud2 as data, without ROS."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from m2f_ros.errors import SpaceError, some

# sensor_msgs/PointField's datatypes, by NumPy's names.
DATATYPES = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}
_KINDS = {number: name for name, number in DATATYPES.items()}
_ALIGNED = 4  # bytes; the size of a point is a multiple of it


@dataclass(frozen=True)
class Field:
    """sensor_msgs/PointField.

    Attributes:
        name: such as "x".
        offset: bytes from the start of a point.
        datatype: a value of DATATYPES, or a number that nobody reads.
        count: number of values; 0 means 1.
    """

    name: str
    offset: int
    datatype: int
    count: int = 1


@dataclass(frozen=True, eq=False)
class Cloud:
    """The fields of sensor_msgs/PointCloud2.

    Attributes:
        height: rows of an organised cloud; 1 without an order.
        width: points of a row.
        fields: of each point.
        is_bigendian: True if the highest byte of a value comes first.
        point_step: bytes of a point, with padding.
        row_step: bytes of a row, with padding.
        data: (bytes,) uint8, the points row by row.
        is_dense: False if coordinates may be NaN.
        stamp_ns: stamp of the header, nanoseconds.
        frame_id: frame of the coordinates.
    """

    height: int
    width: int
    fields: tuple[Field, ...]
    is_bigendian: bool
    point_step: int
    row_step: int
    data: np.ndarray
    is_dense: bool
    stamp_ns: int
    frame_id: str

    @classmethod
    def of(cls, message: Any) -> Cloud:
        """Take the fields of a sensor_msgs/PointCloud2 of rclpy or rosbags; the data is a view of the message's.

        Raises SpaceError, in one line, for impossible steps, too little data, and fields outside of their point.
        """
        stamp = message.header.stamp
        cloud = cls(
            int(message.height),
            int(message.width),
            tuple(Field(f.name, int(f.offset), int(f.datatype), int(f.count)) for f in message.fields),
            bool(message.is_bigendian),
            int(message.point_step),
            int(message.row_step),
            np.frombuffer(message.data, np.uint8) if len(message.data) else np.empty(0, np.uint8),
            bool(message.is_dense),
            stamp.sec * 1_000_000_000 + stamp.nanosec,
            message.header.frame_id,
        )
        cloud._check()
        return cloud

    @classmethod
    def of_columns(
        cls,
        columns: Mapping[str, np.ndarray],
        shape: tuple[int, int],
        frame_id: str,
        stamp_ns: int,
        is_dense: bool = True,
    ) -> Cloud:
        """Make a cloud whose fields are these columns, in this order, in this machine's byte order.

        Args:
            columns: name -> (height, width), (N,) or (N, count), of a type in DATATYPES.
            shape: (height, width); (1, N) without an order.
            frame_id: frame of the coordinates.
            stamp_ns: nanoseconds.
            is_dense: False if coordinates may be NaN.
        """
        fields, step = _laid_out(columns, shape[0] * shape[1], 0)
        data = np.zeros(shape[0] * shape[1] * step, np.uint8)
        swapped = sys.byteorder == "big"
        cloud = cls(*shape, fields, swapped, step, shape[1] * step, data, is_dense, stamp_ns, frame_id)
        cloud._put(columns)
        return cloud

    def __len__(self) -> int:
        """Number of points."""
        return self.height * self.width

    def xyz(self) -> np.ndarray:
        """Return (N, 3) coordinates: float32, or float64 for numbers that float32 does not hold.

        Raises SpaceError if x, y or z is missing or is no number.
        """
        missing = [name for name in "xyz" if all(field.name != name for field in self.fields)]
        if missing:
            names = some([field.name[:40] for field in self.fields]) or "none"
            raise SpaceError(f"the cloud has no field {' and no field '.join(missing)}; its fields: {names}")
        columns = [self.column(name) for name in "xyz"]
        if any(column.ndim > 1 for column in columns):
            raise SpaceError("the cloud has several values of x, y or z in a point; count must be 1")
        out = np.empty((3, len(self)), np.result_type(np.float32, *columns))  # each of x, y and z in one piece
        with np.errstate(invalid="ignore", over="ignore"):  # NaN of all kinds
            for k, column in enumerate(columns):
                out[k] = column
        return out.T

    def column(self, name: str) -> np.ndarray:
        """Return the values of a field, (N,) or (N, count) for several a point: a view in the cloud's byte order.

        Raises SpaceError if the field is missing or its datatype unknown.
        """
        field = next((field for field in self.fields if field.name == name), None)
        if field is None:
            names = some([field.name[:40] for field in self.fields]) or "none"
            raise SpaceError(f"the cloud has no field {name}; its fields: {names}")
        if field.datatype not in _KINDS:
            raise SpaceError(f"the cloud's field {name[:40]!r} has the datatype {field.datatype}; 1 to 8 are known")
        kind = np.dtype((">" if self.is_bigendian else "<") + _KINDS[field.datatype])
        strides = [self.row_step, self.point_step, kind.itemsize]
        shape = [self.height, self.width, field.count]
        if self.height < 2:
            strides[0] = self.point_step * self.width
        if field.count < 2:
            shape, strides = shape[:2], strides[:2]
        if not len(self):
            return np.empty((0, *shape[2:]), kind)
        values = np.ndarray(shape, kind, self.data, field.offset, strides)
        return values.reshape(-1, *shape[2:])

    def appended(self, columns: Mapping[str, np.ndarray]) -> Cloud:
        """Return this cloud with more fields after its own.

        columns: name -> (N,) or (N, count), of a type in DATATYPES, in the order of the points.

        The order of the points, all fields and the bytes of each point stay; padding of rows goes.

        Raises SpaceError if the cloud has a field of such a name already.
        """
        taken = [field.name for field in self.fields if field.name in columns]
        if taken:
            raise SpaceError(f"the cloud has a field {' and a field '.join(taken)} already: rename it, or leave it out")
        fields, step = _laid_out(columns, len(self), self.point_step)
        data = np.zeros(len(self) * step, np.uint8)
        if len(self):
            whole = np.dtype((np.void, self.point_step))  # copied point by point, not byte by byte
            strides = (self.row_step if self.height > 1 else self.width * self.point_step, self.point_step)
            points = np.ndarray((self.height, self.width), whole, self.data, 0, strides)
            np.ndarray((self.height, self.width), whole, data, 0, (self.width * step, step))[:] = points
        cloud = replace(self, fields=self.fields + fields, point_step=step, row_step=self.width * step, data=data)
        cloud._put(columns)
        return cloud

    def fill(self, message: Any, header: Any, field: type) -> Any:
        """Write the cloud into a sensor_msgs/PointCloud2, whose data is an array.array or a NumPy array; return it.

        header: used as it is. field: class of sensor_msgs/PointField, which takes the names of Field.
        """
        message.header = header
        message.height, message.width = self.height, self.width
        message.fields = [field(**asdict(part)) for part in self.fields]
        message.is_bigendian, message.is_dense = self.is_bigendian, self.is_dense
        message.point_step, message.row_step = self.point_step, self.row_step
        if isinstance(message.data, np.ndarray):
            message.data = self.data
        else:  # an assignment to `data` would check byte by byte
            del message.data[:]
            message.data.frombytes(self.data.data)
        return message

    def _check(self) -> None:
        if not self.width * self.height:  # may be more than `len` can say
            return
        row = self.width * self.point_step
        if not self.point_step:
            raise SpaceError("the cloud has points and a point_step of 0")
        if self.height > 1 and self.row_step < row:
            raise SpaceError(
                f"the cloud's row_step {self.row_step} is too small: {self.width} points of {self.point_step} bytes "
                f"take {row}"
            )
        needed = (self.height - 1) * self.row_step + row
        if self.data.size < needed:
            raise SpaceError(
                f"the cloud's data has {self.data.size} bytes: {self.height} rows of {self.width} points of "
                f"{self.point_step} bytes take {needed}"
            )
        for field in self.fields:
            kind = _KINDS.get(field.datatype)
            size = int(kind[1]) * max(1, field.count) if kind else 1
            if field.offset + size > self.point_step:
                raise SpaceError(
                    f"the cloud's field {field.name[:40]!r} ends at byte {field.offset + size} of a point of "
                    f"{self.point_step} bytes"
                )

    def _put(self, columns: Mapping[str, np.ndarray]) -> None:
        """Write columns into fields of their names; the rows have no padding."""
        for name, values in columns.items():
            place = self.column(name)
            place[...] = values.reshape(place.shape)


def _laid_out(columns: Mapping[str, np.ndarray], points: int, start: int) -> tuple[tuple[Field, ...], int]:
    """Place columns after `start` bytes of a point; return the fields and the bytes of a point."""
    fields = []
    for name, values in columns.items():
        kind = values.dtype.str[1:]
        count = values.size // points if points else 1
        if kind not in DATATYPES or count * points != values.size:
            raise SpaceError(f"{values.dtype} {values.shape} is no column {name!r} of a cloud of {points} points")
        start += -start % values.itemsize
        fields.append(Field(name, start, DATATYPES[kind], count))
        start += count * values.itemsize
    return tuple(fields), start + -start % _ALIGNED
