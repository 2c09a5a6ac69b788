// `bench grow PLOT.png`: how time grows with the size of the image, the width, the batch and the depth. Part of tools/bench.c.
//
// Time for each multiply-add of the definition should not depend on them: a curve that jumps is a cliff. Odd sizes and widths
// stand between even ones, and all are timed in the same rounds.

#include "../examples/plot.h"

enum { SERIES_MAX = 24, GROW_ROUNDS = 7 };

typedef struct growth {
    const char *title, *x_name;
    const char *label[SERIES_MAX];       // what it is, when x alone does not say
    double x[SERIES_MAX], y[SERIES_MAX]; // y: picoseconds for each multiply-add
    int    count, log_x, first;          // first of its items
    double tick[8];
    int    ticks;
} growth;

// One point: the item's time on one thread. Pixels and channels are those of its output.
static item *add_point(growth *g, double x, const char *name, void (*run)(item *it), tl_net *net, tl_node in, tl_node out, int batch)
{
    item *it = add_item(name, "", run, 1);
    it->net = net; it->in = in; it->out = out;
    it->batch = batch;
    it->images = (double)batch * tl_node_height(net, out) * tl_node_width(net, out) * tl_node_channels(net, out);   // values
    it->flops = tl_flops(net) * batch;
    g->x[g->count++] = x;
    return it;
}

static void run_three_passes(item *it)
{
    run_forward(it);
    run_backward_data(it);
    run_backward_weights(it);
}

static void add_layer_point(growth *g, double x, int height, int width, int channels, int batch)
{
    shape s = { "3x3", 3, 1, channels, channels, 0, batch, 0 };
    tl_node in, out;
    tl_net *net = make_layer(&s, height, width, isa_used, 0, &in, &out);
    char name[64];
    snprintf(name, sizeof name, "3x3 %d-%d@%dx%d, batch %d, three passes", channels, channels, height, width, batch);
    add_point(g, x, name, run_three_passes, net, in, out, batch)->flops *= 3;
}

static void add_unet_point(growth *g, double x, int depth, int batch)
{
    tl_net *net = tl_net_new(&(tl_net_desc){ .seed = 1, .threads = most_threads(), .isa = isa_used });
    tl_node in = tl_input(net, 128, 128, 1), out = tl_unet(net, in, &(tl_unet_desc){ .classes = 2, .width = 16, .depth = depth });
    char name[64];
    tl_loss(net, out, &(tl_loss_desc){ .kind = TL_CROSS_ENTROPY });
    tl_optimizer(net, &(tl_optimizer_desc){ .kind = TL_ADAMW, .lr = 1e-3f });
    check(tl_prepare(net, batch, 1));
    snprintf(name, sizeof name, "U-Net 16, depth %d, 128x128, batch %d, training step", depth, batch);
    add_point(g, x, name, run_training_step, net, in, out, batch)->flops *= 3;
}

static void add_growth(growth *g, int which)
{
    static const int sizes[][2] = { { 31, 31 },   { 32, 32 },   { 33, 33 },   { 33, 57 },   { 34, 56 },   { 63, 63 },
                                    { 64, 64 },   { 65, 65 },   { 96, 96 },   { 127, 127 }, { 128, 128 }, { 129, 129 },
                                    { 192, 192 }, { 255, 255 }, { 255, 257 }, { 256, 256 }, { 257, 257 } };
    static const int widths[] = { 8, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 96, 100, 128 };
    static const int batches[] = { 1, 2, 3, 4, 5, 7, 8, 16 }, depths[] = { 1, 2, 3, 4, 5 };
    for (int i = 0; which == 0 && i < COUNT_OF(sizes); i++)
        add_layer_point(g, sqrt((double)sizes[i][0] * sizes[i][1]), sizes[i][0], sizes[i][1], 32, 2);
    for (int i = 0; which == 1 && i < COUNT_OF(widths); i++) add_layer_point(g, widths[i], 64, 64, widths[i], 2);
    for (int i = 0; which == 2 && i < COUNT_OF(batches); i++) add_unet_point(g, batches[i], 3, batches[i]);
    for (int i = 0; which == 3 && i < COUNT_OF(depths); i++) add_unet_point(g, depths[i], depths[i], 2);
}

// Against the points that are neighbours in x, the faster of both: the cliff, if there is one.
static double against_neighbours(const growth *g, int i)
{
    double best = 1e30;
    if (i > 0) best = g->y[i - 1];
    if (i + 1 < g->count && g->y[i + 1] < best) best = g->y[i + 1];
    return g->y[i] / best;
}

static void print_growth(growth *g)
{
    printf("\n%s, one thread\n%-56s %9s %16s %12s %9s %11s\n", g->title, "", "ms", "ns/(pixel*chan.)", "ps/mult-add", "GFLOP/s",
           "neighbours");
    for (int i = 0; i < g->count; i++) g->y[i] = items[g->first + i].ours.median / items[g->first + i].flops * 2e12;
    for (int i = 0; i < g->count; i++) {
        const item *it = &items[g->first + i];
        printf("%-56s %9.3f %16.2f %12.2f %9.1f %10.2fx\n", it->name, it->ours.median * 1e3, it->ours.median / it->images * 1e9,
               g->y[i], it->rate, against_neighbours(g, i));
    }
    fflush(stdout);
}

static void draw_growth(const growth *g, plot *p)
{
    double most = 0;
    for (int i = 0; i < g->count; i++) most = fmax(most, g->y[i]);
    p->x0 = g->x[0]; p->x1 = g->x[g->count - 1];
    p->y1 = ceil(most / 5) * 5;
    p->log_x = g->log_x;
    plot_begin(p, g->title, g->x_name, "ps per multiply-add", g->tick, g->ticks);
    plot_curve(p, "one thread", g->x, g->y, NULL, g->count);
}

static int grow(const char *path)
{
    static growth all[4] = {
        { .title = "3x3 32-32, three passes", .x_name = "rows and columns", .log_x = 1, .tick = { 32, 64, 128, 256 }, .ticks = 4 },
        { .title = "3x3 at 64x64, three passes", .x_name = "channels", .log_x = 1, .tick = { 8, 16, 32, 64, 128 }, .ticks = 5 },
        { .title = "U-Net 16, depth 3, training step", .x_name = "batch", .log_x = 1, .tick = { 1, 2, 4, 8, 16 }, .ticks = 5 },
        { .title = "U-Net 16, training step", .x_name = "depth", .tick = { 1, 2, 3, 4, 5 }, .ticks = 5 }
    };
    static plot plots[4];
    clock_used = CLOCK_PROCESS_CPUTIME_ID;        // one thread that never waits: other programs count less
    make_inputs();
    for (int i = 0; i < 4; i++) {
        all[i].first = item_count;
        add_growth(&all[i], i);
        measure(all[i].first);
        print_growth(&all[i]);
        draw_growth(&all[i], &plots[i]);
        free_networks(all[i].first);
    }
    plot_save_all(plots, 4, path);
    return 0;
}
