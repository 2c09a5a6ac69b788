// Images and data: conversions, files, folders with their tables, augmentation that moves image and mask together, random numbers,
// Voronoi labels and grains, splits by specimen, scores.

#include "check.h"
#include "temporary.h"

static tl_image no_image(void)
{
    tl_image image;
    memset(&image, 0, sizeof image);
    return image;
}

static tl_image new_image(int width, int height, int channels, tl_pixel type)
{
    tl_image image = no_image();
    CHECK(tl_image_alloc(&image, width, height, channels, type) == TL_OK, "%s", tl_error(NULL));
    return image;
}

static int equal(const tl_image *a, const tl_image *b)
{
    return a->width == b->width && a->height == b->height && a->channels == b->channels && a->type == b->type &&
           memcmp(a->pixels, b->pixels, tl__image_bytes(a)) == 0;
}

// ---- images --------------------------------------------------------------------------------

// All values of every type through every other.
static void test_convert(void)
{
    tl_image bytes = new_image(256, 1, 1, TL_U8), words = new_image(256, 256, 1, TL_U16), out = no_image(), back = no_image();
    for (int i = 0; i < 256; i++) ((uint8_t *)bytes.pixels)[i] = (uint8_t)i;
    for (int i = 0; i < 65536; i++) ((uint16_t *)words.pixels)[i] = (uint16_t)i;
    CHECK(!tl_image_convert(&out, &bytes, TL_U16), "%s", tl_error(NULL));
    for (int i = 0; i < 256; i++) if (((uint16_t *)out.pixels)[i] != 257 * i) CHECK(0, "u8 %d becomes u16 %d", i, ((uint16_t *)out.pixels)[i]);
    CHECK(!tl_image_convert(&back, &out, TL_U8) && equal(&back, &bytes), "u8 to u16 and back");
    CHECK(!tl_image_convert(&out, &bytes, TL_F32) && !tl_image_convert(&back, &out, TL_U8) && equal(&back, &bytes), "u8 to f32 and back");
    CHECK(tl_image_f32(&out) && tl_image_f32(&out)[255] == 1 && tl_image_f32(&bytes) == NULL && tl_image_f32(NULL) == NULL, "f32");
    CHECK(!tl_image_convert(&out, &words, TL_F32) && !tl_image_convert(&back, &out, TL_U16) && equal(&back, &words), "u16 to f32 and back");
    CHECK(!tl_image_convert(&out, &words, TL_U8), "%s", tl_error(NULL));
    words.channels *= 2;                                    // more than its memory holds
    CHECK(tl_image_convert(&out, &words, TL_U8) == TL_ERR_ARGUMENT && strstr(tl_error(NULL), "pixels hold"), "%s", tl_error(NULL));
    words.channels /= 2;
    CHECK(!tl_image_convert(&out, &words, TL_U8), "%s", tl_error(NULL));
    for (int i = 0; i < 65536; i++) if (((uint8_t *)out.pixels)[i] != (i + 128) / 257) CHECK(0, "u16 %d becomes u8 %d", i, ((uint8_t *)out.pixels)[i]);
    tl_image f = new_image(6, 1, 1, TL_F32);
    const float odd[6] = { NAN, -1, 2, INFINITY, -INFINITY, 0.5f };
    const int want[6] = { 0, 0, 255, 255, 0, 128 };
    memcpy(f.pixels, odd, sizeof odd);
    CHECK(!tl_image_convert(&out, &f, TL_U8), "%s", tl_error(NULL));
    for (int i = 0; i < 6; i++) CHECK(((uint8_t *)out.pixels)[i] == want[i], "f32 %g becomes u8 %d", (double)odd[i], ((uint8_t *)out.pixels)[i]);
    CHECK(!tl_image_convert(&f, &f, TL_U16) && f.type == TL_U16 && ((uint16_t *)f.pixels)[2] == 65535, "in place");
    CHECK(!tl_image_convert(&f, &f, TL_U16) && f.type == TL_U16, "to the same type in place");
    tl_image_free(&bytes);
    tl_image_free(&words);
    tl_image_free(&out);
    tl_image_free(&back);
    tl_image_free(&f);
}

static void test_image_channels(void)
{
    tl_image grey = new_image(256, 1, 1, TL_U8), rgb = no_image(), back = no_image(), many = no_image();
    for (int i = 0; i < 256; i++) ((uint8_t *)grey.pixels)[i] = (uint8_t)i;
    CHECK(!tl_image_channels(&rgb, &grey, 3) && rgb.channels == 3 && ((uint8_t *)rgb.pixels)[3 * 77 + 2] == 77, "1 to 3");
    CHECK(!tl_image_channels(&back, &rgb, 1) && equal(&back, &grey), "a gray picture as RGB comes back");
    CHECK(!tl_image_channels(&many, &grey, 5) && ((uint8_t *)many.pixels)[5 * 9 + 4] == 9, "1 to 5");
    CHECK(tl_image_channels(&back, &many, 1) == TL_ERR_SHAPE && tl_image_channels(&back, &rgb, 2) == TL_ERR_SHAPE, "5 to 1, 3 to 2: there is no rule");
    const uint8_t colours[9] = { 255, 0, 0, 0, 255, 0, 0, 0, 255 };
    const int luminance[3] = { 76, 150, 29 };             // BT.601: 0.299, 0.587, 0.114
    tl_image three = new_image(3, 1, 3, TL_U8);
    memcpy(three.pixels, colours, sizeof colours);
    CHECK(!tl_image_channels(&three, &three, 1), "%s", tl_error(NULL));
    for (int i = 0; i < 3; i++) CHECK(((uint8_t *)three.pixels)[i] == luminance[i], "the luminance of colour %d is %d", i, ((uint8_t *)three.pixels)[i]);
    CHECK(!tl_image_channels(&three, &three, 3) && three.channels == 3, "in place");
    tl_image_free(&grey);
    tl_image_free(&rgb);
    tl_image_free(&back);
    tl_image_free(&many);
    tl_image_free(&three);
}

static void test_crop(void)
{
    static const tl_pixel types[] = { TL_U8, TL_U16, TL_F32 };
    for (int t = 0; t < 3; t++) {
        tl_image image = new_image(9, 7, 2, TL_F32), piece = no_image();
        for (int i = 0; i < 9 * 7 * 2; i++) ((float *)image.pixels)[i] = (float)i / 255;
        CHECK(!tl_image_convert(&image, &image, types[t]), "%s", tl_error(NULL));
        CHECK(!tl_image_crop(&piece, &image, 3, 2, 5, 4) && piece.width == 5 && piece.height == 4 && piece.channels == 2 && piece.type == types[t], "%s", tl_error(NULL));
        for (int y = 0; y < 4; y++)
        for (int x = 0; x < 5; x++)
        for (int c = 0; c < 2; c++)
            if (tl_image_get(&piece, x, y, c) != tl_image_get(&image, x + 3, y + 2, c)) CHECK(0, "crop: pixel (%d, %d, %d)", x, y, c);
        CHECK(tl_image_get(&image, -1, 0, 0) == 0 && tl_image_get(&image, 9, 0, 0) == 0 && tl_image_get(&image, 0, 7, 0) == 0 && tl_image_get(&image, 0, 0, 2) == 0 &&
              tl_image_get(NULL, 0, 0, 0) == 0 && fabs(tl_image_get(&image, 8, 6, 1) - 125 / 255.) < 1e-4, "get");
        CHECK(!tl_image_crop(&image, &image, 3, 2, 5, 4) && equal(&image, &piece), "crop in place");
        static const int bad[][4] = { { -1, 0, 2, 2 }, { 0, -1, 2, 2 }, { 4, 0, 2, 2 }, { 0, 3, 2, 2 }, { 0, 0, 0, 2 }, { 0, 0, 2, 0 }, { 0, 0, 6, 1 }, { INT_MAX, 0, INT_MAX, 1 } };
        for (int i = 0; i < 8; i++)
            CHECK(tl_image_crop(&piece, &image, bad[i][0], bad[i][1], bad[i][2], bad[i][3]) == TL_ERR_SHAPE, "crop %d, %d, %d, %d of 5 x 4", bad[i][0], bad[i][1], bad[i][2], bad[i][3]);
        tl_image_free(&image);
        tl_image_free(&piece);
    }
    tl_image image = no_image();
    CHECK(tl_image_alloc(&image, 0, 5, 1, TL_U8) && tl_image_alloc(&image, 5, -1, 1, TL_U8) && tl_image_alloc(&image, 70000, 5, 1, TL_U8) &&
          tl_image_alloc(&image, 5, 5, 0, TL_U8) && tl_image_alloc(&image, 5, 5, 5000, TL_U8) && tl_image_alloc(&image, 5, 5, 1, (tl_pixel)9) &&
          tl_image_alloc(NULL, 5, 5, 1, TL_U8) && tl_image_copy(&image, NULL) && tl_image_copy(&image, &image) && tl_image_convert(NULL, NULL, TL_U8) &&
          tl_image_channels(&image, NULL, 1) && tl_image_crop(&image, NULL, 0, 0, 1, 1), "images that are not possible");
    CHECK(image.pixels == NULL, "a refused image has pixels");
}

// ---- image files ---------------------------------------------------------------------------

static void write_text(const char *path, const char *text) { write_bytes(path, text, strlen(text)); }

static void put_be(uint8_t *to, uint32_t value)
{
    for (int i = 0; i < 4; i++) to[i] = (uint8_t)(value >> (24 - 8 * i));
}

