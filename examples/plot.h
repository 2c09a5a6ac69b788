// Curves with bars as PNG, on a white field of 640 x 400 pixels. After stb_image_write.h.

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PLOT_W = 640, PLOT_H = 400, LEFT = 62, RIGHT = 16, TOP = 30, BELOW = 68, POINTS = 64 };

typedef struct plot {
    unsigned char pixels[PLOT_H][PLOT_W][3];
    const char *title, *x_name, *y_name;
    double x0, x1, y0, y1;
    int    log_x, curves;
} plot;

static void dot(plot *p, int x, int y, const unsigned char *colour)
{
    if (x >= 0 && x < PLOT_W && y >= 0 && y < PLOT_H) memcpy(p->pixels[y][x], colour, 3);
}

static void line(plot *p, double xa, double ya, double xb, double yb, int wide, const unsigned char *colour)
{
    int steps = (int)(fabs(xb - xa) + fabs(yb - ya)) + 1;
    for (int i = 0; i <= steps; i++)
        for (int k = 0; k < wide * wide; k++)
            dot(p, (int)(xa + (xb - xa) * i / steps + 0.5) + k % wide, (int)(ya + (yb - ya) * i / steps + 0.5) + k / wide, colour);
}

static void write_text(plot *p, int x, int y, const unsigned char *colour, const char *format, ...)
{
    // letters are three dots wide and five high; each octal digit is a row of three
    static const char letters[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ.-+%/:(),=<>";
    static const int rows[] = {
        075557, 026227, 071747, 071717, 055711, 074717, 074757, 071122, 075757, 075717, 025755, 065656, 034443, 065556, 074647,
        074644, 034553, 055755, 072227, 011152, 055655, 044447, 057755, 075555, 025552, 065644, 025563, 065655, 034216, 072222,
        055557, 055552, 055575, 055255, 055222, 071247, 000002, 000700, 002720, 051245, 011244, 002020, 012221, 042224, 000024,
        007070, 012421, 042124
    };
    char text[128];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (const char *c = text; *c; c++, x += 8) {
        const char *found = strchr(letters, *c >= 'a' && *c <= 'z' ? *c - 32 : *c);
        for (int k = 0; found && k < 15; k++)
            if (rows[found - letters] >> (14 - k) & 1)
                for (int d = 0; d < 4; d++) dot(p, x + k % 3 * 2 + d % 2, y + k / 3 * 2 + d / 2, colour);
    }
}

static inline double plot_x(const plot *p, double x)
{
    double a = p->log_x ? log(p->x0) : p->x0, b = p->log_x ? log(p->x1) : p->x1;
    return LEFT + (PLOT_W - LEFT - RIGHT) * ((p->log_x ? log(x) : x) - a) / (b - a);
}

static inline double plot_y(const plot *p, double y)
{
    return PLOT_H - BELOW - (PLOT_H - TOP - BELOW) * (fmin(fmax(y, p->y0), p->y1) - p->y0) / (p->y1 - p->y0);
}

static const unsigned char plot_colours[7][3] = { { 11, 114, 185 }, { 217, 84, 11 }, { 30, 140, 70 }, { 150, 60, 170 },
                                                  { 120, 120, 120 }, { 200, 30, 80 }, { 20, 20, 20 } };

// Axes with lines at five heights; x ticks at the given places.
static inline void plot_begin(plot *p, const char *title, const char *x_name, const char *y_name, const double *ticks, int count)
{
    static const unsigned char grey[3] = { 225, 228, 232 }, ink[3] = { 40, 48, 56 };
    memset(p->pixels, 255, sizeof p->pixels);
    for (int i = 0; i <= 5; i++) {
        double y = p->y0 + (p->y1 - p->y0) * i / 5;
        line(p, LEFT, plot_y(p, y), PLOT_W - RIGHT, plot_y(p, y), 1, grey);
        write_text(p, LEFT - 50, (int)plot_y(p, y) - 5, ink, "%5.2f", y);
    }
    for (int i = 0; i < count; i++) {
        char text[32];
        snprintf(text, sizeof text, "%g", ticks[i]);
        line(p, plot_x(p, ticks[i]), PLOT_H - BELOW, plot_x(p, ticks[i]), PLOT_H - BELOW + 4, 1, ink);
        write_text(p, (int)plot_x(p, ticks[i]) - 4 * (int)strlen(text) + 1, PLOT_H - BELOW + 8, ink, "%s", text);
    }
    write_text(p, LEFT, 10, ink, "%s", title);
    write_text(p, PLOT_W - RIGHT - 8 * (int)strlen(x_name), PLOT_H - BELOW + 24, ink, "%s", x_name);
    write_text(p, PLOT_W - RIGHT - 8 * (int)strlen(y_name), 10, ink, "%s", y_name);
}

// A curve with bars of +-bar (NULL: none) and its name in the legend.
static inline void plot_curve(plot *p, const char *name, const double *x, const double *y, const double *bar, int count)
{
    const unsigned char *colour = plot_colours[p->curves % 7];
    for (int i = 0; i < count; i++) {
        double px = plot_x(p, x[i]), py = plot_y(p, y[i]);
        if (i) line(p, plot_x(p, x[i - 1]), plot_y(p, y[i - 1]), px, py, 2, colour);
        for (int d = 0; d < 25; d++) if (count < 20) dot(p, (int)px - 2 + d % 5, (int)py - 2 + d / 5, colour);
        if (bar) line(p, px + p->curves, plot_y(p, y[i] - bar[i]), px + p->curves, plot_y(p, y[i] + bar[i]), 1, colour);
    }
    int column = p->curves % 3, row = p->curves / 3;
    line(p, LEFT + 192 * column, PLOT_H - 20 + 14 * row - 8, LEFT + 192 * column + 14, PLOT_H - 20 + 14 * row - 8, 3, colour);
    write_text(p, LEFT + 192 * column + 22, PLOT_H - 20 + 14 * row - 12, colour, "%s", name);
    p->curves++;
}

// Several plots, one below the other.
static inline void plot_save_all(const plot *plots, int count, const char *path)
{
    size_t size = sizeof plots->pixels;
    unsigned char *pixels = (unsigned char *)malloc(size * (size_t)count);
    for (int i = 0; pixels && i < count; i++) memcpy(pixels + size * (size_t)i, plots[i].pixels, size);
    if (pixels && stbi_write_png(path, PLOT_W, PLOT_H * count, 3, pixels, 3 * PLOT_W)) printf("wrote %s\n", path);
    else fprintf(stderr, "'%s' cannot be written\n", path);
    free(pixels);
}

static inline void plot_save(const plot *p, const char *path) { plot_save_all(p, 1, path); }
