//===- GraphMaps.cpp - Element by element inside of kernels ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GraphMaps.h"

#include "Cpu/Bytes.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/IR/Matchers.h"

#include <limits>

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::kernel;

//===----------------------------------------------------------------------===//
// Maps
//===----------------------------------------------------------------------===//

static bool isStored(Type element) {
  return element.isF32() || element.isInteger(8) || element.isInteger(32);
}

std::optional<MapOperand> mlir::qlm::getMapOperand(linalg::GenericOp op,
                                                   OpOperand &operand) {
  auto type = dyn_cast<RankedTensorType>(operand.get().getType());
  if (!type || !isStored(type.getElementType()))
    return std::nullopt;
  AffineMap map = op.getMatchingIndexingMap(&operand);
  if (type.hasStaticShape() && type.getNumElements() == 1 &&
      llvm::all_of(map.getResults(), [](AffineExpr place) {
        return isa<AffineConstantExpr>(place);
      }))
    return MapOperand::One;
  if (map.isIdentity())
    return MapOperand::Rows;
  if (map.getNumResults() == 1 &&
      map.getResult(0) == getAffineDimExpr(1, op.getContext()))
    return MapOperand::Column;
  return std::nullopt;
}

/// Shorter floats need a library's rounding on processors without their
/// instructions.
static bool isVectorElement(Type type) {
  return isa<IntegerType, IndexType, Float32Type, Float64Type>(type);
}

/// Whether LLVM has vectors of \p op, without a library.
static bool hasVectors(Operation *op) {
  if (!llvm::all_of(op->getOperandTypes(), isVectorElement) ||
      !llvm::all_of(op->getResultTypes(), isVectorElement))
    return false;
  return isa<arith::ConstantOp, math::RoundEvenOp, math::AbsFOp, math::SqrtOp,
             math::FloorOp, math::CeilOp, math::FmaOp>(op) ||
         (isa<arith::ArithDialect>(op->getDialect()) &&
          OpTrait::hasElementwiseMappableTraits(op));
}

/// Whether \p value, which the body of \p op uses, is made there or a constant:
/// those leave the body when a graph is canonicalized. What else comes from
/// outside is the same for all elements, and not known in a kernel.
static bool isKnown(Value value, linalg::GenericOp op) {
  return value.getParentBlock() == op.getBody() ||
         value.getDefiningOp<arith::ConstantOp>();
}

bool mlir::qlm::isRowMap(linalg::GenericOp op) {
  if (op.getNumResults() != 1 || op.getNumLoops() != 2 ||
      op.getNumParallelLoops() != 2 ||
      !op.getBody()->getArguments().back().use_empty() ||
      !op.getMatchingIndexingMap(op.getDpsInitOperand(0)).isIdentity())
    return false;
  auto type = dyn_cast<RankedTensorType>(op.getResult(0).getType());
  if (!type || type.isDynamicDim(1) || type.getDimSize(1) == 0 ||
      !isStored(type.getElementType()))
    return false;
  for (OpOperand *operand : op.getDpsInputOperands())
    if (!getMapOperand(op, *operand))
      return false;
  for (Operation &inner : op.getBody()->without_terminator()) {
    if (!hasVectors(&inner))
      return false;
    for (Value value : inner.getOperands())
      if (!isKnown(value, op))
        return false;
  }
  return isKnown(op.getBody()->getTerminator()->getOperand(0), op);
}

namespace {
/// A byte made of an integer: clamped to [lo, hi].
struct ByteRange {
  Value ints;
  int64_t lo, hi;
};
} // namespace

static std::optional<int64_t> getConstant(Value value) {
  IntegerAttr attribute;
  if (matchPattern(value, m_Constant(&attribute)))
    return attribute.getValue().getSExtValue();
  return std::nullopt;
}

/// What \p code truncates, where a signed or an unsigned byte has room for it.
static std::optional<ByteRange> getByteRange(arith::TruncIOp code) {
  auto low = code.getIn().getDefiningOp<arith::MaxSIOp>();
  auto high =
      low ? low.getLhs().getDefiningOp<arith::MinSIOp>() : arith::MinSIOp();
  if (!high || !code.getType().isInteger(8) ||
      !code.getIn().getType().isInteger(32))
    return std::nullopt;
  std::optional<int64_t> lo = getConstant(low.getRhs()),
                         hi = getConstant(high.getRhs());
  if (!lo || !hi || *lo > *hi || *lo < -128 || *hi > (*lo < 0 ? 127 : 255))
    return std::nullopt;
  return ByteRange{high.getLhs(), *lo, *hi};
}

