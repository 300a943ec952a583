// What a kernel says of its arrays, and the check of those that it is given.
//
// A signature is a text such as "x[n h c p] taps[9c o] bias[o]": the name of each array, and its axes. A letter is a
// size: where it stands for the first time it takes the size that the array has, and further on the array must have
// this size. Other axes are "16", "9c", "c+r", "h/4", and "c?": c, or 0 in all axes with a question mark.
// Some letters mean the same in all kernels: a feature map has h rows, in lines of p floats; k is the length of a
// filter; the summary has s rows.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "rows.h"
#include "xla/ffi/api/ffi.h"

namespace seemore {

namespace ffi = xla::ffi;

constexpr size_t kMostAxes = 4;

// What part of the arrays is image: the first array of each call, as `ValidRegion.region` in Python makes it.
struct Region {
  int height, width;            // of the image in the arrays
  int first_row, image_height;  // of the image, of which the array may hold some rows only
  int summary_rows;             // that are image in the summary of its context
  int begin, end;               // rows that count in sums over the image
  int from, until;              // rows to be computed; the others are left as they are
};

struct Array {
  float* data = nullptr;
  size_t rank = 0;
  std::array<int64_t, kMostAxes> dims{};
  int dim(int axis) const { return static_cast<int>(dims[axis]); }
  size_t count() const {
    size_t product = 1;
    for (size_t axis = 0; axis < rank; ++axis) product *= dims[axis];
    return product;
  }
};

// As JAX names it.
inline std::string type_name(ffi::DataType type) {
  switch (type) {
    case ffi::DataType::PRED: return "bool";
    case ffi::DataType::S8: return "int8";
    case ffi::DataType::S16: return "int16";
    case ffi::DataType::S32: return "int32";
    case ffi::DataType::S64: return "int64";
    case ffi::DataType::U8: return "uint8";
    case ffi::DataType::U16: return "uint16";
    case ffi::DataType::U32: return "uint32";
    case ffi::DataType::U64: return "uint64";
    case ffi::DataType::F16: return "float16";
    case ffi::DataType::BF16: return "bfloat16";
    case ffi::DataType::F32: return "float32";
    case ffi::DataType::F64: return "float64";
    case ffi::DataType::C64: return "complex64";
    case ffi::DataType::C128: return "complex128";
    default: return "another type";
  }
}

// A signature's arrays.
struct Declared {
  std::string_view name, axes;
};

inline std::vector<Declared> declared(std::string_view signature) {
  std::vector<Declared> all;
  while (!signature.empty()) {
    size_t open = signature.find('['), close = signature.find(']');
    all.push_back({signature.substr(0, open), signature.substr(open + 1, close - open - 1)});
    signature.remove_prefix(std::min(close + 2, signature.size()));
  }
  return all;
}

inline std::vector<std::string_view> split(std::string_view axes) {
  std::vector<std::string_view> all;
  while (true) {
    size_t end = axes.find(' ');
    all.push_back(axes.substr(0, end));
    if (end == axes.npos) return all;
    axes.remove_prefix(end + 1);
  }
}

// The check of one call. What is wrong is thrown as std::invalid_argument.
class Check {
 public:
  // `what` is "inputs" or "outputs"; `get(i)` gives the buffer number i.
  template <class Get>
  std::vector<Array> arrays(std::string_view signature, const char* what, size_t found, const Get& get) {
    std::vector<Declared> all = declared(signature);
    std::string counts = std::to_string(all.size()) + " " + what + " expected, " + std::to_string(found) + " found";
    if (found < all.size()) throw std::invalid_argument(std::string(all[found].name) + " is missing: " + counts);
    if (found > all.size()) throw std::invalid_argument(std::string(all.back().name) + " must be the last: " + counts);
    std::vector<Array> arrays;
    arrays.reserve(all.size());
    for (size_t i = 0; i < all.size(); ++i) arrays.push_back(array(all[i], ffi::DataType::F32, get(i)));
    return arrays;
  }

  static const int32_t* region_values(const ffi::AnyBuffer& buffer) {
    Check().array({"region", "9"}, ffi::DataType::S32, buffer);
    return static_cast<const int32_t*>(buffer.untyped_data());
  }

