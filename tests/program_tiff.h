// A part of program.c: TIFF files of every kind that is read, written by libtiff; files that must be refused.

#ifndef TL_HAVE_TIFF

static void test_tiff(void)
{
    printf("program: built without libtiff: only what is said of TIFF files is tested\n");
    write_text("a.tif", "II*");
    expect("pages a.tif --out pages", 1, "this build reads no TIFF");
    CHECK(strchr(said, '\n') == strrchr(said, '\n'), "more than a sentence:\n%s", said);
}

#else

enum { TIFF_W = 37, TIFF_H = 23, SIDE = 32, EDGE = 16 };          // tiles of SIDE x EDGE do not fit into either side

typedef struct tiff_kind {
    tl_pixel type;
    int samples, tiled, rows, apart, packing, white;       // rows: of a strip; white: 0 is white
    const char *mode;
} tiff_kind;

static double tiff_value(tl_pixel type, int x, int y, int s)
{
    double v = (x * 8191 + y * 1021 + s * 30011) % 65536;
    return type == TL_U8 ? floor(v / 256) : type == TL_U16 ? v : (v - 1000) / 7;
}

static void tiff_put(void *at, size_t index, tl_pixel type, double v)
{
    if (type == TL_U8) ((uint8_t *)at)[index] = (uint8_t)v;
    else if (type == TL_U16) ((uint16_t *)at)[index] = (uint16_t)v;
    else ((float *)at)[index] = (float)v;
}

// One page; `number` moves the values.
static int tiff_put_page(TIFF *tiff, const tiff_kind *k, int number)
{
    int bytes = k->type == TL_U8 ? 1 : k->type == TL_U16 ? 2 : 4, inside = k->apart ? 1 : k->samples, good = 1;
    int wide = k->tiled ? SIDE : TIFF_W, high = k->tiled ? EDGE : 1;
    uint16_t alpha = EXTRASAMPLE_ASSOCALPHA;
    TIFFSetField(tiff, TIFFTAG_IMAGEWIDTH, TIFF_W);
    TIFFSetField(tiff, TIFFTAG_IMAGELENGTH, TIFF_H);
    TIFFSetField(tiff, TIFFTAG_BITSPERSAMPLE, 8 * bytes);
    TIFFSetField(tiff, TIFFTAG_SAMPLESPERPIXEL, k->samples);
    TIFFSetField(tiff, TIFFTAG_SAMPLEFORMAT, bytes == 4 ? SAMPLEFORMAT_IEEEFP : SAMPLEFORMAT_UINT);
    TIFFSetField(tiff, TIFFTAG_PLANARCONFIG, k->apart ? PLANARCONFIG_SEPARATE : PLANARCONFIG_CONTIG);
    TIFFSetField(tiff, TIFFTAG_PHOTOMETRIC, k->samples > 2 ? PHOTOMETRIC_RGB : k->white ? PHOTOMETRIC_MINISWHITE : PHOTOMETRIC_MINISBLACK);
    TIFFSetField(tiff, TIFFTAG_COMPRESSION, k->packing);
    if (k->samples % 2 == 0) TIFFSetField(tiff, TIFFTAG_EXTRASAMPLES, 1, &alpha);
    if (!k->tiled) TIFFSetField(tiff, TIFFTAG_ROWSPERSTRIP, k->rows);
    if (k->tiled) TIFFSetField(tiff, TIFFTAG_TILEWIDTH, SIDE);
    if (k->tiled) TIFFSetField(tiff, TIFFTAG_TILELENGTH, EDGE);
    for (int plane = 0; plane < (k->apart ? k->samples : 1); plane++)
    for (int y = 0; y < TIFF_H; y += high)
    for (int x = 0; x < TIFF_W && good; x += wide) {
        static float block[SIDE * EDGE * 4 > TIFF_W * 4 ? SIDE * EDGE * 4 : TIFF_W * 4];
        for (int i = 0; i < wide * high * inside; i++) {
            int s = k->apart ? plane : i % inside, px = i / inside % wide, py = i / inside / wide;
            tiff_put(block, (size_t)i, k->type, tiff_value(k->type, x + px + number, y + py, s));
        }
        if (k->tiled) good = TIFFWriteTile(tiff, block, (uint32_t)x, (uint32_t)y, 0, (uint16_t)plane) >= 0;
        else good = TIFFWriteScanline(tiff, block, (uint32_t)y, (uint16_t)plane) >= 0;
    }
    return good && TIFFWriteDirectory(tiff);
}

