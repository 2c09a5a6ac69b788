// What every test shares. A test file is a program of its own (make build/NAME, then build/NAME) and a part of tests/all.c, which
// compiles the library once for all of them: MAIN names what is main() in the one and NAME_main() in the other.
//
// CHECK counts, prints what failed, and goes on.

#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>

#ifdef TESTS_TOGETHER
    #define MAIN(name, ...) static int name##_main(__VA_ARGS__)
#else
    #define MAIN(name, ...) int main(__VA_ARGS__)
#endif

// The library, its memory counted, unless the test has included it in a way of its own.
#ifndef TINYTL_IMPLEMENTATION
static size_t live_bytes, live_blocks, all_blocks;

static void *counted_malloc(size_t size)
{
    size_t *block = (size_t *)malloc(size + 64);
    if (!block) return NULL;
    block[0] = size;
    __atomic_fetch_add(&live_bytes, size, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&live_blocks, 1, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&all_blocks, 1, __ATOMIC_SEQ_CST);
    return (char *)block + 64;
}

static void counted_free(void *pointer)
{
    size_t *block = (size_t *)(void *)((char *)pointer - 64);
    __atomic_fetch_sub(&live_bytes, block[0], __ATOMIC_SEQ_CST);
    __atomic_fetch_sub(&live_blocks, 1, __ATOMIC_SEQ_CST);
    free(block);
}

#define TINYTL_MALLOC(size) counted_malloc(size)
#define TINYTL_FREE(pointer) counted_free(pointer)
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image.h>
#include <stb/stb_image_write.h>
#define TINYTL_IMPLEMENTATION
#include "../tinytl.h"
#endif

static int checks_passed, checks_failed;

#define CHECK(condition, ...)                                            \
    do {                                                                 \
        if (condition) {                                                 \
            checks_passed++;                                             \
        } else {                                                         \
            checks_failed++;                                             \
            printf("FAILED %s:%d: ", __FILE__, __LINE__);                \
            printf(__VA_ARGS__);                                         \
            printf("\n");                                                \
        }                                                                \
    } while (0)

static inline void write_bytes(const char *path, const void *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    CHECK(file && fwrite(bytes, 1, size, file) == size && fclose(file) == 0, "cannot write %s", path);
}

// Prints the totals; the exit status of the program.
static int finish(const char *what)
{
    printf("%s: %d passed, %d failed\n", what, checks_passed, checks_failed);
    return checks_failed != 0;
}

#endif
