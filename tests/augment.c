// Augmentation: every transform moves the whole record alike, equals its definition in double precision, has the statistics it
// claims; text and back; the gate's verdicts; mixing, views, replay.

#include "check.h"
#include "temporary.h"

// A pipeline of one to sixteen transforms from its text.
static tl_transform parsed[16];
static int listed;
static const tl_transform *pipeline(const char *text)
{
    listed = tl_transforms_parse(text, parsed, 16);
    CHECK(listed >= 0, "'%s': %s", text, tl_error(NULL));
    return parsed;
}

// ---- the coordinate ramp -------------------------------------------------------------------
//
// The image says at each pixel where it was: channel 0 is x, channel 1 is y, both over 128 (2 and 3 twice as fine, modulo). The
// mask, the weights, boxes, keypoints and angles say it too, each in its own way.

enum { SCALE = 128, POINTS = 9 };

static uint8_t code_at(int x, int y) { return (uint8_t)((x * 7 + y * 113) % 251); }

static void coded_record(tl_record *r, int width, int height)
{
    CHECK(!tl_image_alloc(&r->image, width, height, 2, TL_F32) && !tl_image_alloc(&r->mask, width, height, 1, TL_U8) &&
          !tl_image_alloc(&r->weight, width, height, 1, TL_F32) && !tl_image_alloc(&r->angles, width, height, 1, TL_F32),
          "%s", tl_error(NULL));
    for (int y = 0; y < height; y++)
    for (int x = 0; x < width; x++) {
        int i = y * width + x;
        ((float *)r->image.pixels)[2 * i] = (float)x / SCALE;
        ((float *)r->image.pixels)[2 * i + 1] = (float)y / SCALE;
        ((uint8_t *)r->mask.pixels)[i] = code_at(x, y);
        ((float *)r->weight.pixels)[i] = (float)(y * 1000 + x + 1);
        ((float *)r->angles.pixels)[i] = 30;
    }
    tl_keypoint *k = tl_record_keypoints(r, POINTS);
    tl_box *b = tl_record_boxes(r, POINTS);
    for (int i = 0; i < POINTS && k && b; i++) {
        k[i].x = (float)(i % 3) * 0.5f * (float)(width - 1);
        k[i].y = (float)(i / 3) * 0.5f * (float)(height - 1);
        k[i].label = i;
        b[i].x0 = fmaxf(k[i].x - 1.25f, -0.5f);
        b[i].x1 = fminf(k[i].x + 1.75f, (float)width - 0.5f);
        b[i].y0 = fmaxf(k[i].y - 0.5f, -0.5f);
        b[i].y1 = fminf(k[i].y + 2.5f, (float)height - 0.5f);
        b[i].label = i;
    }
    r->label = 3;
    r->value = 5;
    r->value_kind = TL_VALUE_FIXED;
    r->mix = 0;
}

// Where the ramp's image says that pixel (x, y) came from.
static double came_from(const tl_record *r, int x, int y, int c) { return SCALE * tl_image_get(&r->image, x, y, c); }

// All parts tell the same story. Pixels near the source's edge mix with their reflection and are left out of the exact comparison;
// `margin` is how near. Each resampling rounds the mask once more.
static void check_together(const char *what, const tl_record *r, int width, int height, double margin, int passes)
{
    int w = r->image.width, h = r->image.height, wrong = 0, checked = 0;
    double limit = 0.501 + 0.71 * (passes - 1);                            // a later rounding may lie askew
    CHECK(r->mask.width == w && r->mask.height == h && r->weight.width == w && r->angles.height == h && r->label == 3,
          "%s: sizes differ", what);
    for (int y = 0; y < h; y++)
    for (int x = 0; x < w; x++) {
        double sx = came_from(r, x, y, 0), sy = came_from(r, x, y, 1);
        float weight = ((const float *)r->weight.pixels)[y * w + x];
        uint8_t mask = ((const uint8_t *)r->mask.pixels)[y * w + x];
        if (mask == TL_IGNORE || weight == 0) {
            wrong += mask != TL_IGNORE || weight != 0;
            continue;
        }
        int mx = ((int)weight - 1) % 1000, my = ((int)weight - 1) / 1000;
        wrong += mask != code_at(mx, my);                                     // mask and weights: the same pixel
        if (margin > 0 && (mx < margin || my < margin || mx > width - 1 - margin || my > height - 1 - margin)) continue;
        wrong += fabs(sx - mx) > limit || fabs(sy - my) > limit;          // the image: half a pixel from it
        checked++;
    }
    CHECK(wrong == 0, "%s on %dx%d: %d pixels of the parts disagree", what, width, height, wrong);
    CHECK(checked > 0 || width < 8 || height < 8, "%s on %dx%d: nothing to compare", what, width, height);
    // keypoints: the image there says where they were
    for (int i = 0; i < r->keypoint_count; i++) {
        const tl_keypoint *k = &r->keypoints[i];
        int x = (int)floorf(k->x), y = (int)floorf(k->y);
        double ox = (k->label % 3) * 0.5 * (width - 1), oy = (k->label / 3) * 0.5 * (height - 1);
        if (k->hidden || x < 0 || y < 0 || x + 1 >= w || y + 1 >= h) continue;
        double got[2], u = (double)k->x - x, v = (double)k->y - y, least = 1e9, most = -1e9;
        for (int c = 0; c < 2; c++) {
            double p[4];
            for (int j = 0; j < 4; j++) {
                p[j] = came_from(r, x + (j & 1), y + (j >> 1), c);
                least = fmin(least, p[j] - (c ? oy : ox));
                most = fmax(most, p[j] - (c ? oy : ox));
            }
            got[c] = (1 - v) * ((1 - u) * p[0] + u * p[1]) + v * ((1 - u) * p[2] + u * p[3]);
        }
        if (most - least > 12) continue;                                   // folded or reflected there
        if (ox < margin || oy < margin || ox > width - 1 - margin || oy > height - 1 - margin) continue;
        CHECK(fabs(got[0] - ox) < 0.25 && fabs(got[1] - oy) < 0.25, "%s on %dx%d: keypoint %d is at a pixel from (%.2f, %.2f), "
              "but was at (%.2f, %.2f)", what, width, height, k->label, got[0], got[1], ox, oy);
    }
    // boxes hold their keypoint
    for (int i = 0; i < r->box_count; i++) {
        const tl_box *b = &r->boxes[i];
        const tl_keypoint *k = &r->keypoints[i];
        if (b->hidden || k->hidden) continue;
        CHECK(k->x >= b->x0 - 0.26f && k->x <= b->x1 + 0.26f && k->y >= b->y0 - 0.26f && k->y <= b->y1 + 0.26f,
              "%s on %dx%d: box %d lost its point", what, width, height, i);
        CHECK(b->x0 >= -0.5f && b->y0 >= -0.5f && b->x1 <= (float)w - 0.5f && b->y1 <= (float)h - 0.5f, "%s: box %d outside", what, i);
    }
}

static const struct { const char *text; double margin; int passes; } geometry[] = {   // passes: resamplings
    { "flip_x", 0, 1 }, { "flip_y", 0, 1 }, { "rot90", 0, 1 }, { "crop width=%1 height=%2", 0, 1 }, { "pad width=40 height=70", 1, 1 },
    { "pad width=40 height=70 border=constant", 1, 1 }, { "pad width=40 height=70 border=wrap ignore=1", 1, 1 },
    { "resized_crop width=24 height=31", 1, 1 }, { "rotate degrees=-180..180", 1, 1 }, { "rotate degrees=37 border=wrap", 1, 1 },
    { "rotate degrees=37 border=constant fill=0.5", 1, 1 }, { "rotate degrees=20 ignore=1", 1, 1 }, { "rotate degrees=-70 bicubic=1", 2, 1 },
    { "scale factor=0.5..2", 1, 1 }, { "shear degrees=-20..20", 1, 1 }, { "shift pixels=-7.5..7.5", 1, 1 },
    { "affine degrees=-30..30 scale=0.8..1.2 shear=-10..10 shift=-5..5", 1, 1 }, { "perspective inward=0..0.2", 1, 1 },
    { "elastic alpha=50 sigma=5", 1, 1 }, { "drift way=-4..4", 1, 1 }, { "scan sigma=0.3", 1, 1 },
    { "flip_x; rotate degrees=30; scale factor=1.3; crop width=%1 height=%2; rot90", 1, 1 },
    { "rot90; elastic alpha=40 sigma=6; flip_y; shift pixels=2.5; rotate degrees=15", 1, 1 },
    { "elastic alpha=10 sigma=4; elastic alpha=15 sigma=5; perspective inward=0.1", 1, 2 },
    { "rotate degrees=10; brightness shift=0.00001; rotate degrees=-10", 2, 2 }
};

static void fill_in(const char *text, int w, int h, char *out)
{
    for (; *text; text++) {
        if (*text != '%') { *out++ = *text; continue; }
        out += sprintf(out, "%d", *++text == '1' ? (w + 1) / 2 : (h + 1) / 2);
    }
    *out = 0;
}

static void test_together(void)
{
    static const int sizes[][2] = { { 33, 57 }, { 64, 64 }, { 1, 1 }, { 17, 1 }, { 1, 17 } };
    tl_record r, scratch;
    memset(&r, 0, sizeof r);
    memset(&scratch, 0, sizeof scratch);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
    for (size_t i = 0; i < sizeof geometry / sizeof *geometry; i++) {
        char text[200];
        fill_in(geometry[i].text, sizes[s][0], sizes[s][1], text);
        pipeline(text);
        for (uint32_t sample = 0; sample < 12; sample++) {
            coded_record(&r, sizes[s][0], sizes[s][1]);
            tl_result result = tl_augment(&r, parsed, listed, 7, 1, sample, &scratch);
            CHECK(result == TL_OK, "%s: %s", text, tl_error(NULL));
            if (result == TL_OK) check_together(text, &r, sizes[s][0], sizes[s][1], geometry[i].margin, geometry[i].passes);
        }
    }
    tl_record_free(&r);
    tl_record_free(&scratch);
}

// ---- windows: only what is needed is computed ----------------------------------------------

// How many pixels of the window differ from the same place of the whole. Image and angles may differ by rounding; where a nearest
// pixel was chosen, rounding may choose its neighbour, the same for mask and weights (`exact`: not even that).
static int differing(const tl_record *whole, const tl_record *window, tl__rect at, int exact)
{
    int wrong = 0, w = window->image.width;
    for (int y = 0; y < window->image.height; y++)
    for (int x = 0; x < w; x++) {
        size_t i = (size_t)(y * w + x), j = (size_t)((y + at.y0) * whole->image.width + x + at.x0);
        float a = ((float *)whole->weight.pixels)[j], b = ((float *)window->weight.pixels)[i];
        float angle = ((float *)whole->angles.pixels)[j], other = ((float *)window->angles.pixels)[i];
        int near_by = a == b || (!exact && a > 0 && b > 0 && abs(((int)a - 1) % 1000 - ((int)b - 1) % 1000) <= 1 &&
                                 abs(((int)a - 1) / 1000 - ((int)b - 1) / 1000) <= 1);
        uint8_t mask = ((uint8_t *)whole->mask.pixels)[j];
        wrong += !near_by;
        if (a == b) wrong += ((uint8_t *)window->mask.pixels)[i] != mask || isnan(angle) != isnan(other) ||
                             fabs(sin((double)(angle - other) * 0.00872664626)) > 1e-3;
        for (size_t c = 0; c < 2; c++)
            wrong += fabs((double)((float *)whole->image.pixels)[2 * j + c] - (double)((float *)window->image.pixels)[2 * i + c]) >
                     (exact ? 0 : 2e-5);
    }
    return wrong;
}