static void tiff_put_file(const char *name, const tiff_kind *k, int pages)
{
    TIFF *tiff = TIFFOpen(temporary_path(name), k->mode);
    int good = tiff != NULL;
    for (int number = 0; number < pages && good; number++) good = tiff_put_page(tiff, k, number);
    if (tiff) TIFFClose(tiff);
    CHECK(good, "%s cannot be written", name);
}

// Whether the page holds what was written; float inverted about the middle of its range.
static void tiff_check_page(const char *what, const tl_image *image, const tiff_kind *k, int number)
{
    int channels = k->samples < 3 ? 1 : 3, wrong = 0;
    double lo = 1e9, hi = -1e9;
    CHECK(image->width == TIFF_W && image->height == TIFF_H && image->channels == channels && image->type == k->type, "%s: %dx%dx%d",
          what, image->width, image->height, image->channels);
    if (image->width != TIFF_W || image->height != TIFF_H || image->channels != channels || image->type != k->type) return;
    for (int i = 0; i < TIFF_W * TIFF_H; i++) {
        double v = tiff_value(k->type, i % TIFF_W + number, i / TIFF_W, 0);
        lo = fmin(lo, v);
        hi = fmax(hi, v);
    }
    for (int i = 0; i < TIFF_W * TIFF_H * channels; i++) {
        double v = tiff_value(k->type, i / channels % TIFF_W + number, i / channels / TIFF_W, i % channels), got;
        if (k->white) v = k->type == TL_U8 ? 255 - v : k->type == TL_U16 ? 65535 - v : (double)((float)lo + (float)hi - (float)v);
        got = k->type == TL_U8 ? ((uint8_t *)image->pixels)[i] : k->type == TL_U16 ? ((uint16_t *)image->pixels)[i] : (double)((float *)image->pixels)[i];
        wrong += fabs(got - (double)(float)v) > (k->white && k->type == TL_F32 ? 1e-2 : 0);
    }
    CHECK(wrong == 0, "%s: %d of %d values differ", what, wrong, TIFF_W * TIFF_H * channels);
}

static void test_tiff_kinds(void)
{
    static const char *const modes[] = { "wl", "wb", "w8" };
    static const int packings[] = { COMPRESSION_NONE, COMPRESSION_LZW, COMPRESSION_PACKBITS, COMPRESSION_ADOBE_DEFLATE };
    tl_image image = { 0 };
    char why[TIFF_WHY], what[128];
    for (int n = 0; n < 3 * 4 * 4 * 2 * 4 * 3; n++) {
        tiff_kind k = { .type = (tl_pixel)(n % 3), .samples = n / 3 % 4 + 1 };
        int layout = n / 12 % 4, pages = 0;
        k.tiled = layout == 3;
        k.rows = layout == 0 ? 1 : layout == 1 ? 5 : TIFF_H;
        k.apart = n / 48 % 2;
        k.packing = packings[n / 96 % 4];
        k.mode = modes[n / 384];
        k.white = k.samples < 3 && n % 5 == 0;
        if (!TIFFIsCODECConfigured((uint16_t)k.packing)) continue;
        snprintf(what, sizeof what, "type %d, %d samples, layout %d, apart %d, packing %d, %s", k.type, k.samples, layout, k.apart, k.packing, k.mode);
        tiff_put_file("kind.tif", &k, 1);
        CHECK(!tiff_read(temporary_path("kind.tif"), 0, &image, &pages, why) && pages == 1, "%s: %s", what, why);
        tiff_check_page(what, &image, &k, 0);
    }
    tl_image_free(&image);
}