  // All that the kernels rely on; the letters must have their sizes.
  void region(const Region& r) const {
    constexpr int64_t most = std::numeric_limits<int32_t>::max();
    int64_t summary = size('s');
    in_region("height", r.height, 1, size('h'));
    in_region("width", r.width, 1, size('p'));
    in_region("image_height", r.image_height, r.height, most);
    in_region("first_row", r.first_row, 0, r.image_height - r.height);
    in_region("summary_rows", r.summary_rows, summary ? 1 : 0, summary ? summary : most);
    in_region("begin", r.begin, 0, r.height);
    in_region("end", r.end, r.begin, r.height);
    in_region("from", r.from, 0, r.height);
    in_region("until", r.until, r.from, r.height);
  }

 private:
  using Sizes = std::array<int64_t, 26>;  // of the letters; 0: it has none yet
  static bool is_letter(char c) { return c >= 'a' && c <= 'z'; }
  int64_t size(char letter) const { return sizes_[letter - 'a']; }

  // The size that an axis must have.
  int64_t expected(std::string_view axis, int64_t found) {
    if (axis.size() == 1 && is_letter(axis[0])) {
      int64_t& known = sizes_[axis[0] - 'a'];
      if (known == 0) known = found;
      return known;
    }
    if (axis == "c?") {
      if (optional_ < 0) optional_ = found > 0;
      return optional_ * size('c');
    }
    if (axis == "c+r") return size('c') + size('r');
    if (axis.size() == 3) return size(axis[0]) / (axis[2] - '0');
    int64_t number = 0;
    for (; !axis.empty() && !is_letter(axis[0]); axis.remove_prefix(1)) number = 10 * number + (axis[0] - '0');
    return axis.empty() ? number : number * size(axis[0]);
  }

  Array array(const Declared& wanted, ffi::DataType type, const ffi::AnyBuffer& buffer) {
    std::vector<std::string_view> axes = split(wanted.axes);
    auto dims = buffer.dimensions();
    const Sizes before = sizes_;
    auto wrong = [&](const char* rule) {
      std::string message(wanted.name);
      message += " must be " + type_name(type) + " [" + joined(axes) + "]" + values(wanted.axes, before) + rule;
      throw std::invalid_argument(message + ", not " + type_name(buffer.element_type()) + " [" +
                                  joined(std::vector<int64_t>(dims.begin(), dims.end())) + "]");
    };
    if (buffer.element_type() != type || dims.size() != axes.size()) wrong("");
    Array array{static_cast<float*>(buffer.untyped_data()), axes.size()};
    for (size_t i = 0; i < axes.size(); ++i) {
      int64_t found = dims[i];
      if (found <= 0 && axes[i] != "c?") wrong(" and no axis of size 0");
      if (axes[i] == "p" && found % kBlock) wrong(" and p a multiple of 16");
      if (axes[i] == "k" && (found % 2 == 0 || found > 2 * kMargin + 1)) wrong(" and k odd and at most 33");
      if (found != expected(axes[i], found)) wrong("");
      // Products of neighbours are computed as int.
      if (found > std::numeric_limits<int32_t>::max() / (i ? std::max<int64_t>(dims[i - 1], 1) : 1))
        wrong(" and the product of neighbouring axes below 2^31");
      array.dims[i] = found;
    }
    return array;
  }
  static_assert(kBlock == 16 && kMargin == 16, "the messages say so");

  // Those of the letters that have one: " with c=36".
  static std::string values(std::string_view axes, const Sizes& sizes) {
    std::string text;
    for (char letter = 'a'; letter <= 'z'; ++letter)
      if (axes.find(letter) != axes.npos && sizes[letter - 'a'])
        text += (text.empty() ? " with " : ", ") + std::string(1, letter) + "=" + std::to_string(sizes[letter - 'a']);
    return text;
  }

  static std::string text(std::string_view v) { return std::string(v); }
  static std::string text(int64_t v) { return std::to_string(v); }
  template <class T>
  static std::string joined(const std::vector<T>& all) {
    std::string joined;
    for (const T& one : all) joined += (joined.empty() ? "" : ", ") + text(one);
    return joined;
  }

  static void in_region(const char* name, int64_t value, int64_t least, int64_t most) {
    if (value >= least && value <= most) return;
    throw std::invalid_argument("region must have " + std::string(name) + " from " + std::to_string(least) + " to " +
                                std::to_string(most) + ", not " + std::to_string(value));
  }

  Sizes sizes_{};
  int optional_ = -1;  // whether the axes with a question mark are there; -1: not known yet
};

}  // namespace seemore
