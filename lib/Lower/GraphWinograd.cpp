//===- GraphWinograd.cpp - 3 x 3 convolutions of f32, four at once --------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
//   block of quads       d -> V[16][quads, C]            once
//   pair of blocks       g -> U[16][C, 32]               32 features at once
//     16 times           M[i] = V[i] * U[i]              a packed linear
//                        M[16][quads, 32] -> results     bias, maps, store
//
// All of it stays in a second-level cache. Kernels are transformed for each
// block of quads: 16 sums of nine numbers for what multiplies 49 rows or more,
// and weights are read as they are stored, nine numbers instead of sixteen.
//
// Tested by test/python/test_graph_conv.py, timed by benchmarks/graph/cnn.py.
//
//===----------------------------------------------------------------------===//

#include "GraphWinograd.h"

#include "FusedRows.h"
#include "qlm/Package/Format.h"

#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::kernel;

/// Pixels of a side of what a quad reads, of a kernel, and results of a side.
static constexpr int64_t kPixels = 4, kKernel = 3, kResults = 2;
/// Linears of a block.
static constexpr int64_t kPlaces = kPixels * kPixels;
/// Features of a pair of blocks.
static constexpr int64_t kFeatures = 2 * ::qlm::format::kRowBlock;
/// Bytes of V: what is left of a second-level cache by U and M.
static constexpr int64_t kLargeBytes = 832 * 1024, kSmallBytes = 384 * 1024;
/// Fewer quads use a transformed kernel too seldom, more take no less time.
static constexpr int64_t kFewestQuads = 28, kMostQuads = 105;
/// Images with fewer quads are computed by windows.
static constexpr int64_t kFewestPerImage = 16;
/// Tiles of a block, so that few blocks keep several threads busy.
static constexpr int64_t kBlockTiles = 8;
static constexpr int64_t kLine = 64;

Quads Quads::get(graph::WindowsOp windows) {
  ArrayRef<int64_t> places = windows.getPlaces();
  return {(places[0] + kResults - 1) / kResults,
          (places[1] + kResults - 1) / kResults};
}

bool mlir::qlm::isWinograd(const FusedLinear &fused) {
  PackedLinearOp linear = fused.linear;
  graph::WindowsOp windows = fused.windows;
  if (!windows || fused.quantize || linear.getScheme() ||
      linear.getResidual() ||
      linear.getLayout().getKind() != LayoutKind::Float32 ||
      !getRanked(linear.getInput()).getElementType().isF32())
    return false;
  auto isAll = [](ArrayRef<int64_t> numbers, int64_t number) {
    return llvm::all_of(numbers, [&](int64_t n) { return n == number; });
  };
  return isAll(windows.getKernel(), kKernel) &&
         isAll(windows.getStrides(), 1) && isAll(windows.getDilations(), 1) &&
         getRanked(windows.getInput()).getDimSize(1) %
                 ::qlm::format::kRowBlock ==
             0 &&
         linear.getOutFeatures() % kFeatures == 0 &&
         Quads::get(windows).perImage() >= kFewestPerImage;
}

namespace {
class WinogradEmitter : FusedRows {
public:
  WinogradEmitter(const cpu::Target &target, FusedLinear &fused,
                  const RowBlocks &blocks, func::FuncOp linear,
                  int64_t linearScratch, func::FuncOp function);
  void emit(int64_t unit);
  using FusedRows::getScratchBytes;

private:
  /// A square of vectors, row by row.
  using Square = SmallVector<Val>;
  /// Where a quad lies: its image, and the first of its results.
  struct Quad {
    Val image, y, x;
  };

  Quad getQuad(Val number);
  void emitPixels(const Part &part);
  void emitPixelsOf(Val local, function_ref<Ptr(int64_t, int64_t)> getPixel);
  void emitKernels(Val pair);
  void emitResults(const Part &part, Val pair);
  void emitResult(const Quad &quad, int64_t i, const cpu::Chunk &chunk, Val y);

  func::FuncOp linear;
  graph::WindowsOp windows;
  Quads quads;
  int64_t channels;
  /// In scratch, and the bytes from one place's to the next one's.
  int64_t zeros, pixels, pixelsStride, kernels, kernelsStride, products,
      productsStride;
};
} // namespace

