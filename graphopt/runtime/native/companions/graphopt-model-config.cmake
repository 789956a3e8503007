# find_package(graphopt-model CONFIG REQUIRED PATHS path/to/net.gopt) gives the target graphopt::model, with model.h and
# libgraphopt.so, and the variable graphopt-model_FOLDER, which names this folder for graphopt_model_create.
if(NOT TARGET graphopt::model)
  add_library(graphopt::model SHARED IMPORTED GLOBAL)
  set_target_properties(graphopt::model PROPERTIES
    IMPORTED_LOCATION "${CMAKE_CURRENT_LIST_DIR}/libgraphopt.so"
    IMPORTED_SONAME "libgraphopt.so"
    INTERFACE_INCLUDE_DIRECTORIES "${CMAKE_CURRENT_LIST_DIR}")
endif()
set(graphopt-model_FOLDER "${CMAKE_CURRENT_LIST_DIR}")