static size_t put_chunk(uint8_t *to, const char *kind, const uint8_t *data, uint32_t size)
{
    uint32_t crc = 0xFFFFFFFFu;
    put_be(to, size);
    memcpy(to + 4, kind, 4);
    if (size) memcpy(to + 8, data, size);
    for (uint32_t i = 4; i < size + 8; i++) {
        crc ^= to[i];
        for (int k = 0; k < 8; k++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    put_be(to + 8 + size, ~crc);
    return size + 12;
}

// A PNG with 16 bits, which stb_image_write cannot make: one stored block. `rows` with the filter byte before each.
static size_t make_png16(uint8_t *to, uint32_t width, uint32_t height, int colour, const uint8_t *rows, uint32_t size)
{
    static const uint8_t signature[8] = { 0x89, 'P', 'N', 'G', 13, 10, 26, 10 };
    uint8_t header[13], body[4096];
    uint32_t a = 1, b = 0;
    memcpy(to, signature, 8);
    put_be(header, width);
    put_be(header + 4, height);
    header[8] = 16; header[9] = (uint8_t)colour; header[10] = header[11] = header[12] = 0;
    body[0] = 0x78; body[1] = 1; body[2] = 1;
    body[3] = (uint8_t)size; body[4] = (uint8_t)(size >> 8); body[5] = (uint8_t)~size; body[6] = (uint8_t)(~size >> 8);
    memcpy(body + 7, rows, size);
    for (uint32_t i = 0; i < size; i++) {
        a = (a + rows[i]) % 65521;
        b = (b + a) % 65521;
    }
    put_be(body + 7 + size, b << 16 | a);
    size_t at = 8 + put_chunk(to + 8, "IHDR", header, 13);
    at += put_chunk(to + at, "IDAT", body, size + 11);
    return at + put_chunk(to + at, "IEND", NULL, 0);
}

static void test_files(void)
{
    const char *path = temporary_path("image.png");
    tl_image image = new_image(13, 7, 1, TL_U8), back = no_image();
    for (int channels = 1; channels <= 4; channels++) {
        CHECK(!tl_image_alloc(&image, 13, 7, channels, TL_U8), "%s", tl_error(NULL));
        for (int i = 0; i < 13 * 7 * channels; i++) ((uint8_t *)image.pixels)[i] = (uint8_t)(i * 37);
        CHECK(!tl_image_save(&image, path) && !tl_image_load(&back, path), "%d channels: %s", channels, tl_error(NULL));
        CHECK(back.channels == (channels == 2 ? 1 : channels == 4 ? 3 : channels) && back.type == TL_U8 && back.width == 13 && back.height == 7, "%d channels: alpha is dropped", channels);
        for (int i = 0; i < 13 * 7; i++)
            if (((uint8_t *)back.pixels)[i * back.channels] != ((uint8_t *)image.pixels)[i * channels]) CHECK(0, "%d channels: pixel %d", channels, i);
    }
    tl_image f = new_image(3, 1, 1, TL_F32);
    ((float *)f.pixels)[1] = 0.5f;
    ((float *)f.pixels)[2] = 7;
    CHECK(!tl_image_save(&f, path) && !tl_image_load(&back, path) && ((uint8_t *)back.pixels)[1] == 128 && ((uint8_t *)back.pixels)[2] == 255, "a float image is saved in 8 bits");

    uint8_t png[8192], rows[2 * 7], rgb[13];
    static const uint8_t grey16[2 * 7] = { 0, 0x12, 0x34, 0x00, 0x01, 0xFF, 0xFE, 0, 0x80, 0x00, 0xAB, 0xCD, 0x00, 0x00 };
    memcpy(rows, grey16, sizeof rows);
    write_bytes(path, png, make_png16(png, 3, 2, 0, rows, sizeof rows));
    CHECK(!tl_image_load(&back, path) && back.type == TL_U16 && back.width == 3 && back.height == 2 && back.channels == 1, "16 bits: %s", tl_error(NULL));
    static const uint16_t want[6] = { 0x1234, 0x0001, 0xFFFE, 0x8000, 0xABCD, 0 };
    CHECK(back.pixels && memcmp(back.pixels, want, sizeof want) == 0, "16 bits stay 16 bits");
    memset(rgb, 0, sizeof rgb);
    for (int i = 1; i < 13; i++) rgb[i] = (uint8_t)(17 * i);
    write_bytes(path, png, make_png16(png, 2, 1, 2, rgb, sizeof rgb));
    CHECK(!tl_image_load(&back, path) && back.type == TL_U16 && back.channels == 3 && ((uint16_t *)back.pixels)[5] == 0xBBCC, "16 bits, RGB: %s", tl_error(NULL));

    // PGM and PPM
    static const struct { const char *header; int width, height, channels, type, first; } pnm[] = {
        { "P5 2 1 255\n\x10\x20", 2, 1, 1, TL_U8, 0x10 }, { "P5\n# a comment\n2 # two\n1\n65535\n\x01\x02\x03\x04", 2, 1, 1, TL_U16, 0x0102 },
        { "P6 1 1 255 \x01\x02\x03", 1, 1, 3, TL_U8, 1 }, { "P5 1 1 15\n\x0F", 1, 1, 1, TL_U8, 255 }, { "P5 1 1 1023\n\x03\xFF", 1, 1, 1, TL_U16, 65535 },
        { "P5 1 1 100\n\xFF", 1, 1, 1, TL_U8, 255 }
    };
    path = temporary_path("image.pgm");
    for (size_t i = 0; i < sizeof pnm / sizeof *pnm; i++) {
        write_text(path, pnm[i].header);
        CHECK(!tl_image_load(&back, path), "%s: %s", pnm[i].header, tl_error(NULL));
        int first = back.type == TL_U16 ? ((uint16_t *)back.pixels)[0] : ((uint8_t *)back.pixels)[0];
        CHECK(back.width == pnm[i].width && back.height == pnm[i].height && back.channels == pnm[i].channels && (int)back.type == pnm[i].type && first == pnm[i].first, "%s", pnm[i].header);
    }
    static const char *const bad[] = { "P5", "P5 2", "P5 2 1", "P5 2 1 255", "P5 2 1 255\n\x10", "P5 0 1 255\n\x10", "P5 2 1 0\n\x10\x10", "P5 2 1 65536\n\x10\x10\x10\x10",
        "P5 99999999999 1 255\n\x10", "P5 -2 1 255\n\x10\x10", "P5 70000 70000 255\n\x10", "P5 65535 65535 255\n\x10", "hello", "\x89PNG\r\n\x1A\n", "", "P", "P4 1 1\n\x80" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_text(path, bad[i]);
        CHECK(tl_image_load(&back, path) != TL_OK && strstr(tl_error(NULL), "image.pgm"), "'%s' is an image? %s", bad[i], tl_error(NULL));
    }
    // a picture cut off at every byte
    path = temporary_path("cut.png");
    CHECK(!tl_image_save(&image, path), "%s", tl_error(NULL));
    uint8_t *bytes;
    size_t size;
    CHECK(!tl__read_file(path, 1 << 20, &bytes, &size), "%s", tl_error(NULL));
    for (size_t cut = size - 20; cut-- > 0; ) {           // the end of a PNG is not needed
        CHECK(truncate(path, (off_t)cut) == 0 && tl_image_load(&back, path) == TL_ERR_FORMAT, "a PNG cut off at %zu of %zu", cut, size);
    }
    tl__free(bytes);
    CHECK(tl_image_load(&back, temporary_path("none.png")) == TL_ERR_FILE && tl_image_load(&back, temporary_folder) == TL_ERR_FILE && tl_image_load(NULL, path) && tl_image_load(&back, NULL),
          "no file, a folder, NULL");
    CHECK(tl_image_save(&image, temporary_path("none/none.png")) == TL_ERR_FILE && tl_image_save(NULL, path) && tl_image_save(&image, NULL), "no such folder, NULL");
    CHECK(tl_image_save(&image, "") == TL_ERR_ARGUMENT && strstr(tl_error(NULL), "empty"), "a file without a name: %s", tl_error(NULL));
    CHECK(!tl_image_alloc(&image, 2, 2, 5, TL_U8) && tl_image_save(&image, path) == TL_ERR_SHAPE, "a PNG of five channels");
    tl_image_free(&image);
    tl_image_free(&back);
    tl_image_free(&f);
}

// ---- folders -------------------------------------------------------------------------------

static char root[300];

static const char *in_root(const char *folder, const char *name)
{
    static char paths[4][600];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s%s%s", root, folder, name ? "/" : "", name ? name : "");
    return path;
}

// A PGM of one value, 6 x 5; a mask of value `one` at pixel 7.
static void put_image(const char *folder, const char *name, int width, int value, int one)
{
    tl_image image = new_image(width, 5, 1, TL_U8);
    memset(image.pixels, value, (size_t)width * 5);
    if (one >= 0) ((uint8_t *)image.pixels)[7] = (uint8_t)one;
    char header[40], path[600];
    snprintf(path, sizeof path, "%s", in_root(folder, name));
    snprintf(header, sizeof header, "P5 %d 5 255\n", width);
    FILE *file = fopen(path, "wb");
    CHECK(file && fwrite(header, 1, strlen(header), file) == strlen(header) && fwrite(image.pixels, 1, (size_t)width * 5, file) == (size_t)width * 5 && fclose(file) == 0, "%s", path);
    tl_image_free(&image);
}

static void new_root(const char *name)
{
    snprintf(root, sizeof root, "%s", temporary_path(name));
    CHECK(mkdir(root, 0700) == 0 && mkdir(in_root("images", NULL), 0700) == 0 && mkdir(in_root("masks", NULL), 0700) == 0, "mkdir %s", root);
}

// Three images a, b, c with masks. c is wider.
static void good_folder(const char *name)
{
    new_root(name);
    put_image("images", "c.pgm", 8, 30, -1);
    put_image("images", "a.pgm", 6, 10, -1);
    put_image("images", "b.pgm", 6, 20, -1);
    put_image("masks", "a.pgm", 6, 0, 255);
    put_image("masks", "b.pgm", 6, 0, 255);
    put_image("masks", "c.pgm", 8, 255, 0);
}

static void refuse_folder(const char *what, const tl_folder_desc *desc, const char *says)
{
    tl_dataset *set = tl_folder(root, desc);
    CHECK(set == NULL && strstr(tl_error(NULL), says), "%s: '%s' is not in: %s", what, says, set ? "(accepted)" : tl_error(NULL));
    tl_dataset_free(set);
}

static void test_folder(void)
{
    tl_record record;
    memset(&record, 0, sizeof record);
    good_folder("good");
    write_text(in_root("images", ".hidden.pgm"), "nothing");
    write_text(in_root("images", "notes.txt"), "nothing");
    tl_dataset *set = tl_folder(root, NULL);
    CHECK(set && tl_dataset_count(set) == 3 && tl_dataset_classes(set) == 2, "%s", tl_error(NULL));
    static const char *const names[] = { "a.pgm", "b.pgm", "c.pgm" };
    for (int i = 0; i < 3; i++) {
        CHECK(strcmp(tl_dataset_name(set, i), names[i]) == 0 && strcmp(tl_dataset_specimen(set, i), names[i]) == 0, "example %d is %s of %s", i, tl_dataset_name(set, i), tl_dataset_specimen(set, i));
        CHECK(!tl_dataset_get(set, 5, i, &record) && strcmp(record.name, names[i]) == 0 && record.label == -1, "%s", tl_error(NULL));
        CHECK(record.image.width == (i == 2 ? 8 : 6) && tl_image_get(&record.image, 0, 0, 0) == 10 * (i + 1) / 255., "example %d has another image", i);
        int foreground = 0;
        for (int p = 0; p < record.mask.width * 5; p++) foreground += ((uint8_t *)record.mask.pixels)[p];
        CHECK(record.mask.width == record.image.width && foreground == (i == 2 ? 39 : 1), "example %d has %d pixels of foreground", i, foreground);
    }
    CHECK(tl_dataset_get(set, 0, 3, &record) == TL_ERR_ARGUMENT && tl_dataset_get(set, 0, -1, &record) && tl_dataset_get(set, 0, 0, NULL) && tl_dataset_get(NULL, 0, 0, &record), "no such example");
    CHECK(tl_dataset_name(set, 7)[0] == 0 && tl_dataset_specimen(NULL, 0)[0] == 0 && tl_dataset_label_name(set, 0)[0] == 0 && tl_dataset_count(NULL) == 0, "names that are not there");
    // subsets of subsets
    int two[2] = { 2, 0 }, one[3] = { 1, 1, 0 }, bad[1] = { 3 };
    tl_dataset *sub = tl_subset(set, two, 2), *subsub = tl_subset(sub, one, 3);
    CHECK(sub && subsub && tl_dataset_count(subsub) == 3 && strcmp(tl_dataset_name(subsub, 2), "c.pgm") == 0 && strcmp(tl_dataset_name(subsub, 0), "a.pgm") == 0 && tl_dataset_classes(subsub) == 2, "subsets");
    CHECK(!tl_dataset_get(subsub, 0, 2, &record) && record.image.width == 8, "%s", tl_error(NULL));
    CHECK(tl_subset(set, bad, 1) == NULL && tl_subset(set, NULL, 1) == NULL && tl_subset(NULL, two, 1) == NULL && tl_subset(set, two, 0) == NULL, "subsets that are not possible");
    tl_dataset_free(subsub);
    tl_dataset_free(sub);
    tl_dataset_free(set);
    // options
    tl_folder_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.crop_bottom = 3;
    set = tl_folder(root, &desc);
    CHECK(set && !tl_dataset_get(set, 0, 0, &record) && record.image.height == 2 && record.mask.height == 2, "crop_bottom: %s", tl_error(NULL));
    tl_dataset_free(set);
    desc.crop_bottom = 5;
    refuse_folder("crop_bottom 5 of 5 rows", &desc, "crop_bottom 5");
    desc.crop_bottom = -1;
    refuse_folder("crop_bottom -1", &desc, "crop_bottom -1");
    memset(&desc, 0, sizeof desc);
    desc.no_masks = 1;
    set = tl_folder(root, &desc);
    CHECK(set && !tl_dataset_get(set, 0, 0, &record) && record.mask.pixels == NULL, "no_masks: %s", tl_error(NULL));
    tl_dataset_free(set);
    memset(&desc, 0, sizeof desc);
    desc.classes = 256;
    refuse_folder("256 classes", &desc, "classes 256");
    CHECK(tl_folder(NULL, NULL) == NULL && tl_folder("", NULL) == NULL && tl_folder(temporary_path("no such folder"), NULL) == NULL && strstr(tl_error(NULL), "no such folder"), "%s", tl_error(NULL));
    tl_record_free(&record);
}

static tl_result broken_record(void *user, uint32_t epoch, int index, tl_record *out)
{
    (void)user, (void)epoch, (void)index, (void)out;
    return TL_ERR_FILE;
}

// A record function that fails without a word must not leave the sentence of another call.
static void test_record_function(void)
{
    tl_record record;
    memset(&record, 0, sizeof record);
    tl_dataset *set = tl_dataset_from(3, broken_record, NULL);
    tl_folder("no such folder", NULL);
    CHECK(tl_dataset_get(set, 0, 2, &record) == TL_ERR_FILE && strstr(tl_error(NULL), "returned TL_ERR_FILE for example 2"), "%s", tl_error(NULL));
    tl_dataset_free(set);
    tl_record_free(&record);
}

static void test_masks(void)
{
    tl_folder_desc classes;
    memset(&classes, 0, sizeof classes);
    classes.classes = 4;
    tl_record record;
    memset(&record, 0, sizeof record);
    good_folder("masks1");
    refuse_folder("masks of 0 and 255 as class indices", &classes, "leave classes out");
    unlink(in_root("masks", "b.pgm"));
    refuse_folder("a mask is missing", NULL, "'b.pgm' has no mask");
    put_image("masks", "b.bmp.pgm", 6, 0, 255);            // another stem
    refuse_folder("a mask of another name", NULL, "'b.pgm' has no mask");
    put_image("masks", "b.tga", 6, 0, 255);                // the content decides, not the extension
    tl_dataset *set = tl_folder(root, NULL);
    CHECK(set != NULL, "a mask with another extension: %s", tl_error(NULL));
    tl_dataset_free(set);
    put_image("masks", "b.bmp", 6, 0, 255);
    refuse_folder("two masks for one name", NULL, "masks1/masks' holds both 'b.bmp' and 'b.tga'");
    unlink(in_root("masks", "b.bmp"));
    put_image("images", "a.tif", 6, 0, -1);
    refuse_folder("two images of one name", NULL, "masks1/images' holds both 'a.pgm' and 'a.tif'");
    unlink(in_root("images", "a.tif"));
    unlink(in_root("masks", "b.tga"));
    put_image("masks", "b.pgm", 7, 0, 255);
    refuse_folder("a mask of another size", NULL, "mask 'b.pgm' is 7x5 but its image is 6x5");
    put_image("masks", "b.pgm", 6, 0, 128);
    refuse_folder("a gray mask", NULL, "value 128 at pixel (1, 1)");
    put_image("masks", "b.pgm", 6, 1, 255);
    refuse_folder("a mask with 1 and 255", NULL, "255");
    put_image("masks", "b.pgm", 6, 0, 1);
    set = tl_folder(root, NULL);
    CHECK(set && !tl_dataset_get(set, 0, 1, &record) && ((uint8_t *)record.mask.pixels)[7] == 1, "a mask of 0 and 1: %s", tl_error(NULL));
    tl_dataset_free(set);
    put_image("masks", "b.pgm", 6, 0, 3);
    refuse_folder("a mask with 3", NULL, "value 3");
    put_image("masks", "c.pgm", 8, TL_IGNORE, 2);
    set = tl_folder(root, &classes);
    CHECK(set && tl_dataset_classes(set) == 4 && !tl_dataset_get(set, 0, 1, &record) && ((uint8_t *)record.mask.pixels)[7] == 3, "4 classes: %s", tl_error(NULL));
    CHECK(set && !tl_dataset_get(set, 0, 2, &record) && ((uint8_t *)record.mask.pixels)[7] == 2 && ((uint8_t *)record.mask.pixels)[6] == TL_IGNORE, "unknown stays unknown");
    tl_dataset_free(set);
    put_image("masks", "b.pgm", 6, 0, 4);
    refuse_folder("class 4 of 4", &classes, "value 4 at pixel (1, 1); with 4 classes");
    write_text(in_root("masks", "b.pgm"), "P6 6 5 255\n"
        "\1\1\1" "\1\1\1" "\1\1\2" "\1\1\1" "\1\1\1" "\1\1\1" "\1\1\1" "\1\1\1" "\1\1\1" "\1\1\1" "\1\1\1" "\1\1\1" "\1\1\1" "\1\1\1" "\1\1\1"
        "\1\1\1" "\1\1\1" "\1\1\1" "\1\1\1" "\1\1\1" "\1\1\1" "\1\1\1" "\1\1\1" "\1\1\1" "\1\1\1" "\1\1\1" "\1\1\1" "\1\1\1" "\1\1\1" "\1\1\1");
    refuse_folder("a coloured mask", &classes, "coloured at pixel (2, 0)");
    write_text(in_root("masks", "b.pgm"), "P5 6 5 255\n");
    refuse_folder("a cut mask", NULL, "b.pgm");
    good_folder("masks2");
    write_text(in_root("images", "d.pgm"), "P6 1 1 255\n\1\1\1");
    refuse_folder("gray and colour", NULL, "'d.pgm' has 3 channels");
    write_text(in_root("images", "d.pgm"), "");
    refuse_folder("an empty image", NULL, "d.pgm' is empty");
    new_root("masks3");
    refuse_folder("no images", NULL, "has no images");
    rmdir(in_root("images", NULL));
    refuse_folder("no images folder", NULL, "no images folder");
    good_folder("masks4");
    remove_folder(in_root("masks", NULL));
    refuse_folder("no masks folder", NULL, "no masks folder");
    tl_record_free(&record);
}

typedef struct table_case {
    const char *text;
    const char *specimen[3];       // of a, b, c
    int label[3];
    const char *says;              // if it is refused
} table_case;

static const table_case tables[] = {
    { "file,specimen,label,source\na.pgm,s1,0,x\nb.pgm,s1,2,x\nc.pgm,s2,1,y\n", { "s1", "s1", "s2" }, { 0, 2, 1 }, NULL },
    { "\xEF\xBB\xBF" "file,specimen,label\r\nc.pgm,s2,1\r\na.pgm,s1,0\r\n\r\nb.pgm,s1,2", { "s1", "s1", "s2" }, { 0, 2, 1 }, NULL },     // BOM, CRLF, other order, no end of line
    { "label,remark,file,specimen\ngood,\"a, \"\"b\"\"\nand c\",a.pgm,s1\nbad,,b.pgm,s2\n,,c.pgm,\n", { "s1", "s2", "c.pgm" }, { 1, 0, -1 }, NULL },   // quotes, names sorted
    { "file\na.pgm\nb.pgm\nc.pgm\n", { "a.pgm", "b.pgm", "c.pgm" }, { -1, -1, -1 }, NULL },
    { "file,specimen\n a.pgm , s 1 \nb.pgm\t,\"s,2\"\nc.pgm,\n", { "s 1", "s,2", "c.pgm" }, { -1, -1, -1 }, NULL },                        // blanks, an empty specimen
    { "file,specimen\n,,\na.pgm,s1\nb.pgm,s1\n\n,\nc.pgm,s2\n \n", { "s1", "s1", "s2" }, { -1, -1, -1 }, NULL },                                 // blank rows
    { "file,label\na.pgm,-1\nb.pgm,\nc.pgm,3\n", { "a.pgm", "b.pgm", "c.pgm" }, { -1, -1, 3 }, NULL },
    { "file,label\na.pgm,1\nb.pgm,x\nc.pgm,1\n", { "a.pgm", "b.pgm", "c.pgm" }, { 0, 1, 0 }, NULL },                                       // mixed: names
    { "", { NULL, NULL, NULL }, { 0, 0, 0 }, "specimens.csv' must start with the row file,specimen,label; its first row has no 'file'" },
    { "name,specimen\na.pgm,s1\n", { NULL, NULL, NULL }, { 0, 0, 0 }, "its first row has no 'file'" },
    { "\xEF\xBB\xBF" "file;specimen\na.pgm;s1\n", { NULL, NULL, NULL }, { 0, 0, 0 }, "no 'file'; put commas in place of its semicolons" },
    { "file,specimen\na.pgm,s1\nz.pgm,s1\nc.pgm,s1\n", { NULL, NULL, NULL }, { 0, 0, 0 }, "specimens.csv', line 3 names 'z.pgm', which is not in images/" },
    { "file,specimen\na.pgm,s1\n,s1\n", { NULL, NULL, NULL }, { 0, 0, 0 }, "line 3 names ''" },
    { "file,specimen\nc.pgm,s1\na.pgm,s1\n", { NULL, NULL, NULL }, { 0, 0, 0 }, "specimens.csv' has no row for the image 'b.pgm'" },
    { "file,specimen\n", { NULL, NULL, NULL }, { 0, 0, 0 }, "no row for the image 'a.pgm'" },
    { "file,specimen\na.pgm,s1\na.pgm,s2\n", { NULL, NULL, NULL }, { 0, 0, 0 }, "two rows for 'a.pgm'" },
    { "file,specimen\na.pgm,\"s1\n", { NULL, NULL, NULL }, { 0, 0, 0 }, "never closed" },
    { "file,specimen\na.pgm,s1,\n", { NULL, NULL, NULL }, { 0, 0, 0 }, "specimens.csv', line 2 has 3 fields, the first row has 2" },
    { "file,specimen,label\na.pgm,s1\n", { NULL, NULL, NULL }, { 0, 0, 0 }, "line 2 has 2 fields, the first row has 3" },
    { "\"file", { NULL, NULL, NULL }, { 0, 0, 0 }, "never closed" }
};

static void test_tables(void)
{
    good_folder("table");
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        const table_case *t = &tables[i];
        write_text(in_root("specimens.csv", NULL), t->text);
        if (t->says) {
            refuse_folder(t->text, NULL, t->says);
            continue;
        }
        tl_dataset *set = tl_folder(root, NULL);
        CHECK(set != NULL, "%s: %s", t->text, tl_error(NULL));
        tl_record record;
        memset(&record, 0, sizeof record);
        for (int k = 0; k < 3 && set; k++) {
            CHECK(strcmp(tl_dataset_specimen(set, k), t->specimen[k]) == 0, "%s: example %d is of '%s'", t->text, k, tl_dataset_specimen(set, k));
            CHECK(!tl_dataset_get(set, 0, k, &record) && record.label == t->label[k], "%s: example %d has label %d", t->text, k, record.label);
        }
        if (i == 2) CHECK(strcmp(tl_dataset_label_name(set, 0), "bad") == 0 && strcmp(tl_dataset_label_name(set, 1), "good") == 0 && tl_dataset_label_name(set, 2)[0] == 0, "names of labels");
        tl_record_free(&record);
        tl_dataset_free(set);
    }
    char text[400] = "file,specimen\na.pgm,";
    memset(text + strlen(text), 's', 200);
    write_text(in_root("specimens.csv", NULL), text);
    refuse_folder("a long specimen", NULL, "longer than");
    write_text(in_root("specimens.csv", NULL), "file,label\na.pgm,1\nb.pgm,7\nc.pgm,0\n");
    tl_folder_desc labels;
    memset(&labels, 0, sizeof labels);
    labels.no_masks = 1;
    tl_dataset *set = tl_folder(root, &labels);
    CHECK(set && tl_dataset_classes(set) == 8, "classes from labels: %d", tl_dataset_classes(set));
    tl_dataset_free(set);
    labels.classes = 5;
    refuse_folder("label 7 of 5", &labels, "label 7");
}

// ---- weight maps, boxes, keypoints ---------------------------------------------------------

static void put_weights(const char *name, int width, int channels)
{
    char text[400];
    snprintf(text, sizeof text, "P%d %d 5 255\n", channels == 1 ? 5 : 6, width);
    size_t header = strlen(text), count = (size_t)(width * 5 * channels);
    for (size_t i = 0; i < count; i++) text[header + i] = (char)(i * 8 / (size_t)channels % 256);
    write_bytes(in_root("weights", name), text, header + count);
}

// What a loss on the masks of a folder is, from the logits that are left behind.
static void check_weighted_loss(const tl_dataset *set)
{
    tl_record record;
    tl_net *net = tl_net_new(NULL);
    tl_evaluation found;
    int index = 1;
    tl_loss_desc loss;
    tl_conv2d_desc conv;
    memset(&loss, 0, sizeof loss);
    memset(&conv, 0, sizeof conv);
    memset(&record, 0, sizeof record);
    loss.kind = TL_CROSS_ENTROPY;
    conv.out = 2;
    conv.kernel = 3;
    conv.pad = 1;
    tl_node y = tl_conv2d(net, tl_input(net, 5, 6, 1), &conv);
    tl_loss(net, y, &loss);
    tl_dataset *one = tl_subset(set, &index, 1);
    CHECK(!tl_evaluate(net, one, 1, NULL, &found) && !tl_dataset_get(one, 0, 0, &record), "%s", tl_error(net));
    const tl_real *x = tl_data(net, y);
    double sum = 0, all = 0;
    for (int i = 0; i < 30 && x; i++) {
        int class_here = ((uint8_t *)record.mask.pixels)[i];
        double weight = (double)((float *)record.weight.pixels)[i], a = (double)x[2 * i], b = (double)x[2 * i + 1];
        sum += weight * (log(exp(a) + exp(b)) - (class_here ? b : a));
        all += weight;
    }
    CHECK(fabs(found.loss - sum / all) < 1e-6, "weighted loss %.9g, not %.9g", found.loss, sum / all);
    char text[400];
    tl_to_text(net, text, sizeof text);
    CHECK(!strstr(text, "pixel_weights"), "evaluating has changed the losses: %s", text);
    tl_real targets_left[2 * 30];
    memset(targets_left, 0, sizeof targets_left);
    CHECK(tl_set_target_weight(net, 0, targets_left, 1) == TL_ERR_ARGUMENT, "the loss still takes weights");
    tl_fit_desc fit;
    memset(&fit, 0, sizeof fit);
    fit.train = set;
    fit.epochs = 30;
    fit.batch = 3;
    fit.optimizer.kind = TL_SGD;
    fit.optimizer.lr = 0.5f;
    double before = found.loss;
    CHECK(!tl_fit(net, &fit, NULL) && !tl_evaluate(net, one, 1, NULL, &found) && found.loss < before, "%s, loss %g", tl_error(net), found.loss);
    tl_dataset_free(one);
    tl_record_free(&record);
    tl_net_free(net);
}

// The same without a folder that could be looked into.
static tl_result weighted_record(void *user, uint32_t epoch, int index, tl_record *out)
{
    (void)epoch;
    return tl_dataset_get((const tl_dataset *)user, 0, index, out);
}

// The same, weights cut to 0 and 1.
static tl_result known_record(void *user, uint32_t epoch, int index, tl_record *out)
{
    tl_result result = weighted_record(user, epoch, index, out);
    float *weight = (float *)out->weight.pixels;
    for (size_t i = 0; !result && weight && i < tl__image_values(&out->weight); i++) weight[i] = weight[i] > 0.4f;
    return result;
}

// The loss of an untrained network on a set: one term, and a second one with a tenth of the weight if `second`.
static tl_result loss_on(const tl_dataset *set, tl_loss_kind kind, int channels, int dense, int with, int second, tl_evaluation *out, char *why)
{
    tl_net *net = tl_net_new(NULL);
    tl_loss_desc loss;
    tl_conv2d_desc conv;
    memset(&loss, 0, sizeof loss);
    memset(&conv, 0, sizeof conv);
    conv.out = channels;
    conv.kernel = 1;
    loss.kind = kind;
    loss.dense = dense;
    loss.pixel_weights = with;
    tl_node y = tl_conv2d(net, tl_input(net, 5, 6, 1), &conv);
    tl_loss(net, y, &loss);
    loss.kind = TL_CROSS_ENTROPY;
    loss.weight = 0.1f;
    loss.pixel_weights = second == 1;
    if (second) tl_loss(net, y, &loss);
    tl_result result = tl_evaluate(net, set, 2, NULL, out);
    snprintf(why, 512, "%s", tl_error(net));
    tl_net_free(net);
    return result;
}

static void check_weights_of_stream(tl_dataset *set)
{
    static const tl_loss_kind kinds[] = { TL_CROSS_ENTROPY, TL_DICE, TL_BCE };
    tl_dataset *stream = tl_dataset_from(3, weighted_record, set), *known = tl_dataset_from(3, known_record, set);
    tl_evaluation a = { 0 }, b = { 0 };
    char why[512];
    CHECK(loss_on(stream, TL_DICE, 2, 0, 0, 0, &a, why) == TL_ERR_ARGUMENT && strstr(why, "set its pixel_weights"), "%s", why);
    CHECK(!loss_on(stream, TL_DICE, 2, 0, 1, 0, &a, why) && !loss_on(set, TL_DICE, 2, 0, 0, 0, &b, why) && a.loss == b.loss, "stream %g, folder %g", a.loss, b.loss);
    // one term that takes weights speaks for the other terms on the same targets
    for (int second = 1; second <= 2; second++)
        CHECK(!loss_on(stream, TL_DICE, 2, 0, second == 2, second, &a, why) && !loss_on(set, TL_DICE, 2, 0, 0, second, &b, why) && a.loss == b.loss,
              "%s, stream %g, folder %g", why, a.loss, b.loss);
    // dense targets leave out the pixels that indices leave out
    for (int i = 0; i < 3; i++)
        CHECK(!loss_on(known, kinds[i], i ? 1 : 2, 0, 0, 0, &a, why) && !loss_on(known, kinds[i], i ? 1 : 2, 1, 0, 0, &b, why) && fabs(a.loss - b.loss) < 1e-6 && a.loss > 0.1,
              "loss %d: %s, indices %.9g, dense %.9g", i, why, a.loss, b.loss);
    tl_dataset_free(stream);
    tl_dataset_free(known);
}

static void test_beside(void)
{
    static const struct { const char *file, *text, *says; } bad[] = {
        { "boxes.csv", "file,x0,y0,x1\na.pgm,0,0,1\n", "boxes.csv' must start with the row file,x0,y0,x1,y1,label; its first row has no 'y1'" },
        { "keypoints.csv", "a.pgm,0,0,1\n", "keypoints.csv' must start with the row file,x,y,label; its first row has no 'file'" }, { "boxes.csv", "file,x0,y0,x1,y1\na.pgm,0,0,1,1\na.pgm,0,zero,1,1\n", "boxes.csv', line 3: y0 of 'a.pgm' is 'zero'" },
        { "boxes.csv", "note,file,x0,y0,x1,y1\n\n\"b\n\",a.pgm,0,0,1,1\n,a.pgm,0,0,7,1\n", "line 5: a box of 'a.pgm' lies outside of the image of 6x5" },
        { "boxes.csv", "file,x0,y0,x1,y1\r\na.pgm,2,0,2,1\r\n", "line 2: the box of 'a.pgm' from 2, 0 to 2, 1 is empty" },
        { "boxes.csv", "file,x0,y0,x1,y1,label\na.pgm,0,0,1,1,pore\n", "line 2: the label 'pore' of 'a.pgm'" },
        { "boxes.csv", "file,x0,y0,x1,y1\nz.pgm,0,0,1,1\n", "boxes.csv', line 2 names 'z.pgm', which is not in images/" }, { "boxes.csv", "file,x0,y0,x1,y1\na.pgm,0,0,1,\n", "line 2: y1 of 'a.pgm' is ''" },
        { "keypoints.csv", "file,x,y\na.pgm,nan,1\n", "line 2: x of 'a.pgm' is 'nan'" }, { "keypoints.csv", "file,x,y\na.pgm,1,-0.6\n", "line 2: a point of 'a.pgm' lies outside" },
        { "boxes.csv", "file,x0,y0,x1,y1,label\na.pgm,0,0,1,1,0,5\n", "boxes.csv', line 2 has 7 fields, the first row has 6" },
        { "boxes.csv", "file,x0,y0,x1,y1,label\na.pgm,0,0,1,1\n", "line 2 has 5 fields, the first row has 6" },
        { "boxes.csv", "file,x0,y0,x1,y1,label\na.pgm,0,0,1,1,\n", "line 2: the label '' of 'a.pgm' must be a whole number" },
        { "keypoints.csv", "file,x,y,label\na.pgm,1,1,0\na.pgm,1,1, \n", "line 3: the label '' of 'a.pgm' must be a whole number" },
        { "keypoints.csv", "file,x,y\na.pgm,1,1\n\naa.pgm,1,1\n", "keypoints.csv', line 4 names 'aa.pgm'" },
        { "keypoints.csv", "file,x,y\na.pgm,\"1,1\n", "line 2: a quote is opened" }
    };
    tl_record r;
    memset(&r, 0, sizeof r);
    good_folder("beside");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_text(in_root(bad[i].file, NULL), bad[i].text);
        refuse_folder(bad[i].text, NULL, bad[i].says);
        unlink(in_root(bad[i].file, NULL));
    }
    mkdir(in_root("weights", NULL), 0700);
    put_weights("b.pgm", 7, 1);
    refuse_folder("weights of another size", NULL, "weight map 'b.pgm' is 7x5 but its image is 6x5");
    put_weights("b.pgm", 6, 3);
    refuse_folder("coloured weights", NULL, "weight map 'b.pgm' is coloured");
    put_weights("b.pgm", 6, 1);
    put_weights("d.pgm", 6, 1);
    refuse_folder("weights of no image", NULL, "d.pgm' belongs to no image");
    unlink(in_root("weights", "d.pgm"));
    write_text(in_root("boxes.csv", NULL), "label,file,x1,y1,x0,y0,note\n2,b.pgm,3,2.5,0,0.5,\"a, b\"\n0,a.pgm,6,5,-0.5,-0.5,\n0,b.pgm,1,4.5,0,3.75,cut off\n");
    write_text(in_root("keypoints.csv", NULL), "file,x,y,label\nb.pgm,1,2,7\nb.pgm,0,4,3\nb.pgm,5.5,1e0,1\n");
    tl_folder_desc crop;
    memset(&crop, 0, sizeof crop);
    for (int cut = 0; cut < 2; cut++) {
        crop.crop_bottom = cut;
        tl_dataset *set = tl_folder(root, &crop);
        CHECK(set && !tl_dataset_get(set, 0, 1, &r), "%s", tl_error(NULL));
        CHECK(r.box_count == 2 && r.keypoint_count == 3 && r.weight.height == 5 - cut && !tl_dataset_get(set, 0, 1, &r), "%d boxes, %d points", r.box_count, r.keypoint_count);
        for (int i = 0; i < 30 - 6 * cut; i++) CHECK(fabs((double)((float *)r.weight.pixels)[i] - i * 8 / 255.0) < 1e-6, "weight %d", i);
        const tl_box *b = r.boxes;
        CHECK(b[0].x0 == 0 && b[0].y0 == 0.5f && b[0].x1 == 3 && b[0].y1 == 2.5f && b[0].label == 2 && !b[0].hidden, "the first box");
        CHECK(b[1].hidden == cut && (cut || (b[1].y0 == 3.75f && b[1].y1 == 4.5f && b[1].label == 0)), "the box at the bottom");
        const tl_keypoint *k = r.keypoints;
        CHECK(k[0].x == 1 && k[0].y == 2 && k[0].label == 7 && k[1].y == 4 && k[1].hidden == cut && k[2].x == 5.5f && k[2].y == 1, "keypoints");
        CHECK(!tl_dataset_get(set, 0, 0, &r) && r.box_count == 1 && r.keypoint_count == 0 && !r.weight.pixels && r.boxes[0].x1 == 5.5f && r.boxes[0].y1 == 4.5f - (float)cut, "the box of a.pgm");
        if (!cut) check_weights_of_stream(set);
        tl_dataset_free(set);
    }
    put_weights("a.pgm", 6, 1);
    put_weights("c.pgm", 8, 1);
    tl_dataset *set = tl_folder(root, NULL);
    CHECK(set != NULL, "%s", tl_error(NULL));
    check_weighted_loss(set);
    tl_dataset_free(set);
    tl_record_free(&r);
}

