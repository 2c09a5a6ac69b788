// report.h: one self-contained HTML page with tables, plots and pictures. Used by tinytl.c alone.
//
// A page is text that grows; after a failed allocation it ignores what comes and page_save says so. Plots are inline
// SVG, pictures inline base64 PNG, colours follow the reader's light or dark setting.
// Needs stb_image_write.h before it.

typedef struct page {
    char  *data;
    size_t length, capacity;
    int    failed;
} page;

static void page_bytes(page *r, const char *bytes, size_t count)
{
    if (r->failed) return;
    if (count >= r->capacity - r->length) {
        size_t capacity = 2 * (r->length + count) + 1024;
        char *data = realloc(r->data, capacity);
        if (!data) { r->failed = 1; return; }
        r->data = data;
        r->capacity = capacity;
    }
    memcpy(r->data + r->length, bytes, count);
    r->length += count;
    r->data[r->length] = 0;
}

static void page_print(page *r, const char *format, ...)
{
    char line[4096];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (length < 0 || length >= (int)sizeof line) r->failed = 1;
    else page_bytes(r, line, (size_t)length);
}

// A field of a CSV file: in quotes, quotes inside doubled.
static void page_field(page *r, const char *text)
{
    page_bytes(r, "\"", 1);
    for (; *text; text++) page_bytes(r, *text == '"' ? "\"\"" : text, *text == '"' ? 2 : 1);
    page_bytes(r, "\"", 1);
}

// Text that may hold characters with a meaning in HTML, such as file names.
static void page_text(page *r, const char *text)
{
    for (; *text; text++) {
        if (*text == '<') page_bytes(r, "&lt;", 4);
        else if (*text == '&') page_bytes(r, "&amp;", 5);
        else page_bytes(r, text, 1);
    }
}

static void page_begin(page *r, const char *title)
{
    static const char style[] =
        ":root{color-scheme:light dark;--ink:#1b2430;--soft:#5d6b7a;--line:#dde3ea;--card:#fff;--page:#f4f6f9;"
        "--a:#0b72b9;--b:#d9540b}"
        "@media(prefers-color-scheme:dark){:root{--ink:#e6ebf1;--soft:#97a4b3;--line:#2c3643;--card:#18202a;"
        "--page:#10161d;--a:#5bb8f5;--b:#ff9a52}}"
        "*{box-sizing:border-box}"
        "body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,sans-serif}"
        "main{max-width:1080px;margin:0 auto;padding:2.5rem 1.25rem 4rem}"
        "h1{font-size:1.9rem;line-height:1.2;margin:0 0 .4rem}h2{font-size:1.2rem;margin:2.4rem 0 .6rem}"
        "p{max-width:46rem;margin:.5rem 0}.soft{color:var(--soft)}"
        "figure,pre,.card{margin:.8rem 0;padding:1rem;background:var(--card);border:1px solid var(--line);"
        "border-radius:12px;overflow-x:auto}"
        "figure img{display:block;width:100%;height:auto;border-radius:6px}"
        "figcaption{margin-top:.7rem;font-size:.88rem;color:var(--soft)}"
        ".key{display:inline-block;width:.8em;height:.8em;border-radius:3px;margin:0 .35em 0 .1em}"
        "table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}"
        "th,td{padding:.4rem .7rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}"
        "th{color:var(--soft);font-weight:600;font-size:.85rem}th:first-child,td:first-child{text-align:left}"
        "tr:last-child td{border-bottom:0}tr.sum td{font-weight:650}pre{font:13.5px/1.6 ui-monospace,monospace}"
        ".two{display:grid;grid-template-columns:repeat(auto-fit,minmax(20rem,1fr));gap:1rem}"
        "svg{display:block;width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:var(--soft)}";
    page_print(r, "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">"
               "<meta name=\"viewport\" content=\"width=device-width\">\n<title>");
    page_text(r, title);
    page_print(r, "</title>\n<style>");
    page_bytes(r, style, sizeof style - 1);
    page_print(r, "</style>\n<main>\n<h1>");
    page_text(r, title);
    page_print(r, "</h1>\n");
}

// ---- pictures ------------------------------------------------------------------------------

static void page_base64(page *r, const unsigned char *bytes, size_t count)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < count; i += 3) {
        unsigned v = (unsigned)bytes[i] << 16, have = count - i < 3 ? (unsigned)(count - i) : 3;
        if (have > 1) v |= (unsigned)bytes[i + 1] << 8;
        if (have > 2) v |= bytes[i + 2];
        char quad[4] = { digits[v >> 18], digits[v >> 12 & 63], digits[v >> 6 & 63], digits[v & 63] };
        if (have < 3) quad[3] = '=';
        if (have < 2) quad[2] = '=';
        page_bytes(r, quad, 4);
    }
}