WinogradEmitter::WinogradEmitter(const cpu::Target &target, FusedLinear &fused,
                                 const RowBlocks &blocks, func::FuncOp linear,
                                 int64_t linearScratch, func::FuncOp function)
    : FusedRows(target, fused, blocks, function), linear(linear),
      windows(fused.windows), quads(Quads::get(windows)),
      channels(getRanked(windows.getInput()).getDimSize(1)) {
  // A line more than the numbers take: places don't fall into the same sets of
  // a cache.
  pixelsStride = blocks.rows * channels * 4 + kLine;
  kernelsStride = channels * kFeatures * 4 + kLine;
  productsStride = blocks.rows * kFeatures * 4 + kLine;
  takeScratch(linearScratch);
  zeros = take(channels * 4);
  pixels = take(kPlaces * pixelsStride);
  kernels = take(kPlaces * kernelsStride);
  products = take(kPlaces * productsStride);
}

//===----------------------------------------------------------------------===//
// Transforms
//===----------------------------------------------------------------------===//

/// Applies \p transform, of \p from numbers to \p to, to the columns of a
/// square and then to the rows of what that gives.
static SmallVector<Val>
transformSquare(ArrayRef<Val> square, int64_t from, int64_t to,
                function_ref<SmallVector<Val>(ArrayRef<Val>)> transform) {
  SmallVector<Val> half(to * from), whole(to * to), line(from);
  for (int64_t j = 0; j < from; ++j) {
    for (int64_t i = 0; i < from; ++i)
      line[i] = square[i * from + j];
    for (auto [i, value] : llvm::enumerate(transform(line)))
      half[static_cast<int64_t>(i) * from + j] = value;
  }
  for (int64_t i = 0; i < to; ++i)
    for (auto [j, value] :
         llvm::enumerate(transform(ArrayRef(half).slice(i * from, from))))
      whole[i * to + static_cast<int64_t>(j)] = value;
  return whole;
}

/// B^T d
static SmallVector<Val> transformPixels(ArrayRef<Val> d) {
  return {d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]};
}

/// G g
static SmallVector<Val> transformKernel(ArrayRef<Val> g) {
  Val ends = g[0] + g[2];
  return {g[0], (ends + g[1]) * 0.5, (ends - g[1]) * 0.5, g[2]};
}

/// A^T m
static SmallVector<Val> transformProducts(ArrayRef<Val> m) {
  return {m[0] + m[1] + m[2], m[1] - m[2] - m[3]};
}

//===----------------------------------------------------------------------===//
// The kernel
//===----------------------------------------------------------------------===//

WinogradEmitter::Quad WinogradEmitter::getQuad(Val number) {
  Val inside = number % quads.perImage();
  return {number / quads.perImage(), inside / quads.columns * kResults,
          inside % quads.columns * kResults};
}

/// Pixels of one quad, the \p local th of the block, given the address of each.
void WinogradEmitter::emitPixelsOf(
    Val local, function_ref<Ptr(int64_t, int64_t)> getPixel) {
  VectorType vector = b.vec(lanes, b.f32());
  SmallVector<Ptr> places;
  for (int64_t i = 0; i < kPlaces; ++i)
    places.push_back(getPixel(i / kPixels, i % kPixels));
  Ptr to = frame.scratch().at(pixels).at(local * (channels * 4));
  b.forRange(b.index(0), b.index(channels * 4), lanes * 4, [&](Val offset) {
    Square square;
    for (Ptr place : places)
      square.push_back(place.at(offset).load(vector));
    square = transformSquare(square, kPixels, kPixels, transformPixels);
    for (auto [i, value] : llvm::enumerate(square))
      to.at(static_cast<int64_t>(i) * pixelsStride).at(offset).store(value);
  });
}

/// V of a block's quads. Pixels outside of the image are read from zeros.
void WinogradEmitter::emitPixels(const Part &part) {
  int64_t height = windows.getSize()[0], width = windows.getSize()[1];
  int64_t bytes = channels * 4;
  Ptr images = getBuffer(windows.getInput()), none = frame.scratch().at(zeros);
  b.forRange(b.index(0), part.count, 1, [&](Val local) {
    Quad quad = getQuad(part.first + local);
    Val y = quad.y - windows.getPads()[0], x = quad.x - windows.getPads()[1];
    Ptr first = images.at(((quad.image * height + y) * width + x) * bytes);
    auto isInside = [&](Val at, int64_t size, int64_t count) {
      // Compared as unsigned numbers, those before the image are large.
      return b.val(arith::CmpIOp::create(
          b, b.getLoc(), arith::CmpIPredicate::ult, at.get(),
          b.index(std::max<int64_t>(size - count + 1, 0)).get()));
    };
    auto getPixel = [&](int64_t i, int64_t j) {
      return first.at((i * width + j) * bytes);
    };
    b.ifElse(
        isInside(y, height, kPixels) & isInside(x, width, kPixels),
        [&] { emitPixelsOf(local, getPixel); },
        [&] {
          emitPixelsOf(local, [&](int64_t i, int64_t j) {
            Val inside = isInside(y + i, height, 1) & isInside(x + j, width, 1);
            Val place = b.select(inside, b.val(getPixel(i, j).get()),
                                 b.val(none.get()));
            return Ptr(place.get(), &b);
          });
        });
  });
}

