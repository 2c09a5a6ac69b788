// Runs CUDA kernels on the CPU: the very text of tinytl_cuda.h, compiled as ordinary C++. Include it before tinytl_cuda.h.
//
// A block's threads are fibers on one OS thread: each runs until it waits for others. Blocks run one after another. So a run is
// reproducible, and a debugger, valgrind or a sanitizer sees ordinary code. What real hardware leaves undefined is made as
// unpleasant as possible here, so that a mistake shows in the result:
//
//     memory        device memory and shared memory start as 0xff (NaN); pages on both sides of every block of memory may not
//                   be touched, and an access there is reported with the kernel, the block and the thread
//     order         threads and blocks in ascending or descending order; whoever is released first runs as far as it can
//     cp.async      eager: copies at once, so that a copy into a buffer still in use shows; lazy: copies at the wait that the
//                   program makes, so that a missing wait shows
//     misuse        barriers that some threads miss, exchanges of a warp that differ between lanes, addresses that are not
//                   aligned, more shared memory than was asked for or allowed
//
// Not seen: coalescing, bank conflicts other than of ldmatrix, registers, missing memory fences between blocks, the order of
// additions inside a tensor core.
//
// Memory and block size limits are those of an H100. The switch between fibers is ten lines of assembler on x86-64 and
// ucontext elsewhere.

#ifndef EMULATOR_H
#define EMULATOR_H

#include <setjmp.h>
#include <stddef.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <functional>
#include <string>
#include <vector>

#define TL_CUDA_EMULATOR 1

// ---- the words of the language -------------------------------------------------------------

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct emu_dim3 {
    unsigned x, y, z;
};
static emu_dim3 threadIdx, blockIdx, blockDim, gridDim;

// ---- how to run ----------------------------------------------------------------------------

struct emu_settings {
    int descending;          // threads
    int reversed;            // blocks
    int lazy;                // cp.async
};
static emu_settings emu_mode;
static int emu_whole_tf32;                   // tensor cores keep all bits of tf32 operands: what is left is no rounding

// ---- what happened -------------------------------------------------------------------------

static char   emu_message[512];              // the first misuse since emu_clear, or ""
static size_t emu_launches, emu_bank_passes; // kernels run; extra passes of ldmatrix over the banks
static const char *emu_kernel = "";
static jmp_buf emu_abandon;                  // back to the launch, leaving all fibers
static int     emu_running;                  // inside a kernel

static void emu_clear() { emu_message[0] = 0; }

static void emu_misuse(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
static void emu_misuse(const char *format, ...)
{
    if (!emu_message[0]) {
        va_list args;
        va_start(args, format);
        int n = snprintf(emu_message, sizeof emu_message, "%s, block %u,%u,%u, thread %u: ", emu_kernel, blockIdx.x, blockIdx.y,
                         blockIdx.z, threadIdx.x);
        vsnprintf(emu_message + n, sizeof emu_message - (size_t)n, format, args);
        va_end(args);
    }
    if (!emu_running) { fprintf(stderr, "%s\n", emu_message); abort(); }
    longjmp(emu_abandon, 1);
}

// ---- memory with forbidden pages on both sides ---------------------------------------------

struct emu_block {
    char  *pages, *data;
    size_t bytes, length;    // asked for; of the whole mapping
};
static std::vector<emu_block> emu_blocks;
static size_t emu_memory_limit = (size_t)1 << 31, emu_memory_used;

static size_t emu_round(size_t n, size_t to) { return (n + to - 1) / to * to; }

// The end lies at the forbidden page, as closely as an alignment of 16 bytes allows.
static void *emu_alloc(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), body = emu_round(bytes ? bytes : 1, page);
    if (emu_memory_used + bytes > emu_memory_limit) return NULL;
    char *pages = (char *)mmap(NULL, body + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == (char *)MAP_FAILED) return NULL;
    mprotect(pages + page, body, PROT_READ | PROT_WRITE);
    emu_block block = { pages, pages + page + body - emu_round(bytes, 16), bytes, body + 2 * page };
    if (bytes == 0) block.data = pages + page;
    memset(pages + page, 0xff, body);
    emu_blocks.push_back(block);
    emu_memory_used += bytes;
    return block.data;
}

static int emu_release(void *data)
{
    for (size_t i = 0; i < emu_blocks.size(); i++) {
        if (emu_blocks[i].data != data) continue;
        emu_memory_used -= emu_blocks[i].bytes;
        munmap(emu_blocks[i].pages, emu_blocks[i].length);
        emu_blocks.erase(emu_blocks.begin() + (ptrdiff_t)i);
        return 0;
    }
    return 1;
}