// Several pages: each by its number, split by the program, segmented one by one, refused where one image is expected.
static void test_tiff_pages(void)
{
    tiff_kind k = { .type = TL_U16, .samples = 1, .rows = 7, .packing = COMPRESSION_LZW, .mode = "w" };
    tl_image image = { 0 };
    char why[TIFF_WHY], name[64];
    int pages = 0;
    tiff_put_file("stack.tif", &k, 3);
    CHECK(tiff_read(temporary_path("stack.tif"), 3, &image, &pages, why) && strstr(why, "no page 4") && pages == 3, "page 4 of %d: %s", pages, why);
    expect("pages stack.tif --out split", 0, "3 pages");
    for (int number = 0; number < 3; number++) {
        snprintf(name, sizeof name, "split/stack_p%04d.tif", number + 1);
        CHECK(!tiff_read(temporary_path("stack.tif"), number, &image, NULL, why), "%s", why);
        tiff_check_page("stack.tif", &image, &k, number);
        CHECK(!tiff_read(temporary_path(name), 0, &image, &pages, why) && pages == 1, "%s: %s", name, why);
        tiff_check_page(name, &image, &k, number);
    }
    expect("predict u.safetensors stack.tif --out segmented", 0, "");
    int found = 0;
    DIR *folder = opendir(temporary_path("segmented"));
    for (struct dirent *entry; folder && (entry = readdir(folder)) != NULL;) found += ends_with(entry->d_name, ".mask.png");
    if (folder) closedir(folder);
    CHECK(found == 3, "%d masks of 3 pages", found);
    // a data set of TIFF files: images of 16 bits and masks; of float; of several pages
    mkdir(temporary_path("set"), 0777);
    mkdir(temporary_path("set/images"), 0777);
    tiff_put_file("set/images/a.tif", &k, 1);
    expect("augment set --out seen --transforms flip_x --images 1 --views 2", 0, "written");
    k.type = TL_F32;
    tiff_put_file("set/images/a.tif", &k, 1);
    expect("predict u.safetensors set/images/a.tif --out segmented", 0, "");
    tiff_put_file("set/images/b.tif", &k, 2);
    expect("augment set --out seen --transforms flip_x --images 1 --views 2", 1, "has 2 pages");
    tl_image_free(&image);
}

// ---- damage --------------------------------------------------------------------------------

static size_t tiff_load(const char *name, uint8_t *bytes, size_t room)
{
    FILE *file = fopen(temporary_path(name), "rb");
    size_t size = file ? fread(bytes, 1, room, file) : 0;
    if (file) fclose(file);
    return size;
}

// It is refused with a sentence, and nothing is written.
static void tiff_refused(const char *what, const char *name)
{
    char line[128];
    snprintf(line, sizeof line, "predict u.safetensors %s --out refused", name);
    int status = run(line), lines = 0;
    for (const char *at = said; (at = strchr(at, '\n')) != NULL; at++) lines++;
    CHECK(status == 1 && lines == 1 && strstr(said, name), "%s: exit status %d:\n%s", what, status, said);
    CHECK(access(temporary_path("refused"), F_OK) != 0, "%s: a folder was made", what);
}

static void test_tiff_damage(void)
{
    static uint8_t whole[65536], damaged[65536];
    static const tiff_kind kinds[] = { { .type = TL_U8, .samples = 1, .rows = 5, .packing = COMPRESSION_LZW, .mode = "w" },
                                       { .type = TL_U16, .samples = 3, .tiled = 1, .packing = COMPRESSION_ADOBE_DEFLATE, .mode = "wb" },
                                       { .type = TL_F32, .samples = 1, .rows = TIFF_H, .packing = COMPRESSION_NONE, .mode = "w8" } };
    tl_image image = { 0 };
    char why[TIFF_WHY];
    int whole_files = 0;
    for (int n = 0; n < COUNT(kinds); n++) {
        tiff_put_file("whole.tif", &kinds[n], 1);
        size_t size = tiff_load("whole.tif", whole, sizeof whole);
        for (size_t cut = 0; cut < size; cut += 1 + size / 97) {           // libtiff writes the directory last
            write_bytes(temporary_path("cut.tif"), whole, cut);
            strcpy(why, "");
            if (!tiff_read(temporary_path("cut.tif"), 0, &image, NULL, why)) tiff_check_page("less than its last bytes cut off", &image, &kinds[n], 0);
            else CHECK(*why && !strchr(why, '\n'), "kind %d of %d bytes: '%s'", n, (int)cut, why);
            whole_files += !*why;
        }
        CHECK(whole_files <= 1, "%d files with a piece missing are read", whole_files);
        write_bytes(temporary_path("cut.tif"), whole, size / 2);
        tiff_refused("half a file", "cut.tif");
        tl_rng rng = tl_rng_at(3, TL_RANDOM_USER, 0, (uint32_t)n, 0);
        for (int i = 0; i < 600; i++) {                                    // read or refused, whatever bytes are wrong
            memcpy(damaged, whole, size);
            for (int k = 0; k <= i % 3; k++) {
                size_t at = tl_random_below(&rng, (uint32_t)size);
                if (i % 2) at = k == 0 ? tl_random_below(&rng, 16) : size - 1 - tl_random_below(&rng, 200);
                damaged[at] = (uint8_t)tl_random_u32(&rng);
            }
            write_bytes(temporary_path("hurt.tif"), damaged, size);
            strcpy(why, "");
            tl_result result = tiff_read(temporary_path("hurt.tif"), 0, &image, NULL, why);
            CHECK(result == TL_OK || (*why && !strchr(why, '\n')), "damage %d of kind %d: %s", i, n, why);
        }
    }
    tl_image_free(&image);
}

