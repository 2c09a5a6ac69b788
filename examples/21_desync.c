// The silent mistake: image and mask transformed apart.
//
//     21_desync [epochs]
//
// Three networks learn grain boundaries from the same synthetic images: without augmentation, with turns that move image and
// mask together, and with turns drawn twice, once for the image and once for the mask. Nothing warns in the third case: no
// error, the loss falls at first, and then the score stays where it is. tl_augment has no way to do this by accident, so
// here it takes two records and some effort.

#define TINYTL_IMPLEMENTATION
#include "../tinytl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIZE = 64, IMAGES = 64 };

static tl_dataset *grains;
static int apart;                       // 1: two draws
static const tl_transform turns[] = { { .kind = TL_ROT90 }, { .kind = TL_FLIP_X, .p = 0.5f } };

// The image with one draw, the mask with another, as two calls of an image library would do it.
static tl_result two_draws(void *user, uint32_t epoch, int index, tl_record *out)
{
    tl_record other, scratch;
    memset(&other, 0, sizeof other);
    memset(&scratch, 0, sizeof scratch);
    (void)user;
    tl_result result = tl_dataset_get(grains, 0, index, out);
    if (!result) result = tl_dataset_get(grains, 0, index, &other);
    if (!result) result = tl_augment(out, turns, 2, 1, epoch, (uint32_t)index, &scratch);
    if (!result) result = tl_augment(&other, turns, 2, 1 + (uint64_t)apart, epoch, (uint32_t)index, &scratch);
    if (!result) result = tl_image_copy(&out->mask, &other.mask);
    tl_record_free(&other);
    tl_record_free(&scratch);
    return result;
}

static int show(void *user, const tl_progress *p)
{
    double *score = user;
    if (p->epoch_done) *score = p->valid_score;
    if (p->epoch_done && (p->epoch % 5 == 0 || p->epoch == 1)) printf("   epoch %2d  loss %.3f  validation IoU %.3f\n", p->epoch, p->loss, p->valid_score);
    return 0;
}

// Trains and returns the IoU of the last epoch; below 0 after an error.
static double train(const tl_dataset *set, const tl_dataset *valid, int augment, int epochs)
{
    double score = -1;
    tl_net *net = tl_net_new(&(tl_net_desc){ .seed = 2 });
    tl_node y = tl_unet(net, tl_input(net, SIZE, SIZE, 1), &(tl_unet_desc){ .classes = 2, .width = 8, .depth = 2 });
    tl_loss(net, y, &(tl_loss_desc){ .kind = TL_CROSS_ENTROPY });
    tl_loss(net, y, &(tl_loss_desc){ .kind = TL_DICE });
    tl_fit_desc fit = { .train = set, .valid = valid, .epochs = epochs, .batch = 8, .augment = turns, .augment_count = augment ? 2 : 0,
                        .optimizer = { .kind = TL_ADAMW, .lr = 3e-3f }, .progress = show, .user = &score };
    if (tl_fit(net, &fit, NULL)) fprintf(stderr, "%s\n", tl_error(net));
    tl_net_free(net);
    return score;
}

int main(int argc, char **argv)
{
    int epochs = argc > 1 ? atoi(argv[1]) : 20;
    tl_grains_desc desc = { .width = SIZE, .height = SIZE, .count = IMAGES, .seed = 1, .diameter = { 18, 30 }, .line = { 2, 3 } };
    grains = tl_grains_stream(&desc);
    desc.seed = 99;
    desc.count = 24;
    tl_dataset *valid = tl_grains_stream(&desc), *pairs = tl_dataset_from(IMAGES, two_draws, NULL);
    static const char *const ways[] = { "one draw for image and mask (tl_augment)", "the same by hand, one seed", "two draws" };
    double score[3];
    for (int way = 0; way < 3 && grains && valid && pairs; way++) {
        printf("%s\n", ways[way]);
        apart = way == 2;
        score[way] = train(way == 0 ? grains : pairs, valid, way == 0, epochs);
        if (score[way] < 0) return 1;
    }
    printf("\nIoU on images never seen: together %.3f, by hand %.3f, apart %.3f\n", score[0], score[1], score[2]);
    printf("The symptom of the third is a plateau and nothing else. Look at a few augmented pairs before training:\n"
           "    tinytl augment DATA --out sheet\n");
    tl_dataset_free(pairs);
    tl_dataset_free(valid);
    tl_dataset_free(grains);
    return 0;
}
