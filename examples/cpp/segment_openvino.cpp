// Segments a picture with a file of `m2f export MODEL --to openvino --whole --encoding rgb8`, or `--to onnx`, without
// Python.
//
//   OV=$(python -c 'import openvino, pathlib; print(pathlib.Path(openvino.__file__).parent)')
//   g++ -std=c++17 segment_openvino.cpp -I$OV/include $OV/libs/libopenvino.so.* -Wl,-rpath,$OV/libs -o segment
//   ./segment whole.xml camera.ppm overlay.ppm
//
// OV is OpenVINO from PyPI, which has headers and libraries. With a release of OpenVINO in C++ CMake finds it:
// find_package(OpenVINO), openvino::runtime. The picture is a binary PPM of the size that the file was exported for,
// such as `ffmpeg -i camera.png camera.ppm` writes.
#include <openvino/openvino.hpp>

#include <iostream>

#include "ppm.h"

int main(int argc, char** argv) try {
  if (argc != 4) throw std::runtime_error("usage: segment whole.xml camera.ppm overlay.ppm");
  ov::Core core;
  // In place of float32 some processors would take bfloat16.
  auto network = core.compile_model(argv[1], "CPU", ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                                    ov::hint::inference_precision(ov::element::f32));
  auto request = network.create_infer_request();
  Picture picture = read_ppm(argv[2]);

  const ov::Shape shape = {1, size_t(picture.height), size_t(picture.width), 3};
  request.set_tensor("image", ov::Tensor(ov::element::u8, shape, picture.rgb.data()));
  request.infer();

  paint(picture, request.get_tensor("label").data<const uint8_t>());
  write_ppm(argv[3], picture);
} catch (const std::exception& error) {
  std::cerr << "segment: " << error.what() << "\n";
  return 1;
}