// ---- augmentation --------------------------------------------------------------------------

static uint8_t code(int x, int y) { return (uint8_t)((x * 7 + y * 113) % 251); }

// An image that says at each pixel where it was, x and y as parts of 64, and a mask with a code of the same place.
static void ramp(tl_record *record, int width, int height)
{
    CHECK(!tl_image_alloc(&record->image, width, height, 2, TL_F32) && !tl_image_alloc(&record->mask, width, height, 1, TL_U8), "%s", tl_error(NULL));
    for (int y = 0; y < height; y++)
    for (int x = 0; x < width; x++) {
        ((float *)record->image.pixels)[2 * (y * width + x)] = (float)x / 64;
        ((float *)record->image.pixels)[2 * (y * width + x) + 1] = (float)y / 64;
        ((uint8_t *)record->mask.pixels)[y * width + x] = code(x, y);
    }
}

typedef struct place {
    int x, y;
} place;

static place where(const tl_record *record, int x, int y)
{
    place p;
    p.x = (int)(64 * tl_image_get(&record->image, x, y, 0) + 0.5);
    p.y = (int)(64 * tl_image_get(&record->image, x, y, 1) + 0.5);
    return p;
}

// Image and mask agree everywhere; neighbours were neighbours; nothing is there twice.
static void check_moved(const char *what, const tl_record *record)
{
    const tl_image *m = &record->mask;
    char seen[64 * 64];
    int bad = 0;
    memset(seen, 0, sizeof seen);
    CHECK(m->width == record->image.width && m->height == record->image.height, "%s: image and mask have other sizes", what);
    for (int y = 0; y < m->height; y++)
    for (int x = 0; x < m->width; x++) {
        place p = where(record, x, y);
        bad += ((uint8_t *)m->pixels)[y * m->width + x] != code(p.x, p.y) || seen[64 * p.y + p.x]++;
        if (x == 0 || y == 0) continue;
        place left = where(record, x - 1, y), above = where(record, x, y - 1);
        int dx = p.x - left.x, dy = p.y - left.y, ex = p.x - above.x, ey = p.y - above.y;
        bad += dx * dx + dy * dy != 1 || ex * ex + ey * ey != 1 || dx * ex + dy * ey != 0;
    }
    CHECK(bad == 0, "%s: %d pixels are wrong", what, bad);
}