namespace {
/// Emits the operations of a map's body on vectors.
class BodyEmitter {
public:
  BodyEmitter(KernelBuilder &b, linalg::GenericOp op, int64_t lanes)
      : b(b), op(op), lanes(lanes) {}

  void set(Value value, Val vector) { mapping.map(value, vector.get()); }
  Val get(Value value);
  Val getResult() { return get(op.getBody()->getTerminator()->getOperand(0)); }
  void emit(Operation &inner);

private:
  KernelBuilder &b;
  linalg::GenericOp op;
  int64_t lanes;
  IRMapping mapping;
};
} // namespace

/// The vector of what the body uses.
Val BodyEmitter::get(Value value) {
  if (Value known = mapping.lookupOrNull(value))
    return b.val(known);
  auto constant = value.getDefiningOp<arith::ConstantOp>();
  auto type = VectorType::get({lanes}, constant.getType());
  Value made = arith::ConstantOp::create(
      b, b.getLoc(), DenseElementsAttr::get(type, constant.getValue()));
  mapping.map(value, made);
  return b.val(made);
}

void BodyEmitter::emit(Operation &inner) {
  if (auto toInteger = dyn_cast<arith::FPToSIOp>(inner)) {
    // One instruction where it follows the rounding.
    auto rounded = toInteger.getIn().getDefiningOp<math::RoundEvenOp>();
    if (rounded && rounded->getBlock() == op.getBody() &&
        rounded.getType().isF32() && toInteger.getType().isInteger(32))
      return set(toInteger, cpu::roundToInts(b, get(rounded.getOperand())));
  }
  if (auto code = dyn_cast<arith::TruncIOp>(inner))
    if (std::optional<ByteRange> range = getByteRange(code))
      return set(code,
                 cpu::clampToBytes(b, get(range->ints), range->lo, range->hi));
  OperationState state(b.getLoc(), inner.getName());
  for (Value operand : inner.getOperands())
    state.addOperands(get(operand).get());
  for (Type type : inner.getResultTypes())
    state.addTypes(VectorType::get({lanes}, type));
  if (auto constant = dyn_cast<arith::ConstantOp>(inner)) {
    auto type = VectorType::get({lanes}, constant.getType());
    state.addAttribute("value",
                       DenseElementsAttr::get(type, constant.getValue()));
  } else {
    state.addAttributes(inner.getAttrs());
    state.propertiesAttr = inner.getPropertiesAsAttribute();
  }
  Operation *made = b.create(state);
  mapping.map(inner.getResults(), made->getResults());
}

Val mlir::qlm::emitRowMap(KernelBuilder &b, linalg::GenericOp op,
                          ArrayRef<Val> inputs, int64_t lanes) {
  BodyEmitter body(b, op, lanes);
  for (auto [argument, input] : llvm::zip(op.getBody()->getArguments(), inputs))
    body.set(argument, input);
  for (Operation &inner : op.getBody()->without_terminator())
    body.emit(inner);
  return body.getResult();
}

/// The operation that makes the codes of \p op: what comes before it has no
/// bytes, what comes after it has nothing else. Null where there is none.
static arith::TruncIOp getCodeMaker(linalg::GenericOp op) {
  arith::TruncIOp maker;
  for (Operation &inner : op.getBody()->without_terminator()) {
    auto isByte = [](Type type) { return type.isInteger(8); };
    bool makes = llvm::any_of(inner.getResultTypes(), isByte);
    bool takes = llvm::any_of(inner.getOperandTypes(), isByte);
    auto code = dyn_cast<arith::TruncIOp>(inner);
    if (isa<arith::ConstantOp>(inner))
      continue;
    if (code && makes && !maker && getByteRange(code))
      maker = code;
    else if (maker ? !makes || !llvm::all_of(inner.getOperandTypes(), isByte)
                   : makes || takes)
      return {};
  }
  return maker;
}

