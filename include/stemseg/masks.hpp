// Masks of stemseg/InstanceArray for C++ subscribers. Needs C++11 and its standard library alone.
//
//   for (const auto & instance : message.instances) {
//     const stemseg::Mask mask(instance.mask_rle, message.height, message.width);
//     if (mask.contains(x, y)) { ... }
//   }
//
// The bytes are COCO's compressed run lengths: differences of run lengths in chunks of five bits,
// background first, column by column.

#ifndef STEMSEG__MASKS_HPP_
#define STEMSEG__MASKS_HPP_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace stemseg
{

/// Part of an image, in pixels; (x, y) is its first pixel, x to the right and y down.
struct Box
{
  std::uint32_t x;
  std::uint32_t y;
  std::uint32_t width;
  std::uint32_t height;
};

/// Mask of one instance. It stays compressed: only image() and crop() allocate pixels.
class Mask
{
public:
  /// Most pixels that image() and crop() return, so that a forged size cannot exhaust the memory.
  static constexpr std::uint64_t max_pixels = std::uint64_t{1} << 28;

  /// Checks and keeps the run lengths.
  ///
  /// counts: `Instance.mask_rle`, or any other container of bytes.
  /// height, width: size of the source image, from the InstanceArray.
  /// Throws std::invalid_argument unless the run lengths are well formed and fill the image exactly.
  template<typename Bytes>
  Mask(const Bytes & counts, std::uint32_t height, std::uint32_t width)
  : height_(height), width_(width)
  {
    static_assert(sizeof(*counts.data()) == 1, "run lengths are a sequence of bytes");
    read_runs(reinterpret_cast<const unsigned char *>(counts.data()), counts.size());
  }

  std::uint32_t height() const {return height_;}
  std::uint32_t width() const {return width_;}

  /// Number of pixels of the object.
  std::uint64_t area() const
  {
    std::uint64_t sum = 0;
    for (std::size_t run = 1; run < ends_.size(); run += 2) {
      sum += ends_[run] - ends_[run - 1];
    }
    return sum;
  }

  /// Whether the pixel at column x and row y belongs to the object; false outside the image.
  bool contains(std::uint32_t x, std::uint32_t y) const
  {
    return x < width_ && y < height_ && run_at(position(x, y)) % 2 == 1;
  }

  /// Tight box of the object; all zeros if the mask is empty.
  Box box() const
  {
    std::uint64_t left = width_, right = 0, top = height_, bottom = 0;  // right, bottom: exclusive
    for (std::size_t run = 1; run < ends_.size(); run += 2) {
      const std::uint64_t begin = ends_[run - 1], last = ends_[run] - 1;
      if (begin == ends_[run]) {
        continue;  // an empty run
      }
      const bool one_column = begin / height_ == last / height_;
      left = std::min(left, begin / height_);
      right = std::max(right, last / height_ + 1);
      top = std::min(top, one_column ? begin % height_ : 0);
      bottom = std::max(bottom, one_column ? last % height_ + 1 : height_);
    }
    return right == 0 ? Box{0, 0, 0, 0} : Box{
      static_cast<std::uint32_t>(left), static_cast<std::uint32_t>(top),
      static_cast<std::uint32_t>(right - left), static_cast<std::uint32_t>(bottom - top)};
  }

  /// Row-major bytes of the whole image, height x width: 1 object, 0 background.
  ///
  /// Throws std::invalid_argument for an image of more than max_pixels.
  std::vector<std::uint8_t> image() const {return crop(Box{0, 0, width_, height_});}

  /// Row-major bytes of a box, box.height x box.width: 1 object, 0 background.
  ///
  /// With `Instance.roi` as the box this is all of the object.
  /// Throws std::invalid_argument for a box that leaves the image or has more than max_pixels.
  std::vector<std::uint8_t> crop(const Box & box) const
  {
    if (std::uint64_t{box.x} + box.width > width_ || std::uint64_t{box.y} + box.height > height_) {
      throw std::invalid_argument("the box leaves the image");
    }
    if (std::uint64_t{box.width} * box.height > max_pixels) {
      throw std::invalid_argument(
              std::to_string(box.width) + "x" + std::to_string(box.height) + " pixels are too many");
    }
    std::vector<std::uint8_t> pixels(std::size_t{box.width} * box.height, 0);
    for (std::uint32_t x = 0; x < box.width && box.height > 0; ++x) {
      draw_column(box, x, pixels);
    }
    return pixels;
  }

private:
  /// Place of a pixel in the column-major order of the run lengths; below 2^64 for every image.
  std::uint64_t position(std::uint32_t x, std::uint32_t y) const
  {
    return std::uint64_t{x} * height_ + y;
  }

  /// Index of the run that a place lies in; runs with an odd index are the object's.
  std::size_t run_at(std::uint64_t place) const
  {
    return static_cast<std::size_t>(
      std::upper_bound(ends_.begin(), ends_.end(), place) - ends_.begin());
  }

  /// Sets the object's pixels in one column of a box.
  void draw_column(const Box & box, std::uint32_t x, std::vector<std::uint8_t> & pixels) const
  {
    const std::uint64_t begin = position(box.x + x, box.y), end = begin + box.height;
    std::uint64_t place = begin;
    for (std::size_t run = run_at(begin); place < end; ++run) {
      const std::uint64_t stop = std::min(ends_[run], end);
      for (; run % 2 == 1 && place < stop; ++place) {
        pixels[static_cast<std::size_t>(place - begin) * box.width + x] = 1;
      }
      place = stop;
    }
  }

  void read_runs(const unsigned char * counts, std::size_t size)
  {
    const std::uint64_t pixels = std::uint64_t{height_} * width_;
    std::uint64_t previous[2] = {0, 0};  // lengths of the last run but one, and of the last
    std::uint64_t end = 0;
    for (std::size_t index = 0; index < size; ) {
      const std::int64_t value = read_number(counts, size, index);
      const std::uint64_t base = ends_.size() > 2 ? previous[0] : 0;
      const std::uint64_t run = add(base, value, pixels - end);
      previous[0] = previous[1];
      previous[1] = run;
      end += run;
      ends_.push_back(end);
    }
    if (end != pixels) {
      throw std::invalid_argument(
              "run lengths cover " + std::to_string(end) + " pixels of an image with " +
              std::to_string(pixels));
    }
  }

  /// Reads one signed number, lowest chunk first, and moves the index behind it.
  static std::int64_t read_number(
    const unsigned char * counts, std::size_t size, std::size_t & index)
  {
    std::int64_t value = 0;
    for (int chunks = 0; chunks < max_chunks; ++chunks) {
      if (index == size) {
        throw std::invalid_argument("the last run length is cut off");
      }
      const int chunk = counts[index++] - 48;
      if (chunk < 0 || chunk > 63) {
        throw std::invalid_argument(
                "byte " + std::to_string(chunk + 48) + " does not occur in compressed run lengths");
      }
      value += std::int64_t{chunk & 0x1F} * (std::int64_t{1} << (5 * chunks));
      if (!(chunk & 0x20)) {  // the last chunk, whose fifth bit is the sign
        return chunk & 0x10 ? value - (std::int64_t{1} << (5 * chunks + 5)) : value;
      }
    }
    throw std::invalid_argument("a run length has too many digits");
  }

  /// Sum of a run length and a difference, if it lies in [0, limit].
  static std::uint64_t add(std::uint64_t base, std::int64_t difference, std::uint64_t limit)
  {
    const auto amount = static_cast<std::uint64_t>(difference < 0 ? -difference : difference);
    if (difference < 0 && amount > base) {
      throw std::invalid_argument("negative run length");
    }
    const std::uint64_t reduced = difference < 0 ? base - amount : base;
    const std::uint64_t added = difference < 0 ? 0 : amount;
    if (reduced > limit || added > limit - reduced) {
      throw std::invalid_argument("run lengths cover more pixels than the image has");
    }
    return reduced + added;
  }

  static constexpr int max_chunks = 12;  // 60 bits, so that a difference fits into 64

  std::uint32_t height_;
  std::uint32_t width_;
  std::vector<std::uint64_t> ends_;  ///< Where each run ends, in column-major pixels.
};

}  // namespace stemseg

#endif  // STEMSEG__MASKS_HPP_
