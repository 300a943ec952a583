// Runs whole kernels on arrays of odd sizes, with one thread and with several, under sanitizers. If a test fails, a
// kernel accesses memory beyond its arrays, has a data race, or returns results that depend on the number of threads.

#include <algorithm>
#include <map>
#include <string>

#include "call.h"
#include "pool.h"
#include "testing.h"

namespace seemore {

struct Kernel {
  const char *name, *inputs, *outputs;
  void (*function)(const Call&);
};

std::vector<Kernel>& kernels() {
  static std::vector<Kernel> all;
  return all;
}

// Lists the kernels instead of defining symbols for XLA, because the templates of those take long to compile.
#undef SEEMORE_KERNEL
#define SEEMORE_KERNEL(name, inputs, outputs) \
  const bool registered_##name = (kernels().push_back({"seemore_" #name, inputs, outputs, name}), true)

}  // namespace seemore

#include "rank_modulating.cc"
#include "rank_modulating_backward.cc"
#include "spatial_modulating.cc"
#include "spatial_modulating_backward.cc"
#include "strips.cc"

using namespace seemore;

namespace {

// The part of XLA's interface that the kernels use. The context is the pool.
XLA_FFI_Error* schedule(XLA_FFI_ThreadPool_Schedule_Args* args) {
  reinterpret_cast<Pool*>(args->ctx)->Schedule([task = args->task, data = args->data] { task(data); });
  return nullptr;
}
XLA_FFI_Error* num_threads(XLA_FFI_ThreadPool_NumThreads_Args* args) {
  *args->num_threads = reinterpret_cast<Pool*>(args->ctx)->num_threads();
  return nullptr;
}

// Buffers of the inputs or of the outputs of a call. The region is the first input.
struct Buffers {
  std::vector<std::vector<int64_t>> dims;
  std::vector<std::vector<float>> data;
  std::vector<XLA_FFI_Buffer> buffers;
  std::vector<void*> pointers;