static tl_transform transform(tl_transform_kind kind, float p, float lo, float hi)
{
    tl_transform t;
    memset(&t, 0, sizeof t);
    t.kind = kind; t.p = p; t.range.lo = lo; t.range.hi = hi;
    return t;
}

static void test_geometry(void)
{
    static const int sizes[][2] = { { 33, 57 }, { 1, 1 }, { 17, 1 }, { 1, 17 } };
    tl_record record, scratch;
    memset(&record, 0, sizeof record);
    memset(&scratch, 0, sizeof scratch);
    for (int s = 0; s < 4; s++) {
        int w = sizes[s][0], h = sizes[s][1], turned[4] = { 0, 0, 0, 0 };
        for (uint32_t sample = 0; sample < 40; sample++) {
            tl_transform flip_x = transform(TL_FLIP_X, 0, 0, 0), flip_y = transform(TL_FLIP_Y, 0, 0, 0), turn = transform(TL_ROT90, 0, 0, 0);
            ramp(&record, w, h);
            CHECK(!tl_augment(&record, &flip_x, 1, 5, 0, sample, &scratch) && where(&record, 0, 0).x == w - 1 && where(&record, 0, 0).y == 0, "flip_x");
            check_moved("flip_x", &record);
            ramp(&record, w, h);
            CHECK(!tl_augment(&record, &flip_y, 1, 5, 0, sample, &scratch) && where(&record, 0, 0).x == 0 && where(&record, 0, 0).y == h - 1, "flip_y");
            check_moved("flip_y", &record);
            ramp(&record, w, h);
            CHECK(!tl_augment(&record, &turn, 1, 5, 0, sample, &scratch), "%s", tl_error(NULL));
            check_moved("rot90", &record);
            place p = where(&record, 0, 0), q = where(&record, record.image.width - 1, 0);   // the corners of a rotation, never a reflection
            int quarter = p.x == 0 && p.y == 0 && q.y == 0 && q.x == w - 1 ? 0 : p.x == w - 1 && p.y == 0 && q.x == w - 1 && q.y == h - 1 ? 1 :
                          p.x == w - 1 && p.y == h - 1 && q.y == h - 1 && q.x == 0 ? 2 : p.x == 0 && p.y == h - 1 && q.x == 0 && q.y == 0 ? 3 : -1;
            CHECK(quarter >= 0, "%d x %d: a turn has its corners at (%d, %d) and (%d, %d)", w, h, p.x, p.y, q.x, q.y);
            if (quarter >= 0) turned[quarter]++;
            tl_transform crop = transform(TL_CROP, 0, 0, 0);
            crop.width = (w + 1) / 2;
            crop.height = (h + 2) / 3;
            tl_transform all[4];
            all[0] = crop; all[1] = turn; all[2] = transform(TL_FLIP_X, 0.5f, 0, 0); all[3] = transform(TL_FLIP_Y, 0.5f, 0, 0);
            ramp(&record, w, h);
            CHECK(!tl_augment(&record, all, 4, 5, 1, sample, &scratch), "%s", tl_error(NULL));
            CHECK(record.image.width * record.image.height == crop.width * crop.height, "a crop of %d x %d", record.image.width, record.image.height);
            check_moved("crop, rot90, flips", &record);
        }
        if (w > 1 && h > 1) for (int k = 0; k < 4; k++) CHECK(turned[k] > 2, "%d quarter turns came %d times of 40", k, turned[k]);
    }
    // where crops begin, and how often something is done
    int first[3] = { 0, 0, 0 }, flips = 0;
    for (uint32_t sample = 0; sample < 3000; sample++) {
        tl_transform crop = transform(TL_CROP, 0, 0, 0), flip = transform(TL_FLIP_X, 0.3f, 0, 0);
        crop.width = 3;
        crop.height = 2;
        ramp(&record, 5, 2);
        CHECK(!tl_augment(&record, &crop, 1, 6, 0, sample, &scratch), "%s", tl_error(NULL));
        first[where(&record, 0, 0).x]++;
        ramp(&record, 2, 1);
        CHECK(!tl_augment(&record, &flip, 1, 6, 0, sample, &scratch), "%s", tl_error(NULL));
        flips += where(&record, 0, 0).x == 1;
    }
    for (int k = 0; k < 3; k++) CHECK(abs(first[k] - 1000) < 120, "a crop begins at %d in %d of 3000", k, first[k]);
    CHECK(abs(flips - 900) < 120, "p = 0.3 gives %d of 3000", flips);
    // u8 images become f32; the end mark ends; a mask is not needed
    tl_transform ended[2];
    ended[0] = transform(TL_TRANSFORM_END, 0, 0, 0); ended[1] = transform(TL_FLIP_X, 0, 0, 0);
    tl_record_free(&record);
    CHECK(!tl_image_alloc(&record.image, 4, 2, 1, TL_U16) && !tl_augment(&record, ended, 2, 1, 0, 0, &scratch) && record.image.type == TL_F32 && record.mask.pixels == NULL, "%s", tl_error(NULL));
    CHECK(!tl_augment(&record, NULL, 0, 1, 0, 0, &scratch), "no transforms: %s", tl_error(NULL));
    tl_record_free(&record);
    tl_record_free(&scratch);
}

