// tiff.h: TIFF images through libtiff, where the program is built with it. Used by tinytl.c alone.
//
// 8 and 16 bits and 32-bit float, grey or RGB, strips or tiles, planes together or apart, several pages. Values stay what
// they are: float is not scaled. On failure the functions leave a sentence in why[TIFF_WHY].

enum { TIFF_WHY = 512 };

static tl_result tiff_fail(char *why, tl_result result, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(why, TIFF_WHY, format, args);
    va_end(args);
    return result;
}

#ifdef TL_HAVE_TIFF

typedef struct tiff_header {
    uint32_t width, height, tile_w, tile_h;
    uint16_t bits, samples, format, planes, light;
} tiff_header;

static tl_result tiff_read_header(TIFF *tiff, const char *path, tiff_header *h, tl_image *image, char *why)
{
    memset(h, 0, sizeof *h);
    TIFFGetField(tiff, TIFFTAG_IMAGEWIDTH, &h->width);
    TIFFGetField(tiff, TIFFTAG_IMAGELENGTH, &h->height);
    TIFFGetFieldDefaulted(tiff, TIFFTAG_BITSPERSAMPLE, &h->bits);
    TIFFGetFieldDefaulted(tiff, TIFFTAG_SAMPLESPERPIXEL, &h->samples);
    TIFFGetFieldDefaulted(tiff, TIFFTAG_SAMPLEFORMAT, &h->format);
    TIFFGetFieldDefaulted(tiff, TIFFTAG_PLANARCONFIG, &h->planes);
    if (TIFFIsTiled(tiff)) {
        TIFFGetField(tiff, TIFFTAG_TILEWIDTH, &h->tile_w);
        TIFFGetField(tiff, TIFFTAG_TILELENGTH, &h->tile_h);
    }
    if (!TIFFGetField(tiff, TIFFTAG_PHOTOMETRIC, &h->light)) h->light = PHOTOMETRIC_MINISBLACK;
    int plain = h->format == SAMPLEFORMAT_UINT && (h->bits == 8 || h->bits == 16);
    int real = h->format == SAMPLEFORMAT_IEEEFP && h->bits == 32;
    int grey = h->light == PHOTOMETRIC_MINISBLACK || h->light == PHOTOMETRIC_MINISWHITE;
    if ((!plain && !real) || (!grey && h->light != PHOTOMETRIC_RGB) || h->samples < 1 || h->samples > 4)
        return tiff_fail(why, TL_ERR_FORMAT, "'%s' is a TIFF of a kind that is not read here (%d x %d bits); convert it "
                         "to 8 or 16 bits or float, grey or RGB", path, h->samples, h->bits);
    if (TIFFIsTiled(tiff) && (h->tile_w < 1 || h->tile_h < 1 || TIFFTileSize(tiff) < 1 || TIFFTileSize(tiff) > 1 << 28))
        return tiff_fail(why, TL_ERR_FORMAT, "'%s' is damaged: tiles of %ux%u", path, h->tile_w, h->tile_h);
    // Memory is asked for only where so many pixels can be in so few bytes: Deflate packs at most a thousand to one, LZMA
    // some thousands, Zstandard some ten thousands.
    uint64_t bytes = (uint64_t)TIFFGetSizeProc(tiff)(TIFFClientdata(tiff)), packed = 1;
    uint16_t packing = COMPRESSION_NONE;
    TIFFGetFieldDefaulted(tiff, TIFFTAG_COMPRESSION, &packing);
    if (packing != COMPRESSION_NONE) packed = 65536;
    if ((uint64_t)h->width * h->height / packed > bytes)
        return tiff_fail(why, TL_ERR_FORMAT, "'%s' is damaged: its %llu bytes are too few for %ux%u pixels", path,
                         (unsigned long long)bytes, h->width, h->height);
    tl_pixel type = real ? TL_F32 : h->bits == 8 ? TL_U8 : TL_U16;
    int w = h->width < INT_MAX ? (int)h->width : INT_MAX, rows = h->height < INT_MAX ? (int)h->height : INT_MAX;
    tl_result result = tl_image_alloc(image, w, rows, h->samples < 3 ? 1 : 3, type);
    return result ? tiff_fail(why, result, "'%s': %s", path, tl_error(NULL)) : TL_OK;
}

