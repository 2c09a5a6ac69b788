// `tinytl bench`: one 3x3 convolution, computed step by step faster. Part of tools/tinytl.c.
//
// Every kernel computes the same layer, so that the gain of each idea shows: the matrix product as it is defined, the same in
// blocks whose sums stay in registers, the tile of >>simd, which is such a block in vectors and reads the image in place, and
// Winograd's algorithm.

enum { BLOCK_ROWS = 4, BLOCK_COLUMNS = 8 };

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

// 4 x 8 elements of C = A B: each value of A serves eight sums, each value of B four, and none is written before it is complete.
static void block_product(int depth, const tl_real *a, int a_row, const tl_real *b, int b_row, tl_real *c, int c_row)
{
    tl_real sum0[BLOCK_COLUMNS] = {0}, sum1[BLOCK_COLUMNS] = {0}, sum2[BLOCK_COLUMNS] = {0}, sum3[BLOCK_COLUMNS] = {0};
    for (int k = 0; k < depth; k++, a++, b += b_row) {
        tl_real a0 = a[0], a1 = a[a_row], a2 = a[2 * a_row], a3 = a[3 * a_row];
        for (int j = 0; j < BLOCK_COLUMNS; j++) {
            sum0[j] += a0 * b[j];
            sum1[j] += a1 * b[j];
            sum2[j] += a2 * b[j];
            sum3[j] += a3 * b[j];
        }
    }
    memcpy(c, sum0, sizeof sum0);
    memcpy(c + c_row, sum1, sizeof sum1);
    memcpy(c + 2 * c_row, sum2, sizeof sum2);
    memcpy(c + 3 * c_row, sum3, sizeof sum3);
}

// im2col as before; then block after block, and what is left over by the plain product.
static void kernel_blocked(kernel_run *run)
{
    const tl__window *s = &run->conv.s;
    int pixels = s->oh * s->ow, depth = s->kh * s->kw * s->c, out = run->conv.out;
    int rows = pixels - pixels % BLOCK_ROWS, columns = out - out % BLOCK_COLUMNS;
    const tl_real *a = run->columns, *b = run->w;
    for (int n = 0; n < run->conv.n; n++) {
        tl_real *y = run->y + (size_t)n * pixels * out;
        tl__im2col(&run->conv, run->x + (size_t)n * s->h * s->w * s->c, 0, s->c, run->columns);
        for (int i = 0; i < rows; i += BLOCK_ROWS)
        for (int j = 0; j < columns; j += BLOCK_COLUMNS)
            block_product(depth, a + (size_t)i * depth, depth, b + j, out, y + (size_t)i * out + j, out);
        tl__gemm_plain(rows, out - columns, depth, a, depth, 1, b + columns, out, 1, y + columns, out, 0);
        tl__gemm_plain(pixels - rows, out, depth, a + (size_t)rows * depth, depth, 1, b, out, 1, y + (size_t)rows * out, out, 0);
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

// The largest difference from the first kernel's output, as a part of its largest value.
static double difference(const tl_real *y, const tl_real *first, size_t count)
{
    double most = 0, range = 0;
    for (size_t i = 0; i < count; i++) {
        most = fmax(most, fabs((double)y[i] - first[i]));
        range = fmax(range, fabs((double)first[i]));
    }
    return range > 0 ? most / range : 0;
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
    tl_real *first_y = NULL;
    int failed = 0, shown = 0;
    printf("3x3 convolution, %dx%d pixels, %d channels to %d, batch %d\n", int_of(a, "size"), int_of(a, "size"),
           int_of(a, "channels"), int_of(a, "channels"), int_of(a, "batch"));
    printf("%-12s %10s %10s %10s %10s %10s\n", "kernel", "ms", "GFLOP/s", "x before", "x first", "differs");
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
        size_t count = tl__sample_count(y) * (size_t)run.conv.n;
        if (!first_y) first_y = tl__alloc_block(count);
        if (!run.columns || !first_y) failed = fail("no memory for the matrix of the plain kernels");
        double seconds = failed ? 1 : time_kernel(&run, kernels[i].run), flops = tl_flops(net) * run.conv.n;
        if (!failed) printf("%-12s %10.2f %10.1f", kernels[i].name, seconds * 1e3, flops / seconds * 1e-9);
        if (!failed && shown) printf(" %10.1f %10.1f %10.1e", before / seconds, first / seconds, difference(run.y, first_y, count));
        if (!failed && !shown) memcpy(first_y, run.y, count * sizeof *first_y);
        if (!failed) printf("\n");
        fflush(stdout);
        before = seconds;
        if (!shown++) first = seconds;
        tl__free_block(run.columns);
        tl_net_free(net);
    }
    tl__free_block(first_y);
    if (!failed && !shown) failed = fail("this machine or build cannot run the kernel '%s'", wanted);
    return failed;
}