// A constant image through one transform; mean and variance of what comes out.
static void step_moments(tl_transform t, float grey, double *mean, double *variance)
{
    tl_record record, scratch;
    memset(&record, 0, sizeof record);
    memset(&scratch, 0, sizeof scratch);
    CHECK(!tl_image_alloc(&record.image, 200, 200, 1, TL_F32), "%s", tl_error(NULL));
    float *x = (float *)record.image.pixels;
    for (int i = 0; i < 40000; i++) x[i] = grey;
    CHECK(!tl_augment(&record, &t, 1, 3, 0, 0, &scratch), "%s", tl_error(NULL));
    x = (float *)record.image.pixels;
    *mean = *variance = 0;
    for (int i = 0; i < 40000; i++) *mean += (double)x[i] / 40000;
    for (int i = 0; i < 40000; i++) *variance += tl__square((double)x[i] - *mean) / 40000;
    tl_record_free(&record);
    tl_record_free(&scratch);
}

static void test_greys(void)
{
    double mean, variance;
    step_moments(transform(TL_BRIGHTNESS, 0, 0.2f, 0.2f), 0.5f, &mean, &variance);
    CHECK(fabs(mean - 0.7) < 1e-6 && variance < 1e-12, "brightness: %g, %g", mean, variance);
    step_moments(transform(TL_BRIGHTNESS, 0, 0.8f, 0.8f), 0.5f, &mean, &variance);
    CHECK(fabs(mean - 1) < 1e-9, "brightness is clipped: %g", mean);
    step_moments(transform(TL_GAUSS_NOISE, 0, 0.05f, 0.05f), 0.5f, &mean, &variance);
    CHECK(fabs(mean - 0.5) < 0.001 && fabs(sqrt(variance) - 0.05) < 0.001, "noise: %g, %g", mean, sqrt(variance));
    step_moments(transform(TL_POISSON, 0, 100, 100), 0.5f, &mean, &variance);
    CHECK(fabs(mean - 0.5) < 0.002 && fabs(variance - 0.5 / 100) < 0.0002, "Poisson: %g, %g", mean, variance);
    tl_record record, scratch;
    memset(&record, 0, sizeof record);
    memset(&scratch, 0, sizeof scratch);
    tl_transform contrast = transform(TL_CONTRAST, 0, 0.5f, 0.5f);
    CHECK(!tl_image_alloc(&record.image, 2, 1, 1, TL_F32), "%s", tl_error(NULL));
    ((float *)record.image.pixels)[0] = 0.4f;
    ((float *)record.image.pixels)[1] = 0.6f;
    CHECK(!tl_augment(&record, &contrast, 1, 3, 0, 0, &scratch) && fabs(tl_image_get(&record.image, 0, 0, 0) - 0.35) < 1e-6 && fabs(tl_image_get(&record.image, 1, 0, 0) - 0.65) < 1e-6, "contrast about the mean");
    // number i of the list draws the same, whatever stands before it
    tl_transform shift = transform(TL_BRIGHTNESS, 0, -0.3f, 0.3f), list[2];
    double alone[2], after;
    for (int k = 0; k < 2; k++) {
        list[0] = k ? transform(TL_FLIP_X, 0, 0, 0) : transform(TL_GAUSS_NOISE, 0.0001f, 0.01f, 0.01f);
        list[1] = shift;
        CHECK(!tl_image_alloc(&record.image, 1, 1, 1, TL_F32), "%s", tl_error(NULL));
        ((float *)record.image.pixels)[0] = 0.5f;
        CHECK(!tl_augment(&record, list, 2, 8, 1, 2, &scratch), "%s", tl_error(NULL));
        alone[k] = tl_image_get(&record.image, 0, 0, 0);
    }
    ((float *)record.image.pixels)[0] = 0.5f;
    CHECK(!tl_augment(&record, list, 2, 8, 1, 3, &scratch), "%s", tl_error(NULL));
    after = tl_image_get(&record.image, 0, 0, 0);
    CHECK(alone[0] == alone[1] && alone[0] != after && alone[0] != 0.5, "draws: %g, %g, of another sample %g", alone[0], alone[1], after);
    // mistakes
    struct { tl_transform t; const char *says; } bad[] = {
        { transform((tl_transform_kind)99, 0, 0, 0), "kind 99" }, { transform(TL_FLIP_X, 1.5f, 0, 0), "p = 1.5" },
        { transform(TL_FLIP_X, -0.1f, 0, 0), "p = -0.1" }, { transform(TL_BRIGHTNESS, 0, 0, 0), "shift is missing" },
        { transform(TL_BRIGHTNESS, 0, 0.2f, 0.1f), "reversed" }, { transform(TL_BRIGHTNESS, 0, 0, 20), "at most 1" },
        { transform(TL_GAUSS_NOISE, 0, 10, 50), "gauss_noise" }, { transform(TL_POISSON, 0, 0, 100), "at least 0.001" },
        { transform(TL_CROP, 0, 0, 0), "width is missing" }, { transform(TL_CROP, 0, 0, 0), "does not fit" },
        { transform(TL_CONTRAST, 0, NAN, 1), "not a number" }, { transform(TL_CROP, 0, 0, 0), "at least 1" }
    };
    bad[8].t.height = 5;
    bad[9].t.width = bad[9].t.height = 9;
    bad[11].t.width = bad[11].t.height = -1;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(tl_augment(&record, &bad[i].t, 1, 1, 0, 0, &scratch) != TL_OK && strstr(tl_error(NULL), bad[i].says), "bad transform %zu: %s", i, tl_error(NULL));
    ((float *)record.image.pixels)[0] = 40;
    CHECK(tl_augment(&record, &shift, 1, 1, 0, 0, &scratch) == TL_ERR_ARGUMENT && strstr(tl_error(NULL), "40"), "brightness on 40: %s", tl_error(NULL));
    CHECK(tl_augment(NULL, &shift, 1, 1, 0, 0, &scratch) && tl_augment(&record, &shift, 1, 1, 0, 0, NULL) && tl_augment(&record, &shift, 1, 1, 0, 0, &record) &&
          tl_augment(&record, NULL, 1, 1, 0, 0, &scratch) && tl_augment(&record, &shift, -1, 1, 0, 0, &scratch), "NULL");
    CHECK(!tl_image_alloc(&record.mask, 2, 2, 1, TL_U8) && tl_augment(&record, &shift, 1, 1, 0, 0, &scratch) == TL_ERR_SHAPE && strstr(tl_error(NULL), "2x2"), "a mask of another size");
    tl_record_free(&record);
    tl_record_free(&scratch);
}