// Each pipeline on the whole image, then cut, and on a window alone: the same pixels, points and boxes.
static void test_windows(void)
{
    static const char *const more[] = {
        "", "flip_x; rot90", "rot90; brightness shift=-0.1; flip_y; crop width=23 height=20", "rotate degrees=25; blur sigma=1.2; rotate degrees=-70",
        "motion_blur length=5 angle=30; scale factor=1.7", "defocus radius=2; elastic alpha=60 sigma=5; invert; drift way=-4..4; scan sigma=1",
        "gamma; perspective inward=0..0.2; blur sigma=1 kernel=5; shear degrees=15", "erase count=3 area=0.1 ignore=1; rotate degrees=40",
        "vignette; contamination; scratches; charging count=9; info_bar height=0.3", "rotate degrees=33 border=wrap; brightness shift=-0.1; shift pixels=5.25",
        "rotate degrees=33 border=constant fill=0.5; invert; affine degrees=20 scale=0.7 border=constant ignore=1", "pad width=90 height=80 ignore=1; gamma; flip_x",
        "scale factor=0.4; invert; rotate degrees=12 bicubic=1", "resized_crop width=30 height=30; blur sigma=0.8; rot90; elastic alpha=20 sigma=4"
    };
    static const int sizes[][2] = { { 61, 47 }, { 24, 70 } };
    enum { TABLE = sizeof geometry / sizeof *geometry, MORE = sizeof more / sizeof *more };
    tl_record whole, window, scratch;
    memset(&whole, 0, sizeof whole);
    memset(&window, 0, sizeof window);
    memset(&scratch, 0, sizeof scratch);
    size_t computed = 0, possible = 0;
    for (int s = 0; s < 2; s++)
    for (int i = 0; i < TABLE + MORE; i++) {
        char text[300];
        fill_in(i < TABLE ? geometry[i].text : more[i - TABLE], sizes[s][0], sizes[s][1], text);
        pipeline(text);
        int exact = i < 4 || (i >= TABLE && i < TABLE + 3);               // whole pixels
        for (uint32_t sample = 0; sample < 10; sample++) {
            coded_record(&whole, sizes[s][0], sizes[s][1]);
            CHECK(!tl_augment(&whole, parsed, listed, 11, 2, sample, &scratch), "%s: %s", text, tl_error(NULL));
            tl_rng rng = tl_rng_at(5, TL_RANDOM_USER, 0, sample, (uint32_t)i);
            int w = 1 + (int)tl_random_below(&rng, (uint32_t)tl__min(20, whole.image.width));
            int h = 1 + (int)tl_random_below(&rng, (uint32_t)tl__min(20, whole.image.height));
            int x0 = (int)tl_random_below(&rng, (uint32_t)(whole.image.width - w + 1)), y0 = (int)tl_random_below(&rng, (uint32_t)(whole.image.height - h + 1));
            coded_record(&window, sizes[s][0], sizes[s][1]);
            tl__job job;
            memset(&job, 0, sizeof job);
            job.record = &window;
            job.scratch = &scratch;
            job.transforms = parsed;
            job.seed = 11;
            job.epoch = 2;
            job.index = (int)sample;
            job.wanted.x0 = x0;
            job.wanted.y0 = y0;
            job.wanted.x1 = x0 + w;
            job.wanted.y1 = y0 + h;
            CHECK(!tl__augment(&job, listed), "%s: %s", text, tl_error(NULL));
            CHECK(window.image.width == w && window.image.height == h && window.mask.width == w && window.angles.height == h, "%s: %dx%d", text,
                  window.image.width, window.image.height);
            computed += (size_t)(job.part.x1 - job.part.x0) * (size_t)(job.part.y1 - job.part.y0);
            possible += (size_t)whole.image.width * (size_t)whole.image.height;
            int wrong = differing(&whole, &window, job.wanted, exact);
            CHECK(wrong == 0, "%s on %dx%d, sample %u: %d values of the window %dx%d at (%d, %d) differ", text, sizes[s][0], sizes[s][1], sample, wrong, w, h, x0, y0);
            for (int k = 0; k < POINTS; k++) {
                const tl_keypoint *a = &whole.keypoints[k], *b = &window.keypoints[k];
                double x = (double)a->x - x0, y = (double)a->y - y0;
                int inside = !a->hidden && x > -0.49 && y > -0.49 && x < w - 0.51 && y < h - 0.51, outside = a->hidden || x < -0.51 || y < -0.51 || x > w - 0.49 || y > h - 0.49;
                CHECK(inside ? !b->hidden && fabs((double)b->x - x) < 0.01 && fabs((double)b->y - y) < 0.01 : !outside || b->hidden, "%s: keypoint %d at (%g, %g), not (%g, %g)", text, k, (double)b->x, (double)b->y, x, y);
            }
        }
    }
    CHECK(computed * 3 < possible, "%zu of %zu pixels were computed for windows of a tenth", computed, possible);
    tl_record_free(&whole);
    tl_record_free(&window);
    tl_record_free(&scratch);
}

// Textured squares of 8 bits; with a range, as training would make of them.
static tl_result make_textured(void *user, uint32_t epoch, int index, tl_record *out)
{
    enum { SIZE = 46 };
    (void)epoch;
    if (tl_image_alloc(&out->image, SIZE, SIZE, 1, TL_U8) || tl_image_alloc(&out->mask, SIZE, SIZE, 1, TL_U8)) return TL_ERR_MEMORY;
    for (int i = 0; i < SIZE * SIZE; i++) {
        int x = i % SIZE, y = i / SIZE;
        ((uint8_t *)out->image.pixels)[i] = (uint8_t)(40 + (x * (5 + index) + y * 3 + (x * y) % 7) % 180);
        ((uint8_t *)out->mask.pixels)[i] = (uint8_t)((x / 9 + y / 7 + index) % 3);
    }
    if (!user) return TL_OK;
    tl_result result = tl_image_convert(&out->image, &out->image, TL_F32);
    return result ? result : tl__apply_range((const tl_preprocess *)user, &out->image);
}

// What a batch is filled with is the window of the augmented image that the draw of the crop names, image and mask.
static void test_epoch_batches(void)
{
    enum { H = 16, W = 20, COUNT_OF = 5 };
    static const char *const texts[] = { "", "rot90; rotate degrees=-20..20 p=0.7; brightness shift=-0.1..0.1; blur sigma=0.5..1; flip_x p=0.5",
                                         "rot90; gamma; cutmix p=0.6; elastic alpha=30 sigma=5 p=0.5", "flip_y p=0.5; mixup p=0.7; rotate degrees=-30..30" };
    tl_preprocess ways[2];
    memset(ways, 0, sizeof ways);
    ways[0].scaling = ways[1].scaling = TL_SCALE_FULL;
    ways[1].range = TL_RANGE_IMAGE;
    for (int way = 0; way < 4; way++) {                                    // made each time and kept in memory, without and with a range
        const tl_preprocess *p = &ways[way / 2];
        tl_dataset *made = tl_dataset_from(COUNT_OF, make_textured, NULL), *plain = tl_dataset_from(COUNT_OF, make_textured, way / 2 ? (void *)(size_t)p : NULL);
        tl_dataset *data = way % 2 ? tl_cached(made, NULL, 0, 0, 1) : made;
        tl_net_desc desc;
        memset(&desc, 0, sizeof desc);
        tl_net *net = tl_net_new(&desc);
        tl_node y = tl_conv2d(net, tl_input(net, H, W, 1), &(tl_conv2d_desc){ .out = 3, .kernel = 1 });
        tl_loss(net, y, &(tl_loss_desc){ .kind = TL_CROSS_ENTROPY, .dense = 1 });
        CHECK(data && !tl_set_preprocess(net, p), "%s", tl_error(net));
        tl_fit_desc fit_desc;
        tl__fit fit;
        int order[COUNT_OF] = { 0, 1, 2, 3, 4 };
        memset(&fit_desc, 0, sizeof fit_desc);
        memset(&fit, 0, sizeof fit);
        fit_desc.seed = 21;
        fit.net = net;
        fit.desc = &fit_desc;
        fit.input = tl__only_input(net);
        fit.count = COUNT_OF;
        fit.order = order;
        fit.batch = 1;
        fit.batch_ahead.data = data;
        CHECK(tl__make_slots(&fit), "no slots");
        tl_record r, scratch;
        memset(&r, 0, sizeof r);
        memset(&scratch, 0, sizeof scratch);
        for (size_t k = 0; k < sizeof texts / sizeof *texts; k++)
        for (uint32_t sample = 0; sample < 40; sample++) {
            int index = (int)sample % COUNT_OF;
            fit_desc.augment = pipeline(texts[k]);
            fit_desc.augment_count = listed;
            fit.batch_ahead.epoch = sample;
            CHECK(!tl__fill_slot(&fit, fit.slots, index), "%s: %s", texts[k], tl_error(NULL));
            CHECK(!tl_augment_from(plain, parsed, listed, 21, sample, index, &r, &scratch), "%s: %s", texts[k], tl_error(NULL));
            tl_rng rng = tl_rng_at(21, TL_RANDOM_CROP, sample, (uint32_t)index, 0);
            int x0 = (int)tl_random_below(&rng, (uint32_t)(r.image.width - W + 1)), y0 = (int)tl_random_below(&rng, (uint32_t)(r.image.height - H + 1));
            const tl_real *input = (const tl_real *)(void *)fit.slots->staged, *target = input + H * W;
            int wrong = 0, moved = 0;
            for (int i = 0; i < H * W; i++) {
                size_t at = (size_t)((y0 + i / W) * r.image.width + x0 + i % W);
                wrong += fabs((double)input[i] - (double)((float *)r.image.pixels)[at]) > 3e-5;
                for (int c = 0; c < 3; c++) {
                    double share = r.mix_mask.pixels ? r.mix : 0, want = (1 - share) * (((uint8_t *)r.mask.pixels)[at] == c);
                    if (share > 0) want += share * (((uint8_t *)r.mix_mask.pixels)[at] == c);
                    moved += fabs((double)target[3 * i + c] - want) > 1e-6;
                }
            }
            CHECK(wrong == 0 && moved <= 4, "way %d, '%s', sample %u: %d pixels and %d classes differ", way, texts[k], sample, wrong, moved);
        }
        tl_record_free(&r);
        tl_record_free(&scratch);
        fit.order = NULL;
        tl__free_fit(&fit);
        tl_net_free(net);
        if (data != made) tl_dataset_free(data);
        tl_dataset_free(made);
        tl_dataset_free(plain);
    }
}

// ---- the gate ------------------------------------------------------------------------------

static int verdict(const char *text, const char *physics)
{
    tl_physics facts;
    CHECK(tl_physics_named(physics, &facts), "no physics '%s'", physics);
    pipeline(text);
    return (int)tl_judge(parsed, &facts).verdict;
}

