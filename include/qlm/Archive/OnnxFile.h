//===- OnnxFile.h - An ONNX model and its tensors' bytes --------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Reads a model of the Open Neural Network Exchange format (onnx.proto of the
// `onnx` package). The file is not trusted: sizes are checked before they are
// used, nothing in it is executed, and external data must lie in the model's
// own folder.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_ARCHIVE_ONNXFILE_H
#define QLM_ARCHIVE_ONNXFILE_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/MemoryBuffer.h"

#include <deque>
#include <memory>
#include <string>
#include <vector>

namespace onnx {
class ModelProto;
class TensorProto;
} // namespace onnx

namespace mlir::qlm {

/// Bytes of one element of ONNX's element type \p dataType as this project
/// stores it: types of less than a byte take one. 0 for types without a fixed
/// size (strings) and unknown ones.
int64_t getOnnxElementBytes(int32_t dataType);

/// "float32", "int64", "bool" …: NumPy's name where it has one, else ONNX's in
/// lower case; "type N" for an unknown one.
std::string getOnnxTypeName(int32_t dataType);

/// A parsed model. Tensors' bytes stay valid as long as it lives.
class OnnxFile {
public:
  ~OnnxFile();

  /// Parses the file at \p path, of at most 2 GB without its external data.
  /// Errors: it can't be read; it is no ONNX model; it nests too deep.
  static llvm::Expected<std::unique_ptr<OnnxFile>> open(llvm::StringRef path);
  /// Parses a model from memory, which must outlive it; external data is looked
  /// up in \p folder, or refused when that is empty.
  static llvm::Expected<std::unique_ptr<OnnxFile>>
  parse(llvm::StringRef bytes, llvm::StringRef folder);

  const ::onnx::ModelProto &getModel() const { return *model; }

  /// The elements of \p tensor, in order, little endian, each of
  /// getOnnxElementBytes; external data is mapped, not read.
  /// Errors, naming the tensor: negative or overflowing dimensions, a number
  /// of bytes or values that disagrees with them, external data outside the
  /// folder or the file, types without a fixed size.
  llvm::Expected<llvm::ArrayRef<char>>
  getData(const ::onnx::TensorProto &tensor);

  /// Where a file holds a tensor's elements as getData gives them.
  struct Place {
    std::string file; ///< relative to the model's folder
    int64_t offset;
  };
  /// The place of \p tensor. Errors: those of getData, and elements that no
  /// file holds so: listed as numbers, or of less than a byte.
  llvm::Expected<Place> getPlace(const ::onnx::TensorProto &tensor);

private:
  OnnxFile();
  llvm::Error parse(llvm::StringRef bytes);
  llvm::Expected<llvm::StringRef>
  getExternalData(const ::onnx::TensorProto &tensor);
  llvm::Expected<llvm::MemoryBuffer *> mapExternal(llvm::StringRef location);
  llvm::ArrayRef<char> keep(std::vector<char> bytes);

  std::unique_ptr<::onnx::ModelProto> model;
  std::string folder, name;
  /// The file; initializers' bytes point into it.
  std::unique_ptr<llvm::MemoryBuffer> buffer;
  llvm::DenseMap<const ::onnx::TensorProto *, llvm::StringRef> cut;
  llvm::StringMap<std::unique_ptr<llvm::MemoryBuffer>> external;
  std::deque<std::vector<char>> converted;
};

} // namespace mlir::qlm

#endif // QLM_ARCHIVE_ONNXFILE_H
