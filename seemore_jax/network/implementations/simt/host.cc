// A kernel as a function that XLA calls on a CPU. It has no types of XLA's C++ interface, which take long to compile.

#include "host.h"
#include "xla/ffi/api/c_api.h"

namespace {

XLA_FFI_Error* failed(XLA_FFI_CallFrame* frame, const char* message) {
  XLA_FFI_Error_Create_Args args{};
  args.struct_size = XLA_FFI_Error_Create_Args_STRUCT_SIZE;
  args.message = message;
  args.errc = XLA_FFI_Error_Code_INVALID_ARGUMENT;
  return frame->api->XLA_FFI_Error_Create(&args);
}

}  // namespace

extern "C" XLA_FFI_Error* seemore_gpu_kernel(XLA_FFI_CallFrame* frame) {
  if (frame->extension_start && frame->extension_start->type == XLA_FFI_Extension_Metadata) {
    XLA_FFI_Metadata* metadata = reinterpret_cast<XLA_FFI_Metadata_Extension*>(frame->extension_start)->metadata;
    metadata->api_version.major_version = XLA_FFI_API_MAJOR;
    metadata->api_version.minor_version = XLA_FFI_API_MINOR;
    metadata->traits = 0;
    metadata->state_type_id = XLA_FFI_UNKNOWN_TYPE_ID;
    return nullptr;
  }
  if (frame->args.size + frame->rets.size != seemore_gpu::kArrays) return failed(frame, "wrong number of arrays");
  void* arrays[seemore_gpu::kArrays];
  int count = 0;
  for (int64_t i = 0; i < frame->args.size; ++i)
    arrays[count++] = static_cast<XLA_FFI_Buffer*>(frame->args.args[i])->data;
  for (int64_t i = 0; i < frame->rets.size; ++i)
    arrays[count++] = static_cast<XLA_FFI_Buffer*>(frame->rets.rets[i])->data;
  seemore_gpu::run_on_host(arrays);
  return nullptr;
}
