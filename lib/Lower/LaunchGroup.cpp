//===- LaunchGroup.cpp - Operations that one kernel may run ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Lower/LaunchGroup.h"

using namespace mlir;
using namespace mlir::qlm;

static bool isInGroup(Operation *op, Attribute number) {
  return op && op->getAttr(kGroupAttr) == number;
}

/// The user of one of \p op's results that is in group \p number.
static Operation *findUser(Operation *op, Attribute number) {
  for (Operation *user : op->getUsers())
    if (isInGroup(user, number))
      return user;
  return nullptr;
}

std::optional<LaunchGroup> LaunchGroup::get(Operation *op) {
  Attribute number = op->getAttr(kGroupAttr);
  if (!number)
    return std::nullopt;
  LaunchGroup group;
  group.linear = dyn_cast<PackedLinearOp>(op);
  if (!group.linear)
    group.linear = dyn_cast_or_null<PackedLinearOp>(findUser(op, number));
  for (Value operand : op->getOperands())
    if (auto linear = operand.getDefiningOp<PackedLinearOp>();
        !group.linear && linear && isInGroup(linear, number))
      group.linear = linear;
  if (!group.linear)
    return std::nullopt;
  Operation *maker = group.linear.getInput().getDefiningOp();
  if (isInGroup(maker, number))
    group.prologue = maker;
  group.epilogue = findUser(group.linear, number);
  return group;
}

SmallVector<Operation *, 3> LaunchGroup::getOperations() const {
  SmallVector<Operation *, 3> operations;
  PackedLinearOp middle = linear;
  for (Operation *op : {prologue, middle.getOperation(), epilogue})
    if (op)
      operations.push_back(op);
  return operations;
}

SmallVector<Value> LaunchGroup::getOuterBuffers() const {
  SmallVector<Value> buffers;
  if (prologue)
    llvm::append_range(buffers, prologue->getOperands());
  if (epilogue)
    for (Value buffer : getOwnBuffers(epilogue))
      if (buffer.getDefiningOp() != linear)
        buffers.push_back(buffer);
  return buffers;
}

SmallVector<Value> mlir::qlm::getOwnBuffers(Operation *op) {
  SmallVector<Value> buffers(op->getOperands());
  auto append = dyn_cast<RopeAppendOp>(op);
  for (Value result : op->getResults())
    if (!append || result != append.getUpdatedCache())
      buffers.push_back(result);
  return buffers;
}

SmallVector<Value> mlir::qlm::getLaunchBuffers(Operation *op) {
  SmallVector<Value> buffers = getOwnBuffers(op);
  std::optional<LaunchGroup> group = LaunchGroup::get(op);
  if (group && group->linear == op)
    llvm::append_range(buffers, group->getOuterBuffers());
  return buffers;
}
