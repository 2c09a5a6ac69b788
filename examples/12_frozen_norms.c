// What should a frozen batch norm do? Four answers, four sizes of the batch, images of another exposure.
//
//     12_frozen_norms [EPOCHS]     default: 10 epochs, about two minutes on one core
//
// The trunk that learnt task A stays frozen; a new head learns the same task from 64 images that are brighter and of half
// the contrast, and is judged on others like them. Batch norms of the trunk: running statistics; batch statistics, with and
// without update of the running ones; running statistics recomputed on the new images first (AdaBN). In evaluation the
// running ones always count. Writes 12_frozen_norms.png.

#include "experiment.h"

enum { POLICIES = 4, BATCHES = 4, SEEDS = 5, LABELS = 64 };
static const struct { const char *name; tl_stats stats; } policies[POLICIES] = {
    { "running", TL_STATS_RUNNING }, { "update", TL_STATS_UPDATE }, { "batch", TL_STATS_BATCH }, { "recompute", TL_STATS_RECOMPUTE }
};

// Accuracy of a head learnt on shifted images, NaN if the library refuses the combination.
static double run(const tl_net *learnt, int policy, int batch, int seed, int epochs, const tl_dataset *test)
{
    task shifted = { .series = 10 + (uint32_t)seed, .brighter = 0.25f, .darker = 1 };
    tl_recipe_stage stage = { .train = "head", .lr = 1e-2f, .epochs = batch > 8 ? epochs * batch / 8 : epochs, .stats = policies[policy].stats };
    tl_dataset *train = draw_set(&shifted, LABELS);
    tl_net *net = tl_replace_head(learnt, NULL, CLASSES_A, &(tl_net_desc){ .seed = 100 + (uint64_t)seed, .threads = 1 });
    if (!net) must(TL_ERR_ARGUMENT, NULL);
    tl_loss(net, tl_last(net), &(tl_loss_desc){ .kind = TL_CROSS_ENTROPY });
    tl_result result = tl_finetune(net, &(tl_finetune_desc){ .train = train, .stages = &stage, .stage_count = 1, .batch = batch,
                                                             .seed = (uint64_t)seed }, NULL);
    if (result && seed == 0) printf("batch %d: %s\n", batch, tl_error(net));
    double score = result ? NAN : accuracy(net, test);
    tl_net_free(net);
    tl_dataset_free(train);
    return score;
}

int main(int argc, char **argv)
{
    static const int batches[BATCHES] = { 1, 2, 8, 32 };
    int epochs = argc > 1 ? atoi(argv[1]) : 10, quick = epochs < 5, seeds = quick ? 2 : SEEDS;
    static task plain = { .series = 2000 }, shifted = { .series = 3000, .brighter = 0.25f, .darker = 1 };
    static plot p = { .x0 = 0.8, .x1 = 40, .y0 = 0, .y1 = 1, .log_x = 1 };
    tl_net *learnt = learn_a(quick ? 320 : 3200, 8);
    tl_dataset *test = draw_set(&shifted, 400), *same = draw_set(&plain, 400);
    static sample s[POLICIES][BATCHES];
    printf("the old head on images like those it learnt from: %.3f; on the new ones %.3f", accuracy(learnt, same), accuracy(learnt, test));
    tl_net *adapted = tl_clone(learnt, &(tl_net_desc){ .threads = 1 });
    must(tl_adapt_norm(adapted, test, 32, NULL), adapted);
    printf("; after recomputing the statistics, without any label, %.3f\n\n", accuracy(adapted, test));
    for (int policy = 0; policy < POLICIES; policy++)
        for (int b = 0; b < BATCHES; b++)
            for (int seed = 0; seed < seeds; seed++) {
                double score = run(learnt, policy, batches[b], seed, epochs, test);
                if (!isnan(score)) add(&s[policy][b], score);
            }
    printf("\naccuracy on new images, mean and standard deviation over %d choices of %d labels\n%-12s", seeds, LABELS, "batch");
    for (int b = 0; b < BATCHES; b++) printf("%18d", batches[b]);
    double ticks[BATCHES] = { 1, 2, 8, 32 };
    plot_begin(&p, "frozen batch norms, another exposure", "batch", "accuracy", ticks, BATCHES);
    for (int policy = 0; policy < POLICIES; policy++) {
        double x[BATCHES], y[BATCHES], bar[BATCHES];
        int count = 0;
        printf("\n%-12s", policies[policy].name);
        for (int b = 0; b < BATCHES; b++) {
            const sample *one = &s[policy][b];
            if (!one->count) { printf("%18s", "refused"); continue; }
            printf("    %5.3f +- %5.3f", mean(one), spread(one));
            x[count] = batches[b];
            y[count] = mean(one);
            bar[count++] = spread(one);
        }
        plot_curve(&p, policies[policy].name, x, y, bar, count);
    }
    printf("\n");
    plot_save(&p, "12_frozen_norms.png");
    tl_dataset_free(test);
    tl_dataset_free(same);
    tl_net_free(adapted);
    tl_net_free(learnt);
    return 0;
}