static void test_gate(void)
{
    static const struct { const char *transform, *physics; int want; } table[] = {
        // the laser weld, S0-19 and S2-15
        { "flip_x", "weld", TL_LEGAL }, { "flip_y", "weld", TL_ILLEGAL }, { "rot90", "weld", TL_ILLEGAL },
        { "brightness shift=-0.2..0.2", "weld", TL_LEGAL }, { "gauss_noise_grey variance=10..50", "weld", TL_LEGAL },
        // the four panels, S2-13
        { "rotate degrees=-180..180", "ebsd", TL_ILLEGAL }, { "flip_y", "solidification", TL_ILLEGAL },
        { "brightness shift=-0.2..0.2", "eels", TL_ILLEGAL }, { "rot90", "equiaxed", TL_LEGAL }, { "flip_x", "equiaxed", TL_LEGAL },
        { "flip_y", "equiaxed", TL_LEGAL }, { "brightness shift=0.1", "equiaxed", TL_LEGAL }, { "poisson electrons=50", "equiaxed", TL_LEGAL },
        // rules of S0-12, S2-11 .. 13, S3-19
        { "rotate degrees=-10..10", "rolled", TL_ILLEGAL }, { "flip_x", "rolled", TL_LEGAL }, { "flip_x", "chiral", TL_ILLEGAL },
        { "rot90", "chiral", TL_LEGAL }, { "rot90", "shadow", TL_ILLEGAL }, { "elastic alpha=50 sigma=5", "network", TL_ILLEGAL },
        { "elastic alpha=50 sigma=5", "grain_size", TL_ILLEGAL }, { "scale factor=0.8..1.2", "grain_size", TL_LEGAL_WITH_LABEL },
        { "crop width=9 height=9", "grain_size", TL_LEGAL }, { "rot90", "euler", TL_LEGAL_WITH_LABEL }, { "flip_y", "sediment", TL_ILLEGAL },
        { "flip_y", "hardened", TL_ILLEGAL }, { "rotate degrees=90", "hardened", TL_ILLEGAL }, { "poisson electrons=50", "eels", TL_LEGAL },
        { "poisson electrons=50 gain=0.1", "eels", TL_ILLEGAL }, { "gamma", "eels", TL_ILLEGAL }, { "flip_x", "ebsd", TL_ILLEGAL },
        { "rotate degrees=-10..10", "solidification", TL_ILLEGAL }, { "rot90", "solidification", TL_ILLEGAL }, { "flip_x", "solidification", TL_LEGAL },
        { "rot90", "ebsd", TL_ILLEGAL }, { "brightness shift=0.1", "ebsd", TL_LEGAL }, { "contrast change=0.2", "eels", TL_ILLEGAL },
        { "flip_x", "eels", TL_LEGAL }, { "rotate degrees=-180..180", "equiaxed", TL_LEGAL }, { "flip_y", "chiral", TL_ILLEGAL },
        { "rotate degrees=5", "sediment", TL_ILLEGAL }, { "flip_x", "sediment", TL_LEGAL }, { "flip_x", "shadow", TL_ILLEGAL },
        { "flip_y", "shadow", TL_ILLEGAL }, { "rot90", "rolled", TL_ILLEGAL }, { "elastic alpha=50 sigma=5", "euler", TL_ILLEGAL },
        { "erase", "network", TL_ILLEGAL }, { "resized_crop width=9 height=9", "grain_size", TL_ILLEGAL }, { "flip_y", "network", TL_LEGAL }
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        int got = verdict(table[i].transform, table[i].physics);
        CHECK(got == table[i].want, "%s on %s: verdict %d, not %d", table[i].transform, table[i].physics, got, table[i].want);
    }
    for (size_t i = 0; i < sizeof tl__rules / sizeof tl__rules[0]; i++) {      // every rule decides about something
        tl_physics alone;
        int stated = 1, decides = 0;
        memset(&alone, 0, sizeof alone);
        memcpy((char *)&alone + tl__rules[i].fact, &stated, sizeof stated);
        for (int kind = 1; kind < TL_TRANSFORM_COUNT; kind++) {
            tl_transform t;
            memset(&t, 0, sizeof t);
            t.kind = (tl_transform_kind)kind;
            tl_judgement j = tl_judge(&t, &alone);
            decides += j.verdict == tl__rules[i].verdict && !strcmp(j.reason, tl__rules[i].reason);
        }
        CHECK(decides, "the rule '%s': %s", tl__rules[i].rule, tl__rules[i].reason);
    }
    tl_physics tilted;
    CHECK(tl_physics_named("rolled", &tilted), "rolled");
    tilted.tilt = 5;
    CHECK(tl_judge(pipeline("rotate degrees=-5..5"), &tilted).verdict == TL_LEGAL &&
          tl_judge(pipeline("rotate degrees=-6..5"), &tilted).verdict == TL_ILLEGAL, "the tilt of the mount");
    CHECK(tl_judge(pipeline("flip_x"), NULL).verdict == TL_LEGAL && tl_judge(NULL, &tilted).verdict == TL_LEGAL, "nothing stated");
    for (int kind = 1; kind < TL_TRANSFORM_COUNT; kind++)                   // every verdict has its reason
        for (int i = 0; tl_physics_at(i, NULL); i++) {
            tl_transform t;
            memset(&t, 0, sizeof t);
            t.kind = (tl_transform_kind)kind;
            CHECK(tl_physics_named(tl_physics_at(i, NULL), &tilted), "physics %d", i);
            tl_judgement j = tl_judge(&t, &tilted);
            CHECK(j.rule[0] && j.reason[0], "no reason for %s", tl_transform_name(t.kind));
        }
}

// ---- text ----------------------------------------------------------------------------------

static void test_recipe_text(void)
{
    char text[2000], again[2000];
    tl_transform first[16], second[16];
    for (int i = 0; tl_preset_at(i, NULL); i++) {
        const char *about = "", *name = tl_preset_at(i, &about);
        int count = tl_transforms_parse(tl_preset(name), first, 16);
        CHECK(count > 0 && *about, "preset %s: %s", name, tl_error(NULL));
        CHECK(tl_transforms_text(first, count, text, sizeof text) < sizeof text, "length");
        CHECK(tl_transforms_parse(text, second, 16) == count && !memcmp(first, second, sizeof *first * (size_t)count),
              "%s: '%s' is not what it was", name, text);
        CHECK(tl_transforms_text(second, count, again, sizeof again) && !strcmp(text, again), "text of text");
    }
    // the numbers of the lectures
    static const char *const slides[][2] = {
        { "S0-16", "flip_x p=0.5; rot90 p=0.5; gauss_noise_grey variance=10..50 p=0.3; brightness_contrast brightness=-0.2..0.2 contrast=-0.2..0.2 p=0.3; "
                   "elastic alpha=120 sigma=6 p=0.2" },
        { "S3-23a", "flip_x p=0.5; flip_y p=0.5; rot90 p=0.5; brightness_contrast brightness=-0.2..0.2 contrast=-0.2..0.2 p=0.5; "
                    "gauss_noise_grey variance=10..50 p=0.3; elastic alpha=50 sigma=5 p=0.3" },
        { "S3-23b", "flip_x p=0.5; flip_y p=0.5; rotate degrees=-180..180; color_jitter brightness=0.8..1.2 contrast=0.8..1.2; blur sigma=0.1..2 kernel=5" }
    };
    for (int i = 0; i < 3; i++) CHECK(!strcmp(tl_preset(slides[i][0]), slides[i][1]), "%s: %s", slides[i][0], tl_preset(slides[i][0]));
    CHECK(tl_preset("nothing") == NULL && tl_preset(NULL) == NULL && tl_preset_at(-1, NULL) == NULL, "no preset");
    static const struct { const char *text, *says; } bad[] = {
        { "flip_x p=0", "leave it out" }, { "poisson electrons=0", "leave it out" }, { "mixup alpha=0", "leave it out" },
        { "crop width=99999999999 height=8", "not understood" }, { "flip_x p=0.1..0.2", "not understood" }, { ";;", "transform 1 " },
        { "flop_x", "flop_x" }, { "flip_x q=1", "q=1" }, { "flip_x p=2", "p = 2" }, { "rotate", "degrees is missing" }, { "rotate degrees=1..", "degrees=1.." },
        { "rotate degrees=5..2", "reversed" }, { "rotate degrees=1 border=round", "border=round" }, { "crop width=3", "height is missing" },
        { "elastic alpha=5", "sigma" }, { "blur sigma=99", "at most 42" }, { "gauss_noise sigma=10..50", "fraction" }, { "flip_x border=wrap", "border" }
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(tl_transforms_parse(bad[i].text, first, 16) == -1 && strstr(tl_error(NULL), bad[i].says), "'%s': %s", bad[i].text, tl_error(NULL));
    CHECK(tl_transforms_parse("flip_x; flip_y", first, 1) == -1 && tl_transforms_parse(NULL, first, 1) == -1 && tl_transforms_parse("", first, 1) == 0, "room");
    for (int kind = 1; kind < TL_TRANSFORM_COUNT; kind++) {
        CHECK(tl_transform_name((tl_transform_kind)kind)[0] && tl__transform_rows[kind - 1].kind == (tl_transform_kind)kind, "row %d", kind);
        tl_transform_help((tl_transform_kind)kind, text, sizeof text);
    }
    CHECK(strstr(text, "share of the rows") != NULL, "help: %s", text);
    // views
    tl_views v = tl_count_views(pipeline("flip_x p=0.5; flip_y p=0.5"), 2, 50, 8, 100);
    CHECK(v.shown == 40000 && v.distinct == 200, "views: %g of %g", v.shown, v.distinct);
    CHECK(tl_count_views(pipeline("rot90; flip_x p=0.5"), 2, 10, 1, 1).distinct == 80 && tl_count_views(pipeline("rot90"), 1, 10, 1, 1).distinct == 40 &&
          tl_count_views(pipeline("flip_x"), 1, 10, 1, 1).distinct == 10 && isinf(tl_count_views(pipeline("rotate degrees=5..9"), 1, 10, 1, 1).distinct), "views");
}

// ---- golden images -------------------------------------------------------------------------

static tl__archive pictures;
static int has_reference[TL_TRANSFORM_COUNT];

static int golden_tensor(const char *kind, const char *name, tl_image *out)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", kind, name);
    const tl__archive_tensor *t = tl__archive_find(&pictures, path);
    CHECK(t && t->rank == 3, "no tensor %s", path);
    if (!t || t->rank != 3) return 0;
    CHECK(!tl_image_alloc(out, (int)t->dim[1], (int)t->dim[0], (int)t->dim[2], TL_F32), "%s", tl_error(NULL));
    for (size_t i = 0; i < t->count; i++) ((float *)out->pixels)[i] = (float)tl__archive_value(t, i);
    return 1;
}

static void test_golden(void)
{
    tl_record r, scratch;
    tl_image want;
    int cases = 0;
    memset(&r, 0, sizeof r);
    memset(&scratch, 0, sizeof scratch);
    memset(&want, 0, sizeof want);
    if (tl__archive_open(&pictures, "tests/golden/augment.safetensors")) { CHECK(0, "%s", tl_error(NULL)); return; }
    for (int i = 0; i < pictures.count; i++) {
        char name[64], input[64];
        if (sscanf(pictures.tensors[i].name, "output/%63s", name) != 1) continue;
        const char *text = tl__archive_metadata(&pictures, name);
        size_t length = text ? strcspn(text, "|") : 0;
        snprintf(input, sizeof input, "%.*s", (int)length, text ? text : "");
        if (!golden_tensor("output", name, &want) || !golden_tensor("input", input, &r.image)) continue;
        pipeline(text + length + 1);
        has_reference[parsed[0].kind] = 1;
        CHECK(!tl_augment(&r, parsed, listed, 1, 0, 0, &scratch), "%s: %s", name, tl_error(NULL));
        CHECK(r.image.width == want.width && r.image.height == want.height, "%s: %dx%d", name, r.image.width, r.image.height);
        double worst = 0;
        for (size_t k = 0; k < tl__image_values(&want) && r.image.width == want.width; k++)
            worst = fmax(worst, fabs((double)((float *)r.image.pixels)[k] - (double)((float *)want.pixels)[k]));
        CHECK(worst < 1e-5, "%s (%s) differs from its golden image by %.2g", name, text, worst);
        cases++;
    }
    CHECK(cases == 71, "%d golden images", cases);
    tl__archive_close(&pictures);
    tl_image_free(&want);
    tl_record_free(&r);
    tl_record_free(&scratch);
}

// ---- the same draws in double --------------------------------------------------------------
//
// Transforms that draw more than their parameters: the definition once more, from the random numbers of the transform's address,
// straight and in double.

enum { REF_SIDE = 64 };
typedef struct ref_image {
    int w, h, c;
    double x[REF_SIDE * REF_SIDE * 3];
    uint8_t covered[REF_SIDE * REF_SIDE];       // 1: unknown from now on
} ref_image;

static tl_rng ref_rng;

static double ref_draw(double lo, double hi) { return lo + (hi - lo) * (tl_random_u32(&ref_rng) >> 8) / 16777216.0; }
static double ref_of(tl_range r) { return ref_draw((double)r.lo, (double)r.hi); }
static int ref_whole(tl_range r) { return (int)floor(ref_draw((double)r.lo, (double)r.hi + 1)); }
static int ref_below(int n) { return (int)tl_random_below(&ref_rng, (uint32_t)n); }
static double ref_unit(double x) { return fmin(fmax(x, 0), 1); }
static double *ref_at(ref_image *p, int x, int y) { return p->x + (y * p->w + x) * p->c; }

