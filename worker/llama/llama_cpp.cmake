# Included by CMake right after llama-cpp-python's project(): what of llama.cpp is compiled, and how.
# Only the libraries that the worker loads, several files at a time: a third of the processor time.

set(LLAMA_BUILD_COMMON OFF) # llama-cpp-python forces the cached variable on; a plain one stands before it
set(LLAVA_BUILD OFF)        # libmtmd: images and audio
set(CMAKE_UNITY_BUILD ON)

if(NOT MSVC)
    set(lazy_clear ${CMAKE_CURRENT_LIST_DIR}/lazy_clear.h)
    cmake_language(DEFER CALL target_compile_options llama PRIVATE "SHELL:-include ${lazy_clear}")
endif()

# Two files of ggml-cpu define the same static function: they are compiled alone, in every variant of it.
function(compile_repack_alone)
    set(ggml ${CMAKE_SOURCE_DIR}/vendor/llama.cpp/ggml/src)
    get_property(targets DIRECTORY ${ggml} PROPERTY BUILDSYSTEM_TARGETS)
    foreach(target ${targets})
        if(target MATCHES "^ggml-cpu")
            get_target_property(sources ${target} SOURCES)
            list(FILTER sources INCLUDE REGEX "repack\\.cpp$")
            foreach(source ${sources})
                get_filename_component(path ${source} ABSOLUTE BASE_DIR ${ggml})
                set_source_files_properties(${path} TARGET_DIRECTORY ${target}
                    PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
            endforeach()
        endif()
    endforeach()
endfunction()
cmake_language(DEFER CALL compile_repack_alone)
