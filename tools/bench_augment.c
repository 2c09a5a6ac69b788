// What tools/bench_augment.py times of tinytl: it builds this file as a shared library.
//
// As a program it times pipelines as training runs them, from 8 bits in memory to windows of SIZE pixels and their masks in a batch,
// and prints images per second of one thread for each:
//
//     cc -O2 tools/bench_augment.c -o bench_augment -lm -pthread && ./bench_augment WIDTH HEIGHT SIZE PIPELINE...

#define TINYTL_IMPLEMENTATION
#include "../tinytl.h"

static tl_record source, record, scratch;
static tl_transform list[32];
static int count;

// An 8-bit image with a mask, and a pipeline. Returns 0, or 1 after printing why not.
int bench_prepare(const char *text, const unsigned char *image, const unsigned char *mask, int width, int height, int channels);
int bench_prepare(const char *text, const unsigned char *image, const unsigned char *mask, int width, int height, int channels)
{
    count = tl_transforms_parse(text, list, 32);
    if (count < 0 || tl_image_alloc(&source.image, width, height, channels, TL_U8) || tl_image_alloc(&source.mask, width, height, 1, TL_U8)) {
        fprintf(stderr, "%s\n", tl_error(NULL));
        return 1;
    }
    memcpy(source.image.pixels, image, (size_t)width * (size_t)height * (size_t)channels);
    memcpy(source.mask.pixels, mask, (size_t)width * (size_t)height);
    return 0;
}

// Augments copies of it, as samples first .. first+images-1.
int bench_run(int first, int images);
int bench_run(int first, int images)
{
    for (int i = 0; i < images; i++)
        if (tl_record_copy(&record, &source) || tl_augment(&record, list, count, 1, 0, (uint32_t)(first + i), &scratch)) {
            fprintf(stderr, "%s\n", tl_error(NULL));
            return 1;
        }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "bench_augment WIDTH HEIGHT SIZE PIPELINE...\n");
        return 2;
    }
    int width = atoi(argv[1]), height = atoi(argv[2]), size = atoi(argv[3]);
    tl_grains_desc grains = { .width = width, .height = height, .seed = 5, .count = 4 };
    tl_dataset *stream = tl_grains_stream(&grains);
    tl_dataset *data = stream ? tl_cached(stream, NULL, 0, 0, 1) : NULL;
    tl_net *net = tl_net_new(NULL);
    tl_node y = tl_conv2d(net, tl_input(net, size, size, 1), &(tl_conv2d_desc){ .out = 2, .kernel = 1 });
    tl_loss(net, y, &(tl_loss_desc){ .kind = TL_CROSS_ENTROPY });
    tl_set_preprocess(net, &(tl_preprocess){ .scaling = TL_SCALE_FULL });
    for (int i = 0; data && i < tl_dataset_count(data); i++)
        tl_image_convert(&data->records[i].image, &data->records[i].image, TL_U8);
    for (int i = 4; data && i < argc; i++) {
        int order[4] = { 0, 1, 2, 3 };
        tl_fit_desc desc = { .augment = list, .augment_count = tl_transforms_parse(argv[i], list, 32), .seed = 7 };
        tl__fit fit = { .net = net, .desc = &desc, .input = tl__only_input(net), .count = 4, .order = order, .batch = 1 };
        fit.batch_ahead.data = data;
        tl_result result = desc.augment_count < 0 || !tl__make_slots(&fit) ? TL_ERR_ARGUMENT : TL_OK;
        clock_t begin = clock();
        for (; !result && clock() - begin < CLOCKS_PER_SEC; fit.batch_ahead.epoch++)
            for (int k = 0; k < 4 && !result; k++) result = tl__fill_slot(&fit, fit.slots, k);
        if (result) fprintf(stderr, "%s\n", tl_error(NULL));
        else printf("%8.0f  %s\n", 4 * fit.batch_ahead.epoch * (double)CLOCKS_PER_SEC / (double)(clock() - begin), argv[i]);
        fit.order = NULL;
        tl__free_fit(&fit);
    }
    if (!data) fprintf(stderr, "%s\n", tl_error(NULL));
    tl_net_free(net);
    tl_dataset_free(data);
    tl_dataset_free(stream);
    return data == NULL;
}
