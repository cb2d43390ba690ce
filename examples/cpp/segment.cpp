// Segments a picture with a file of `m2f export MODEL --to onnx --whole --encoding rgb8`, without Python.
//
//   g++ -std=c++17 segment.cpp -I$ORT/include -L$ORT/lib -lonnxruntime -o segment
//   ./segment whole.onnx camera.ppm overlay.ppm
//
// ORT is an unpacked release of ONNX Runtime. The picture is a binary PPM of the size that the file was exported for,
// such as `ffmpeg -i camera.png camera.ppm` writes.
#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

struct Picture {
  int64_t width = 0, height = 0;
  std::vector<uint8_t> rgb;
};

Picture read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  int64_t most = 0;
  Picture picture;
  file >> kind >> picture.width >> picture.height >> most;
  if (kind != "P6" || most != 255) throw std::runtime_error(path + ": is no binary PPM of 8 bits");
  file.ignore(1);
  picture.rgb.resize(3 * picture.width * picture.height);
  if (!file.read(reinterpret_cast<char*>(picture.rgb.data()), picture.rgb.size()))
    throw std::runtime_error(path + ": is cut off");
  return picture;
}

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

  // A colour for each train id; m2f.yaml has those of the classes.
  const uint8_t* label = results[0].GetTensorData<uint8_t>();
  for (size_t i = 0; i < picture.rgb.size() / 3; ++i) {
    const uint8_t id = label[i];
    const uint8_t colour[] = {uint8_t(37 * id + 90), uint8_t(101 * id + 40), uint8_t(173 * id + 150)};
    for (size_t c = 0; c < 3; ++c) picture.rgb[3 * i + c] = uint8_t((picture.rgb[3 * i + c] + colour[c]) / 2);
  }
  std::ofstream file(argv[3], std::ios::binary);
  file << "P6\n" << picture.width << " " << picture.height << "\n255\n";
  file.write(reinterpret_cast<const char*>(picture.rgb.data()), picture.rgb.size());
  if (!file.flush()) throw std::runtime_error(std::string(argv[3]) + ": cannot be written");
} catch (const std::exception& error) {
  std::cerr << "segment: " << error.what() << "\n";
  return 1;
}