static int ref_mirror(int i, int n)
{
    while (n > 1 && (i < 0 || i >= n)) i = i < 0 ? -i : 2 * n - 2 - i;
    return n > 1 ? i : 0;
}

// Pixel (x, y) of b is what lies at (sx, sy) of a.
static void ref_sample(ref_image *a, ref_image *b, int x, int y, double sx, double sy)
{
    int x0 = (int)floor(sx), y0 = (int)floor(sy);
    for (int c = 0; c < a->c; c++) {
        double sum = 0;
        for (int k = 0; k < 4; k++)
            sum += (k & 1 ? sx - x0 : 1 - sx + x0) * (k & 2 ? sy - y0 : 1 - sy + y0) *
                   ref_at(a, ref_mirror(x0 + (k & 1), a->w), ref_mirror(y0 + (k >> 1), a->h))[c];
        ref_at(b, x, y)[c] = sum;
    }
}

static void ref_rot90(ref_image *a, ref_image *b, const tl_transform *t)
{
    int turns = ref_below(4);
    (void)t;
    b->w = turns & 1 ? a->h : a->w;
    b->h = turns & 1 ? a->w : a->h;
    for (int y = 0; y < b->h; y++)
        for (int x = 0; x < b->w; x++) {
            int sx = turns == 0 ? x : turns == 1 ? a->w - 1 - y : turns == 2 ? a->w - 1 - x : y;
            int sy = turns == 0 ? y : turns == 1 ? x : turns == 2 ? a->h - 1 - y : a->h - 1 - x;
            ref_sample(a, b, x, y, sx, sy);
        }
}

static void ref_crop(ref_image *a, ref_image *b, const tl_transform *t)
{
    int x0 = ref_below(a->w - t->width + 1), y0 = ref_below(a->h - t->height + 1);
    b->w = t->width;
    b->h = t->height;
    for (int y = 0; y < b->h; y++)
        for (int x = 0; x < b->w; x++) ref_sample(a, b, x, y, x + x0, y + y0);
}

static void ref_resized_crop(ref_image *a, ref_image *b, const tl_transform *t)
{
    int w = 0, h = 0, found = 0;
    for (int i = 0; i < 10 && !found; i++) {
        double area = ref_of(t->range) * a->w * a->h;
        double aspect = exp(ref_draw(log((double)t->aspect.lo), log((double)t->aspect.hi)));
        w = (int)(sqrt(area * aspect) + 0.5);
        h = (int)(sqrt(area / aspect) + 0.5);
        found = w >= 1 && h >= 1 && w <= a->w && h <= a->h;
    }
    if (!found) {                                                          // the largest piece in the middle that has the aspect
        double aspect = fmin(fmax((double)a->w / a->h, (double)t->aspect.lo), (double)t->aspect.hi);
        w = (int)(fmin(a->w, a->h * aspect) + 0.5);
        h = (int)(fmin(a->h, a->w / aspect) + 0.5);
    }
    int x0 = found ? ref_below(a->w - w + 1) : (a->w - w) / 2, y0 = found ? ref_below(a->h - h + 1) : (a->h - h) / 2;
    b->w = t->width;
    b->h = t->height;
    for (int y = 0; y < b->h; y++)
        for (int x = 0; x < b->w; x++) ref_sample(a, b, x, y, x0 + (x + 0.5) * w / b->w - 0.5, y0 + (y + 0.5) * h / b->h - 0.5);
}

// The eight numbers of the map that takes the corners of the image to four points, by elimination.
static void ref_perspective(ref_image *a, ref_image *b, const tl_transform *t)
{
    double m[8][9], right = a->w - 1, low = a->h - 1;
    for (int i = 0; i < 4; i++) {
        double x = i == 1 || i == 2 ? right : 0, y = i > 1 ? low : 0, in_x = ref_of(t->range), in_y = ref_of(t->range);
        double to_x = x + (x > 0 ? -in_x : in_x) * right, to_y = y + (y > 0 ? -in_y : in_y) * low;
        double rows[2][9] = { { x, y, 1, 0, 0, 0, -to_x * x, -to_x * y, to_x }, { 0, 0, 0, x, y, 1, -to_y * x, -to_y * y, to_y } };
        memcpy(m[2 * i], rows, sizeof rows);
    }
    for (int k = 0; k < 8; k++) {
        int pivot = k;
        for (int i = k; i < 8; i++) if (fabs(m[i][k]) > fabs(m[pivot][k])) pivot = i;
        for (int j = 0; j < 9; j++) { double swap = m[k][j]; m[k][j] = m[pivot][j]; m[pivot][j] = swap; }
        for (int i = 0; i < 8; i++) {
            double f = i == k ? 0 : m[i][k] / m[k][k];
            for (int j = k; j < 9; j++) m[i][j] -= f * m[k][j];
        }
    }
    double v[8];
    for (int k = 0; k < 8; k++) v[k] = m[k][8] / m[k][k];
    for (int y = 0; y < b->h; y++)
        for (int x = 0; x < b->w; x++) {
            double d = v[6] * x + v[7] * y + 1;
            ref_sample(a, b, x, y, (v[0] * x + v[1] * y + v[2]) / d, (v[3] * x + v[4] * y + v[5]) / d);
        }
}

// A lattice of normal deviates `spacing` pixels apart (Box-Muller on pairs, from the next block of four on) under cubic B-splines;
// a lattice of variance 1 gives 151/315 for each axis.
static double ref_spline(double t) { t = fabs(t); return t < 1 ? (4 - 6 * t * t + 3 * t * t * t) / 6 : t < 2 ? pow(2 - t, 3) / 6 : 0; }

static void ref_noise(double spacing, int w, int h, double *out)
{
    static double lattice[4096];
    int columns = (int)(w / spacing) + 4, rows = (int)(h / spacing) + 4, nodes = columns * rows;
    ref_rng.used = 4;
    for (int i = 0; i < nodes; i += 2) {
        double radius = sqrt(-2 * log((tl_random_u32(&ref_rng) + 1.0) / 4294967296.0)), turn = tl_random_u32(&ref_rng) / 4294967296.0;
        lattice[i] = radius * cos(6.283185307179586 * turn);
        lattice[i + 1] = radius * sin(6.283185307179586 * turn);
    }
    ref_rng.used = 4;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++, out++) {
            *out = 0;
            for (int i = 0; i < nodes; i++)                                // node 0 lies one step before the first pixel
                *out += lattice[i] * ref_spline(x / spacing + 1 - i % columns) * ref_spline(y / spacing + 1 - i / columns) * 315 / 151;
        }
}

static void ref_elastic(ref_image *a, ref_image *b, const tl_transform *t)
{
    static double u[2][REF_SIDE * REF_SIDE];
    double alpha = ref_of(t->range), sigma = ref_of(t->sigma), rms = alpha / (sqrt(3) * 2 * sqrt(3.141592653589793) * sigma);
    for (int k = 0; k < 2; k++) ref_noise(sigma * sqrt(3), a->w, a->h, u[k]);
    for (int i = 0; i < a->w * a->h; i++) ref_sample(a, b, i % a->w, i / a->w, i % a->w + rms * u[0][i], i / a->w + rms * u[1][i]);
}

static void ref_drift(ref_image *a, ref_image *b, const tl_transform *t)
{
    double way[2], bend[2];
    for (int k = 0; k < 2; k++) { way[k] = ref_of(t->range); bend[k] = ref_draw(-1, 1); }
    for (int y = 0; y < a->h; y++)
        for (int x = 0; x < a->w; x++) {
            double s = y / (a->h - 1.0);
            ref_sample(a, b, x, y, x + way[0] * (s - 0.5 + bend[0] * (s * s - s)), y + way[1] * (s - 0.5 + bend[1] * (s * s - s)));
        }
}

static void ref_scan(ref_image *a, ref_image *b, const tl_transform *t)
{
    double sigma = ref_of(t->range), wave[REF_SIDE];
    ref_noise(20, 1, a->h, wave);
    for (int y = 0; y < a->h; y++) {
        double line = (double)tl_random_normal(&ref_rng);
        for (int x = 0; x < a->w; x++) ref_sample(a, b, x, y, x + sigma * (0.8 * wave[y] + 0.6 * line), y);
    }
}

// Number i of the batches of 256: of 64 blocks of four, all first numbers, then all second, third and fourth ones.
static uint32_t ref_bits(int i)
{
    uint32_t counter[4], out[4];
    memcpy(counter, ref_rng.counter, sizeof counter);
    counter[0] += (uint32_t)(i / 256 * 64 + i % 64);
    tl__philox(counter, ref_rng.key, out);
    return out[i % 256 / 64];
}

static double ref_normal(int i)
{
    int first = i - i % 128 + i % 64;
    double radius = sqrt(-2 * log(((ref_bits(first) >> 8) + 1) / 16777216.0)), turn = (ref_bits(first + 64) >> 8) / 16777216.0;
    return radius * (i % 128 < 64 ? cos(6.283185307179586 * turn) : sin(6.283185307179586 * turn));
}

static void ref_gauss(ref_image *a, ref_image *b, const tl_transform *t)
{
    double sigma = ref_of(t->range);
    if (t->kind == TL_GAUSS_NOISE_GREY) sigma = sqrt(sigma) / 255;
    for (int i = 0; i < a->w * a->h * a->c; i++) b->x[i] = ref_unit(a->x[i] + sigma * ref_normal(i));
}

static void ref_poisson(ref_image *a, ref_image *b, const tl_transform *t)
{
    double electrons = ref_of(t->range), gain = t->gain > 0 ? (double)t->gain : 1 / electrons;
    int count = a->w * a->h * a->c;
    for (int i = 0; i < count; i++) b->x[i] = (double)t->offset + gain * tl_random_poisson(&ref_rng, a->x[i] * electrons);
    for (int i = 0; i < count; i++) b->x[i] = ref_unit(b->x[i] + (t->read_noise > 0 ? (double)t->read_noise * ref_normal(i) : 0));
}

static void ref_salt(ref_image *a, ref_image *b, const tl_transform *t)
{
    double amount = ref_of(t->range), white = ref_of(t->share) * amount;
    for (int i = 0; i < a->w * a->h; i++) {
        double luck = ref_bits(i) / 4294967295.0;
        for (int c = 0; c < a->c && luck < amount; c++) b->x[i * a->c + c] = luck < white;
    }
}

static void ref_fill(ref_image *b, int x0, int y0, int x1, int y1, const double *value, int unknown)
{
    for (int y = y0; y < y1 && y < b->h; y++)
        for (int x = x0; x < x1 && x < b->w; x++) {
            for (int c = 0; c < b->c; c++) ref_at(b, x, y)[c] = value[c];
            b->covered[y * b->w + x] |= (uint8_t)unknown;
        }
}

static void ref_erase(ref_image *a, ref_image *b, const tl_transform *t)
{
    double value[3] = { 0, 0, 0 };
    for (int i = 0; i < a->w * a->h * a->c; i++) value[i % a->c] += a->x[i] / (a->w * a->h);
    for (int c = 0; c < 3 && !t->mean; c++) value[c] = (double)t->fill;
    for (int n = ref_whole(t->count); n > 0; n--) {
        double area = ref_of(t->range) * a->w * a->h;
        double aspect = exp(ref_draw(log((double)t->aspect.lo), log((double)t->aspect.hi)));
        int w = (int)(sqrt(area * aspect) + 0.5), h = (int)(sqrt(area / aspect) + 0.5);
        w = w < 1 ? 1 : w > a->w ? a->w : w;
        h = h < 1 ? 1 : h > a->h ? a->h : h;
        int x0 = ref_below(a->w - w + 1), y0 = ref_below(a->h - h + 1);
        ref_fill(b, x0, y0, x0 + w, y0 + h, value, t->ignore);
    }
}