// Copies pixels of a row or tile to (x, y) of the image, without channels beyond those of the image (alpha).
static void tiff_copy(const tiff_header *h, tl_image *image, uint32_t x, uint32_t y, uint32_t count, int plane,
                      const unsigned char *from)
{
    size_t size = h->bits / 8, channels = (size_t)image->channels, apart = h->planes != PLANARCONFIG_CONTIG;
    size_t step = apart ? size : h->samples * size, bytes = apart ? size : channels * size;
    unsigned char *to = (unsigned char *)image->pixels + (((size_t)y * h->width + x) * channels + (size_t)plane) * size;
    for (uint32_t i = 0; i < count && x + i < h->width; i++, to += channels * size, from += step)
        memcpy(to, from, bytes);
}

static int tiff_read_pixels(TIFF *tiff, const tiff_header *h, tl_image *image)
{
    int planes = h->planes == PLANARCONFIG_CONTIG ? 1 : image->channels, good = 1;
    size_t size = h->tile_w ? (size_t)TIFFTileSize(tiff) : (size_t)TIFFScanlineSize(tiff);
    size_t pixel = (h->planes == PLANARCONFIG_CONTIG ? h->samples : 1) * (size_t)(h->bits / 8);
    size_t row = (size_t)(h->tile_w ? h->tile_w : h->width) * pixel;
    unsigned char *buffer = calloc(size > row ? size : row, 1);
    if (!buffer || size < row) good = 0;
    for (int plane = 0; good && plane < planes; plane++) {
        for (uint32_t y = 0; good && y < h->height && !h->tile_w; y++) {
            good = TIFFReadScanline(tiff, buffer, y, (uint16_t)plane) >= 0;
            if (good) tiff_copy(h, image, 0, y, h->width, plane, buffer);
        }
        for (uint32_t y = 0; good && h->tile_w && y < h->height; y += h->tile_h)
            for (uint32_t x = 0; good && x < h->width; x += h->tile_w) {
                good = TIFFReadTile(tiff, buffer, x, y, 0, (uint16_t)plane) >= 0 && (size_t)h->tile_h * row <= size;
                for (uint32_t k = 0; good && k < h->tile_h && y + k < h->height; k++)
                    tiff_copy(h, image, x, y + k, h->tile_w, plane, buffer + k * row);
            }
    }
    free(buffer);
    return good;
}

// Exchanges black and white; float within the range it has.
static void invert_image(tl_image *image)
{
    size_t values = (size_t)image->width * (size_t)image->height * (size_t)image->channels;
    float *x = image->pixels, lo = FLT_MAX, hi = -FLT_MAX;
    if (image->type != TL_F32) {
        for (size_t i = 0; i < values * (image->type == TL_U8 ? 1 : 2); i++) ((uint8_t *)image->pixels)[i] ^= 255;
        return;
    }
    for (size_t i = 0; i < values; i++) {
        if (!(x[i] - x[i] == 0)) continue;
        if (x[i] < lo) lo = x[i];
        if (x[i] > hi) hi = x[i];
    }
    for (size_t i = 0; i < values; i++) x[i] = lo + hi - x[i];
}