// ---- random numbers ------------------------------------------------------------------------

static void test_philox(void)
{
    static const struct { uint32_t counter[4], key[2], want[4]; } known[] = {       // kat_vectors of the Random123 distribution
        { { 0, 0, 0, 0 }, { 0, 0 }, { 0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u } },
        { { ~0u, ~0u, ~0u, ~0u }, { ~0u, ~0u }, { 0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu } },
        { { 0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u }, { 0xa4093822u, 0x299f31d0u }, { 0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u } }
    };
    for (int i = 0; i < 3; i++) {
        uint32_t out[4];
        tl__philox(known[i].counter, known[i].key, out);
        CHECK(memcmp(out, known[i].want, sizeof out) == 0, "philox %d: %08x %08x %08x %08x", i, out[0], out[1], out[2], out[3]);
    }
    // a number is a function of its address: nothing else counts, and every part of the address does
    tl_rng a = tl_rng_at(1, TL_RANDOM_CROP, 2, 3, 4), b = tl_rng_at(1, TL_RANDOM_CROP, 2, 3, 4);
    tl_rng others[5];
    others[0] = tl_rng_at(1u + ((uint64_t)1 << 32), TL_RANDOM_CROP, 2, 3, 4); others[1] = tl_rng_at(1, TL_RANDOM_USER, 2, 3, 4);
    others[2] = tl_rng_at(1, TL_RANDOM_CROP, 3, 3, 4); others[3] = tl_rng_at(1, TL_RANDOM_CROP, 2, 4, 4); others[4] = tl_rng_at(1, TL_RANDOM_CROP, 2, 3, 5);
    int same = 0, equal_to_other = 0;
    for (int i = 0; i < 100; i++) {
        uint32_t v = tl_random_u32(&a);
        same += v == tl_random_u32(&b);
        for (int k = 0; k < 5; k++) equal_to_other += v == tl_random_u32(&others[k]);
    }
    CHECK(same == 100 && equal_to_other == 0, "%d of 100 the same, %d of other addresses", same, equal_to_other);
}

static double chi_squared(const int *counts, const double *expected, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (counts[i] - expected[i]) * (counts[i] - expected[i]) / expected[i];
    return sum;
}

// Five standard deviations: everything here is drawn from fixed addresses, so a test that passes once passes always.
static void test_distributions(void)
{
    enum { N = 100000 };
    tl_rng rng = tl_rng_at(12, TL_RANDOM_USER, 0, 0, 0);
    double sum = 0, squares = 0, cubes = 0, fourth = 0;
    int inside = 1, counts[64];
    for (int i = 0; i < N; i++) {
        double v = (double)tl_random_uniform(&rng, -2, 3);
        sum += v;
        squares += (v - 0.5) * (v - 0.5);
        inside &= v >= -2 && v < 3;
    }
    CHECK(inside && fabs(sum / N - 0.5) < 5 * sqrt(25. / 12 / N) && fabs(squares / N - 25. / 12) < 0.03, "uniform: %g, %g", sum / N, squares / N);
    for (int i = 0; i < 1000; i++) inside &= tl_random_uniform(&rng, 1, 1.00000012f) == 1 && tl_random_uniform(&rng, 3, 3) == 3;
    CHECK(inside, "uniform: the upper end");
    sum = squares = 0;
    for (int i = 0; i < N; i++) {
        double v = (double)tl_random_normal(&rng);
        sum += v;
        squares += v * v;
        cubes += v * v * v;
        fourth += v * v * v * v;
    }
    CHECK(fabs(sum / N) < 5 / sqrt(N) && fabs(squares / N - 1) < 5 * sqrt(2. / N) && fabs(cubes / N) < 5 * sqrt(15. / N) && fabs(fourth / N - 3) < 5 * sqrt(96. / N),
          "normal: moments %g %g %g %g", sum / N, squares / N, cubes / N, fourth / N);
    double expected[64];
    for (int n = 1; n <= 60; n = 3 * n + 1) {
        memset(counts, 0, sizeof counts);
        for (int i = 0; i < N; i++) counts[tl_random_below(&rng, (uint32_t)n)]++;
        for (int k = 0; k < n; k++) expected[k] = (double)N / n;
        CHECK(chi_squared(counts, expected, n) < n - 1 + 5 * sqrt(2. * n), "below %d: chi squared %g", n, chi_squared(counts, expected, n));
    }
    CHECK(tl_random_below(&rng, 0) == 0 && tl_random_below(&rng, 1) == 0, "below 0 and 1");
    uint32_t most = 0;
    for (int i = 0; i < 1000; i++) most |= tl_random_below(&rng, 0xFFFFFFFFu);
    CHECK(most == 0xFFFFFFFFu, "below 2^32-1 uses all bits");
    memset(counts, 0, sizeof counts);
    for (int i = 0; i < N; i++) {
        int items[4] = { 0, 1, 2, 3 }, number = 0;
        tl_random_shuffle(&rng, items, 4);
        for (int k = 0, left = 0xF; k < 4; k++) {
            int smaller = 0;
            for (int m = 0; m < items[k]; m++) smaller += left >> m & 1;
            number = number * (4 - k) + smaller;
            left &= ~(1 << items[k]);
        }
        counts[number]++;
    }
    for (int k = 0; k < 24; k++) expected[k] = N / 24.;
    CHECK(chi_squared(counts, expected, 24) < 23 + 5 * sqrt(46.), "shuffle: chi squared %g", chi_squared(counts, expected, 24));
}

