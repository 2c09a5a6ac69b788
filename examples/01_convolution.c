// Convolution by hand: what a 3x3 kernel sees in a micrograph.
//
//     01_convolution [IMAGE [SHEET.png]]     default: synthetic grains, 01_convolution.png
//
// A convolution replaces every pixel by a weighted sum of its neighbours. A network learns the weights; here we write four
// famous sets of them by hand into a layer with one input and four output channels, and look at what comes out. (Like every
// framework, tinytl does not turn the kernel around first: strictly, this is cross-correlation.)

#define STB_IMAGE_IMPLEMENTATION
#include <stb/stb_image.h>
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image_write.h>
#define TINYTL_IMPLEMENTATION
#include "../tinytl.h"

#include <stdio.h>
#include <stdlib.h>

enum { LAPLACIAN, GAUSSIAN, HORIZONTAL, VERTICAL, KERNELS };

static const float kernels[KERNELS][3][3] = {
    { { 0, -1,  0 }, { -1, 4, -1 }, { 0, -1, 0 } },                                            // 0 where the image is flat
    { { 1/16.f, 2/16.f, 1/16.f }, { 2/16.f, 4/16.f, 2/16.f }, { 1/16.f, 2/16.f, 1/16.f } },    // sum 1: blur
    { { -1, -1, -1 }, { 0, 0, 0 }, { 1, 1, 1 } },                                              // below minus above
    { { -1, 0, 1 }, { -1, 0, 1 }, { -1, 0, 1 } },                                              // right minus left
};

static int fail(const char *what)
{
    fprintf(stderr, "01_convolution: %s\n", what);
    return 1;
}

// Copies one panel into the sheet: value v becomes the grey level offset + gain * v.
static void put(tl_image *sheet, int column, int row, const float *values, int stride, int width, int height, float offset, float gain)
{
    for (int y = 0; y < height; y++)
    for (int x = 0; x < width; x++) {
        float grey = 255 * (offset + gain * values[((size_t)y * width + x) * stride]);
        size_t at = (size_t)(row * (height + 4) + y) * sheet->width + column * (width + 4) + x;
        ((uint8_t *)sheet->pixels)[at] = (uint8_t)(grey < 0 ? 0 : grey > 255 ? 255 : grey + 0.5f);
    }
}

int main(int argc, char **argv)
{
    // The image: from a file, or grains as a microscope would see them; then one channel of floats between 0 and 1.
    tl_image raw = {0}, grey = {0}, image = {0}, sheet = {0};
    tl_grains_desc grains = { .seed = 4, .diameter = { 40, 40 }, .line = { 2, 2 }, .boundary = { -0.4f, -0.4f } };
    tl_result result = argc > 1 && *argv[1] ? tl_image_load(&raw, argv[1]) : tl_grains(&grains, 0, 0, NULL, NULL, &raw);
    if (!result) result = tl_image_channels(&grey, &raw, 1);
    if (!result) result = tl_image_convert(&image, &grey, TL_F32);
    if (result) return fail(tl_error(NULL));
    int w = image.width, h = image.height;

    // The network: an input and one convolution. `same` surrounds the image with zeros so that the output is as large.
    tl_net *net = tl_net_new(NULL);
    tl_node in = tl_input(net, h, w, 1);
    tl_node out = tl_conv2d(net, in, &(tl_conv2d_desc){ .name = "kernels", .out = KERNELS, .kernel = 3, .same = 1, .no_bias = 1 });
    if (tl_prepare(net, 1, 0)) return fail(tl_error(net));          // a batch of 1, no training

    // The weights, by name. In memory they are [row][column][input channel][output channel].
    tl_tensor weight = tl_param(net, "kernels.weight");
    for (int ky = 0; ky < 3; ky++)
    for (int kx = 0; kx < 3; kx++)
    for (int k = 0; k < KERNELS; k++) weight.data[(ky * 3 + kx) * KERNELS + k] = kernels[k][ky][kx];

    tl_set_input(net, in, tl_image_f32(&image), 1);
    if (tl_forward(net, 1, TL_EVAL)) return fail(tl_error(net));
    const float *y = tl_data(net, out);                             // height x width x KERNELS

    // The strength of an edge is the length of the gradient, whatever its direction.
    float *edge = malloc((size_t)w * h * sizeof *edge);
    if (!edge) return fail("no memory");
    for (size_t i = 0; i < (size_t)w * h; i++) edge[i] = hypotf(y[i * KERNELS + HORIZONTAL], y[i * KERNELS + VERTICAL]);

    // The sheet: image, blur, Laplacian | horizontal edges, vertical edges, edge strength. Signed values are grey at 0.
    if (tl_image_alloc(&sheet, 3 * w + 8, 2 * h + 4, 1, TL_U8)) return fail(tl_error(NULL));
    put(&sheet, 0, 0, tl_image_f32(&image), 1, w, h, 0, 1);
    put(&sheet, 1, 0, y + GAUSSIAN, KERNELS, w, h, 0, 1);
    put(&sheet, 2, 0, y + LAPLACIAN, KERNELS, w, h, 0.5f, 0.5f);
    put(&sheet, 0, 1, y + HORIZONTAL, KERNELS, w, h, 0.5f, 0.33f);
    put(&sheet, 1, 1, y + VERTICAL, KERNELS, w, h, 0.5f, 0.33f);
    put(&sheet, 2, 1, edge, 1, w, h, 0, 0.67f);
    const char *path = argc > 2 ? argv[2] : "01_convolution.png";
    if (tl_image_save(&sheet, path)) return fail(tl_error(NULL));
    printf("%s: image, Gaussian blur, Laplacian; horizontal edges, vertical edges, edge strength\n", path);

    // A sum of weights of 1 keeps the mean, a sum of 0 removes it; only away from the border, where there are no zeros around.
    double mean[KERNELS + 1] = {0};
    for (int j = 1; j < h - 1; j++)
    for (int i = 1; i < w - 1; i++) {
        size_t at = (size_t)j * w + i;
        mean[KERNELS] += tl_image_f32(&image)[at] / ((w - 2.0) * (h - 2.0));
        for (int k = 0; k < KERNELS; k++) mean[k] += y[at * KERNELS + k] / ((w - 2.0) * (h - 2.0));
    }
    printf("mean of the image %.4f, of the blur %.4f, of the Laplacian %.0e\n", mean[KERNELS], mean[GAUSSIAN], mean[LAPLACIAN]);

    free(edge);
    tl_image_free(&raw);
    tl_image_free(&grey);
    tl_image_free(&image);
    tl_image_free(&sheet);
    tl_net_free(net);
    return 0;
}