/// U of a pair of blocks, each as a packed linear's weight.
void WinogradEmitter::emitKernels(Val pair) {
  VectorType vector = b.vec(lanes, b.f32());
  int64_t line = ::qlm::format::kRowBlock * 4, block = channels * line;
  Ptr from = getBuffer(fused.linear.getWeight())
                 .readOnly()
                 .at(pair * (2 * kKernel * kKernel * block));
  Ptr to = frame.scratch().at(kernels);
  for (int64_t half = 0; half < 2; ++half)
    b.forRange(b.index(0), b.index(block), lanes * 4, [&](Val offset) {
      Square square;
      for (int64_t k = 0; k < kKernel * kKernel; ++k)
        square.push_back(from.at(half * kKernel * kKernel * block + k * block)
                             .at(offset)
                             .load(vector));
      square = transformSquare(square, kKernel, kPixels, transformKernel);
      for (auto [i, value] : llvm::enumerate(square))
        to.at(static_cast<int64_t>(i) * kernelsStride + half * block)
            .at(offset)
            .store(value);
    });
}

/// One of the four results \p y of a chunk of features.
void WinogradEmitter::emitResult(const Quad &quad, int64_t i,
                                 const cpu::Chunk &chunk, Val y) {
  int64_t height = windows.getPlaces()[0], width = windows.getPlaces()[1];
  Val row = quad.y + i / kResults, column = quad.x + i % kResults;
  auto emitInside = [&] {
    RowPlaces places = getPlaces((quad.image * height + row) * width + column);
    PackedLinearOp op = fused.linear;
    Value result = op.getResult();
    if (llvm::is_contained(fused.stored, result))
      chunk.store(b, places.lookup(result), y);
    emitAfterChunk(b, fused, places, chunk, y);
  };
  bool isWhole = height % kResults == 0 && width % kResults == 0;
  if (isWhole || i == 0)
    return emitInside();
  b.ifThen((row < height) & (column < width), emitInside);
}

void WinogradEmitter::emitResults(const Part &part, Val pair) {
  VectorType vector = b.vec(lanes, b.f32());
  Value bias = fused.linear.getBias();
  b.forRange(b.index(0), part.count, 1, [&](Val local) {
    Quad quad = getQuad(part.first + local);
    Ptr from = frame.scratch().at(products).at(local * (kFeatures * 4));
    b.forRange(b.index(0), b.index(kFeatures), lanes, [&](Val feature) {
      cpu::Chunk chunk{pair * kFeatures + feature, lanes, lanes};
      Square square;
      for (int64_t i = 0; i < kPlaces; ++i)
        square.push_back(
            from.at(i * productsStride).at(feature * 4).load(vector));
      square = transformSquare(square, kPixels, kResults, transformProducts);
      for (auto [i, value] : llvm::enumerate(square)) {
        Val y = value;
        if (bias)
          y = y + getBuffer(bias).readOnly().at(chunk.first * 4).load(vector);
        emitResult(quad, static_cast<int64_t>(i), chunk, y);
      }
    });
  });
}