static void ref_add(ref_image *b, int x, int y, double what)
{
    for (int c = 0; c < b->c; c++) ref_at(b, x, y)[c] = ref_unit(ref_at(b, x, y)[c] + what);
}

static void ref_charging(ref_image *a, ref_image *b, const tl_transform *t)
{
    for (int n = ref_whole(t->count); n > 0; n--) {
        int x0 = ref_below(a->w), y0 = ref_below(a->h), lines = 1 + ref_below(3);
        double height = ref_of(t->range), length = ref_of(t->size);
        for (int y = y0; y < y0 + lines && y < a->h; y++)
            for (int x = x0; x < a->w && x - x0 < 6 * length; x++) ref_add(b, x, y, height * exp(-(x - x0) / length));
    }
}

static void ref_vignette(ref_image *a, ref_image *b, const tl_transform *t)
{
    double depth = ref_of(t->range), cx = a->w * (0.5 + ref_draw(-0.05, 0.05)) - 0.5, cy = a->h * (0.5 + ref_draw(-0.05, 0.05)) - 0.5;
    for (int i = 0; i < a->w * a->h * a->c; i++) {
        double dx = i / a->c % a->w - cx, dy = i / a->c / a->w - cy;
        b->x[i] = ref_unit(a->x[i] * (1 - depth * 4 * (dx * dx + dy * dy) / (a->w * a->w + a->h * a->h)));
    }
}

static void ref_contamination(ref_image *a, ref_image *b, const tl_transform *t)
{
    for (int n = ref_whole(t->count); n > 0; n--) {
        double cx = ref_draw(0, a->w), cy = ref_draw(0, a->h), radius = ref_of(t->size), depth = ref_of(t->range);
        for (int y = 0; y < a->h; y++)
            for (int x = 0; x < a->w; x++) {
                int inside = x >= (int)(cx - 2 * radius) && x <= (int)(cx + 2 * radius) && y >= (int)(cy - 2 * radius) && y <= (int)(cy + 2 * radius);
                double cover = 1 / (1 + exp((hypot(x - cx, y - cy) - radius) * 6 / radius));
                for (int c = 0; c < b->c && inside; c++) ref_at(b, x, y)[c] = ref_unit(ref_at(b, x, y)[c] * (1 - depth * cover));
            }
    }
}

static void ref_scratches(ref_image *a, ref_image *b, const tl_transform *t)
{
    for (int n = ref_whole(t->count); n > 0; n--) {
        double cx = ref_draw(0, a->w), cy = ref_draw(0, a->h), angle = ref_draw(0, 3.141592653589793), half = ref_of(t->size) / 2;
        double depth = ref_of(t->range), reach = ref_draw(0.1, 0.7) * (a->w > a->h ? a->w : a->h);
        for (int y = 0; y < a->h; y++)
            for (int x = 0; x < a->w; x++) {
                double across = fabs((x - cx) * sin(angle) - (y - cy) * cos(angle)), along = fabs((x - cx) * cos(angle) + (y - cy) * sin(angle));
                if (along < reach) ref_add(b, x, y, depth * ref_unit(half + 0.5 - across));
            }
    }
}

static void ref_info_bar(ref_image *a, ref_image *b, const tl_transform *t)
{
    int rows = (int)(ref_of(t->range) * a->h + 0.5), y0, letter;
    rows = rows < 1 ? 1 : rows;
    y0 = a->h - rows;
    letter = rows < 4 ? 1 : rows / 4;
    double dark = ref_draw(0, 0.15), ground[3] = { dark, dark, dark }, ink[3] = { 1 - dark, 1 - dark, 1 - dark };
    int bar = (int)(ref_draw(0.1, 0.3) * a->w), top = y0 + rows / 3;
    ref_fill(b, 0, y0, a->w, a->h, ground, 1);
    ref_fill(b, letter, top, letter + bar, top + (rows < 8 ? 1 : rows / 8), ink, 1);
    for (int x = bar + 3 * letter; x + letter < a->w; x += letter)
        if (ref_below(3)) ref_fill(b, x, top, x + (letter < 2 ? 1 : letter / 2), top + letter, ink, 1);
}

static const struct { const char *text; void (*run)(ref_image *a, ref_image *b, const tl_transform *t); } ref_cases[] = {
    { "rot90", ref_rot90 }, { "crop width=20 height=25", ref_crop }, { "resized_crop width=40 height=21 aspect=0.5..2", ref_resized_crop },
    { "resized_crop width=40 height=21 area=0.95..1 aspect=3", ref_resized_crop }, { "perspective inward=0..0.2", ref_perspective },
    { "elastic alpha=20..40 sigma=3..5", ref_elastic }, { "drift way=-4..4", ref_drift }, { "scan sigma=0.3..1", ref_scan },
    { "gauss_noise sigma=0.02..0.3", ref_gauss }, { "gauss_noise_grey variance=10..50", ref_gauss }, { "poisson electrons=5..50", ref_poisson },
    { "poisson electrons=50 gain=0.015 offset=0.1 read_noise=0.02", ref_poisson }, { "salt_pepper", ref_salt }, { "dead_pixels amount=0.01..0.1", ref_salt },
    { "erase", ref_erase }, { "erase count=2..4 mean=1 ignore=1 area=0.05..0.1", ref_erase }, { "erase fill=0.7 aspect=50 area=1", ref_erase },
    { "charging", ref_charging }, { "charging height=-0.5 length=3", ref_charging }, { "vignette", ref_vignette }, { "contamination radius=3..9", ref_contamination },
    { "scratches", ref_scratches }, { "info_bar height=0.05..0.4", ref_info_bar }
};

// A picture with structure at every scale, the same in float and in double.
static void ref_begin(tl_record *r, ref_image *a, int w, int h, int c)
{
    CHECK(!tl_image_alloc(&r->image, w, h, c, TL_F32) && !tl_image_alloc(&r->mask, w, h, 1, TL_U8), "%s", tl_error(NULL));
    a->w = w;
    a->h = h;
    a->c = c;
    memset(a->covered, 0, sizeof a->covered);
    for (int i = 0; i < w * h * c; i++) {
        int x = i / c % w, y = i / c / w;
        float grey = (float)(0.5 + 0.3 * sin(x / 3.0 + i % c) * cos(y / 4.0) + 0.15 * ((x * 31 + y * 57 + i % c * 11) % 64 / 63.0 - 0.5));
        ((float *)r->image.pixels)[i] = grey;
        a->x[i] = (double)grey;
    }
}

static void ref_compare(const char *text, const tl_record *r, const ref_image *b)
{
    double worst = 0;
    int wrong = 0;
    CHECK(r->image.width == b->w && r->image.height == b->h, "%s: %dx%d, not %dx%d", text, r->image.width, r->image.height, b->w, b->h);
    if (r->image.width != b->w || r->image.height != b->h) return;
    for (int i = 0; i < b->w * b->h * b->c; i++) worst = fmax(worst, fabs((double)((float *)r->image.pixels)[i] - b->x[i]));
    for (int i = 0; i < b->w * b->h; i++) wrong += (((uint8_t *)r->mask.pixels)[i] == TL_IGNORE) != b->covered[i];
    CHECK(worst < 1e-5, "%s on %dx%dx%d differs from its definition by %.2g", text, b->w, b->h, b->c, worst);
    CHECK(wrong == 0, "%s on %dx%d: %d pixels of the mask", text, b->w, b->h, wrong);
}

static void test_drawn(void)
{
    static const int sizes[][3] = { { 33, 57, 1 }, { 64, 40, 3 } };
    static ref_image a, b;
    tl_record r, scratch;
    memset(&r, 0, sizeof r);
    memset(&scratch, 0, sizeof scratch);
    for (size_t i = 0; i < sizeof ref_cases / sizeof *ref_cases; i++)
    for (int k = 0; k < 2; k++)
    for (uint32_t sample = 0; sample < 4; sample++) {
        pipeline(ref_cases[i].text);
        tl_transform t = tl__with_defaults(&parsed[0]);
        has_reference[t.kind] = 1;
        ref_begin(&r, &a, sizes[k][0], sizes[k][1], sizes[k][2]);
        ref_begin(&r, &b, sizes[k][0], sizes[k][1], sizes[k][2]);
        ref_rng = tl_rng_at(9, TL_RANDOM_AUGMENT, 2, sample, 0);
        tl_random_u32(&ref_rng);                                           // whether it is applied at all
        ref_cases[i].run(&a, &b, &t);
        CHECK(!tl_augment(&r, parsed, 1, 9, 2, sample, &scratch), "%s: %s", ref_cases[i].text, tl_error(NULL));
        ref_compare(ref_cases[i].text, &r, &b);
    }
    tl_record_free(&r);
    tl_record_free(&scratch);
}

// Two pictures mixed.
static tl_result ref_partner(void *user, uint32_t epoch, int index, tl_record *out)
{
    (void)epoch;
    ref_begin(out, (ref_image *)user + index, 33, 57, 2);
    for (int i = 0; i < 33 * 57 * 2 && index; i++) {                       // the other one is the negative
        ((float *)out->image.pixels)[i] = 1 - ((float *)out->image.pixels)[i];
        ((ref_image *)user)[1].x[i] = (double)((float *)out->image.pixels)[i];
    }
    memset(out->mask.pixels, index, 33 * 57);
    return TL_OK;
}

static void test_drawn_mixtures(void)
{
    static const char *const texts[] = { "mixup", "mixup alpha=0.3", "cutmix", "cutmix alpha=0.3..5" };
    static ref_image pair[2];
    tl_dataset *data = tl_dataset_from(2, ref_partner, pair);
    tl_record r, scratch;
    memset(&r, 0, sizeof r);
    memset(&scratch, 0, sizeof scratch);
    for (int i = 0; i < 4; i++)
    for (uint32_t epoch = 0; epoch < 6; epoch++) {
        pipeline(texts[i]);
        tl_transform t = tl__with_defaults(&parsed[0]);
        has_reference[t.kind] = 1;
        CHECK(!tl_augment_from(data, parsed, 1, 9, epoch, 0, &r, &scratch), "%s: %s", texts[i], tl_error(NULL));
        ref_rng = tl_rng_at(9, TL_RANDOM_AUGMENT, epoch, 0, 0);
        tl_random_u32(&ref_rng);
        double share = 1 - tl__random_beta(&ref_rng, ref_of(t.range)), most = 0;
        ref_below(1);                                                      // which of the others
        double cx = ref_draw(0, 33), cy = ref_draw(0, 57), w = 33 * sqrt(share), h = 57 * sqrt(share);
        int x0 = (int)fmax(cx - w / 2, 0), x1 = (int)fmin(cx + w / 2, 33), y0 = (int)fmax(cy - h / 2, 0), y1 = (int)fmin(cy + h / 2, 57), wrong = 0;
        for (int k = 0; k < 33 * 57 * 2; k++) {
            int x = k / 2 % 33, y = k / 2 / 33, pasted = x >= x0 && x < x1 && y >= y0 && y < y1;
            double of_second = t.kind == TL_MIXUP ? share : pasted;
            most = fmax(most, fabs((1 - of_second) * pair[0].x[k] + of_second * pair[1].x[k] - (double)((float *)r.image.pixels)[k]));
            wrong += ((uint8_t *)r.mask.pixels)[k / 2] != (t.kind == TL_CUTMIX && pasted);
        }
        CHECK(most < 1e-5 && wrong == 0, "%s: %g, %d pixels of the mask", texts[i], most, wrong);
        CHECK(fabs(r.mix - (t.kind == TL_MIXUP ? share : (x1 - x0) * (y1 - y0) / (33.0 * 57))) < 1e-12, "%s: share %g", texts[i], r.mix);
    }
    for (int kind = 1; kind < TL_TRANSFORM_COUNT; kind++)
        CHECK(has_reference[kind], "%s has no reference in double", tl_transform_name((tl_transform_kind)kind));
    tl_record_free(&r);
    tl_record_free(&scratch);
    tl_dataset_free(data);
}

