// Learn grain boundaries from synthetic grains, then find them in a micrograph.
//
//     03_grains [EPOCHS [IMAGE]]     default: 12 epochs, about a minute; a synthetic image that training has not seen
//
// Nobody labels anything here: the program makes polycrystals, so it knows every boundary, and renders them as a microscope might
// show them, with other grey levels, line widths, scratches, blur and noise in each image. A U-Net that has seen all of that has
// a fair chance on a real image. The result is 03_grains.png: the image, and the same with the boundaries in red.

#define STB_IMAGE_IMPLEMENTATION
#include <stb/stb_image.h>
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image_write.h>
#define TINYTL_IMPLEMENTATION
#include "../tinytl.h"

#include <stdio.h>
#include <stdlib.h>

static int fail(const tl_net *net)
{
    fprintf(stderr, "03_grains: %s\n", tl_error(net));
    return 1;
}

static int report(void *user, const tl_progress *p)
{
    (void)user;
    if (p->epoch_done) {
        printf("epoch %2d/%d  loss %.3f  on other grains: loss %.3f, IoU %.3f  %.0f images/s, %.0f s left\n", p->epoch, p->epochs,
               p->loss, p->valid_loss, p->valid_score, p->images_per_second, p->seconds_left);
        fflush(stdout);
    }
    return 0;                                              // anything else would stop the training
}

// Image and overlay side by side.
static tl_result save_overlay(const tl_image *image, const tl_image *mask, const char *path)
{
    tl_image bytes = {0}, rgb = {0}, sheet = {0};
    tl_result result = tl_image_convert(&bytes, image, TL_U8);
    if (!result) result = tl_image_channels(&rgb, &bytes, 3);
    if (!result) result = tl_image_alloc(&sheet, 2 * image->width, image->height, 3, TL_U8);
    for (int y = 0; y < image->height && !result; y++)
    for (int x = 0; x < image->width; x++) {
        size_t at = (size_t)y * image->width + x, left = (size_t)y * sheet.width + x, right = left + image->width;
        const uint8_t *from = (const uint8_t *)rgb.pixels + 3 * at;
        int boundary = ((const uint8_t *)mask->pixels)[at];
        for (int c = 0; c < 3; c++) {
            ((uint8_t *)sheet.pixels)[3 * left + c] = from[c];
            ((uint8_t *)sheet.pixels)[3 * right + c] = boundary ? (uint8_t)((from[c] + (c == 0 ? 510 : 0)) / 3) : from[c];
        }
    }
    if (!result) result = tl_image_save(&sheet, path);
    tl_image_free(&bytes);
    tl_image_free(&rgb);
    tl_image_free(&sheet);
    return result;
}

int main(int argc, char **argv)
{
    int epochs = argc > 1 ? atoi(argv[1]) : 12;

    // The network: a small U-Net with two classes, grain and boundary. Two losses are added: cross-entropy looks at each pixel for
    // itself, Dice at the overlap of whole masks, which matters because boundary pixels are few.
    tl_net *net = tl_net_new(&(tl_net_desc){ .seed = 1 });
    tl_node x = tl_input(net, 128, 128, 1);                // height, width, channels
    tl_node y = tl_unet(net, x, &(tl_unet_desc){ .classes = 2, .width = 8, .depth = 3 });
    tl_loss(net, y, &(tl_loss_desc){ .kind = TL_CROSS_ENTROPY });
    tl_loss(net, y, &(tl_loss_desc){ .kind = TL_DICE });

    // The data: new grains in every epoch to learn from, and some of another seed to see whether it learns.
    tl_dataset *train = tl_grains_stream(&(tl_grains_desc){ .width = 128, .height = 128, .count = 240, .seed = 1 });
    tl_dataset *valid = tl_grains_stream(&(tl_grains_desc){ .width = 128, .height = 128, .count = 24, .seed = 2 });
    if (!train || !valid) return fail(NULL);

    tl_fit_report summary;
    tl_result result = tl_fit(net, &(tl_fit_desc){
        .train = train, .valid = valid, .epochs = epochs, .batch = 8, .patience = 5, .seed = 1, .progress = report,
        .optimizer = { .kind = TL_ADAMW, .lr = 3e-3f, .schedule = { .kind = TL_WARMUP_COSINE, .warmup = 20 } },
    }, &summary);
    if (result) return fail(net);
    printf("best epoch %d, %.0f s\n", summary.best_epoch, summary.seconds);

    // The image: of any size. tl_segment scales it as in training and cuts it into tiles where it is too large for the memory.
    tl_image image = {0}, truth = {0}, mask = {0};
    if (argc > 2) result = tl_image_load(&image, argv[2]);
    else result = tl_grains(&(tl_grains_desc){ .width = 400, .height = 300, .seed = 3 }, 0, 0, NULL, &truth, &image);
    if (result || tl_segment(net, &image, NULL, &mask)) return fail(NULL);

    if (truth.pixels) {
        tl_score score;
        if (tl_compare_masks(&mask, &truth, 3, &score)) return fail(NULL);
        printf("unseen image: IoU %.3f, Dice %.3f, boundary F1 within 3 px %.3f\n", score.iou, score.dice, score.boundary_f1);
    }
    if (save_overlay(&image, &mask, "03_grains.png")) return fail(NULL);
    if (tl_save(net, "03_grains.safetensors")) return fail(net);
    printf("wrote 03_grains.png and the model 03_grains.safetensors\n");

    tl_image_free(&image);
    tl_image_free(&truth);
    tl_image_free(&mask);
    tl_dataset_free(train);
    tl_dataset_free(valid);
    tl_net_free(net);
    return 0;
}
