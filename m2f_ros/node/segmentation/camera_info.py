"""Makes CameraInfo messages from calibrations, and scales them to the size of outputs."""

from __future__ import annotations

from sensor_msgs.msg import CameraInfo, RegionOfInterest
from std_msgs.msg import Header

from m2f_ros.frame.calibration import Calibration, size_to_fit


def message_of(info: Calibration, header: Header) -> CameraInfo:
    """Make the message of a calibration, with the calibration's frame_id, or else the header's."""
    roi = info.roi
    return CameraInfo(
        header=Header(stamp=header.stamp, frame_id=header.frame_id if info.frame_id is None else info.frame_id),
        width=info.width,
        height=info.height,
        distortion_model=info.distortion_model,
        d=info.d,
        k=info.k,
        r=info.r,
        p=info.p,
        binning_x=info.binning_x,
        binning_y=info.binning_y,
        roi=RegionOfInterest(
            x_offset=roi.x_offset,
            y_offset=roi.y_offset,
            height=roi.height,
            width=roi.width,
            do_rectify=roi.do_rectify,
        ),
    )


def fit_camera_info(info: CameraInfo, image: tuple[int, int], output: tuple[int, int]) -> CameraInfo:
    """Scale a message (see `Calibration.fitted`); return `info` itself if it fits."""
    if size_to_fit(info, image) == output:
        return info
    return message_of(Calibration.of(info).fitted(image, output), info.header)