// ---- distributions -------------------------------------------------------------------------

// A constant image through a pipeline: mean, variance and skewness of what comes out, before clipping matters.
typedef struct grey_moments { double mean, variance, skew; size_t count; } grey_moments;

static grey_moments moments_of(const float *x, size_t count)
{
    grey_moments m = { 0, 0, 0, count };
    for (size_t i = 0; i < count; i++) m.mean += (double)x[i] / (double)count;
    for (size_t i = 0; i < count; i++) m.variance += pow((double)x[i] - m.mean, 2) / (double)count;
    for (size_t i = 0; i < count; i++) m.skew += pow((double)x[i] - m.mean, 3) / (double)count;
    m.skew /= pow(m.variance, 1.5);
    return m;
}

static grey_moments noise_moments(const char *text, float grey)
{
    tl_record r, scratch;
    memset(&r, 0, sizeof r);
    memset(&scratch, 0, sizeof scratch);
    pipeline(text);
    CHECK(!tl_image_alloc(&r.image, 500, 500, 1, TL_F32), "%s", tl_error(NULL));
    for (int i = 0; i < 250000; i++) ((float *)r.image.pixels)[i] = grey;
    CHECK(!tl_augment(&r, parsed, listed, 3, 0, 0, &scratch), "%s: %s", text, tl_error(NULL));
    grey_moments m = moments_of((float *)r.image.pixels, 250000);
    tl_record_free(&r);
    tl_record_free(&scratch);
    return m;
}

static void test_added_noise(void)
{
    // counts N: mean n, variance n, skewness 1/sqrt(n). With n electrons at the grey, four times as many at full scale
    static const double electrons[] = { 0.1, 1, 10, 30, 1000 };
    for (int i = 0; i < 5; i++) {
        double n = electrons[i], full = n < 5 ? 1000 * n : 4 * n, grey = n / full;
        char text[100];
        snprintf(text, sizeof text, "poisson electrons=%.9g", full);
        grey_moments m = noise_moments(text, (float)grey);
        double mean = m.mean * full, variance = m.variance * full * full;
        double error_mean = 5 * sqrt(n / 250000), error_variance = 5 * sqrt((n + 2 * n * n) / 250000);
        double error_skew = 5 * sqrt((6 + 15 / n + 25 / (n * n)) / 250000);
        CHECK(fabs(mean - n) < error_mean, "%g electrons: mean %g", n, mean);
        CHECK(fabs(variance - n) < error_variance, "%g electrons: variance %g", n, variance);
        CHECK(fabs(m.skew - 1 / sqrt(n)) < error_skew, "%g electrons: skewness %g, not %g", n, m.skew, 1 / sqrt(n));
    }
    // the detector: offset + gain N + read noise
    grey_moments m = noise_moments("poisson electrons=100 gain=0.004 offset=0.1 read_noise=0.02", 0.5f);
    CHECK(fabs(m.mean - 0.3) < 3e-4 && fabs(m.variance - (0.004 * 0.004 * 50 + 0.0004)) < 1e-5, "detector: %g, %g", m.mean, m.variance);
    m = noise_moments("gauss_noise sigma=0.05", 0.5f);
    CHECK(fabs(m.mean - 0.5) < 5e-4 && fabs(sqrt(m.variance) - 0.05) < 4e-4 && fabs(m.skew) < 0.03, "Gauss: %g, %g, %g", m.mean, m.variance, m.skew);
    m = noise_moments("gauss_noise_grey variance=25", 0.5f);
    CHECK(fabs(sqrt(m.variance) * 255 - 5) < 0.04, "a variance of 25 grey levels squared: %g", m.variance * 65025);
    m = noise_moments("salt_pepper amount=0.1 white=0.3", 0.5f);
    CHECK(fabs(m.mean - (0.45 + 0.03)) < 0.002 && fabs(m.variance - (0.1 * 0.25 - pow(0.02, 2))) < 0.001, "salt and pepper: %g, %g", m.mean, m.variance);
    // normal deviates: all moments, and no pattern between the numbers of a batch
    static float x[1 << 20];
    tl_rng rng = tl_rng_at(1, TL_RANDOM_USER, 0, 0, 0);
    for (int i = 0; i < 1 << 20; i += TL__DRAWS) tl__next_normals(&rng, x + i);
    m = moments_of(x, 1 << 20);
    double fourth = 0, next = 0, tail = 0;
    for (int i = 0; i < 1 << 20; i++) {
        fourth += pow((double)x[i], 4) / (1 << 20);
        next += (double)x[i] * (double)x[(i + 64) % (1 << 20)] / (1 << 20);
        tail += fabs((double)x[i]) > 3;
    }
    CHECK(fabs(m.mean) < 0.005 && fabs(m.variance - 1) < 0.007 && fabs(m.skew) < 0.012 && fabs(fourth - 3) < 0.05 && fabs(next) < 0.005 &&
          fabs(tail / (1 << 20) - 0.0027) < 0.0003, "normal: %g %g %g %g %g %g", m.mean, m.variance, m.skew, fourth, next, tail / (1 << 20));
    uint32_t bits[TL__DRAWS], plain[TL__DRAWS];                            // both builds of a loop give the same bits
    float wide[TL__DRAWS], narrow[TL__DRAWS];
    tl__random_bits(&rng, bits);
    tl__random_bits_body(&rng, plain);
    tl__normals(bits, wide);
    tl__normals_body(bits, narrow);
    CHECK(!memcmp(bits, plain, sizeof bits) && !memcmp(wide, narrow, sizeof wide), "AVX2 and plain differ");
    uint32_t block[4];
    tl__philox(rng.counter, rng.key, block);
    CHECK(block[0] == bits[0] && block[1] == bits[64] && block[2] == bits[128] && block[3] == bits[192], "Philox");
    double worst = 0;
    for (int i = 0; i < 20000; i++) {
        float v = (float)pow(10, -6 + 6 * i / 19999.0);
        worst = fmax(worst, fabs((double)tl__ln(v) - log((double)v)) / (1 + fabs(log((double)v))));
        worst = fmax(worst, fabs((double)tl__exp_minus(80 * v) / exp(-(double)(80 * v)) - 1) / 40);
    }
    CHECK(worst < 3e-7, "logarithm and exponential: %g", worst);
}

// RMS displacement: alpha / (sqrt 3 2 sqrt(pi) sigma) for a wide image.
static void test_elastic(void)
{
    static const struct { double alpha, sigma; } kinds[] = { { 120, 6 }, { 50, 5 }, { 300, 10 } };
    tl_record r, scratch;
    memset(&r, 0, sizeof r);
    memset(&scratch, 0, sizeof scratch);
    for (int k = 0; k < 3; k++) {
        double sum = 0, lag = 0, want = kinds[k].alpha / (sqrt(3.0) * 2 * sqrt(3.14159265358979) * kinds[k].sigma);
        int shift = (int)(2 * kinds[k].sigma + 0.5);
        char text[100];
        snprintf(text, sizeof text, "elastic alpha=%g sigma=%g", kinds[k].alpha, kinds[k].sigma);
        pipeline(text);
        for (uint32_t sample = 0; sample < 4; sample++) {
            CHECK(!tl_image_alloc(&r.image, 512, 512, 1, TL_F32) && !tl_augment(&r, parsed, listed, 1, 0, sample, &scratch), "%s", tl_error(NULL));
            const float *u = (const float *)scratch.work.pixels;
            for (int i = 0; i < 2 * 512 * 512; i++) {
                sum += (double)u[i] * (double)u[i] / (8 * 512 * 512);
                if (i % 512 < 512 - shift) lag += (double)u[i] * (double)u[i + shift] / (8.0 * 512 * (512 - shift));
            }
        }
        CHECK(fabs(sqrt(sum) / want - 1) < 0.04, "alpha %g, sigma %g: RMS %g, not %g", kinds[k].alpha, kinds[k].sigma, sqrt(sum), want);
        CHECK(fabs(lag / sum - exp(-pow(shift / kinds[k].sigma, 2) / 4)) < 0.06, "sigma %g: correlation %g over %d pixels, not %g", kinds[k].sigma,
              lag / sum, shift, exp(-pow(shift / kinds[k].sigma, 2) / 4));
    }
    tl_record_free(&r);
    tl_record_free(&scratch);
}

// ---- labels that change, values that cannot ------------------------------------------------

static void test_label_maps(void)
{
    tl_record r, scratch;
    memset(&r, 0, sizeof r);
    memset(&scratch, 0, sizeof scratch);
    static const struct { const char *text; tl_value_kind kind; double before, after; } values[] = {
        { "scale factor=1.5", TL_VALUE_LENGTH, 10, 15 }, { "scale factor=1.5", TL_VALUE_AREA, 10, 22.5 }, { "scale factor=1.5", TL_VALUE_FIXED, 10, 10 },
        { "rotate degrees=20", TL_VALUE_ANGLE, 30, 50 }, { "flip_x", TL_VALUE_ANGLE, 30, 150 }, { "flip_y", TL_VALUE_ANGLE, 30, 330 },
        { "rotate degrees=20; flip_x", TL_VALUE_ANGLE, 30, 130 }, { "rotate degrees=20", TL_VALUE_LENGTH, 10, 10 }
    };
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        coded_record(&r, 33, 21);
        r.value_kind = values[i].kind;
        r.value = values[i].before;
        pipeline(values[i].text);
        CHECK(!tl_augment(&r, parsed, listed, 1, 0, 0, &scratch) && fabs(r.value - values[i].after) < 1e-4, "%s: value %g, not %g", values[i].text, r.value, values[i].after);
        if (values[i].kind == TL_VALUE_ANGLE)                              // angle maps as well
            CHECK(fabs(tl_image_get(&r.angles, 16, 10, 0) - values[i].after) < 1e-3, "%s: angle map %g", values[i].text, tl_image_get(&r.angles, 16, 10, 0));
    }
    coded_record(&r, 33, 21);
    r.value_kind = TL_VALUE_LENGTH;
    pipeline("elastic alpha=50 sigma=5");
    CHECK(tl_augment(&r, parsed, listed, 1, 0, 0, &scratch) == TL_ERR_ARGUMENT && strstr(tl_error(NULL), "length"), "a length under a warp: %s", tl_error(NULL));
    // Euler angles: turning adds to phi1; a mirror twice, and the mirrors left-right and up-down make half a turn
    static const struct { const char *text; float phi1, phi, phi2; } euler[] = {
        { "rotate degrees=25", 65, 50, 70 }, { "flip_x", 140, 130, 250 }, { "flip_y", 320, 130, 250 }, { "flip_x; rotate degrees=10; flip_x; rotate degrees=10", 40, 50, 70 },
        { "flip_x; flip_y", 220, 50, 70 }
    };
    for (int i = 0; i < 5; i++) {
        coded_record(&r, 9, 9);
        CHECK(!tl_image_alloc(&r.angles, 9, 9, 3, TL_F32), "%s", tl_error(NULL));
        for (int k = 0; k < 81; k++) { float *e = (float *)r.angles.pixels + 3 * k; e[0] = 40; e[1] = 50; e[2] = 70; }
        pipeline(euler[i].text);
        CHECK(!tl_augment(&r, parsed, listed, 1, 0, 0, &scratch), "%s", tl_error(NULL));
        const float *e = (const float *)r.angles.pixels + 3 * 40;
        CHECK(fabsf(e[0] - euler[i].phi1) < 0.01f && fabsf(e[1] - euler[i].phi) < 0.01f && fabsf(e[2] - euler[i].phi2) < 0.01f, "%s: Euler angles %g %g %g", euler[i].text,
              (double)e[0], (double)e[1], (double)e[2]);
    }
    tl_record_free(&r);
    tl_record_free(&scratch);
}