static void emu_on_fault(int number, siginfo_t *info, void *)
{
    if (emu_running) {
        for (size_t i = 0; i < emu_blocks.size(); i++) {
            const emu_block &b = emu_blocks[i];
            char *at = (char *)info->si_addr;
            if (at < b.pages || at >= b.pages + b.length) continue;
            sigset_t set;
            sigemptyset(&set);
            sigaddset(&set, number);
            sigprocmask(SIG_UNBLOCK, &set, NULL);
            emu_misuse("access out of bounds, %td bytes from the start of a block of %zu", at - b.data, b.bytes);
        }
    }
    signal(number, SIG_DFL);
    raise(number);
}

static void emu_catch_faults()
{
    static int done;
    if (done) return;
    done = 1;
    stack_t stack;                                   // a fiber's own may be full
    memset(&stack, 0, sizeof stack);
    stack.ss_size = 65536;
    stack.ss_sp = malloc(stack.ss_size);
    sigaltstack(&stack, NULL);
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = emu_on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
}

// ---- fibers --------------------------------------------------------------------------------

#if defined(__x86_64__) && !defined(EMU_UCONTEXT)
// emu_switch(&mine, other): saves what a call must keep, stores the stack pointer in *mine and goes on at `other`.
extern "C" void emu_switch(void **mine, void *other);
__asm__(".text\n.globl emu_switch\n.type emu_switch,@function\nemu_switch:\n"
        "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  movq %rsp, (%rdi)\n  movq %rsi, %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n  ret\n"
        ".size emu_switch, .-emu_switch\n");
typedef void *emu_context;
static void emu_make(emu_context *context, char *stack, size_t bytes, void (*entry)())
{
    void **top = (void **)(void *)(stack + bytes - 64);
    memset(top, 0, 64);
    top[0] = (void *)(uintptr_t)entry;               // where `ret` goes; the stack is then as after a call
    *context = top - 6;
    memset(*context, 0, 6 * sizeof(void *));
}
#else
#include <ucontext.h>
typedef ucontext_t emu_context;
static void emu_switch(emu_context *mine, emu_context &other) { swapcontext(mine, &other); }
static void emu_make(emu_context *context, char *stack, size_t bytes, void (*entry)())
{
    getcontext(context);
    context->uc_stack.ss_sp = stack;
    context->uc_stack.ss_size = bytes;
    context->uc_link = NULL;
    makecontext(context, entry, 0);
}
#endif

struct emu_copy {
    char       *to;
    const char *from;
    int         bytes, group;     // bytes to read; the rest of 16 becomes 0
};

struct emu_thread {
    int  fiber;                   // that it runs on
    int  parity;                  // of the warp's exchanges
    int  group;                   // of cp.async being filled
    std::vector<emu_copy> copies; // lazy ones that are not made yet
};

union emu_word {                  // what a lane gives to an exchange
    uint32_t u[12];
    float    f[12];
    double   d[6];
    const char *p;
};

struct emu_warp {
    int      arrived, kind;
    int      waiting[32];
    emu_word in[2][32], out[2][32];
};

#define EMU_THREADS 1024
#define EMU_STACK 65536

static emu_thread  emu_threads[EMU_THREADS];
static emu_warp    emu_warps[EMU_THREADS / 32];
static emu_context emu_main, emu_fibers[EMU_THREADS];
static char       *emu_stacks[EMU_THREADS];
static int  emu_free[EMU_THREADS], emu_free_count, emu_fiber_count;    // fibers that nobody is on
static int  emu_ready[2 * EMU_THREADS], emu_ready_count; // threads that may go on: a stack, last released first
static int  emu_next, emu_count, emu_returned;                         // threads started, in the block, finished
static int  emu_at_barrier[EMU_THREADS], emu_barrier_count;
static int  emu_self;                                                  // the thread that runs
static void (*emu_invoke_fn)(const void *);
static const void *emu_params;
static char  *emu_shared;
static size_t emu_shared_bytes;

static void emu_become(int thread)
{
    emu_self = thread;
    threadIdx.x = (unsigned)thread;
}

static void emu_fiber_main();

