// Decodes masks for test_masks_hpp.py. A line of the input is a mask and a box:
//   height width counts(hex, or - for none) x y width height
// A line of the output is what masks.hpp says:
//   area x y width height image crop contains      the last three: "=", then 0 or 1 a pixel
//   invalid: reason
// An image of more than 2^20 pixels is not decoded as a whole: image and contains are "-".

#include <stemseg/masks.hpp>

#include <cstdint>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace
{

std::vector<std::uint8_t> from_hex(const std::string & text)
{
  std::vector<std::uint8_t> bytes;
  for (std::size_t at = 0; at + 1 < text.size(); at += 2) {
    bytes.push_back(static_cast<std::uint8_t>(std::stoi(text.substr(at, 2), nullptr, 16)));
  }
  return bytes;
}

std::string digits(const std::vector<std::uint8_t> & pixels)
{
  std::string text = "=";
  for (const std::uint8_t pixel : pixels) {
    text += static_cast<char>('0' + pixel);
  }
  return text;
}

std::string points(const stemseg::Mask & mask)
{
  std::string text = "=";
  for (std::uint32_t y = 0; y < mask.height(); ++y) {
    for (std::uint32_t x = 0; x < mask.width(); ++x) {
      text += mask.contains(x, y) ? '1' : '0';
    }
  }
  return text;
}

void decode(const std::string & line)
{
  std::uint32_t height = 0, width = 0;
  std::string counts;
  stemseg::Box part{};
  std::istringstream(line) >> height >> width >> counts >>
  part.x >> part.y >> part.width >> part.height;
  const stemseg::Mask mask(from_hex(counts), height, width);
  const stemseg::Box box = mask.box();
  const std::string crop = digits(mask.crop(part));
  const bool small = std::uint64_t{height} * width <= (1u << 20);
  const std::string image = small ? digits(mask.image()) : "-";
  const std::string contained = small ? points(mask) : "-";
  std::cout << mask.area() << ' ' << box.x << ' ' << box.y << ' ' << box.width << ' ' <<
    box.height << ' ' << image << ' ' << crop << ' ' << contained << '\n';
}

}  // namespace

int main()
{
  for (std::string line; std::getline(std::cin, line); ) {
    try {
      decode(line);
    } catch (const std::invalid_argument & error) {
      std::cout << "invalid: " << error.what() << '\n';
    }
  }
}
