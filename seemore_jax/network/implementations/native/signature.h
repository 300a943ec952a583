// Signatures of kernels, and the check of a call against a signature.
//
// A signature is a string such as "x[n h c p] taps[9c o] bias[o]". It declares the name and the axes of each array. A
// letter stands for a size: its first occurrence takes the size from the array, and later occurrences must have the
// same size. Other axes are "16", "9c", "c+r", "h/4" and "c?". The size of "c?" is c or 0, the same for all such axes.
// Some letters have the same meaning in all kernels: a feature map has h rows, in lines of p floats; k is the length of
// a filter; the summary has s rows.
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

constexpr size_t kMaxAxes = 4;

// Valid region of the padded arrays, in pixels. The first array of each call has these values; `KernelRegion` in
// cpu_operations.py has the same fields in the same order.
struct ValidRegion {
  int height, width;               // size of the valid region in the arrays
  int first_row;                   // index, in the full image, of the array's first row
  int image_height;                // height of the full image, of which the array may hold only some rows
  int summary_rows;                // number of valid rows in the summary of the context
  int begin, end;                  // rows that count in sums over the image; the others belong to neighbouring strips
  int compute_begin, compute_end;  // rows that the kernel computes; it does not write the other valid rows
};

// Array of float32 values, row-major.
struct Array {
  float* data = nullptr;
  size_t rank = 0;
  std::array<int64_t, kMaxAxes> dims{};
  int dim(int axis) const { return static_cast<int>(dims[axis]); }
  size_t count() const {
    size_t product = 1;
    for (size_t axis = 0; axis < rank; ++axis) product *= dims[axis];
    return product;
  }
};

// Returns the name of a type in JAX.
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

// Declaration of one array in a signature.
struct DeclaredArray {
  std::string_view name, axes;
};

// Splits a signature into the declarations of its arrays.
inline std::vector<DeclaredArray> declared(std::string_view signature) {
  std::vector<DeclaredArray> all;
  while (!signature.empty()) {
    size_t open = signature.find('['), close = signature.find(']');
    all.push_back({signature.substr(0, open), signature.substr(open + 1, close - open - 1)});
    signature.remove_prefix(std::min(close + 2, signature.size()));
  }
  return all;
}

// Splits the axes of an array at the spaces.
inline std::vector<std::string_view> split(std::string_view axes) {
  std::vector<std::string_view> all;
  while (true) {
    size_t end = axes.find(' ');
    all.push_back(axes.substr(0, end));
    if (end == axes.npos) return all;
    axes.remove_prefix(end + 1);
  }
}

// Check of one call. Its functions throw std::invalid_argument if the call does not match the signature.
class SignatureCheck {
 public:
  // Returns the arrays of a call after it has checked them. `what` is the word for them in messages, such as "inputs".
  // `found` is their number, and get(i) returns buffer i.
  template <class Get>
  std::vector<Array> arrays(std::string_view signature, const char* what, size_t found, const Get& get) {
    std::vector<DeclaredArray> all = declared(signature);
    std::string counts = std::to_string(all.size()) + " " + what + " expected, " + std::to_string(found) + " found";
    if (found < all.size()) throw std::invalid_argument(std::string(all[found].name) + " is missing: " + counts);
    if (found > all.size()) throw std::invalid_argument(std::string(all.back().name) + " must be the last: " + counts);
    std::vector<Array> arrays;
    arrays.reserve(all.size());
    for (size_t i = 0; i < all.size(); ++i) arrays.push_back(array(all[i], ffi::DataType::F32, get(i)));
    return arrays;
  }

  // Returns the nine values of the valid region.
  static const int32_t* region_values(const ffi::AnyBuffer& buffer) {
    SignatureCheck().array({"region", "9"}, ffi::DataType::S32, buffer);
    return static_cast<const int32_t*>(buffer.untyped_data());
  }

  // Checks everything that the kernels assume about the valid region. `arrays` must have been called before.
  void region(const ValidRegion& r) const {
    constexpr int64_t most = std::numeric_limits<int32_t>::max();
    int64_t summary = size('s');
    in_region("height", r.height, 1, size('h'));
    in_region("width", r.width, 1, size('p'));
    in_region("image_height", r.image_height, r.height, most);
    in_region("first_row", r.first_row, 0, r.image_height - r.height);
    in_region("summary_rows", r.summary_rows, summary ? 1 : 0, summary ? summary : most);
    in_region("begin", r.begin, 0, r.height);
    in_region("end", r.end, r.begin, r.height);
    in_region("compute_begin", r.compute_begin, 0, r.height);
    in_region("compute_end", r.compute_end, r.compute_begin, r.height);
  }

 private:
  using Sizes = std::array<int64_t, 26>;  // of the letters; 0 for a letter without a size
  static bool is_letter(char c) { return c >= 'a' && c <= 'z'; }
  int64_t size(char letter) const { return sizes_[letter - 'a']; }

  // Returns the size that an axis must have. A new letter takes the size `found`.
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

  // Checks one buffer and returns it as an array.
  Array array(const DeclaredArray& wanted, ffi::DataType type, const ffi::AnyBuffer& buffer) {
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
      // The kernels compute products of neighbouring sizes as int.
      if (found > std::numeric_limits<int32_t>::max() / (i ? std::max<int64_t>(dims[i - 1], 1) : 1))
        wrong(" and the product of neighbouring axes below 2^31");
      array.dims[i] = found;
    }
    return array;
  }
  static_assert(kBlock == 16 && kMargin == 16, "the messages above contain these numbers");

  // Returns the known sizes of the letters as text, such as " with c=36".
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

  // Throws unless a value of the valid region lies in [least, most].
  static void in_region(const char* name, int64_t value, int64_t least, int64_t most) {
    if (value >= least && value <= most) return;
    throw std::invalid_argument("region must have " + std::string(name) + " from " + std::to_string(least) + " to " +
                                std::to_string(most) + ", not " + std::to_string(value));
  }

  Sizes sizes_{};
  int optional_ = -1;  // 1 if the axes "c?" have size c, 0 if they have size 0, -1 if it is not known yet
};

}  // namespace seemore
