// The Python module _C: information about the build, and functions that are no operators. Importing
// it loads the library and so registers the operators.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "../jpeg/jpeg_damage.h"
#include "cpu/isa.h"

namespace py = pybind11;

namespace {

// {version, compiler, cuda, cuda_archs, isa}; the macros come from CMakeLists.txt.
py::dict build_info() {
  py::dict info;
  info["version"] = CYCLEGAN_FAST_VERSION;
  info["compiler"] = std::string("g++ ") + __VERSION__;
  py::list archs;
#ifdef CYCLEGAN_FAST_WITH_CUDA
  for (const char* arch : {CYCLEGAN_FAST_CUDA_ARCH_LIST}) archs.append(arch);
  info["cuda"] = CYCLEGAN_FAST_CUDA_VERSION;
#else
  info["cuda"] = py::none();
#endif
  info["cuda_archs"] = archs;
  info["isa"] = cyclegan_fast::isa_name(cyclegan_fast::cpu_isa());
  return info;
}

// Lets other threads run meanwhile: bytes do not change.
std::optional<std::string> find_jpeg_damage(const py::bytes& content) {
  char* data = nullptr;
  Py_ssize_t size = 0;
  if (PyBytes_AsStringAndSize(content.ptr(), &data, &size) != 0) throw py::error_already_set();
  const py::gil_scoped_release unlocked;
  return cyclegan_fast::find_jpeg_damage(reinterpret_cast<const uint8_t*>(data), size_t(size));
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "The compiled operators of cyclegan_fast.";
  m.def("build_info", &build_info, "Information about this build.");
  m.def("find_jpeg_damage", &find_jpeg_damage, "What is wrong with a JPEG, or None.");
}