Val mlir::qlm::emitRowCodes(KernelBuilder &b, linalg::GenericOp op,
                            function_ref<SmallVector<Val>(int64_t)> getInputs,
                            int64_t lanes) {
  constexpr int64_t kParts = 4;
  arith::TruncIOp maker = getCodeMaker(op);
  if (!maker) {
    Val all[kParts];
    for (int64_t part = 0; part < kParts; ++part)
      all[part] = emitRowMap(b, op, getInputs(part), lanes);
    return b.concat(b.concat(all[0], all[1]), b.concat(all[2], all[3]));
  }
  ByteRange range = *getByteRange(maker);
  SmallVector<Val> ints;
  for (int64_t part = 0; part < kParts; ++part) {
    BodyEmitter body(b, op, lanes);
    for (auto [argument, input] :
         llvm::zip(op.getBody()->getArguments(), getInputs(part)))
      body.set(argument, input);
    for (Operation &inner : op.getBody()->without_terminator()) {
      if (&inner == maker)
        break;
      body.emit(inner);
    }
    ints.push_back(body.get(range.ints));
  }
  BodyEmitter rest(b, op, kParts * lanes);
  rest.set(maker, cpu::packBytes(b, ints, range.lo, range.hi));
  for (Operation *inner = maker->getNextNode();
       inner != op.getBody()->getTerminator(); inner = inner->getNextNode())
    if (!isa<arith::ConstantOp>(inner))
      rest.emit(*inner);
  return rest.getResult();
}

//===----------------------------------------------------------------------===//
// Windows
//===----------------------------------------------------------------------===//

/// Copies of this many bytes are spelled out.
static constexpr int64_t kLongestInlineCopy = 2048;

/// Copies \p bytes, which is known. The vectors are 32 bytes and, for the rest,
/// as long as they can be.
static void emitCopy(KernelBuilder &b, Ptr from, Ptr to, int64_t bytes) {
  int64_t done = 0;
  for (int64_t size = 32; size > 0; size /= 2)
    for (; bytes - done >= size; done += size)
      to.at(done).store(from.at(done).load(b.vec(size, b.i8()), 1), 1);
}

static void emitLongCopy(KernelBuilder &b, Ptr from, Ptr to, Val bytes) {
  LLVM::MemcpyOp::create(b, b.getLoc(), to.get(), from.get(), bytes.get(),
                         /*isVolatile=*/false);
}

static void emitFill(KernelBuilder &b, Ptr to, Val bytes, int64_t code) {
  LLVM::MemsetOp::create(b, b.getLoc(), to.get(),
                         b.constant(b.i8(), code).get(), bytes.get(),
                         /*isVolatile=*/false);
}

/// ceil(a / by), or 0 of a negative a.
static Val ceilDiv(KernelBuilder &b, Val a, int64_t by) {
  return (b.max(a, b.index(0)) + (by - 1)) / by;
}

namespace {
/// One dimension of windows: which of a window's elements lie in the image.
struct Span {
  Val begin;  ///< where the window begins, maybe before the image
  Val lo, hi; ///< of the kernel's elements, those that are inside

  Span(KernelBuilder &b, Val place, int64_t size, int64_t kernel, int64_t pad,
       int64_t stride, int64_t dilation)
      : begin(place * stride - pad) {
    Val zero = b.index(0), all = b.index(kernel);
    lo = b.min(b.max(ceilDiv(b, zero - begin, dilation), zero), all);
    hi = b.max(b.min(ceilDiv(b, size - begin, dilation), all), lo);
  }
};
} // namespace

void mlir::qlm::emitWindows(KernelBuilder &b, graph::WindowsOp op, Ptr from,
                            Val first, Val count, Ptr to) {
  auto type = cast<RankedTensorType>(op.getInput().getType());
  int64_t height = op.getSize()[0], width = op.getSize()[1];
  int64_t rows = op.getKernel()[0], columns = op.getKernel()[1];
  int64_t bytes = type.getDimSize(1) * type.getElementTypeBitWidth() / 8;
  int64_t line = columns * bytes, places = op.getPlaces()[1];
  int64_t dilation = op.getDilations()[1], outside = op.getOutside();
  b.forRange(b.index(0), count, 1, [&](Val i) {
    Val window = first + i;
    Val image = window / (op.getPlaces()[0] * places);
    Val place = window % (op.getPlaces()[0] * places);
    Span y(b, place / places, height, rows, op.getPads()[0], op.getStrides()[0],
           op.getDilations()[0]);
    Span x(b, place % places, width, columns, op.getPads()[1],
           op.getStrides()[1], dilation);
    Ptr row = to.at(i * (rows * line));
    Ptr picture = from.at(image * (height * width * bytes));
    emitFill(b, row, y.lo * line, outside);
    b.forRange(y.lo, y.hi, 1, [&](Val ky) {
      Ptr out = row.at(ky * line);
      Val begin = (y.begin + ky * op.getDilations()[0]) * width + x.begin;
      Ptr in = picture.at(begin * bytes);
      auto copySome = [&] {
        emitFill(b, out, x.lo * bytes, outside);
        if (dilation == 1)
          emitLongCopy(b, in.at(x.lo * bytes), out.at(x.lo * bytes),
                       (x.hi - x.lo) * bytes);
        else
          b.forRange(x.lo, x.hi, 1, [&](Val kx) {
            emitLongCopy(b, in.at(kx * (dilation * bytes)), out.at(kx * bytes),
                         b.index(bytes));
          });
        emitFill(b, out.at(x.hi * bytes), (columns - x.hi) * bytes, outside);
      };
      if (dilation == 1 && line <= kLongestInlineCopy)
        b.ifElse(
            x.hi - x.lo == columns, [&] { emitCopy(b, in, out, line); },
            copySome);
      else
        copySome();
    });
    emitFill(b, row.at(y.hi * line), (rows - y.hi) * line, outside);
  });
}

