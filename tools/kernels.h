// `tinytl bench`: one 3x3 convolution, computed step by step faster. Part of tools/tinytl.c.
//
// Every kernel computes the same layer, so that the gain of each idea shows: the matrix product as it is defined, the same in
// blocks that stay in the cache, the register tile of >>simd reading the image in place, and Winograd's algorithm.

enum { BLOCK = 64 };             // rows and depth of a block: its part of both matrices stays in the first-level cache

typedef struct kernel_run {
    tl__conv conv;
    tl_net *net;                 // the machine of the fast kernels
    tl_node out;
    tl_real *x, *w, *y, *columns;
} kernel_run;

static void kernel_plain(kernel_run *run)
{
    tl__conv_forward_plain(&run->conv, run->x, run->w, NULL, run->y, 0, run->columns);
}

// im2col as before; then C += A B for one block of A's rows and columns after the other.
static void kernel_blocked(kernel_run *run)
{
    const tl__window *s = &run->conv.s;
    int pixels = s->oh * s->ow, depth = s->kh * s->kw * s->c, out = run->conv.out;
    for (int n = 0; n < run->conv.n; n++) {
        tl_real *y = run->y + (size_t)n * pixels * out;
        tl__im2col(&run->conv, run->x + (size_t)n * s->h * s->w * s->c, 0, s->c, run->columns);
        for (int k = 0; k < depth; k += BLOCK)
        for (int i = 0; i < pixels; i += BLOCK)
            tl__gemm_plain(tl__min(BLOCK, pixels - i), out, tl__min(BLOCK, depth - k),
                           run->columns + (size_t)i * depth + k, depth, 1, run->w + (size_t)k * out, out, 1,
                           y + (size_t)i * out, out, k > 0);
    }
}

static void kernel_fast(kernel_run *run)
{
    tl__arrays arrays = tl__one_array(run->x, run->conv.s.c, 0, run->y, 0, run->w, NULL);
    tl__run_conv(run->net, TL__FORWARD, &run->conv, &arrays);
}

// The shortest of the runs within half a second, at least two.
static double time_kernel(kernel_run *run, void (*kernel)(kernel_run *run))
{
    double begin = now(), best = 1e9;
    for (int i = 0; i < 2 || now() - begin < 0.5; i++) {
        double start = now(), seconds;
        kernel(run);
        seconds = now() - start;
        if (seconds < best) best = seconds;
    }
    return best;
}

// A network of the one layer, which plans the memory of the fast kernels.
static tl_net *kernel_net(const arguments *a, tl_isa isa, int exact, tl_node *out)
{
    tl_net *net = tl_net_new(&(tl_net_desc){ .seed = 1, .threads = int_of(a, "threads"), .isa = isa, .exact = exact });
    int channels = int_of(a, "channels"), size = int_of(a, "size");
    tl_node x = tl_input(net, size, size, channels);
    *out = tl_conv2d(net, x, &(tl_conv2d_desc){ .out = channels, .kernel = 3, .pad = 1, .no_bias = 1 });
    if (tl_prepare(net, int_of(a, "batch"), 0)) {
        fail_tl();
        tl_net_free(net);
        return NULL;
    }
    return net;
}

static int run_bench(const arguments *a)
{
    static const struct { const char *name; void (*run)(kernel_run *run); tl_isa isa; int exact; } kernels[] = {
        { "plain", kernel_plain, TL_ISA_PLAIN, 1 },        { "blocked", kernel_blocked, TL_ISA_PLAIN, 1 },
        { "tile-v128", kernel_fast, TL_ISA_V128, 1 },      { "tile-avx2", kernel_fast, TL_ISA_AVX2, 1 },
        { "tile-avx512", kernel_fast, TL_ISA_AVX512, 1 },  { "winograd", kernel_fast, TL_ISA_AUTO, 0 }
    };
    const char *wanted = text_of(a, "kernel");
    double first = 0, before = 0;
    int failed = 0, shown = 0;
    printf("3x3 convolution, %dx%d pixels, %d channels to %d, batch %d\n", int_of(a, "size"), int_of(a, "size"),
           int_of(a, "channels"), int_of(a, "channels"), int_of(a, "batch"));
    printf("%-12s %10s %10s %10s %10s\n", "kernel", "ms", "GFLOP/s", "x before", "x plain");
    for (size_t i = 0; !failed && i < sizeof kernels / sizeof kernels[0]; i++) {
        if ((strcmp(wanted, "all") && strcmp(wanted, kernels[i].name)) || !tl_isa_available(kernels[i].isa)) continue;
        kernel_run run;
        memset(&run, 0, sizeof run);
        tl_net *net = kernel_net(a, kernels[i].isa, kernels[i].exact, &run.out);
        if (!net) return 1;
        tl__node *y = &net->nodes[run.out.id - 1];
        run.net = net;
        run.conv = tl__node_conv(net, y, int_of(a, "batch"));
        run.x = net->nodes[0].data;
        run.y = y->data;
        run.w = tl__values(net, y, TL__WEIGHT);
        run.columns = tl__alloc_block(tl__conv_plain_scratch(&run.conv).shared);
        tl_rng rng = tl_rng_at(1, TL_RANDOM_USER, 0, 0, 0);
        for (size_t k = 0; k < tl__sample_count(&net->nodes[0]) * (size_t)run.conv.n; k++)
            run.x[k] = (tl_real)tl_random_normal(&rng);
        if (!run.columns) failed = fail("no memory for the matrix of the plain kernels");
        double seconds = failed ? 1 : time_kernel(&run, kernels[i].run), flops = tl_flops(net) * run.conv.n;
        if (!failed) printf("%-12s %10.2f %10.1f", kernels[i].name, seconds * 1e3, flops / seconds * 1e-9);
        if (!failed && shown) printf(" %10.1f %10.1f", before / seconds, first / seconds);
        if (!failed) printf("\n");
        fflush(stdout);
        before = seconds;
        if (!shown++) first = seconds;
        tl__free_block(run.columns);
        tl_net_free(net);
    }
    if (!failed && !shown) failed = fail("this machine or build cannot run the kernel '%s'", wanted);
    return failed;
}
