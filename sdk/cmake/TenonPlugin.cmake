# SPDX-License-Identifier: Apache-2.0
# tenon_add_plugin(NAME SOURCE...): a shared object that the loader accepts. It exports the one symbol that the headers mark,
# brings no library search path along, asks for no executable stack, and is writable to nobody but its owner.
# Other libraries that it is linked with must be on the host's list (plugins.allowed_libraries).
function(tenon_add_plugin name)
  add_library(${name} MODULE ${ARGN})
  target_link_libraries(${name} PRIVATE Tenon::sdk m)
  target_compile_features(${name} PRIVATE c_std_11)
  target_compile_definitions(${name} PRIVATE _POSIX_C_SOURCE=200809L)
  target_link_options(${name} PRIVATE -Wl,-z,relro,-z,now,-z,noexecstack)
  set_target_properties(${name} PROPERTIES
    PREFIX "" SUFFIX ".so" LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/plugins
    C_VISIBILITY_PRESET hidden CXX_VISIBILITY_PRESET hidden POSITION_INDEPENDENT_CODE ON
    SKIP_BUILD_RPATH ON INSTALL_RPATH "")
  add_custom_command(TARGET ${name} POST_BUILD
    COMMAND chmod go-w $<TARGET_FILE:${name}> ${CMAKE_BINARY_DIR}/plugins VERBATIM)
  install(TARGETS ${name} LIBRARY DESTINATION ${Tenon_PLUGIN_DESTINATION}
    PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
endfunction()