//===----------------------------------------------------------------------===//
// Pools
//===----------------------------------------------------------------------===//

/// Elements of a window in the image and the padding, of one dimension.
static Val countPadded(KernelBuilder &b, const Span &span, int64_t size,
                       int64_t kernel, int64_t padAfter, int64_t dilation) {
  Val room = ceilDiv(b, (size + padAfter) - span.begin, dilation);
  return b.max(b.min(room, b.index(kernel)), b.index(0));
}

void mlir::qlm::emitPool(KernelBuilder &b, graph::PoolRowsOp op, Ptr from,
                         Val lo, Val hi, Ptr to, int64_t lanes) {
  auto type = cast<RankedTensorType>(op.getInput().getType());
  Type element = type.getElementType();
  int64_t channels = type.getDimSize(1);
  int64_t height = op.getSize()[0], width = op.getSize()[1];
  ArrayRef<int64_t> kernel = op.getKernel(), pads = op.getPads(),
                    places = op.getPlaces(), dilations = op.getDilations();
  bool isFloat = element.isF32(), averages = op.getAverage();
  if (!isFloat)
    lanes *= 4;
  auto vector = b.vec(lanes, element);
  Val init = averages ? b.zero(vector)
             : isFloat
                 ? b.constant(vector, -std::numeric_limits<double>::infinity())
                 : b.constant(vector, int64_t(-128));
  b.forRange(lo, hi, 1, [&](Val window) {
    Val image = window / (places[0] * places[1]);
    Val place = window % (places[0] * places[1]);
    Span y(b, place / places[1], height, kernel[0], pads[0], op.getStrides()[0],
           dilations[0]);
    Span x(b, place % places[1], width, kernel[1], pads[1], op.getStrides()[1],
           dilations[1]);
    Val count = (y.hi - y.lo) * (x.hi - x.lo);
    if (op.getCountsPadding())
      count = countPadded(b, y, height, kernel[0], pads[2], dilations[0]) *
              countPadded(b, x, width, kernel[1], pads[3], dilations[1]);
    Ptr picture = from.element(element, image * (height * width * channels));
    Ptr row = to.element(element, window * channels);
    // The last vector of a row that has one overlaps the one before.
    auto emitChannels = [&](Val channel) {
      SmallVector<Val> all =
          b.forRange(y.lo, y.hi, 1, {init}, [&](Val ky, ArrayRef<Val> outer) {
            Val line = (y.begin + ky * dilations[0]) * width + x.begin;
            return b.forRange(
                x.lo, x.hi, 1, outer, [&](Val kx, ArrayRef<Val> before) {
                  Val pixel = line + kx * dilations[1];
                  Val e = picture.element(element, pixel * channels + channel)
                              .load(vector);
                  Val next = averages ? before[0] + e : b.max(before[0], e);
                  return SmallVector<Val>{next};
                });
          });
      Val v = all[0];
      if (averages)
        v = v / b.broadcast(b.toFloat(count, b.f32()), lanes);
      return v;
    };
    int64_t whole = channels / lanes * lanes, rest = channels - whole;
    b.forRange(b.index(0), b.index(whole), lanes, [&](Val channel) {
      row.element(element, channel).store(emitChannels(channel));
    });
    if (!rest)
      return;
    if (whole) {
      Val channel = b.index(channels - lanes);
      row.element(element, channel).store(emitChannels(channel));
      return;
    }
    // Reads past a row, which buffers allow; writes what belongs to it.
    Val v = emitChannels(b.index(0));
    for (int64_t i = 0; i < rest; ++i)
      row.element(element, b.index(i)).store(v.lane(i));
  });
}