  void add(std::vector<int64_t> shape) {
    size_t count = 1;
    for (int64_t size : shape) count *= size;
    dims.push_back(shape);
    data.emplace_back(count);
  }
  // Makes XLA's descriptions of the buffers, after all are added. `region` is null for outputs.
  void finish(int32_t* region) {
    static int64_t nine = 9;
    if (region) buffers.push_back({sizeof(XLA_FFI_Buffer), nullptr, XLA_FFI_DataType_S32, region, 1, &nine});
    for (size_t i = 0; i < data.size(); ++i)
      buffers.push_back({sizeof(XLA_FFI_Buffer), nullptr, XLA_FFI_DataType_F32, data[i].data(),
                         static_cast<int64_t>(dims[i].size()), dims[i].data()});
  }
  void** pointers_of_all() {
    pointers.clear();
    for (XLA_FFI_Buffer& buffer : buffers) pointers.push_back(&buffer);
    return pointers.data();
  }
};

ffi::Error run(const Kernel& kernel, Buffers& inputs, Buffers& outputs, int threads) {
  Pool pool(threads);
  XLA_FFI_Api api{};
  api.XLA_FFI_ThreadPool_Schedule = schedule;
  api.XLA_FFI_ThreadPool_NumThreads = num_threads;
  ffi::DiagnosticEngine diagnostic;
  auto xla_pool =
      *ffi::CtxDecoding<ffi::ThreadPool>::Decode(&api, reinterpret_cast<XLA_FFI_ExecutionContext*>(&pool), diagnostic);
  std::vector<XLA_FFI_ArgType> types(inputs.buffers.size(), XLA_FFI_ArgType_BUFFER);
  std::vector<XLA_FFI_RetType> ret_types(outputs.buffers.size(), XLA_FFI_RetType_BUFFER);
  XLA_FFI_Args args{sizeof(XLA_FFI_Args), nullptr, static_cast<int64_t>(types.size()), types.data(),
                    inputs.pointers_of_all()};
  XLA_FFI_Rets rets{sizeof(XLA_FFI_Rets), nullptr, static_cast<int64_t>(ret_types.size()), ret_types.data(),
                    outputs.pointers_of_all()};
  return handle(kernel.name, kernel.inputs, kernel.outputs, kernel.function, xla_pool, ffi::RemainingArgs(&args, 0),
                ffi::RemainingRets(&rets, 0));
}

using Sizes = std::map<char, int64_t>;  // sizes of the letters in signatures

int64_t size_of(std::string_view axis, const Sizes& sizes) {
  if (axis == "c?") return sizes.at('?') * sizes.at('c');
  if (axis == "c+r") return sizes.at('c') + sizes.at('r');
  if (axis.size() == 3) return sizes.at(axis[0]) / 4;
  int64_t number = 0;
  for (; !axis.empty() && axis[0] <= '9'; axis.remove_prefix(1)) number = 10 * number + axis[0] - '0';
  return (number ? number : 1) * (axis.empty() ? 1 : sizes.at(axis[0]));
}

Buffers buffers_of(const char* signature, const Sizes& sizes) {
  Buffers all;
  for (const DeclaredArray& one : declared(signature)) {
    std::vector<int64_t> shape;
    for (std::string_view axis : split(one.axes)) shape.push_back(size_of(axis, sizes));
    all.add(shape);
  }
  return all;
}

// Fills the arrays with random values. Gradients are zero beyond the valid columns, as the kernels require.
void fill(Buffers& inputs, const char* signature, int width) {
  generator().seed(3);
  std::vector<DeclaredArray> all = declared(signature);
  for (size_t i = 0; i < all.size(); ++i) {
    for (float& value : inputs.data[i]) value = random_value(0.3f);
    std::string name(all[i].name);
    if (name != "gradient" && name[0] != 'd') continue;
    const std::vector<int64_t>& dims = inputs.dims[i];
    if (dims.size() < 4) continue;
    int64_t pitch = dims[3], image = all[i].axes.find("p/4") == std::string_view::npos ? width : width / 4;
    for (size_t at = 0; at < inputs.data[i].size(); ++at)
      if (static_cast<int64_t>(at) % pitch >= image) inputs.data[i][at] = 0;
  }
}

struct Case {
  Sizes sizes;
  ValidRegion region;
};

// Returns the outputs of a kernel, concatenated.
std::vector<float> results(const Kernel& kernel, const Case& given, int threads) {
  Buffers inputs = buffers_of(kernel.inputs, given.sizes), outputs = buffers_of(kernel.outputs, given.sizes);
  fill(inputs, kernel.inputs, given.region.width);
  for (std::vector<float>& output : outputs.data) std::fill(output.begin(), output.end(), -7.0f);
  std::vector<int32_t> region(9);
  std::memcpy(region.data(), &given.region, sizeof(ValidRegion));
  inputs.finish(region.data());
  outputs.finish(nullptr);
  ffi::Error error = run(kernel, inputs, outputs, threads);
  if (error.failure()) std::fprintf(stderr, "%s\n", error.message().c_str());
  CHECK(error.success());
  std::vector<float> all;
  for (const std::vector<float>& output : outputs.data) all.insert(all.end(), output.begin(), output.end());
  return all;
}

void test_kernels_stay_inside_their_arrays() {
  // The sizes of the letters n h c p o k r s; '?' is 1 if the convolution has a LayerNorm.
  auto sizes = [](int n, int h, int c, int p, int o, int k, int r, int s, int norm) {
    return Sizes{{'n', n}, {'h', h}, {'c', c}, {'p', p}, {'o', o}, {'k', k}, {'r', r}, {'s', s}, {'?', norm}};
  };
  const std::vector<Case> cases = {
      {sizes(1, 4, 1, 16, 1, 1, 1, 1, 0), {4, 1, 0, 4, 1, 0, 4, 0, 4}},
      {sizes(2, 7, 3, 16, 5, 3, 2, 2, 1), {5, 13, 0, 5, 1, 0, 5, 0, 5}},             // an image in part of the array
      {sizes(1, 21, 5, 48, 7, 11, 5, 3, 1), {21, 35, 40, 90, 3, 2, 19, 4, 18}},      // a part of an image
      {sizes(1, 5, 2, 16, 12, 33, 1, 1, 0), {5, 16, 0, 5, 1, 0, 5, 0, 5}},           // a filter longer than the image
      {sizes(1, 6, 2, 32, 3, 3, 1, 2, 0), {6, 32, 0, 2147483647, 2, 6, 6, 4, 4}},    // no rows
      {sizes(3, 101, 2, 16, 2, 5, 3, 25, 1), {101, 9, 0, 101, 25, 0, 101, 0, 101}},  // several strips
  };
  for (const Kernel& kernel : kernels())
    for (const Case& given : cases) {
      std::vector<float> alone = results(kernel, given, 1), together = results(kernel, given, 4);
      CHECK(alone == together);
      for (float value : alone) CHECK(std::isfinite(value));
    }
}

// Sizes of a small call.
const Sizes kSmall = {{'n', 2}, {'h', 8}, {'c', 3}, {'p', 16}, {'o', 5}, {'k', 3}, {'r', 4}, {'s', 2}, {'?', 1}};

// Checks that a small call, whose buffers `change` has changed, ends with an error that names the kernel and the
// buffer.
template <class Change>
void check_refused(const Kernel& kernel, std::string_view name, const Change& change) {
  Buffers inputs = buffers_of(kernel.inputs, kSmall), outputs = buffers_of(kernel.outputs, kSmall);
  std::vector<int32_t> region{8, 13, 0, 8, 2, 0, 8, 0, 8};
  inputs.finish(region.data());
  outputs.finish(nullptr);
  change(inputs, outputs);
  ffi::Error error = run(kernel, inputs, outputs, 1);
  std::string expected = std::string(kernel.name) + ": " + std::string(name) + " ";
  bool named = error.message().rfind(expected, 0) == 0;
  if (!named) std::fprintf(stderr, "%s… expected: %s\n", expected.c_str(), error.message().c_str());
  CHECK(named && error.errc() == ffi::ErrorCode::kInvalidArgument);
}

// Each buffer of each kernel is tested with a wrong type, a wrong number of axes, a wrong size of each axis whose size
// is already known, and missing. The kernels must not access memory: some of these shapes are larger than the arrays.
void test_wrong_buffers_are_named() {
  for (const Kernel& kernel : kernels()) {
    std::string known;
    for (bool is_output : {false, true}) {
      std::vector<DeclaredArray> all = declared(is_output ? kernel.outputs : kernel.inputs);
      for (size_t i = 0; i < all.size(); ++i) {
        std::vector<std::string_view> axes = split(all[i].axes);
        auto check = [&](auto&& change) {
          check_refused(kernel, all[i].name, [&](Buffers& inputs, Buffers& outputs) {
            change(is_output ? outputs.buffers[i] : inputs.buffers[i + 1]);
          });
        };
        for (XLA_FFI_DataType type : {XLA_FFI_DataType_F64, XLA_FFI_DataType_BF16, XLA_FFI_DataType_S32,
                                      XLA_FFI_DataType_C128, XLA_FFI_DataType_TOKEN})
          check([=](XLA_FFI_Buffer& buffer) { buffer.dtype = type; });
        std::vector<int64_t> longer(6, 1);
        check([&](XLA_FFI_Buffer& buffer) { buffer.rank = 6, buffer.dims = longer.data(); });
        check([](XLA_FFI_Buffer& buffer) { --buffer.rank; });
        for (size_t j = 0; j < axes.size(); ++j) {
          if (axes[j] != "c?") check([=](XLA_FFI_Buffer& buffer) { buffer.dims[j] = 0; });
          check([=](XLA_FFI_Buffer& buffer) { buffer.dims[j] = int64_t{1} << 40; });
          if (axes[j].size() > 1 || known.find(axes[j]) != known.npos)
            for (int by : {-1, 1}) check([=](XLA_FFI_Buffer& buffer) { buffer.dims[j] += by; });
        }
        known += all[i].axes;
        auto cut = [&](Buffers& inputs, Buffers& outputs) {
          Buffers& buffers = is_output ? outputs : inputs;
          buffers.buffers.resize(is_output ? i : i + 1);
        };
        check_refused(kernel, all[i].name, cut);
      }
      check_refused(kernel, all.back().name, [&](Buffers& inputs, Buffers& outputs) {
        Buffers& buffers = is_output ? outputs : inputs;
        buffers.buffers.push_back(buffers.buffers.back());
      });
    }
  }
}

void test_an_exception_of_a_kernel_becomes_an_error() {
  auto no_memory = [](const Call& call) { for_each_task(call.pool, 9, [](int) { throw std::bad_alloc(); }); };
  auto other = [](const Call& call) { for_each_task(call.pool, 9, [](int) { throw std::runtime_error("reason"); }); };
  auto strange = [](const Call& call) { for_each_task(call.pool, 9, [](int) { throw 3; }); };
  auto check = [](void (*function)(const Call&), ffi::ErrorCode code, const char* message) {
    Kernel kernel{"seemore_fails", "x[n h c p]", "y[n]", function};
    Sizes sizes{{'n', 1}, {'h', 1}, {'c', 1}, {'p', 16}};
    Buffers inputs = buffers_of(kernel.inputs, sizes), outputs = buffers_of(kernel.outputs, sizes);
    std::vector<int32_t> region{1, 1, 0, 1, 1, 0, 1, 0, 1};
    inputs.finish(region.data());
    outputs.finish(nullptr);
    ffi::Error error = run(kernel, inputs, outputs, 2);
    CHECK(error.errc() == code && error.message() == message);
  };
  check(no_memory, ffi::ErrorCode::kResourceExhausted, "seemore_fails: out of memory");
  check(other, ffi::ErrorCode::kInternal, "seemore_fails: reason");
  check(strange, ffi::ErrorCode::kInternal, "seemore_fails: unknown error");
}

}  // namespace

int main() {
  CHECK(kernels().size() == 14);
  test_kernels_stay_inside_their_arrays();
  test_wrong_buffers_are_named();
  test_an_exception_of_a_kernel_becomes_an_error();
}