// An 8-bit image of 1 or 3 channels with a caption: first text, then HTML.
static void page_picture(page *r, const unsigned char *pixels, int width, int height, int channels, const char *caption,
                         const char *html)
{
    int length = 0;
    unsigned char *png = stbi_write_png_to_mem(pixels, 0, width, height, channels, &length);
    if (!png) { r->failed = 1; return; }
    page_print(r, "<figure><img width=\"%d\" height=\"%d\" alt=\"\" src=\"data:image/png;base64,", width, height);
    page_base64(r, png, (size_t)length);
    page_print(r, "\"><figcaption>");
    page_text(r, caption);
    page_print(r, "%s</figcaption></figure>\n", html);
    STBIW_FREE(png);
}

// ---- plots ---------------------------------------------------------------------------------

// A curve is one column of a table with rows of four; column 0 is x. Values that are not finite are no points.
typedef struct page_curve {
    const char *label, *colour;
    int column;
} page_curve;

// 1, 2 or 5 times a power of ten, so that about five of them make the span.
static double page_tick(double span)
{
    double unit = pow(10, floor(log10(span / 5))), rest = span / 5 / unit;
    return unit * (rest < 1.5 ? 1 : rest < 3.5 ? 2 : rest < 7.5 ? 5 : 10);
}

// The field of a plot is 440 x 200, its lower left corner at (48, 222).
static void page_line(page *r, const page_curve *curve, double (*rows)[4], int count, double right, double top)
{
    int drawn = 0;
    page_print(r, "<path fill=\"none\" stroke=\"%s\" stroke-width=\"2\" stroke-linejoin=\"round\" d=\"", curve->colour);
    for (int i = 0; i < count; i++) {
        double x = rows[i][0], y = rows[i][curve->column];
        if (y - y == 0) page_print(r, "%s%.1f %.1f", drawn++ ? "L" : "M", 48 + 440 * x / right, 222 - 200 * y / top);
    }
    page_print(r, "\"/>\n");
}

// Curves over x >= 0 with y >= 0, and a legend below.
static void page_plot(page *r, const char *title, double (*rows)[4], int count, const page_curve *curves,
                      int curve_count)
{
    double top = 0, right = count ? rows[count - 1][0] : 0;
    for (int k = 0; k < curve_count; k++)
        for (int i = 0; i < count; i++) top = fmax(top, rows[i][curves[k].column]);       // passes over NaN
    if (!(top > 0)) top = 1;
    if (!(right > 0)) right = 1;
    double y_tick = page_tick(top), x_tick = page_tick(right);
    top = ceil(top / y_tick) * y_tick;
    page_print(r, "<div class=\"card\"><svg viewBox=\"0 0 500 270\">\n<text x=\"48\" y=\"12\">%s</text>\n", title);
    for (int i = 0; i * y_tick < top * 1.001; i++) {
        double at = 222 - 200 * i * y_tick / top;
        page_print(r, "<path stroke=\"var(--line)\" d=\"M48 %.1fH488\"/>", at);
        page_print(r, "<text x=\"42\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n", at + 4, i * y_tick);
    }
    for (int i = 0; i * x_tick <= right * 1.001; i++) {
        double at = 48 + 440 * i * x_tick / right;
        page_print(r, "<text x=\"%.1f\" y=\"240\" text-anchor=\"middle\">%g</text>\n", at, i * x_tick);
    }
    for (int k = 0; k < curve_count; k++) {
        int x = 48 + 130 * k;
        page_line(r, &curves[k], rows, count, right, top);
        page_print(r, "<path stroke=\"%s\" stroke-width=\"3\" d=\"M%d 258h18\"/>", curves[k].colour, x);
        page_print(r, "<text x=\"%d\" y=\"262\">%s</text>\n", x + 24, curves[k].label);
    }
    page_print(r, "</svg></div>\n");
}

// ---- the file ------------------------------------------------------------------------------

// Written beside, synced and renamed, so that a full disk leaves the old file or none. Returns 1, or 0 with *why set.
static int page_save(const page *r, const char *path, const char **why)
{
    char temporary[4096 + 8];
    *why = "out of memory";
    if (r->failed || !r->data) return 0;
    *why = "the path is too long";
    if (snprintf(temporary, sizeof temporary, "%s.tmp", path) >= (int)sizeof temporary) return 0;
    *why = "is its folder there and writable?";
    FILE *file = fopen(temporary, "wb");
    if (!file) return 0;
    *why = "is the disk full or read-only?";
    int good = fwrite(r->data, 1, r->length, file) == r->length && fflush(file) == 0 && fsync(fileno(file)) == 0;
    if (fclose(file) != 0) good = 0;
    if (good && rename(temporary, path) == 0) return 1;
    remove(temporary);
    return 0;
}

static void page_free(page *r)
{
    free(r->data);
    memset(r, 0, sizeof *r);
}
