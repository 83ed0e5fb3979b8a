# SPDX-License-Identifier: Apache-2.0
# Options, flags, and the three functions that every room's CMakeLists uses.

option(TENON_TESTS "Build the tests" ON)
option(TENON_WERROR "Treat warnings as errors" ON)
option(TENON_FUZZ "Build the libFuzzer targets (needs clang)" OFF)
option(TENON_CUDA "Build the CUDA plugins where nvcc is found" ON)
option(TENON_CUDA_HOST "Of the CUDA plugins build what runs on the host only, for tests over a false driver" OFF)
find_program(TENON_NVCC nvcc PATHS /usr/local/cuda/bin DOC "CUDA's compiler; without it there are no CUDA plugins")
if(TENON_NVCC)
  get_filename_component(TENON_CUDA_INCLUDE ${TENON_NVCC} REALPATH)
  get_filename_component(TENON_CUDA_INCLUDE ${TENON_CUDA_INCLUDE}/../../include ABSOLUTE)
else()
  set(TENON_CUDA OFF)
endif()
# What device code is compiled for. The portable set takes the first list, sets for one generation what they name of it.
set(TENON_CUDA_ARCHS "80;90a" CACHE STRING "GPU architectures that device code is compiled for")
set(TENON_SANITIZE "" CACHE STRING "Sanitizers for -fsanitize=, e.g. address,undefined or thread")

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()

