#!/bin/sh
# The header in every way it may be built: C99 and C++11, with and without optimisation, with and without stb before it, declarations
# only, static in two files of one program, implementation in one file and use in another, every option macro, and each example
# on its own. All warnings are errors. Uses $CC and $CXX, and clang as well where it is installed (ONE_COMPILER=1: not).

cd "$(dirname "$0")/.." || exit 1
CC=${CC:-cc}
CXX=${CXX:-c++}
warn="-D_POSIX_C_SOURCE=200809L -Wall -Wextra -Wpedantic -Wshadow -Werror -I."
[ -d build/include ] && warn="$warn -isystem build/include"
passed=0
failed=0
work=$(mktemp -d "${TMPDIR:-/tmp}/tinytl.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT

good() {        # COMMAND...   must succeed
    if "$@" >"$work/log" 2>&1; then passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $*"
        head -n 20 "$work/log" | sed 's/^/    /'
    fi
}

bad() {         # TEXT COMMAND...   must fail and say TEXT
    text=$1
    shift
    if "$@" >"$work/log" 2>&1 || ! grep -q "$text" "$work/log"; then
        failed=$((failed + 1))
        echo "FAILED: this should be refused with '$text': $*"
        head -n 5 "$work/log" | sed 's/^/    /'
    else passed=$((passed + 1))
    fi
}

# ---- the sources ---------------------------------------------------------------------------

for kind in c cpp; do
    echo '#include "tinytl.h"
#include "tinytl.h"
typedef int a_file_must_not_be_empty;' >"$work/declare.$kind"
    echo '#define TINYTL_IMPLEMENTATION
#include "tinytl.h"
#include "tinytl.h"' >"$work/implement.$kind"
    echo '#define STB_IMAGE_IMPLEMENTATION
#include <stb/stb_image.h>
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image_write.h>
#define TINYTL_IMPLEMENTATION
#include "tinytl.h"' >"$work/stb.$kind"
done

# A program that learns something small; the checks say which option was in force. Declares what it uses unless it implements it.
cat >"$work/use.c" <<'END'
#ifdef COUNTED
    #include <stdlib.h>
    static int counted_blocks;
    static void *counted(size_t size) { counted_blocks++; return malloc(size); }
    static void counted_free(void *pointer) { counted_blocks--; free(pointer); }
    #define TINYTL_MALLOC(size) counted(size)
    #define TINYTL_FREE(pointer) counted_free(pointer)
#endif
#ifdef WHOLE
    #define TINYTL_IMPLEMENTATION
#endif
#include "tinytl.h"
#include <stdio.h>
#include <string.h>

int other_file(void);
#ifndef OTHER
int other_file(void) { return 1; }
#endif

int main(void)
{
    tl_net_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.threads = 2;
    tl_net *net = tl_net_new(&desc);
    tl_parse(net, "x = input() height=4 width=4 channels=1\nc = conv2d(x) out=4 kernel=3 pad=1\nr = relu(c)\nd = dense(r) out=2\nloss cross_entropy(d)\n");
    tl_optimizer_desc rule;
    memset(&rule, 0, sizeof rule);
    rule.kind = TL_SGD;
    rule.lr = 0.1f;
    tl_optimizer(net, &rule);
    tl_prepare(net, 2, 1);
    tl_real values[32];
    int32_t classes[2] = { 0, 1 };
    for (int i = 0; i < 32; i++) values[i] = (tl_real)(i / 16);
    double first = 0, last = 0;
    for (int step = 0; step < 20; step++) {
        tl_set_input(net, tl_find(net, "x"), values, 2);
        tl_set_target_index(net, 0, classes, 2);
        if (tl_forward(net, 2, TL_TRAIN) || tl_backward(net) || tl_step(net)) break;
        last = tl_loss_value(net);
        if (step == 0) first = last;
    }
    int right = tl_step_count(net) == 20 && last < 0.5 * first && other_file();
#ifdef COUNTED
    right = right && counted_blocks > 0;
#endif
    printf("loss %g to %g, %d bytes, %s %d\n", first, last, (int)sizeof(tl_real), tl_error(net), right);
    tl_net_free(net);
    tl_pool *pool = tl_pool_new(3);
#ifdef TINYTL_NO_THREADS
    right = right && tl_pool_threads(pool) == 1;
#else
    right = right && tl_pool_threads(pool) == 3;
#endif
    tl_pool_free(pool);
#ifdef TINYTL_DOUBLE
    right = right && sizeof(tl_real) == 8 && !tl_isa_available(TL_ISA_V128);
#else
    right = right && sizeof(tl_real) == 4;
#endif
#ifdef TINYTL_PLAIN
    right = right && !tl_isa_available(TL_ISA_V128) && !tl_isa_available(TL_ISA_AVX2);
#endif
#ifdef COUNTED
    right = right && counted_blocks == 0;
#endif
    tl_image image;
    memset(&image, 0, sizeof image);
    right = right && tl_image_load(&image, "none.png") != TL_OK && strlen(tl_error(NULL)) > 0;
    return right ? 0 : 1;
}
END
cp "$work/use.c" "$work/use.cpp"
cat >"$work/other.c" <<'END'
#define TINYTL_IMPLEMENTATION
#include "tinytl.h"
int other_file(void);
int other_file(void)
{
    tl_net *net = tl_net_new(0);
    tl_node node = tl_relu(net, tl_input(net, 3, 3, 1));
    int right = tl_node_height(net, node) == 3;
    tl_net_free(net);
    return right;
}
END
echo 'int other_file(void);
#include "tinytl.h"
int other_file(void) { return tl_match("a*", "abc"); }' >"$work/user.c"
sed 's/^int other_file/extern "C" int other_file/' "$work/user.c" >"$work/user.cpp"

# ---- one compiler --------------------------------------------------------------------------

# The names that an object file gives to the linker, without those that begin with tl_ and those of C++ templates (weak).
foreign() { nm -g --defined-only "$1" | awk '$2 != "W" && $2 != "V" { print $NF }' | sed 's/^_//' | grep -v '^tl_'; }

with() {        # CC CXX LEVELS
    c="$1 -std=c99 $warn"
    cpp="$2 -std=c++11 $warn"
    for level in $3; do
        good $c $level -c "$work/implement.c" -o "$work/c.o"
        good $cpp $level -c "$work/implement.cpp" -o "$work/cpp.o"
        if command -v nm >/dev/null; then
            good test -z "$(foreign "$work/c.o")"
            good test -z "$(foreign "$work/cpp.o")"
        fi
    done
    good $c -O0 -c "$work/stb.c" -o "$work/c.o"
    good $cpp -O0 -c "$work/stb.cpp" -o "$work/cpp.o"
    good $c -c "$work/declare.c" -o "$work/c.o"
    good $cpp -c "$work/declare.cpp" -o "$work/cpp.o"
    good "$1" -std=gnu99 -Wall -Werror -I. -c "$work/implement.c" -o "$work/c.o"       # without any macro, as beginners do

    # one file implements, another one uses; in the same and in the other language
    good $c -c "$work/implement.c" -o "$work/library.o"
    good $c "$work/use.c" "$work/library.o" -o "$work/program" -lm -pthread
    good "$work/program"
    good $cpp -c "$work/user.cpp" -o "$work/user.o"
    good $c -DOTHER "$work/use.c" "$work/user.o" "$work/library.o" -o "$work/program" -lm -pthread
    good "$work/program"
    good $cpp -c "$work/implement.cpp" -o "$work/library.o"
    good $cpp "$work/use.cpp" "$work/library.o" -o "$work/program" -lm -pthread
    good "$work/program"

    # static in two files of one program
    static="-DTINYTL_STATIC -Wno-unused-function"
    good $c $static -c "$work/other.c" -o "$work/other.o"
    good $c $static -DWHOLE -DOTHER "$work/use.c" "$work/other.o" -o "$work/program" -lm -pthread
    good "$work/program"
    command -v nm >/dev/null && good test -z "$(nm -g --defined-only "$work/other.o" | grep ' tl_')"

    # options
    for option in -DTINYTL_NO_THREADS -DTINYTL_PLAIN -DTINYTL_DOUBLE -DCOUNTED "-DTINYTL_PLAIN -DTINYTL_NO_THREADS"; do
        good $c -O0 $option -DWHOLE "$work/use.c" -o "$work/program" -lm -pthread
        good "$work/program"
        good $cpp -O0 $option -DWHOLE "$work/use.cpp" -o "$work/program" -lm -pthread
        good "$work/program"
    done
    bad "define both TINYTL_MALLOC" $c "-DTINYTL_MALLOC(n)=malloc(n)" -c "$work/implement.c" -o "$work/c.o"
    bad "define both TINYTL_MALLOC" $c "-DTINYTL_FREE(p)=free(p)" -c "$work/implement.c" -o "$work/c.o"
}

with "$CC" "$CXX" "-O0 -O2"
case $CC in
*clang*) ;;
*) [ -z "${ONE_COMPILER:-}" ] && command -v clang >/dev/null && command -v clang++ >/dev/null && with clang clang++ -O0 ;;
esac

# each example alone, with the library inside; the Makefile links them with it
for example in examples/*.c; do good "$CC" -std=c99 $warn -fsyntax-only "$example"; done

echo "compile: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
