// Segments a picture with a file of `m2f export MODEL --to onnx --whole --encoding rgb8`, without Python.
//
//   g++ -std=c++17 segment_onnxruntime.cpp -I$ORT/include -L$ORT/lib -lonnxruntime -Wl,-rpath,$ORT/lib -o segment
//   ./segment whole.onnx camera.ppm overlay.ppm
//
// ORT is an unpacked release of ONNX Runtime. The picture is a binary PPM of the size that the file was exported for,
// such as `ffmpeg -i camera.png camera.ppm` writes.
#include <onnxruntime_cxx_api.h>

#include <iostream>

#include "ppm.h"

int main(int argc, char** argv) try {
  if (argc != 4) throw std::runtime_error("usage: segment whole.onnx camera.ppm overlay.ppm");
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "segment");
  Ort::Session session(env, argv[1], Ort::SessionOptions());
  Picture picture = read_ppm(argv[2]);

  const int64_t shape[] = {1, picture.height, picture.width, 3};
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto image = Ort::Value::CreateTensor<uint8_t>(memory, picture.rgb.data(), picture.rgb.size(), shape, 4);
  const char* inputs[] = {"image"};
  const char* outputs[] = {"label", "confidence"};
  auto results = session.Run(Ort::RunOptions(), inputs, &image, 1, outputs, 2);

  paint(picture, results[0].GetTensorData<uint8_t>());
  write_ppm(argv[3], picture);
} catch (const std::exception& error) {
  std::cerr << "segment: " << error.what() << "\n";
  return 1;
}
