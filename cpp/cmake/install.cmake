# Installs the headers, the static library and `find_package(flux_core_cpp)`.
include(CMakePackageConfigHelpers)

install(TARGETS flux_core_cpp EXPORT flux_core_cpp_targets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/flux DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
set(config_dir ${CMAKE_INSTALL_LIBDIR}/cmake/flux_core_cpp)
install(EXPORT flux_core_cpp_targets NAMESPACE flux:: DESTINATION ${config_dir})
configure_package_config_file(
  cmake/flux_core_cppConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/flux_core_cppConfig.cmake
  INSTALL_DESTINATION ${config_dir})
write_basic_package_version_file(
  ${CMAKE_CURRENT_BINARY_DIR}/flux_core_cppConfigVersion.cmake COMPATIBILITY ExactVersion)
install(FILES
  ${CMAKE_CURRENT_BINARY_DIR}/flux_core_cppConfig.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/flux_core_cppConfigVersion.cmake
  DESTINATION ${config_dir})