// Page `number` of a file, from 0. *pages: how many there are; may be NULL.
static tl_result tiff_read(const char *path, int number, tl_image *image, int *pages, char *why)
{
    tiff_header header;
    TIFFSetErrorHandler(NULL);
    TIFFSetWarningHandler(NULL);
    TIFF *tiff = TIFFOpen(path, "r");
    if (!tiff) return tiff_fail(why, TL_ERR_FORMAT, "'%s' cannot be read as a TIFF file", path);
    int count = (int)TIFFNumberOfDirectories(tiff);
    if (pages) *pages = count;
    tl_result result = TIFFSetDirectory(tiff, (uint16_t)number) ? TL_OK : tiff_fail(why, TL_ERR_FORMAT,
                       "'%s' has no page %d; it has %d", path, number + 1, count);
    if (!result) result = tiff_read_header(tiff, path, &header, image, why);
    if (!result && !tiff_read_pixels(tiff, &header, image))
        result = tiff_fail(why, TL_ERR_FORMAT, "'%s' is damaged: its pixels cannot be read", path);
    TIFFClose(tiff);
    if (!result && header.light == PHOTOMETRIC_MINISWHITE) invert_image(image);
    return result;
}

// One page, uncompressed, in the type of the image; written beside and renamed.
static tl_result tiff_write(const char *path, const tl_image *image, char *why)
{
    char beside[4096 + 8];
    if (snprintf(beside, sizeof beside, "%s.tmp", path) >= (int)sizeof beside)
        return tiff_fail(why, TL_ERR_ARGUMENT, "the path '%.60s...' is too long", path);
    TIFF *tiff = TIFFOpen(beside, "w");
    if (!tiff) return tiff_fail(why, TL_ERR_FILE, "'%s' cannot be written", path);
    int bits = image->type == TL_U8 ? 8 : image->type == TL_U16 ? 16 : 32, good = 1;
    size_t row = (size_t)image->width * (size_t)image->channels * (size_t)(bits / 8);
    TIFFSetField(tiff, TIFFTAG_IMAGEWIDTH, (uint32_t)image->width);
    TIFFSetField(tiff, TIFFTAG_IMAGELENGTH, (uint32_t)image->height);
    TIFFSetField(tiff, TIFFTAG_BITSPERSAMPLE, bits);
    TIFFSetField(tiff, TIFFTAG_SAMPLESPERPIXEL, image->channels);
    TIFFSetField(tiff, TIFFTAG_SAMPLEFORMAT, bits == 32 ? SAMPLEFORMAT_IEEEFP : SAMPLEFORMAT_UINT);
    TIFFSetField(tiff, TIFFTAG_PHOTOMETRIC, image->channels == 3 ? PHOTOMETRIC_RGB : PHOTOMETRIC_MINISBLACK);
    TIFFSetField(tiff, TIFFTAG_PLANARCONFIG, PLANARCONFIG_CONTIG);
    TIFFSetField(tiff, TIFFTAG_ROWSPERSTRIP, TIFFDefaultStripSize(tiff, 0));
    for (int y = 0; good && y < image->height; y++)
        good = TIFFWriteScanline(tiff, (unsigned char *)image->pixels + (size_t)y * row, (uint32_t)y, 0) >= 0;
    good = good && TIFFFlush(tiff);
    TIFFClose(tiff);
    if (good && rename(beside, path) == 0) return TL_OK;
    remove(beside);
    return tiff_fail(why, TL_ERR_FILE, "'%s' cannot be written; is the disk full?", path);
}

#else

static void invert_image(tl_image *image)
{
    size_t values = (size_t)image->width * (size_t)image->height * (size_t)image->channels;
    for (size_t i = 0; i < values * (image->type == TL_U8 ? 1 : 2); i++) ((uint8_t *)image->pixels)[i] ^= 255;
}

static tl_result tiff_read(const char *path, int number, tl_image *image, int *pages, char *why)
{
    (void)number;
    (void)image;
    (void)pages;
    return tiff_fail(why, TL_ERR_STATE, "'%s': this build reads no TIFF; build with libtiff, or convert the image to PNG",
                     path);
}

static tl_result tiff_write(const char *path, const tl_image *image, char *why)
{
    (void)image;
    return tiff_fail(why, TL_ERR_STATE, "'%s': this build writes no TIFF; build with libtiff", path);
}

#endif
