// The driver of tinytl_cuda.h that runs kernels in the emulator. Include it after tinytl_cuda.h. Streams do everything at once;
// a graph is a list of what was asked for.

#ifndef EMULATOR_DRIVER_H
#define EMULATOR_DRIVER_H

struct emu_entry {
    void (*invoke)(const void *);
    size_t params;
};

#define EMU_ENTRY2(name, P)                                                    \
    { emu_invoke<tl__cu_##P, tl_cuda_##name##_f32>, sizeof(tl__cu_##P) },      \
    { emu_invoke<tl__cu_##P, tl_cuda_##name##_bf16>, sizeof(tl__cu_##P) },
#define EMU_ENTRY(name, P) { emu_invoke<tl__cu_##P, tl_cuda_##name>, sizeof(tl__cu_##P) },
static const emu_entry emu_entries[] = { TL__CU_TYPED(EMU_ENTRY2) TL__CU_FLOAT(EMU_ENTRY) };

typedef std::vector<std::function<int()> > emu_graph;

static emu_graph *emu_recording;
static size_t emu_graphs_run, emu_allowed_shared = 232448, emu_kernel_uses[TL__CU_KERNELS];
static int    emu_fail_after = -1;           // this many calls of the driver succeed, the next ones fail; -1: all succeed
static int    emu_failures, emu_open_count;

enum { EMU_OK = 0, EMU_NO_MEMORY, EMU_REFUSED, EMU_KERNEL };

static int emu_fails()
{
    if (emu_fail_after > 0) emu_fail_after--;
    else if (emu_fail_after == 0) return ++emu_failures;
    return 0;
}

static int emu_do(const std::function<int()> &what)
{
    if (emu_fails()) return EMU_REFUSED;
    if (!emu_recording) return what();
    emu_recording->push_back(what);
    return EMU_OK;
}

static const char *emu_error(int code)
{
    return code == EMU_KERNEL ? emu_message : code == EMU_NO_MEMORY ? "out of memory" : "the emulator was told to fail";
}
static int emu_open(int device, void **self)
{
    static char devices[4];
    if (emu_fails() || device > 3) return EMU_REFUSED;
    *self = &devices[device];
    emu_open_count++;
    return EMU_OK;
}
static void emu_close(void *) { emu_open_count--; }
static int emu_info(void *, tl__cu_info *info)
{
    if (emu_fails()) return EMU_REFUSED;
    snprintf(info->name, sizeof info->name, "emulator");
    info->major = 8;
    info->minor = 0;
    info->memory = emu_memory_limit;
    info->free = emu_memory_limit - emu_memory_used;
    info->shared = emu_allowed_shared;
    return EMU_OK;
}
static int emu_alloc_device(void *, void **p, size_t bytes)
{
    *p = emu_fails() ? NULL : emu_alloc(bytes);
    return *p ? EMU_OK : EMU_NO_MEMORY;
}
static int emu_alloc_host(void *, void **p, size_t bytes)
{
    *p = emu_fails() ? NULL : malloc(bytes ? bytes : 1);
    return *p ? EMU_OK : EMU_NO_MEMORY;
}
static void emu_release_device(void *, void *p) { emu_release(p); }
static void emu_release_host(void *, void *p) { free(p); }
static int emu_copy_bytes(void *, void *to, const void *from, size_t bytes, int)
{
    return emu_do([=]() { memcpy(to, from, bytes); return (int)EMU_OK; });
}
static int emu_clear_bytes(void *, void *p, size_t bytes)
{
    return emu_do([=]() { memset(p, 0, bytes); return (int)EMU_OK; });
}
static int emu_wait_all(void *) { return emu_fails() ? EMU_REFUSED : EMU_OK; }
static int emu_launch_kernel(void *, int kernel, const unsigned grid[3], size_t shared, const void *params)
{
    unsigned x = grid[0], y = grid[1], z = grid[2];
    std::vector<char> copy((const char *)params, (const char *)params + emu_entries[kernel].params);
    return emu_do([=]() {
        unsigned size[3] = { x, y, z };
        emu_kernel_uses[kernel]++;
        return emu_launch(tl__cu_names[kernel], emu_entries[kernel].invoke, copy.data(), size, 256, shared, emu_allowed_shared)
                   ? (int)EMU_KERNEL : (int)EMU_OK;
    });
}
static int emu_begin_graph(void *)
{
    if (emu_fails()) return EMU_REFUSED;
    emu_recording = new emu_graph;
    return EMU_OK;
}
static int emu_end_graph(void *, void **graph)
{
    *graph = emu_recording;
    emu_recording = NULL;
    return emu_fails() ? EMU_REFUSED : EMU_OK;
}
static int emu_run_graph(void *, void *graph)
{
    emu_graphs_run++;
    for (size_t i = 0; i < ((emu_graph *)graph)->size(); i++) {
        int code = (*(emu_graph *)graph)[i]();
        if (code) return code;
    }
    return EMU_OK;
}
static void emu_release_graph(void *, void *graph) { delete (emu_graph *)graph; }

static int emu_join(void *const *, int count, void **ring)
{
    if (emu_fails()) return EMU_REFUSED;
    *ring = new int(count);
    emu_open_count++;
    return EMU_OK;
}
static int emu_average(void *ring, float *const *arrays, size_t values)
{
    if (emu_fails()) return EMU_REFUSED;
    int count = *(int *)ring;
    for (size_t k = 0; k < values; k++) {
        float sum = 0;
        for (int i = 0; i < count; i++) sum += arrays[i][k];
        for (int i = 0; i < count; i++) arrays[i][k] = sum / (float)count;
    }
    return EMU_OK;
}
static void emu_part(void *ring)
{
    delete (int *)ring;
    emu_open_count--;
}

static const tl__cu_driver *tl__cu_the_driver(void)
{
    static const tl__cu_driver driver = {
        emu_error, emu_open, emu_close, emu_info, emu_alloc_device, emu_alloc_host, emu_release_device, emu_release_host,
        emu_copy_bytes, emu_clear_bytes, emu_launch_kernel, emu_wait_all, emu_begin_graph, emu_end_graph, emu_run_graph,
        emu_release_graph, emu_join, emu_average, emu_part
    };
    return &driver;
}

#endif
