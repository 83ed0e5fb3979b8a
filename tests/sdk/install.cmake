# SPDX-License-Identifier: Apache-2.0
# Installs the SDK and builds every sample from the installed files alone, copied out of the tree, as a vendor would: each
# with CMake, one with make and pkg-config, too. Run by CTest: cmake -DBUILD=... -DWORK=... -P install.cmake
file(REMOVE_RECURSE ${WORK})
file(MAKE_DIRECTORY ${WORK}/plugins)
execute_process(COMMAND chmod go-w ${WORK}/plugins COMMAND_ERROR_IS_FATAL ANY)

function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/prefix --component sdk)
file(GLOB samples ${WORK}/prefix/share/tenon/template/*/CMakeLists.txt)
list(LENGTH samples n)
if(NOT n EQUAL 4)
  message(FATAL_ERROR "${n} samples are installed; there should be 4")
endif()

set(strict "-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Werror")
foreach(list ${samples})
  cmake_path(GET list PARENT_PATH from)
  cmake_path(GET from FILENAME name)
  file(COPY ${from} DESTINATION ${WORK}/samples)
  run(${CMAKE_COMMAND} -S ${WORK}/samples/${name} -B ${WORK}/build/${name} -G ${GENERATOR}
    -DCMAKE_PREFIX_PATH=${WORK}/prefix -DCMAKE_INSTALL_PREFIX=${WORK}/out -DCMAKE_C_COMPILER=${COMPILER}
    "-DCMAKE_C_FLAGS=${strict} ${FLAGS}")
  run(${CMAKE_COMMAND} --build ${WORK}/build/${name})
  run(${CMAKE_COMMAND} --install ${WORK}/build/${name})
endforeach()

# Full-sized plugins of the tree, whose CMakeLists.txt builds them anywhere: a scheme and a format of checkpoints.
foreach(name int4_g128 formats)
  file(COPY ${TREE}/plugins/quant/${name} DESTINATION ${WORK}/vendor)
  run(${CMAKE_COMMAND} -S ${WORK}/vendor/${name} -B ${WORK}/build/${name} -G ${GENERATOR}
    -DCMAKE_PREFIX_PATH=${WORK}/prefix -DCMAKE_INSTALL_PREFIX=${WORK}/out -DCMAKE_C_COMPILER=${COMPILER}
    "-DCMAKE_C_FLAGS=${strict} ${FLAGS}")
  run(${CMAKE_COMMAND} --build ${WORK}/build/${name})
  run(${CMAKE_COMMAND} --install ${WORK}/build/${name})
endforeach()
file(GLOB built ${WORK}/out/*/tenon/plugins/*.so ${WORK}/out/*/*/tenon/plugins/*.so)
file(COPY ${built} DESTINATION ${WORK}/plugins)

file(GLOB pc ${WORK}/prefix/*/pkgconfig/tenon-sdk.pc ${WORK}/prefix/*/*/pkgconfig/tenon-sdk.pc)
cmake_path(GET pc PARENT_PATH pc_dir)
run(${CMAKE_COMMAND} -E env PKG_CONFIG_PATH=${pc_dir} "CFLAGS=${FLAGS}" "LDFLAGS=${FLAGS}" CC=${COMPILER}
  make -C ${WORK}/samples/quant install DESTDIR=${WORK}/made)
