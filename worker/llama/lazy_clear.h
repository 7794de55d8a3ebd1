// Compiled into llama.cpp's library (llama_cpp.cmake): clears a context's memory without touching it.
//
// llama.cpp writes zeros over the whole KV cache when it makes a context: gigabytes, page by page, before the first
// request. Given back to the kernel, private memory reads as zeros and is taken again as sequences grow into it.
#pragma once

#if defined(__linux__) && defined(__cplusplus)

#include "ggml-backend.h"

#include <cstdint>
#include <cstring>

#include <sys/mman.h>
#include <unistd.h>

static inline void worker_clear_buffer(ggml_backend_buffer_t buffer, uint8_t value) {
    // Only what malloc gave: memory that a device has pinned must stay where it is.
    if (value == 0 && ggml_backend_buffer_get_type(buffer) == ggml_backend_cpu_buffer_type()) {
        const uintptr_t page  = (uintptr_t) sysconf(_SC_PAGESIZE);
        char * const    begin = (char *) ggml_backend_buffer_get_base(buffer);
        char * const    end   = begin + ggml_backend_buffer_get_size(buffer);
        char * const    first = (char *) (((uintptr_t) begin + page - 1) / page * page);
        char * const    last  = (char *) ((uintptr_t) end / page * page);
        if (first < last && madvise(first, last - first, MADV_DONTNEED) == 0) {
            memset(begin, 0, first - begin);
            memset(last, 0, end - last);
            return;
        }
    }
    ggml_backend_buffer_clear(buffer, value);
}

#define ggml_backend_buffer_clear worker_clear_buffer

#endif