void WinogradEmitter::emit(int64_t unit) {
  // Results of this launch to quads.
  int64_t results = windows.getPlaces()[0] * windows.getPlaces()[1];
  Val count = frame.size(SizeKind::Tokens) / results * quads.perImage();
  VectorType vector = b.vec(lanes, b.f32());
  b.forRange(b.index(0), b.index(channels * 4), lanes * 4, [&](Val offset) {
    frame.scratch().at(zeros).at(offset).store(b.zero(vector));
  });
  int64_t pairs = fused.linear.getOutFeatures() / kFeatures;
  int64_t tilePairs = blocks.tileColumns / kFeatures;
  forBlocks(count, unit, [&](const Part &part) {
    makeOnce(part, [&] { emitPixels(part); });
    b.forRange(part.from * tilePairs,
               b.min(part.to * tilePairs, b.index(pairs)), 1, [&](Val pair) {
                 emitKernels(pair);
                 Ptr scratch = frame.scratch();
                 b.forRange(b.index(0), b.index(kPlaces), 1, [&](Val i) {
                   call(linear,
                        {scratch.at(pixels).at(i * pixelsStride),
                         scratch.at(kernels).at(i * kernelsStride),
                         scratch.at(products).at(i * productsStride)},
                        part.count, b.index(0), b.index(1));
                 });
                 emitResults(part, pair);
               });
  });
}

//===----------------------------------------------------------------------===//
// Cutting
//===----------------------------------------------------------------------===//

/// The linear of one place: `[quads, C] * [32, C]^T`.
static FailureOr<cpu::KernelInfo> emitLinear(ModuleOp kernels,
                                             const cpu::Target &target,
                                             PackedLinearOp conv,
                                             int64_t channels, int64_t rows) {
  OpBuilder b(conv);
  Type f32 = b.getF32Type();
  auto of = [&](ArrayRef<int64_t> shape) -> Type {
    return RankedTensorType::get(shape, f32);
  };
  int64_t open = ShapedType::kDynamic;
  auto given = UnrealizedConversionCastOp::create(
      b, conv.getLoc(),
      TypeRange{of({open, channels}), of({kFeatures / ::qlm::format::kRowBlock,
                                          channels, ::qlm::format::kRowBlock})},
      ValueRange());
  auto op = PackedLinearOp::create(
      b, conv.getLoc(), of({open, kFeatures}), given.getResult(0),
      /*inputScales=*/Value(), /*outliers=*/Value(), given.getResult(1),
      /*scales=*/Value(), /*superScales=*/Value(), /*zeroPoints=*/Value(),
      /*bias=*/Value(), /*residual=*/Value(), b.getI64IntegerAttr(channels),
      b.getI64IntegerAttr(kFeatures), conv.getLayoutAttr(),
      /*scheme=*/SchemeAttr());
  op->setAttr(cpu::kTuningAttr,
              b.getDictionaryAttr(
                  {b.getNamedAttr(
                       "result_stores",
                       b.getI64IntegerAttr(cpu::LinearTuning::kCachedStores)),
                   b.getNamedAttr("tile_blocks", b.getI64IntegerAttr(2))}));
  FailureOr<cpu::KernelInfo> info = cpu::emitKernel(
      kernels, op, target, SizeKind::Tokens, cpu::StepLimits{rows, 1, 1});
  op.erase();
  given.erase();
  return info;
}

FailureOr<RowBlocksKernel> mlir::qlm::emitWinograd(ModuleOp kernels,
                                                   const cpu::Target &target,
                                                   FusedLinear &fused) {
  int64_t channels = getRanked(fused.windows.getInput()).getDimSize(1);
  // Rows of the linear's widest patch, or half of them.
  int64_t unit = target.avx512 ? 7 : 6;
  int64_t bytes = target.avx512 ? kLargeBytes : kSmallBytes;
  RowBlocksKernel kernel;
  kernel.blocks.rows = llvm::alignTo(
      std::clamp(bytes / (kPlaces * channels * 4), kFewestQuads, kMostQuads),
      unit);
  int64_t pairs = fused.linear.getOutFeatures() / kFeatures;
  int64_t tilePairs = llvm::divideCeil(pairs, kBlockTiles);
  kernel.blocks.tileColumns = tilePairs * kFeatures;
  kernel.blocks.tiles = llvm::divideCeil(pairs, tilePairs);
  FailureOr<cpu::KernelInfo> info =
      emitLinear(kernels, target, fused.linear, channels, kernel.blocks.rows);
  if (failed(info))
    return failure();
  kernel.name = getFreeKernelName(kernels, "winograd");
  func::FuncOp function = createKernelFunction(kernels, kernel.name);
  auto linear = kernels.lookupSymbol<func::FuncOp>(info->name);
  WinogradEmitter emitter(target, fused, kernel.blocks, linear,
                          info->scratchBytes, function);
  emitter.emit(unit);
  kernel.scratchBytes = emitter.getScratchBytes();
  return kernel;
}
