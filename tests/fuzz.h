// What the fuzz targets share. Each defines LLVMFuzzerTestOneInput, for
//
//     clang -g -O1 -Itests -fsanitize=fuzzer,address,undefined tests/fuzz_text.c -o build/fuzz_text -lm -pthread
//
// With STANDALONE there is a main instead, which any compiler builds: it runs the seeds and a fixed number of mutations of them, the same
// on every machine. A program argument is a file to run (what libFuzzer wrote when it found something).

#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Sizes in a file may ask for anything; what is larger than this is refused, as a machine would.
#define FUZZ_MEMORY ((size_t)1 << 26)
#ifdef __GNUC__
__attribute__((noinline))       // else GCC reasons about sizes above the limit, and warns
#endif
static void *fuzz_malloc(size_t size) { return size > FUZZ_MEMORY ? NULL : malloc(size); }
#define TINYTL_MALLOC(size) fuzz_malloc(size)
#define TINYTL_FREE(pointer) free(pointer)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// A property that must hold for every input.
#define MUST(condition)                                                            \
    do {                                                                           \
        if (!(condition)) {                                                        \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
            abort();                                                               \
        }                                                                          \
    } while (0)

#ifdef STANDALONE

#define FUZZ_MOST 65536

typedef struct fuzz_seed {
    const void *bytes;
    size_t size;
} fuzz_seed;

static uint64_t fuzz_state = 88172645463325252u;

static uint32_t fuzz_random(uint32_t n)
{
    fuzz_state ^= fuzz_state << 13;                        // xorshift64
    fuzz_state ^= fuzz_state >> 7;
    fuzz_state ^= fuzz_state << 17;
    return (uint32_t)((fuzz_state >> 16) % n);
}

// Puts `count` bytes in the place of `gone` bytes.
static size_t fuzz_replace(uint8_t *bytes, size_t size, size_t at, size_t gone, const void *from, size_t count)
{
    uint8_t piece[512];
    if (count > sizeof piece) count = sizeof piece;
    if (size - gone + count > FUZZ_MOST) return size;
    memcpy(piece, from, count);
    memmove(bytes + at + count, bytes + at + gone, size - at - gone);
    memcpy(bytes + at, piece, count);
    return size - gone + count;
}

// The next number in the text becomes another one.
static size_t fuzz_number(uint8_t *bytes, size_t size, size_t at)
{
    static const char *const numbers[] = { "0", "1", "2", "3", "4", "5", "6", "7", "8", "16", "-1", "0.5", "255", "256", "65535", "65536", "32768", "2147483647", "4294967296", "1e9" };
    size_t length = 0;
    while (at < size && (bytes[at] < '0' || bytes[at] > '9')) at++;
    while (at + length < size && bytes[at + length] >= '0' && bytes[at + length] <= '9') length++;
    const char *number = numbers[fuzz_random(fuzz_random(3) ? 10 : sizeof numbers / sizeof *numbers)];
    return length ? fuzz_replace(bytes, size, at, length, number, strlen(number)) : size;
}

// A line goes, or comes twice.
static size_t fuzz_line(uint8_t *bytes, size_t size, size_t at)
{
    size_t end = at;
    while (at > 0 && bytes[at - 1] != '\n') at--;
    while (end < size && bytes[end] != '\n') end++;
    if (end < size) end++;
    return fuzz_random(2) ? fuzz_replace(bytes, size, at, end - at, "", 0) : fuzz_replace(bytes, size, at, 0, bytes + at, end - at);
}

// One change: a bit, a byte, a piece taken out, doubled, or brought in from a dictionary or another seed, a number, a line.
static size_t fuzz_mutate(uint8_t *bytes, size_t size, const char *const *words, int word_count, const fuzz_seed *other)
{
    static const uint8_t odd[] = { 0, 1, 127, 128, 255, '0', '9', '-', ' ', '\n', '"', '(' };
    size_t at = fuzz_random((uint32_t)size + 1), count = 1 + fuzz_random(8);
    uint32_t kind = fuzz_random(12);
    if (kind == 0 && size) bytes[at % size] ^= (uint8_t)(1u << fuzz_random(8));
    if (kind == 1 && size) bytes[at % size] = odd[fuzz_random(sizeof odd)];
    if (kind == 2 && size) bytes[at % size] = (uint8_t)fuzz_random(256);
    if (kind == 3) return fuzz_replace(bytes, size, at, count < size - at ? count : size - at, "", 0);
    if (kind == 4) return fuzz_replace(bytes, size, at, 0, bytes, count * 8 < size ? count * 8 : size);
    if (kind == 5) {
        const char *word = words[fuzz_random((uint32_t)word_count)];
        return fuzz_replace(bytes, size, at, 0, word, strlen(word));
    }
    if (kind == 6) {
        size_t start = fuzz_random((uint32_t)other->size);
        return fuzz_replace(bytes, size, at, 0, (const uint8_t *)other->bytes + start, other->size - start < 64 ? other->size - start : 64);
    }
    if (kind == 7) return fuzz_line(bytes, size, at);
    return kind > 7 ? fuzz_number(bytes, size, at) : size;
}

static int fuzz_file(const char *path)
{
    uint8_t *bytes = (uint8_t *)malloc(FUZZ_MOST);
    FILE *file = fopen(path, "rb");
    size_t size = file && bytes ? fread(bytes, 1, FUZZ_MOST, file) : 0;
    if (file) {
        fclose(file);
        LLVMFuzzerTestOneInput(bytes, size);
    }
    free(bytes);
    return file == NULL;
}

static int fuzz_main(int argc, char **argv, const char *name, const fuzz_seed *seeds, int seed_count, const char *const *words, int word_count, int rounds)
{
    uint8_t *bytes = (uint8_t *)malloc(FUZZ_MOST + 1024);
    if (argc > 1) {
        free(bytes);
        return fuzz_file(argv[1]);
    }
    for (int i = 0; i < seed_count; i++) LLVMFuzzerTestOneInput((const uint8_t *)seeds[i].bytes, seeds[i].size);
    for (int i = 0; i < rounds; i++) {
        const fuzz_seed *seed = &seeds[i % seed_count];
        size_t size = seed->size;
        memcpy(bytes, seed->bytes, size);
        for (uint32_t changes = 1 + fuzz_random(3); changes > 0; changes--)
            size = fuzz_mutate(bytes, size, words, word_count, &seeds[fuzz_random((uint32_t)seed_count)]);
        uint8_t *exact = (uint8_t *)malloc(size ? size : 1);   // so that a sanitizer sees every byte behind the end
        memcpy(exact, bytes, size);
        LLVMFuzzerTestOneInput(exact, size);
        free(exact);
    }
    free(bytes);
    printf("%s: %d passed, 0 failed\n", name, rounds + seed_count);
    return 0;
}

#endif
#endif