// Leaves the fiber that waits or has nothing to do (`mine`) for one that can run.
static void emu_leave(emu_context *mine)
{
    if (emu_ready_count > 0) {
        int thread = emu_ready[--emu_ready_count];
        emu_become(thread);
        emu_switch(mine, emu_fibers[emu_threads[thread].fiber]);
        return;
    }
    if (emu_next < emu_count) {
        int fiber = emu_free_count > 0 ? emu_free[--emu_free_count] : emu_fiber_count++;
        if (!emu_stacks[fiber]) {
            size_t page = (size_t)sysconf(_SC_PAGESIZE);
            emu_stacks[fiber] = (char *)mmap(NULL, EMU_STACK + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) + page;
            mprotect(emu_stacks[fiber] - page, page, PROT_NONE);
        }
        emu_make(&emu_fibers[fiber], emu_stacks[fiber], EMU_STACK, emu_fiber_main);
        emu_free[emu_free_count] = fiber;             // emu_fiber_main takes it
        emu_switch(mine, emu_fibers[fiber]);
        return;
    }
    if (emu_returned < emu_count) {
        int at_warp = 0;
        for (int w = 0; w < emu_count / 32; w++) at_warp += emu_warps[w].arrived;
        emu_misuse("%d threads wait at a barrier and %d in an exchange of their warp for %d that have returned or wait elsewhere",
                   emu_barrier_count, at_warp, emu_returned);
    }
    emu_switch(mine, emu_main);
}

// A fiber runs one thread after the other; one that waits keeps the fiber.
static void emu_fiber_main()
{
    int fiber = emu_free[emu_free_count];
    for (;;) {
        while (emu_next < emu_count && emu_ready_count == 0) {
            int number = emu_next++, thread = emu_mode.descending ? emu_count - 1 - number : number;
            emu_threads[thread].fiber = fiber;
            emu_become(thread);
            emu_invoke_fn(emu_params);
            emu_returned++;
        }
        emu_free[emu_free_count++] = fiber;
        emu_leave(&emu_fibers[fiber]);
    }
}

static void emu_wait() { emu_leave(&emu_fibers[emu_threads[emu_self].fiber]); }

// ---- barriers and exchanges ----------------------------------------------------------------

static void __syncthreads()
{
    int self = emu_self;
    emu_at_barrier[emu_barrier_count++] = self;
    if (emu_barrier_count < emu_count) {
        emu_wait();
        return;
    }
    for (int i = emu_count - 2; i >= 0; i--) emu_ready[emu_ready_count++] = emu_at_barrier[i];
    emu_barrier_count = 0;
    emu_become(self);
}

enum { EMU_SYNC = 1, EMU_SHUFFLE, EMU_LDMATRIX, EMU_MMA };

// All lanes of the warp meet; the last one does `work(warp, parity)` for all of them. Returns the parity of this exchange.
template <typename Work> static int emu_meet(int kind, const emu_word *give, Work work)
{
    int self = emu_self, lane = self % 32, parity = emu_threads[self].parity;
    emu_warp &warp = emu_warps[self / 32];
    emu_threads[self].parity ^= 1;
    if (warp.arrived > 0 && warp.kind != kind) emu_misuse("lanes of one warp meet in different operations");
    warp.kind = kind;
    if (give) warp.in[parity][lane] = *give;
    warp.waiting[warp.arrived++] = self;
    if (warp.arrived < 32) {
        emu_wait();
        return parity;
    }
    work(warp, parity);
    for (int i = 30; i >= 0; i--) emu_ready[emu_ready_count++] = warp.waiting[i];
    warp.arrived = 0;
    return parity;
}

static void emu_check_mask(unsigned mask)
{
    if (mask != 0xffffffffu) emu_misuse("mask %08x; only whole warps are supported", mask);
}

static inline void __syncwarp(unsigned mask = 0xffffffffu)
{
    emu_check_mask(mask);
    emu_meet(EMU_SYNC, NULL, [](emu_warp &, int) {});
}

static inline float __shfl_xor_sync(unsigned mask, float value, int bits)
{
    emu_check_mask(mask);
    emu_word give;
    give.f[0] = value;
    int parity = emu_meet(EMU_SHUFFLE, &give, [](emu_warp &, int) {});
    return emu_warps[emu_self / 32].in[parity][(emu_self % 32) ^ bits].f[0];
}

static inline float __shfl_sync(unsigned mask, float value, int lane)
{
    emu_check_mask(mask);
    emu_word give;
    give.f[0] = value;
    int parity = emu_meet(EMU_SHUFFLE, &give, [](emu_warp &, int) {});
    return emu_warps[emu_self / 32].in[parity][lane % 32].f[0];
}

static inline double __shfl_xor_sync(unsigned mask, double value, int bits)
{
    emu_check_mask(mask);
    emu_word give;
    give.d[0] = value;
    int parity = emu_meet(EMU_SHUFFLE, &give, [](emu_warp &, int) {});
    return emu_warps[emu_self / 32].in[parity][(emu_self % 32) ^ bits].d[0];
}

// ---- what tinytl_cuda.h does in PTX --------------------------------------------------------

