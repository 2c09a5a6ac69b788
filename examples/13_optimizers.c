// Two claims about optimisers in fine-tuning: SGD with momentum should finish what Adam began, and Lion diverges at a rate
// that is usual for AdamW.
//
//     13_optimizers [EPOCHS]     default: 16 epochs, about four minutes on one core
//
// A network that knows task A learns task B from 100 labels, five times in each way. Writes 13_optimizers.png.

#include "experiment.h"

enum { WAYS = 8, SEEDS = 5, LABELS = 100, MOST = 64 };
static const struct { const char *name; tl_recipe_stage stage; } ways[WAYS] = {
    { "AdamW 1e-3", { .lr = 1e-3f } },
    { "AdamW, SGD end", { .lr = 1e-3f, .finish = TL_SGD } },
    { "AdamW, SGD end x10", { .lr = 1e-3f, .finish = TL_SGD, .finish_scale = 10 } },
    { "Lion 1e-3", { .lr = 1e-3f, .optimizer = TL_LION } },
    { "Lion 3e-4", { .lr = 3e-4f, .optimizer = TL_LION } },
    { "Lion 1e-4", { .lr = 1e-4f, .optimizer = TL_LION } },
    { "AdamW 1e-2", { .lr = 1e-2f } },
    { "Lion 1e-2", { .lr = 1e-2f, .optimizer = TL_LION } }
};

typedef struct watch {
    sample *loss;
    int    epoch;
} watch;

static int look(void *user, const tl_progress *p)
{
    watch *w = (watch *)user;
    if (p->epoch_done && w->epoch < MOST) add(&w->loss[w->epoch++], p->loss);
    return 0;
}

static void warn(void *user, const char *text)
{
    const char *warning = strstr(text, "warning: ");
    (void)user;
    if (warning) printf("%s", warning);
}

int main(int argc, char **argv)
{
    int epochs = argc > 1 ? atoi(argv[1]) : 16, quick = epochs < 10, seeds = quick ? 2 : SEEDS;
    static task b = { .b = 1, .series = 2000 };
    static plot p = { .y0 = 0, .y1 = 2 };
    static sample loss[WAYS][MOST];
    sample score[WAYS], drift[WAYS], gain[WAYS];
    double x[MOST], y[MOST], first[SEEDS], ticks[5];
    tl_net *learnt = learn_a(quick ? 320 : 3200, 8);
    tl_dataset *test = draw_set(&b, 400);
    memset(score, 0, sizeof score);
    memset(drift, 0, sizeof drift);
    memset(gain, 0, sizeof gain);
    for (int way = 0; way < WAYS; way++)
        for (int seed = 0; seed < seeds; seed++) {
            task labelled = { .b = 1, .series = 10 + (uint32_t)seed };
            tl_dataset *train = draw_set(&labelled, LABELS);
            tl_net *net = for_b(learnt, 100 + (uint64_t)seed), *before = tl_clone(net, &(tl_net_desc){ .threads = 1 });
            tl_recipe_stage stage = ways[way].stage;
            watch w = { .loss = loss[way] };
            tl_block_score blocks[8];
            stage.epochs = epochs;
            tl_result result = tl_finetune(net, &(tl_finetune_desc){
                .train = train, .stages = &stage, .stage_count = 1, .batch = 16, .seed = (uint64_t)seed, .progress = look,
                .log = seed == 0 ? warn : NULL, .user = &w }, NULL);
            if (result == TL_ERR_DIVERGED) printf("%s: %s\n", ways[way].name, tl_error(net));
            else must(result, net);
            if (seed < SEEDS && way == 0) first[seed] = accuracy(net, test);
            add(&score[way], way == 0 ? first[seed] : accuracy(net, test));
            add(&gain[way], accuracy(net, test) - first[seed]);
            if (tl_drift(net, before, NULL, 0, blocks, 8) < 2) must(TL_ERR_SHAPE, net);
            add(&drift[way], blocks[1].a);
            tl_net_free(net);
            tl_net_free(before);
            tl_dataset_free(train);
        }
    printf("\nmean and standard deviation over %d choices of %d labels; the difference is paired by choice\n%-20s %16s %20s %14s %12s\n",
           seeds, LABELS, "", "accuracy on B", "minus AdamW 1e-3", "last loss", "drift");
    p.x1 = epochs;
    for (int i = 0; i < 5; i++) ticks[i] = (int)(p.x1 * i / 4);
    plot_begin(&p, "training loss", "epochs", "loss", ticks, 5);
    for (int way = 0; way < WAYS; way++) {
        int count = 0;
        while (count < MOST && loss[way][count].count) count++;
        printf("%-20s %6.3f +- %5.3f %11.3f +- %5.3f %14.3f %12.3f\n", ways[way].name, mean(&score[way]), spread(&score[way]),
               mean(&gain[way]), spread(&gain[way]), count ? mean(&loss[way][count - 1]) : NAN, mean(&drift[way]));
        for (int i = 0; i < count; i++) { x[i] = i + 1; y[i] = mean(&loss[way][i]); }
        if (way != 1 && way != 6) plot_curve(&p, ways[way].name, x, y, NULL, count);
    }
    printf("drift: how far layer1 has moved, relative to its weights\n");
    plot_save(&p, "13_optimizers.png");
    tl_dataset_free(test);
    tl_net_free(learnt);
    return 0;
}
