// Photographs teach a network to see micrographs: classify images of your own with published weights.
//
//     14_micrographs DATA WEIGHTS [SEEDS [EPOCHS [SIZE]]]     default: 5 seeds, 0 epochs, pictures of 224 pixels
//
// DATA/images and DATA/specimens.csv with a label for each image. For each seed a third of the specimens of every label is
// set aside. Frozen: what a linear classifier makes of the features of each block of the network, from the first to the
// last. With EPOCHS above 0 also: head first, so many epochs, then everything as long (fine-tuned), and the same network from
// random weights for the time of both (scratch). Without arguments it says this and ends.

#define STB_IMAGE_IMPLEMENTATION
#include <stb/stb_image.h>
#include "experiment.h"

// Marks for each image whether it is set aside: a third of the specimens of its label, at least one.
static void split(const tl_dataset *data, const int *label, int classes, uint64_t seed, int *aside)
{
    int count = tl_dataset_count(data), *first = (int *)malloc((size_t)count * sizeof(int));
    for (int c = 0; c < classes; c++) {
        int specimens = 0;
        for (int i = 0; i < count; i++) {                     // the first image of each specimen of this label
            int seen = label[i] != c;
            for (int k = 0; k < i && !seen; k++)
                seen = label[k] == c && !strcmp(tl_dataset_specimen(data, k), tl_dataset_specimen(data, i));
            if (!seen) first[specimens++] = i;
        }
        tl_rng rng = tl_rng_at(seed, TL_RANDOM_USER, 0, (uint32_t)c, 0);
        tl_random_shuffle(&rng, first, specimens);
        int held = specimens / 3 > 1 ? specimens / 3 : 1;
        for (int i = 0; i < count; i++) {
            if (label[i] != c) continue;
            aside[i] = 0;
            for (int k = 0; k < held; k++) aside[i] |= !strcmp(tl_dataset_specimen(data, first[k]), tl_dataset_specimen(data, i));
        }
    }
    free(first);
}

// The network of the weights, for so many classes.
static tl_net *open_network(const char *weights, int classes, int size, uint64_t seed, tl_pretrained *info)
{
    tl_backbone_desc backbone = { .classes = classes, .size = size };
    tl_net *net = tl_open_pretrained(weights, &(tl_net_desc){ .seed = seed }, &backbone, info);
    if (!net) must(TL_ERR_FILE, NULL);
    return net;
}

// Accuracy of the whole network on `test` after learning from `train`, beginning with the weights or with random ones.
static double learn(const char *weights, int scratch, int classes, int size, const tl_dataset *train, const tl_dataset *test, int epochs,
                    uint64_t seed)
{
    static const tl_transform turns[] = { { .kind = TL_FLIP_X, .p = 0.5f }, { .kind = TL_FLIP_Y, .p = 0.5f }, { .kind = TL_ROT90 } };
    tl_recipe_stage tuned[2] = { { .train = "head", .lr = 1e-2f, .stats = TL_STATS_RUNNING, .epochs = epochs },
                                 { .rates = "all 5e-4, head 5e-3", .learn_stats = TL_STATS_RUNNING, .epochs = epochs } };
    tl_recipe_stage random[1] = { { .lr = 1e-3f, .epochs = 2 * epochs } };
    tl_pretrained info;
    tl_net *net = open_network(weights, classes, size, seed, &info);
    if (scratch) {
        tl_net_free(net);
        net = tl_net_new(&(tl_net_desc){ .seed = seed });
        tl_backbone(net, tl_input(net, size, size, 3),
                    &(tl_backbone_desc){ .name = info.architecture, .classes = classes, .stages = info.stages });
    }
    tl_loss(net, tl_last(net), &(tl_loss_desc){ .kind = TL_CROSS_ENTROPY });
    must(tl_finetune(net, &(tl_finetune_desc){ .train = train, .stages = scratch ? random : tuned, .stage_count = scratch ? 1 : 2,
                                               .batch = 16, .augment = turns, .augment_count = 3, .seed = seed }, NULL), net);
    double score = accuracy(net, test);
    tl_net_free(net);
    return score;
}

int main(int argc, char **argv)
{
    if (argc < 3) return puts("usage: 14_micrographs DATA WEIGHTS [SEEDS [EPOCHS [SIZE]]]") < 0;
    enum { BLOCKS = 32 };
    int seeds = argc > 3 ? atoi(argv[3]) : 5, epochs = argc > 4 ? atoi(argv[4]) : 0, size = argc > 5 ? atoi(argv[5]) : 224, blocks = 0;
    tl_dataset *data = tl_folder(argv[1], &(tl_folder_desc){ .no_masks = 1 });
    if (!data) must(TL_ERR_FILE, NULL);
    int count = tl_dataset_count(data), classes = tl_dataset_classes(data);
    int *label = (int *)malloc((size_t)count * sizeof(int)), *aside = (int *)malloc((size_t)count * sizeof(int));
    int *a = (int *)malloc((size_t)count * sizeof(int)), *b = (int *)malloc((size_t)count * sizeof(int));
    tl_net *net = open_network(argv[2], classes, size, 1, NULL);
    tl_record record = { 0 };
    for (int i = 0; i < count; i++) { must(tl_dataset_get(data, 0, i, &record), NULL); label[i] = record.label; }
    tl_record_free(&record);
    static sample frozen[BLOCKS], whole[2];
    static tl_block_score scores[BLOCKS];
    for (int seed = 1; seed <= seeds; seed++) {
        int n = 0, m = 0;
        split(data, label, classes, (uint64_t)seed, aside);
        for (int i = 0; i < count; i++) if (aside[i]) b[m++] = i; else a[n++] = i;
        tl_dataset *train = tl_subset(data, a, n), *test = tl_subset(data, b, m);
        blocks = tl_probe(net, train, test, 8, scores, BLOCKS);
        if (blocks < 0) must(TL_ERR_ARGUMENT, net);
        blocks = blocks < BLOCKS ? blocks : BLOCKS;
        for (int k = 0; k < blocks; k++) add(&frozen[k], scores[k].b);
        for (int k = 0; k < 2 && epochs; k++)
            add(&whole[k], learn(argv[2], k, classes, size, train, test, epochs, (uint64_t)seed));
        tl_dataset_free(train);
        tl_dataset_free(test);
    }
    printf("%s, %s: %d images, %d splits by specimen; accuracy on specimens set aside, mean and deviation\n", argv[1], argv[2], count, seeds);
    for (int k = 0; k + 1 < blocks; k++) printf("    frozen, up to %-14s %.3f +- %.3f\n", scores[k].name, mean(&frozen[k]), spread(&frozen[k]));
    for (int k = 0; k < 2 && epochs; k++) printf("    %-28s %.3f +- %.3f\n", k ? "scratch" : "fine-tuned", mean(&whole[k]), spread(&whole[k]));
    free(label); free(aside); free(a); free(b);
    tl_net_free(net);
    tl_dataset_free(data);
    return 0;
}