template <typename T> static T *tl_smem()
{
    if (sizeof(T) > emu_shared_bytes) emu_misuse("%zu bytes of shared memory are used, %zu were asked for", sizeof(T), emu_shared_bytes);
    return (T *)(void *)emu_shared;
}

static void emu_check_shared(const void *p, int bytes, const char *what)
{
    const char *at = (const char *)p;
    if ((uintptr_t)at % 16) emu_misuse("%s: a shared address is not a multiple of 16 bytes", what);
    if (at < emu_shared || at + bytes > emu_shared + emu_shared_bytes) emu_misuse("%s: an address outside of shared memory", what);
}

static void emu_make_copy(const emu_copy &copy)
{
    memcpy(copy.to, copy.from, (size_t)copy.bytes);
    memset(copy.to + copy.bytes, 0, (size_t)(16 - copy.bytes));
}

// 16 bytes from global to shared memory, of which `bytes` are read.
static inline void tl_cp_async16(void *shared, const void *global, int bytes)
{
    emu_check_shared(shared, 16, "cp.async");
    if (bytes > 0 && (uintptr_t)global % 16) emu_misuse("cp.async: a global address is not a multiple of 16 bytes");
    emu_thread &me = emu_threads[emu_self];
    emu_copy copy = { (char *)shared, (const char *)global, bytes, me.group };
    if (emu_mode.lazy) me.copies.push_back(copy);
    else emu_make_copy(copy);
}

static inline void tl_cp_async_commit() { emu_threads[emu_self].group++; }

// Until all but the last N groups of this thread have arrived.
template <int N> static void tl_cp_async_wait()
{
    emu_thread &me = emu_threads[emu_self];
    size_t done = 0;
    while (done < me.copies.size() && me.copies[done].group < me.group - N) emu_make_copy(me.copies[done++]);
    me.copies.erase(me.copies.begin(), me.copies.begin() + (ptrdiff_t)done);
}

// The 32 bits of matrix row `row` that lane `lane` gets; transposed: two 16-bit values from two rows.
static uint32_t emu_matrix_word(const char *const *rows, int lane, int transposed)
{
    uint32_t word;
    uint16_t low, high;
    if (!transposed) {
        memcpy(&word, rows[lane / 4] + lane % 4 * 4, 4);
        return word;
    }
    memcpy(&low, rows[lane % 4 * 2] + lane / 4 * 2, 2);
    memcpy(&high, rows[lane % 4 * 2 + 1] + lane / 4 * 2, 2);
    return (uint32_t)high << 16 | low;
}

static void emu_ldmatrix(uint32_t r[4], const void *row, int transposed)
{
    emu_check_shared(row, 16, "ldmatrix");
    emu_word give;
    give.p = (const char *)row;
    int lane = emu_self % 32;
    int parity = emu_meet(EMU_LDMATRIX, &give, [transposed](emu_warp &warp, int side) {
        for (int m = 0; m < 4; m++) {
            const char *rows[8];
            int used[8] = { 0 }, most = 0;                        // rows in each group of four banks
            for (int i = 0; i < 8; i++) {
                rows[i] = warp.in[side][8 * m + i].p;
                int bank = (int)((uintptr_t)(rows[i] - emu_shared) / 16 % 8);
                if (++used[bank] > most) most = used[bank];
            }
            emu_bank_passes += (size_t)(most - 1);
            for (int i = 0; i < 32; i++) warp.out[side][i].u[m] = emu_matrix_word(rows, i, transposed);
        }
    });
    memcpy(r, emu_warps[emu_self / 32].out[parity][lane].u, 16);
}

static inline void tl_ldmatrix_x4(uint32_t r[4], const void *row) { emu_ldmatrix(r, row, 0); }
static inline void tl_ldmatrix_x4_trans(uint32_t r[4], const void *row) { emu_ldmatrix(r, row, 1); }

static float emu_bits_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

// Element (row, k) of A or (k, column) of B in the registers of the lanes, for 16-bit and for tf32 tiles.
static float emu_a(const emu_warp &w, int side, int half, int row, int k)
{
    int lane = row % 8 * 4 + (half ? k % 8 / 2 : k % 4), reg = row / 8 + (half ? k / 8 : k / 4) * 2;
    uint32_t word = w.in[side][lane].u[reg];
    return emu_bits_float(half ? (k % 2 ? word & 0xffff0000u : word << 16) : emu_whole_tf32 ? word : word & 0xffffe000u);
}

