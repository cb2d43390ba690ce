// Binary PPM pictures, and an overlay of labels on one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

struct Picture {
  int64_t width = 0, height = 0;
  std::vector<uint8_t> rgb;
};

inline Picture read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  int64_t most = 0;
  Picture picture;
  file >> kind >> picture.width >> picture.height >> most;
  if (!file || kind != "P6" || most != 255 || picture.width < 1 || picture.height < 1)
    throw std::runtime_error(path + ": is no binary PPM of 8 bits");
  file.ignore(1);
  picture.rgb.resize(3 * picture.width * picture.height);
  if (!file.read(reinterpret_cast<char*>(picture.rgb.data()), picture.rgb.size()))
    throw std::runtime_error(path + ": is cut off");
  return picture;
}

inline void write_ppm(const std::string& path, const Picture& picture) {
  std::ofstream file(path, std::ios::binary);
  file << "P6\n" << picture.width << " " << picture.height << "\n255\n";
  file.write(reinterpret_cast<const char*>(picture.rgb.data()), picture.rgb.size());
  if (!file.flush()) throw std::runtime_error(path + ": cannot be written");
}

// Mixes each pixel with a colour for its train id; m2f.yaml has those of the classes.
inline void paint(Picture& picture, const uint8_t* label) {
  for (size_t i = 0; i < picture.rgb.size() / 3; ++i) {
    const uint8_t id = label[i];
    const uint8_t colour[] = {uint8_t(37 * id + 90), uint8_t(101 * id + 40), uint8_t(173 * id + 150)};
    for (size_t c = 0; c < 3; ++c) picture.rgb[3 * i + c] = uint8_t((picture.rgb[3 * i + c] + colour[c]) / 2);
  }
}
