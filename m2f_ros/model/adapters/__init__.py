"""Networks of other libraries behind the interface of `m2f_ros.model.network`."""