// Whatever changes grey values, at a strength that is seen.
static const char *const grey_texts[] = {
    "brightness shift=0.1", "contrast change=0.5", "brightness_contrast",
    "gamma", "equalize", "clahe", "color_jitter brightness=1.1", "invert", "gauss_noise sigma=0.1", "gauss_noise_grey variance=100", "poisson electrons=20", "salt_pepper", "blur sigma=1",
    "defocus radius=2", "motion_blur length=5", "erase mean=1", "erase ignore=1", "charging", "vignette", "contamination", "scratches", "dead_pixels", "info_bar"
};
enum { GREY_TEXTS = sizeof grey_texts / sizeof *grey_texts };

// The mask, weights, angles, boxes, keypoints and labels stay, but for pixels that become unknown in all of them alike.
static void test_stays(void)
{
    static const int sizes[][2] = { { 33, 57 }, { 64, 64 }, { 1, 1 }, { 17, 1 } };
    tl_record r, before, scratch;
    int tried[TL_TRANSFORM_COUNT] = { 0 };
    memset(&r, 0, sizeof r);
    memset(&before, 0, sizeof before);
    memset(&scratch, 0, sizeof scratch);
    for (int s = 0; s < 4; s++)
    for (int i = 0; i < GREY_TEXTS; i++)
    for (uint32_t sample = 0; sample < 3; sample++) {
        int w = sizes[s][0], h = sizes[s][1], wrong = 0;
        pipeline(grey_texts[i]);
        tried[parsed[0].kind] = 1;
        coded_record(&r, w, h);
        coded_record(&before, w, h);
        CHECK(!tl_augment(&r, parsed, listed, 7, 1, sample, &scratch), "%s: %s", grey_texts[i], tl_error(NULL));
        CHECK(r.image.width == w && r.image.height == h && r.mask.width == w && r.weight.height == h, "%s: size", grey_texts[i]);
        for (int k = 0; k < w * h && r.mask.width == w; k++) {
            uint8_t mask = ((uint8_t *)r.mask.pixels)[k];
            float weight = ((float *)r.weight.pixels)[k];
            if (mask == TL_IGNORE && weight == 0) continue;
            wrong += mask != ((uint8_t *)before.mask.pixels)[k] || weight != ((float *)before.weight.pixels)[k];
        }
        CHECK(wrong == 0 && !memcmp(r.angles.pixels, before.angles.pixels, (size_t)(w * h) * 4), "%s on %dx%d: %d pixels of the labels", grey_texts[i], w, h, wrong);
        CHECK(r.box_count == POINTS && !memcmp(r.boxes, before.boxes, POINTS * sizeof *r.boxes) && r.keypoint_count == POINTS &&
              !memcmp(r.keypoints, before.keypoints, POINTS * sizeof *r.keypoints) && r.label == 3 && r.value == 5, "%s on %dx%d: boxes, keypoints, label", grey_texts[i], w, h);
    }
    for (int kind = 1; kind < TL_TRANSFORM_COUNT; kind++) {
        tl__class what = tl__transform_rows[kind - 1].what;
        CHECK(tried[kind] || what == TL__GEOMETRY || what == TL__MIXING, "%s is not tried", tl_transform_name((tl_transform_kind)kind));
    }
    tl_record_free(&r);
    tl_record_free(&before);
    tl_record_free(&scratch);
}

// A constant, an all-NaN, an all-white and an inverted image through everything there is.
static void test_odd_images(void)
{
    tl_record r, scratch;
    memset(&r, 0, sizeof r);
    memset(&scratch, 0, sizeof scratch);
    static const char *const moves[] = { "rotate degrees=30", "elastic alpha=50 sigma=5", "drift way=5", "scan sigma=1" };
    for (int i = 0; i < GREY_TEXTS + 4; i++)
    for (int kind = 0; kind < 4; kind++)
    for (int channels = 1; channels <= 3; channels += 2) {
        const char *text = i < GREY_TEXTS ? grey_texts[i] : moves[i - GREY_TEXTS];
        CHECK(!tl_image_alloc(&r.image, 23, 17, channels, TL_F32), "%s", tl_error(NULL));
        float *x = (float *)r.image.pixels;
        for (int k = 0; k < 23 * 17 * channels; k++) x[k] = kind == 0 ? 0.5f : kind == 1 ? NAN : kind == 2 ? 1 : 0;
        pipeline(text);
        CHECK(!tl_augment(&r, parsed, listed, 1, 0, 5, &scratch), "%s: %s", text, tl_error(NULL));
        int bad = 0;
        x = (float *)r.image.pixels;
        for (int k = 0; k < r.image.width * r.image.height * channels; k++) bad += !(x[k] >= 0 && x[k] <= 1);
        CHECK(bad == 0, "%s makes %d values that are no grey of image %d", text, bad, kind);
    }
    // inverted and back; an equalised image and the equalised negative are negatives of each other but for the edges of classes
    CHECK(!tl_image_alloc(&r.image, 64, 64, 1, TL_F32), "%s", tl_error(NULL));
    for (int k = 0; k < 4096; k++) ((float *)r.image.pixels)[k] = (float)((k * 37) % 4096) / 4096;
    pipeline("invert; invert");
    CHECK(!tl_augment(&r, parsed, listed, 1, 0, 5, &scratch) && fabs(tl_image_get(&r.image, 9, 9, 0) - ((9 * 64 + 9) * 37 % 4096) / 4096.0) < 1e-6, "inverted twice");
    tl_record_free(&r);
    tl_record_free(&scratch);
}

// ---- sets: mixing, cache, replay -----------------------------------------------------------

// Example i is grey i/10 with label i and a mask of class i.
static tl_result make_flat(void *user, uint32_t epoch, int index, tl_record *out)
{
    int size = *(int *)user;
    (void)epoch;
    if (tl_image_alloc(&out->image, size, size, 1, TL_U8) || tl_image_alloc(&out->mask, size, size, 1, TL_U8)) return TL_ERR_MEMORY;
    memset(out->image.pixels, index * 20, (size_t)(size * size));
    memset(out->mask.pixels, index, (size_t)(size * size));
    out->label = index;
    out->value = index;
    return TL_OK;
}

// The same with a weight map; with a negative size only the first example has one.
static tl_result make_weighed(void *user, uint32_t epoch, int index, tl_record *out)
{
    int size = abs(*(int *)user);
    tl_result result = make_flat(&size, epoch, index, out);
    if (result || (*(int *)user < 0 && index)) return result;
    result = tl_image_alloc(&out->weight, size, size, 1, TL_F32);
    for (int i = 0; !result && i < size * size; i++) ((float *)out->weight.pixels)[i] = 0.5f;
    return result;
}

// cutmix takes the weights along; mixup would need two maps; one map alone is no pair.
static void test_weighed_mixtures(void)
{
    static const struct { int size; const char *text, *says; } mixtures[] = {
        { 16, "cutmix", NULL }, { 16, "mixup", "weight map" }, { -16, "cutmix", "only one has" }, { -16, "mixup", "only one has" }
    };
    for (int i = 0; i < 4; i++) {
        tl_record r, scratch;
        int size = mixtures[i].size;
        memset(&r, 0, sizeof r);
        memset(&scratch, 0, sizeof scratch);
        tl_dataset *data = tl_dataset_from(2, make_weighed, &size);
        pipeline(mixtures[i].text);
        tl_result result = tl_augment_from(data, parsed, listed, 1, 0, 0, &r, &scratch);
        CHECK(!mixtures[i].says == !result && (!result || strstr(tl_error(NULL), mixtures[i].says)), "%s: %s", mixtures[i].text, tl_error(NULL));
        tl_record_free(&r);
        tl_record_free(&scratch);
        tl_dataset_free(data);
    }
}

// Copies of two subsets share the specimens that the subsets share.
static void test_cached_subsets(void)
{
    int size = 4, first[6] = { 0, 1, 2, 3, 4, 5 }, last[6] = { 4, 5, 6, 7, 8, 9 };
    tl_dataset *data = tl_dataset_from(10, make_flat, &size), *a = tl_subset(data, first, 6), *b = tl_subset(data, last, 6);
    tl_dataset *of_a = tl_cached(a, NULL, 0, 1, 2), *of_b = tl_cached(b, NULL, 0, 1, 2);
    CHECK(tl_shared_specimens(of_a, of_b, NULL, 0) == 2 && tl_shared_specimens(of_a, of_a, NULL, 0) == 6, "%d specimens are shared",
          tl_shared_specimens(of_a, of_b, NULL, 0));
    tl_dataset_free(of_b);
    tl_dataset_free(of_a);
    tl_dataset_free(b);
    tl_dataset_free(a);
    tl_dataset_free(data);
}

static void test_sets(void)
{
    int size = 32;
    tl_dataset *data = tl_dataset_from(6, make_flat, &size);
    tl_record r, again, scratch;
    memset(&r, 0, sizeof r);
    memset(&again, 0, sizeof again);
    memset(&scratch, 0, sizeof scratch);
    double shares = 0, areas = 0;
    for (uint32_t epoch = 0; epoch < 300; epoch++) {
        pipeline("mixup alpha=1");
        CHECK(!tl_augment_from(data, parsed, listed, 1, epoch, 2, &r, &scratch), "%s", tl_error(NULL));
        double grey = ((1 - r.mix) * 40 + r.mix * 20 * r.mix_label) / 255;
        CHECK(r.mix_label != 2 && r.mix >= 0 && r.mix <= 1 && fabs(tl_image_get(&r.image, 3, 3, 0) - grey) < 1e-5, "mixup: %g, label %d", r.mix, r.mix_label);
        CHECK(r.mix_mask.pixels && ((uint8_t *)r.mix_mask.pixels)[5] == r.mix_label && ((uint8_t *)r.mask.pixels)[5] == 2 &&
              fabs(r.value - ((1 - r.mix) * 2 + r.mix * r.mix_label)) < 1e-9, "mixup of masks and values");
        shares += r.mix / 300;
        pipeline("cutmix");
        CHECK(!tl_augment_from(data, parsed, listed, 1, epoch, 2, &r, &scratch), "%s", tl_error(NULL));
        int pasted = 0, wrong = 0;
        for (int i = 0; i < size * size; i++) {
            int class_here = ((uint8_t *)r.mask.pixels)[i];
            pasted += class_here != 2;
            wrong += fabs((double)((float *)r.image.pixels)[i] - class_here * 20 / 255.0) > 1e-6;
        }
        CHECK(wrong == 0 && fabs(r.mix - (double)pasted / (size * size)) < 1e-9, "cutmix: %d pixels without their mask, share %g of %d", wrong, r.mix, pasted);
        areas += r.mix / 300;
    }
    CHECK(fabs(shares - 0.5) < 0.06 && areas > 0.2 && areas < 0.5, "mean share %g, area %g", shares, areas);
    pipeline("mixup");
    CHECK(!tl_dataset_get(data, 0, 1, &r) && tl_augment(&r, parsed, listed, 1, 0, 1, &scratch) == TL_ERR_STATE, "mixing alone: %s", tl_error(NULL));
    CHECK(tl_record_keypoints(&r, 1) && tl_record_boxes(&r, -1) == NULL, "room");
    // a cached set holds the views of its epochs; a view can be made again alone
    pipeline("flip_x p=0.5; rotate degrees=-30..30; elastic alpha=30 sigma=4 p=0.5; gauss_noise sigma=0.01..0.1; cutmix p=0.5");
    tl_dataset *cached = tl_cached(data, parsed, listed, 9, 3);
    CHECK(cached && tl_dataset_count(cached) == 18, "%s", tl_error(NULL));
    for (int k = 0; k < 18; k++) {
        CHECK(!tl_dataset_get(cached, 7, k, &r) && !tl_augment_from(data, parsed, listed, 9, (uint32_t)(k / 6), k % 6, &again, &scratch), "%s", tl_error(NULL));
        CHECK(r.label == again.label && r.mix == again.mix && !memcmp(r.image.pixels, again.image.pixels, (size_t)(size * size) * 4) &&
              !memcmp(r.mask.pixels, again.mask.pixels, (size_t)(size * size)), "view %d cannot be replayed", k);
    }
    CHECK(tl_cached(data, parsed, listed, 9, 0) == NULL && tl_cached(NULL, parsed, listed, 9, 1) == NULL, "no copies");
    tl_dataset_free(cached);
    tl_dataset_free(data);
    tl_record_free(&r);
    tl_record_free(&again);
    tl_record_free(&scratch);
}

