// The Python module _C: information about the build, and functions that are no operators. Importing
// it loads the library and so registers the operators. It keeps to Python's limited API, so that
// one binary serves every Python since the version that Py_LIMITED_API names.
#include <Python.h>

#include <cstdint>
#include <exception>
#include <initializer_list>
#include <optional>
#include <string>

#include "../jpeg/jpeg_damage.h"
#include "cpu/isa.h"

namespace {

// A Python list of str; nullptr with a Python error set where memory is short.
PyObject* list_of(std::initializer_list<const char*> words) {
  PyObject* list = PyList_New(Py_ssize_t(words.size()));
  Py_ssize_t i = 0;
  for (const char* word : words) {
    PyObject* text = list != nullptr ? PyUnicode_FromString(word) : nullptr;
    if (text == nullptr || PyList_SetItem(list, i++, text) != 0) {
      Py_XDECREF(list);
      return nullptr;
    }
  }
  return list;
}

// {version, compiler, cuda, cuda_archs, isa}; the macros come from CMakeLists.txt.
PyObject* build_info(PyObject*, PyObject*) {
#ifdef CYCLEGAN_FAST_WITH_CUDA
  const char* cuda = CYCLEGAN_FAST_CUDA_VERSION;
  PyObject* archs = list_of({CYCLEGAN_FAST_CUDA_ARCH_LIST});
#else
  const char* cuda = nullptr;  // becomes None
  PyObject* archs = list_of({});
#endif
  return Py_BuildValue("{s:s,s:s,s:z,s:N,s:s}", "version", CYCLEGAN_FAST_VERSION, "compiler",
                       "g++ " __VERSION__, "cuda", cuda, "cuda_archs", archs, "isa",
                       cyclegan_fast::isa_name(cyclegan_fast::cpu_isa()));
}

// Lets other threads run as long as it lives.
class UnlockedInterpreter {
 public:
  UnlockedInterpreter() : state_(PyEval_SaveThread()) {}
  ~UnlockedInterpreter() { PyEval_RestoreThread(state_); }
  UnlockedInterpreter(const UnlockedInterpreter&) = delete;
  UnlockedInterpreter& operator=(const UnlockedInterpreter&) = delete;

 private:
  PyThreadState* state_;
};

// bytes -> str or None. Other threads run meanwhile: bytes do not change.
PyObject* find_jpeg_damage(PyObject*, PyObject* content) {
  char* data = nullptr;
  Py_ssize_t size = 0;
  if (PyBytes_AsStringAndSize(content, &data, &size) != 0) return nullptr;
  std::optional<std::string> damage;
  try {
    const UnlockedInterpreter unlocked;
    damage = cyclegan_fast::find_jpeg_damage(reinterpret_cast<const uint8_t*>(data), size_t(size));
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
  return Py_BuildValue("z", damage ? damage->c_str() : nullptr);
}

PyMethodDef methods[] = {
    {"build_info", build_info, METH_NOARGS, "Information about this build."},
    {"find_jpeg_damage", find_jpeg_damage, METH_O, "What is wrong with a JPEG, or None."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    "_C",
    "The compiled operators of cyclegan_fast.",
    0,
    methods,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
};

}  // namespace

PyMODINIT_FUNC PyInit__C() { return PyModuleDef_Init(&module); }
