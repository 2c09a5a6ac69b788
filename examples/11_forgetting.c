// What does fine-tuning forget? One rate for all against small rates for the trunk, all at once against gradual unfreezing,
// and batch norms that take the statistics of the new images against those that keep the old ones.
//
//     11_forgetting [EPOCHS]     default: 20 epochs, about three minutes on one core
//
// A network that knows task A learns task B from 100 labels, in six ways and five times each. After every epoch: its
// accuracy on B, and that of the old head on the trunk as it is now, which is what is left of A. Writes 11_forgetting.png.

#include "experiment.h"

enum { WAYS = 6, SEEDS = 5, MOST = 64, LABELS = 100 };
static const struct { const char *name, *rates; float lr; int gradual; tl_stats learn_stats; } ways[WAYS] = {
    { "one rate 1e-3", "", 1e-3f, 0, TL_STATS_UPDATE },
    { "1e-5 and 1e-3", "two", 0, 0, TL_STATS_UPDATE },
    { "gradual, one rate", "", 1e-3f, 1, TL_STATS_UPDATE },
    { "gradual, 1e-5, 1e-3", "two", 0, 1, TL_STATS_UPDATE },
    { "one rate, old norms", "", 1e-3f, 0, TL_STATS_RUNNING },
    { "1e-5, 1e-3, old norms", "two", 0, 0, TL_STATS_RUNNING }
};

typedef struct watch {
    tl_net *net, *old;
    const tl_dataset *test_a;
    sample *a, *b;                   // of each epoch, counted through all phases
    int    epoch;
} watch;

static int look(void *user, const tl_progress *p)
{
    watch *w = (watch *)user;
    tl_evaluation before, after;
    if (!p->epoch_done || w->epoch == MOST) return 0;
    must(tl_retained(w->net, w->old, w->test_a, 40, &before, &after), w->net);
    add(&w->a[w->epoch], after.score);
    add(&w->b[w->epoch], p->valid_score);
    w->epoch++;
    return 0;
}

// Stages that stay, whatever the validation set says: the question is what training does. So no early stopping here, and
// the best is not taken either: the curves show each epoch.
static void run(int way, int seed, int epochs, watch *w, const tl_dataset *test_b)
{
    task b = { .b = 1, .series = 10 + (uint32_t)seed };
    tl_dataset *train = draw_set(&b, LABELS);
    tl_recipe_stage stage = { .lr = ways[way].lr, .stats = TL_STATS_RUNNING, .gradual = ways[way].gradual, .constant = 1,
                              .learn_stats = ways[way].learn_stats,
                              .epochs = ways[way].gradual ? (epochs + 4) / 5 : epochs };      // five phases: head, 3 layers, conv1
    snprintf(stage.rates, sizeof stage.rates, "%s", ways[way].rates);
    w->net = for_b(w->old, 100 + (uint64_t)seed);
    w->epoch = 0;
    must(tl_finetune(w->net, &(tl_finetune_desc){ .train = train, .valid = test_b, .stages = &stage, .stage_count = 1, .batch = 16,
                                                  .seed = (uint64_t)seed, .progress = look, .user = w }, NULL), w->net);
    tl_net_free(w->net);
    tl_dataset_free(train);
}

int main(int argc, char **argv)
{
    int epochs = argc > 1 ? atoi(argv[1]) : 20, quick = epochs < 10, seeds = quick ? 2 : SEEDS;
    static task a = { .series = 2000 }, b = { .b = 1, .series = 2000 };
    static sample of_a[WAYS][MOST], of_b[WAYS][MOST];
    static plot p = { .y0 = 0, .y1 = 1 };
    tl_dataset *test_a = draw_set(&a, 160), *test_b = draw_set(&b, 160);
    watch w = { .old = learn_a(quick ? 320 : 3200, 8), .test_a = test_a };
    double start = accuracy(w.old, test_a), x[MOST], y[MOST], ticks[5];
    for (int way = 0; way < WAYS; way++)
        for (int seed = 0; seed < seeds; seed++) {
            w.a = of_a[way];
            w.b = of_b[way];
            run(way, seed, epochs, &w, test_b);
        }
    printf("\naccuracy on A before: %.3f. Mean and standard deviation over %d choices of %d labels of B:\n", start, seeds, LABELS);
    printf("%-22s %28s %22s %22s\n", "", "A after 1, 5 epochs, lowest", "A at the end", "B at the end");
    p.x1 = epochs + 4;
    for (int i = 0; i < 5; i++) ticks[i] = (int)(p.x1 * i / 4);
    plot_begin(&p, "left of A (thick points) and learnt of B", "epochs", "accuracy", ticks, 5);
    for (int way = 0; way < WAYS; way++) {
        int count = 0;
        double lowest = 1;
        while (count < MOST && of_a[way][count].count) count++;
        for (int i = 0; i < count; i++) lowest = fmin(lowest, mean(&of_a[way][i]));
        const sample *last_a = &of_a[way][count - 1], *last_b = &of_b[way][count - 1];
        printf("%-22s %14.3f %6.3f %6.3f %13.3f +- %5.3f %13.3f +- %5.3f\n", ways[way].name, mean(&of_a[way][0]),
               mean(&of_a[way][count > 4 ? 4 : count - 1]), lowest, mean(last_a), spread(last_a), mean(last_b), spread(last_b));
        for (int i = 0; i < count; i++) { x[i] = i + 1; y[i] = mean(&of_a[way][i]); }
        plot_curve(&p, ways[way].name, x, y, NULL, count);
        for (int i = 1; i < count; i++)                       // B: thin, of the same colour
            line(&p, plot_x(&p, i), plot_y(&p, mean(&of_b[way][i - 1])), plot_x(&p, i + 1), plot_y(&p, mean(&of_b[way][i])), 1,
                 plot_colours[way]);
    }
    plot_save(&p, "11_forgetting.png");
    tl_dataset_free(test_a);
    tl_dataset_free(test_b);
    tl_net_free(w.old);
    return 0;
}