// ---- the range of grey values --------------------------------------------------------------

static void test_range(void)
{
    tl_image image, out;
    memset(&image, 0, sizeof image);
    memset(&out, 0, sizeof out);
    tl_preprocess p;
    memset(&p, 0, sizeof p);
    CHECK(!tl_image_alloc(&image, 1000, 1, 1, TL_U16), "%s", tl_error(NULL));
    for (int i = 0; i < 1000; i++) ((uint16_t *)image.pixels)[i] = (uint16_t)(1000 + 3 * ((i * 7) % 1000));   // twelve bits in sixteen
    p.range = TL_RANGE_IMAGE;
    CHECK(!tl_image_convert(&out, &image, TL_F32) && !tl__apply_range(&p, &out), "%s", tl_error(NULL));
    grey_moments m = moments_of((float *)out.pixels, 1000);
    CHECK(fabs(m.mean - 0.5) < 0.003 && fabs(m.variance - 1 / 12.0) < 0.003, "percentiles: %g, %g", m.mean, m.variance);
    p.range = TL_RANGE_FIXED;
    p.lo = 4000 / 65535.0f;
    p.hi = 1000 / 65535.0f;                                                // inverted
    CHECK(!tl_image_convert(&out, &image, TL_F32) && !tl__apply_range(&p, &out) && fabs(tl_image_get(&out, 0, 0, 0) - 1) < 1e-6 &&
          fabs(tl_image_get(&out, 1, 0, 0) - (1 - 21 / 3000.0)) < 1e-4, "fixed and inverted: %g", tl_image_get(&out, 1, 0, 0));
    p.range = TL_RANGE_IMAGE;
    p.lo = p.hi = 0;
    for (int kind = 0; kind < 3; kind++) {                                 // constant, nothing finite, a range of its own
        CHECK(!tl_image_alloc(&out, 100, 1, 1, TL_F32), "%s", tl_error(NULL));
        for (int i = 0; i < 100; i++) ((float *)out.pixels)[i] = kind == 0 ? 7 : kind == 1 ? NAN : (float)(i * 1000 - 5e4);
        CHECK(!tl__apply_range(&p, &out), "%s", tl_error(NULL));
        float first = ((float *)out.pixels)[0], last = ((float *)out.pixels)[99];
        CHECK(kind < 2 ? first == 0 && last == 0 : first == 0 && last == 1, "image %d: %g .. %g", kind, (double)first, (double)last);
    }
    int size = 8;
    float lo, hi;
    tl_dataset *data = tl_dataset_from(6, make_flat, &size);
    CHECK(!tl_dataset_range(data, 0, 100, &lo, &hi) && lo == 0 && fabsf(hi - 100 / 255.0f) < 1e-6f, "range of a set: %g .. %g", (double)lo, (double)hi);
    CHECK(tl_dataset_range(data, 5, 5, &lo, &hi) && tl_dataset_range(NULL, 0, 9, &lo, &hi), "no range");
    tl_net *net = tl_net_new(NULL);
    p.range = TL_RANGE_FIXED;
    p.lo = p.hi = 1;
    CHECK(tl_set_preprocess(net, &p) == TL_ERR_ARGUMENT, "an empty range");
    p.range = TL_RANGE_IMAGE;
    p.lo = 1;
    p.hi = 101;
    CHECK(tl_set_preprocess(net, &p) == TL_ERR_ARGUMENT, "101 percent");
    tl_net_free(net);
    tl_dataset_free(data);
    tl_image_free(&image);
    tl_image_free(&out);
}

// A range goes into the model file, and prediction applies it: twelve bits in sixteen, and the same image four times as bright.
static void test_range_of_model(void)
{
    static const tl_preprocess ways[] = { { .scaling = TL_SCALE_FULL }, { .scaling = TL_SCALE_FULL, .range = TL_RANGE_IMAGE },
        { .scaling = TL_SCALE_FULL, .range = TL_RANGE_FIXED, .lo = 1000 / 65535.0f, .hi = 5000 / 65535.0f } };
    tl_image image, bright, a, b;
    memset(&image, 0, sizeof image);
    memset(&bright, 0, sizeof bright);
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    CHECK(!tl_image_alloc(&image, 8, 8, 1, TL_U16) && !tl_image_alloc(&bright, 8, 8, 1, TL_U16), "%s", tl_error(NULL));
    for (int i = 0; i < 64; i++) {
        ((uint16_t *)image.pixels)[i] = (uint16_t)(1000 + i * 37 % 64 * 50);
        ((uint16_t *)bright.pixels)[i] = (uint16_t)(4 * ((uint16_t *)image.pixels)[i]);
    }
    for (int k = 0; k < 3; k++) {
        tl_net *net = tl_net_new(NULL);
        tl_conv2d_desc conv;
        memset(&conv, 0, sizeof conv);
        conv.out = 2;
        conv.kernel = 1;
        tl_conv2d(net, tl_input(net, 8, 8, 1), &conv);
        CHECK(!tl_set_preprocess(net, &ways[k]) && !tl_save(net, temporary_path("range.safetensors")), "%s", tl_error(net));
        tl_net *opened = tl_open(temporary_path("range.safetensors"), NULL);
        CHECK(opened && !tl_predict(opened, &image, NULL, &a) && !tl_predict(opened, &bright, NULL, &b), "%s", tl_error(opened));
        double worst = 0, w = (double)net->parameters[1] - (double)net->parameters[0], offset = (double)net->parameters[3] - (double)net->parameters[2];
        for (int i = 0; i < 64 && k != 1; i++) {                            // the logits' difference says what grey the network saw
            double x = ((uint16_t *)image.pixels)[i] / 65535.0, p = (double)((float *)a.pixels)[2 * i + 1];
            if (k == 2) x = ref_unit((x - 1000 / 65535.0) / (4000 / 65535.0));
            worst = fmax(worst, fabs(log(p / (1 - p)) - (w * x + offset)));
        }
        double apart = 0;
        for (int i = 0; i < 128; i++) apart = fmax(apart, fabs((double)((float *)a.pixels)[i] - (double)((float *)b.pixels)[i]));
        CHECK(k == 1 ? apart < 1e-5 : apart > 0.01, "range %d: four times as bright changes %g", k, apart);
        CHECK(worst < 1e-5, "range %d: the network sees another grey, logits off by %g", k, worst);
        tl_net_free(net);
        tl_net_free(opened);
    }
    tl_image_free(&image);
    tl_image_free(&bright);
    tl_image_free(&a);
    tl_image_free(&b);
}

// ---- training ------------------------------------------------------------------------------

static tl_net *classifier(int threads, int dense, tl_loss_kind kind, int out)
{
    tl_net_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.seed = 3;
    desc.threads = threads;
    tl_net *net = tl_net_new(&desc);
    tl_node y = tl_dense(net, tl_input(net, 8, 8, 1), &(tl_dense_desc){ .out = out });
    tl_loss(net, y, &(tl_loss_desc){ .kind = kind, .dense = dense });
    return net;
}

static void test_training(void)
{
    int size = 12;
    tl_dataset *data = tl_dataset_from(6, make_flat, &size);
    tl_physics weld;
    CHECK(tl_physics_named("weld", &weld), "weld");
    tl_fit_desc fit;
    memset(&fit, 0, sizeof fit);
    fit.train = data;
    fit.epochs = 3;
    fit.batch = 4;
    fit.augment = pipeline("flip_x p=0.5; flip_y p=0.5; gauss_noise sigma=0.02");
    fit.augment_count = listed;
    fit.optimizer.kind = TL_SGD;
    fit.optimizer.lr = 0.1f;
    fit.physics = &weld;
    tl_net *net = classifier(1, 0, TL_CROSS_ENTROPY, 6);
    CHECK(tl_fit(net, &fit, NULL) == TL_ERR_ARGUMENT && strstr(tl_error(net), "flip_y") && strstr(tl_error(net), "gravity"), "an illegal pipeline: %s", tl_error(net));
    weld.up_is_arbitrary = 1;
    CHECK(tl_fit(net, &fit, NULL) == TL_ERR_ARGUMENT && strstr(tl_error(net), "arbitrary"), "contradicting facts: %s", tl_error(net));
    weld.up_is_arbitrary = 0;
    fit.allow_illegal = 1;
    tl_fit_report report;
    CHECK(!tl_fit(net, &fit, &report) && report.views == 18 && report.repeats == 0, "%s, %g views", tl_error(net), report.views);
    CHECK(strstr(tl_augmentation(net), "illegal but allowed: flip_y") && strstr(tl_augmentation(net), "top_differs direction") &&
          strstr(tl_augmentation(net), "gauss_noise sigma=0.02"), "recorded: %s", tl_augmentation(net));
    CHECK(!tl_save(net, temporary_path("augmented.safetensors")), "%s", tl_error(net));
    tl_net *opened = tl_open(temporary_path("augmented.safetensors"), NULL);
    CHECK(opened && !strcmp(tl_augmentation(opened), tl_augmentation(net)), "the file forgets: %s", tl_augmentation(opened));
    tl_net_free(opened);
    tl_net_free(net);
    // any number of threads and loaders: the same bits, with mixing
    fit.physics = NULL;
    fit.augment = pipeline("rotate degrees=-20..20; mixup p=0.5; poisson electrons=50");
    fit.augment_count = listed;
    tl_real *want = NULL;
    static const int ways[][2] = { { 1, -1 }, { 1, 1 }, { 2, 0 }, { 3, 2 }, { 2, -1 } };
    for (int k = 0; k < 5; k++) {
        net = classifier(ways[k][0], 1, TL_CROSS_ENTROPY, 6);
        fit.loaders = ways[k][1];
        CHECK(!tl_fit(net, &fit, NULL), "%s", tl_error(net));
        size_t bytes = tl_parameter_count(net) * sizeof(tl_real);
        if (!want && (want = (tl_real *)malloc(bytes)) != NULL) memcpy(want, tl_parameters(net), bytes);
        CHECK(want && !memcmp(want, tl_parameters(net), bytes), "%d threads and %d loaders give other bits", ways[k][0], ways[k][1]);
        tl_net_free(net);
    }
    free(want);
    net = classifier(1, 0, TL_CROSS_ENTROPY, 6);
    CHECK(tl_fit(net, &fit, NULL) == TL_ERR_ARGUMENT && strstr(tl_error(net), ".dense"), "mixup on indices: %s", tl_error(net));
    tl_net_free(net);
    // a number for each image, and a cached set
    tl_dataset *cached = tl_cached(data, fit.augment, 1, 1, 2);
    fit.augment_count = 0;
    fit.train = cached;
    fit.epochs = 40;
    fit.optimizer.kind = TL_ADAM;
    fit.optimizer.lr = 0.01f;
    net = classifier(1, 1, TL_MSE, 1);
    CHECK(tl_set_preprocess(net, &(tl_preprocess){ .scaling = TL_SCALE_FULL }) == TL_OK && !tl_fit(net, &fit, &report), "%s", tl_error(net));
    CHECK(report.train_loss < 1 && report.repeats == 40, "regression: loss %g, each seen %g times", report.train_loss, report.repeats);
    tl_net_free(net);
    tl_dataset_free(cached);
    tl_dataset_free(data);
}

MAIN(augment, void)
{
    test_golden();
    test_drawn();
    test_drawn_mixtures();
    test_added_noise();
    test_elastic();
    test_label_maps();
    test_stays();
    test_odd_images();
    test_weighed_mixtures();
    test_cached_subsets();
    test_sets();
    test_range();
    test_range_of_model();
    test_training();
    test_together();
    test_windows();
    test_epoch_batches();
    test_gate();
    test_recipe_text();
    remove_temporary();
    return finish("augment");
}
