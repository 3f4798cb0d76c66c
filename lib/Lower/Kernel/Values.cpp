//===- Values.cpp - Operators of kernel values ------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "qlm/Lower/Kernel/Builder.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::kernel;

Type Val::getElementTypeOrSelf(Type type) {
  return mlir::getElementTypeOrSelf(type);
}

int64_t Val::lanes() const {
  auto vector = dyn_cast<VectorType>(type());
  return vector ? vector.getNumElements() : 1;
}

Val Val::lane(int64_t index) const {
  return builder->val(
      vector::ExtractOp::create(*builder, builder->getLoc(), value, index));
}

template <typename FloatOp, typename IntegerOp>
static Val binary(Val a, Val b) {
  KernelBuilder &builder = *a.getBuilder();
  if (a.isFloat())
    return builder.val(
        FloatOp::create(builder, builder.getLoc(), a.get(), b.get()));
  return builder.val(
      IntegerOp::create(builder, builder.getLoc(), a.get(), b.get()));
}

template <typename IntegerOp> static Val integer(Val a, Val b) {
  KernelBuilder &builder = *a.getBuilder();
  return builder.val(
      IntegerOp::create(builder, builder.getLoc(), a.get(), b.get()));
}

static Val compare(Val a, Val b, arith::CmpFPredicate floats,
                   arith::CmpIPredicate integers) {
  KernelBuilder &builder = *a.getBuilder();
  if (a.isFloat())
    return builder.val(arith::CmpFOp::create(builder, builder.getLoc(), floats,
                                             a.get(), b.get()));
  return builder.val(arith::CmpIOp::create(builder, builder.getLoc(), integers,
                                           a.get(), b.get()));
}

namespace mlir::qlm::kernel {

Val operator+(Val a, Val b) {
  return binary<arith::AddFOp, arith::AddIOp>(a, b);
}
Val operator-(Val a, Val b) {
  return binary<arith::SubFOp, arith::SubIOp>(a, b);
}
Val operator*(Val a, Val b) {
  return binary<arith::MulFOp, arith::MulIOp>(a, b);
}
Val operator/(Val a, Val b) {
  return binary<arith::DivFOp, arith::DivUIOp>(a, b);
}
Val operator%(Val a, Val b) {
  return binary<arith::RemFOp, arith::RemUIOp>(a, b);
}
Val operator&(Val a, Val b) { return integer<arith::AndIOp>(a, b); }
Val operator|(Val a, Val b) { return integer<arith::OrIOp>(a, b); }
Val operator^(Val a, Val b) { return integer<arith::XOrIOp>(a, b); }
Val operator<<(Val a, Val b) { return integer<arith::ShLIOp>(a, b); }
Val operator>>(Val a, Val b) { return integer<arith::ShRUIOp>(a, b); }

Val operator-(Val a) {
  KernelBuilder &builder = *a.getBuilder();
  if (a.isFloat())
    return builder.val(
        arith::NegFOp::create(builder, builder.getLoc(), a.get()));
  return constantLike(a, int64_t(0)) - a;
}

Val operator<(Val a, Val b) {
  return compare(a, b, arith::CmpFPredicate::OLT, arith::CmpIPredicate::slt);
}
Val operator<=(Val a, Val b) {
  return compare(a, b, arith::CmpFPredicate::OLE, arith::CmpIPredicate::sle);
}
Val operator>(Val a, Val b) {
  return compare(a, b, arith::CmpFPredicate::OGT, arith::CmpIPredicate::sgt);
}
Val operator>=(Val a, Val b) {
  return compare(a, b, arith::CmpFPredicate::OGE, arith::CmpIPredicate::sge);
}
Val operator==(Val a, Val b) {
  return compare(a, b, arith::CmpFPredicate::OEQ, arith::CmpIPredicate::eq);
}
Val operator!=(Val a, Val b) {
  return compare(a, b, arith::CmpFPredicate::UNE, arith::CmpIPredicate::ne);
}

Val constantLike(Val like, int64_t number) {
  return like.getBuilder()->constant(like.type(), number);
}
Val constantLike(Val like, double number) {
  return like.getBuilder()->constant(like.type(), number);
}

} // namespace mlir::qlm::kernel

Ptr Ptr::at(Val bytes) const {
  Value address = LLVM::GEPOp::create(
      *builder, builder->getLoc(), base.getType(), builder->i8(), base,
      ArrayRef<LLVM::GEPArg>{bytes.get()}, LLVM::GEPNoWrapFlags::inbounds);
  return Ptr(address, builder, invariant);
}

Ptr Ptr::at(int64_t bytes) const {
  if (bytes == 0)
    return *this;
  Value address = LLVM::GEPOp::create(
      *builder, builder->getLoc(), base.getType(), builder->i8(), base,
      ArrayRef<LLVM::GEPArg>{static_cast<int32_t>(bytes)},
      LLVM::GEPNoWrapFlags::inbounds);
  return Ptr(address, builder, invariant);
}

Ptr Ptr::element(Type elementType, Val index) const {
  Value address = LLVM::GEPOp::create(
      *builder, builder->getLoc(), base.getType(), elementType, base,
      ArrayRef<LLVM::GEPArg>{index.get()}, LLVM::GEPNoWrapFlags::inbounds);
  return Ptr(address, builder, invariant);
}

/// The alignment that 0 stands for.
static int64_t getAlignment(Type type, int64_t alignment) {
  if (alignment)
    return alignment;
  Type element = getElementTypeOrSelf(type);
  if (!element.isIntOrFloat())
    return 8; // a pointer
  return (element.getIntOrFloatBitWidth() + 7) / 8;
}

Val Ptr::load(Type type, int64_t alignment) const {
  return builder->val(LLVM::LoadOp::create(
      *builder, builder->getLoc(), type, base, getAlignment(type, alignment),
      /*isVolatile=*/false, /*isNonTemporal=*/false, invariant));
}

Val Ptr::loadMasked(VectorType type, Val mask, int64_t alignment) const {
  Val zero = builder->zero(type);
  return builder->val(LLVM::MaskedLoadOp::create(
      *builder, builder->getLoc(), type, base, mask.get(), zero.get(),
      builder->getI32IntegerAttr(getAlignment(type, alignment)),
      /*nontemporal=*/nullptr));
}

void Ptr::store(Val value, int64_t alignment) const {
  LLVM::StoreOp::create(*builder, builder->getLoc(), value.get(), base,
                        getAlignment(value.type(), alignment));
}

void Ptr::storeMasked(Val value, Val mask, int64_t alignment) const {
  LLVM::MaskedStoreOp::create(
      *builder, builder->getLoc(), value.get(), base, mask.get(),
      builder->getI32IntegerAttr(getAlignment(value.type(), alignment)));
}

void Ptr::storeCompressed(Val value, Val mask) const {
  LLVM::masked_compressstore::create(*builder, builder->getLoc(), value.get(),
                                     base, mask.get());
}

void Ptr::prefetch() const {
  // Read, highest locality (all levels), data.
  LLVM::Prefetch::create(*builder, builder->getLoc(), base, /*rw=*/0,
                         /*hint=*/3, /*cache=*/1);
}
