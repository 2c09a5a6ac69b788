// When does transfer help, and where does the gap close? Task A has as many labels as one likes, task B has few.
//
//     10_transfer [STEPS]     default: 100 steps each, about four minutes on one core
//
// For 5 to 500 labels of task B, and five choices of which images get them: a network from scratch; the trunk that learnt
// task A, frozen, with a new head; the same fine-tuned, first layers slowest. All take the same number of steps and are
// judged on 400 other images. Writes 10_transfer.png.

#include "experiment.h"

enum { COUNTS = 6, SEEDS = 5, METHODS = 3 };
static const char *const names[METHODS] = { "scratch", "frozen", "fine-tuned" };

// Higher rates than those of the lectures for large networks: the runs are short and the network is small.
static const tl_recipe_stage recipes[METHODS] = {
    { .lr = 4e-3f },
    { .train = "head", .lr = 2e-2f, .stats = TL_STATS_RUNNING },
    { .rates = "all 1e-3, late 2e-3, head 4e-3" }
};

int main(int argc, char **argv)
{
    static const int counts[COUNTS] = { 5, 20, 50, 100, 200, 500 };
    int steps = argc > 1 ? atoi(argv[1]) : 100, seeds = steps < 50 ? 2 : SEEDS, used = steps < 50 ? 3 : COUNTS;
    static plot p = { .x0 = 4, .x1 = 600, .y0 = 0, .y1 = 1, .log_x = 1 };
    static task test_b = { .b = 1, .series = 1000 };
    tl_net *learnt = learn_a(steps < 50 ? 320 : 3200, 8);
    tl_dataset *test = draw_set(&test_b, 400);
    double x[COUNTS], y[METHODS][COUNTS], bar[METHODS][COUNTS];

    printf("\naccuracy on task B, mean and standard deviation over %d choices of the labelled images\n%8s", seeds, "labels");
    for (int m = 0; m < METHODS; m++) printf("  %17s", names[m]);
    for (int c = 0; c < used; c++) {
        x[c] = counts[c];
        printf("\n%8d", counts[c]);
        for (int m = 0; m < METHODS; m++) {
            sample s = { 0 };
            for (int seed = 0; seed < seeds; seed++) {
                task b = { .b = 1, .series = 10 + (uint32_t)seed };
                tl_dataset *train = draw_set(&b, counts[c]);
                tl_net *net = m ? for_b(learnt, 100 + (uint64_t)seed) : small_resnet(CLASSES_B, 100 + (uint64_t)seed);
                tl_recipe_stage stage = recipes[m];
                int batch = counts[c] < 16 ? counts[c] : 16;
                stage.epochs = 1 + (steps - 1) / ((counts[c] + batch - 1) / batch);
                must(tl_finetune(net, &(tl_finetune_desc){ .train = train, .stages = &stage, .stage_count = 1, .batch = batch,
                                                           .seed = (uint64_t)seed }, NULL), net);
                add(&s, accuracy(net, test));
                tl_net_free(net);
                tl_dataset_free(train);
            }
            y[m][c] = mean(&s);
            bar[m][c] = spread(&s);
            printf("    %6.3f +- %5.3f", y[m][c], bar[m][c]);
            fflush(stdout);
        }
    }
    printf("\n\ntransfer (the better of frozen and fine-tuned) minus scratch:");
    for (int c = 0; c < used; c++) printf("  %d: %+.3f", counts[c], fmax(y[1][c], y[2][c]) - y[0][c]);
    printf("\n");
    plot_begin(&p, "task B", "labels", "accuracy", x, used);
    for (int m = 0; m < METHODS; m++) plot_curve(&p, names[m], x, y[m], bar[m], used);
    plot_save(&p, "10_transfer.png");
    tl_dataset_free(test);
    tl_net_free(learnt);
    return 0;
}