static float emu_b(const emu_warp &w, int side, int half, int k, int column)
{
    int lane = column * 4 + (half ? k % 8 / 2 : k % 4), reg = 4 + (half ? k / 8 : k / 4);
    uint32_t word = w.in[side][lane].u[reg];
    return emu_bits_float(half ? (k % 2 ? word & 0xffff0000u : word << 16) : emu_whole_tf32 ? word : word & 0xffffe000u);
}

// c += A B of a warp: 16 x 16 times 16 x 8 of bf16, or 16 x 8 times 8 x 8 of tf32.
static void emu_mma(float c[4], const uint32_t a[4], const uint32_t b[2], int half)
{
    emu_word give;
    memcpy(give.u, a, 16);
    memcpy(give.u + 4, b, 8);
    memcpy(give.u + 6, c, 16);
    int lane = emu_self % 32;
    int parity = emu_meet(EMU_MMA, &give, [half](emu_warp &warp, int side) {
        for (int row = 0; row < 16; row++)
            for (int column = 0; column < 8; column++) {
                int owner = row % 8 * 4 + column / 2, reg = row / 8 * 2 + column % 2;
                float sum = warp.in[side][owner].f[6 + reg];
                for (int k = 0; k < (half ? 16 : 8); k++) sum += emu_a(warp, side, half, row, k) * emu_b(warp, side, half, k, column);
                warp.out[side][owner].f[reg] = sum;
            }
    });
    memcpy(c, emu_warps[emu_self / 32].out[parity][lane].f, 16);
}

static inline void tl_mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2]) { emu_mma(c, a, b, 1); }
static inline void tl_mma_tf32(float c[4], const uint32_t a[4], const uint32_t b[2]) { emu_mma(c, a, b, 0); }

// Rounds to the 10 bits of tf32, ties away from zero (cvt.rna).
static inline uint32_t tl_to_tf32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return value == value && !emu_whole_tf32 ? (bits + 0x1000u) & 0xffffe000u : bits;
}

// ---- launches ------------------------------------------------------------------------------

// Runs one block. 0, or 1 after a misuse.
static int emu_run_block(void)
{
    emu_next = emu_returned = emu_barrier_count = emu_ready_count = emu_free_count = emu_fiber_count = 0;
    for (int i = 0; i < emu_count; i++) {
        emu_threads[i].parity = emu_threads[i].group = 0;
        emu_threads[i].copies.clear();
    }
    for (int w = 0; w < emu_count / 32; w++) emu_warps[w].arrived = 0;
    if (emu_shared_bytes) memset(emu_shared, 0xff, emu_shared_bytes);
    emu_running = 1;
    int bad = setjmp(emu_abandon);
    if (!bad) emu_leave(&emu_main);
    emu_running = 0;
    return bad;
}

// 0, or 1 with emu_message.
static int emu_launch(const char *name, void (*invoke)(const void *), const void *params, const unsigned grid[3], unsigned block,
                      size_t shared, size_t allowed)
{
    emu_catch_faults();
    emu_kernel = name;
    emu_launches++;
    blockIdx.x = blockIdx.y = blockIdx.z = threadIdx.x = threadIdx.y = threadIdx.z = 0;
    if (block % 32 || block == 0 || block > EMU_THREADS || shared > allowed || grid[0] == 0 || grid[1] == 0 || grid[2] == 0 ||
        grid[0] > 0x7fffffffu || grid[1] > 65535 || grid[2] > 65535) {
        snprintf(emu_message, sizeof emu_message, "%s: grid %u,%u,%u of %u threads with %zu bytes of shared memory (%zu allowed)", name,
                 grid[0], grid[1], grid[2], block, shared, allowed);
        return 1;
    }
    emu_invoke_fn = invoke;
    emu_params = params;
    emu_count = (int)block;
    emu_shared = shared ? (char *)emu_alloc(shared) : NULL;
    emu_shared_bytes = shared;
    blockDim.x = block; blockDim.y = blockDim.z = 1;
    gridDim.x = grid[0]; gridDim.y = grid[1]; gridDim.z = grid[2];
    size_t blocks = (size_t)grid[0] * grid[1] * grid[2];
    int bad = 0;
    for (size_t i = 0; i < blocks && !bad; i++) {
        size_t b = emu_mode.reversed ? blocks - 1 - i : i;
        blockIdx.x = (unsigned)(b % grid[0]);
        blockIdx.y = (unsigned)(b / grid[0] % grid[1]);
        blockIdx.z = (unsigned)(b / grid[0] / grid[1]);
        bad = emu_run_block();
    }
    if (emu_shared) emu_release(emu_shared);
    return bad;
}

template <typename P, void (*kernel)(P)> static void emu_invoke(const void *params)
{
    P copy;
    memcpy(&copy, params, sizeof copy);
    kernel(copy);
}

#endif