static void test_poisson(void)
{
    static const double means[] = { 0.01, 0.5, 3, 9.99, 10, 12, 40, 1000, 1e6, 1e9 };
    tl_rng rng = tl_rng_at(13, TL_RANDOM_USER, 0, 0, 0);
    for (int m = 0; m < 10; m++) {
        enum { N = 40000 };
        double sum = 0, squares = 0, mean = means[m], expected[64];
        int counts[64], cells = (int)fmin(60, mean + 5 * sqrt(mean) + 4);
        memset(counts, 0, sizeof counts);
        for (int i = 0; i < N; i++) {
            uint32_t v = tl_random_poisson(&rng, mean);
            sum += v - mean;
            squares += (v - mean) * (v - mean);
            counts[v < (uint32_t)cells - 1 ? (int)v : cells - 1]++;
        }
        CHECK(fabs(sum / N) < 5 * sqrt(mean / N) && fabs(squares / N / mean - 1) < 5 * sqrt((2 + 1 / mean) / N), "Poisson %g: mean off by %g, variance %g", mean, sum / N, squares / N);
        if (mean > 40) continue;
        double rest = N, chi = 0;
        int used = 0;
        for (int k = 0; k < cells - 1; k++) {
            expected[k] = N * exp(k * log(mean) - mean - lgamma(k + 1.));
            rest -= expected[k];
            if (expected[k] < 5) continue;
            chi += (counts[k] - expected[k]) * (counts[k] - expected[k]) / expected[k];
            used++;
        }
        CHECK(chi < used + 5 * sqrt(2. * used), "Poisson %g: chi squared %g of %d cells", mean, chi, used);
        CHECK(fabs(counts[cells - 1] - rest) < 5 * sqrt(rest + 1) + 5, "Poisson %g: %d beyond %d, expected %g", mean, counts[cells - 1], cells, rest);
    }
    CHECK(tl_random_poisson(&rng, 0) == 0 && tl_random_poisson(&rng, -1) == 0 && tl_random_poisson(&rng, NAN) == 0 && tl_random_poisson(&rng, INFINITY) > 900000000u, "Poisson at the ends");
}

// ---- Voronoi and grains --------------------------------------------------------------------

static void brute_force(const float *points, int count, int width, int height, int32_t *ids)
{
    for (int y = 0; y < height; y++)
    for (int x = 0; x < width; x++) {
        double best = INFINITY;
        for (int i = 0; i < count; i++) {
            double d = tl__square(x - (double)points[2 * i]) + tl__square(y - (double)points[2 * i + 1]);
            if (d >= best) continue;
            best = d;
            ids[y * width + x] = i;
        }
    }
}

static void test_voronoi(void)
{
    static const int sizes[][2] = { { 57, 33 }, { 1, 1 }, { 1, 90 }, { 100, 3 }, { 64, 64 } };
    float points[2 * 300];
    int32_t ids[64 * 64], want[64 * 64];
    for (int kind = 0; kind < 6; kind++)
    for (int s = 0; s < 5; s++)
    for (int count = 1; count <= 300; count = count * 3 + 1) {
        int w = sizes[s][0], h = sizes[s][1];
        tl_rng rng = tl_rng_at(14, TL_RANDOM_USER, (uint32_t)kind, (uint32_t)s, (uint32_t)count);
        for (int i = 0; i < count; i++) {
            float x = tl_random_uniform(&rng, 0, (float)w), y = tl_random_uniform(&rng, 0, (float)h);
            if (kind == 1) { x = floorf(x); y = floorf(y); }                                  // ties, also equal points
            if (kind == 2) { x = 3 * x - (float)w; y = 3 * y - (float)h; }                    // outside, too
            if (kind == 3) { x = (float)w / 2; y = floorf(2 * y) / 2; }                       // in a column
            if (kind == 4) { x = x / 20; y = y / 20; }                                        // in a corner
            if (kind == 5) { x += 1e7f; y -= 1e7f; }                                          // far away
            points[2 * i] = x;
            points[2 * i + 1] = y;
        }
        brute_force(points, count, w, h, want);
        CHECK(tl_voronoi(points, count, w, h, ids) == TL_OK && memcmp(ids, want, (size_t)w * h * sizeof *ids) == 0, "%d points of kind %d in %d x %d", count, kind, w, h);
    }
    // closed forms: the bisector of two points, squares around a grid
    const float two[4] = { 10, 20, 30, 20 };
    CHECK(!tl_voronoi(two, 2, 64, 64, ids), "%s", tl_error(NULL));
    int bad = 0;
    for (int i = 0; i < 4096; i++) bad += ids[i] != (i % 64 > 20);
    CHECK(bad == 0, "two points: %d pixels are wrong", bad);
    for (int i = 0; i < 16; i++) {
        points[2 * i] = (float)(i % 4 * 16) + 7.5f;
        points[2 * i + 1] = (float)(i / 4 * 16) + 7.5f;
    }
    CHECK(!tl_voronoi(points, 16, 64, 64, ids), "%s", tl_error(NULL));
    for (int i = 0; i < 4096; i++) bad += ids[i] != i / 64 / 16 * 4 + i % 64 / 16;
    CHECK(bad == 0, "a grid of points: %d pixels are wrong", bad);
    const float not_finite[2] = { NAN, 0 };
    CHECK(tl_voronoi(not_finite, 1, 4, 4, ids) && tl_voronoi(NULL, 1, 4, 4, ids) && tl_voronoi(two, 0, 4, 4, ids) && tl_voronoi(two, 2, 0, 4, ids) && tl_voronoi(two, 2, 4, 4, NULL) &&
          tl_voronoi(two, 2, 70000, 70000, ids), "points that are not possible");
}

// The mask is where another grain is near: every pixel beside another grain, and none that is far from all others.
static void check_grains(const tl_grains_desc *desc, uint32_t index)
{
    tl_image mask = no_image(), image = no_image(), again = no_image();
    int w = desc->width, h = desc->height, bad = 0;
    int32_t *ids = (int32_t *)malloc((size_t)w * h * sizeof *ids);
    CHECK(!tl_grains(desc, 3, index, ids, &mask, &image) && !tl_grains(desc, 3, index, NULL, NULL, &again) && equal(&image, &again), "grains: %s", tl_error(NULL));
    CHECK(image.type == TL_U8 && mask.type == TL_U8 && image.width == w && mask.height == h, "the types of grains");
    double half = 0.5 * (double)(desc->label_width > 0 ? desc->label_width : 5);
    int reach = (int)half + 3, foreground = 0;
    for (int y = 0; y < h; y++)
    for (int x = 0; x < w; x++) {
        int id = ids[y * w + x], inside = ((uint8_t *)mask.pixels)[y * w + x];
        double nearest = INFINITY;
        for (int v = tl__max(y - reach, 0); v <= tl__min(y + reach, h - 1); v++)
        for (int u = tl__max(x - reach, 0); u <= tl__min(x + reach, w - 1); u++)
            if (ids[v * w + u] != id) nearest = fmin(nearest, sqrt((double)((u - x) * (u - x) + (v - y) * (v - y))));
        foreground += inside;
        bad += inside > 1 || id < 0;
        bad += nearest <= half - 0.5 && !inside;           // the boundary lies within a pixel of the nearest one of another grain
        bad += nearest > half + 2 && inside && x > reach && y > reach && x < w - reach && y < h - reach;
    }
    CHECK(bad <= w * h / 200, "grains %u: %d pixels of the mask are wrong", index, bad);
    CHECK(foreground > 0 && foreground < w * h, "grains %u: %d pixels of foreground", index, foreground);
    free(ids);
    tl_image_free(&mask);
    tl_image_free(&image);
    tl_image_free(&again);
}

static void test_grains(void)
{
    tl_grains_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.width = 97;
    desc.height = 64;
    desc.seed = 4;
    desc.diameter.lo = desc.diameter.hi = 20;
    for (uint32_t i = 0; i < 4; i++) check_grains(&desc, i);
    desc.bend.lo = desc.bend.hi = -1;
    desc.label_width = 2;
    for (uint32_t i = 0; i < 4; i++) check_grains(&desc, i);
    // a stream is the same images, in any order
    desc.count = 5;
    tl_dataset *stream = tl_grains_stream(&desc);
    CHECK(stream && tl_dataset_count(stream) == 5 && tl_dataset_classes(stream) == 2, "%s", tl_error(NULL));
    tl_record record;
    tl_image mask = no_image(), image = no_image();
    memset(&record, 0, sizeof record);
    for (int i = 4; i >= 0; i--)
        CHECK(!tl_dataset_get(stream, 7, i, &record) && !tl_grains(&desc, 7, (uint32_t)i, NULL, &mask, &image) && equal(&record.image, &image) && equal(&record.mask, &mask), "stream %d", i);
    CHECK(!tl_dataset_get(stream, 8, 0, &record) && !equal(&record.image, &image), "the next epoch is the same");
    tl_dataset_free(stream);
    tl_record_free(&record);
    tl_image_free(&mask);
    tl_image_free(&image);
    tl_grains_desc bad[6];
    for (int i = 0; i < 6; i++) memset(&bad[i], 0, sizeof bad[i]);
    bad[0].width = 7; bad[1].height = 20000; bad[2].count = -1; bad[3].label_width = -1; bad[4].grey.lo = 0.5f; bad[5].blur.lo = NAN;
    static const char *const says[] = { "7x256", "20000", "count -1", "label_width", "grey", "blur" };
    for (int i = 0; i < 6; i++) CHECK(tl_grains_stream(&bad[i]) == NULL && strstr(tl_error(NULL), says[i]), "bad grains %d: %s", i, tl_error(NULL));
    // without a width the labels are as wide as the line: 10 here, 80 / 6 below, 5 for a thin one
    static const float lines[] = { 10, 20, 2 }, widths[] = { 10, 80.0f / 6, 5 };
    memset(&desc, 0, sizeof desc);
    desc.width = desc.height = 64;
    desc.diameter.lo = desc.diameter.hi = 80;
    for (int i = 0; i < 3; i++) {
        tl_image given = no_image(), own = no_image();
        desc.line.lo = desc.line.hi = lines[i];
        desc.label_width = 0;
        CHECK(!tl_grains(&desc, 0, 1, NULL, &own, NULL), "%s", tl_error(NULL));
        desc.label_width = widths[i];
        CHECK(!tl_grains(&desc, 0, 1, NULL, &given, NULL) && equal(&own, &given), "a line of %g pixels is not labelled in its width", (double)lines[i]);
        tl_image_free(&given);
        tl_image_free(&own);
    }
    memset(&desc, 0, sizeof desc);
    desc.look = TL_LOOK_ETCHED;
    tl_grains_desc full = tl_grains_defaults(&desc), open = tl_grains_defaults(NULL);
    CHECK(full.width == 256 && full.count == 1000 && full.label_width == 0 && full.diameter.hi > full.diameter.lo, "defaults");
    CHECK(open.look == TL_LOOK_ANY && open.diameter.hi == 0, "without a look every image draws one");
}

// ---- splits --------------------------------------------------------------------------------

// A folder with the given numbers of images of specimens a, b, c ...
static tl_dataset *specimens(const char *name, const int *counts, int n)
{
    char text[4000] = "file,specimen\n";
    int number = 0;
    new_root(name);
    for (int s = 0; s < n; s++)
    for (int i = 0; i < counts[s]; i++, number++) {
        char file[32], row[64];
        snprintf(file, sizeof file, "%03d.pgm", (number * 37) % 101);          // not in the order of the specimens
        write_text(in_root("images", file), "P5 1 1 255\n\x10");
        snprintf(row, sizeof row, "%s,%c\n", file, 'a' + s);
        strcat(text, row);
    }
    write_text(in_root("specimens.csv", NULL), text);
    tl_folder_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.no_masks = 1;
    tl_dataset *set = tl_folder(root, &desc);
    CHECK(set && tl_dataset_count(set) == number, "%s", tl_error(NULL));
    return set;
}