// A directory by hand: twelve bytes an entry, then the next directory; `changed` replaces the value of one tag.
static void tiff_put_hostile(const char *name, int tag, uint32_t value, uint32_t next)
{
    static const uint16_t tags[] = { 256, 257, 258, 259, 262, 273, 277, 278, 279 };
    uint32_t values[] = { 8, 8, 8, 1, 1, 200, 1, 8, 64 };
    uint8_t file[264] = { 'I', 'I', 42, 0, 8, 0, 0, 0, 9 };
    for (int i = 0; i < 9; i++) {
        uint8_t *at = file + 10 + 12 * i;
        uint32_t v = tags[i] == tag ? value : values[i];
        at[0] = (uint8_t)tags[i];
        at[1] = (uint8_t)(tags[i] >> 8);
        at[2] = 4;                                                         // a 32-bit number
        at[4] = 1;
        for (int k = 0; k < 4; k++) at[8 + k] = (uint8_t)(v >> 8 * k);
    }
    for (int k = 0; k < 4; k++) file[118 + k] = (uint8_t)(next >> 8 * k);
    write_bytes(temporary_path(name), file, sizeof file);
}

static void test_tiff_hostile(void)
{
    static const struct { const char *what; int tag; uint32_t value; } bad[] = {
        { "no columns", 256, 0 }, { "four billion columns", 256, 0xFFFFFFFFu }, { "65535 columns in 264 bytes", 256, 65535 },
        { "four billion rows", 257, 0xFFFFFFFFu }, { "12 bits", 258, 12 }, { "an unknown packing", 259, 61234 }, { "YCbCr", 262, 6 },
        { "pixels behind the end", 273, 100000 }, { "pixels at four billion", 273, 0xFFFFFFF0u }, { "five samples", 277, 5 }
    };
    tl_image image = { 0 };
    char why[TIFF_WHY] = "";
    int pages = 0;
    tiff_put_hostile("hostile.tif", 0, 0, 0);
    CHECK(!tiff_read(temporary_path("hostile.tif"), 0, &image, &pages, why) && image.width == 8 && pages == 1, "the plain file: %s", why);
    for (int i = 0; i < COUNT(bad); i++) {
        tiff_put_hostile("hostile.tif", bad[i].tag, bad[i].value, 0);
        tiff_refused(bad[i].what, "hostile.tif");
    }
    tiff_put_hostile("hostile.tif", 0, 0, 8);                             // the directory follows itself
    CHECK(!tiff_read(temporary_path("hostile.tif"), 0, &image, &pages, why) && pages == 1, "a loop: %d pages, %s", pages, why);
    // as many pixels as the largest image has, in a file of a few hundred bytes: refused before memory is asked for
    tiff_kind k = { .type = TL_U8, .samples = 1, .rows = 1, .packing = COMPRESSION_LZW, .mode = "w" };
    TIFF *tiff = TIFFOpen(temporary_path("vast.tif"), k.mode);
    CHECK(tiff && tiff_put_page(tiff, &k, 0) && TIFFSetDirectory(tiff, 0) && TIFFSetField(tiff, TIFFTAG_IMAGEWIDTH, 65535) &&
          TIFFSetField(tiff, TIFFTAG_IMAGELENGTH, 65535) && TIFFRewriteDirectory(tiff), "vast.tif");
    if (tiff) TIFFClose(tiff);
    tiff_refused("4 GB of pixels in a small file", "vast.tif");
    CHECK(strstr(said, "too few"), "%s", said);
    write_text("text.tif", "no TIFF at all");
    tiff_refused("a text", "text.tif");
    write_text("empty.tif", "");
    tiff_refused("an empty file", "empty.tif");
    tl_image_free(&image);
}

static void test_tiff(void)
{
    test_tiff_kinds();
    test_tiff_pages();
    test_tiff_damage();
    test_tiff_hostile();
}

#endif
