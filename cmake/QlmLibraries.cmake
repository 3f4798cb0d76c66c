# qlm_compiler_library(NAME SOURCES... [DEPENDS targets...] [LINK libs...])
#
# A static library of the compiler: LLVM's and MLIR's headers, no exceptions,
# the shared precompiled header, and the one shared MLIR and LLVM library.
function(qlm_compiler_library name)
  cmake_parse_arguments(ARG "" "" "DEPENDS;LINK" ${ARGN})
  add_library(${name} STATIC ${ARG_UNPARSED_ARGUMENTS})
  qlm_compiler_settings(${name})
  add_dependencies(${name} QlmDialectIncGen ${ARG_DEPENDS})
  target_link_libraries(${name} PUBLIC ${ARG_LINK} MLIR LLVM)
  # Without times of its headers a precompiled header can come from ccache.
  target_compile_options(${name} PRIVATE "SHELL:-Xclang -fno-pch-timestamp")
  if(NOT QLM_SANITIZE AND NOT name STREQUAL "QlmDialect")
    target_precompile_headers(${name} REUSE_FROM QlmDialect)
  endif()
endfunction()

# Compile flags and include paths of code that uses LLVM.
function(qlm_compiler_settings name)
  target_include_directories(${name} SYSTEM PUBLIC ${LLVM_INCLUDE_DIRS}
                             ${MLIR_INCLUDE_DIRS})
  target_compile_definitions(${name} PRIVATE ${QLM_LLVM_DEFINITIONS})
  target_compile_options(${name} PRIVATE -fno-exceptions)
endfunction()

# qlm_runtime_library(NAME SOURCES... [LINK libs...])
#
# A static library of the runtime: no LLVM header, no LLVM library.
function(qlm_runtime_library name)
  cmake_parse_arguments(ARG "" "" "LINK" ${ARGN})
  add_library(${name} STATIC ${ARG_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PUBLIC ${ARG_LINK})
endfunction()

# qlm_unit_test(NAME SOURCES... [LINK libs...])
#
# A GoogleTest program in build/<preset>/bin/tests, run by test/run_tests.py.
function(qlm_unit_test name)
  cmake_parse_arguments(ARG "COMPILER" "" "LINK" ${ARGN})
  add_executable(${name} ${ARG_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE ${ARG_LINK} GTest::gtest_main)
  if(ARG_COMPILER)
    qlm_compiler_settings(${name})
  endif()
  set_target_properties(${name} PROPERTIES
    RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin/tests)
  target_compile_definitions(${name} PRIVATE
    QLM_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  add_test(NAME ${name} COMMAND ${name})
  set_property(GLOBAL APPEND PROPERTY QLM_UNIT_TESTS ${name})
endfunction()