set(CMAKE_C_STANDARD 17)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_C_FLAGS_RELEASE "-O2 -g1")
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
set(CMAKE_ARCHIVE_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
set(TENON_PLUGIN_DIR ${CMAKE_BINARY_DIR}/lib/tenon/plugins)
# Plugins without their device code are for tests that ask for them: nothing else shall find them.
if(TENON_CUDA_HOST)
  set(TENON_CUDA_PLUGIN_DIR ${CMAKE_BINARY_DIR}/lib/tenon/host)
else()
  set(TENON_CUDA_PLUGIN_DIR ${TENON_PLUGIN_DIR})
endif()

add_compile_definitions(_POSIX_C_SOURCE=200809L _DEFAULT_SOURCE)
add_compile_options(-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes
  -Wmissing-prototypes -Wvla -Wundef -Wno-sign-conversion -fno-common)
if(TENON_WERROR)
  add_compile_options(-Werror)
endif()
if(CMAKE_C_COMPILER_ID STREQUAL "GNU")
  # gcc's format-truncation warning fires on every deliberate snprintf into an error record.
  add_compile_options(-Wno-format-truncation)
endif()
if(TENON_SANITIZE)
  add_compile_options(-fsanitize=${TENON_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${TENON_SANITIZE})
endif()

# tenon_room(NAME SOURCE...): an object library of one room, with the include path of the core. The target is
# tenon_NAME; it sees sdk/include, core/ ("base/err.h") and text/'s parent only as far as its includes say.
function(tenon_room name)
  add_library(tenon_${name} OBJECT ${ARGN})
  target_include_directories(tenon_${name} PUBLIC
    ${PROJECT_SOURCE_DIR}/sdk/include ${PROJECT_SOURCE_DIR}/core ${PROJECT_SOURCE_DIR}/core/include)
endfunction()

add_custom_target(plugins) # all plugins, for tests that load them

# tenon_plugin_in(DIRECTORY NAME SOURCE...): the module of a plugin, with modes that the loader accepts whatever the umask was.
function(tenon_plugin_in dir name)
  add_library(plugin_${name} MODULE ${ARGN})
  target_include_directories(plugin_${name} PRIVATE ${PROJECT_SOURCE_DIR}/sdk/include)
  target_link_libraries(plugin_${name} PRIVATE m)
  target_link_options(plugin_${name} PRIVATE -Wl,-z,relro,-z,now)
  set_target_properties(plugin_${name} PROPERTIES PREFIX "" OUTPUT_NAME ${name}
    LIBRARY_OUTPUT_DIRECTORY ${dir} POSITION_INDEPENDENT_CODE ON)
  add_custom_command(TARGET plugin_${name} POST_BUILD
    COMMAND chmod go-w $<TARGET_FILE:plugin_${name}> ${dir} VERBATIM)
endfunction()

# tenon_plugin(NAME SOURCE...): a loadable plugin. It sees sdk/include only, links libm only, and lands in
# lib/tenon/plugins.
function(tenon_plugin name)
  tenon_plugin_in(${TENON_PLUGIN_DIR} ${name} ${ARGN})
  install(TARGETS plugin_${name} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/tenon/plugins
    PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
  add_dependencies(plugins plugin_${name})
endfunction()

# tenon_test(NAME SOURCES file... LIBS lib... [TIMEOUT s] [ENV var=value...]): one Check program, one CTest test.
function(tenon_test name)
  cmake_parse_arguments(T "" "TIMEOUT" "SOURCES;LIBS;ENV" ${ARGN})
  add_executable(test_${name} ${T_SOURCES})
  target_include_directories(test_${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_link_libraries(test_${name} PRIVATE ${T_LIBS} PkgConfig::CHECK m)
  target_compile_definitions(test_${name} PRIVATE SOURCE_DIR="${PROJECT_SOURCE_DIR}"
    BUILD_DIR="${CMAKE_BINARY_DIR}")
  # Check's macros compare through intmax_t and trip over our conversion warnings.
  target_compile_options(test_${name} PRIVATE -Wno-conversion -Wno-float-conversion)
  add_test(NAME ${name} COMMAND test_${name})
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 120)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${T_TIMEOUT} ENVIRONMENT
    "CK_DEFAULT_TIMEOUT=${T_TIMEOUT};UBSAN_OPTIONS=print_stacktrace=1;${T_ENV}")
endfunction()

# tenon_fuzz(NAME SOURCE LIBS lib...): fuzz_NAME is a libFuzzer target with TENON_FUZZ; in every build replay_NAME
# runs the corpus tests/fuzz/corpus/NAME through the same entry point, as a CTest test.
function(tenon_fuzz name source)
  cmake_parse_arguments(F "" "" "LIBS" ${ARGN})
  if(TENON_FUZZ)
    add_executable(fuzz_${name} ${source})
    target_link_libraries(fuzz_${name} PRIVATE ${F_LIBS})
    target_compile_options(fuzz_${name} PRIVATE -fsanitize=fuzzer -Wno-missing-prototypes)
    target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
  endif()
  if(TENON_TESTS)
    add_executable(replay_${name} ${source} ${PROJECT_SOURCE_DIR}/tests/fuzz/replay.c)
    target_link_libraries(replay_${name} PRIVATE ${F_LIBS})
    target_compile_options(replay_${name} PRIVATE -Wno-missing-prototypes)
    add_test(NAME replay_${name} COMMAND replay_${name} ${PROJECT_SOURCE_DIR}/tests/fuzz/corpus/${name})
    set_tests_properties(replay_${name} PROPERTIES TIMEOUT 120)
  endif()
endfunction()

# tenon_cuda_plugin(NAME SOURCE...): tenon_plugin, unless TENON_CUDA_HOST leaves its device code out.
function(tenon_cuda_plugin name)
  if(TENON_CUDA_HOST)
    tenon_plugin_in(${TENON_CUDA_PLUGIN_DIR} ${name} ${ARGN})
  else()
    tenon_plugin(${name} ${ARGN})
  endif()
endfunction()

# tenon_cuda_image(TARGET NAME SOURCE ARCHS arch...): device code of a kernel plugin. SOURCE (.cu) is compiled to a fatbin with
# code for each architecture ("80", "90a", ...) and embedded in TARGET as tenon_image_NAME, tenon_image_NAME_bytes (both const).
# The plugin loads it through its device's image_load, so it links nothing of CUDA. With TENON_CUDA_HOST it is empty.
# What ptxas said of its kernels is kept in NAME.fatbin.ptxas (scripts/spills.py). The source is named by its whole path: CMake takes
# relative ones in the list of dependencies as relative to the build, where they do not exist, and compiles again each time.
function(tenon_cuda_image target name source)
  cmake_parse_arguments(I "" "" "ARCHS;DEPENDS" ${ARGN})
  set(fatbin ${CMAKE_CURRENT_BINARY_DIR}/${name}.fatbin)
  set(content ".incbin \"${fatbin}\"")
  set(codes)
  if(TENON_CUDA_HOST)
    set(content ".long 0xba55ed50, 0x00100001, 0, 0") # the header of a fatbin with nothing in it
  endif()
  foreach(arch IN LISTS I_ARCHS)
    list(APPEND codes -gencode=arch=compute_${arch},code=sm_${arch})
  endforeach()
  file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/${name}.S.in "    .section .rodata
    .balign 64
    .global tenon_image_${name}
    .hidden tenon_image_${name}
tenon_image_${name}:
    ${content}
0:
    .balign 8
    .global tenon_image_${name}_bytes
    .hidden tenon_image_${name}_bytes
tenon_image_${name}_bytes:
    .quad 0b - tenon_image_${name}
    .section .note.GNU-stack,\"\",@progbits
")
  configure_file(${CMAKE_CURRENT_BINARY_DIR}/${name}.S.in ${CMAKE_CURRENT_BINARY_DIR}/${name}.S COPYONLY)
  target_sources(${target} PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/${name}.S)
  if(TENON_CUDA_HOST)
    return()
  endif()
  add_custom_command(OUTPUT ${fatbin}
    COMMAND ${PROJECT_SOURCE_DIR}/scripts/nvcc.sh ${fatbin}.ptxas ${TENON_NVCC} -std=c++17 -O3 -lineinfo -Xptxas=-v,-warn-spills -Werror all-warnings ${codes}
      -I${PROJECT_SOURCE_DIR}/sdk/include -MD -MF ${fatbin}.d -fatbin -o ${fatbin} ${CMAKE_CURRENT_SOURCE_DIR}/${source}
    DEPENDS ${source} ${I_DEPENDS} DEPFILE ${fatbin}.d WORKING_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR} VERBATIM)
  set_source_files_properties(${CMAKE_CURRENT_BINARY_DIR}/${name}.S PROPERTIES OBJECT_DEPENDS ${fatbin})
endfunction()

# tenon_cuda_targets(TARGET arch...): defines CUDA_TARGETS in TARGET as a row of CUDA_TARGET(major, minor, mode), one for each
# architecture that its images have code for; common/cuda_host.h makes initialisers of them.
function(tenon_cuda_targets target)
  set(rows)
  foreach(arch IN LISTS ARGN)
    string(REGEX MATCH "^([0-9]+)([0-9])(a?)$" matched ${arch})
    if(CMAKE_MATCH_3)
      set(mode TN_GPU_EXACT)
    else()
      set(mode TN_GPU_SAME_MAJOR)
    endif()
    string(APPEND rows "CUDA_TARGET(${CMAKE_MATCH_1},${CMAKE_MATCH_2},${mode})")
  endforeach()
  target_compile_definitions(${target} PRIVATE CUDA_TARGETS=${rows})
endfunction()