static void test_splits(void)
{
    // scikit-learn: by size, equal sizes from the last name on, each to the fold with the fewest images, the first of equals
    static const int sizes[] = { 4, 3, 3, 2, 1 };
    static const int two[] = { 0, 1, 1, 0, 0 };            // a 4 | c 3 | b 3: fold 1 has 6 | d 2: 6 | e 1: 7
    static const int three[] = { 0, 2, 1, 1, 2 };          // a 4 | c 3 | b 3 | d: fold 1 has 5 | e: fold 2 has 4
    static const int five[] = { 0, 2, 1, 3, 4 };
    tl_dataset *set = specimens("split", sizes, 5);
    int fold[13], count = tl_dataset_count(set);
    const int *const tables_of[] = { NULL, NULL, two, three, NULL, five };
    for (int k = 2; k <= 5; k++) {
        CHECK(tl_group_kfold(set, k, fold) == TL_OK, "%s", tl_error(NULL));
        for (int i = 0; i < count; i++) {
            int s = tl_dataset_specimen(set, i)[0] - 'a';
            if (tables_of[k]) CHECK(fold[i] == tables_of[k][s], "%d folds: specimen %c is in fold %d", k, 'a' + s, fold[i]);
            for (int j = 0; j < count; j++)
                if (fold[i] != fold[j] && strcmp(tl_dataset_specimen(set, i), tl_dataset_specimen(set, j)) == 0) CHECK(0, "%d folds: specimen %c is in two", k, 'a' + s);
        }
    }
    CHECK(tl_group_kfold(set, 6, fold) == TL_ERR_ARGUMENT && strstr(tl_error(NULL), "5 specimens"), "6 folds of 5 specimens: %s", tl_error(NULL));
    CHECK(tl_group_kfold(set, 1, fold) && tl_group_kfold(NULL, 2, fold) && tl_group_kfold(set, 2, NULL), "splits that are not possible");
    int tested[5] = { 0, 0, 0, 0, 0 };
    for (uint64_t seed = 0; seed < 200; seed++) {
        int test[13], again[13], in_test = 0;
        CHECK(tl_group_holdout(set, 2, seed, test) == TL_OK && tl_group_holdout(set, 2, seed, again) == TL_OK && memcmp(test, again, sizeof test) == 0, "%s", tl_error(NULL));
        int of_specimen[5] = { -1, -1, -1, -1, -1 };
        for (int i = 0; i < count; i++) {
            int s = tl_dataset_specimen(set, i)[0] - 'a';
            if (of_specimen[s] >= 0 && of_specimen[s] != test[i]) CHECK(0, "holdout: specimen %c is on both sides", 'a' + s);
            of_specimen[s] = test[i];
        }
        for (int s = 0; s < 5; s++) {
            in_test += of_specimen[s];
            tested[s] += of_specimen[s];
        }
        CHECK(in_test == 2, "holdout: %d specimens in the test", in_test);
    }
    for (int s = 0; s < 5; s++) CHECK(abs(tested[s] - 80) < 35, "specimen %c is tested %d times of 200", 'a' + s, tested[s]);
    CHECK(tl_group_holdout(set, 5, 0, fold) == TL_ERR_ARGUMENT && tl_group_holdout(set, 0, 0, fold) && tl_group_holdout(set, 1, 0, NULL) && tl_group_holdout(NULL, 1, 0, fold), "holdouts that are not possible");
    tl_dataset_free(set);
}

// Three pixels; the first half of a set of ten comes from two specimens, the others say nothing.
static tl_result made_record(void *user, uint32_t epoch, int index, tl_record *out)
{
    (void)epoch;
    if (index < 6 && *(const int *)user) snprintf(out->specimen, sizeof out->specimen, "piece%d", index % 2);
    if (index == 9 && *(const int *)user == 2) return TL_ERR_FORMAT;
    return tl_image_alloc(&out->image, 3, 1, 1, TL_U8);
}

static void test_made_specimens(void)
{
    int named = 0, part[30], held = 0;
    tl_dataset *set = tl_dataset_from(10, made_record, &named);
    CHECK(tl_group_holdout(set, 4, 1, part) == TL_OK, "%s", tl_error(NULL));
    for (int i = 0; i < 10; i++) held += part[i];
    CHECK(held == 4, "%d of 4 records held out", held);
    named = 1;
    CHECK(tl_group_kfold(set, 6, part) == TL_OK && tl_group_kfold(set, 7, part) == TL_ERR_ARGUMENT && strstr(tl_error(NULL), "6 specimens in 10"), "%s", tl_error(NULL));
    CHECK(tl_group_holdout(set, 3, 2, part) == TL_OK, "%s", tl_error(NULL));
    for (int i = 2; i < 6; i++) CHECK(part[i] == part[i - 2], "record %d is apart from its specimen", i);
    int some[] = { 9, 8, 8, 0 };
    tl_dataset *subset = tl_subset(set, some, 4);
    CHECK(tl_group_kfold(subset, 3, part) == TL_OK && part[1] == part[2] && part[0] != part[1], "a record taken twice is two specimens");
    named = 0;
    tl_dataset *copies = tl_cached(set, NULL, 0, 1, 3);
    CHECK(tl_group_holdout(copies, 4, 1, part) == TL_OK, "%s", tl_error(NULL));
    held = 0;
    for (int i = 0; i < 30; i++) held += part[i] && part[i] == part[i % 10];
    CHECK(held == 12, "%d copies of 4 records held out", held);
    named = 2;
    CHECK(tl_group_holdout(set, 4, 1, part) == TL_ERR_FORMAT, "a record that cannot be made: %s", tl_error(NULL));
    tl_dataset_free(copies);
    tl_dataset_free(subset);
    tl_dataset_free(set);
}

// ---- scores --------------------------------------------------------------------------------

static tl_image mask_of(int width, int height, const char *rows)
{
    tl_image mask = new_image(width, height, 1, TL_U8);
    for (int i = 0; i < width * height; i++) ((uint8_t *)mask.pixels)[i] = rows[i] == '#' ? 1 : rows[i] == '?' ? TL_IGNORE : 0;
    return mask;
}

typedef struct score_case {
    const char *prediction, *truth;        // 6 x 3
    double tolerance, iou, dice, precision, recall;
} score_case;

static const score_case scores[] = {
    { "......" "......" "......", "......" "......" "......", 3, 1, 1, 1, 1 },
    { "##...." "##...." "......", "##...." "##...." "......", 0, 1, 1, 1, 1 },
    { "##...." "......" "......", "......" "......" "....##", 1, 0, 0, 0, 0 },
    { "##...." "......" "......", ".##..." "......" "......", 0, 1 / 3., 0.5, 0.5, 0.5 },
    { "##...." "......" "......", ".##..." "......" "......", 1, 1 / 3., 0.5, 1, 1 },
    { "######" "......" "......", "##...." "......" "......", 1, 1 / 3., 0.5, 0.5, 1 },       // three of six within 1, all of two
    { "#....." "......" "......", "......" ".#...." "......", 1.4, 0, 0, 0, 0 },
    { "#....." "......" "......", "......" ".#...." "......", 1.5, 0, 0, 1, 1 },
    { "......" "......" "......", "##...." "......" "......", 1, 0, 0, 0, 0 },
    { "##...." "......" "......", "......" "......" "......", 1, 0, 0, 0, 0 },
    { "##...." "......" "....##", "##...." "......" "....??", 0, 1, 1, 1, 1 },                 // unknown does not count
    { "......" "......" "....##", "......" "......" "....??", 0, 1, 1, 1, 1 }
};

static void test_scores(void)
{
    for (size_t i = 0; i < sizeof scores / sizeof *scores; i++) {
        const score_case *c = &scores[i];
        tl_image p = mask_of(6, 3, c->prediction), t = mask_of(6, 3, c->truth);
        tl_score s;
        double f1 = c->precision + c->recall > 0 ? 2 * c->precision * c->recall / (c->precision + c->recall) : 0;
        CHECK(tl_compare_masks(&p, &t, c->tolerance, &s) == TL_OK, "%s", tl_error(NULL));
        CHECK(fabs(s.iou - c->iou) < 1e-12 && fabs(s.dice - c->dice) < 1e-12 && fabs(s.precision - c->precision) < 1e-12 && fabs(s.recall - c->recall) < 1e-12 && fabs(s.boundary_f1 - f1) < 1e-12,
              "score %zu: IoU %g Dice %g precision %g recall %g F1 %g", i, s.iou, s.dice, s.precision, s.recall, s.boundary_f1);
        tl_image_free(&p);
        tl_image_free(&t);
    }
    tl_image p = mask_of(6, 3, scores[1].prediction), t = new_image(5, 3, 1, TL_U8), f = new_image(6, 3, 1, TL_F32), rgb = new_image(6, 3, 3, TL_U8);
    tl_score s;
    CHECK(tl_compare_masks(&p, &t, 1, &s) == TL_ERR_SHAPE && strstr(tl_error(NULL), "6x3") && tl_compare_masks(&p, &f, 1, &s) && tl_compare_masks(&rgb, &p, 1, &s) && tl_compare_masks(&p, NULL, 1, &s) &&
          tl_compare_masks(&p, &p, -1, &s) && tl_compare_masks(&p, &p, NAN, &s) && tl_compare_masks(&p, &p, 1, NULL), "masks that cannot be compared");
    tl_image_free(&p);
    tl_image_free(&t);
    tl_image_free(&f);
    tl_image_free(&rgb);
}

static void test_distance(void)
{
    static const int sizes[][2] = { { 33, 21 }, { 1, 1 }, { 1, 40 }, { 40, 1 }, { 20, 20 } };
    uint8_t mask[40 * 40];
    float out[40 * 40];
    for (int s = 0; s < 5; s++)
    for (int share = 0; share <= 100; share += share < 5 ? 1 : 19) {
        int w = sizes[s][0], h = sizes[s][1], bad = 0;
        tl_rng rng = tl_rng_at(15, TL_RANDOM_USER, 0, (uint32_t)s, (uint32_t)share);
        for (int i = 0; i < w * h; i++) mask[i] = (uint8_t)(tl_random_below(&rng, 100) < (uint32_t)share ? 1 + tl_random_below(&rng, 255) : 0);
        CHECK(tl_distance_squared(mask, w, h, out) == TL_OK, "%s", tl_error(NULL));
        for (int i = 0; i < w * h; i++) {
            double best = (double)FLT_MAX;
            for (int k = 0; k < w * h; k++) if (mask[k]) best = fmin(best, (double)((k % w - i % w) * (k % w - i % w) + (k / w - i / w) * (k / w - i / w)));
            bad += (double)out[i] != best;
        }
        CHECK(bad == 0, "distances in %d x %d with %d %%: %d are wrong", w, h, share, bad);
    }
    CHECK(tl_distance_squared(NULL, 1, 1, out) && tl_distance_squared(mask, 0, 1, out) && tl_distance_squared(mask, 1, 1, NULL), "NULL");
}

MAIN(data, void)
{
    make_temporary();
    test_convert();
    test_image_channels();
    test_crop();
    test_files();
    test_folder();
    test_record_function();
    test_masks();
    test_tables();
    test_beside();
    test_geometry();
    test_greys();
    test_philox();
    test_distributions();
    test_poisson();
    test_voronoi();
    test_grains();
    test_splits();
    test_made_specimens();
    test_scores();
    test_distance();
    remove_temporary();
    return finish("data");
}
